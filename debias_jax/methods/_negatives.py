"""Negatives of next-item training: what they are drawn from, and their log probabilities."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax.methods._terms import log_shares
from debias_jax.methods.sequences import SequenceData
from debias_jax.types import Array, Key

POOLS = ("uniform", "popularity", "unseen", "in_batch")
"""What negatives are drawn from, see ``methods.next_item``."""


class Draw(NamedTuple):
    """Negatives of some positions.

    Attributes:
        items: int32 ``[n, K]``, or ``[K]`` where the positions share them.
        log_q: log probability of each, up to a constant that all share; ``[n, K]``, ``[K]`` or a scalar.
        log_q_pos: the same of the targets; ``[n]`` or a scalar.
        where: bool ``[n, K]``, False for a negative that does not count; None if all do.
    """

    items: Array
    log_q: Array
    log_q_pos: Array
    where: Array | None


def draw_each(
    key: Key, data: SequenceData, users: Array, targets: Array, *, pool: str, n: int, exclude_target: bool
) -> Draw:
    """Draws ``n`` negatives for each position.

    Args:
        key: PRNG key.
        data: the training data.
        users: int32 ``[m]``, the user of each position.
        targets: int32 ``[m]``, its target.
        pool: of ``POOLS``, but not ``"in_batch"``.
        n: K.
        exclude_target: whether the target of a position is no negative of it; of the pool ``"uniform"`` it is not
            drawn then, of the others it is drawn and does not count.
    """
    n_items = data.counts.shape[0]
    shape = (targets.shape[0], n)
    if pool == "uniform":
        if exclude_target:
            items = sampling.uniform_items(key, shape, n_items=n_items - 1)
            return Draw(items + (items >= targets[:, None]), jnp.float32(0), jnp.float32(0), None)
        return Draw(sampling.uniform_items(key, shape, n_items=n_items), jnp.float32(0), jnp.float32(0), None)
    if pool == "unseen":
        # The target was seen, so it cannot be drawn.
        items, exists = sampling.uniform_unseen_items(
            key, jnp.broadcast_to(users[:, None], shape), data.seen, n_items=n_items
        )
        return Draw(items, jnp.float32(0), jnp.float32(0), exists)
    items = _popular(key, data, shape)
    log_q = log_shares(data.counts)
    where = items != targets[:, None] if exclude_target else None
    return Draw(items, log_q[items], log_q[targets], where)


def draw_shared(
    key: Key, data: SequenceData, targets: Array, where: Array, *, pool: str, n: int, exclude_target: bool
) -> Draw:
    """Draws ``n`` negatives that all positions share.

    Args:
        key: PRNG key.
        data: the training data.
        targets: int32 ``[m]``.
        where: bool ``[m]``, which positions have a target.
        pool: of ``POOLS``, but not ``"unseen"``; ``"in_batch"`` draws targets of the batch.
        n: K.
        exclude_target: whether the target of a position is no negative of it.
    """
    n_items = data.counts.shape[0]
    log_q = jnp.zeros(n_items, jnp.float32)
    if pool == "uniform":
        items = sampling.uniform_items(key, (n,), n_items=n_items)
    elif pool == "popularity":
        items, log_q = _popular(key, data, (n,)), log_shares(data.counts)
    else:
        # The r-th position that has a target, r uniform.
        order = jnp.cumsum(where, dtype=jnp.int32)
        rank = jax.random.randint(key, (n,), 0, jnp.maximum(order[-1], 1), dtype=jnp.int32)
        items, log_q = targets[jnp.searchsorted(order, rank + 1)], log_shares(data.target_counts)
    counted = items[None, :] != targets[:, None] if exclude_target else None
    return Draw(items, log_q[items], log_q[targets], counted)


def _popular(key: Key, data: SequenceData, shape: tuple[int, ...]) -> Array:
    """Items in proportion to how often they occur: those of random positions of the histories."""
    return data.items[sampling.uniform_items(key, shape, n_items=data.items.shape[0])]
