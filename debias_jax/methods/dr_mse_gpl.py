"""Generalised propensity learning, with the imputation of DR-MSE."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import CvrBatch, Method
from debias_jax.methods.doubly_robust import Errors
from debias_jax.methods.joint_propensity import JointPropensitySettings, joint_propensity
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model
from debias_jax.types import Array


def dr_mse_gpl(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    **settings: Unpack[JointPropensitySettings],
) -> Method:
    r"""``dr_mse`` with propensities that are trained for a small bias and variance of the prediction's risk, too.

    .. math::
        L_p = \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o)
              + \lambda \Big[ \frac{\beta}{N} \sum_D \frac{(o - \hat p)^2}{\hat p^2} d^2
              + \frac{1 - \beta}{N^2} \sum_D \frac{o\,(1 - \hat p)}{\hat p^2} d^2 \Big]

    with :math:`d = e - \hat e` a constant, 0 where nothing was observed. In every step the propensities learn by it,
    then the imputation and the prediction by the losses of ``dr_mse``.

    The variance has the divisor :math:`N^2` that the authors' erratum gives (the paper and BADR's eq. 12 print N). N
    is the number of pairs of the step's population: it is the step's risk whose variance counts.

    Freedom: the pairs of a step. Here the bracket is summed over the observed rows with their sampling weights, which
    estimates the sum over all pairs. The released program (of MRDR with this propensity loss) draws 4 unobserved
    pairs for each observed one, so that its propensities are those of that sample and :math:`\lambda = \beta = 0.7`
    are not comparable; it has no factor :math:`1 - \hat p` in the variance, clips at 1e-4 and trains the models in
    turns of many epochs.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: ``models.additive_logistic`` or another model of "observed or not".
        variant: of the prediction's loss: ``"published"``, or ``"released"``, where the imputed error that is
            subtracted is not divided by the propensity.
        **settings: see ``methods.joint_propensity.JointPropensitySettings``.

    Returns:
        The method; hyperparameters as ``dr_mse``, ``joint_propensity_lr``, ``propensity_mse_weight``
        (:math:`\lambda`) and ``propensity_bias_weight`` (:math:`\beta`).

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.dr_mse_gpl(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["joint_propensity_lr"], method.hparams["bias_weight"]
        (0.001, 0.5)

    Source:
        Zhou, Feng, Liu et al., "A generalized propensity learning framework for unbiased post-click conversion rate
        estimation", CIKM 2023, and its program (yuqing-zhou/GPL) with erratum; BADR, eqs. 11 and 12.
    """
    check_choice(("published", "released"), variant=variant)

    def penalty(errors: Errors, batch: CvrBatch, context: Context) -> Array:
        n_pairs = errors.imputed.size if errors.population is None else errors.population.size
        # risks.dr_bias divides by p once more, and risks.mrdr is m times the variance.
        bias = errors._replace(weights=errors.weights * errors.propensity).risk(risks.dr_bias)
        variance = errors.risk(risks.mrdr) / n_pairs
        share = context.hparams["propensity_bias_weight"]
        mse = share * bias + (1.0 - share) * variance
        return context.hparams["propensity_mse_weight"] * mse

    return joint_propensity(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.dr, variant=variant),
        imputation_loss=lambda errors, context: errors.risk(
            risks.dr_mse, bias_weight=context.hparams["bias_weight"]
        ),
        propensity_penalty=penalty,
        order=("propensity", "imputation", "prediction"),
        hparams={"bias_weight": 0.5, "propensity_mse_weight": 0.1, "propensity_bias_weight": 0.5},
        **settings,
    )
