"""What the off-policy estimators share: the gain of an item, sums of one user, and how sure a value is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import special

from debias_jax import _checks, _reduce
from debias_jax.metrics import _rank
from debias_jax.types import Array, Key

METRICS = ("dcg", "ndcg", "precision", "recall")


class Estimate(NamedTuple):
    """A metric estimated from a log, with its confidence interval.

    Attributes:
        estimate: float scalar; 0 where no user counts.
        low: lower end of the interval; NaN with fewer than two users.
        high: upper end.
        n: int32, users that count.
        ess: effective sample size of the log's weights w = 1 / P, (sum w)^2 / sum w^2 (Kish 1965): how many
            equally weighted pairs would be worth as much.
    """

    estimate: Array
    low: Array
    high: Array
    n: Array
    ess: Array


class Inputs(NamedTuple):
    """Checked lists ``[users, n]``.

    Attributes:
        scores: float.
        labels: float, 0 where not logged.
        weights: 1 / P where logged, else 0.
        mask: candidates.
    """

    scores: Array
    labels: Array
    weights: Array
    mask: Array


def prepare(
    scores: Array,
    labels: Array,
    observed: Array | None,
    propensity: Array,
    where: Array | None,
    *,
    level: float,
    largest: float = 1.0,
    **more: Array,
) -> Inputs:
    """Checks, masks and flattens to ``[users, n]``; ``observed=None`` takes the positive labels.

    Propensities of what was logged are in ``(0, largest]``.
    """
    _checks.check_float(scores=scores, propensity=propensity, **more)
    _checks.check_same_shape(scores=scores, labels=labels, observed=observed, propensity=propensity, **more)
    _checks.check_indicator(observed=observed)
    if jnp.ndim(scores) == 0:
        raise ValueError("scores and labels must have a last axis that holds the list, got scalars")
    _checks.check_mask(where, jnp.shape(scores))
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be in (0, 1), got {level}")
    scores = jnp.asarray(scores)
    n = scores.shape[-1]
    mask = jnp.ones(scores.shape, jnp.bool_) if where is None else jnp.asarray(where)
    labels = jnp.asarray(labels).astype(scores.dtype)
    logged = mask & (labels > 0 if observed is None else jnp.asarray(observed) > 0)
    labels = jnp.where(logged, labels, 0.0)
    # Where nothing was logged both may hold anything, NaN included.
    weights = inverse(propensity, logged, largest=largest)
    return Inputs(*(array.reshape(-1, n) for array in (scores, labels, weights, mask)))


def inverse(propensity: Array, logged: Array, *, largest: float = 1.0) -> Array:
    """1 / P where logged, else 0; NaN at a logged P outside ``(0, largest]``, where its value is not known to raise.

    Raises:
        ValueError: there is such a P, and no transformation hides the values.
    """
    usable = (propensity > 0) & (propensity <= largest) & (jnp.asarray(propensity) < jnp.inf)
    refuse(propensity, logged & ~usable, f"(0, {largest:g}{']' if largest < jnp.inf else ')'} where logged")
    weights = jnp.where(logged, 1.0 / jnp.where(logged & usable, propensity, 1.0), 0.0)
    return jnp.where(logged & ~usable, jnp.nan, weights)


def refuse(propensity: Array, bad: Array, allowed: str) -> None:
    """Raises at the first bad propensity, if values are there to be looked at: not under ``jit`` or ``vmap``."""
    if isinstance(bad, jax.core.Tracer) or isinstance(propensity, jax.core.Tracer) or not np.any(bad):
        return
    index = tuple(np.argwhere(np.asarray(bad))[0].tolist())
    raise ValueError(
        f"propensity{list(index)} is {float(np.asarray(propensity)[index]):g}; it must be in {allowed}: clip it "
        "(risks.clip_propensity), or mask the pair"
    )


def item_gains(scores: Array, mask: Array, *, metric: str, k: int | None, discount: str, ties: str) -> Array:
    """What a relevant item adds to its user's metric at the rank where it stands: ``[users, n]``.

    Args:
        scores: float ``[users, n]``; NaN ranks last.
        mask: boolean ``[users, n]``, candidates.
        metric: ``"dcg"`` and ``"ndcg"``, the discount; ``"precision"``, 1 / k; ``"recall"``, 1; within ``k``. And
            ``"auc"``, ``1 - (rank - 1) / candidates``.
        k: ranks that count, or None for all.
        discount: ``"log2"`` or ``"jarvelin"``.
        ties: ``"mean"`` or ``"by_index"``.
    """
    _rank.check_option(ties, ("mean", "by_index"), "ties")
    if k is not None:
        _checks.check_sizes(k=k)
    position = _rank.positions(scores.shape)
    lowest = jnp.finfo(scores.dtype).min
    keys = jnp.where(jnp.isnan(scores), lowest, jnp.maximum(scores, lowest))
    # Minus 0 is not 0 to the sort; what is masked stands behind everything.
    keys = jnp.where(mask, -jnp.where(keys == 0, 0.0, keys), jnp.inf)
    keys, order = lax.sort((keys, position), num_keys=1, is_stable=True)
    candidates = jnp.sum(mask, axis=-1, keepdims=True, dtype=scores.dtype)
    at_rank = _gains_by_rank(position, candidates, metric, k, discount, scores.dtype)
    at_rank = jnp.where(position < candidates, at_rank, 0.0)
    if ties == "mean":
        at_rank = _mean_of_ties(keys, at_rank, position)
    return lax.sort((order, at_rank), num_keys=1)[1]


def _gains_by_rank(position, candidates, metric, k, discount, dtype) -> Array:
    if metric == "auc":
        return 1.0 - position / jnp.maximum(candidates, 1.0)
    within = jnp.ones(position.shape, dtype) if k is None else (position < k).astype(dtype)
    if metric in ("dcg", "ndcg"):
        return within * _rank.discounts(position.shape, discount, dtype)
    if metric == "precision":
        return within / (jnp.maximum(candidates, 1.0) if k is None else k)
    return within


def _mean_of_ties(keys: Array, at_rank: Array, position: Array) -> Array:
    """Gains of sorted items, those of equal scores replaced by their mean: any order of them is as likely."""
    n = keys.shape[-1]
    edge = jnp.ones((*keys.shape[:-1], min(1, n)), jnp.bool_)
    differs = keys[..., 1:] != keys[..., :-1]
    first = jnp.where(jnp.concatenate([edge, differs], axis=-1), position, 0)
    last = jnp.where(jnp.concatenate([differs, edge], axis=-1), position + 1, n)
    first = lax.cummax(first, axis=keys.ndim - 1)
    last = lax.cummin(last, axis=keys.ndim - 1, reverse=True)
    total = jnp.concatenate([jnp.zeros_like(at_rank[..., :1]), jnp.cumsum(at_rank, axis=-1)], axis=-1)
    between = jnp.take_along_axis(total, last, axis=-1) - jnp.take_along_axis(total, first, axis=-1)
    size = last - first
    # An item alone keeps its gain to the bit.
    return jnp.where(size > 1, between / jnp.maximum(size, 1), at_rank)


def ideal_dcg(relevant: Array, candidates: Array, *, n: int, k: int | None, discount: str) -> Array:
    """DCG of lists that have ``relevant`` of their ``candidates`` on top; linear between whole numbers."""
    width = n if k is None else min(k, n)
    shape = (*relevant.shape, width)
    # An estimated number may be negative, or larger than the list.
    relevant = jnp.minimum(relevant, candidates)
    present = jnp.clip(relevant[..., None] - _rank.positions(shape), 0.0, 1.0)
    return jnp.sum(present * _rank.discounts(shape, discount, relevant.dtype), axis=-1)


def metric_value(
    inputs: Inputs,
    relevance: Array,
    *,
    metric: str,
    k: int | None,
    discount: str,
    ties: str,
    self_normalised: bool = False,
) -> Callable[[Array], Array]:
    """The metric as a function of user weights ``[users]``; equal weights give the estimate.

    Written so, one function serves the estimate, its derivative (the delta method) and the bootstrap.

    Args:
        inputs: from ``prepare``.
        relevance: ``[users, n]``, an estimate of the relevance of every candidate, 0 where masked.
        metric: one of ``METRICS``.
        k: ranks that count.
        discount: of DCG and NDCG.
        ties: of equal scores.
        self_normalised: whether the relevance is scaled such that the weights of the log sum to the number of pairs.
    """
    _rank.check_option(metric, METRICS, "metric")
    gains = item_gains(inputs.scores, inputs.mask, metric=metric, k=k, discount=discount, ties=ties)
    gained = jnp.sum(gains * relevance, axis=-1)
    relevant = jnp.sum(relevance, axis=-1)
    weight = jnp.sum(inputs.weights, axis=-1)
    pairs = jnp.sum(inputs.mask, axis=-1, dtype=gained.dtype)

    def value(users: Array) -> Array:
        def total(of_user):
            return jnp.sum(users * of_user)

        scale = _reduce.safe_divide(total(pairs), total(weight)) if self_normalised else 1.0
        if metric == "recall":
            base = total(scale * relevant)
        elif metric == "ndcg":
            base = total(ideal_dcg(scale * relevant, pairs, n=relevance.shape[-1], k=k, discount=discount))
        else:
            base = jnp.sum(users)
        return _reduce.safe_divide(total(scale * gained), base)

    return value


def summarise(
    value: Callable[[Array], Array],
    counted: Array,
    weights: Array,
    *,
    level: float,
    key: Key | None,
    n_resamples: int,
) -> Estimate:
    """The value of all users that count, and its interval.

    Args:
        value: of user weights ``[users]``; multiplying them by a constant changes nothing.
        counted: boolean ``[users]``.
        weights: of the logged pairs, 0 elsewhere.
        level: of the interval.
        key: None for the delta method, or the key of a percentile bootstrap.
        n_resamples: of the bootstrap.
    """
    _checks.check_sizes(n_resamples=n_resamples)
    n = jnp.sum(counted, dtype=jnp.int32)
    equal = counted.astype(weights.dtype)
    if key is None:
        # The derivative in a user's weight is 1/n of the influence of that user: the delta method for any ratio.
        point, influence = jax.value_and_grad(value)(equal)
        spread = jnp.sum(jnp.square(influence) * equal) * n / jnp.maximum(n - 1, 1)
        half = special.ndtri(0.5 + 0.5 * level) * jnp.sqrt(spread)
        low, high = point - half, point + half
    else:
        point = value(equal)
        among = jnp.argsort(~counted)
        resampled = lax.map(
            lambda each: value(_resample(each, among, n, equal.dtype)), jax.random.split(key, n_resamples)
        )
        low, high = jnp.quantile(resampled, jnp.array([0.5 - 0.5 * level, 0.5 + 0.5 * level]))
    low, high = (jnp.where(n > 1, end, jnp.nan) for end in (low, high))
    return Estimate(point, low, high, n, _reduce.effective_sample_size(weights))


def _resample(key: Key, among: Array, n: Array, dtype) -> Array:
    """How often each user is drawn when n of the first n of ``among`` are drawn with replacement."""
    size = among.shape[0]
    users = among[jax.random.randint(key, (size,), 0, jnp.maximum(n, 1))]
    return jnp.zeros(size, dtype).at[users].add((jnp.arange(size) < n).astype(dtype))
