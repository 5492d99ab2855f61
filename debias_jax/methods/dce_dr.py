"""DCE-DR: doubly robust joint learning with calibration experts."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.calibrated import UserVectors, calibrated
from debias_jax.methods.doubly_robust import DoublyRobustSettings
from debias_jax.models.base import Model


def dce_dr(
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
    r"""``dr_jl`` on propensities and pseudo-labels that experts have calibrated on held-out rows.

    Expert m turns a logit s into :math:`\sigma(a_m s + b_m)`; a gate on the user's embedding, a Gumbel-softmax of a
    linear layer, weighs the experts. Propensities and pseudo-labels have experts of their own.

    - Propensity experts are fitted once, after the propensity model: 200 steps on held-out observed pairs and
      ``calibration_ratio`` times as many uniform ones, while the temperature falls from 1 to 0.001, where it stays.
    - The imputation model is trained on its own pseudo-labels, the prediction on calibrated ones.
    - Imputation experts minimise the cross-entropy of the calibrated pseudo-label against the label, weighted by the
      inverse propensity, over the held-out rows; their temperature falls over ``anneal_steps`` steps.

    Freedom: a tenth of the observed pairs is held out from the losses of prediction and imputation (the propensity
    model sees all). The program steps the imputation experts some ten times after each epoch on all held-out rows;
    here they take one step in each step, on those of the batch. Its temperature falls over 1000 epochs, of which
    training uses tens, so that it stays near 1; set ``anneal_steps`` accordingly for that. It never trains the gates'
    biases, and fits propensity experts by a listwise loss that leaves the level of the propensities free:
    ``propensity_calibration="released"``. It divides the prediction's loss by the observed rows of the batch, not by
    the pairs of its population.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic`` (with ``dim``
            its users have vectors for the gate, without a number).
        user_vectors: ``(params, users) -> [..., dim]`` of the imputation and of the propensity model, e.g.
            ``models.user_vectors``.
        variant: ``"published"``, or ``"released"``: the imputed error that is subtracted is not divided by the
            propensity.
        n_experts: number of experts of either kind.
        calibration_ratio: uniform pairs for each held-out pair in the fit of the propensity experts.
        propensity_calibration: ``"cross_entropy"``, which is over all pairs, or ``"released"``.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``; ``propensity`` is ``"estimated"``,
            ``"additive"`` or ``"released"``; with ``"additive"`` the experts' gate sees one number a user.

    Returns:
        The method; hyperparameters as ``dr_jl``, and ``calibration_lr``, ``calibration_weight_decay``,
        ``propensity_calibration_lr``, ``propensity_calibration_weight_decay``, ``anneal_steps``.

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.dce_dr(mf, mf, models.additive_logistic(8, 6), user_vectors=models.user_vectors)
        >>> method.hparams["calibration_lr"], method.hparams["calibration_weight_decay"]
        (0.01, 0.0001)

    Source:
        Kweon and Yu, "Doubly calibrated estimator for recommendation on data missing not at random", WWW 2024, and
        its program (WonbinKweon/DCE_WWW2024).
    """
    check_choice(("published", "released"), variant=variant)
    return calibrated(
        model,
        imputation_model,
        propensity_model,
        user_vectors=user_vectors,
        prediction_loss=lambda errors, context: errors.risk(risks.dr, variant=variant),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_jl),
        n_experts=n_experts,
        calibration_ratio=calibration_ratio,
        propensity_calibration=propensity_calibration,
        **settings,
    )
