"""One epoch of SASRec against two plain PyTorch loops, and the memory of both.

    python -m pip install -e '.[bench]'
    python benchmarks/sequential_epoch.py
    python benchmarks/sequential_epoch.py --memory
    python benchmarks/sequential_epoch.py --losses --users 1024
    python benchmarks/sequential_epoch.py --losses --dataset ml_1m --users 512

Beauty, windows of 50 items, batches of 512 users, dim 64, dropout 0.6, K = 500 negatives for each position. The PyTorch
side is written for this comparison. ``padded`` scores all slots, those of pads too, and picks the others out, as the
program does that was published with the losses; ``packed`` picks first. Ours also leaves most pads out of the encoder:
histories lie in arrays of five lengths, or with ``two lengths`` of 8 and 50, which is less to compile.
``--users`` of the 22,363 users, drawn at random, are trained on, so that the slowest takes seconds: the work of a step
is that of the whole epoch. Every program runs once in each round; times and ratios are medians over rounds.
``sce_shared``: all positions of a batch share their negatives, in PyTorch as well as here. Without ``DEBIAS_DATA_DIR``
the histories are drawn at random.

``--memory`` runs two steps of each, and the same two again, in a process of its own. It prints the most memory that the
process held above what it had with its imports, compilation included, and the most that the second time took beside
what was held when it began: what training takes, however long it lasts. Linux only.

``--losses`` needs no PyTorch: SASRec with every loss and the settings of ``configs/beauty.py`` (or ``ml_1m.py``), an
epoch of the chosen users beside cross-entropy's in the same round. "s an epoch" is that of all users, by the steps.
"""

import argparse
import ctypes
import gc
import multiprocessing
import os
import pathlib

import jax
import numpy as np
from _measure import Program, load_config, measure, one_epoch, speedups

from debias_jax import data, experiment, methods, models, training
from debias_jax.data.types import Dataset

LENGTH, BATCH_SIZE, DIM, DROPOUT, NEGATIVES, ALPHA = 50, 512, 64, 0.6, 500, 100.0
HPARAMS = {"lr": 5e-4, "weight_decay": 1e-8}
CASES = ("ce", "sce", "sce_shared")
CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
OURS = {"ours": None, "ours, two lengths": (8, LENGTH)}
"""Program -> lengths of the arrays that hold histories."""
DATASETS = {"beauty": ("beauty", 22_363, 12_101), "ml_1m": ("ml-1m", 6_040, 3_416)}
"""Config -> folder of the data, users, items."""


def load(n_users: int, dataset: str = "beauty") -> Dataset:
    """The training histories of some users."""
    root = os.environ.get("DEBIAS_DATA_DIR")
    folder, all_users, n_items = DATASETS[dataset]
    if root:
        log = data.sequences.leave_one_out(data.sequences.load(pathlib.Path(root) / folder))
    else:
        log = data.synthetic_sequences.generate(seed=0, n_users=all_users, n_items=n_items)
    chosen = np.random.default_rng(0).permutation(log.n_users)[:n_users]
    return log.replace(train=log.train.take(np.isin(log.train.users, chosen)))


def ours(log: Dataset, case: str, lengths: tuple[int, ...] | None) -> Program:
    """An epoch of the method, compiled."""
    model = models.sasrec(log.n_items, dim=DIM, max_len=LENGTH, dropout=DROPOUT)
    options = {"loss": "cross_entropy"}
    if case != "ce":
        options = {"loss": "scaled_cross_entropy", "n_negatives": NEGATIVES, "shared": case == "sce_shared"}
    method = methods.next_item(model, batch_size=BATCH_SIZE, lengths=lengths, **options)
    return one_epoch(method, log, HPARAMS)


def network(n_items: int):
    """SASRec as a PyTorch module."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.between = nn.LayerNorm(DIM, eps=1e-8), nn.LayerNorm(DIM, eps=1e-8)
            self.attention = nn.MultiheadAttention(DIM, 1, dropout=DROPOUT, batch_first=True)
            self.first, self.second = nn.Linear(DIM, DIM), nn.Linear(DIM, DIM)
            self.dropout = nn.Dropout(DROPOUT)

        def forward(self, x, causal, pads):
            attended, _ = self.attention(self.before(x), x, x, attn_mask=causal, need_weights=False)
            x = self.between(attended + x)
            x = x + self.dropout(self.second(torch.relu(self.dropout(self.first(x)))))
            return x.masked_fill(pads, 0.0)

    class SASRec(nn.Module):
        def __init__(self):
            super().__init__()
            self.items, self.positions = nn.Embedding(n_items + 1, DIM), nn.Embedding(LENGTH, DIM)
            self.blocks, self.after = nn.ModuleList([Block(), Block()]), nn.LayerNorm(DIM, eps=1e-8)
            self.dropout = nn.Dropout(DROPOUT)
            self.register_buffer("causal", torch.triu(torch.ones(LENGTH, LENGTH, dtype=torch.bool), 1))
            for table in (self.items, self.positions):
                nn.init.xavier_normal_(table.weight)

        def forward(self, histories):
            pads = (histories == n_items)[..., None]
            x = self.dropout(DIM**0.5 * self.items(histories) + self.positions.weight).masked_fill(pads, 0.0)
            for block in self.blocks:
                x = block(x, self.causal, pads)
            return self.after(x)

    return SASRec()


def twin(log: Dataset, case: str, *, packed: bool) -> Program:
    """The same epoch as a PyTorch loop."""
    import torch
    from torch.nn import functional

    torch.manual_seed(0)
    model = network(log.n_items)
    optimizer = torch.optim.Adam(model.parameters(), **HPARAMS)
    histories = data.sequences.histories(log.train)
    users = np.flatnonzero(np.diff(histories.indptr) > 1)
    windows = torch.as_tensor(
        training.padded_histories(*histories, users, LENGTH + 1, fill=log.n_items), dtype=torch.long
    )

    def loss_of(encoded, targets, valid):
        table = model.items.weight[:-1]
        if packed:
            encoded, targets = encoded[valid], targets[valid]
        if case == "ce":
            scores = encoded @ table.T
            if not packed:
                scores, targets = scores[valid], targets[valid]
            return functional.cross_entropy(scores, targets)
        pos = (encoded * table[targets.clamp(max=log.n_items - 1)]).sum(-1, keepdim=True)
        if case == "sce_shared":
            neg = encoded @ table[torch.randint(log.n_items, (NEGATIVES,))].T
        else:
            drawn = torch.randint(log.n_items, (*targets.shape, NEGATIVES))
            neg = torch.einsum("...d,...kd->...k", encoded, table[drawn])
        logits = torch.cat([pos, neg + np.log(ALPHA)], dim=-1)
        if not packed:
            logits = logits[valid]
        return (torch.logsumexp(logits, dim=-1) - logits[:, 0]).mean()

    def epoch() -> None:
        for rows in torch.randperm(len(windows)).split(BATCH_SIZE):
            inputs, targets = windows[rows, :-1], windows[rows, 1:]
            loss = loss_of(model(inputs), targets, inputs != log.n_items)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def speed(cases: list[str], n_users: int, rounds: int) -> None:
    """Prints the table of times."""
    log = load(n_users)
    steps = -(-log.n_users // BATCH_SIZE)
    print(f"{n_users:,} of {log.n_users:,} users; an epoch of all takes {steps} steps\n")
    print("| loss | program | ms a step | times as fast as padded | as packed |\n|---|---|---|---|---|")
    for case in cases:
        programs = {
            "PyTorch, padded": twin(log, case, packed=False),
            "PyTorch, packed": twin(log, case, packed=True),
            **{name: ours(log, case, lengths) for name, lengths in OURS.items()},
        }
        seconds = measure(programs, rounds)
        padded = speedups(seconds)
        packed = speedups({"PyTorch, packed": seconds["PyTorch, packed"], **seconds})
        taken = -(-n_users // BATCH_SIZE)
        for program, (milliseconds, ratio) in padded.items():
            print(
                f"| {case} | {program} | {milliseconds / taken:.0f} | {ratio:.1f} | {packed[program][1]:.1f} |",
                flush=True,
            )


def losses(dataset: str, n_users: int, rounds: int) -> None:
    """Prints what an epoch costs with each loss of a config."""
    log = load(n_users, dataset)
    config = load_config(CONFIGS / f"{dataset}.py", "all")
    programs, batch_sizes = {}, {}
    for name in config.methods:
        if not name.startswith("sasrec_") or name.startswith("sasrec_plus"):
            continue
        own = experiment.only(config, name)
        entry = own.variants[name]
        method = experiment.build_method(own, entry, n_users=log.n_users, n_items=log.n_items)
        programs[name] = one_epoch(method, log, experiment.variant_hparams(own, entry, method))
        batch_sizes[name] = own.train.batch_size
    seconds = measure(programs, rounds)
    print("| variant | users a step | ms a step | s an epoch | of cross-entropy's |\n|---|---|---|---|---|")
    for name, (milliseconds, faster) in speedups(seconds).items():
        size = batch_sizes[name]
        step = milliseconds / -(-n_users // size)
        epoch = step * -(-log.n_users // size) / 1e3
        print(f"| {name} | {size} | {step:.0f} | {epoch:.1f} | {1 / faster:.2f} |", flush=True)


def resident(kind: str) -> float:
    """MiB of this process: ``"VmRSS"`` now, ``"VmHWM"`` at most since it was reset."""
    with open("/proc/self/status", encoding="utf-8") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(kind)) / 2**10


def settle() -> float:
    """Gives back what is free, forgets the peak, and returns the MiB that are left."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return resident("VmRSS")


def peak_of(name: str, case: str, connection) -> None:
    """Runs two steps twice and sends both peaks, in MiB."""
    log = load(2 * BATCH_SIZE)
    if name in OURS:
        jax.devices()
    else:
        import torch  # noqa: F401
    peaks, before = [], settle()
    if name in OURS:
        program = ours(log, case, OURS[name])
    else:
        program = twin(log, case, packed=name == "PyTorch, packed")
    for _ in range(2):
        jax.block_until_ready(program())
        peaks.append(resident("VmHWM") - before)
        before = settle()
    connection.send(peaks)


def memory(cases: list[str]) -> None:
    """Prints the table of memory."""
    context = multiprocessing.get_context("spawn")
    print("| loss | program | first time, MiB | second time, MiB |\n|---|---|---|---|")
    for case in cases:
        for name in ("PyTorch, padded", "PyTorch, packed", *OURS):
            receiver, sender = context.Pipe()
            process = context.Process(target=peak_of, args=(name, case, sender))
            process.start()
            first, second = receiver.recv()
            print(f"| {case} | {name} | {first:.0f} | {second:.0f} |", flush=True)
            process.join()


def main() -> None:
    """Prints one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--users", type=int, default=4 * BATCH_SIZE)
    parser.add_argument("--cases", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--losses", action="store_true")
    parser.add_argument("--dataset", choices=DATASETS, default="beauty", help="of --losses")
    options = parser.parse_args()
    if options.memory:
        memory(options.cases)
    elif options.losses:
        losses(options.dataset, options.users, options.rounds)
    else:
        speed(options.cases, options.users, options.rounds)


if __name__ == "__main__":
    main()
