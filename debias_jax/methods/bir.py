"""Batch importance resampling."""

from typing import Unpack

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import RESAMPLED_VARIANTS, against_total, resampled_total
from debias_jax.methods._retrieval import (
    BATCH_SIZE,
    RetrievalSettings,
    log_popularity,
    retrieval,
    size_or,
)
from debias_jax.methods._score_matrix import Clicks, Rows
from debias_jax.methods.base import Method
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model
from debias_jax.types import Array


def bir(
    model: Model,
    *,
    n_resampled: int | None = None,
    variant: str = "published",
    **settings: Unpack[RetrievalSettings],
) -> Method:
    r"""Each click against items of its batch that are drawn anew, by their scores over their popularity.

    .. math:: w(j|u) \propto e^{s_{uj}} / \mathrm{pop}(j), \qquad R_u \sim w(\cdot|u), \qquad
              L = -\frac{1}{B} \sum_{(u, i)} \log \frac{e^{s_{ui}}}{\sum_{j \in R_u} e^{s_{uj}}}

    The drawn items follow the softmax as B grows, and the loss weighs them by :math:`e^s` again: as published it aims
    at the softmax of twice the scores, as ``ssl_pop(sharpness=2)`` does without drawing; ``variant="mean"`` aims at the
    softmax. All variants: ``losses.resampled_softmax``.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        n_resampled: m, items drawn for each row; default B.
        variant: of the loss: ``"published"``, ``"released"``, ``"corrected"`` or ``"mean"``.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``variant`` is unknown, or ``n_resampled`` is below 1.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.bir(models.mf(8, 6, dim=2), batch_size=4)
        >>> sorted(method.hparams)
        ['lr', 'weight_decay']

    Source:
        Chen et al., "Cache-augmented inbatch importance resampling for training recommender retriever", NeurIPS 2022,
        section 3.1.
    """
    check_choice(RESAMPLED_VARIANTS, variant=variant)
    n = size_or(settings.get("batch_size", BATCH_SIZE), n_resampled=n_resampled)

    def totals(rows: Rows, context: Context) -> Array:
        logits = rows.batch.log_weights(log_popularity(context.data))
        counts = sampling.in_batch_counts(context.key, logits, n=n, rows=rows.numbers)
        log_w = None
        if variant == "corrected":
            # The probability of a click's column, of which those of one item share the item's.
            held = jnp.where(jnp.isfinite(rows.batch.log_counts), rows.batch.log_counts, 0.0)
            log_w = jax.nn.log_softmax(logits, axis=1) - held
        return resampled_total(rows.batch.scores, counts, log_w=log_w, variant=variant)

    def loss(clicks: Clicks, total: Array, context: Context) -> Array:
        del context
        return against_total(clicks.pos, total, variant)

    return retrieval(model, totals=totals, loss=loss, **settings)
