"""Metrics that read every entry for itself: AUC, log loss, correlation."""

import jax
import jax.numpy as jnp
from jax import lax

from debias_jax import _checks, _reduce
from debias_jax.metrics._rank import RELEVANT
from debias_jax.types import Array, ReduceFn


def auc(scores: Array, labels: Array, *, where: Array | None = None) -> Array:
    r"""Area under the ROC curve, pooled over all entries, ties by average ranks.

    :math:`\frac{1}{n_+ n_-} \sum_{i:+} \sum_{j:-} \mathbb{1}[s_i > s_j] + \tfrac12 \mathbb{1}[s_i = s_j]`

    All axes are pooled into one list; ``jax.vmap`` gives one value a row. Sorting costs O(n log n). Each
    positive's share of negatives below it is an exact integer count before it is divided, so that the error
    in float32 stays near 1e-7 at any n below 2^31.

    Args:
        scores: float ``[...]``.
        labels: ``[...]``, boolean or numeric; positive from 0.5 on.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar. NaN where one of the two classes is missing (the area is undefined then, not 0.5) or where a
        score that counts is NaN.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ.

    Example:
        >>> scores, labels = jnp.array([0.9, 0.5, 0.5, 0.1]), jnp.array([1.0, 1.0, 0.0, 0.0])
        >>> float(auc(scores, labels))  # (2 + 1.5) / (2 * 2)
        0.875

    Source:
        Hanley and McNeil, The meaning and use of the area under a ROC curve, Radiology 1982.
    """
    _checks.check_float(scores=scores)
    _checks.check_same_shape(scores=scores, labels=labels)
    scores = jnp.ravel(scores)
    positive = jnp.ravel(jnp.asarray(labels).astype(scores.dtype) >= RELEVANT)
    mask = jnp.ones(scores.shape, jnp.bool_)
    if where is not None:
        _checks.check_mask(where, jnp.shape(labels))
        mask = jnp.ravel(where)
    # Masked entries belong to neither class, so the rank they take does not matter.
    sorted_scores, is_positive, is_negative = lax.sort(
        (jnp.where(mask, scores, jnp.inf), positive & mask, ~positive & mask), num_keys=1
    )
    seen = jnp.cumsum(is_negative, dtype=jnp.int32)
    before = seen - is_negative
    differs = sorted_scores[1:] != sorted_scores[:-1]
    edge = jnp.ones((min(1, scores.shape[0]),), jnp.bool_)
    starts, ends = jnp.concatenate([edge, differs]), jnp.concatenate([differs, edge])
    # The counts never fall, so a running maximum carries the count at the start of a group of ties through
    # it.
    below = lax.cummax(jnp.where(starts, before, 0))
    not_above = lax.cummin(jnp.where(ends, seen, jnp.iinfo(jnp.int32).max), reverse=True)
    n_negative = jnp.sum(is_negative, dtype=jnp.int32).astype(scores.dtype)
    share = 0.5 * (below.astype(scores.dtype) + not_above.astype(scores.dtype)) / jnp.maximum(n_negative, 1.0)
    area = jnp.mean(share, where=is_positive)
    undefined = (n_negative == 0) | jnp.any(jnp.isnan(scores) & mask)
    return jnp.where(undefined, jnp.nan, area)


def log_loss(
    logits: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross entropy of binary labels from logits, :math:`w [\log(1 + e^{s}) - y s]`, in nats.

    Args:
        logits: float ``[...]``.
        labels: ``[...]``, in [0, 1].
        weights: float ``[...]``, factor of each entry, or None for 1. The mean divides by the count, not by
            their sum.
        where: boolean ``[...]``, False for padding.
        reduce_fn: reduction over entries, or None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``logits`` or ``weights`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ.

    Example:
        >>> round(float(log_loss(jnp.array([0.0, 0.0]), jnp.array([1.0, 0.0]))), 4)  # log 2
        0.6931

    Source:
        Good, Rational decisions, JRSS B 1952.
    """
    _checks.check_float(logits=logits, weights=weights)
    _checks.check_same_shape(logits=logits, labels=labels, weights=weights)
    _checks.check_mask(where, jnp.shape(logits))
    labels = jnp.asarray(labels).astype(jnp.result_type(logits))
    if where is not None:
        # Before the product, whose gradient would read what is masked.
        logits, labels = jnp.where(where, logits, 0.0), jnp.where(where, labels, 0.0)
    values = jax.nn.softplus(logits) - labels * logits
    if weights is not None:
        values = weights * values
    return _reduce.safe_reduce(values, where=where, reduce_fn=reduce_fn)


def pearson(
    x: Array, y: Array, *, where: Array | None = None, reduce_fn: ReduceFn | None = jnp.mean
) -> Array:
    r"""Pearson correlation along the last axis, :math:`\mathrm{cov}(x, y) / (\sigma_x \sigma_y)`.

    With estimated and true exposures as rows of users this is Biif's PCC. A row in which ``x`` or ``y`` is
    constant has no correlation; it does not enter the reduction, and counts 0 where ``reduce_fn`` is None.

    Args:
        x: float ``[..., n]``.
        y: float ``[..., n]``.
        where: boolean ``[..., n]``, False for padding.
        reduce_fn: reduction over rows, or None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``x`` or ``y`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, or there is no last axis.

    Example:
        >>> x = jnp.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]])
        >>> y = jnp.array([[2.0, 4.0, 6.0], [1.0, 2.0, 3.0]])
        >>> round(float(pearson(x, y)), 4)  # the second row is left out
        1.0

    Source:
        Biif, equation 20: the mean over users of the correlation over items.
    """
    _checks.check_float(x=x, y=y)
    _checks.check_same_shape(x=x, y=y)
    if jnp.ndim(x) == 0:
        raise ValueError("x and y must have a last axis, got scalars")
    _checks.check_mask(where, jnp.shape(x))
    mask = jnp.ones(jnp.shape(x), jnp.bool_) if where is None else where
    x, x_varies = _standardised(x, mask)
    y, y_varies = _standardised(y, mask)
    return _reduce.safe_reduce(jnp.sum(x * y, axis=-1), where=x_varies & y_varies, reduce_fn=reduce_fn)


def _standardised(x: Array, mask: Array) -> tuple[Array, Array]:
    """Rows centred and of length 1, and which rows vary at all."""
    highest = jnp.max(x, axis=-1, where=mask, initial=-jnp.inf)
    lowest = jnp.min(x, axis=-1, where=mask, initial=jnp.inf)
    # Compared before centring: the rounded mean of a constant row need not equal its entries. NaN varies, and
    # shows.
    varies = ~(highest <= lowest)
    origin = jnp.where(varies, lowest, 0.0)[..., None]
    scale = jnp.where(varies, highest - lowest, 1.0)[..., None]
    n = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1).astype(x.dtype)
    scaled = jnp.where(mask, (x - origin) / scale, 0.0)
    centred = jnp.where(mask, scaled - jnp.sum(scaled, axis=-1, keepdims=True) / n, 0.0)
    squares = jnp.sum(centred * centred, axis=-1, keepdims=True)
    # A constant row is all 0 here; the root of 0 would have an infinite gradient.
    return centred / jnp.sqrt(jnp.where(varies[..., None], squares, 1.0)), varies
