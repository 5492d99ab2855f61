r"""Semi-synthetic data: what users like and see is fitted to a real log, what was logged is simulated.

Taste and exposure so have a real structure, and the truth is known. ``simulate`` makes conversion data of a completed
rating matrix: high ratings are observed more often and nothing else matters, labels are missing not at random (the
simulation on MovieLens 100K of Guo et al., "Enhanced Doubly Robust Learning for Debiasing Post-Click Conversion Rate
Estimation", SIGIR 2021, in the form of BADR's Table 6). ``simulate_clicks`` makes implicit feedback of matrices of
exposure and relevance (Biif, section 4).
"""

from collections.abc import Sequence

import numpy as np

from debias_jax.data import _simulation
from debias_jax.data._settings import check_integer, check_number
from debias_jax.data.types import Dataset, Interactions, Truth
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError

YAHOO_R3_RATINGS = (0.52624, 0.24193, 0.14389, 0.06242, 0.02552)
"""Shares of the ratings 1..5 in the unbiased test part of Yahoo! R3."""


def quantile_ratings(scores: np.ndarray, proportions: Sequence[float] = YAHOO_R3_RATINGS) -> np.ndarray:
    """Ratings 1, 2, .. by the rank of the scores, each rating with its share.

    The lowest ``proportions[0]`` of all scores become 1, the next ``proportions[1]`` become 2, and so on. Equal scores
    are ordered by position.

    Args:
        scores: ``[...]``, finite.
        proportions: positive weights of the ratings; they are divided by their sum.

    Returns:
        int8 of the shape of ``scores``. Up to rounding a rating occurs ``share * scores.size`` times.

    Raises:
        DataError: a score is not finite.
        ConfigError: a proportion is not positive.

    >>> quantile_ratings(np.array([0.3, -1.0, 2.0, 0.9]), (0.5, 0.25, 0.25)).tolist()
    [1, 1, 3, 2]
    """
    scores = np.asarray(scores)
    if not np.isfinite(scores).all():
        raise DataError("scores to be made ratings must be finite; lower the learning rate of the completion")
    for position, share in enumerate(proportions):
        check_number(f"proportions[{position}]", share, "(0, inf)")
    bounds = np.cumsum(proportions) / np.sum(proportions)
    ranks = np.empty(scores.size, np.int64)
    ranks[np.argsort(scores, axis=None, kind="stable")] = np.arange(scores.size)
    return (
        (1 + np.searchsorted(np.rint(bounds[:-1] * scores.size), ranks, side="right"))
        .astype(np.int8)
        .reshape(scores.shape)
    )


def simulate(
    ratings: np.ndarray,
    *,
    decay: float = 0.5,
    scale: float = 1.0,
    threshold: float = 3,
    validation: float = 0.1,
    seed: int = 0,
    users: Vocabulary | None = None,
    items: Vocabulary | None = None,
    name: str = "semi_synthetic",
) -> Dataset:
    r"""Observes pairs of a complete rating matrix with known propensities.

    .. math::
        p_{ui} = c\, a^{\min(4,\, 6 - R_{ui})}, \qquad o_{ui} \sim \operatorname{Bern}(p_{ui}), \qquad
        r_{ui} = 1[R_{ui} \ge \text{threshold}]

    The observed pairs are the log; the others are known as well and divided at random. Validation and test are
    therefore no uniform sample of all pairs: their positive rate lies below that of the matrix.

    Args:
        ratings: ``[n_users, n_items]``, whole numbers 1..5.
        decay: a in (0, 1]: how much rarer each lower rating is observed; 1 and 2 alike.
        scale: c > 0; ``scale * decay``, the propensity of a 5, is at most 1.
        threshold: on the ratings, in (1, 5].
        validation: share of the unobserved pairs for validation, in (0, 1), the count rounded down; the others are the
            test part.
        seed: of the observation and the split, which have streams of their own.
        users: vocabulary of the rows, default their numbers.
        items: vocabulary of the columns, default their numbers.
        name: of the dataset.

    Returns:
        ``train`` with labels, ratings and the true propensities; ``validation`` and ``test`` with labels and ratings;
        ``truth`` with the propensities as exposure and the labels as relevance.

    Raises:
        ConfigError: an option is out of range, or nothing or everything is observed.
        DataError: the ratings are no matrix of whole numbers 1..5, or do not fit the vocabularies.

    Source:
        BADR, Table 6. Its two datasets are ``decay=0.5`` and ``decay=0.58`` by their mean propensities, .094 and .151;
        the density that it prints for the first, 10.00 %, does not fit that mean.

    >>> rng = np.random.default_rng(0)
    >>> data = simulate(quantile_ratings(rng.normal(size=(200, 300))))
    >>> len(data.train) + len(data.validation) + len(data.test) == 200 * 300
    True
    >>> round(float(data.truth.exposure.mean()), 4)      # .0255 / 2 + .0624 / 4 + .1439 / 8 + .7682 / 16
    0.0944
    """
    ratings = np.asarray(ratings)
    if ratings.ndim != 2 or not np.isin(ratings, (1, 2, 3, 4, 5)).all():
        raise DataError(
            f"ratings must be a matrix of whole numbers 1..5, got {ratings.dtype} {ratings.shape}"
        )
    check_number("decay", decay, "(0, 1]")
    check_number("scale", scale, "(0, inf)")
    check_number("threshold", threshold, "(1, 5]")
    check_number("validation", validation, "(0, 1)")
    check_integer("seed", seed, 0)
    if scale * decay > 1:
        raise ConfigError(
            f"scale * decay = {scale * decay:g} is the propensity of a rating of 5; it must be at most 1"
        )
    n_users, n_items = ratings.shape
    users = Vocabulary.range(n_users, kind="user") if users is None else users
    items = Vocabulary.range(n_items, kind="item") if items is None else items
    if (len(users), len(items)) != ratings.shape:
        raise DataError(
            f"ratings {ratings.shape} do not fit vocabularies of {len(users)} users and {len(items)} items"
        )

    observe_rng, split_rng = (
        np.random.Generator(np.random.PCG64(stream)) for stream in np.random.SeedSequence(seed).spawn(2)
    )
    propensity = (scale * decay ** np.minimum(4, 6 - ratings.astype(np.float32))).astype(np.float32)
    label = (ratings >= threshold).astype(np.float32)
    observed = observe_rng.random(ratings.shape) < propensity
    n_free = int((~observed).sum())
    n_validation = int(validation * n_free)
    if not observed.any() or not 0 < n_validation < n_free:
        raise ConfigError(
            f"{observed.sum():,} of {observed.size:,} pairs are observed and {n_validation:,} of the others go to "
            "validation, which leaves a part empty; change scale, decay or validation"
        )
    in_validation = np.zeros(n_free, bool)
    in_validation[split_rng.permutation(n_free)[:n_validation]] = True

    def rows(pairs: np.ndarray, **columns: np.ndarray) -> Interactions:
        at = np.unravel_index(pairs, ratings.shape)
        return Interactions(*at, label[at], n_users, n_items, ratings=ratings[at], **columns)

    free = np.flatnonzero(~observed)
    log = np.flatnonzero(observed)
    parts = {"train": rows(log, propensities=propensity.ravel()[log])}
    parts |= {"validation": rows(free[in_validation]), "test": rows(free[~in_validation])}
    rates = ", ".join(f"{part} {each.labels.mean():.4f}" for part, each in parts.items())
    return Dataset(
        name=name,
        users=users,
        items=items,
        truth=Truth(exposure=propensity, relevance=label),
        notes=(
            f"label = rating >= {threshold:g} of a completed matrix, {label.mean():.4f} of it positive",
            f"observed with propensity {scale:g} * {decay:g} ** min(4, 6 - rating): mean {propensity.mean():.4f}, "
            f"least {propensity.min():.4f}; {observed.mean():.2%} of the pairs, seed {seed}",
            f"validation and test: {validation:.0%} and {1 - validation:.0%} of the unobserved pairs; "
            f"positive rates: {rates}",
        ),
        **parts,
    )


def simulate_clicks(
    exposure: np.ndarray,
    relevance: np.ndarray,
    *,
    seed: int = 0,
    users: Vocabulary | None = None,
    items: Vocabulary | None = None,
    name: str = "semi_synthetic",
) -> Dataset:
    r"""Implicit feedback with known exposure and relevance.

    .. math:: O_{ui} \sim \operatorname{Bern}(m_{ui}), \qquad R_{ui} \sim \operatorname{Bern}(\gamma_{ui}), \qquad
        Y_{ui} = O_{ui} R_{ui}

    The parts are those of ``synthetic.generate``, and a log so drawn can be prepared as a rated one is.

    Args:
        exposure: ``[n_users, n_items]``, m in (0, 1].
        relevance: ``[n_users, n_items]``, gamma in [0, 1].
        seed: of exposure, relevance and test draws, which have streams of their own.
        users: vocabulary of the rows, default their numbers.
        items: vocabulary of the columns, default their numbers.
        name: of the dataset.

    Returns:
        ``train``: the exposed pairs with labels R and propensities m; clicks are its rows with label 1. ``test``:
        every pair without a click, its relevance drawn afresh. ``truth``: m and gamma. No validation part.

    Raises:
        ConfigError: the seed is out of range.
        DataError: a value is no probability, nothing is exposed, or shapes and vocabularies do not fit.

    Source:
        Biif, section 4, whose text draws O from the popularity theta; m is meant, and Y is one draw.

    >>> m = np.full((30, 20), 0.5)
    >>> data = simulate_clicks(m, 0.5 * m)
    >>> len(data.train.positives) + len(data.test) == 30 * 20, float(data.truth.relevance[0, 0])
    (True, 0.25)
    """
    exposure, relevance = np.asarray(exposure, np.float32), np.asarray(relevance, np.float32)
    check_integer("seed", seed, 0)
    if exposure.ndim != 2 or exposure.shape != relevance.shape:
        raise DataError(
            f"exposure and relevance must be matrices of one shape, got {exposure.shape} and {relevance.shape}"
        )
    for what, matrix, bad in (
        ("exposure", exposure, ~((exposure > 0) & (exposure <= 1))),
        ("relevance", relevance, ~((relevance >= 0) & (relevance <= 1))),
    ):
        if bad.any():
            user, item = np.argwhere(bad)[0]
            interval = "(0, 1]" if what == "exposure" else "[0, 1]"
            raise DataError(f"{what}[{user}, {item}] = {matrix[user, item]} must be in {interval}")
    n_users, n_items = exposure.shape
    users = Vocabulary.range(n_users, kind="user") if users is None else users
    items = Vocabulary.range(n_items, kind="item") if items is None else items
    if (len(users), len(items)) != exposure.shape:
        raise DataError(
            f"exposure {exposure.shape} does not fit vocabularies of {len(users)} users and {len(items)} items"
        )
    rngs = [np.random.Generator(np.random.PCG64(stream)) for stream in np.random.SeedSequence(seed).spawn(3)]
    train, test = _simulation.draw(exposure, relevance, *rngs)
    if not len(train):
        raise DataError(f"no pair was exposed; the mean exposure is {exposure.mean():.2g}")
    n_clicks = len(train.positives)
    correlation = np.corrcoef(exposure.ravel(), relevance.ravel())[0, 1] if np.ptp(relevance) else np.nan
    return Dataset(
        name=name,
        train=train,
        validation=None,
        test=test,
        users=users,
        items=items,
        truth=Truth(exposure=exposure, relevance=relevance),
        notes=(
            f"mean exposure {exposure.mean():.4f} (least {exposure.min():.2g}), mean relevance {relevance.mean():.4f}",
            f"{n_clicks:,} clicks in {exposure.size:,} pairs ({n_clicks / exposure.size:.2%}), draw seed {seed}",
            f"correlation of exposure and relevance {correlation:.3f}",
        ),
    )
