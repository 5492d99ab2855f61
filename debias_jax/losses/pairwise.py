"""Losses on differences of scores."""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_mask, check_samples
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.types import Array, ReduceFn


def bpr(
    pos: Array,
    neg: Array,
    *,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Bayesian personalised ranking: a clicked item should score above sampled ones.

    .. math:: \ell = \frac{1}{K} \sum_k -\log \sigma(s^+ - s^-_k)

    It knows no exposure: an item that was never shown counts as disliked, so popular items are favoured.

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of K sampled items for each.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, or another shape does not fit
            ``pos``.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.bpr(jnp.array([2.0, 0.0]), jnp.array([[1.0], [0.0]]))
        >>> print(f"{loss:.4f}")  # (log(1 + exp(-1)) + log 2) / 2
        0.5032

    References:
        Rendle, Freudenthaler, Gantner, Schmidt-Thieme, "BPR: Bayesian Personalized Ranking from Implicit
        Feedback", UAI 2009, section 4.1 (without its regulariser). With K > 1 the mean over the samples is
        taken.
    """
    check_float(pos=pos, neg=neg, weights=weights)
    check_samples(jnp.shape(pos), neg=neg)
    check_broadcastable(jnp.shape(pos), weights=weights)
    check_mask(where, jnp.shape(pos))
    pos, neg = fill_masked(pos, where), fill_masked(neg, where)
    values = jnp.mean(jax.nn.softplus(neg - pos[..., None]), axis=-1)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)
