"""How sure a difference is: over seeds (paired t-test) and over users (paired bootstrap).

The two answer different questions. The standard deviation over seeds says how much training noise moves a
number on this test set; the bootstrap over users says how much another draw of test users would. On small
test sets (Coat: 237 users) the second is the larger by far, and a table that reports the first alone is too
sure of itself.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

_BLOCK = 2**22
"""Resampled values that are held at once."""


class Interval(NamedTuple):
    """A difference with its confidence interval.

    Attributes:
        difference: mean over users of a - b.
        low: lower end of the interval.
        high: upper end.
        p: two-sided p-value of no difference.
    """

    difference: float
    low: float
    high: float
    p: float


def mean_sd(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation (ddof = 1).

    Args:
        values: ``[n]``, one value a seed.

    Returns:
        ``(mean, sd)``; sd is NaN for a single value.

    Raises:
        ValueError: there is no value, or more than one axis.

    Example:
        >>> mean, sd = mean_sd([0.5, 0.7])
        >>> round(mean, 3), round(sd, 3)
        (0.6, 0.141)
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values must be a non-empty vector, got shape {values.shape}")
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else float("nan")


def paired_t_test(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    r"""Student's t-test of paired values, :math:`t = \bar d / (s_d / \sqrt n)` with n - 1 degrees of freedom.

    Args:
        a: ``[n]``, one value a seed.
        b: ``[n]``, of the same seeds.

    Returns:
        ``(mean of a - b, two-sided p)``. Where all differences are equal p is 1 if they are 0, else 0.

    Raises:
        ValueError: shapes differ, there are fewer than two pairs, or a value is not finite.

    Example:
        >>> difference, p = paired_t_test([0.7, 0.8, 0.9], [0.6, 0.75, 0.75])
        >>> round(difference, 3), round(p, 4)
        (0.1, 0.0742)

    Source:
        Student, The probable error of a mean, Biometrika 1908.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a and b must be vectors of one length, got {a.shape} and {b.shape}")
    if a.size < 2:
        raise ValueError(f"a paired t-test needs at least two pairs, got {a.size}; run more seeds")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a and b must be finite; leave out the seeds that diverged, in both")
    differences = a - b
    mean, sd = differences.mean(), differences.std(ddof=1)
    if sd == 0:
        return float(mean), 1.0 if mean == 0 else 0.0
    t = mean / (sd / np.sqrt(a.size))
    return float(mean), float(2 * special.stdtr(a.size - 1, -abs(t)))


def paired_user_bootstrap(
    per_user_a: np.ndarray,
    per_user_b: np.ndarray,
    *,
    where: np.ndarray | None = None,
    n_resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of a mean difference over users, the same users drawn for both methods.

    Seeds are averaged first, so that training noise does not pass for a difference between users. The p-value
    is twice the smaller share of resamples on one side of 0, resamples and the observed one counted (never
    0).

    Args:
        per_user_a: ``[E]`` or ``[S, E]``, a metric for each user (and seed), as in ``Evaluation.per_user``.
        per_user_b: ``[E]`` or ``[S', E]``, of the same users.
        where: boolean ``[E]``, users that count, or None for all.
        n_resamples: resamples of users.
        seed: of the resamples; the result is a function of the arguments alone.
        level: of the interval, in (0, 1).

    Returns:
        The interval of the mean of a - b.

    Raises:
        ValueError: the users differ in number, nobody counts, a value that counts is not finite, or a setting
            is out of its range.

    Example:
        >>> interval = paired_user_bootstrap([1.0, 0.5, 0.7, 0.9], [0.5, 0.5, 0.6, 0.7], n_resamples=1000)
        >>> round(interval.difference, 3), interval.low <= 0.2 <= interval.high
        (0.2, True)

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 15.
    """
    if n_resamples < 1 or not 0 < level < 1:
        raise ValueError(f"n_resamples must be at least 1 and level in (0, 1), got {n_resamples} and {level}")
    a, b = _over_seeds(per_user_a, "per_user_a"), _over_seeds(per_user_b, "per_user_b")
    if a.shape != b.shape:
        raise ValueError(f"both methods must be evaluated on the same users, got {a.size} and {b.size}")
    differences = a - b
    if where is not None:
        where = np.asarray(where)
        if where.dtype != np.bool_ or where.shape != a.shape:
            raise ValueError(f"where must be boolean of shape {a.shape}, got {where.dtype} {where.shape}")
        differences = differences[where]
    n = differences.size
    if not n:
        raise ValueError("no user counts")
    if not np.isfinite(differences).all():
        raise ValueError("values of users that count must be finite")
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // n)
    means = np.concatenate(
        [
            differences[rng.integers(n, size=(min(block, n_resamples - start), n), dtype=np.int32)].mean(
                axis=1
            )
            for start in range(0, n_resamples, block)
        ]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    one_sided = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (one_sided + 1) / (n_resamples + 1))
    return Interval(float(differences.mean()), float(low), float(high), float(p))


def _over_seeds(values: np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim not in (1, 2) or not values.shape[0]:
        raise ValueError(f"{name} must have shape [E] or [S, E], got {values.shape}")
    return values if values.ndim == 1 else values.mean(axis=0)
