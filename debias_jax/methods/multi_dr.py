"""Multi-DR: propensity, imputation and the doubly robust prediction, learnt together."""

from typing import Unpack

from debias_jax.methods.base import Method
from debias_jax.methods.multitask import MultitaskSettings, choose_towers, dr_terms, multitask
from debias_jax.models.base import Model


def multi_dr(
    model: Model | None = None,
    propensity_model: Model | None = None,
    imputation_model: Model | None = None,
    multitask_model: Model | None = None,
    *,
    towers: str = "separate",
    detach_propensity: bool = False,
    **settings: Unpack[MultitaskSettings],
) -> Method:
    r"""Click loss, doubly robust risk and imputation loss, on propensities as they are being learnt.

    .. math::
        L = \lambda_p \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o)
            + \frac{1}{N} \sum_D \Big[ \hat e + \frac{o\,(e - \hat e)}{\hat p} \Big]
            + \lambda_e \frac{1}{N} \sum_D \frac{o\,(e - \hat e)^2}{\hat p}

    The imputed error is the cross-entropy of the prediction against a pseudo-label. Pseudo-labels are constants in
    the risk; predictions and propensities are constants in the imputation loss.

    Freedom: whether :math:`1/\hat p` carries a gradient in the risk. It does by default, as the estimator then
    "directly updates propensity and prediction". The risk then falls without bound as :math:`\hat p` goes to 0 in a
    pair with :math:`e < \hat e`: hence a ``min_propensity`` of 0.05 by default, below which :math:`\hat p` has no
    gradient. The re-implementation of the authors of BADR has neither the click loss nor the imputation loss
    (``ctr_weight=0``, ``imputation_weight=0``) and trains the imputation by the risk itself.

    Args:
        model: the prediction tower, for ``towers="separate"``.
        propensity_model: the propensity tower, for ``towers="separate"``.
        imputation_model: the pseudo-label tower, for ``towers="separate"``.
        multitask_model: all towers with shared embeddings, for ``towers="shared"``, e.g. ``models.mmoe``: logits of
            propensity, prediction and imputation along the last axis.
        towers: ``"separate"`` or ``"shared"`` (the paper's).
        detach_propensity: whether the propensities are constants in the risk.
        **settings: see ``methods.multitask.MultitaskSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity`` (0.05), ``ctr_weight``,
        ``imputation_weight`` and, of separate towers, ``propensity_lr``, ``propensity_weight_decay``,
        ``imputation_lr``, ``imputation_weight_decay``.

    Raises:
        ValueError: an option is unknown, or a model that ``towers`` needs is missing.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.multi_dr(mf, models.additive_logistic(8, 6), mf)
        >>> method.hparams["ctr_weight"], method.hparams["imputation_weight"]
        (1.0, 1.0)

    Source:
        Zhang et al., "Large-scale causal approaches to debiasing post-click conversion rate estimation with
        multi-task learning", WWW 2020.
    """
    return multitask(
        choose_towers(
            towers,
            multitask_model=multitask_model,
            model=model,
            propensity_model=propensity_model,
            imputation_model=imputation_model,
        ),
        terms=lambda batch, context: dr_terms(batch, context, detach_propensity=detach_propensity),
        weights={"ctr": 1.0, "imputation": 1.0},
        min_propensity=0.05,
        **settings,
    )
