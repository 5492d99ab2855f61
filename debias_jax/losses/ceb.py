r"""The risks of CEB, which give a pair without a click the posterior probability that it is irrelevant.

With exposure ``m`` and relevance ``gamma`` independent, a pair without a click is irrelevant with probability
``(1 - gamma) / (1 - m gamma)`` and relevant but unseen with probability ``gamma (1 - m) / (1 - m gamma)``. Given the
true m and gamma *inside these weights*, both risks are unbiased for the loss on relevance at every prediction, as is
``losses.relmf`` (which is the third risk of the paper, R_PU, and needs no gamma).

In training gamma is the model's own p, and then two things change:

* Neither risk is unbiased at ``p != gamma``. With the weights held constant (``weight_logits`` behind a
  ``stop_gradient``) both still have a zero expected slope at ``p = gamma``; ``ceb_added_positives`` is then the M-step
  of an EM algorithm for ``losses.umf``, and has its gradient.
* With the gradient through the weights, as the released program has it, ``p = gamma`` is not stationary: a model can
  also lower ``ceb_weighted`` by moving the weights, down to 0 at a pair that is hardly exposed.
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_choice, check_float, check_same_shape
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.losses.implicit import LARGEST_EXPONENT, checked_clicks, unexposed
from debias_jax.types import Array, ReduceFn

VARIANTS = ("published", "released")
"""Of ``ceb_added_positives``; see there."""


def ceb_weighted(
    logits: Array,
    clicks: Array,
    *,
    exposure: Array,
    weight_logits: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""R_w: clicks weigh 1/m, zeros the probability that they are irrelevant.

    .. math::
        \ell = -\Big[\frac{Y}{m} \log p + (1 - Y)\, \frac{1 - q}{1 - m q} \log(1 - p)\Big], \qquad p = \sigma(s)

    with q the relevance inside the weight. Over Y its expectation is ``-gamma log p - (1 - gamma) log(1 - p)``, the
    loss on relevance, when ``exposure`` is the true m and ``q`` the true gamma. Bounded below by 0, unlike
    ``relmf``. What happens when q is the model's own p is in the text of this module.

    Args:
        logits: ``[...]`` logits s of relevance.
        clicks: ``[...]`` Y, 0.0 or 1.0.
        exposure: m in ``[0, 1]``, a scalar or ``[...]``; a click with exposure 0 has infinite loss.
        weight_logits: ``[...]`` logits of q; None takes ``logits``, and lets the gradient through.
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
        >>> loss = losses.ceb_weighted(logits, clicks, exposure=0.5)
        >>> print(f"{loss:.4f}")  # log 2 (.5 / .75 + 1 / .5) / 2
        0.9242

    References:
        Gupta, Wang, Lipton, Wang, "Correcting exposure bias for link recommendation", ICML 2021, the risk R_w.
    """
    logits, clicks, exposure = checked_clicks(logits, clicks, exposure, weights, where)
    irrelevant, _ = _posterior(logits, exposure, weight_logits, where)
    # Switched off before the division: an exposure of 0 does no harm without a click.
    at_click = jax.nn.softplus(-logits) / jnp.where(clicks > 0, exposure, 1.0)
    values = clicks * at_click + (1.0 - clicks) * irrelevant * jax.nn.softplus(logits)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def ceb_added_positives(
    logits: Array,
    clicks: Array,
    *,
    exposure: Array,
    weight_logits: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    variant: str = "published",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""R_AP: a pair without a click counts as irrelevant and as relevant, each with its posterior probability.

    .. math::
        \ell = -Y \log p - (1 - Y) \Big[\frac{1 - q}{1 - m q} \log(1 - p) + \frac{q (1 - m)}{1 - m q} \log p\Big],
        \qquad p = \sigma(s)

    with q the relevance inside the weights, which sum to 1. Over Y its expectation is ``-gamma log p - (1 - gamma)
    log(1 - p)``, the loss on relevance, when ``exposure`` is the true m and ``q`` the true gamma; no weight exceeds
    1. With q = p held constant its gradient is that of ``umf``.

    Args:
        logits: ``[...]`` logits s of relevance.
        clicks: ``[...]`` Y, 0.0 or 1.0.
        exposure: m in ``[0, 1]``, a scalar or ``[...]``.
        weight_logits: ``[...]`` logits of q; None takes ``logits``, and lets the gradient through.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not
            by the sum of the weights.
        where: boolean ``[...]``, False for padding.
        variant: ``"published"``, or ``"released"``: the program gives the added positive the loss of a negative,
            log(1 - p) in both terms. As the weights sum to 1 that is the cross-entropy of the click, in which neither
            exposure nor posterior is left.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: an array is not floating, ``where`` is not boolean.
        ValueError: a shape differs from that of ``logits``, or the variant is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> logits, clicks = jnp.array([0.0, 2.0]), jnp.array([1.0, 0.0])
        >>> loss = losses.ceb_added_positives(logits, clicks, exposure=0.0, reduce_fn=None)
        >>> print(loss.round(4))  # log 2;  never exposed: the entropy of p = sigmoid(2)
        [0.6931 0.3653]

    References:
        Gupta, Wang, Lipton, Wang, "Correcting exposure bias for link recommendation", ICML 2021, the risk R_AP.
    """
    check_choice(VARIANTS, variant=variant)
    logits, clicks, exposure = checked_clicks(logits, clicks, exposure, weights, where)
    irrelevant, relevant = _posterior(logits, exposure, weight_logits, where)
    positive, negative = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    added = positive if variant == "published" else negative
    values = clicks * positive + (1.0 - clicks) * (irrelevant * negative + relevant * added)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def _posterior(logits, exposure, weight_logits, where) -> tuple[Array, Array]:
    """P(R = 0 | Y = 0) and P(R = 1 | Y = 0).

    With x = (1 - m) e^s they are 1 / (1 + x) and x / (1 + x): nothing is subtracted from or divided by 1 - m q.
    """
    if weight_logits is not None:
        check_float(weight_logits=weight_logits)
        check_same_shape(logits=logits, weight_logits=weight_logits)
        logits = fill_masked(jnp.asarray(weight_logits), where)
    unseen = unexposed(exposure) * jnp.exp(jnp.minimum(logits, LARGEST_EXPONENT))
    irrelevant = 1.0 / (1.0 + unseen)
    return irrelevant, unseen * irrelevant
