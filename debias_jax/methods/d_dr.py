"""Dynamic doubly robust learning."""

from typing import Unpack

from debias_jax import risks
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model


def d_dr(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""``dr_jl`` with propensities raised to where variance and bias balance (``risks.d_dr``).

    .. math::
        L_r &= \frac{1}{N} \sum_D \hat e + \frac{o\,(e - \hat e)}{p_\mathrm{eff}} \\
        L_e &= \frac{1}{N} \sum_D \frac{o\,(e - \hat e)^2}{p_\mathrm{eff}},
        \qquad p_\mathrm{eff} = \hat p + \lambda (1 - \hat p)

    Freedom: the paper chooses, for each pair, an exponent of a function of :math:`\hat p` that makes :math:`w_1
    \mathrm{bias}^2 + w_2 \mathrm{variance}` small, and compares functions. The minimiser over the weight itself does
    not depend on the function; it is taken here, with :math:`\lambda = w_2 / w_1`. No program of the authors was
    found, so this follows the text alone.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters as ``dr_jl``, and ``variance_weight`` (:math:`\lambda`; 0 is ``dr_jl``, 1 trusts the
        imputed errors wherever there is no observation).

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, and the data has none.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.d_dr(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["variance_weight"]
        0.01

    Source:
        After Ha et al., "Fine-grained dynamic framework for bias-variance joint optimization on data missing not at
        random", NeurIPS 2024.
    """

    def raised(errors, context):
        p = risks.dynamic_propensity(errors.propensity, variance_weight=context.hparams["variance_weight"])
        return errors._replace(propensity=p)

    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(
            risks.d_dr, variance_weight=context.hparams["variance_weight"]
        ),
        imputation_loss=lambda errors, context: raised(errors, context).risk(risks.dr_jl),
        hparams={"variance_weight": 0.01},
        **settings,
    )
