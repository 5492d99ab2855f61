"""Losses on single scores, one positive and some sampled negatives an example."""

import jax
import jax.numpy as jnp

from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.losses.sampled import check_sampled, drawn, mean_of_softplus
from debias_jax.types import Array, ReduceFn


def bce(
    pos: Array,
    neg: Array,
    *,
    counts: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Binary cross-entropy of a positive against the mean over sampled negatives.

    .. math:: \ell = -\log \sigma(s^+) - \frac{1}{K} \sum_k \log(1 - \sigma(s^-_k))

    The negatives together weigh as much as the positive, whatever K is; with ``K = 1`` this is negative
    sampling. For the cross-entropy of a logit and a 0/1 label use ``relmf`` with ``exposure=1.0``.

    Args:
        pos: ``[...]`` logits of the positive items.
        neg: ``[..., K]`` logits of K sampled items for each.
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out, and the mean is over the draws. No gradient is
            taken.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked. Of an example whose counts
        are all 0 the part of the positive is left.

    Raises:
        TypeError: logits, ``counts`` or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, or another shape does not fit
            ``pos``.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.bce(jnp.array([0.0]), jnp.array([[0.0, 1.0]]))
        >>> print(f"{loss:.4f}")  # log 2 + (log 2 + log(1 + e)) / 2
        1.6964

    References:
        Kang, McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018, section III.E (there K = 1).
    """
    check_sampled(pos, neg, counts, weights, where)
    pos, neg, counts = fill_masked(pos, where), fill_masked(neg, where), drawn(counts, where)
    values = jax.nn.softplus(-pos) + mean_of_softplus(neg, counts)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)
