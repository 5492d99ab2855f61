"""Softmax losses on a sample of the items."""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_mask, check_samples
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.types import Array, ReduceFn


def importance_sampled_softmax(
    pos: Array,
    neg: Array,
    *,
    log_q_pos: Array,
    log_q_neg: Array,
    candidates: Array | None = None,
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

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of the sampled items.
        log_q_pos: ``[...]`` or a scalar, log probability of drawing the positive; no gradient is taken.
        log_q_neg: ``[..., K]``, or ``[K]`` if all examples share their samples, or a scalar.
        candidates: boolean ``[..., K]``, False for a sample to leave out: its probability is then exactly 0.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``log_q`` or weights are not floating, ``where`` or ``candidates`` are not boolean.
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
    check_float(pos=pos, neg=neg, log_q_pos=log_q_pos, log_q_neg=log_q_neg, weights=weights)
    shape = jnp.shape(pos)
    check_samples(shape, neg=neg)
    check_broadcastable(shape, log_q_pos=log_q_pos, weights=weights)
    if jnp.shape(log_q_neg) not in ((), jnp.shape(neg), jnp.shape(neg)[-1:]):
        raise ValueError(
            f"log_q_neg must be a scalar or of shape {jnp.shape(neg)} or {jnp.shape(neg)[-1:]}, "
            f"got {jnp.shape(log_q_neg)}"
        )
    check_mask(candidates, jnp.shape(neg), name="candidates")
    check_mask(where, shape)
    pos = fill_masked(pos - jax.lax.stop_gradient(log_q_pos), where)
    log_q_neg = jnp.broadcast_to(jax.lax.stop_gradient(log_q_neg), jnp.shape(neg))
    neg = fill_masked(neg - log_q_neg, where)
    values = sum_of_exponentials(pos, neg, candidates) - pos
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def sum_of_exponentials(pos: Array, neg: Array, candidates: Array | None = None) -> Array:
    """log(exp(pos) + sum exp(neg)) over the last axis, without what ``candidates`` leaves out."""
    if candidates is not None:
        neg = jnp.where(candidates, neg, -jnp.inf)
    # A row without any sample has a logsumexp of -inf, of which logaddexp has the gradient 0.
    return jnp.logaddexp(pos, jax.nn.logsumexp(neg, axis=-1))
