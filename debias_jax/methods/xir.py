"""Cache-augmented batch importance resampling."""

from typing import Unpack

import jax
import jax.numpy as jnp

from debias_jax import losses, sampling
from debias_jax._checks import check_choice
from debias_jax.methods._retrieval import (
    BATCH_SIZE,
    ClickBatch,
    RetrievalSettings,
    Scores,
    log_popularity,
    log_weights,
    resample,
    retrieval,
    size_or,
)
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
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic.generate(seed=0, n_users=8, n_items=6)
        >>> method = methods.xir(models.mf(8, 6, dim=2), batch_size=4)
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

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

    def draw(scores: Scores, context: Context) -> tuple[Array, Array, Array]:
        """Columns of the batch and of the cache ``[b, n]``, and whether the cache has any for a row."""
        logits = jax.lax.stop_gradient(log_weights(scores, log_popularity(context.data)))
        of_batch, of_cache = (
            resample(scores, part, jax.random.fold_in(context.key, number), n=n)
            for number, part in enumerate((logits[:, :batch_size], logits[:, batch_size:]))
        )
        return of_batch, of_cache, jnp.any(jnp.isfinite(logits[:, batch_size:]), axis=1)

    def prepare(sum_rows, context: Context, batch: ClickBatch):
        cache = context.extra
        columns = jnp.concatenate([batch.items, cache.items])

        def counts(scores: Scores) -> Array:
            of_batch, of_cache, has_cache = draw(scores, context)
            drawn = jnp.concatenate([of_batch, batch_size + of_cache], axis=1)
            counted = jnp.concatenate(
                [
                    jnp.broadcast_to(scores.where[:, None], of_batch.shape),
                    jnp.broadcast_to((scores.where & has_cache)[:, None], of_cache.shape),
                ],
                axis=1,
            )
            return jnp.zeros(columns.shape[0], jnp.int32).at[drawn].add(counted.astype(jnp.int32))

        updated = sampling.update_cache(
            jax.random.fold_in(context.key, 2),
            cache,
            columns,
            sum_rows(counts, columns),
            decay=context.hparams["occurrence_decay"],
            variant=variant,
        )
        return cache, updated

    def loss(scores: Scores, context: Context) -> Array:
        # Drawn again, by the same keys: the draws of all rows would take far more memory than those of a chunk.
        of_batch, of_cache, has_cache = draw(scores, context)
        batch_loss, cache_loss = (
            losses.resampled_softmax(scores.pos, part, indices, variant=loss_variant, reduce_fn=None)
            for part, indices in (
                (scores.scores[:, :batch_size], of_batch),
                (scores.scores[:, batch_size:], of_cache),
            )
        )
        # A row whose item is all that the cache holds has no negatives there.
        weight = jnp.where(has_cache, context.hparams["cache_weight"], 0.0)
        return weight * cache_loss + (1.0 - weight) * batch_loss

    return retrieval(
        model,
        loss=loss,
        further_items=lambda context: context.extra.items,
        fit=fit,
        prepare=prepare,
        hparams={"cache_weight": 0.5, "occurrence_decay": 1.0},
        **settings,
    )
