"""Softmax losses on a sample of the items.

A sample is given by its scores, ``neg [..., K]``, or as the scores of all items beside ``counts``, how often each was
drawn: the same value and gradient. One product of matrices for all items is often cheaper than gathering K rows of the
item table for every example, above all backwards, and ``chunked`` keeps it small.
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_mask, check_same_shape, check_samples
from debias_jax._reduce import fill_masked, safe_divide, safe_reduce
from debias_jax.types import Array, ReduceFn


def importance_sampled_softmax(
    pos: Array,
    neg: Array,
    *,
    log_q_pos: Array,
    log_q_neg: Array,
    counts: Array | None = None,
    candidates: Array | None = None,
    positive_in_sum: bool = True,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross-entropy of the positive among sampled items, each corrected by how often it is sampled.

    .. math::
        \ell = -\log \frac{e^{s^+ - \log q^+}}{e^{s^+ - \log q^+} + \sum_k e^{s^-_k - \log q^-_k}}

    With q the probabilities by which the negatives were drawn, the sum is an importance-sampling estimate of the sum
    over all items, and the gradient is consistent for that of the full softmax as K grows; for a fixed K its bias is
    O(1/K). A factor common to all q cancels.

    Without the positive in the sum, as some write it, the loss has no lower bound: a positive that scores above all
    samples is pushed up for ever.

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of the sampled items.
        log_q_pos: ``[...]`` or a scalar, log probability of drawing the positive; no gradient is taken.
        log_q_neg: ``[..., K]``, or ``[K]`` if all examples share their samples, or a scalar.
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out. No gradient is taken.
        candidates: boolean ``[..., K]``, False for a sample to leave out: its probability is then exactly 0.
        positive_in_sum: False leaves the first term of the denominator out.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``log_q``, ``counts`` or weights are not floating, ``where`` or ``candidates`` not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, or another shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> pos, neg = jnp.array([1.0]), jnp.array([[0.0, 2.0]])
        >>> loss = losses.importance_sampled_softmax(pos, neg, log_q_pos=0.0, log_q_neg=jnp.log(jnp.array([1.0, 2.0])))
        >>> print(f"{loss:.4f}")  # log(1 + e^-1 + e / 2)
        1.0032

    References:
        Bengio and Senecal, "Adaptive importance sampling to accelerate training of a neural probabilistic language
        model", 2008; Yi et al., RecSys 2019, eq. 3.
    """
    check_float(log_q_pos=log_q_pos, log_q_neg=log_q_neg)
    shape = check_sampled(pos, neg, counts, weights, where)
    check_broadcastable(shape, log_q_pos=log_q_pos)
    if jnp.shape(log_q_neg) not in ((), jnp.shape(neg), jnp.shape(neg)[-1:]):
        raise ValueError(
            f"log_q_neg must be a scalar or of shape {jnp.shape(neg)} or {jnp.shape(neg)[-1:]}, "
            f"got {jnp.shape(log_q_neg)}"
        )
    check_mask(candidates, jnp.shape(neg), name="candidates")
    pos = fill_masked(pos - jax.lax.stop_gradient(log_q_pos), where)
    log_q_neg = jnp.broadcast_to(jax.lax.stop_gradient(log_q_neg), jnp.shape(neg))
    neg = fill_masked(neg - log_q_neg, where)
    total = log_sum_of_samples(neg, drawn(counts, where), candidates)
    if positive_in_sum:
        total = jnp.logaddexp(pos, total)
    return safe_reduce(total - pos, weights=weights, where=where, reduce_fn=reduce_fn)


def scaled_cross_entropy(
    pos: Array,
    neg: Array,
    *,
    alpha: float | Array,
    counts: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross-entropy of the positive among itself and sampled items, which count alpha times each (SCE).

    .. math:: \ell = -s^+ + \log \Big( e^{s^+} + \alpha \sum_k e^{s^-_k} \Big)

    :math:`\alpha = 1` is the sampled softmax. With K uniform draws of N items :math:`\alpha = N / K` makes the sum's
    expectation that of the sum over all items, plus the positive once more, or without it if draws of the positive are
    left out (a count of 0): the gradient then approaches that of ``cross_entropy`` as K grows. A larger :math:`\alpha`
    makes -log NDCG likelier to be below the loss, and the variance larger. The gradient is that of a softmax over
    K + 1 logits of which :math:`\log \alpha` is added to the sampled ones. A sample that is the positive itself stays a
    negative of weight :math:`\alpha`, unless ``counts`` leaves it out.

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of the sampled items.
        alpha: :math:`\alpha > 0`, a scalar or ``[...]``; it may be traced, and is differentiated.
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out. No gradient is taken.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``counts`` or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, another shape does not fit, or ``alpha`` is not
            positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.scaled_cross_entropy(jnp.array([1.0]), jnp.array([[0.0, 1.0]]), alpha=2.0)
        >>> print(f"{loss:.4f}")  # log(1 + 2 / e + 2)
        1.3180

    References:
        Xu et al., "Understanding the role of cross-entropy loss in fairly evaluating large language model-based
        recommendation", 2024, eq. 6; :math:`\alpha = 1` after Wu et al., "On the effectiveness of sampled softmax loss
        for item recommendation", TOIS 2023.
    """
    shape = check_sampled(pos, neg, counts, weights, where)
    if isinstance(alpha, (int, float)) and not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    check_broadcastable(shape, alpha=alpha)
    alpha = jnp.asarray(alpha, jnp.result_type(neg))
    if alpha.ndim:
        alpha = fill_masked(alpha, where, fill=1.0)
    pos, neg = fill_masked(pos, where), fill_masked(neg, where)
    total = jnp.log(alpha) + log_sum_of_samples(neg, drawn(counts, where))
    # log(e^s+ + e^total) - s+: exactly 0 where the positive is far above.
    values = jax.nn.softplus(total - pos)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def check_sampled(
    pos: Array, neg: Array, counts: Array | None, weights: Array | None, where: Array | None
) -> tuple[int, ...]:
    """Checks what the losses on samples have in common.

    Args:
        pos: ``[...]``.
        neg: ``[..., K]``.
        counts: ``[..., K]``, or None.
        weights: a scalar or ``[...]``, or None.
        where: boolean ``[...]``, or None.

    Returns:
        The shape of ``pos``.
    """
    check_float(pos=pos, neg=neg, counts=counts, weights=weights)
    shape = jnp.shape(pos)
    check_samples(shape, neg=neg)
    check_same_shape(neg=neg, counts=counts)
    check_broadcastable(shape, weights=weights)
    check_mask(where, shape)
    return shape


def drawn(counts: Array | None, where: Array | None) -> Array | None:
    """``counts`` as the losses use them: no gradient, and nothing read where an example is masked."""
    return None if counts is None else fill_masked(jax.lax.stop_gradient(counts), where, fill=1.0)


def sum_of_softplus(neg: Array, counts: Array | None) -> Array:
    """Sum over the last axis of log(1 + e^s), each as often as it was drawn; what was not drawn is not read."""
    if counts is None:
        return jnp.sum(jax.nn.softplus(neg), axis=-1)
    taken = counts > 0
    return jnp.sum(jnp.where(taken, counts * jax.nn.softplus(jnp.where(taken, neg, 0.0)), 0.0), axis=-1)


def mean_of_softplus(neg: Array, counts: Array | None) -> Array:
    """``sum_of_softplus`` by the number of draws; 0 where nothing was drawn."""
    if counts is None:
        return jnp.mean(jax.nn.softplus(neg), axis=-1)
    return safe_divide(sum_of_softplus(neg, counts), jnp.sum(counts, axis=-1))


def log_sum_of_samples(neg: Array, counts: Array | None, candidates: Array | None = None) -> Array:
    """Log of the sum of exponentials over the last axis, each counted as often as it was drawn.

    Args:
        neg: ``[..., K]``.
        counts: ``[..., K]`` or None for 1 each. Where they are 0 nothing is read of ``neg``.
        candidates: boolean ``[..., K]``, or None; False has the effect of a count of 0.

    Returns:
        ``[...]``; -inf, with a gradient of 0, for an example of which no sample is left.
    """
    left = candidates
    if counts is not None:
        left = counts > 0 if left is None else left & (counts > 0)
    if left is None:
        return jax.nn.logsumexp(neg, axis=-1)
    # Not by logsumexp's factors: of none that is left its gradient is 0 / 0.
    some = jnp.any(left, axis=-1)
    safe = jnp.where(left, neg, jnp.where(some, -jnp.inf, 0.0)[..., None])
    factors = None if counts is None else jnp.where(left, counts, 1.0)
    total = jax.nn.logsumexp(safe, axis=-1, b=factors)
    return jnp.where(some, total, -jnp.inf)
