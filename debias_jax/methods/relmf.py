"""Relevance matrix factorisation: the unbiased pointwise estimator with popularity propensities."""

import jax.numpy as jnp

from debias_jax import losses
from debias_jax.methods._terms import popularity_exposure
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    predict_logits,
    prediction_group,
    supervised,
    total_and_count,
)
from debias_jax.models.base import Model

HPARAMS = {**ADAM_HPARAMS, "min_exposure": 1e-3}
"""``min_exposure``: lower clip M of the exposure (Saito's clipped estimator); 1e-3 only guards items without clicks."""


def relmf(
    model: Model,
    *,
    batch_size: int = 1024,
    n_negatives: int = 5,
    frame: str = "clicks_and_negatives",
    probability_clip: float | None = 0.01,
) -> Method:
    """Minimises ``losses.relmf`` (L1) with exposure theta_i = (c_i / max_j c_j)^(1/2).

    Args:
        model: any pairwise model.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``; only ``"clicks_and_uniform_pairs"`` keeps L1 unbiased.
        probability_clip: keeps sigma(s) inside [clip, 1 - clip] in the loss, as CJMF's program does; L1 is unbounded
            below for a clicked pair with exposure under 1, and None leaves it so.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_exposure``.

    Raises:
        ValueError: unknown ``frame``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.relmf(models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['lr', 'min_exposure', 'weight_decay']

    Source:
        Saito et al. 2020; Biif eq. 4 (log loss, where Saito's released program uses the squared loss), eq. 13.
    """

    def term(params, context: Context, batch):
        logits = model.apply(params["prediction"], batch.users, batch.items)
        exposure = jnp.maximum(context.data.popularity[batch.items], context.hparams["min_exposure"])
        values = losses.relmf(
            logits, batch.labels, exposure=exposure, probability_clip=probability_clip, reduce_fn=None
        )
        return total_and_count(values, batch.where, batch.weights)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=HPARAMS,
        exposure=popularity_exposure,
    )
