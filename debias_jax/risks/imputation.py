r"""Losses that train the imputed errors of a doubly robust estimator on the observed ones.

Notation: errors e, imputed errors e_hat, :math:`d = e - \hat e`, observation o, ``propensity`` p', sampling ``weights``
s (1 if not given), m pairs: the rows where ``where`` holds, or those of a separate sample ``population`` (see
``risks.dr``). Everything is read only where ``observed`` is not 0, save for what ``badr_imputation`` says.

No argument is detached: every loss has the gradient of its formula in ``errors``, ``imputed`` and ``propensity``, and
a caller who trains the imputation alone passes the other two through ``jax.lax.stop_gradient``. A ``sg[.]`` in a
formula (two variants of ``badr_imputation``) belongs to the definition and is done here.
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable
from debias_jax._reduce import safe_divide
from debias_jax.risks._inputs import DrInputs, check_variant, dr_inputs, odds_against
from debias_jax.risks.dr import corrected_total
from debias_jax.types import Array

_BADR_VARIANTS = ("corrected", "detached", "published", "released")


def dr_jl(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""Squared error of the imputed errors, by inverse propensity (joint learning).

    .. math:: L = \frac{1}{m} \sum \frac{s\,o\,(e - \hat e)^2}{p'}

    With s = 1 and p' = p its expectation over o is the mean of d^2 over all pairs.

    Args:
        errors: ``[...]`` errors e of the prediction model.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: a separate sample of all pairs, of which the size m is read; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, or ``population`` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> print(risks.dr_jl(errors, imputed, observed=observed, propensity=propensity))  # (0.25/0.5 + 1/0.25) / 3
        1.5

    References:
        Wang, Zhang, Sun, Qi, "Doubly Robust Joint Learning for Recommendation on Data Missing Not at Random", ICML
        2019. Eq. 6 of the BADR paper has a cross-entropy between errors, which is undefined above 1; programs square.
    """
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    return _mean_square(inputs, 1.0 / inputs.propensity)


def mrdr(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""More robust doubly robust: an estimate of m times the variance of ``dr``.

    .. math:: L = \frac{1}{m} \sum \frac{s\,o\,(1 - p')}{p'^2} (e - \hat e)^2

    With s = 1 and p' = p its expectation over o is :math:`\frac{1}{m} \sum (1 - p)\, d^2 / p`.

    Args:
        errors: ``[...]`` errors e of the prediction model.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: a separate sample of all pairs, of which the size m is read; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, or ``population`` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> loss = risks.mrdr(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{loss:.4f}")  # (0.5 / 0.25 * 0.25 + 0.75 / 0.0625 * 1) / 3
        4.1667

    References:
        Guo et al., "Enhanced Doubly Robust Learning for Debiasing Post-Click Conversion Rate Estimation", SIGIR 2021;
        eq. 8 of the BADR paper.
    """
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    return _mean_square(inputs, odds_against(inputs.propensity) / inputs.propensity)


def dr_bias(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
) -> Array:
    r"""DR-BIAS: the squared error of the imputed errors, weighted by how far ``dr`` is off in a pair.

    .. math:: L = \frac{1}{m} \sum \frac{s\,o\,(o - p')^2}{p'^3} (e - \hat e)^2

    With s = 1 and p' = p its expectation over o is :math:`\frac{1}{m} \sum (1 - p)^2 d^2 / p^2`.

    Args:
        errors: ``[...]`` errors e of the prediction model.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: a separate sample of all pairs, of which the size m is read; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, or ``population`` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> loss = risks.dr_bias(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{loss:.4f}")  # (0.5^2 / 0.5^3 * 0.25 + 0.75^2 / 0.25^3 * 1) / 3
        12.1667

    References:
        Dai et al., "A Generalized Doubly Robust Learning Framework for Debiasing Post-Click Conversion Rate
        Prediction", KDD 2022; eq. 9 of the BADR paper.
    """
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    return _mean_square(inputs, odds_against(inputs.propensity) ** 2 / inputs.propensity)


def dr_mse(
    errors: Array,
    imputed: Array,
    *,
    observed: Array,
    propensity: Array,
    population: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    bias_weight: float | Array,
) -> Array:
    r"""DR-MSE: a blend of ``dr_bias`` and ``mrdr``.

    .. math:: L = \alpha\, L_\mathrm{bias} + (1 - \alpha)\, L_\mathrm{mrdr}, \qquad \alpha = \mathrm{bias\_weight}

    Args:
        errors: ``[...]`` errors e of the prediction model.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: a separate sample of all pairs, of which the size m is read; None for the batch's own.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.
        bias_weight: alpha, a scalar in [0, 1].

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, ``population`` is empty, or ``bias_weight`` is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> loss = risks.dr_mse(errors, imputed, observed=observed, propensity=propensity, bias_weight=0.25)
        >>> print(f"{loss:.4f}")  # 0.25 * 12.1667 + 0.75 * 4.1667
        6.1667

    References:
        Dai et al., KDD 2022; eq. 10 of the BADR paper.
    """
    check_broadcastable((), bias_weight=bias_weight)
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    odds = odds_against(inputs.propensity)
    return _mean_square(inputs, (bias_weight * odds + (1.0 - bias_weight)) * odds / inputs.propensity)


def badr_imputation(
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
    r"""Imputation loss of BADR: an estimate of its variance, in four readings.

    With :math:`w = s\,o / p'`, :math:`W = \sum w`, :math:`\bar d = \sum w d / W` and the sum of the imputed errors
    over all m pairs :math:`A = \sum \hat e`, so that the ``badr`` value is :math:`L = A/W + \bar d`:

    .. math::
        \text{published:} \quad & \sum \frac{w^2}{W^2} \Big( d + \frac{A}{W} - L \Big)^2
                                  = \sum \frac{w^2}{W^2} (d - \bar d)^2 \\
        \text{detached:}  \quad & \sum \frac{w^2}{W^2} \Big( d + \frac{A}{W} - \mathrm{sg}[L] \Big)^2 \\
        \text{corrected:} \quad & \sum \frac{w^2}{W^2} (1 - p') (d - L)^2 \\
        \text{released:}  \quad & \frac{1}{m} \sum w^2 \Big( \mathrm{sg}[d] + \frac{A}{m} - \mathrm{sg}[L'] \Big)^2

    * **published** (eq. 32, differentiated in full). A/W - L is :math:`-\bar d` exactly, so the pairs of
      ``population`` have no influence, and adding a constant to all observed e_hat changes nothing: the loss cannot
      learn the level of the imputed errors. It estimates the variance of ``sndr`` from above (no factor 1 - p').
    * **detached**: the same value; with L a constant, the level of the e_hat and all pairs of A are trained too.
    * **corrected**: estimates the leading variance of ``badr``, :math:`\frac{1}{\bar W^2} \sum p (1-p) (d -
      \mu)^2 / p'^2`; differentiated in full.
    * **released**: :math:`L'` is the released ``badr`` value. Only A carries a gradient, so all imputed errors move by
      one scalar, up or down; ``errors`` get none.

    Args:
        errors: ``[...]`` errors e of the prediction model.
        imputed: ``[...]`` imputed errors e_hat.
        observed: ``[...]`` o, boolean or 0.0 / 1.0.
        propensity: p' in (0, 1], a scalar or ``[...]``.
        population: imputed errors of a separate sample of all pairs, any shape, whose sum is A; None for the batch's
            own, read wherever ``where`` holds.
        weights: sampling weight s of each observed row, a scalar or ``[...]``.
        where: boolean ``[...]``, False for padding.
        variant: ``"published"``, ``"detached"``, ``"corrected"`` or ``"released"``.

    Returns:
        A scalar; 0 where nothing is observed.

    Raises:
        TypeError: an array is not floating, ``observed`` neither boolean nor floating, ``where`` not boolean.
        ValueError: shapes differ, ``population`` is empty, or the variant is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> errors, imputed = jnp.array([1.0, 3.0, 8.0]), jnp.array([0.5, 2.0, 4.0])
        >>> observed, propensity = jnp.array([1.0, 1.0, 0.0]), jnp.array([0.5, 0.25, 0.1])
        >>> loss = risks.badr_imputation(errors, imputed, observed=observed, propensity=propensity)
        >>> print(f"{loss:.4f}")  # d_bar 5/6: (4 * (1/3)^2 + 16 * (1/6)^2) / 36
        0.0247

    References:
        Pan et al., TOIS 2026, eq. 32 and Theorem 3.5; the released variant is that of the program published with it.
    """
    check_variant(variant, _BADR_VARIANTS)
    inputs = dr_inputs(errors, imputed, observed, propensity, population, weights, where)
    inverse = inputs.observed / inputs.propensity
    residuals = inputs.errors - inputs.imputed
    if variant == "released":
        value = safe_divide(corrected_total(inputs, "released"), jnp.sum(inverse))
        mean = safe_divide(inputs.total, inputs.n_pairs)
        centred = jax.lax.stop_gradient(residuals - value) + mean
        return safe_divide(jnp.sum((inverse * centred) ** 2), inputs.n_pairs)

    share = safe_divide(inverse, jnp.sum(inverse))
    mean_residual = jnp.sum(share * residuals)
    if variant == "published":
        return jnp.sum((share * (residuals - mean_residual)) ** 2)
    level = safe_divide(inputs.total, jnp.sum(inverse))
    if variant == "corrected":
        centred = residuals - level - mean_residual
        return jnp.sum((1.0 - inputs.propensity) * (share * centred) ** 2)
    # The level cancels in the value and not in the gradient; 0 keeps the digits that a large level would take.
    cancelled = level - jax.lax.stop_gradient(level)
    centred = residuals + cancelled - jax.lax.stop_gradient(mean_residual)
    return jnp.sum((share * centred) ** 2)


def _mean_square(inputs: DrInputs, factors: Array) -> Array:
    squares = (inputs.errors - inputs.imputed) ** 2
    return safe_divide(jnp.sum(inputs.observed * factors * squares), inputs.n_pairs)
