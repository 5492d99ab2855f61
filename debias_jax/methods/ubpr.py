"""Unbiased Bayesian personalised ranking: BPR with inverse propensities."""

import jax.numpy as jnp

from debias_jax import losses, sampling
from debias_jax.methods._terms import popularity_exposure
from debias_jax.methods.base import Method
from debias_jax.methods.batching import clicks_and_other_items
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    predict_logits,
    prediction_group,
    supervised,
    total_and_count,
)
from debias_jax.models.base import Model

HPARAMS = {**ADAM_HPARAMS, "min_exposure": 1e-3, "beta": 0.0}
"""``min_exposure``: lower clip of the exposure; 1e-3 only guards items without clicks. ``beta``: the loss of a pair is
at least -beta; 0 is the non-negative estimator."""


def ubpr(model: Model, *, batch_size: int = 1024, n_negatives: int = 1, clipped: bool = True) -> Method:
    r"""Ranks each click above uniform other items, clicked or not, by ``losses.ubpr``.

    .. math::
        L = \frac{1}{n} \sum_{(u,i,j)} \max\Big\{ \frac{1}{\theta_i} \Big(1 - \frac{Y_{uj}}{\theta_j}\Big)
        \big(-\log \sigma(s_{ui} - s_{uj})\big), -\beta \Big\}

    with exposure theta_i = (c_i / max_j c_j)^(1/2). Without the clip and with the true exposure, L times the number of
    clicks is unbiased for 1 / (n_items - 1) times the pairwise loss on relevance, a sum over all pairs of items; the
    clip leaves out what pairs of two clicks take back.

    Args:
        model: any pairwise model.
        batch_size: triplets a step.
        n_negatives: triplets a click and epoch.
        clipped: whether a pair's loss is clipped at -beta. The unclipped loss is unbounded below, and training on it
            diverges unless it is stopped early.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_exposure`` and, if ``clipped``, ``beta``.

    Raises:
        ValueError: (when it is trained) there is one item only.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.ubpr(models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['beta', 'lr', 'min_exposure', 'weight_decay']

    Source:
        Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback", ICTIR 2020. The released program draws ten
        other items for each click once, and tuned beta to .0023 (Yahoo! R3) and .0080 (Coat).
    """

    def term(params, context: Context, batch):
        positive = model.apply(params["prediction"], batch.users, batch.positives)
        other = model.apply(params["prediction"], batch.users, batch.negatives)
        clicked = sampling.contains(context.data.click_set, batch.users, batch.negatives)
        exposure = jnp.maximum(context.data.popularity, context.hparams["min_exposure"])
        values = losses.ubpr(
            positive,
            other[..., None],
            clicked[..., None].astype(jnp.float32),
            pos_exposure=exposure[batch.positives],
            neg_exposure=exposure[batch.negatives][..., None],
            beta=context.hparams["beta"] if clipped else None,
            reduce_fn=None,
        )
        return total_and_count(values, batch.where)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=clicks_and_other_items(batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=HPARAMS if clipped else {name: value for name, value in HPARAMS.items() if name != "beta"},
        exposure=popularity_exposure,
    )
