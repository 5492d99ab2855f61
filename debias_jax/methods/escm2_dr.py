"""ESCM2-DR: entire-space multi-task learning with a doubly robust risk."""

from typing import Unpack

from debias_jax.methods.base import Method
from debias_jax.methods.multitask import MultitaskSettings, choose_towers, dr_terms, multitask
from debias_jax.models.base import Model


def escm2_dr(
    model: Model | None = None,
    propensity_model: Model | None = None,
    imputation_model: Model | None = None,
    multitask_model: Model | None = None,
    *,
    towers: str = "separate",
    detach_propensity: bool = True,
    **settings: Unpack[MultitaskSettings],
) -> Method:
    r"""Losses of click, of conversion given a click by a doubly robust risk, and of click and conversion.

    .. math::
        L = \lambda_p \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o)
            + \lambda_c \frac{1}{N} \sum_D \Big[ \hat e + \frac{o\,(e - \hat e)}{\hat p} \Big]
            + \lambda_e \frac{1}{N} \sum_D \frac{o\,(e - \hat e)^2}{\hat p}
            + \lambda_g \frac{1}{N} \sum_D \mathrm{CE}(\hat p\,\hat r; o\,r)

    The imputed error is the cross-entropy of the prediction against a pseudo-label. Pseudo-labels are constants in
    the risk; predictions and propensities are constants in the imputation loss. The last term gives propensity and
    prediction a gradient on every pair. With :math:`\lambda_g = 0` and ``detach_propensity=False`` this is
    ``multi_dr``.

    Freedom: :math:`1/\hat p` is a constant here, as in ``escm2_ips``; the program that the paper refers to detaches it
    there and not here. BADR "retains only the debias-related components": whether that drops the last term is not
    said, ``ctcvr_weight=0`` does.

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
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity``, ``ctr_weight``, ``cvr_weight``,
        ``imputation_weight``, ``ctcvr_weight`` and, of separate towers, ``propensity_lr``,
        ``propensity_weight_decay``, ``imputation_lr``, ``imputation_weight_decay``.

    Raises:
        ValueError: an option is unknown, or a model that ``towers`` needs is missing.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.escm2_dr(mf, models.additive_logistic(8, 6), mf)
        >>> sorted(name for name in method.hparams if name.endswith("_weight"))
        ['ctcvr_weight', 'ctr_weight', 'cvr_weight', 'imputation_weight']

    Source:
        Wang et al., "ESCM2: entire space counterfactual multi-task model for post-click conversion rate estimation",
        SIGIR 2022, and the program of PaddleRec.
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
        weights={"ctr": 1.0, "cvr": 1.0, "imputation": 1.0, "ctcvr": 1.0},
        **settings,
    )
