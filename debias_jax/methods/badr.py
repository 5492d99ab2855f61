"""Batch-adaptive doubly robust learning."""

from typing import Unpack

import jax.numpy as jnp

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import DoublyRobustSettings, doubly_robust
from debias_jax.models.base import Model

VARIANTS = ("published", "detached", "corrected", "released")
IMPUTATIONS = ("badr", "dr_jl", "mrdr", "dr_bias", "dr_mse", "zeros")


def badr(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    variant: str = "published",
    imputation: str = "badr",
    **settings: Unpack[DoublyRobustSettings],
) -> Method:
    r"""The doubly robust sum over a batch, divided by the batch's sum of inverse propensities.

    .. math::
        L_r &= \frac{1}{W} \sum_B \hat e + \frac{o\,(e - \hat e)}{\hat p}, \qquad W = \sum_B \frac{o}{\hat p} \\
        L_e &= \frac{1}{W^2} \sum_B \frac{o}{\hat p^2} \Big(e - \hat e + \frac{1}{W} \sum_B \hat e - L_r\Big)^2

    W does not depend on the predictions: the gradient of :math:`L_r` is that of ``dr_jl`` on the same batch, times
    (pairs of the batch) / W. What the estimator's bias and variance are, and which of the paper's theorems hold, is
    said in ``risks.badr``.

    Variants, for both losses:

    - ``"published"``: as above, with the full gradient through every imputed error of :math:`L_e`. The level of the
      imputed errors then has no gradient: adding a constant to those of the observed pairs changes nothing.
    - ``"detached"``: :math:`L_r` inside :math:`L_e` is a constant.
    - ``"corrected"``: :math:`L_e = \sum o (1 - \hat p) (e - \hat e - L_r)^2 / \hat p^2 / W^2`, the variance of this
      estimator; the published one is that of ``risks.sndr``.
    - ``"released"``: the subtracted imputed error is not divided by the propensity, and :math:`L_e` has a gradient
      through the mean imputed error of the population only. The released program also takes ``weighting="batch"``,
      ``order="prediction_first"``, ``imputed_errors="released"``, ``propensity="released"``.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model.
        propensity_model: fitted to "observed or not" before training.
        variant: see above.
        imputation: ``"badr"``, or the imputation loss of another method for the paper's ablation: ``"dr_jl"``,
            ``"mrdr"`` (BADR-V), ``"dr_bias"`` (BADR-B), ``"dr_mse"`` (BADR-M); or the control ``"zeros"``: every
            pseudo-label is 0 and nothing is learnt about them, so that the population is a sample of negatives.
        **settings: see ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters as ``dr_jl``, and with ``imputation="dr_mse"`` ``bias_weight``.

    Raises:
        ValueError: an option is unknown.
        ConfigError: (on training) ``propensity="logged"``, and the data has none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic.generate(seed=0, n_users=8, n_items=6)
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.badr(mf, mf, models.additive_logistic(8, 6))
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

    Source:
        Pan et al., "Batch-adaptive doubly robust learning for debiasing post-click conversion rate prediction under
        sparse data", ACM TOIS 44(3), 2026, eqs. 13 and 32; the released form follows its program (HungPaan/DR-ALR).
    """
    check_choice(VARIANTS, variant=variant)
    check_choice(IMPUTATIONS, imputation=imputation)
    risk_variant = "released" if variant == "released" else "published"

    if imputation == "zeros":
        imputation_model = Model(init=lambda key: {}, apply=_certain_zero)

    def imputation_loss(errors, context):
        if imputation == "zeros":
            return jnp.zeros((), jnp.float32)
        if imputation == "badr":
            return errors.risk(risks.badr_imputation, variant=variant)
        if imputation == "dr_mse":
            return errors.risk(risks.dr_mse, bias_weight=context.hparams["bias_weight"])
        return errors.risk(getattr(risks, imputation))

    return doubly_robust(
        model,
        imputation_model,
        propensity_model,
        prediction_loss=lambda errors, context: errors.risk(risks.badr, variant=risk_variant),
        imputation_loss=imputation_loss,
        hparams={"bias_weight": 0.5} if imputation == "dr_mse" else None,
        balance="kept",
        **settings,
    )


def _certain_zero(params, users, items, key=None):
    """The logits of a pseudo-label model that is sure of every pair."""
    del params, key
    return jnp.full(jnp.broadcast_shapes(users.shape, items.shape), -1e4, jnp.float32)
