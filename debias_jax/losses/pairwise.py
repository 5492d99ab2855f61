"""Losses on differences of scores."""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_mask, check_same_shape, check_samples
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.losses.sampled import check_sampled, drawn, mean_of_softplus
from debias_jax.types import Array, ReduceFn


def bpr(
    pos: Array,
    neg: Array,
    *,
    counts: Array | None = None,
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
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out, and the mean is over the draws. No gradient is
            taken.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked. An example whose counts
        are all 0 has the loss 0.

    Raises:
        TypeError: scores, ``counts`` or weights are not floating, ``where`` is not boolean.
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
    check_sampled(pos, neg, counts, weights, where)
    pos, neg, counts = fill_masked(pos, where), fill_masked(neg, where), drawn(counts, where)
    values = mean_of_softplus(neg - pos[..., None], counts)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def ubpr(
    pos: Array,
    neg: Array,
    neg_clicks: Array,
    *,
    pos_exposure: Array,
    neg_exposure: Array,
    weights: Array | None = None,
    where: Array | None = None,
    beta: float | Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Unbiased pairwise loss: a clicked item against any other, with inverse propensities.

    .. math::
        \ell = \frac{1}{K} \sum_k \frac{1}{m^+} \Big(1 - \frac{Y_k}{m_k}\Big)
        \big(-\log \sigma(s^+ - s^-_k)\big)

    A click is ``Y = O R`` with exposure ``O ~ Bern(m)`` and relevance ``R ~ Bern(gamma)``. Summed over the clicked
    items i of a user, each with *all* other items k, clicked or not, the expectation is 1 / (n_items - 1) times the sum
    of ``gamma_i (1 - gamma_k) (-log sigma(s_i - s_k))`` over all pairs when the exposures are the true ones: the loss
    on relevance itself, up to the factor that the mean over k leaves. K uniform items k have the same expectation. It
    needs the clicks of different items to be independent and ``k != i``; samples that leave out clicked items, as for
    ``bpr``, bias it. A pair of two clicks has the negative factor ``1 - 1/m_k``: the loss is unbounded below, and
    ``beta`` bounds it at the price of a bias upwards.

    Args:
        pos: ``[...]`` scores of the clicked items.
        neg: ``[..., K]`` scores of K other items for each.
        neg_clicks: ``[..., K]`` Y of those, 0.0 or 1.0.
        pos_exposure: m of the clicked items, in ``(0, 1]``, a scalar or ``[...]``.
        neg_exposure: m of the other items, a scalar or ``[..., K]``; read at clicks only, so 0 does no harm elsewhere.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        beta: if given, no term of the sum is below ``-beta``, and a term at this bound has no gradient; 0 is the
            non-negative estimator.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, clicks, exposures or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, or another shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> pos, neg, neg_clicks = jnp.zeros(2), jnp.zeros((2, 1)), jnp.array([[0.0], [1.0]])
        >>> loss = losses.ubpr(pos, neg, neg_clicks, pos_exposure=0.5, neg_exposure=0.25)
        >>> print(f"{loss:.4f}")  # (2 log 2 + 2 (1 - 4) log 2) / 2
        -1.3863
        >>> loss = losses.ubpr(pos, neg, neg_clicks, pos_exposure=0.5, neg_exposure=0.25, beta=0.0)
        >>> print(f"{loss:.4f}")  # (2 log 2 + 0) / 2
        0.6931

    References:
        Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback", ICTIR 2020; ``beta`` as in the released
        program (usaito/unbiased-pairwise-rec), which clips the value of each pair.
    """
    check_float(
        pos=pos,
        neg=neg,
        neg_clicks=neg_clicks,
        pos_exposure=pos_exposure,
        neg_exposure=neg_exposure,
        weights=weights,
    )
    check_samples(jnp.shape(pos), neg=neg)
    check_same_shape(neg=neg, neg_clicks=neg_clicks)
    check_broadcastable(jnp.shape(pos), pos_exposure=pos_exposure, weights=weights)
    check_broadcastable(jnp.shape(neg), neg_exposure=neg_exposure)
    check_mask(where, jnp.shape(pos))
    pos, neg, neg_clicks = (fill_masked(values, where) for values in (pos, neg, neg_clicks))
    pos_exposure = jnp.broadcast_to(jnp.asarray(pos_exposure, pos.dtype), pos.shape)
    pos_exposure = fill_masked(pos_exposure, where, fill=1.0)
    neg_exposure = jnp.broadcast_to(jnp.asarray(neg_exposure, neg.dtype), neg.shape)
    # Before it is divided by, not after: 0 * NaN is NaN in a backward pass.
    neg_exposure = jnp.where(neg_clicks != 0, fill_masked(neg_exposure, where, fill=1.0), 1.0)
    factor = (1.0 - neg_clicks / neg_exposure) / pos_exposure[..., None]
    values = factor * jax.nn.softplus(neg - pos[..., None])
    if beta is not None:
        values = jnp.maximum(values, -beta)
    values = jnp.mean(values, axis=-1)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)
