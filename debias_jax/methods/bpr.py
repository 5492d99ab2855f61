"""Bayesian personalised ranking."""

from debias_jax import losses
from debias_jax.methods.base import Method
from debias_jax.methods.batching import click_triplets
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    predict_logits,
    prediction_group,
    supervised,
    total_and_count,
)
from debias_jax.models.base import Model


def bpr(model: Model, *, batch_size: int = 1024, n_negatives: int = 1) -> Method:
    """Ranks each click above uniform unclicked items of its user, redrawn each epoch.

    L = mean of -log sigmoid(s_ui - s_uj). No propensity enters: an unexposed item counts as disliked.

    Args:
        model: any pairwise model.
        batch_size: triplets a step.
        n_negatives: triplets a click and epoch. With one, an epoch has a sixth of the steps of the pointwise methods
            with five negatives: on a small log it may want more epochs, or more negatives.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.bpr(models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['lr', 'weight_decay']

    Source:
        Rendle et al. 2009. Open choice: the negative is uniform over the user's unclicked items.
    """

    def term(params, context: Context, batch):
        positive = model.apply(params["prediction"], batch.users, batch.positives)
        negative = model.apply(params["prediction"], batch.users, batch.negatives)
        values = losses.bpr(positive, negative[..., None], reduce_fn=None)
        return total_and_count(values.reshape(batch.where.shape), batch.where)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=click_triplets(batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=ADAM_HPARAMS,
    )
