"""Doubly robust learning with an imputation that trades bias against variance."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model


def dr_mse(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""``dr_jl`` with an imputation loss between those of ``dr_bias`` and ``mrdr`` (``risks.dr_mse``).

    .. math::
        L_r &= \frac{1}{N} \sum_D \hat e + \frac{o\,(e - \hat e)}{\hat p} \\
        L_e &= \frac{1}{N} \sum_D o \Big[ \alpha \frac{(o - \hat p)^2}{\hat p^3}
               + (1 - \alpha) \frac{1 - \hat p}{\hat p^2} \Big] (e - \hat e)^2

    Freedom: the paper allows :math:`\alpha` to be a function of the pair; here it is one number, as in BADR and in the
    released program, which took 0.5 for Coat and Yahoo! R3 and 0.25 for KuaiRec.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        variant: of the prediction's loss: ``"published"``, or ``"released"``, where the imputed error that is
            subtracted is not divided by the propensity.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters as ``dr_jl``, and ``bias_weight`` (:math:`\alpha`).

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, and the data has none.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.dr_mse(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["bias_weight"]
        0.5

    Source:
        Dai et al., "A generalized doubly robust learning framework for debiasing post-click conversion rate
        prediction", KDD 2022; BADR, eqs. 3 and 10.
    """
    check_choice(("published", "released"), variant=variant)
    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.dr, variant=variant),
        imputation_loss=lambda errors, context: errors.risk(
            risks.dr_mse, bias_weight=context.hparams["bias_weight"]
        ),
        hparams={"bias_weight": 0.5},
        **settings,
    )
