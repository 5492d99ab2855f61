"""Who may import whom, read from the source of every module, and what importing the library costs."""

import ast
import pathlib
import subprocess
import sys

import pytest

import debias_jax

ROOT = pathlib.Path(debias_jax.__file__).parent
FREE = {"types", "errors"}
SHARED = FREE | {"_checks", "_devices", "_hash", "_reduce"}
BOTTOM = {"losses", "risks", "sampling", "metrics", "hypergrad", "optimizers"}
# What each part may import besides itself. A part that is not listed stands at the level of ``experiment``.
ALLOWED = {
    "types": set(),
    "errors": set(),
    "_checks": FREE,
    "_devices": FREE,
    "_hash": FREE,
    "_reduce": FREE,
    **dict.fromkeys(BOTTOM, SHARED),
    "data": {"errors"},
    "models": SHARED,
    "methods": SHARED | (BOTTOM - {"metrics"}) | {"models.base"},
    # It puts a data set on the device, which takes the host builders of ``sampling``.
    "training": SHARED
    | {
        "methods.base",
        "methods.sequences",
        "metrics",
        "data.sequences",
        "data.types",
        "data.vocab",
        "sampling",
    },
    "serving": SHARED | {"methods.base", "metrics", "data.types", "data.vocab", "training"},
}
OPTIONAL = {"polars", "matplotlib", "tensorboardX", "optuna", "faiss", "submitit"}
# Formats that run code when read, and frameworks that this library does without.
NOWHERE = {"pickle", "dill", "cloudpickle", "clu", "fiddle", "ray", "tensorflow", "torch"}


def _name_of(path: pathlib.Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


SOURCES = {_name_of(path): path.read_text() for path in sorted(ROOT.rglob("*.py"))}


def _within(module: str, roots: set[str]) -> bool:
    return any(module == root or module.startswith(root + ".") for root in roots)


def _imports(name: str, tree: ast.AST, known: set[str]):
    """Dotted names that a module imports; ``from a import b`` counts as ``a.b`` where that is a module.

    The top level loads its parts on first use, so an attribute of it counts as an import, but for ``__version__``
    and its like.
    """
    package = f"debias_jax.{name}".rstrip(".").split(".")
    if name in known and not any(other.startswith(name + ".") for other in known):
        package = package[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names if alias.name != "debias_jax")
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "debias_jax":
            if not node.attr.startswith("__"):
                yield f"debias_jax.{node.attr}", node
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                if base == "debias_jax" and alias.name.startswith("__"):
                    continue
                inner = f"{base}.{alias.name}"
                yield (inner if inner.removeprefix("debias_jax.") in known else base), node


def _at_import(tree: ast.AST) -> set[ast.AST]:
    """Nodes that run when the module is imported: all but the bodies of functions and of TYPE_CHECKING."""
    found, stack = set(), [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        found.add(node)
        stack.extend(ast.iter_child_nodes(node))
    return found


def violations(name: str, source: str, known: set[str]) -> list[str]:
    """Every breach of the layering in one module, as ``module: what``."""
    tree = ast.parse(source)
    part = name.split(".")[0]
    allowed = ALLOWED.get(part)
    running = _at_import(tree)
    found = []
    for module, node in _imports(name, tree, known):
        top = module.split(".")[0]
        if top == "debias_jax":
            target = module.removeprefix("debias_jax").lstrip(".")
            above = _within(target, {"_reproduction"}) and part != "_reproduction"
            if above or (allowed is not None and not _within(target, allowed | {part})):
                found.append(f"imports {module}")
        elif top in NOWHERE:
            found.append(f"imports {module}")
        elif top == "flax" and part != "models":
            found.append("imports flax, which lives in models")
        elif part == "data" and top in ("jax", "jaxlib", "optax", "chex", "orbax"):
            found.append(f"data imports {top}")
        elif _within(module, OPTIONAL) and node in running:
            found.append(f"imports the optional {module} at import time")
        elif allowed is not None and module in ("absl", "absl.flags") and _brings(node, "flags", module):
            found.append("reads flags")
    if allowed is not None:
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text in ("os.environ", "os.getenv", "os.putenv", "sys.argv"):
                found.append(f"reads {text}")
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                found += [f"reads os.{a.name}" for a in node.names if a.name in ("environ", "getenv")]
            if isinstance(node, ast.Global):
                found.append(f"writes the global {', '.join(node.names)}")
    return [f"debias_jax.{name}: {what}".replace(".:", ":") for what in found]


def _brings(node: ast.AST, name: str, module: str) -> bool:
    return module.endswith(name) or any(alias.name == name for alias in node.names)


@pytest.mark.parametrize("name", SOURCES, ids=lambda name: name or "debias_jax")
def test_layers(name):
    assert violations(name, SOURCES[name], set(SOURCES)) == []


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("losses.x", "from debias_jax import risks", "imports debias_jax.risks"),
        ("losses.x", "from debias_jax.metrics.ranking import ndcg", "imports debias_jax.metrics.ranking"),
        ("losses.x", "from ..risks import ips", "imports debias_jax.risks.ips"),
        ("sampling", "import debias_jax.losses", "imports debias_jax.losses"),
        ("sampling", "import debias_jax\ndebias_jax.losses.bce", "imports debias_jax.losses"),
        ("methods.x", "from debias_jax.models.mf import mf", "imports debias_jax.models.mf"),
        ("methods.x", "from debias_jax.models import mf", "imports debias_jax.models.mf"),
        ("methods.x", "from debias_jax import metrics", "imports debias_jax.metrics"),
        ("methods.x", "def f():\n    from flax import nnx", "imports flax, which lives in models"),
        (
            "training.x",
            "from debias_jax.methods.recipes import bilevel",
            "imports debias_jax.methods.recipes",
        ),
        ("training.x", "from debias_jax import serving", "imports debias_jax.serving"),
        ("data.x", "import jax.numpy as jnp", "data imports jax"),
        ("data.x", "from debias_jax.types import Array", "imports debias_jax.types"),
        ("data.x", "import polars as pl", "imports the optional polars at import time"),
        ("data.x", "class A:\n    import polars", "imports the optional polars at import time"),
        ("training.x", "from absl import flags", "reads flags"),
        ("training.x", "import os\nHOME = os.environ['HOME']", "reads os.environ"),
        ("training.x", "from os import getenv", "reads os.getenv"),
        ("training.x", "def f():\n    global state\n    state = 1", "writes the global state"),
        ("experiment", "import pickle", "imports pickle"),
        (
            "experiment.x",
            "from debias_jax._reproduction import tables",
            "imports debias_jax._reproduction.tables",
        ),
    ],
)
def test_a_breach_is_found(name, source, breach):
    known = set(SOURCES) | {name, "models.mf", "methods.recipes", "risks.ips", "metrics.ranking"}
    assert violations(name, source, known) == [f"debias_jax.{name}: {breach}"]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "methods.x",
            "from debias_jax import losses, risks, sampling\nfrom debias_jax.models.base import Model",
        ),
        ("methods.x", "from debias_jax.methods.base import Method"),
        ("models.x", "from flax import nnx"),
        ("data.x", "def read():\n    import polars"),
        ("data.x", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import polars"),
        ("training.x", "from absl import logging"),
        ("training.x", "from debias_jax import __version__"),
        ("training.x", "import debias_jax\nprint(debias_jax.__version__)"),
        ("experiment", "import os\nfrom debias_jax import losses, serving\nHOME = os.environ['HOME']"),
    ],
)
def test_what_is_allowed_is_not_a_breach(name, source):
    assert violations(name, source, set(SOURCES) | {name}) == []


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_top_level_is_quick_and_brings_nothing_along():
    code = (
        "import sys, time; start = time.perf_counter(); import debias_jax; "
        "print(time.perf_counter() - start, 'jax' in sys.modules, 'flax' in sys.modules)"
    )
    runs = [_run(code).split() for _ in range(3)]
    assert min(float(seconds) for seconds, *_ in runs) < 1.0
    assert runs[0][1:] == ["False", "False"]


def test_importing_data_needs_no_jax():
    assert _run("import sys, debias_jax.data; print('jax' in sys.modules)") == "False"


def test_importing_every_part_starts_no_device():
    parts = ", ".join(f"debias_jax.{part}" for part in debias_jax.__all__)
    code = f"import {parts}; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    assert _run(code) == "False"
