"""What an epoch of the methods for clicks costs beside one of RelMF, on Coat and in the size of Yahoo! R3.

    python benchmarks/implicit_epoch.py
    python benchmarks/implicit_epoch.py --data Coat --rounds 31
    python benchmarks/implicit_epoch.py --data Yahoo --methods biif --clock processor

Settings of ``configs/coat.py`` and ``configs/yahoo_r3.py``: dim 50, batches of 1,024. Yahoo! R3 may not be passed on:
its log is drawn at random, 15,400 users x 1,000 items, 311,704 ratings, of them 125,077 clicks. Batches are drawn as in
training, and an epoch, or ``--epochs`` of them, is one compiled program. Every program runs once in each round, so that
a change of the machine's mood hits all alike; the ratio is the median over rounds of the quotient within a round, with
its 10 % and 90 % points.

An epoch passes over all clicks once. RelMF, UMF, JointOpt, CEB, Biif and UBO have the same frame, every click with five
uniform items (UBO without the "probably exposed" pairs). A step of Biif and of UBO holds besides: its outer batch, all
"probably exposed" pairs (6,160 of this log of Yahoo! R3's size, six times the inner batch; ``biif_outer_batch`` draws
1,024 of them), forwards and backwards through the stepped vectors; the derivative of the inner gradient; and Adam on
the exposure, a second table of users, which JointOpt and CEB have too. ``outer`` counts these pairs once a step, and
the last column is the ratio of times an example, inner and outer ones together. Others differ in their frames: BPR has
a triplet a click; CJMF reads every click with its negatives twice, by seven of its eight sub-models and then by all;
AutoDebias and one iteration of ExpoMF go through all pairs. A row of an epoch counts once, whatever is done with it.

``--clock processor`` sums processor seconds over cores, for a machine that other programs share.
"""

import argparse
import os
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from _measure import load_config, log_of, measure, one_epoch

from debias_jax import data, training
from debias_jax.data.types import Dataset
from debias_jax.experiment import _build
from debias_jax.methods.base import Method

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
SIZES = {
    "Coat": {"n_users": 290, "n_items": 300, "n_ratings": 6_960, "n_clicks": 1_905},
    "Yahoo": {"n_users": 15_400, "n_items": 1_000, "n_ratings": 311_704, "n_clicks": 125_077},
}
FILES = {"Coat": CONFIGS / "coat.py", "Yahoo": CONFIGS / "yahoo_r3.py"}
METHODS = (
    *("relmf", "umf", "joint_opt", "biif", "biif_outer_batch", "ubo"),
    *("cjmf", "ceb", "auto_debias", "expomf", "bpr"),
)
WITH_OUTER = ("biif", "biif_outer_batch", "ubo", "auto_debias")
# Long enough to time on Coat, where an epoch takes milliseconds.
EPOCHS = {"Coat": 10, "Yahoo": 1}
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}


def random_ratings(*, n_users: int, n_items: int, n_ratings: int, n_clicks: int) -> Dataset:
    """Distinct pairs, items as 1 / sqrt(rank), some users more active than others, labels without a pattern."""
    rng = np.random.default_rng(0)
    popularity = np.arange(1, n_items + 1) ** -0.5
    activity = rng.gamma(2.0, size=n_users)
    users = rng.choice(n_users, 2 * n_ratings, p=activity / activity.sum())
    items = rng.choice(n_items, 2 * n_ratings, p=popularity / popularity.sum())
    pairs = rng.permutation(np.unique(users * n_items + items))[:n_ratings]
    return log_of(pairs, n_users=n_users, n_items=n_items, n_clicks=n_clicks)


def load(name: str) -> Dataset:
    """The log, prepared as in Biif's tables; random where the data is not at hand."""
    folder = os.environ.get("DEBIAS_DATA_DIR")
    if folder and name == "Coat":
        log = data.coat.load(pathlib.Path(folder) / "coat", threshold=4.0)
    else:
        log = random_ratings(**SIZES[name])
    return data.splits.biif(log, seed=0)


def examples(name: str, method: Method, log: Dataset, outer_batch_size: int | None) -> tuple[int, int]:
    """Rows of an epoch that are no padding (all pairs, of a method that draws none), and rows of its outer batches."""
    batches = jax.jit(method.batches)(training.train_data(log), training.run_key(0))
    if not hasattr(batches, "where"):
        return log.n_users * log.n_items, 0
    steps, outer = batches.where.shape[0], len(log.probably_exposed) if name in WITH_OUTER else 0
    outer = min(outer, outer_batch_size or outer)
    return int(batches.where.sum()), steps * outer


def table(name: str, chosen: list[str], rounds: int, epochs: int, clock: Callable[[], float]) -> None:
    """Prints a row a method."""
    log, programs, sizes = load(name), {}, {}
    for each in dict.fromkeys(["relmf", *chosen]):
        config = load_config(FILES[name], each)
        entry = config.variants[each]
        method = _build.build_for(config, entry, log)
        hparams = _build.variant_hparams(config, entry, method)
        programs[each] = one_epoch(method, log, hparams, n_epochs=epochs)
        sizes[each] = examples(each, method, log, entry.options.get("outer_batch_size"))
    seconds = measure(programs, rounds, clock=clock)
    for each, own in seconds.items():
        ratios = sorted(one / base for one, base in zip(own, seconds["relmf"], strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        middle, (inner, outer) = statistics.median(ratios), sizes[each]
        per_example = middle * sizes["relmf"][0] / (inner + outer)
        print(
            f"| {name} | {each} | {1e3 * statistics.median(own) / epochs:.1f} | {middle:.2f} | {low:.2f} .. {high:.2f} "
            f"| {inner:,} | {outer:,} | {per_example:.2f} |",
            flush=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--data", choices=sorted(SIZES), nargs="*", default=sorted(SIZES))
    parser.add_argument("--methods", choices=METHODS, nargs="*", default=list(METHODS))
    parser.add_argument("--epochs", type=int, help="epochs a program (default: 10 on Coat, 1 on Yahoo)")
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    print(f"{options.clock} time, {options.rounds} rounds")
    print(
        f"| data | method | ms an epoch | relmf = 1 | 10 % .. 90 % of {options.rounds} rounds "
        "| examples | outer | an example |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in options.data:
        epochs = options.epochs or EPOCHS[name]
        table(name, options.methods, options.rounds, epochs, CLOCKS[options.clock])


if __name__ == "__main__":
    main()
