"""Strict numerics for every test, and where the real data and the parity fixtures are."""

import os
import pathlib

import jax
import numpy as np
import pytest

if jax.__version__.startswith("0.10."):
    # Compiling is most of the suite's time, and a third less with the older of this version's two code generators. The
    # processes that tests start have the newer one, as users do.
    flags = os.environ.get("XLA_FLAGS")
    os.environ["XLA_FLAGS"] = f"{flags or ''} --xla_cpu_use_fusion_emitters=false"
    jax.devices()
    if flags is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = flags

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)


# Where bits are compared, or the programs of users are run, the compiler works as it does for them.
_AS_USERS_RUN_IT = {
    *("faults", "training"),
    *("test_experiment.py", "test_launch.py", "test_methods.py", "test_sampling.py"),
}


@pytest.fixture(autouse=True)
def light_compilation(request):
    """Fewer compiler passes for tests whose time is all compilation; results differ by rounding at most."""
    light = not _AS_USERS_RUN_IT & {request.path.name, request.path.parent.name}
    jax.config.update("jax_disable_most_optimizations", light)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def release_programs():
    """Drops the compiled programs of a file after it.

    Each holds memory maps, of which Linux gives a process 65,530: a suite of one process comes near that, and the
    compiler then crashes.
    """
    yield
    jax.clear_caches()


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
