"""Self-normalised doubly robust learning."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model

IMPUTATIONS = {
    "dr_jl": lambda errors: errors.risk(risks.dr_jl),
    "variance": lambda errors: errors.risk(risks.badr_imputation, variant="published"),
}
"""Imputation losses by the name of the option."""


def sndr(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    imputation: str = "dr_jl",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""The mean imputed error, corrected by a weighted mean of the observed differences (``risks.sndr``).

    .. math:: L_r = \frac{1}{N} \sum_D \hat e + \frac{1}{W} \sum_D \frac{o\,(e - \hat e)}{\hat p},
              \qquad W = \sum_D \frac{o}{\hat p}

    The theorems that the BADR paper prints for ``badr`` are those of this estimator. It does not change when all
    propensities or all weights of rows are multiplied by a constant.

    Freedom: no paper trains recommenders with it, so the imputation loss is a choice. ``imputation="dr_jl"`` learns
    the imputed errors by inverse propensity. ``"variance"`` makes the estimator's own variance small,
    :math:`\sum w^2 (d - \bar d)^2 / W^2` with :math:`d = e - \hat e`, its weighted mean :math:`\bar d` and
    :math:`w = o/\hat p` (BADR, eq. 32); the level of the imputed errors is then free, and cancels in :math:`L_r`.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        imputation: ``"dr_jl"`` or ``"variance"``, see above.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters as ``dr_jl`` without ``observed_weight``, of which it does not depend.

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, and the data has none.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.sndr(mf, mf, models.additive_logistic(8, 6))
        >>> method.hparams["lr"], method.hparams["imputation_lr"]
        (0.001, 0.01)

    Source:
        Thomas and Brunskill, "Data-efficient off-policy policy evaluation for reinforcement learning", ICML 2016, for
        the estimator; Pan et al., TOIS 2026, theorems 3.1 and 3.2 and eq. 32.
    """
    check_choice(IMPUTATIONS, imputation=imputation)
    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.sndr),
        imputation_loss=lambda errors, context: IMPUTATIONS[imputation](errors),
        balance="none",
        **settings,
    )
