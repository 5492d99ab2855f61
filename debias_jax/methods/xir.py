"""Cache-augmented batch importance resampling."""

from typing import Unpack

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import against_total, resampled_total
from debias_jax.methods._retrieval import (
    BATCH_SIZE,
    RetrievalSettings,
    log_popularity,
    retrieval,
    size_or,
)
from debias_jax.methods._score_matrix import Clicks, Columns, FurtherItems, Rows
from debias_jax.methods.base import Method
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model
from debias_jax.types import Array

LOSS_VARIANTS = ("published", "released", "mean")


def xir(
    model: Model,
    *,
    cache_size: int | None = None,
    n_resampled: int | None = None,
    variant: str = "published",
    loss_variant: str | None = None,
    **settings: Unpack[RetrievalSettings],
) -> Method:
    r"""``bir`` on the batch and on a cache of items that were resampled often before.

    .. math:: L = \lambda\, L_{\mathrm{BIR}}(C) + (1 - \lambda)\, L_{\mathrm{BIR}}(B)

    The cache is a part of the state (``sampling.update_cache``); its items are embedded anew in every step and receive
    gradients. :math:`\lambda` is the hyperparameter ``cache_weight``.

    Freedom: the weights by which the cache is resampled, :math:`e^s` over popularity as in the batch. Cached items do
    not follow popularity, so that this is no importance sampling of the softmax: with frozen scores the cache gathers
    the items that all users score high.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        cache_size: |C|; default B.
        n_resampled: m, items drawn for each row from either; default B / 2.
        variant: of the cache, see ``sampling.update_cache``: ``"published"`` or ``"released"``.
        loss_variant: see ``losses.resampled_softmax``: ``"published"``, ``"released"`` or ``"mean"``; default
            ``variant``.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``cache_weight`` and ``occurrence_decay``, the factor of
        the old counts in each step (1: nothing is forgotten, as in the paper).

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: a variant is unknown, or a size is below 1.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.xir(models.mf(8, 6, dim=2), batch_size=4)
        >>> sorted(method.hparams)
        ['cache_weight', 'lr', 'occurrence_decay', 'weight_decay']

    Source:
        Chen et al., "Cache-augmented inbatch importance resampling for training recommender retriever", NeurIPS 2022,
        section 3.2 and algorithm 2.
    """
    check_choice(("published", "released"), variant=variant)
    loss_variant = variant if loss_variant is None else loss_variant
    check_choice(LOSS_VARIANTS, loss_variant=loss_variant)
    batch_size = settings.get("batch_size", BATCH_SIZE)
    size = size_or(batch_size, cache_size=cache_size)
    n = size_or(max(1, batch_size // 2), n_resampled=n_resampled)

    def fit(key, data, hparams):
        del hparams
        return sampling.init_cache(key, n_items=data.matrix_size[1], size=size, variant=variant)

    def draw(number: int, part: Columns, rows: Rows, context: Context) -> Array:
        """How often each row draws the columns of the batch (number 0) or of the cache (1)."""
        key, logits = jax.random.fold_in(context.key, number), part.log_weights(log_popularity(context.data))
        return sampling.in_batch_counts(key, logits, n=n, rows=rows.numbers)

    def has_cache(rows: Rows) -> Array:
        """Whether the cache holds anything for a row: its item may be all, and left out."""
        some = jnp.any(jnp.isfinite(rows.further.log_counts), axis=1)
        return jnp.broadcast_to(some, rows.numbers.shape)

    def occurrences(items: Array, weights: Array, drawn: Array, context: Context) -> Array:
        # Whole numbers, in full float32 on every device.
        counts = jnp.matmul(weights, drawn, precision="highest")
        return jnp.zeros_like(context.extra.occurrences).at[items].add(counts)

    def total_of_batch(rows: Rows, context: Context) -> tuple[Array, Array]:
        drawn = draw(0, rows.batch, rows, context)
        total = resampled_total(rows.batch.scores, drawn, variant=loss_variant)
        return total, occurrences(rows.batch.items, rows.weights, drawn, context)

    def total_of_cache(rows: Rows, context: Context) -> tuple[tuple[Array, Array], Array]:
        some = has_cache(rows)
        # A row without a cache draws its first column, and is weighed by 0.
        drawn = draw(1, rows.further, rows, context)
        total = resampled_total(rows.further.scores, drawn, variant=loss_variant)
        weights = jnp.where(some, rows.weights, 0.0)
        return (total, some), occurrences(rows.further.items, weights, drawn, context)

    def update(counts: tuple[Array, Array], context: Context) -> sampling.ItemCache:
        of_batch, of_cache = counts
        return sampling.update_cache(
            jax.random.fold_in(context.key, 2),
            context.extra,
            jnp.arange(of_batch.shape[0]),
            of_batch + of_cache,
            decay=context.hparams["occurrence_decay"],
            variant=variant,
        )

    def loss(clicks: Clicks, of_rows: tuple[Array, tuple[Array, Array]], context: Context) -> Array:
        of_batch, (of_cache, some) = of_rows
        weight = jnp.where(some, context.hparams["cache_weight"], 0.0)
        in_batch, in_cache = (
            against_total(clicks.pos, total, loss_variant) for total in (of_batch, of_cache)
        )
        return weight * in_cache + (1.0 - weight) * in_batch

    return retrieval(
        model,
        totals=(total_of_batch, total_of_cache),
        loss=loss,
        further=lambda context: FurtherItems(context.extra.items),
        fit=fit,
        update=update,
        hparams={"cache_weight": 0.5, "occurrence_decay": 1.0},
        **settings,
    )
