"""Stabilised doubly robust learning."""

from typing import Unpack

from debias_jax import risks
from debias_jax.methods.base import CvrBatch, Method
from debias_jax.methods.doubly_robust import Errors
from debias_jax.methods.joint_propensity import JointPropensitySettings, joint_propensity
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model
from debias_jax.types import Array


def stable_dr(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    **settings: Unpack[JointPropensitySettings],
) -> Method:
    r"""Self-normalised inverse propensity, with propensities trained to make it doubly robust (``risks.stable_dr``).

    .. math::
        L_e &= \frac{1}{N} \sum_D \frac{o\,(e - \hat e)^2}{\hat p} \\
        L_p &= \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o) + \eta\, c^2, \qquad
               c = \frac{1}{N} \sum_D \frac{o}{\hat p} \Big( \hat e - \frac{1}{N} \sum_D \hat e \Big) \\
        L_r &= \sum_D \frac{o\,e}{\hat p} \Big/ \sum_D \frac{o}{\hat p}

    minimised in this order in every step. Where :math:`c = 0`, :math:`L_r` equals ``risks.sndr``.

    Freedom: the propensity model, and how it is trained under the constraint. Here it is any model, starts from its
    fit by cross-entropy, and takes one step in turn with :math:`c` of the step's population; the square of a batch's
    :math:`c` contains its variance, which a larger ``ratio`` reduces. The released program trains a single number, the
    count that smooths naive-Bayes propensities of two values, uses unbiased test labels for it, and sums over the
    m pairs of its population where this takes means: its :math:`\eta` is ``stabilization`` / m.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: ``models.additive_logistic`` or another model of "observed or not".
        **settings: see ``methods.joint_propensity.JointPropensitySettings``.

    Returns:
        The method; hyperparameters as ``dr_jl`` without ``observed_weight``, ``joint_propensity_lr`` and
        ``stabilization`` (:math:`\eta`; 0 trains the propensities by cross-entropy alone).

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.stable_dr(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["joint_propensity_lr"], method.hparams["stabilization"]
        (0.001, 10.0)

    Source:
        Li, Zheng and Wu, "StableDR: Stabilized doubly robust learning for recommendation on data missing not at
        random", ICLR 2023; the released program is that of haoxuanli-pku/ICDE24-MNAR.
    """

    def penalty(errors: Errors, batch: CvrBatch, context: Context) -> Array:
        imputed, propensity = errors.population, errors.population_propensity
        if batch.population is None:
            imputed, propensity = errors.imputed, errors.propensity
        constraint = risks.stabilization_constraint(
            imputed, observed=batch.sample.observed, propensity=propensity
        )
        return context.hparams["stabilization"] * constraint**2

    return joint_propensity(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.stable_dr),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_jl),
        propensity_penalty=penalty,
        order=("imputation", "propensity", "prediction"),
        hparams={"stabilization": 10.0},
        # The population is in the constraint only.
        balance="none",
        **settings,
    )
