"""Bias and variance of the doubly robust estimators: as printed for BADR, as corrected, and as they are.

    python benchmarks/dr_estimators.py

A batch of m pairs has fixed errors e, imputed errors e_hat, probabilities p and propensities p_hat; only which pairs
are observed is random. Printed are two Markdown tables, one of the bias against the mean error and one of the variance.
*printed*: the leading terms of Theorems 3.1 and 3.2 of the BADR paper (Pan et al., TOIS 2026). *corrected*: the
expansions to first order in one over the expected number of observed pairs that ``risks.badr`` states. The estimators'
columns are means over draws of the observations; a standard error stands in brackets, in units of the last digit.
Draws in which nothing is observed do not count: BADR and SNDR are undefined there.
"""

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import numpy as np

from debias_jax import risks
from debias_jax.types import Array

CHUNK = 2_000_000  # entries of one block of draws

ESTIMATORS = {"BADR": risks.badr, "SNDR": risks.sndr, "DR": risks.dr}


class Batch(NamedTuple):
    """A batch of m pairs: everything but the observations.

    Attributes:
        errors: ``[m]`` e.
        imputed: ``[m]`` e_hat.
        probability: ``[m]`` p, of being observed.
        propensity: ``[m]`` p_hat, its estimate.
    """

    errors: np.ndarray
    imputed: np.ndarray
    probability: np.ndarray
    propensity: np.ndarray

    @property
    def ideal(self) -> float:
        """The mean error, which the estimators estimate."""
        return self.errors.mean()


class Moments(NamedTuple):
    """Bias and variance of an estimator, each with its standard error; of a formula, errors of 0."""

    bias: float
    variance: float
    bias_error: float = 0.0
    variance_error: float = 0.0


def printed(batch: Batch) -> Moments:
    """Leading terms of Theorems 3.1 (before the absolute value is taken) and 3.2."""
    e, h, p, q = batch
    residual = e - h
    weight = np.sum(p / q)
    weighted_mean = np.sum(p / q * residual) / weight
    centred = residual - weighted_mean
    return Moments(-centred.mean(), np.sum(p * (1 - p) * centred**2 / q**2) / weight**2)


def corrected(batch: Batch) -> Moments:
    """Bias and variance of BADR to first order in one over the expected number of observed pairs."""
    e, h, p, q = batch
    weight = np.sum(p / q)
    limit = (np.sum(h) + np.sum(p / q * (e - h))) / weight
    centred = e - h - limit
    curvature = -np.sum(p * (1 - p) * centred / q**2) / weight**2
    return Moments(limit - e.mean() + curvature, np.sum(p * (1 - p) * centred**2 / q**2) / weight**2)


def closed_form(batch: Batch) -> Moments:
    """Bias and variance of DR (of IPS, if nothing is imputed), exactly: Table 1 of the BADR paper."""
    e, h, p, q = batch
    m = len(e)
    return Moments(np.sum((p / q - 1) * (e - h)) / m, np.sum(p * (1 - p) * ((e - h) / q) ** 2) / m**2)


def simulate(
    batch: Batch, functions: Iterable[Callable[..., Array]], *, draws: int, seed: int
) -> list[np.ndarray]:
    """Values of some ``risks`` over draws of the observations, without the draws in which nothing is observed.

    Args:
        batch: of m pairs.
        functions: called as ``function(errors, imputed, observed=..., propensity=...)``.
        draws: how many to make.
        seed: of the draws.

    Returns:
        Float64 ``[at most draws]`` for each function; the draws are the same for all.
    """
    rng, functions = np.random.default_rng(seed), tuple(functions)
    e, h, q = (np.asarray(x, np.float32) for x in (batch.errors, batch.imputed, batch.propensity))
    probability = batch.probability.astype(np.float32)
    rows = min(draws, max(1, CHUNK // len(e)))
    values = []
    for _ in range(-(-draws // rows)):
        observed = rng.random((rows, len(e)), np.float32) < probability
        drawn = np.asarray(_evaluate(functions, observed, e, h, q), np.float64)
        values.append(drawn[:, observed.any(axis=1)])
    return list(np.concatenate(values, axis=1)[:, :draws])


@partial(jax.jit, static_argnums=0)
def _evaluate(functions, observed, errors, imputed, propensity):
    def one(row):
        return [function(errors, imputed, observed=row, propensity=propensity) for function in functions]

    return jax.vmap(one)(observed)


def moments(values: np.ndarray, ideal: float) -> Moments:
    """Bias and variance of simulated values."""
    n, mean, variance = len(values), values.mean(), values.var()
    fourth = np.mean((values - mean) ** 4)
    return Moments(mean - ideal, variance, np.sqrt(variance / n), np.sqrt(max(fourth - variance**2, 0.0) / n))


def cases(seed: int) -> dict[str, Batch]:
    """The batches of the tables: p is lognormal with a mean of about 0.1, the mean error about 0.7."""

    def parts(m):
        rng = np.random.default_rng([seed, m])
        p = np.clip(0.1 * np.exp(rng.normal(-0.18, 0.6, m)), 0.01, 0.9)
        e = rng.gamma(2.0, 0.35, m)
        noisy = np.clip(1.5 * p * np.exp(rng.normal(0.0, 0.3, m)), 0.01, 1.0)
        return e, 0.5 * e + rng.uniform(0.0, 0.4, m), p, noisy, rng.permutation(m)

    sizes = {m: parts(m) for m in (500, 2000)}
    table = {}
    for m, (e, imperfect, p, _, _) in sizes.items():
        table[f"p_hat = p, e_hat imperfect, m = {m}"] = Batch(e, imperfect, p, p)
    for m, (e, _, p, noisy, _) in sizes.items():
        table[f"e_hat = e, p_hat noisy and 1.5 times too large, m = {m}"] = Batch(e, e, p, noisy)
    e, imperfect, p, noisy, _ = sizes[2000]
    table["e_hat = e, p_hat = p / 2, m = 2000"] = Batch(e, e, p, p / 2)
    table["both wrong, m = 2000"] = Batch(e, imperfect, p, noisy)
    table["e_hat = 0 (SNIPS, SNIPS, IPS), p_hat noisy, m = 2000"] = Batch(e, np.zeros_like(e), p, noisy)
    e, imperfect, p, _, order = sizes[500]
    rare = order < 25
    table["5 % of pairs with p = 0.1 and p_hat = 1e-4, m = 500"] = Batch(
        e, imperfect, np.where(rare, 0.1, p), np.where(rare, 1e-4, p)
    )
    sparse = np.where(order < 250, 1e-4, p)
    table["half the pairs with p = p_hat = 1e-4, m = 500"] = Batch(e, imperfect, sparse, sparse)
    return table


def study(batch: Batch, *, draws: int, seed: int) -> dict[str, Moments]:
    """The columns of one row: two formulas, and the moments of each estimator."""
    values = simulate(batch, ESTIMATORS.values(), draws=draws, seed=seed)
    measured = {name: moments(x, batch.ideal) for name, x in zip(ESTIMATORS, values, strict=True)}
    return {"printed": printed(batch), "corrected": corrected(batch), **measured}


def with_error(value: float, error: float) -> str:
    """``value`` with the standard error in brackets, to the error's first digit; three digits if it has none."""
    if error <= 1e-9:
        return f"{value:.3g}" if abs(value) > 1e-7 else "0"
    decimals = max(0, -int(np.floor(np.log10(error))))
    return f"{value:.{decimals}f}({error * 10**decimals:.0f})"


def markdown(table: dict[str, dict[str, Moments]], field: str) -> str:
    """One table; ``field`` is ``"bias"`` or ``"variance"``."""
    columns = list(next(iter(table.values())))
    lines = [f"| {field} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for case, row in table.items():
        cells = [
            with_error(getattr(row[name], field), getattr(row[name], f"{field}_error")) for name in columns
        ]
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Bias and variance of doubly robust estimators.")
    parser.add_argument("--draws", type=int, default=20_000, help="draws of each batch (default 20000)")
    parser.add_argument("--seed", type=int, default=0, help="of batches and draws (default 0)")
    options = parser.parse_args()
    if options.draws < 2:
        parser.error(f"--draws={options.draws} must be at least 2")
    table = {
        case: study(batch, draws=options.draws, seed=options.seed)
        for case, batch in cases(options.seed).items()
    }
    print(markdown(table, "bias"), markdown(table, "variance"), sep="\n\n")


if __name__ == "__main__":
    main()
