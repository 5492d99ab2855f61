"""The low-variance pointwise estimator with popularity exposure."""

import jax.numpy as jnp

from debias_jax import losses
from debias_jax.methods._terms import popularity_exposure
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.recipes import Context, predict_logits, prediction_group, supervised, total_and_count
from debias_jax.methods.relmf import HPARAMS
from debias_jax.models.base import Model


def umf(
    model: Model, *, batch_size: int = 1024, n_negatives: int = 5, frame: str = "clicks_and_negatives"
) -> Method:
    """Minimises ``losses.umf`` (L2), the likelihood of clicks m p, with exposure theta_i = (c_i / max_j c_j)^(1/2).

    Its gradient is L1's, entry by entry, times m (1 - p) / (1 - m p): less variance because entries of low exposure
    count less, not because an entry tells more. With a model that cannot fit every entry the minimiser leans towards
    exposed items.

    Args:
        model: any pairwise model.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_exposure``.

    Raises:
        ValueError: unknown ``frame``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.umf(models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['lr', 'min_exposure', 'weight_decay']

    Source:
        Biif eq. 10 and 13 (there called UMF).
    """

    def term(params, context: Context, batch):
        logits = model.apply(params["prediction"], batch.users, batch.items)
        exposure = jnp.maximum(context.data.popularity[batch.items], context.hparams["min_exposure"])
        values = losses.umf(logits, batch.labels, exposure=exposure, reduce_fn=None)
        return total_and_count(values, batch.where, batch.weights)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=HPARAMS,
        exposure=popularity_exposure,
    )
