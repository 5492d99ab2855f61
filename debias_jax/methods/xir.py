"""Cache-augmented batch importance resampling."""

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp

from debias_jax import losses, sampling
from debias_jax._checks import check_choice
from debias_jax.methods._retrieval import (
    RetrievalSettings,
    Scores,
    log_popularity,
    log_weights,
    retrieval,
)
from debias_jax.methods.base import Method
from debias_jax.models.base import Model
from debias_jax.types import Array


class _Drawn(NamedTuple):
    """What the loss reads: the cache's items, and the columns that were drawn, ``[B, m]`` of batch and of cache."""

    items: Array
    of_batch: Array
    of_cache: Array


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
        loss_variant: see ``losses.resampled_softmax``; default ``variant``.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``cache_weight`` and ``occurrence_decay``, the factor of
        the old counts in each step (1: nothing is forgotten, as in the paper).

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``variant`` is unknown.

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
    batch_size = settings.get("batch_size", 1024)
    n = n_resampled or max(1, batch_size // 2)

    def fit(key, data, hparams):
        del hparams
        return sampling.init_cache(
            key, n_items=data.matrix_size[1], size=cache_size or batch_size, variant=variant
        )

    def prepare(map_rows, context, batch):
        cache, log_pop = context.extra, log_popularity(context.data)

        def draw(scores: Scores):
            key = jax.random.fold_in(context.key, scores.rows[0])
            logits = log_weights(scores, log_pop)
            return tuple(
                sampling.in_batch_resample(jax.random.fold_in(key, number), part, n=n)
                for number, part in enumerate((logits[:, :batch_size], logits[:, batch_size:]))
            )

        columns = jnp.concatenate([batch.items, cache.items])
        of_batch, of_cache = map_rows(draw, columns)
        weights = jnp.repeat(batch.where.astype(jnp.float32), n)
        counts = jnp.zeros(columns.shape[0]).at[of_batch.ravel()].add(weights)
        counts = counts.at[batch_size + of_cache.ravel()].add(weights)
        updated = sampling.update_cache(
            jax.random.fold_in(context.key, batch_size),
            cache,
            columns,
            counts,
            decay=context.hparams["occurrence_decay"],
            variant=variant,
        )
        return _Drawn(cache.items, of_batch, of_cache), updated

    def loss(scores: Scores, context):
        drawn = context.extra
        parts = (
            (scores.scores[:, batch_size:], drawn.of_cache),
            (scores.scores[:, :batch_size], drawn.of_batch),
        )
        of_cache, of_batch = (
            losses.resampled_softmax(
                scores.pos, part, indices[scores.rows], variant=loss_variant or variant, reduce_fn=None
            )
            for part, indices in parts
        )
        weight = context.hparams["cache_weight"]
        return weight * of_cache + (1.0 - weight) * of_batch

    return retrieval(
        model,
        loss=loss,
        further_items=lambda context: context.extra.items,
        fit=fit,
        prepare=prepare,
        hparams={"cache_weight": 0.5, "occurrence_decay": 1.0},
        **settings,
    )
