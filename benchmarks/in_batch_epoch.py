"""One epoch of SSL-Pop and of BIR against plain PyTorch loops, and the memory of a large batch.

    python -m pip install -e '.[bench]'
    python benchmarks/in_batch_epoch.py
    python benchmarks/in_batch_epoch.py --memory

Batches of 2,048 clicks, dim 32, Adam with weight decay. The PyTorch side is written for this comparison: two embedding
tables, the B x B scores of a batch, for BIR ``torch.multinomial`` on all rows at once. Every program runs once in each
round, so that a change of the machine's mood hits all alike; times and ratios are medians over rounds. An epoch of BIR
on Gowalla takes PyTorch minutes; ``--data`` and ``--methods`` choose. On ML-100K a batch has more clicks than there are
users and items, and ours computes each of the 943 x 1,152 scores once, with one set of draws a user: the same expected
gradient from less work, which a plain loop does not do. Without ``DEBIAS_DATA_DIR`` the clicks are drawn
at random in the data's sizes.

``--memory`` trains two steps with batches of 32,768 clicks in chunks of 1,024 rows, each method in a process of its
own, and prints the most memory that the process held, the interpreter, libraries and data included.
"""

import argparse
import multiprocessing
import os
import pathlib
import resource

import jax
import numpy as np
from _measure import Program, log_of, measure, one_epoch, speedups

from debias_jax import data, methods, models
from debias_jax.data.types import Dataset

SIZES = {"ML-100K": (943, 1_152, 53_473), "Gowalla": (29_858, 40_981, 810_128)}
BATCH_SIZE, LARGE_BATCH, CHUNK, DIM = 2_048, 32_768, 1_024, 32
HPARAMS = {"lr": 1e-2, "weight_decay": 1e-5}


def load(name: str) -> Dataset:
    """The dataset with its training part alone, or random clicks in its size."""
    folder = os.environ.get("DEBIAS_DATA_DIR")
    if folder and name == "ML-100K":
        log = data.implicit.from_ratings(data.movielens.load_100k(pathlib.Path(folder) / "ml-100k"))
        return data.splits.random_split(log, validation=0.08, test=0.2, per_user=True, seed=10)
    if folder:
        log = data.gowalla.load(pathlib.Path(folder) / "gowalla")
        return data.splits.random_split(log, validation=0.1, test=0.0, per_user=True, seed=10)
    (n_users, n_items, n_rows), rng = SIZES[name], np.random.default_rng(0)
    pairs = rng.choice(n_users * n_items, int(0.72 * n_rows), replace=False)
    return log_of(pairs, n_users=n_users, n_items=n_items)


def ours(log: Dataset, name: str, **options) -> Program:
    """An epoch of a method, compiled."""
    mf = models.mf(log.n_users, log.n_items, dim=DIM, init_scale=0.1)
    method = getattr(methods, name)(mf, **options)
    return one_epoch(method, log, HPARAMS)


def twin(log: Dataset, name: str) -> Program:
    """The same epoch as a PyTorch loop."""
    import torch

    torch.manual_seed(0)
    user, item = torch.nn.Embedding(log.n_users, DIM), torch.nn.Embedding(log.n_items, DIM)
    for table in (user, item):
        torch.nn.init.normal_(table.weight, std=0.1)
    optimizer = torch.optim.Adam(
        [*user.parameters(), *item.parameters()], lr=HPARAMS["lr"], weight_decay=HPARAMS["weight_decay"]
    )
    users, items = (torch.as_tensor(x, dtype=torch.long) for x in (log.train.users, log.train.items))
    log_pop = torch.log(torch.bincount(items, minlength=log.n_items).clamp(min=1) / len(items))

    def epoch() -> None:
        for rows in torch.randperm(len(users)).split(BATCH_SIZE):
            batch = items[rows]
            scores = user(users[rows]) @ item(batch).T
            pos = scores.diagonal()
            if name == "bir":
                weights = torch.softmax((scores - log_pop[batch]).detach(), dim=1)
                drawn = torch.multinomial(weights, len(rows), replacement=True)
                loss = (torch.logsumexp(scores.gather(1, drawn), dim=1) - pos).mean()
            else:
                logits = scores - log_pop[batch]
                loss = (torch.logsumexp(logits, dim=1) - logits.diagonal()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def speed(names: list[str], methods_: list[str], rounds: int) -> None:
    """Prints the table of times."""
    print("| data | epoch | ms | times as fast as PyTorch |\n|---|---|---|---|")
    for dataset in names:
        log = load(dataset)
        for method in methods_:
            programs = {"PyTorch": twin(log, method), "ours": ours(log, method, batch_size=BATCH_SIZE)}
            for program, (milliseconds, ratio) in speedups(measure(programs, rounds)).items():
                print(f"| {dataset} | {method}, {program} | {milliseconds:.0f} | {ratio:.1f} |", flush=True)


def peak_of(name: str, connection) -> None:
    """Trains and sends the most memory that this process held, in MiB."""
    log = load("Gowalla")
    two_batches = np.random.default_rng(0).permutation(len(log.train))[: 2 * LARGE_BATCH]
    log = log.replace(train=log.train.take(two_batches))
    jax.block_until_ready(ours(log, name, batch_size=LARGE_BATCH, chunk=CHUNK)())
    connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def memory() -> None:
    """Prints the table of memory."""
    context = multiprocessing.get_context("spawn")
    print("| method | clicks a batch | most memory, MiB |\n|---|---|---|")
    for name in ("ssl_pop", "bir", "xir"):
        receiver, sender = context.Pipe()
        process = context.Process(target=peak_of, args=(name, sender))
        process.start()
        print(f"| {name} | {LARGE_BATCH:,} | {receiver.recv():.0f} |", flush=True)
        process.join()


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", choices=sorted(SIZES), nargs="*", default=sorted(SIZES, reverse=True))
    parser.add_argument("--methods", choices=("ssl_pop", "bir"), nargs="*", default=["ssl_pop", "bir"])
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    if options.memory:
        memory()
    else:
        speed(options.data, options.methods, options.rounds)


if __name__ == "__main__":
    main()
