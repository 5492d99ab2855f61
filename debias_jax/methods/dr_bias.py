"""Doubly robust learning with an imputation that reduces bias."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model


def dr_bias(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""``dr_jl`` with an imputation that makes the bias of the prediction's risk small (``risks.dr_bias``).

    .. math::
        L_r &= \frac{1}{N} \sum_D \hat e + \frac{o\,(e - \hat e)}{\hat p} \\
        L_e &= \frac{1}{N} \sum_D \frac{o\,(o - \hat p)^2}{\hat p^3} (e - \hat e)^2

    Freedom: as in ``dr_jl``. The weights of :math:`L_e` grow with the third power of :math:`1/\hat p`: a few pairs
    carry the loss unless ``min_propensity`` clips them. The released program does not clip, and takes naive-Bayes
    propensities that it estimates from a part of the unbiased test labels; neither is done here.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        variant: of the prediction's loss: ``"published"``, or ``"released"``, where the imputed error that is
            subtracted is not divided by the propensity.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters as ``dr_jl``.

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, and the data has none.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.dr_bias(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["lr"], method.hparams["imputation_lr"]
        (0.001, 0.01)

    Source:
        Dai et al., "A generalized doubly robust learning framework for debiasing post-click conversion rate
        prediction", KDD 2022; BADR, eqs. 3 and 9.
    """
    check_choice(("published", "released"), variant=variant)
    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.dr, variant=variant),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_bias),
        **settings,
    )
