"""Strict numerics for every test, and where the real data and the parity fixtures are."""

import functools
import gc
import os
import pathlib

import jax
import numpy as np
import pytest

# Compiling is most of the suite's time, and a third less with the older of this version's two code generators; to split
# programs for more cores than the suite leaves idle costs a tenth.
_QUICK = ""
if jax.__version__.startswith("0.10."):
    _QUICK = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# For tests/training/test_mesh.py; all else runs on the first one.
_FOUR_DEVICES = "--xla_force_host_platform_device_count=4"

# The processes that tests start have one device and the newer generator, as users do, unless the test asks for
# ``quick_flags``.
flags = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{flags or ''} {_QUICK} {_FOUR_DEVICES}"
jax.devices()
if flags is None:
    del os.environ["XLA_FLAGS"]
else:
    os.environ["XLA_FLAGS"] = flags

# Tracing makes many small objects and little garbage; looking for it as often as by default is a twelfth of the time.
gc.set_threshold(50_000, 20, 20)

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)


# Where bits are compared, the compiler works as it does for users.
_AS_USERS_RUN_IT = {"faults", "training"}

# Of a process that holds this many memory maps the compiled programs are dropped.
_MANY_MAPS = 20_000


def _memory_maps() -> int:
    """How many this process has; so many that nothing is kept where the system does not say."""
    try:
        return pathlib.Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return _MANY_MAPS


@pytest.fixture(scope="module", autouse=True)
def light_compilation(request):
    """Fewer compiler passes for tests whose time is all compilation; results differ by rounding at most.

    A program knows nothing of how it was compiled, so a file that wants it otherwise starts without programs.
    """
    light = not _AS_USERS_RUN_IT & {request.path.name, request.path.parent.name}
    if light != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()
        jax.config.update("jax_disable_most_optimizations", light)


@pytest.fixture(scope="module", autouse=True)
def release_programs():
    """Drops the compiled programs after a file once they are many; until then the next file finds those it shares.

    Each holds three memory maps or more, of which Linux gives a process 65,530: a suite of one process comes near
    that, and the compiler then crashes. One file adds some thousand.
    """
    yield
    if _memory_maps() >= _MANY_MAPS:
        jax.clear_caches()


if jax.__version__.startswith("0.10."):
    from jax._src.interpreters import mlir

    # A tenth of the time goes into loading the same dialects for every single program: those of a file share them.
    mlir.make_ir_context = functools.lru_cache(1)(mlir.make_ir_context)

    @pytest.fixture(scope="module", autouse=True)
    def fresh_ir_context():
        """What the programs of a file have in common is let go after it."""
        yield
        mlir.make_ir_context.cache_clear()


# Files of more than half a minute, or of a quarter in few tests. Each is the work of one process, so the suite begins
# with them: begun last, one process would be alone with it.
_LONG = (
    "test_mesh.py",
    "test_launch.py",
    "test_conformance.py",
    "test_method_conformance.py",
    "test_sequence.py",
    "test_kill.py",
    "test_doctests.py",
    "test_next_item.py",
    "test_experiment.py",
    "test_tune.py",
    "test_loop.py",
    "test_imputation_claims.py",
    "test_complete.py",
    "test_doubly_robust_family.py",
    "test_methods.py",
    "test_tables.py",
    "test_own_conversions.py",
    "test_chunked.py",
    "test_dce.py",
    "test_next_item_runs.py",
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(item.path.name) if item.path.name in _LONG else len(_LONG))


@pytest.fixture(scope="session")
def quick_flags() -> str:
    """``XLA_FLAGS`` of a process that compiles as lightly as this one."""
    return f"{_QUICK} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true".strip()


@pytest.fixture
def x64():
    """Float64 inside one test."""
    with jax.enable_x64(True):
        yield


def _folder(variable: str, what: str) -> pathlib.Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: {what}")
    folder = pathlib.Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder that holds the real datasets; the test is skipped where DEBIAS_DATA_DIR is not set."""
    return _folder("DEBIAS_DATA_DIR", "tests on real data need it")


@pytest.fixture(scope="session")
def fixtures_dir() -> pathlib.Path:
    """The folder of parity fixtures; the test is skipped where DEBIAS_FIXTURES_DIR is not set."""
    return _folder("DEBIAS_FIXTURES_DIR", "parity with the released programs needs it")


@pytest.fixture
def rng(request) -> np.random.Generator:
    """A generator whose stream depends on the test's name alone."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture
def drawn_figures(monkeypatch) -> list:
    """Figure and axes of each plot that the test makes, in their order."""
    from debias_jax.experiment import _plots

    figures = []
    make = _plots._figure

    def keep(*args, **options):
        figure, axes = make(*args, **options)
        figures.append((figure, axes))
        return figure, axes

    monkeypatch.setattr(_plots, "_figure", keep)
    return figures
