"""A training step over catalogues of 100,000 and of 10,000,000 items, by row-sparse updates.

    python benchmarks/large_catalogue.py
    python benchmarks/large_catalogue.py --items 100000 1000000 --dense

GRU4Rec of dim 32 with scaled cross-entropy on 500 negatives that a batch of 512 windows shares; histories drawn at
random, 20 items each. With ``sparse=True`` a step reads and moves the rows of the items in its batch alone. ``--dense``
adds the plain step, in which Adam passes over every row. Every size is measured in each round; times are medians over
rounds of ``--steps`` steps, and the ratio is to the first size.
"""

import argparse
import functools
import resource
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import methods, models, sampling
from debias_jax.methods.sequences import SampleSet, SequenceData

N_USERS, LENGTH, DIM, BATCH_SIZE, NEGATIVES = 20_000, 21, 32, 512, 500


def random_histories(n_items: int) -> SequenceData:
    """Histories of 20 inputs and a target each, items uniform."""
    rng = np.random.default_rng(0)
    items = rng.integers(n_items, size=N_USERS * LENGTH)
    users = np.arange(N_USERS)
    starts = users * LENGTH
    samples = SampleSet(*(jnp.asarray(x, jnp.int32) for x in (users, starts, starts + LENGTH - 1)))
    return SequenceData(
        items=jnp.asarray(items, jnp.int32),
        samples=(samples,),
        seen=sampling.pair_set(np.repeat(users, LENGTH), items, n_users=N_USERS),
        counts=jnp.asarray(np.bincount(items, minlength=n_items), jnp.float32),
        target_counts=jnp.asarray(
            np.bincount(items.reshape(N_USERS, LENGTH)[:, 1:].ravel(), minlength=n_items), jnp.float32
        ),
    )


class Trainer:
    """Some steps at a time, each call going on where the last one ended."""

    def __init__(self, n_items: int, *, sparse: bool, steps: int):
        model = models.gru4rec(n_items, dim=DIM, max_len=LENGTH - 1)
        method = methods.next_item(
            model,
            loss="scaled_cross_entropy",
            n_negatives=NEGATIVES,
            shared=True,
            lengths=(LENGTH - 1,),
            batch_size=BATCH_SIZE,
            sparse=sparse,
        )
        self.data = random_histories(n_items)
        self.state = jax.jit(method.init)(jax.random.key(0), self.data, {})

        @functools.partial(jax.jit, donate_argnums=0)
        def run(state, data, key):
            batches = jax.tree.map(lambda x: x[:steps], method.batches(data, key))

            def step(state, batch):
                return method.step(state, data, batch, jax.random.fold_in(key, state.step))

            return jax.lax.scan(step, state, batches)

        self.run, self.calls = run, 0

    def __call__(self) -> float:
        """Seconds of the steps."""
        self.calls += 1
        started = time.perf_counter()
        self.state, logs = self.run(self.state, self.data, jax.random.key(self.calls))
        jax.block_until_ready((self.state, logs))
        return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, nargs="*", default=[100_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dense", action="store_true")
    options = parser.parse_args()
    trainers = {
        (n_items, "sparse" if sparse else "dense"): Trainer(n_items, sparse=sparse, steps=options.steps)
        for sparse in ((True, False) if options.dense else (True,))
        for n_items in options.items
    }
    seconds: dict[tuple[int, str], list[float]] = {name: [] for name in trainers}
    for number in range(options.rounds + 1):
        for name, trainer in trainers.items():
            taken = trainer()
            if number:
                seconds[name].append(taken)
    base = next(iter(seconds.values()))
    print("| items | step | ms a step | times the first |\n|---|---|---|---|")
    for (n_items, kind), values in seconds.items():
        ratio = statistics.median(own / first for first, own in zip(base, values, strict=True))
        print(
            f"| {n_items:,} | {kind} | {1e3 * statistics.median(values) / options.steps:.1f} | {ratio:.2f} |"
        )
    print(
        f"\nmost memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"
    )


if __name__ == "__main__":
    main()
