"""DCE-TDR: targeted doubly robust learning with calibration experts."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.calibrated import UserVectors, calibrated
from debias_jax.methods.doubly_robust import DoublyRobustSettings
from debias_jax.methods.tdr_cl import BALANCES, LOSSES
from debias_jax.models.base import Model


def dce_tdr(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    user_vectors: UserVectors,
    variant: str = "published",
    n_experts: int = 5,
    calibration_ratio: int = 10,
    propensity_calibration: str = "cross_entropy",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""The losses of ``tdr_cl`` on propensities and pseudo-labels calibrated as in ``dce_dr``.

    .. math::
        L_r = \frac{1}{N} \sum_D \hat e' + \frac{o\,(e - \hat e')}{\hat p}, \qquad
        \hat e' = \hat e + \epsilon \Big(\frac{1}{\hat p} - 1\Big)

    with :math:`\hat p` and the pseudo-label inside :math:`\hat e` calibrated, and :math:`\epsilon` as in ``tdr_cl``.

    Freedom: the program of the paper holds the calibrated form of ``dr_jl`` alone; this is what its text says, with the
    choices of ``dce_dr`` and ``tdr_cl``.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model.
        propensity_model: fitted to "observed or not" before training.
        user_vectors: ``(params, users) -> [..., dim]`` of the imputation and of the propensity model, e.g.
            ``models.user_vectors``.
        variant: of the prediction's loss, see ``tdr_cl``: ``"published"`` or ``"squared"``.
        n_experts: number of experts of either kind.
        calibration_ratio: uniform pairs for each held-out pair in the fit of the propensity experts.
        propensity_calibration: see ``dce_dr``.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``; ``propensity`` is ``"estimated"``,
            ``"additive"`` or ``"released"``; with ``"additive"`` the experts' gate sees one number a user.

    Returns:
        The method; hyperparameters as ``dce_dr``, ``"published"`` without ``observed_weight``.

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.dce_tdr(mf, mf, models.additive_logistic(8, 6), user_vectors=models.user_vectors)
        >>> method.hparams["anneal_steps"]
        2000.0

    Source:
        Kweon and Yu, "Doubly calibrated estimator for recommendation on data missing not at random", WWW 2024.
    """
    check_choice(LOSSES, variant=variant)
    return calibrated(
        model,
        imputation_model,
        propensity_model,
        user_vectors=user_vectors,
        prediction_loss=lambda errors, context: LOSSES[variant](errors),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_jl),
        population_propensity=True,
        balance=BALANCES[variant],
        n_experts=n_experts,
        calibration_ratio=calibration_ratio,
        propensity_calibration=propensity_calibration,
        **settings,
    )
