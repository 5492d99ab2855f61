"""Multi-IPS: the propensity and the inversely weighted prediction, learnt together."""

from typing import Unpack

from debias_jax.methods.base import Method
from debias_jax.methods.multitask import MultitaskSettings, choose_towers, ips_term, multitask
from debias_jax.models.base import Model


def multi_ips(
    model: Model | None = None,
    propensity_model: Model | None = None,
    multitask_model: Model | None = None,
    *,
    towers: str = "separate",
    detach_propensity: bool = False,
    **settings: Unpack[MultitaskSettings],
) -> Method:
    r"""Click loss and inverse-propensity risk, on the propensities as they are being learnt.

    .. math:: L = \lambda_p \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o) + \frac{1}{N} \sum_D \frac{o\,e}{\hat p}

    Freedom: whether :math:`1/\hat p` carries a gradient. It does by default, as the estimator then "directly updates
    propensity and prediction"; the risk falls as :math:`\hat p` rises, so that propensities of observed pairs are
    overestimated, the more the smaller ``ctr_weight``. ``ctr_weight=0`` is what the re-implementation of the authors
    of BADR computes: :math:`\hat p` then goes to 1, and the method to the naive one.

    Args:
        model: the prediction tower, for ``towers="separate"``.
        propensity_model: the propensity tower, for ``towers="separate"``.
        multitask_model: both towers with shared embeddings, for ``towers="shared"``, e.g. ``models.mmoe``: logits of
            propensity and prediction along the last axis; more are not used.
        towers: ``"separate"`` or ``"shared"`` (the paper's).
        detach_propensity: whether the propensities are constants in the risk.
        **settings: see ``methods.multitask.MultitaskSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity``, ``ctr_weight`` and, of separate
        towers, ``propensity_lr``, ``propensity_weight_decay``.

    Raises:
        ValueError: an option is unknown, or a model that ``towers`` needs is missing.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.multi_ips(models.mf(8, 6, dim=2), models.additive_logistic(8, 6))
        >>> sorted(method.hparams)
        ['ctr_weight', 'lr', 'min_propensity', 'propensity_lr', 'propensity_weight_decay', 'weight_decay']

    Source:
        Zhang et al., "Large-scale causal approaches to debiasing post-click conversion rate estimation with
        multi-task learning", WWW 2020.
    """
    return multitask(
        choose_towers(
            towers, multitask_model=multitask_model, model=model, propensity_model=propensity_model
        ),
        terms=lambda batch, context: {"cvr": ips_term(batch, context, detach_propensity=detach_propensity)},
        weights={"ctr": 1.0},
        **settings,
    )
