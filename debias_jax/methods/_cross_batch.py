"""Items of the last batches as further negatives of the next one."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from debias_jax._checks import check_choice
from debias_jax.methods._score_matrix import ClickBatch, FurtherItems
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model
from debias_jax.types import Array, Params

CACHES = ("recomputed", "stale")


class RecentItems(NamedTuple):
    """The items of the last clicks, the newest batch first.

    Attributes:
        items: int32 ``[K]``.
        vectors: ``[K, d]``, what the item tower gave in the step that had the click; None for items alone.
        n_filled: int32 scalar, how many slots hold an item, from the first one on.
    """

    items: Array
    vectors: Array | None
    n_filled: Array


def cross_batch(model: Model, *, cache_size: int, cache: str) -> dict[str, Any]:
    """What ``retrieval`` is given for a cache in the state; nothing for ``cache_size=0``.

    The loss finds the cached items in ``rows.further``. They came by as the items of the batch did, so that what
    corrects the batch's corrects them. Slots that are empty do not count, nor does any before step ``cache_warmup``.

    Args:
        model: a model with towers.
        cache_size: K, or 0.
        cache: ``"recomputed"`` embeds the items anew, with gradients; ``"stale"`` keeps their vectors, without.

    Returns:
        Keyword arguments of ``retrieval``, ``hparams`` among them.

    Raises:
        ValueError: ``cache`` is unknown, or ``cache_size`` is negative.
    """
    check_choice(CACHES, cache=cache)
    if cache_size < 0:
        raise ValueError(f"cache_size must be at least 0, which is no cache, got {cache_size}")
    if cache_size == 0:
        return {"hparams": {}}

    def fit(key, data, hparams) -> RecentItems:
        del key, data, hparams
        items, vectors = jnp.zeros(cache_size, jnp.int32), None
        if cache == "stale":
            made = jax.eval_shape(lambda key: model.item_tower(model.init(key), items), jax.random.key(0))
            vectors = jnp.zeros(made.shape, made.dtype)
        return RecentItems(items, vectors, jnp.zeros((), jnp.int32))

    def further(context: Context) -> FurtherItems:
        recent = context.extra
        live = (jnp.arange(cache_size) < recent.n_filled) & (context.step >= context.hparams["cache_warmup"])
        return FurtherItems(recent.items, live.astype(jnp.float32), recent.vectors)

    def prepare(params: Params, context: Context, batch: ClickBatch):
        recent = context.extra
        vectors = None if recent.vectors is None else model.item_tower(params, batch.items)
        # The loss reads what was there before the step.
        return recent, push(recent, batch.items, vectors, batch.where)

    return {"fit": fit, "further": further, "prepare": prepare, "hparams": {"cache_warmup": 0.0}}


def push(recent: RecentItems, items: Array, vectors: Array | None, where: Array) -> RecentItems:
    """Puts a batch before what is there and drops what no longer fits; padding takes no slot.

    Args:
        recent: the state.
        items: int32 ``[B]``.
        vectors: ``[B, d]``, or None.
        where: bool ``[B]``, False for padding.

    Returns:
        The new state.
    """
    (size,) = recent.items.shape
    kept = jnp.concatenate([where, jnp.arange(size) < recent.n_filled])
    slots = jnp.where(kept, jnp.cumsum(kept, dtype=jnp.int32) - 1, size)

    def moved(new: Array, old: Array) -> Array:
        return jnp.zeros_like(old).at[slots].set(jnp.concatenate([new, old]), mode="drop")

    return RecentItems(
        moved(items, recent.items),
        None if vectors is None else moved(vectors, recent.vectors),
        jnp.minimum(jnp.sum(kept, dtype=jnp.int32), size),
    )
