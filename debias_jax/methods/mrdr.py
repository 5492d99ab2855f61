"""More robust doubly robust learning."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model


def mrdr(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""``dr_jl`` with an imputation that makes the variance of the prediction's risk small (``risks.mrdr``).

    .. math::
        L_r &= \frac{1}{N} \sum_D \hat e + \frac{o\,(e - \hat e)}{\hat p} \\
        L_e &= \frac{1}{N} \sum_D \frac{o\,(1 - \hat p)}{\hat p^2} (e - \hat e)^2

    Freedom: as in ``dr_jl``. The paper's own program is another method in three more ways: its models have biases,
    the imputation learns the labels by a cross-entropy with the weights of :math:`L_e`, and it starts every epoch from
    the prediction's parameters ("double learning"). The programs that later papers compare with do as is done here.

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
        >>> method = methods.mrdr(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["lr"], method.hparams["imputation_lr"]
        (0.001, 0.01)

    Source:
        Guo et al., "Enhanced doubly robust learning for debiasing post-click conversion rate estimation", SIGIR 2021,
        Algorithm 1 without double learning; BADR, eqs. 3 and 8.
    """
    check_choice(("published", "released"), variant=variant)
    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.dr, variant=variant),
        imputation_loss=lambda errors, context: errors.risk(risks.mrdr),
        **settings,
    )
