"""One sort per list, and what each ranking metric reads from it.

``rank`` sorts; the functions below it turn a ``Ranking`` into one value a list, so that a protocol with ten
metrics sorts once. The public metrics of ``ranking.py`` are these two steps and a reduction.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from debias_jax import _checks, _reduce
from debias_jax.types import Array, ReduceFn

RELEVANT = 0.5
"""Labels from here on are relevant wherever a metric needs a yes or no."""


class Ranking(NamedTuple):
    """The first ``r`` ranks of each list, and the totals of the whole list.

    Attributes:
        order: int32 ``[..., r]``, position in the list of the entry at each rank.
        labels: float ``[..., r]``, its label; 0 where ``valid`` is False.
        valid: bool ``[..., r]``, False past the end of a list that is shorter than ``r``.
        all_labels: float ``[..., n]``, the labels of the list in the given order, 0 where masked.
        n_candidates: int32 ``[...]``, entries that are not masked.
        n_relevant: float ``[...]``, how many of them have a label of at least ``RELEVANT``.
    """

    order: Array
    labels: Array
    valid: Array
    all_labels: Array
    n_candidates: Array
    n_relevant: Array


def check_option(value: Any, allowed: tuple[str, ...], name: str) -> None:
    """Raises ValueError unless ``value`` is one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def positions(shape: tuple[int, ...]) -> Array:
    """int32 ``shape``: the index along the last axis."""
    return lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def rank(scores: Array, labels: Array, *, k: int | None, where: Array | None, ties: str) -> Ranking:
    """Sorts each list by descending score and keeps the first ``min(k, n)`` ranks.

    Args:
        scores: float ``[..., n]``. NaN ranks last.
        labels: ``[..., n]``, boolean or numeric, not negative.
        k: ranks to keep, or None for all.
        where: boolean ``[..., n]`` or None; masked entries are on no rank.
        ties: ``"pessimistic"`` puts the lower label first, ``"by_index"`` the lower position.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or ``ties`` is unknown.
    """
    _checks.check_float(scores=scores)
    _checks.check_same_shape(scores=scores, labels=labels)
    scores, labels = jnp.asarray(scores), jnp.asarray(labels)
    if scores.ndim == 0:
        raise ValueError("scores and labels must have a last axis that holds the list, got scalars")
    _checks.check_mask(where, scores.shape)
    check_option(ties, ("pessimistic", "by_index"), "ties")
    if k is not None:
        _checks.check_sizes(k=k)
    n = scores.shape[-1]
    width = n if k is None else min(k, n)
    mask = jnp.ones(scores.shape, jnp.bool_) if where is None else jnp.asarray(where)
    labels = jnp.where(mask, labels.astype(scores.dtype), 0.0)

    # top_k puts NaN first and tells -0 from 0. Entries that count stay above -inf, which marks the masked
    # ones.
    lowest = jnp.finfo(scores.dtype).min
    usable = jnp.where(jnp.isnan(scores), lowest, jnp.maximum(scores, lowest))
    usable = jnp.where(mask, jnp.where(usable == 0, 0.0, usable), -jnp.inf)
    values, order = lax.top_k(usable, width)
    if ties == "pessimistic":
        order = _lower_labels_first(usable, labels, mask, values, order)

    n_candidates = jnp.sum(mask, axis=-1, dtype=jnp.int32)
    valid = positions(order.shape) < n_candidates[..., None]
    ranked = jnp.where(valid, jnp.take_along_axis(labels, order, axis=-1), 0.0)
    n_relevant = jnp.sum(labels >= RELEVANT, axis=-1, dtype=scores.dtype)
    return Ranking(order, ranked, valid, labels, n_candidates, n_relevant)


def _lower_labels_first(scores: Array, labels: Array, mask: Array, values: Array, order: Array) -> Array:
    """``order`` with tied entries by ascending label.

    A sort by (score, label) over a catalogue costs some ninety times as much as a top_k on CPU. Only the
    entries tied with the last kept score can enter or leave the kept set; a second top_k picks those of the
    lowest labels, and the sort by two keys is left with the kept entries alone.
    """
    # A minimum, not values[..., -1:]: XLA merges that slice into the one by which it knows a top_k, and sorts all.
    last = jnp.min(values, axis=-1, keepdims=True, initial=jnp.inf)
    above = values > last
    n_above = jnp.sum(above, axis=-1, keepdims=True, dtype=jnp.int32)
    tied = (scores == last) & mask
    _, tied_order = lax.top_k(jnp.where(tied, -labels, -jnp.inf), order.shape[-1])
    slot = jnp.maximum(positions(order.shape) - n_above, 0)
    order = jnp.where(above, order, jnp.take_along_axis(tied_order, slot, axis=-1))
    kept = jnp.take_along_axis(labels, order, axis=-1)
    _, _, order = lax.sort((-values, kept, order), dimension=-1, num_keys=2)
    return order


def reduce_lists(values: Array, where: Array | None, reduce_fn: ReduceFn | None) -> Array:
    """Reduces one value a list; lists with every entry masked do not count."""
    return _reduce.safe_reduce(
        values, where=None if where is None else where.any(axis=-1), reduce_fn=reduce_fn
    )


def ranked_dcg(
    ranking: Ranking, k: int | None, *, gain: str, discount: str, weights: Array | None = None
) -> Array:
    """DCG of each list; ``weights`` ``[..., n]`` multiply the gains."""
    gains = _gains(ranking.labels[..., :k], gain)
    if weights is not None:
        ranked = jnp.take_along_axis(weights, ranking.order[..., :k], axis=-1)
        gains = gains * jnp.where(ranking.valid[..., :k], ranked, 0.0)
    return jnp.sum(gains * discounts(gains.shape, discount, gains.dtype), axis=-1)


def ranked_ndcg(ranking: Ranking, k: int | None, *, gain: str, discount: str, ideal: str) -> Array:
    """DCG over the DCG of the best order; 0 where that is 0."""
    check_option(ideal, ("top_k", "full"), "ideal")
    best = lax.top_k(
        ranking.all_labels, ranking.all_labels.shape[-1] if ideal == "full" else _width(ranking, k)
    )[0]
    best = _gains(best, gain)
    reachable = jnp.sum(best * discounts(best.shape, discount, best.dtype), axis=-1)
    return _reduce.safe_divide(ranked_dcg(ranking, k, gain=gain, discount=discount), reachable)


def ranked_average_precision(ranking: Ranking, k: int | None, *, normaliser: str) -> Array:
    """Precision summed over the relevant ranks, over what ``normaliser`` names; 0 where that is 0."""
    check_option(normaliser, ("positives", "min_k", "hits", "none"), "normaliser")
    labels = ranking.labels[..., :k]
    relevant = labels >= RELEVANT
    ranks = (positions(labels.shape) + 1).astype(labels.dtype)
    total = jnp.sum(jnp.where(relevant, jnp.cumsum(labels, axis=-1) / ranks, 0.0), axis=-1)
    if normaliser == "none":
        return total
    divisors = {
        "positives": ranking.n_relevant,
        "min_k": _at_most(ranking.n_relevant, k),
        "hits": jnp.sum(relevant, axis=-1, dtype=labels.dtype),
    }
    return _reduce.safe_divide(total, divisors[normaliser])


def ranked_recall(ranking: Ranking, k: int | None, *, denominator: str) -> Array:
    """Labels of the first ``k`` ranks over those of the list, or over the most that ``k`` ranks hold."""
    check_option(denominator, ("positives", "min_k"), "denominator")
    total = jnp.sum(ranking.all_labels, axis=-1)
    if denominator == "min_k":
        total = _at_most(total, k)
    return _reduce.safe_divide(jnp.sum(ranking.labels[..., :k], axis=-1), total)


def ranked_precision(ranking: Ranking, k: int | None, *, denominator: str) -> Array:
    """Labels summed over the first ``k`` ranks, over ``k`` or over ``min(k, candidates)``."""
    check_option(denominator, ("k", "candidates"), "denominator")
    hits = jnp.sum(ranking.labels[..., :k], axis=-1)
    if denominator == "k" and k is not None:
        return hits / k
    return _reduce.safe_divide(hits, _at_most(ranking.n_candidates.astype(hits.dtype), k))


def ranked_hit_rate(ranking: Ranking, k: int | None) -> Array:
    """1 where a relevant entry is on the first ``k`` ranks, else 0."""
    labels = ranking.labels[..., :k]
    return jnp.any(labels >= RELEVANT, axis=-1).astype(labels.dtype)


def ranked_mrr(ranking: Ranking, k: int | None) -> Array:
    """One over the rank of the first relevant entry, 0 where none is on the first ``k`` ranks."""
    labels = ranking.labels[..., :k]
    ranks = (positions(labels.shape) + 1).astype(labels.dtype)
    return jnp.max(jnp.where(labels >= RELEVANT, 1.0 / ranks, 0.0), axis=-1, initial=0.0)


def ranked_snips_dcg(
    ranking: Ranking, k: int | None, *, discount: str, propensity: Array
) -> tuple[Array, Array]:
    """DCG with gains ``y / P`` over the sum of ``y / P`` (0 where that is 0), and where it is positive."""
    weights = jnp.where(ranking.all_labels > 0, propensity, 0.0)
    weights = _reduce.safe_divide(jnp.ones_like(weights), weights)
    total = jnp.sum(ranking.all_labels * weights, axis=-1)
    gained = ranked_dcg(ranking, k, gain="linear", discount=discount, weights=weights)
    return _reduce.safe_divide(gained, total), total > 0


def _width(ranking: Ranking, k: int | None) -> int:
    width = ranking.labels.shape[-1]
    return width if k is None else min(k, width)


def _at_most(values: Array, k: int | None) -> Array:
    return values if k is None else jnp.minimum(values, k)


def _gains(labels: Array, gain: str) -> Array:
    check_option(gain, ("linear", "exponential"), "gain")
    return labels if gain == "linear" else jnp.exp2(labels) - 1.0


def discounts(shape: tuple[int, ...], discount: str, dtype: Any) -> Array:
    """What each rank counts: ``"log2"``, 1 / log2(r + 1), or ``"jarvelin"``, where rank 2 counts as rank 1."""
    check_option(discount, ("log2", "jarvelin"), "discount")
    ranks = (positions(shape) + 1).astype(dtype)
    if discount == "log2":
        return 1.0 / jnp.log2(ranks + 1.0)
    return 1.0 / jnp.maximum(jnp.log2(ranks), 1.0)
