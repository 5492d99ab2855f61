"""What scanning an epoch, and mapping seeds, buys: matrix factorisation on Coat (dim 16, batch 128).

    python benchmarks/mf_step.py

One table, two questions. An epoch as one compiled program against the same steps called one by one from Python, as a
plain JAX loop does; and 16 seeds by ``vmap``, by ``lax.map`` and one after the other. Every program runs once in each
round, so that a change of the machine's mood hits all alike; ratios are medians over rounds of the quotient within a
round, below 1 where the program is faster than what it is compared with. Coat is read from ``DEBIAS_DATA_DIR``; without
it the data is simulated in Coat's size.
"""

import argparse
import os
import pathlib
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from _measure import Program, measure

from debias_jax import data, methods, models, training
from debias_jax.data.types import Dataset
from debias_jax.methods.base import Method, TrainData

DIM, BATCH_SIZE, SEEDS = 16, 128, 16
COAT = {"n_users": 290, "n_items": 300, "mean_exposure": 6960 / (290 * 300)}


def load() -> tuple[Dataset, str]:
    """Coat, or data of its size, and a phrase that says which."""
    folder = os.environ.get("DEBIAS_DATA_DIR")
    if folder:
        return data.coat.load(pathlib.Path(folder) / "coat", threshold=4.0), "Coat"
    return data.synthetic.generate(
        seed=0, **COAT
    ), "simulated data of Coat's size (DEBIAS_DATA_DIR is not set)"


def epoch_programs(method: Method, log: TrainData) -> dict[str, Program]:
    """One epoch of one seed: a jitted step called from Python, and one scan."""
    key, first = training.run_key(0), jnp.asarray(0, jnp.int32)
    start = method.init(key, log, {})
    scan = jax.jit(
        lambda state, log, key: training.train_epochs(method, state, log, key, first, n_epochs=1)[0]
    )
    draw = jax.jit(
        lambda log, key: method.batches(log, jax.random.fold_in(jax.random.fold_in(key, 1), first))
    )

    @jax.jit
    def step(state, log, batch, key):
        # The keys of ``train_epochs``, so that both ways do the same arithmetic.
        return method.step(state, log, batch, jax.random.fold_in(jax.random.fold_in(key, 2), state.step))

    def by_step():
        state, batches = start, jax.device_get(draw(log, key))
        for number in range(jax.tree.leaves(batches)[0].shape[0]):
            state, _ = step(state, log, jax.tree.map(lambda x, number=number: x[number], batches), key)
        return state

    return {
        "epoch, a jitted step in a Python loop": by_step,
        "epoch, one scan": lambda: scan(start, log, key),
    }


def seed_programs(method: Method, log: TrainData) -> dict[str, Program]:
    """One epoch of 16 seeds: one after the other, and in one program."""
    first = jnp.asarray(0, jnp.int32)
    keys = jnp.stack([training.run_key(seed) for seed in range(SEEDS)])
    starts = jax.vmap(lambda key: method.init(key, log, {}))(keys)
    alone = [jax.tree.map(lambda x, seed=seed: x[seed], starts) for seed in range(SEEDS)]

    def train(state, log, key):
        return training.train_epochs(method, state, log, key, first, n_epochs=1)[0]

    single = jax.jit(train)
    mapped = jax.jit(
        lambda states, log, keys: jax.lax.map(lambda own: train(own[0], log, own[1]), (states, keys))
    )
    vectorised = jax.jit(jax.vmap(train, in_axes=(0, None, 0)))
    return {
        f"{SEEDS} seeds, one after the other": lambda: [
            single(state, log, key) for state, key in zip(alone, keys, strict=True)
        ],
        f"{SEEDS} seeds, lax.map": lambda: mapped(starts, log, keys),
        f"{SEEDS} seeds, vmap": lambda: vectorised(starts, log, keys),
    }


def difference(one, other) -> float:
    """The largest difference between the parameters of two states, or lists of states."""
    if isinstance(one, list):
        one = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one)
    pairs = zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True)
    return max(float(np.max(np.abs(np.asarray(a) - np.asarray(b)))) for a, b in pairs)


def rows(programs: dict[str, Program], rounds: int) -> list[list[str]]:
    """A row a program; the first one is what the others are compared with."""
    seconds = measure(programs, rounds)
    base, *_ = programs
    expected = programs[base]()
    table = []
    for name, program in programs.items():
        ratios = sorted(own / plain for own, plain in zip(seconds[name], seconds[base], strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        compared = name != base
        table.append(
            [
                name,
                f"{1e3 * statistics.median(seconds[name]):.2f}",
                f"{statistics.median(ratios):.2f}" if compared else "1",
                f"{low:.2f} .. {high:.2f}" if compared else "",
                f"{difference(expected, program()):.1e}" if compared else "",
            ]
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of an epoch of MF on Coat, and of 16 seeds.")
    parser.add_argument("--rounds", type=int, default=30, help="rounds to take medians over (default 30)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds={rounds} must be at least 1")
    load_average, cores = os.getloadavg()[0], os.cpu_count() or 1

    dataset, name = load()
    log = training.train_data(dataset)
    method = methods.mf(models.mf(dataset.n_users, dataset.n_items, dim=DIM), batch_size=BATCH_SIZE)
    steps = jax.eval_shape(method.batches, log, training.run_key(0)).users.shape[0]
    print(f"{name}: {dataset.n_users} users x {dataset.n_items} items, {len(dataset.train.positives)} clicks")
    print(f"mf, dim {DIM}, batch {BATCH_SIZE}, {steps} steps an epoch, {rounds} rounds")
    print(
        f"jax {jax.__version__} on {jax.devices()[0].device_kind}, {cores} cores, load average {load_average:.1f}"
    )
    if load_average > 0.25 * cores:
        print("the machine was not idle: do not quote these times")

    head = ["program", "median ms", "ratio", "10 % .. 90 %", "largest difference"]
    table = [head, *rows(epoch_programs(method, log), rounds), *rows(seed_programs(method, log), rounds)]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    print()
    for row in table:
        first, *rest = row
        print(
            "  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))])
        )


if __name__ == "__main__":
    main()
