r"""Estimators of the mean error over all pairs, :math:`R`, that combine observed and imputed errors.

Notation of the docstrings: errors e, imputed errors e_hat, :math:`d = e - \hat e`, observation ``o ~ Bern(p)``
independent between pairs, ``propensity`` p' the estimate of p, sampling ``weights`` s (1 if not given). Expectations
and variances are over o, with e, e_hat and p' fixed and s = 1, in the first of two sampling frames:

* ``population=None``: the rows are a sample of *all* pairs, observed or not, and m counts those where ``where``
  holds. ``imputed`` is read in all of them.
* ``population`` given: it holds the imputed errors of a separate uniform sample of m of all N pairs; the rows are
  drawn from the n observed pairs (``observed`` all 1). ``imputed`` is then read where ``observed`` is not 0.
  B rows stand for the observed pairs among m uniform ones if each has the weight :math:`s = (n / N)(m / B)`.
  Released programs leave it at 1, and the correction then weighs 1/s times what it should.

Errors, propensities and weights are read only where ``observed`` is not 0, so an unobserved pair may hold anything
in them, NaN included. No argument is detached: stop the gradients that shall not flow. Values are not checked
(``risks.ips``).
"""

import jax.numpy as jnp

from debias_jax._reduce import safe_divide
from debias_jax.risks._inputs import DrInputs, check_variant, dr_inputs
from debias_jax.types import Array

_VARIANTS = ("published", "released")


def eib(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array | None = None,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""Error-imputation-based estimate: the error where it was observed, the imputed one elsewhere.

    .. math:: \hat R = \frac{1}{m} \sum \big[ o\,e + (1 - o)\,\hat e \big]
                     = \frac{1}{m} \Big[ \sum \hat e + \sum s\,o\,(e - \hat e) \Big]

    Unbiased when e_hat = e; in general the bias is :math:`-\frac{1}{m} \sum (1 - p)\, d` and the variance
    :math:`\frac{1}{m^2} \sum p (1 - p)\, d^2`. No propensity enters: this is ``dr`` with p' = 1.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: accepted so that estimators can be exchanged, and ignored.
        population: imputed errors of a separate sample of all pairs, any shape; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; the mean imputed error where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, or ``population`` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed = jnp.array([1.0, 1.0, 0.0])
        >>> print(f"{risks.eib(errors, imputed, observed=observed):.4f}")  # (1 + 3 + 4) / 3
        2.6667

    References:
        Steck, "Training and Testing of Recommender Systems on Data Missing Not at Random", KDD 2010; eq. 5 of the
        BADR paper (Pan et al., TOIS 2026).
    """
    unused = 1.0 if propensity is None else propensity
    inputs = dr_inputs(errors, imputed, observed, unused, population, weights, where)
    correction = jnp.sum(inputs.observed * (inputs.errors - inputs.imputed))
    return safe_divide(inputs.total + correction, inputs.n_pairs)


def dr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    variant: str = "published",
) -> Array:
    r"""Doubly robust estimate: the mean imputed error, corrected by inverse propensity where it can be.

    .. math:: \hat R = \frac{1}{m} \Big[ \sum \hat e + \sum \frac{s\,o\,(e - \hat e)}{p'} \Big]

    Unbiased when p' = p or e_hat = e; in general the bias is :math:`\frac{1}{m} \sum (p/p' - 1)\, d` and the variance
    :math:`\frac{1}{m^2} \sum p (1 - p)\, d^2 / p'^2`, which grows without bound as propensities fall.

    ``variant="released"`` does not divide the subtracted imputed error by p':

    .. math:: \hat R = \frac{1}{m} \Big[ \sum \hat e + \sum s\,o\,\Big( \frac{e}{p'} - \hat e \Big) \Big]

    Its bias, :math:`\frac{1}{m} \sum \big[ (p/p' - 1)\, e + (1 - p)\, \hat e \big]`, is not 0 when p' = p or
    e_hat = e; the variance is :math:`\frac{1}{m^2} \sum p (1 - p) (e/p' - \hat e)^2`.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: imputed errors of a separate sample of all pairs, any shape; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.
        variant: ``"published"`` or ``"released"``.

    Returns:
        A scalar; the mean imputed error where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, ``population`` is empty, or the variant is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.dr(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # (6.5 + 0.5 / 0.5 + 1 / 0.25) / 3
        3.8333

    References:
        Wang, Zhang, Sun, Qi, "Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random", ICML
        2019. The released variant is that of the programs published with BADR and DCE.
    """
    check_variant(variant, _VARIANTS)
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    return safe_divide(corrected_total(inputs, variant), inputs.n_pairs)


def sndr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""Self-normalised doubly robust estimate: the correction of ``dr`` is a weighted mean.

    .. math:: \hat R = \frac{1}{m} \sum \hat e + \sum w\,(e - \hat e) \,\Big/\, \sum w, \qquad w = s\,o / p'

    Estimates :math:`\frac{1}{m} \sum \hat e + \bar d`, :math:`\bar d = \frac{1}{\bar W} \sum (p/p')\, d`,
    :math:`\bar W = \sum p/p'`: the risk over all pairs when p' is p up to a constant factor, or when d is constant.
    To first order in one over the expected number of observed pairs the bias is :math:`(\bar d - \frac{1}{m} \sum d)
    + \sum p (1-p) (\bar d - d) / p'^2 / \bar W^2` and the variance :math:`\sum p (1-p) (d - \bar d)^2 / p'^2 / \bar
    W^2`. Multiplying all propensities or all weights by a constant changes nothing, and the correction stays within
    the range of the observed e - e_hat.

    Theorems 3.1, 3.2 and 3.5 of the BADR paper, printed for ``badr``, describe this estimator.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: imputed errors of a separate sample of all pairs, any shape; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; the mean imputed error where nothing is observed (the correction is undefined there).

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, or ``population`` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.sndr(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # 6.5 / 3 + (0.5 / 0.5 + 1 / 0.25) / (1 / 0.5 + 1 / 0.25)
        3.0000

    References:
        Thomas, Brunskill, "Data-Efficient Off-Policy Policy Evaluation for Reinforcement Learning", ICML 2016
        (weighted doubly robust).
    """
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    inverse = inputs.observed / inputs.propensity
    correction = safe_divide(jnp.sum(inverse * (inputs.errors - inputs.imputed)), jnp.sum(inverse))
    return safe_divide(inputs.total, inputs.n_pairs) + correction


def badr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    variant: str = "published",
) -> Array:
    r"""Batch-adaptive doubly robust estimate: ``dr`` over the sum of the inverse propensities instead of m.

    .. math:: \hat R = \frac{1}{W} \Big[ \sum \hat e + \sum w\,(e - \hat e) \Big],
              \qquad w = s\,o / p', \quad W = \sum w

    With :math:`\bar W = \sum p/p'` and :math:`\bar d = \frac{1}{\bar W} \sum (p/p')\, d` it estimates :math:`\mu =
    \frac{1}{\bar W} \sum \hat e + \bar d`. To first order in one over the expected number of observed pairs

    .. math::
        \mathrm{bias} &= \Big( \bar d - \frac{1}{m} \sum d \Big)
                         + \Big( \frac{1}{\bar W} - \frac{1}{m} \Big) \sum \hat e
                         + \frac{1}{\bar W^2} \sum \frac{p (1-p) (\mu - d)}{p'^2} \\
        \mathrm{variance} &= \frac{1}{\bar W^2} \sum \frac{p (1-p) (d - \mu)^2}{p'^2}

    so it is not doubly robust, not even asymptotically: with e_hat = e and a wrong p' it estimates
    :math:`\frac{1}{\bar W} \sum e`. The theorems printed in the paper take :math:`\sum \hat e / W` for a constant and
    are those of ``sndr``; the two estimators agree where e_hat = 0, and are then ``snips``. The value is bounded
    where ``dr`` explodes. W does not depend on the errors, so the gradient in them is m / W times that of ``dr``.

    ``variant="released"`` divides the bracket of the released ``dr`` by the same W. With :math:`\mu' = \frac{1}{\bar
    W} \sum [\hat e + p\,(e/p' - \hat e)]` its leading variance is :math:`\sum p (1-p) (e - p' \hat e - \mu')^2 / p'^2
    / \bar W^2`.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: imputed errors of a separate sample of all pairs, any shape; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.
        variant: ``"published"`` or ``"released"``.

    Returns:
        A scalar; 0 where nothing is observed (the estimator is undefined there).

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, ``population`` is empty, or the variant is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.badr(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # (6.5 + 0.5 / 0.5 + 1 / 0.25) / (1 / 0.5 + 1 / 0.25)
        1.9167

    References:
        Pan et al., "Batch-Adaptive Doubly Robust Learning for Debiasing Post-Click Conversion Rate Prediction Under
        Sparse Data", TOIS 2026, eq. 13; the released variant is that of the program published with it.
    """
    check_variant(variant, _VARIANTS)
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    return safe_divide(corrected_total(inputs, variant), jnp.sum(inputs.observed / inputs.propensity))


def corrected_total(inputs: DrInputs, variant: str = "published") -> Array:
    """The bracket that ``dr`` divides by m and ``badr`` by W."""
    if variant == "released":
        corrections = inputs.errors / inputs.propensity - inputs.imputed
    else:
        corrections = (inputs.errors - inputs.imputed) / inputs.propensity
    return inputs.total + jnp.sum(inputs.observed * corrections)
