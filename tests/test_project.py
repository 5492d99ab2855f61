"""What holds for the repository as a whole: the README runs, the packaging agrees with itself, files stay in bounds."""

import ast
import importlib
import inspect
import pathlib
import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from reference.tables import load_config

import debias_jax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "debias_jax"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(PACKAGE.rglob("*.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SCRIPTS = sorted((ROOT / "launch").glob("*.py"))
CONFIGS = sorted((ROOT / "configs").glob("*.py"))


def relative(path):
    return path.relative_to(ROOT).as_posix()


def dotted(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tracked():
    """Every file that is committed or would be; skips where there is no repository (a source archive)."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


def python_blocks(page):
    """(line number, source) of every block of a page that is marked as Python."""
    text = page.read_text(encoding="utf-8")
    for block in re.finditer(r"^```python[^\n]*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        yield text.count("\n", 0, block.start(1)), block[1]


class TestPages:
    def test_readme_runs_from_top_to_bottom(self):
        """All its Python blocks, in order, in one namespace, as a reader would paste them."""
        blocks = list(python_blocks(ROOT / "README.md"))
        assert blocks, "the README shows no Python"
        namespace = {"__name__": "readme"}
        for line, source in blocks:
            # Blank lines before it let a traceback point into the README.
            exec(compile("\n" * line + source, "README.md", "exec"), namespace)

    @pytest.mark.parametrize("page", PAGES, ids=relative)
    def test_blocks_of_other_pages_are_python(self, page):
        for line, source in python_blocks(page):
            compile("\n" * line + source, str(page), "exec")

    @pytest.mark.parametrize("page", PAGES, ids=relative)
    def test_links_lead_somewhere(self, page):
        links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        broken = [
            link for link in links if "://" not in link and not (page.parent / link.rstrip("/")).exists()
        ]
        assert not broken, f"{relative(page)} links to {broken}"

    @pytest.mark.parametrize("path", [*PAGES, *CONFIGS, *SCRIPTS], ids=relative)
    def test_commands_name_configs_and_scripts_that_exist(self, path):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"python (launch/\w+\.py|benchmarks/\w+\.py)", text):
            assert (ROOT / name).is_file(), name
        for name, variants in re.findall(r"--config=configs/(\w+)\.py:([a-z][\w,]*)", text):
            assert load_config(name, variants).methods

    def test_commands_of_make_exist(self):
        makefile = (ROOT / "Makefile").read_text()
        targets = set(re.findall(r"^(\w+):", makefile, re.MULTILINE))
        for page in PAGES:
            named = set(re.findall(r"(?:^ {4}|`)make (\w+)", page.read_text(encoding="utf-8"), re.MULTILINE))
            assert named <= targets, relative(page)

    @pytest.mark.parametrize("path", CONFIGS, ids=relative)
    def test_every_config_says_how_to_start_it(self, path):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert f"python launch/train.py --config=configs/{path.name}:" in docstring


class TestPackaging:
    def test_one_version(self):
        assert PYPROJECT["project"]["version"] == debias_jax.__version__
        changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        assert re.findall(r"^## \[?(\d\S*?)\]?(?:\s|$)", changes, re.MULTILINE)[0] == debias_jax.__version__

    def test_types_ship(self):
        assert (PACKAGE / "py.typed").is_file()
        assert PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["debias_jax"]
        assert "Typing :: Typed" in PYPROJECT["project"]["classifiers"]

    @pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
    def test_constraints_pin_every_requirement_within_its_bounds(self, python):
        environment = {"python_version": python, "python_full_version": f"{python}.0"}
        lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
        pins = {}
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            pin = Requirement(line)
            ((operator, version),) = [(one.operator, one.version) for one in pin.specifier]
            assert operator == "==" and "*" not in version, line
            if pin.marker is None or pin.marker.evaluate(environment):
                name = canonicalize_name(pin.name)
                assert name not in pins, f"{name} is pinned twice for Python {python}"
                pins[name] = version
        project = PYPROJECT["project"]
        extras = project["optional-dependencies"].values()
        for text in [*project["dependencies"], *(one for extra in extras for one in extra)]:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if name == canonicalize_name(project["name"]):
                assert requirement.extras <= set(project["optional-dependencies"])
                continue
            assert name in pins, f"{name} has no pin for Python {python}"
            assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is not in {text}"
            operators = {one.operator for one in requirement.specifier}
            assert operators == {">=", "<"}, f"{text} needs a lower and an upper bound"

    def test_each_extra_is_one_that_an_error_can_name(self):
        extras = set(PYPROJECT["project"]["optional-dependencies"])
        for path in MODULES:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("require_extra"):
                    assert ast.literal_eval(node.args[1]) in extras, f"{relative(path)}:{node.lineno}"


class TestFiles:
    def test_no_file_names_a_machine(self):
        # Joined, so that this file passes its own test.
        folders = "|".join(["work", "tmp", "home", "root", "Users", "mnt"])
        pattern = re.compile(rf"(?<![\w.<>)}}\]])/(?:{folders})/\w")
        found = []
        for path in tracked():
            content = path.read_bytes()
            if b"\0" not in content:
                lines = content.decode("utf-8").splitlines()
                found += [f"{relative(path)}:{n}" for n, line in enumerate(lines, 1) if pattern.search(line)]
        assert not found

    def test_no_file_is_large(self):
        sizes = {relative(path): path.stat().st_size for path in tracked()}
        assert not {name: size for name, size in sizes.items() if size > 500_000}

    @pytest.mark.parametrize(("paths", "most"), [(MODULES, 500), (SCRIPTS, 80)], ids=["package", "launch"])
    def test_files_are_short(self, paths, most):
        lengths = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}
        assert paths and not {name: length for name, length in lengths.items() if length > most}


def _is_stub(function):
    """Whether a function's body, its docstring left out, does nothing."""
    body = [
        node
        for node in function.body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    if not body:
        return True
    first = body[0]
    return len(body) == 1 and (
        isinstance(first, ast.Pass)
        or (isinstance(first, ast.Raise) and "NotImplemented" in ast.unparse(first))
    )


class TestPublicNames:
    @pytest.mark.parametrize("path", MODULES, ids=dotted)
    def test_every_name_of_all_exists_and_is_documented(self, path):
        module = importlib.import_module(dotted(path))
        names = getattr(module, "__all__", [])
        assert len(set(names)) == len(names)
        for name in names:
            value = getattr(module, name)
            if inspect.isfunction(value) or inspect.isclass(value) or inspect.ismodule(value):
                assert inspect.getdoc(value), f"{dotted(path)}.{name} has no docstring"

    @pytest.mark.parametrize("path", MODULES, ids=dotted)
    def test_nothing_is_left_to_be_written(self, path):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
        tree = ast.parse(text)
        # The methods of a Protocol are declarations.
        protocols = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "Protocol" for base in node.bases)
        ]
        declared = {inner for node in protocols for inner in ast.walk(node)}
        stubs = [
            node.name
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and node not in declared and _is_stub(node)
        ]
        assert not stubs
