"""Doubly robust joint learning: prediction and imputation in turn."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model


def dr_jl(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""The doubly robust risk, with an imputation model that learns the errors of the observed pairs.

    .. math::
        L_r &= \frac{1}{N} \sum_D \hat e + \frac{o\,(e - \hat e)}{\hat p} \\
        L_e &= \frac{1}{N} \sum_D \frac{o\,(e - \hat e)^2}{\hat p}

    Freedom: the paper leaves the imputation model open; here it is a pseudo-label model, and :math:`\hat e` is the
    cross-entropy of the prediction against the pseudo-label, as in the programs of the BADR line of work. The
    imputation loss is the squared error: BADR's eq. 6 writes a cross-entropy of errors, which is not defined for an
    error above 1.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        variant: ``"published"``, or ``"released"``: the imputed error that is subtracted is not divided by the
            propensity.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``imputation_lr``, ``imputation_weight_decay``,
        ``min_propensity`` (0: no clipping), ``propensity_lr``, ``propensity_weight_decay``, ``observed_weight``.

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, and the data has none.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.dr_jl(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["lr"], method.hparams["imputation_lr"]
        (0.001, 0.01)

    Source:
        Wang, Zhang, Sun and Qi, "Doubly robust joint learning for recommendation on data missing not at random",
        ICML 2019; BADR, eqs. 3 and 6.
    """
    check_choice(("published", "released"), variant=variant)
    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.dr, variant=variant),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_jl),
        **settings,
    )
