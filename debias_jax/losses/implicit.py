"""Point-wise losses for clicks, which need exposure and relevance at once.

A click is ``Y = O R`` with exposure ``O ~ Bern(m)`` and relevance ``R ~ Bern(gamma)``; the model's
probability of relevance is ``p = sigmoid(s)``. Both losses ask for ``gamma``, from different sides:

* ``relmf`` (L1) is an unbiased estimator of the loss on R itself when ``exposure`` is the true m. It is
  unbounded below: at a click with ``m < 1`` it falls to minus infinity as s grows, with slope ``1 - 1/m``.
* ``umf`` (L2) is the likelihood of the click, ``P(Y=1) = m p``. It is bounded below and Fisher-consistent
  (its minimiser entry by entry is ``p = gamma``), not an unbiased estimator of the loss on R: a model that
  cannot fit every entry is pulled to those with large m.

For either outcome ``dL1/dp = (1 - m p) / (m (1 - p)) dL2/dp``. The factor does not depend on Y, so the two
gradients of an entry have the same signal-to-noise ratio: the "low variance" of L2 is the smaller weight it
gives to rarely exposed entries, not more information from each.

Both lose these properties when zeros are sub-sampled: if clicks weigh kappa times what zeros weigh, both have
the minimiser ``kappa gamma / (kappa m gamma + 1 - m gamma)``. Once that exceeds 1, L1 diverges and L2
saturates. Give sampled zeros ``weights`` of (zeros) / (sampled zeros) to undo it.
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_mask, check_same_shape
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.types import Array, ReduceFn

# exp overflows float32 at 88.7.
LARGEST_EXPONENT = 80.0


def relmf(
    logits: Array,
    clicks: Array,
    *,
    exposure: Array,
    weights: Array | None = None,
    where: Array | None = None,
    probability_clip: float | Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""L1: the inverse-propensity estimate of the log loss on relevance.

    .. math::
        \ell = -\Big[\frac{Y}{m} \log p + \Big(1 - \frac{Y}{m}\Big) \log(1 - p)\Big]
             = \mathrm{softplus}(s) - \frac{Y}{m} s, \qquad p = \sigma(s)

    Its gradient in s is ``p - Y/m``. Over Y its expectation is ``-gamma log p - (1 - gamma) log(1 - p)`` when
    ``exposure`` is the true m, and with an estimate m' the cross-entropy to ``gamma m / m'``. The variance of
    ``d/dp`` is ``m gamma (1 - m gamma) / (m'^2 p^2 (1 - p)^2)``. Unbounded below at a click with ``m < 1``;
    what it shares with ``umf``, and what sampling the zeros does to both, is in the text of this module.

    Args:
        logits: ``[...]`` logits s of relevance.
        clicks: ``[...]`` Y, 0.0 or 1.0.
        exposure: m in ``[0, 1]``, a scalar or ``[...]``. It is read at clicks only, so 0 does no harm at an
            item without clicks; a click with exposure 0 is impossible and gives a value that is not finite.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        probability_clip: if given, p is clipped to ``[c, 1 - c]``, which bounds the loss and stops the
            gradient outside (0.01 in the released CJMF program).
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: an array is not floating, ``where`` is not boolean.
        ValueError: a shape differs from that of ``logits``, or ``probability_clip`` is a number outside [0, 0.5).

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> logits, clicks = jnp.array([0.0, 2.0]), jnp.array([0.0, 1.0])
        >>> loss = losses.relmf(logits, clicks, exposure=jnp.array([0.0, 0.5]))
        >>> print(f"{loss:.4f}")  # (log 2 + log(1 + e^2) - 2/0.5) / 2
        -0.5900

    References:
        Saito, Yaginuma, Nishino, Sakata, Nakata, "Unbiased Recommender Learning from Missing-Not-At-Random
        Implicit Feedback", WSDM 2020, eq. 9, with log loss (the released program has squared loss); eq. 4 of
        the Biif paper.
    """
    logits, clicks, exposure = checked_clicks(logits, clicks, exposure, weights, where)
    if probability_clip is not None:
        if isinstance(probability_clip, (int, float)) and not 0 <= probability_clip < 0.5:
            raise ValueError(f"probability_clip must be in [0, 0.5), got {probability_clip}")
        bound = jnp.log1p(-probability_clip) - jnp.log(probability_clip)
        logits = jnp.clip(logits, -bound, bound)
    clicked = clicks != 0
    ratio = jnp.where(clicked, clicks / jnp.where(clicked, exposure, 1.0), 0.0)
    values = jax.nn.softplus(logits) - ratio * logits
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def umf(
    logits: Array,
    clicks: Array,
    *,
    exposure: Array,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""L2: the log loss of the click, whose probability is exposure times relevance.

    .. math:: \ell = -\big[Y \log(m p) + (1 - Y) \log(1 - m p)\big], \qquad p = \sigma(s)

    In s its gradient is ``-(1 - p)`` at a click and ``m p (1 - p) / (1 - m p)`` elsewhere; in m it is
    ``-1/m`` and ``p / (1 - m p)``, both exact up to ``m = 1``, so that exposure can be learnt through it. Its
    minimiser is ``p = gamma`` when ``exposure`` is the true m, and ``min(1, gamma m / m')`` with an estimate
    m'; its expectation is not the loss on relevance. The variance of ``d/dp`` is ``m gamma (1 - m gamma) /
    (p^2 (1 - m' p)^2)``. What it shares with ``relmf``, and what sampling the zeros does to both, is in the
    text of this module.

    Args:
        logits: ``[...]`` logits s of relevance.
        clicks: ``[...]`` Y, 0.0 or 1.0.
        exposure: m in ``[0, 1]``, a scalar or ``[...]``. Where it is 0 an unclicked entry has loss 0 and no
            gradient in s; a click there is impossible and has infinite loss.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: an array is not floating, ``where`` is not boolean.
        ValueError: a shape differs from that of ``logits``.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> logits, clicks = jnp.array([0.0, 0.0]), jnp.array([0.0, 1.0])
        >>> loss = losses.umf(logits, clicks, exposure=0.5)
        >>> print(f"{loss:.4f}")  # (-log(1 - 0.25) - log 0.25) / 2
        0.8370

    References:
        Eq. 10 of the Biif paper, where it is called unbiased; see the text of this module for what holds.
    """
    logits, clicks, exposure = checked_clicks(logits, clicks, exposure, weights, where)
    # Switched off before the logarithm: 0 * log(0) would be NaN at an unclicked entry with exposure 0.
    at_click = jax.nn.softplus(-logits) - jnp.log(jnp.where(clicks > 0, exposure, 1.0))
    values = clicks * at_click + (1.0 - clicks) * _no_click(logits, exposure)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def checked_clicks(logits, clicks, exposure, weights, where) -> tuple[Array, Array, Array]:
    """The arguments of a loss of clicks, checked, the exposure broadcast, and filled where masked."""
    check_float(logits=logits, clicks=clicks, exposure=exposure, weights=weights)
    check_same_shape(logits=logits, clicks=clicks)
    check_broadcastable(jnp.shape(logits), exposure=exposure, weights=weights)
    check_mask(where, jnp.shape(logits))
    logits = jnp.asarray(logits)
    exposure = jnp.broadcast_to(jnp.asarray(exposure, logits.dtype), logits.shape)
    return fill_masked(logits, where), fill_masked(clicks, where), fill_masked(exposure, where, fill=1.0)


def unexposed(exposure: Array) -> Array:
    """1 - m, not below 0 where m was rounded up past 1; a maximum would halve the derivative at m = 1."""
    return jnp.where(exposure > 1.0, 0.0, 1.0 - exposure)


@jax.custom_jvp
def _no_click(logits: Array, exposure: Array) -> Array:
    """-log(1 - m sigmoid(s)), accurate for every m in [0, 1] including both ends.

    The textbook difference softplus(s) - softplus(s + log(1 - m)) loses all digits for small m, and its
    derivative is NaN at m = 1. For m p < 1/2 log1p is accurate; else 1 - m p = (1 - m) + m sigmoid(-s) is a
    sum of two non-negative numbers, taken in logs because sigmoid(-s) underflows.
    """
    click = exposure * jax.nn.sigmoid(logits)
    summed = jnp.logaddexp(jnp.log(unexposed(exposure)), jnp.log(exposure) - jax.nn.softplus(logits))
    return jnp.where(click < 0.5, -jnp.log1p(-click), -summed)


@_no_click.defjvp
def _no_click_jvp(primals, tangents):
    # With r = 1 / (1 + (1 - m) e^s): d/ds = m p (1 - p) / (1 - m p) = m p r and d/dm = p / (1 - m p) = e^s r.
    # Nothing is subtracted or divided by 1 - m p, so the second derivatives that a hypergradient takes are
    # finite too.
    logits, exposure = primals
    odds = jnp.exp(jnp.minimum(logits, LARGEST_EXPONENT))
    r = 1.0 / (1.0 + unexposed(exposure) * odds)
    tangent = exposure * jax.nn.sigmoid(logits) * r * tangents[0] + odds * r * tangents[1]
    return _no_click(logits, exposure), tangent
