"""One epoch of BADR against a plain PyTorch loop of the released step, on Coat and KuaiRec.

    python -m pip install -e '.[bench]'
    python benchmarks/cvr_epoch.py

The PyTorch side is written for this comparison from the description of the released step: per step the propensities of
the observed rows, a backward pass and Adam step of the prediction model, the same for the imputation model; a
permutation of the rows and one of all pairs an epoch. Ours is ``methods.badr`` with the options of ``badr_released``
but for the fit of its propensities, which comes before the epochs: with a list of uniform pairs, with tiles and with
one block. What the frames do to AUC is in docs/badr.md. Sizes are the paper's. Every program runs once in each
round, so that a change of the machine's mood hits all alike; times and ratios are medians over rounds. Without
``DEBIAS_DATA_DIR`` the rows are drawn at random in the data's sizes, which costs the same.
"""

import argparse
import os
import pathlib

import numpy as np
import torch
from _measure import Program, measure, one_epoch, speedups

from debias_jax import data, methods, models
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary

SIZES = {
    "Coat": {"n_users": 290, "n_items": 300, "rows": 6_960, "dim": 16, "batch_size": 128, "ratio": 5},
    "KuaiRec": {
        "n_users": 1_411,
        "n_items": 3_327,
        "rows": 201_171,
        "dim": 64,
        "batch_size": 4_096,
        "ratio": 5,
    },
}
HPARAMS = {"lr": 0.006, "weight_decay": 1e-4, "imputation_lr": 0.08, "imputation_weight_decay": 1e-4}
MIN_PROPENSITY = 0.076


def load(name: str) -> Dataset:
    """The dataset, or random rows in its size."""
    folder = os.environ.get("DEBIAS_DATA_DIR")
    if folder and name == "Coat":
        return data.coat.load_fixed_split(pathlib.Path(folder) / "coat")
    if folder:
        return data.kuairec.load(pathlib.Path(folder) / "kuairec")
    size, rng = SIZES[name], np.random.default_rng(0)
    n_users, n_items = size["n_users"], size["n_items"]
    pairs = rng.choice(n_users * n_items, size["rows"], replace=False)
    rows = Interactions(
        users=pairs // n_items,
        items=pairs % n_items,
        labels=rng.integers(0, 2, pairs.size).astype(np.float32),
        n_users=n_users,
        n_items=n_items,
    )
    users, items = Vocabulary(np.arange(n_users)), Vocabulary(np.arange(n_items))
    return Dataset("random", rows, None, None, users, items)


def ours(log: Dataset, size: dict[str, int], frame: str) -> Program:
    """An epoch of the released variant, compiled."""
    mf = models.mf(log.n_users, log.n_items, dim=size["dim"], init_scale=1.0)
    method = methods.badr(
        mf,
        mf,
        models.additive_logistic(log.n_users, log.n_items, dim=size["dim"]),
        variant="released",
        imputed_errors="released",
        weighting="batch",
        order="prediction_first",
        propensity="estimated",
        batch_size=size["batch_size"],
        ratio=size["ratio"],
        frame=frame,
    )
    return one_epoch(method, log, {**HPARAMS, "min_propensity": MIN_PROPENSITY})


class TorchMf(torch.nn.Module):
    """sigmoid(<P_u, Q_i>)."""

    def __init__(self, n_users: int, n_items: int, dim: int):
        super().__init__()
        self.user, self.item = torch.nn.Embedding(n_users, dim), torch.nn.Embedding(n_items, dim)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Probabilities of pairs ``[B, 2]``."""
        return torch.sigmoid((self.user(pairs[:, 0]) * self.item(pairs[:, 1])).sum(1))


class TorchPropensity(torch.nn.Module):
    """sigmoid(a^T [P_u; Q_i] + c)."""

    def __init__(self, n_users: int, n_items: int, dim: int):
        super().__init__()
        self.user, self.item = torch.nn.Embedding(n_users, dim), torch.nn.Embedding(n_items, dim)
        self.linear = torch.nn.Linear(2 * dim, 1)

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Probabilities of pairs ``[B, 2]``."""
        vectors = torch.cat([self.user(pairs[:, 0]), self.item(pairs[:, 1])], dim=1)
        return torch.sigmoid(self.linear(vectors))[:, 0]


def twin(log: Dataset, size: dict[str, int]) -> Program:
    """The same epoch as a PyTorch loop."""
    torch.manual_seed(0)
    sizes = (log.n_users, log.n_items, size["dim"])
    prediction, imputation, propensity = TorchMf(*sizes), TorchMf(*sizes), TorchPropensity(*sizes)
    bce = torch.nn.functional.binary_cross_entropy
    optimizers = [
        torch.optim.Adam(
            model.parameters(), lr=HPARAMS[f"{prefix}lr"], weight_decay=HPARAMS[f"{prefix}weight_decay"]
        )
        for model, prefix in ((prediction, ""), (imputation, "imputation_"))
    ]
    observed = torch.as_tensor(np.stack([log.train.users, log.train.items], axis=1), dtype=torch.long)
    labels = torch.as_tensor(log.train.labels, dtype=torch.float32)
    grid = torch.cartesian_prod(torch.arange(log.n_users), torch.arange(log.n_items))
    batch_size, ratio = size["batch_size"], size["ratio"]

    def epoch() -> None:
        rows, pairs = torch.randperm(len(observed)), torch.randperm(len(grid))
        for number in range(len(observed) // batch_size):
            own = rows[number * batch_size : (number + 1) * batch_size]
            batch, target = observed[own], labels[own]
            uniform = grid[pairs[number * batch_size * ratio : (number + 1) * batch_size * ratio]]
            with torch.no_grad():
                weights = 1.0 / propensity(batch).clamp(MIN_PROPENSITY, 1.0)
                pseudo, pseudo_uniform = imputation(batch), imputation(uniform)
            guess, guess_uniform = prediction(batch), prediction(uniform)
            weighted = bce(guess, target, weight=weights, reduction="sum")
            imputed = bce(guess, pseudo, reduction="sum")
            direct = bce(guess_uniform, pseudo_uniform, reduction="sum")
            loss = (weighted - imputed + direct) / weights.sum()
            optimizers[0].zero_grad()
            loss.backward()
            optimizers[0].step()
            with torch.no_grad():
                guess, guess_uniform = prediction(batch), prediction(uniform)
            pseudo, pseudo_uniform = imputation(batch), imputation(uniform)
            errors = bce(guess, target, reduction="none")
            imputed = bce(pseudo, guess, reduction="none").detach()
            imputed_uniform = bce(pseudo_uniform, guess_uniform, reduction="none")
            level = imputed_uniform.mean()
            total = (weights * errors).sum() - imputed.sum() + imputed_uniform.sum().detach()
            residuals = errors - imputed + level - total / weights.sum()
            loss = (weights**2 * residuals**2).sum() / len(uniform)
            optimizers[1].zero_grad()
            loss.backward()
            optimizers[1].step()

    return epoch


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--data", choices=sorted(SIZES), nargs="*", default=sorted(SIZES))
    options = parser.parse_args()
    print("| data | epoch | ms | times as fast as PyTorch |\n|---|---|---|---|")
    for name in options.data:
        log, size = load(name), SIZES[name]
        programs = {
            "PyTorch, list of pairs": twin(log, size),
            "badr, list of pairs": ours(log, size, "pairs"),
            "badr, tiles": ours(log, size, "tiles"),
            "badr, one block": ours(log, size, "block"),
        }
        for label, (milliseconds, ratio) in speedups(measure(programs, options.rounds)).items():
            print(f"| {name} | {label} | {milliseconds:.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
