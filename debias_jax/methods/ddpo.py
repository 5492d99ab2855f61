"""DDPO: conversions are learnt from labels in the click space and from pseudo-labels outside it."""

from typing import Unpack

import jax
import jax.numpy as jnp

from debias_jax import risks
from debias_jax._reduce import safe_reduce
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import cross_entropy
from debias_jax.methods.multitask import MultitaskSettings, TowerBatch, choose_towers, multitask
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model
from debias_jax.types import Array


def ddpo(
    model: Model | None = None,
    propensity_model: Model | None = None,
    imputation_model: Model | None = None,
    multitask_model: Model | None = None,
    *,
    towers: str = "separate",
    **settings: Unpack[MultitaskSettings],
) -> Method:
    r"""Click loss, pseudo-label loss, and one self-normalised conversion loss for each side of the click.

    With the propensity :math:`\hat p`, the prediction :math:`\hat r` and a pseudo-label :math:`y`, the last two towers
    apart:

    .. math::
        L_y &= \frac{\sum o\,\mathrm{CE}(y; r)}{\sum o} \\
        L_1 &= \sum \frac{o}{\hat p}\, \mathrm{CE}(\hat r; \min(r + y, 1)) \,\Big/\, \sum \frac{o}{\hat p} \\
        L_0 &= \sum \frac{1 - o}{1 - \hat p}\, \mathrm{CE}(\hat r; y) \,\Big/\, \sum \frac{1 - o}{1 - \hat p} \\
        L &= \lambda_p \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o) + \lambda_y L_y + \lambda_1 L_1 + \lambda_0 L_0
             + \lambda_g \frac{1}{N} \sum_D \mathrm{CE}(\hat p\,\hat r; o\,r)

    :math:`\hat p` and :math:`y` are constants in :math:`L_1` and :math:`L_0`. Both are ``risks.snips`` of a batch, so
    normalisation by the batch is not new with BADR.

    Freedom: this is the method on ids. The official model also transfers features from the other towers into the
    prediction tower by attention, which pairwise models have none of. Its program divides :math:`L_1` and
    :math:`L_0` by the batch size once more; give their weights here 1 / (batch size) for that.

    Args:
        model: the prediction tower, for ``towers="separate"``.
        propensity_model: the propensity tower, for ``towers="separate"``.
        imputation_model: the pseudo-label tower, for ``towers="separate"``.
        multitask_model: all towers with shared embeddings, for ``towers="shared"``, e.g. ``models.mmoe``: logits of
            propensity, prediction and imputation along the last axis.
        towers: ``"separate"`` or ``"shared"`` (the paper's).
        **settings: see ``methods.multitask.MultitaskSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity`` (lower clip of :math:`\hat p` and of
        :math:`1 - \hat p`), ``ctr_weight``, ``imputation_weight``, ``click_weight``, ``nonclick_weight``,
        ``ctcvr_weight`` and, of separate towers, ``propensity_lr``, ``propensity_weight_decay``, ``imputation_lr``,
        ``imputation_weight_decay``.

    Raises:
        ValueError: an option is unknown, or a model that ``towers`` needs is missing.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.ddpo(mf, models.additive_logistic(8, 6), mf)
        >>> sorted(name for name in method.hparams if name.endswith("_weight"))
        ['click_weight', 'ctcvr_weight', 'ctr_weight', 'imputation_weight', 'nonclick_weight']

    Source:
        Su et al., "DDPO: direct dual propensity optimization for post-click conversion rate estimation", SIGIR 2024,
        and its program (TL-UESTC/DDPO).
    """
    return multitask(
        choose_towers(
            towers,
            multitask_model=multitask_model,
            model=model,
            propensity_model=propensity_model,
            imputation_model=imputation_model,
        ),
        terms=_terms,
        weights={"ctr": 1.0, "imputation": 1.0, "click": 1.0, "nonclick": 1.0, "ctcvr": 1.0},
        **settings,
    )


def _terms(batch: TowerBatch, context: Context) -> dict[str, Array]:
    rows, sample = batch.rows, batch.sample
    labels, observed = batch.batch.rows.labels, batch.batch.observed_rows

    def clipped(logits: Array) -> Array:
        p = jax.lax.stop_gradient(jax.nn.sigmoid(logits))
        return jnp.maximum(p, context.hparams["min_propensity"])

    def pseudo(logits: Array) -> Array:
        return jax.lax.stop_gradient(jax.nn.sigmoid(logits))

    return {
        "imputation": safe_reduce(cross_entropy(rows.imputation, labels), where=observed),
        "click": risks.snips(
            cross_entropy(rows.prediction, jnp.minimum(labels + pseudo(rows.imputation), 1.0)),
            observed=observed,
            propensity=clipped(rows.propensity),
        ),
        "nonclick": risks.snips(
            cross_entropy(sample.prediction, pseudo(sample.imputation)),
            observed=~batch.batch.sample.observed,
            # 1 - sigmoid(x) is sigmoid(-x), which keeps its digits.
            propensity=clipped(-sample.propensity),
        ),
    }
