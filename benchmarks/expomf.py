"""Seconds and memory of ExpoMF and WMF on clicks of the size of Yahoo! R3, in a process of its own each.

    python benchmarks/expomf.py

15,400 users x 1,000 items, 125,000 clicks drawn at random with a popularity like Zipf's, dim 50, ten iterations.
Every pair takes part in an iteration of ExpoMF, 15.4 million. The seconds are those of the ten iterations with their
compilation; processor seconds are summed over cores, and say what an idle machine would take where this one is not.
The memory is the most that the process held, the interpreter, libraries and data included.
"""

import argparse
import multiprocessing
import os
import resource
import time

import jax
import numpy as np
from _measure import log_of

from debias_jax import methods, models, training
from debias_jax.data.types import Dataset

N_USERS, N_ITEMS, N_CLICKS, DIM, ITERATIONS = 15_400, 1_000, 125_000, 50, 10


def random_clicks() -> Dataset:
    """Distinct pairs, users alike and items as 1 / sqrt(rank)."""
    rng = np.random.default_rng(0)
    popularity = np.arange(1, N_ITEMS + 1) ** -0.5
    items = rng.choice(N_ITEMS, 2 * N_CLICKS, p=popularity / popularity.sum())
    pairs = rng.permutation(np.unique(rng.integers(N_USERS, size=items.size) * N_ITEMS + items))[:N_CLICKS]
    return log_of(pairs, n_users=N_USERS, n_items=N_ITEMS)


def train(name: str, connection) -> None:
    """Trains and sends seconds, processor seconds, and the most memory that this process held, in MiB."""
    log = training.train_data(random_clicks())
    method = getattr(methods, name)(models.mf(N_USERS, N_ITEMS, dim=DIM))
    started, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(training.fit(method, log, training.run_key(0), epochs=ITERATIONS).state)
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    connection.send((seconds, processor, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10))


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds and memory of ExpoMF and WMF.")
    parser.add_argument("--methods", nargs="+", default=["expomf", "wmf"], choices=["expomf", "wmf"])
    names = parser.parse_args().methods
    context = multiprocessing.get_context("spawn")
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    print("| method | seconds | processor seconds | most memory, MiB |\n|---|---|---|---|")
    for name in names:
        receiver, sender = context.Pipe()
        process = context.Process(target=train, args=(name, sender))
        process.start()
        sender.close()
        seconds, processor, peak = receiver.recv()
        process.join()
        print(f"| {name} | {seconds:.1f} | {processor:.1f} | {peak:.0f} |", flush=True)


if __name__ == "__main__":
    main()
