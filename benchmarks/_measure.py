"""What the benchmarks share: a config, a log, an epoch as one program, times of several programs, and their ratios."""

import importlib.util
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.methods.base import Method

Program = Callable[[], object]


def load_config(path: str | pathlib.Path, name: str):
    """The config of one method, of a file."""
    spec = importlib.util.spec_from_file_location("config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(name)


def log_of(pairs: np.ndarray, *, n_users: int, n_items: int, n_clicks: int | None = None) -> Dataset:
    """The log of distinct pairs, user * n_items + item; the first are clicks, all without ``n_clicks``."""
    clicked = np.arange(pairs.size) < (pairs.size if n_clicks is None else n_clicks)
    rows = Interactions(
        pairs // n_items, pairs % n_items, clicked.astype(np.float32), n_users=n_users, n_items=n_items
    )
    return Dataset("random", rows, None, None, Vocabulary.range(n_users), Vocabulary.range(n_items))


def one_epoch(method: Method, log: Dataset, hparams: Mapping[str, float], *, n_epochs: int = 1) -> Program:
    """The first epoch of a method (or the first few), compiled, always from the same state."""
    train, key = training.data_for(method, log), training.run_key(0)
    state = jax.jit(method.init)(key, train, dict(hparams))
    epoch = jax.jit(
        lambda state, train, key, number: training.train_epochs(
            method, state, train, key, number, n_epochs=n_epochs
        )[0]
    )
    return lambda: epoch(state, train, key, jnp.asarray(0, jnp.int32))


def measure(
    programs: Mapping[str, Program], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every program in every round by that clock, after one round that compiles."""
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(rounds + 1):
        for name, program in programs.items():
            started = clock()
            jax.block_until_ready(program())
            if number:
                seconds[name].append(clock() - started)
    return seconds


def speedups(seconds: Mapping[str, list[float]]) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each program, and how often it fits into the first one's time (median over rounds)."""
    base = next(iter(seconds.values()))
    return {
        name: (
            1e3 * statistics.median(values),
            statistics.median(first / own for first, own in zip(base, values, strict=True)),
        )
        for name, values in seconds.items()
    }
