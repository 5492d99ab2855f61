"""A simulator of biased feedback with known exposure and relevance.

    O_ui ~ Bern(m_ui),   R_ui ~ Bern(gamma_ui),   Y_ui = O_ui R_ui

A click log is the rows with ``Y = 1``; the conversion (CVR) form is (o, propensity m, label R where o = 1).
The bias is of the kind that real logs have: exposure follows item popularity, and depends on relevance
besides, so that what is observed is missing not at random.
"""

from typing import NamedTuple

import numpy as np

from debias_jax.data import _simulation
from debias_jax.data._settings import check_integer, check_number
from debias_jax.data.types import Dataset, Interactions, Truth
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError

# Standard deviations, in logits, of what the knobs leave alone.
_TASTE = 3.0
_QUALITY = 0.2
_ATTENTION = 0.5

# The simulator holds several dense user x item matrices of float64.
_MAX_PAIRS = 100_000_000


class CVRMatrices(NamedTuple):
    """The conversion form of simulated data, over all pairs.

    Attributes:
        observed: bool ``[n_users, n_items]``, o_ui: the pair was exposed and its label is in the log.
        propensity: float32 ``[n_users, n_items]``, the true m_ui = P(o_ui = 1).
        label: float32 ``[n_users, n_items]``, a draw from Bern(gamma_ui), known here for every pair.
    """

    observed: np.ndarray
    propensity: np.ndarray
    label: np.ndarray


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _calibrate(logits: np.ndarray, mean: float, floor: float = 0.0) -> np.ndarray:
    """``max(floor, sigmoid(logits + c))``, c found by bisection such that the mean is the wanted one."""
    low, high = -40.0 - logits.max(), 40.0 - logits.min()
    while True:
        shift = 0.5 * (low + high)
        values = np.maximum(floor, _sigmoid(logits + shift))
        error = values.mean() - mean
        if abs(error) <= 1e-4 * min(mean, 1 - mean) or high - low < 1e-9:
            return values
        low, high = (low, shift) if error > 0 else (shift, high)


def _standardise(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / x.std()


def generate(
    *,
    seed: int = 0,
    n_users: int = 300,
    n_items: int = 200,
    dim: int = 4,
    mean_exposure: float = 0.2,
    mean_relevance: float = 0.3,
    popularity_skew: float = 1.5,
    user_exposure: float = 0.5,
    exposure_relevance_correlation: float = 0.3,
    propensity_floor: float = 0.01,
    name: str = "synthetic",
) -> Dataset:
    """Draws a dataset with known exposure and relevance.

    With standardised parts ``t`` (low-rank taste), ``z`` (low-rank, independent of it) and ``q`` (item
    quality),

        relevance:  gamma_ui = sigmoid(s_ui + c_1),   s_ui = 3 t_ui + 0.2 q_i
        exposure:   m_ui = max(floor, sigmoid(e_ui + c_2)),
                    e_ui = -skew log(rank_i) + sd a_u + 0.5 (rho s~_ui + sqrt(1 - rho^2) z_ui)

    where ``rank`` is a random order of the items (so popularity says nothing about quality), ``a_u`` the
    user's activity, ``s~`` the standardised ``s``, and the shifts c_1, c_2 are solved for so that the means
    are what was asked. Item exposure falls off like Zipf's law with exponent ``popularity_skew`` where it is
    small.

    Args:
        seed: of everything drawn; each random part has its own stream, so that changing one knob leaves the
            others' draws as they are.
        n_users: at least 2.
        n_items: at least 2.
        dim: rank of taste and of the user-item part of exposure.
        mean_exposure: mean of m over all pairs (the expected density of the log), in (propensity_floor, 1).
        mean_relevance: mean of gamma over all pairs, in (0, 1).
        popularity_skew: 0 exposes all items alike, 1 is Zipf; in [0, 5].
        user_exposure: standard deviation of user activity, in logits, in [0, 5].
        exposure_relevance_correlation: rho, the correlation of the user-item part of the exposure logit with
            the relevance logit, in [-1, 1]. The correlation of the whole logits is lower in size; ``notes``
            has it.
        propensity_floor: the least exposure, in (0, 1).
        name: of the dataset.

    Returns:
        ``train`` holds the exposed pairs with labels R and propensities m, by user and item; clicks are its
        rows with label 1. ``test`` holds every pair that was not clicked, with labels drawn afresh from
        Bern(gamma), as a trial that shows everything would give them. (R itself would not do: an exposed pair
        without a click has R = 0 for certain, so popular items would look worse than they are, and a training
        label would be tested on.) ``truth`` holds m and gamma; ``notes`` the realised values. No validation
        part: see ``debias_jax.data.splits``.

    Raises:
        ConfigError: a knob is out of range.

    >>> data = generate(seed=1, n_users=50, n_items=40)
    >>> len(data.train.positives) + len(data.test) == 50 * 40
    True
    >>> round(float(data.truth.exposure.mean()), 3), round(float(data.truth.relevance.mean()), 3)
    (0.2, 0.3)
    """
    check_integer("seed", seed, 0)
    check_integer("n_users", n_users, 2)
    check_integer("n_items", n_items, 2)
    check_integer("dim", dim, 1)
    if n_users * n_items > _MAX_PAIRS:
        raise ConfigError(f"n_users * n_items = {n_users * n_items:,} must be at most {_MAX_PAIRS:,}")
    check_number("propensity_floor", propensity_floor, "(0, 1)")
    check_number("mean_exposure", mean_exposure, f"({propensity_floor}, 1)")
    check_number("mean_relevance", mean_relevance, "(0, 1)")
    check_number("popularity_skew", popularity_skew, "[0, 5]")
    check_number("user_exposure", user_exposure, "[0, 5]")
    check_number("exposure_relevance_correlation", exposure_relevance_correlation, "[-1, 1]")

    def low_rank(rng):
        return _standardise(rng.standard_normal((n_users, dim)) @ rng.standard_normal((dim, n_items)))

    streams = (np.random.Generator(np.random.PCG64(s)) for s in np.random.SeedSequence(seed).spawn(8))
    taste_rng, quality_rng, rank_rng, activity_rng, attention_rng, exposure_rng, relevance_rng, test_rng = (
        streams
    )

    relevance_logit = _TASTE * low_rank(taste_rng) + _QUALITY * quality_rng.standard_normal(n_items)
    relevance = _calibrate(relevance_logit, mean_relevance).astype(np.float32)

    rho = exposure_relevance_correlation
    pair_part = rho * _standardise(relevance_logit) + np.sqrt(1 - rho**2) * low_rank(attention_rng)
    popularity = -popularity_skew * np.log(1.0 + rank_rng.permutation(n_items))
    activity = user_exposure * activity_rng.standard_normal((n_users, 1))
    exposure = _calibrate(popularity + activity + _ATTENTION * pair_part, mean_exposure, propensity_floor)
    exposure = exposure.astype(np.float32)

    train, test = _simulation.draw(exposure, relevance, exposure_rng, relevance_rng, test_rng)
    return Dataset(
        name=name,
        train=train,
        validation=None,
        test=test,
        users=Vocabulary.range(n_users, kind="user"),
        items=Vocabulary.range(n_items, kind="item"),
        truth=Truth(exposure=exposure, relevance=relevance),
        notes=_realised(train, exposure, relevance),
    )


def _correlation(x: np.ndarray, y: np.ndarray) -> str:
    constant = np.ptp(x) == 0 or np.ptp(y) == 0
    return "undefined" if constant else f"{np.corrcoef(x.ravel(), y.ravel())[0, 1]:.3f}"


def _logit(p: np.ndarray) -> np.ndarray:
    p = np.clip(p.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(p) - np.log1p(-p)


def _realised(train: Interactions, exposure: np.ndarray, relevance: np.ndarray) -> tuple[str, ...]:
    clicks = train.positives
    counts = np.bincount(clicks.items, minlength=train.n_items)
    n_pairs = train.n_users * train.n_items
    return (
        f"mean exposure {exposure.mean():.4f} (least {exposure.min():.4f}), "
        f"mean relevance {relevance.mean():.4f}",
        f"{len(clicks):,} clicks in {n_pairs:,} pairs ({len(clicks) / n_pairs:.2%})",
        f"correlation of an item's clicks with its mean exposure {_correlation(counts, exposure.mean(0))}, "
        f"with its mean relevance {_correlation(counts, relevance.mean(0))}",
        f"correlation of exposure and relevance logits {_correlation(_logit(exposure), _logit(relevance))}",
    )


def cvr_matrices(dataset: Dataset) -> CVRMatrices:
    """The conversion form over all pairs, for studies of estimators.

    Args:
        dataset: from ``generate``, its log split further or not.

    Returns:
        ``observed, propensity, label``, each ``[n_users, n_items]``. The label of an observed pair is the
        log's, that of another one the test part's. The ideal risk is the mean loss over all of ``label``; an
        estimator sees it only where ``observed``.

    Raises:
        DataError: the dataset has no truth, or its parts do not cover all pairs.

    >>> observed, propensity, label = cvr_matrices(generate(n_users=30, n_items=20))
    >>> observed.shape, propensity.dtype, sorted(set(label.ravel().tolist()))
    ((30, 20), dtype('float32'), [0.0, 1.0])
    """
    if dataset.truth is None:
        raise DataError(
            f"{dataset.name} has no truth; only simulated data has a conversion form over all pairs"
        )
    shape = (dataset.n_users, dataset.n_items)
    observed = np.zeros(shape, bool)
    label = np.full(shape, np.nan, np.float32)
    if dataset.test is not None:
        label[dataset.test.users, dataset.test.items] = dataset.test.labels
    for logged in (dataset.train, dataset.validation):
        if logged is not None:
            observed[logged.users, logged.items] = True
            label[logged.users, logged.items] = logged.labels
    missing = np.argwhere(np.isnan(label))
    if missing.size:
        raise DataError(
            f"{dataset.name}: {len(missing):,} pairs, the first {tuple(missing[0].tolist())}, are in none of "
            "train, validation and test; the conversion form needs the dataset as generate() made it"
        )
    return CVRMatrices(observed, dataset.truth.exposure, label)
