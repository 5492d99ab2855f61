"""Doubly robust estimators that adjust one ingredient: the propensity (``d_dr``), the imputed errors (``tdr``) or
the propensity model's training (``stable_dr``).

Notation and sampling frames are those of ``risks.dr``.
"""

import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_same_shape
from debias_jax._reduce import fill_masked, safe_divide
from debias_jax.risks._inputs import DrInputs, count_pairs, dr_inputs, observed_rows, odds_against
from debias_jax.risks.dr import corrected_total
from debias_jax.risks.ips import snips
from debias_jax.types import Array


def dynamic_propensity(propensity: Array, *, variance_weight: float | Array) -> Array:
    r"""The propensity whose inverse is the best weight of a pair when variance costs ``variance_weight`` times bias.

    .. math:: p_\mathrm{eff} = p' + \lambda (1 - p'), \qquad \lambda = \min(\max(\mathrm{variance\_weight}, 0), 1)

    A weight q on the error of a pair that is observed with probability p' has the bias factor 1 - q p' and the
    variance factor :math:`p' (1 - p')\, q^2`. :math:`(1 - q p')^2 + \lambda\, p' (1 - p')\, q^2` is least at q = 1 /
    p_eff, and beyond a weight of 1 the inverse stays at 1. 0 leaves p' as it is (``dr``), 1 gives 1 (``eib``).

    Args:
        propensity: ``[...]`` p' in (0, 1].
        variance_weight: what a unit of variance costs in units of squared bias, a scalar.

    Returns:
        An array like ``propensity``, between it and 1.

    Raises:
        TypeError: ``propensity`` is not floating.
        ValueError: ``variance_weight`` is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> risks.dynamic_propensity(jnp.array([0.5, 0.0, 1.0]), variance_weight=0.5).tolist()
        [0.75, 0.5, 1.0]

    References:
        After Ha et al., "Fine-Grained Dynamic Framework for Bias-Variance Joint Optimization on Data Missing Not at
        Random", NeurIPS 2024. That paper chooses an exponent of a function of p' for each pair; the minimiser of its
        objective over the weight itself, which is what this returns, does not depend on the function.
    """
    check_float(propensity=propensity)
    check_broadcastable((), variance_weight=variance_weight)
    return propensity + jnp.clip(variance_weight, 0.0, 1.0) * (1.0 - propensity)


def d_dr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    variance_weight: float | Array,
) -> Array:
    r"""Dynamic doubly robust estimate: ``dr`` with propensities raised as ``dynamic_propensity`` says.

    Expectation, bias and variance are those of ``dr`` with p_eff for p': the weights are at most 1 / variance_weight,
    and with p' = p the bias is :math:`\frac{1}{m} \sum (p/p_\mathrm{eff} - 1)\, d`, which is 0 only when e_hat = e.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: imputed errors of a separate sample of all pairs, any shape; None for the batch's own.
        weights: sampling weight of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.
        variance_weight: what a unit of variance costs in units of squared bias, a scalar in [0, 1].

    Returns:
        A scalar; the mean imputed error where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, ``population`` is empty, or ``variance_weight`` is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.d_dr(errors, imputed, observed=observed, propensity=propensity, variance_weight=0.2)
        >>> print(f"{risk:.4f}")  # (6.5 + 0.5 / 0.6 + 1 / 0.4) / 3
        3.2778

    References:
        After Ha et al., NeurIPS 2024; see ``dynamic_propensity``.
    """
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    raised = dynamic_propensity(inputs.propensity, variance_weight=variance_weight)
    return safe_divide(corrected_total(inputs._replace(propensity=raised)), inputs.n_pairs)


def targeting_coefficient(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""Slope of the observed residuals on 1/p' - 1: how the imputed errors should move with the propensity.

    .. math:: \epsilon = \frac{\sum s\,o\,(1/p' - 1)\,(e - \hat e)}{\sum s\,o\,(1/p' - 1)^2}

    Args:
        errors: ``[...]`` errors e.
        imputed: ``[...]`` imputed errors e_hat, read only where ``observed`` is not 0.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing with p' < 1 is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> slope = risks.targeting_coefficient(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{slope:.4f}")  # (1 * 0.5 + 3 * 1) / (1 + 9)
        0.3500

    References:
        Li, Lyu, Zheng, Wu, "TDR-CL: Targeted Doubly Robust Collaborative Learning for Debiased Recommendations", ICLR
        2023.
    """
    return _slope(dr_inputs(errors, imputed, observed, propensity, None, weights, where))


def tdr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    population_propensity: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""Targeted doubly robust estimate: ``dr`` with imputed errors moved along 1/p' - 1 to fit the observed ones.

    .. math:: \hat R = \frac{1}{m} \Big[ \sum \hat e' + \sum \frac{s\,o\,(e - \hat e')}{p'} \Big],
              \qquad \hat e' = \hat e + \epsilon\,(1/p' - 1)

    :math:`\epsilon` (``targeting_coefficient``) makes :math:`\sum s\,o\,(1/p' - 1)(e - \hat e') = 0`, so on one batch
    without weights the value is that of ``eib`` plus :math:`\epsilon \frac{1}{m} \sum (1 - o)(1/p' - 1)`. Exact when
    e_hat = e, for then :math:`\epsilon = 0`. When p' = p the bias is of order one over the expected number of observed
    pairs, because :math:`\epsilon` depends on o, and the variance to first order that of ``dr`` with :math:`\hat e'`
    at the :math:`\epsilon` of a large sample.

    :math:`\epsilon` is a function of the errors and carries their gradient. Where it is detached instead, ``errors``
    and ``imputed`` have the gradients of ``dr``: a constant added to an imputed error trains nothing.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``. With ``population=None`` it is read in unobserved rows too.
        population: imputed errors of a separate sample of all pairs, any shape; None for the batch's own.
        population_propensity: their propensities, a scalar or the shape of ``population``; goes with it.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; the mean imputed error where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, ``population`` is empty, or one of ``population`` and ``population_propensity`` is
            given without the other.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.tdr(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # epsilon 0.35: (0.85 + 3.05 + 7.15 + 0.15 / 0.5 - 0.05 / 0.25) / 3
        3.7167

    References:
        Li et al., ICLR 2023.
    """
    if (population is None) != (population_propensity is None):
        missing = "population" if population is None else "population_propensity"
        raise ValueError(f"population and population_propensity go together, and {missing} is None")
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    dtype = inputs.errors.dtype
    if population is None:
        everyone = jnp.broadcast_to(jnp.asarray(propensity, dtype), inputs.errors.shape)
        everyone = fill_masked(everyone, where, fill=1.0)
    else:
        check_float(population_propensity=population_propensity)
        check_broadcastable(jnp.shape(population), population_propensity=population_propensity)
        everyone = jnp.broadcast_to(jnp.asarray(population_propensity, dtype), jnp.shape(population))
    slope = _slope(inputs)
    targeted = inputs._replace(
        imputed=inputs.imputed + slope * odds_against(inputs.propensity),
        total=inputs.total + slope * jnp.sum(odds_against(everyone)),
    )
    return safe_divide(corrected_total(targeted), targeted.n_pairs)


def stable_dr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""Stabilised doubly robust estimate: ``snips``, with propensities learnt under ``stabilization_constraint``.

    .. math:: \hat R = \sum w\,e \,\Big/\, \sum w, \qquad w = s\,o / p'

    Bias and variance for given propensities are those of ``snips``. Where :math:`\sum w (\hat e - \frac{1}{m} \sum
    \hat e) = 0` this equals ``sndr``, for the weighted mean of e_hat is then its mean over all pairs; so it is
    doubly robust to the extent that the propensities meet the constraint. The value itself does not read the imputed
    errors: they act through the propensities alone.

    Args:
        errors: ``[...]`` errors e, e.g. losses with ``reduce_fn=None``.
        imputed: ``[...]``, accepted so that estimators can be exchanged, and ignored.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: accepted so that estimators can be exchanged, and ignored.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed (the estimator is undefined there).

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, or ``population`` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> risk = risks.stable_dr(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{risk:.4f}")  # (1 / 0.5 + 3 / 0.25) / (1 / 0.5 + 1 / 0.25)
        2.3333

    References:
        Li, Zheng, Wu, "StableDR: Stabilized Doubly Robust Learning for Recommendation on Data Missing Not at Random",
        ICLR 2023.
    """
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    return snips(inputs.errors, observed=inputs.observed, propensity=inputs.propensity)


def stabilization_constraint(
    imputed: Array, *, observed: Array, propensity: Array, where: Array | None = None
) -> Array:
    r"""What must be 0 for ``stable_dr`` to be doubly robust: the weighted excess of the imputed errors.

    .. math:: c = \frac{1}{m} \sum \frac{o}{p'} \Big( \hat e - \frac{1}{m} \sum \hat e \Big)

    Its expectation is :math:`\frac{1}{m} \sum (p/p' - 1) (\hat e - \frac{1}{m} \sum \hat e)`, so true propensities
    meet it on average. A propensity model is trained with its square as a penalty; detach ``imputed`` there.

    Args:
        imputed: ``[...]`` imputed errors e_hat of a sample of all pairs, observed or not.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: ``imputed`` or ``propensity`` is not floating, ``observed`` neither boolean nor floating, ``where``
            not boolean.
        ValueError: shapes differ.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> imputed, observed = jnp.array([0.5, 2.0, 3.5]), jnp.array([1.0, 1.0, 0.0])
        >>> propensity = jnp.array([0.5, 0.25, 0.1])
        >>> print(risks.stabilization_constraint(imputed, observed=observed, propensity=propensity))  # -1.5 / 0.5 / 3
        -1.0

    References:
        Li, Zheng, Wu, ICLR 2023.
    """
    check_float(imputed=imputed)
    check_same_shape(imputed=imputed, observed=observed)
    _, observed, propensity = observed_rows(imputed, observed, propensity, where)
    imputed = fill_masked(jnp.asarray(imputed), where)
    n_pairs = count_pairs(imputed, where)
    excess = imputed - safe_divide(jnp.sum(imputed), n_pairs)
    return safe_divide(jnp.sum(observed / propensity * excess), n_pairs)


def _slope(inputs: DrInputs) -> Array:
    odds = odds_against(inputs.propensity)
    residuals = inputs.errors - inputs.imputed
    return safe_divide(jnp.sum(inputs.observed * odds * residuals), jnp.sum(inputs.observed * odds**2))
