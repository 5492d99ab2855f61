r"""Inverse-propensity estimators of the mean error over all pairs, :math:`R = \frac{1}{n} \sum e`.

Notation of the docstrings: n pairs with errors e, observed with independent probabilities p (``o ~
Bern(p)``), ``propensity`` p' their estimate; :math:`W = \sum p / p'`. Errors and propensities are read only
where ``observed`` is not 0, so an unobserved pair may hold anything, NaN included.

Values are not checked here: a propensity outside (0, 1] is refused on the host when data is loaded, and
``clip_propensity`` raises small ones on purpose and says what that did.
"""

import jax.numpy as jnp

from debias_jax._reduce import safe_divide
from debias_jax.risks._inputs import count_pairs, observed_rows
from debias_jax.types import Array


def naive(errors: Array, *, observed: Array, where: Array | None = None) -> Array:
    r"""Mean error of the observed pairs.

    .. math:: \hat R = \sum o\, e \,/\, \sum o

    Estimates :math:`\sum p\,e / \sum p`, the risk under the observation policy, up to a bias of order one
    over the expected number of observed pairs. That is the risk over all pairs only if p and e are
    uncorrelated (missing completely at random). Its variance is :math:`\sum p (1-p) (e - \mu)^2 / (\sum p)^2`
    to the same order, :math:`\mu` being what it estimates.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: ``errors`` is not floating, ``observed`` neither boolean nor floating, ``where`` not
            boolean.
        ValueError: shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, observed = jnp.array([1.0, 3.0, 8.0]), jnp.array([1.0, 1.0, 0.0])
        >>> print(risks.naive(errors, observed=observed))  # (1 + 3) / 2
        2.0

    References:
        Schnabel, Swaminathan, Singh, Chandak, Joachims, "Recommendations as Treatments: Debiasing Learning
        and Evaluation", ICML 2016, section 3.
    """
    errors, observed, _ = observed_rows(errors, observed, 1.0, where)
    return safe_divide(jnp.sum(observed * errors), jnp.sum(observed))


def ips(errors: Array, *, observed: Array, propensity: Array, where: Array | None = None) -> Array:
    r"""Errors of the observed pairs, weighted by inverse propensity, over the number of all pairs.

    .. math:: \hat R = \frac{1}{n} \sum \frac{o\, e}{p'}

    Estimates the risk over all pairs. Unbiased when p' = p; in general the bias is :math:`\frac{1}{n} \sum
    (p/p' - 1) e` and the variance :math:`\frac{1}{n^2} \sum p (1-p) e^2 / p'^2`, which grows without bound as
    propensities fall.

    n counts the pairs where ``where`` holds, observed or not. On a batch drawn from the observed pairs alone
    (``observed`` all 1) the value is their mean weighted error, an estimate of the risk over all pairs times
    (number of pairs) / (number of observed pairs): a constant factor, which changes the step size and not the
    minimiser.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: ``errors`` or ``propensity`` is not floating, ``observed`` neither boolean nor floating,
            ``where`` not boolean.
        ValueError: shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, observed = jnp.array([1.0, 3.0, 8.0]), jnp.array([1.0, 1.0, 0.0])
        >>> propensity = jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.ips(errors, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # (1 / 0.5 + 3 / 0.25) / 3
        4.6667

    References:
        Schnabel et al., ICML 2016, section 3.3.
    """
    errors, observed, propensity = observed_rows(errors, observed, propensity, where)
    return safe_divide(jnp.sum(observed * errors / propensity), count_pairs(errors, where))


def snips(errors: Array, *, observed: Array, propensity: Array, where: Array | None = None) -> Array:
    r"""Self-normalised inverse-propensity estimate: the weighted mean error of the observed pairs.

    .. math:: \hat R = \sum \frac{o\, e}{p'} \,\Big/\, \sum \frac{o}{p'}

    Estimates :math:`\mu = \frac{1}{W} \sum (p/p')\, e`, which is the risk over all pairs when p' is p up to a
    constant factor. Not unbiased: the bias is of order one over the expected number of observed pairs,
    :math:`(\mu \sum p(1-p)/p'^2 - \sum p(1-p)\,e/p'^2) / W^2`. Its variance is :math:`\sum p (1-p) (e -
    \mu)^2 / p'^2 / W^2` to the same order: a constant error has none, and the value stays within the range of
    the observed errors. Multiplying all propensities by a constant changes nothing.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed (the estimator is undefined there).

    Raises:
        TypeError: ``errors`` or ``propensity`` is not floating, ``observed`` neither boolean nor floating,
            ``where`` not boolean.
        ValueError: shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, observed = jnp.array([1.0, 3.0, 8.0]), jnp.array([1.0, 1.0, 0.0])
        >>> propensity = jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.snips(errors, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # (1 / 0.5 + 3 / 0.25) / (1 / 0.5 + 1 / 0.25)
        2.3333

    References:
        Swaminathan, Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015; for
        recommendation Schnabel et al., ICML 2016, section 3.3.
    """
    errors, observed, propensity = observed_rows(errors, observed, propensity, where)
    weights = observed / propensity
    return safe_divide(jnp.sum(weights * errors), jnp.sum(weights))
