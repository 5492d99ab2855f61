"""Targeted doubly robust collaborative learning."""

from typing import Unpack

import jax

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, Errors, doubly_robust
from debias_jax.models.base import Model
from debias_jax.types import Array


def _published(errors: Errors) -> Array:
    return errors.risk(risks.tdr, population_propensity=errors.population_propensity)


def _squared(errors: Errors) -> Array:
    slope = jax.lax.stop_gradient(errors.row_risk(risks.targeting_coefficient))

    def squared(imputed, propensity):
        return (imputed + slope * (1.0 / propensity - 1.0)) ** 2

    targeted = errors._replace(errors=errors.errors**2, imputed=squared(errors.imputed, errors.propensity))
    if errors.population is not None:
        population = squared(errors.population, errors.population_propensity)
        targeted = targeted._replace(population=population)
    return targeted.risk(risks.dr, variant="released")


LOSSES = {"published": _published, "squared": _squared}
"""The prediction's losses by variant."""

BALANCES = {"published": "none", "squared": "divided"}
"""See ``DoublyRobust.balance``: epsilon is a ratio, and by it the first learns from observed rows."""


def tdr_cl(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""``dr_jl`` with imputed errors that are moved along :math:`1/\hat p - 1` in each step (``risks.tdr``).

    .. math::
        L_r &= \frac{1}{N} \sum_D \hat e' + \frac{o\,(e - \hat e')}{\hat p}, \qquad
        \hat e' = \hat e + \epsilon \Big(\frac{1}{\hat p} - 1\Big), \quad
        \epsilon = \frac{\sum o\,(1/\hat p - 1)(e - \hat e)}{\sum o\,(1/\hat p - 1)^2} \\
        L_e &= \frac{1}{N} \sum_D \frac{o\,(e - \hat e)^2}{\hat p}

    The batch's :math:`\epsilon` takes the correlation with the propensity out of its residuals. The parametric
    imputation and this correction alternate in every step ("collaborative").

    Freedom: how the correction reaches the gradient. With :math:`\epsilon` a constant, :math:`\hat e'` differs from
    :math:`\hat e` by a constant and trains nothing that ``dr_jl`` does not. ``"published"`` differentiates
    :math:`\epsilon`, a function of the errors, with them. ``"squared"`` keeps it constant and squares the errors, as
    the released program does:

    .. math:: L_r = \frac{1}{N} \sum_D \hat e'^2 + o \Big( \frac{e^2}{\hat p} - \hat e'^2 \Big)

    That program takes one such step, after ``dr_jl`` has stopped, with the :math:`\epsilon` of its last batch; here it
    is taken in every step.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        variant: of the prediction's loss: ``"published"`` or ``"squared"``, see above.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters as ``dr_jl``, ``"published"`` without ``observed_weight``.

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, which is not known for all pairs.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.tdr_cl(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["lr"], method.hparams["imputation_lr"]
        (0.001, 0.01)

    Source:
        Li, Lyu, Zheng and Wu, "TDR-CL: Targeted doubly robust collaborative learning for debiased recommendations",
        ICLR 2023; the squared form follows a program of its authors (haoxuanli-pku/ICDE24-MNAR, ``TDR_based.py``).
    """
    check_choice(LOSSES, variant=variant)
    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: LOSSES[variant](errors),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_jl),
        population_propensity=True,
        balance=BALANCES[variant],
        **settings,
    )
