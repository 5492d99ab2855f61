"""ESCM2-IPS: entire-space multi-task learning with an inverse-propensity risk."""

from typing import Unpack

from debias_jax.methods.base import Method
from debias_jax.methods.multitask import MultitaskSettings, choose_towers, ips_term, multitask
from debias_jax.models.base import Model


def escm2_ips(
    model: Model | None = None,
    propensity_model: Model | None = None,
    multitask_model: Model | None = None,
    *,
    towers: str = "separate",
    detach_propensity: bool = True,
    **settings: Unpack[MultitaskSettings],
) -> Method:
    r"""Losses of click, of conversion given a click by inverse propensity, and of click and conversion.

    .. math::
        L = \lambda_p \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o)
            + \lambda_c \frac{1}{N} \sum_D \frac{o\,e}{\hat p}
            + \lambda_g \frac{1}{N} \sum_D \mathrm{CE}(\hat p\,\hat r; o\,r)

    The last term gives propensity and prediction a gradient on every pair. With :math:`\lambda_g = 0` and
    ``detach_propensity=False`` this is ``multi_ips``.

    Freedom: :math:`1/\hat p` is a constant here, as in the program that the paper refers to, which also clips it at 15
    and multiplies it by the squared number of clicks of the batch; the re-implementation of the authors of BADR lets
    the gradient through. BADR "retains only the debias-related components": whether that drops the last term is not
    said, ``ctcvr_weight=0`` does.

    Args:
        model: the prediction tower, for ``towers="separate"``.
        propensity_model: the propensity tower, for ``towers="separate"``.
        multitask_model: both towers with shared embeddings, for ``towers="shared"``, e.g. ``models.mmoe``: logits of
            propensity and prediction along the last axis; more are not used.
        towers: ``"separate"`` or ``"shared"`` (the paper's).
        detach_propensity: whether the propensities are constants in the risk.
        **settings: see ``methods.multitask.MultitaskSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity``, ``ctr_weight``, ``cvr_weight``,
        ``ctcvr_weight`` and, of separate towers, ``propensity_lr``, ``propensity_weight_decay``.

    Raises:
        ValueError: an option is unknown, or a model that ``towers`` needs is missing.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.escm2_ips(models.mf(8, 6, dim=2), models.additive_logistic(8, 6))
        >>> sorted(name for name in method.hparams if name.endswith("_weight"))
        ['ctcvr_weight', 'ctr_weight', 'cvr_weight']

    Source:
        Wang et al., "ESCM2: entire space counterfactual multi-task model for post-click conversion rate estimation",
        SIGIR 2022, and the program of PaddleRec.
    """
    return multitask(
        choose_towers(
            towers, multitask_model=multitask_model, model=model, propensity_model=propensity_model
        ),
        terms=lambda batch, context: {"cvr": ips_term(batch, context, detach_propensity=detach_propensity)},
        weights={"ctr": 1.0, "cvr": 1.0, "ctcvr": 1.0},
        **settings,
    )
