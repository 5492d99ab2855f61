"""Frames: which pairs one epoch trains on. Each function returns a ``BatchesFn`` for a recipe.

| frame | rows of an epoch | its mean loss estimates |
|---|---|---|
| ``observed_pairs`` | every observed row once | the observed (biased) risk, for a propensity to re-weight |
| ``clicks_and_negatives`` | every click, K uniform items for each as zeros | a risk with clicks over-weighted |
| ``clicks_and_uniform_pairs`` | every click, K uniform pairs for each, weighted | the risk over all pairs |
| ``click_triplets`` | every click with one unclicked item | the pairwise (BPR) risk |
| ``clicks_and_other_items`` | every click with one other item, clicked or not | the unbiased pairwise risk |
| ``clicks_in_parts`` | every click with K uniform items, part by part, then mixed | risks with clicks over-weighted |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax._checks import check_choice, check_sizes
from debias_jax.methods.base import BatchesFn, PairBatch, TrainData, TripletBatch
from debias_jax.types import Array, Key


class PartBatch(NamedTuple):
    """Rows that are clicks, or uniform items for the user of a click.

    Attributes:
        slots: int32 ``[B]``, the place of a row's click in the order that cuts the clicks into parts.
        items: int32 ``[B]``, the drawn item; of a click not read.
        is_click: bool ``[B]``.
        where: bool ``[B]``.
        residual: bool, whether this step trains the residuals (on all parts) or the sub-models (on one part).
        refresh: bool, whether the targets are drawn up anew before this step.
    """

    slots: Array
    items: Array
    is_click: Array
    where: Array
    residual: Array
    refresh: Array


def _rows_to_batches(key: Key, rows, keep: Array, batch_size: int):
    """Shuffles ``rows`` (a pytree of ``[R]`` arrays) into ``[steps, B]`` batches and their mask."""
    index, where = sampling.epoch_batches(key, keep.shape[0], batch_size=batch_size)
    return jax.tree.map(lambda row: row[index], rows), where & keep[index]


def observed_pairs(*, batch_size: int) -> BatchesFn:
    """Every observed row once an epoch, in random order.

    Args:
        batch_size: rows a step; the last batch is padded.
    """
    check_sizes(batch_size=batch_size)

    def batches(data: TrainData, key: Key) -> PairBatch:
        weights = jnp.ones(data.users.shape, jnp.float32)
        rows = (data.users, data.items, data.labels, weights, data.propensities)
        fields, where = _rows_to_batches(key, rows, jnp.ones(data.users.shape, bool), batch_size)
        return PairBatch(*fields[:-1], where=where, propensities=fields[-1])

    return batches


def _with_exposed_negatives(data: TrainData, users: Array, items: Array, labels, weights, keep):
    """Appends the known negatives of Biif's validation pairs, which are training rows too."""
    n = data.exposed_users.shape[0]
    return (
        jnp.concatenate([users, data.exposed_users]),
        jnp.concatenate([items, data.exposed_items]),
        jnp.concatenate([labels, jnp.zeros(n, jnp.float32)]),
        jnp.concatenate([weights, jnp.ones(n, jnp.float32)]),
        jnp.concatenate([keep, data.exposed_labels == 0]),
    )


def clicks_and_negatives(*, batch_size: int, n_negatives: int = 5) -> BatchesFn:
    """Every click, and for each click ``n_negatives`` uniform items of its user as zeros (CJMF's sampler).

    Items are redrawn each epoch; a drawn item that the user clicked is dropped. The known negatives of Biif's
    "probably exposed" pairs, where the data has them, are rows too (the paper adds these pairs to training).

    Clicks are over-weighted against zeros, so that neither ``losses.relmf`` nor ``losses.umf`` is unbiased on this
    frame: their optimum moves from gamma to kappa gamma / (kappa m gamma + 1 - m gamma), kappa the over-weight.
    ``clicks_and_uniform_pairs`` is the frame without that bias.

    Args:
        batch_size: rows a step.
        n_negatives: K.
    """
    check_sizes(batch_size=batch_size, n_negatives=n_negatives)

    def batches(data: TrainData, key: Key) -> PairBatch:
        draw_key, shuffle_key = jax.random.split(key)
        users, items = data.clicks
        n = users.shape[0]
        negative_users = jnp.repeat(users, n_negatives, total_repeat_length=n * n_negatives)
        negatives = sampling.uniform_items(draw_key, (n * n_negatives,), n_items=data.popularity.shape[0])
        clicked = sampling.contains(data.click_set, negative_users, negatives)
        rows = _with_exposed_negatives(
            data,
            jnp.concatenate([users, negative_users]),
            jnp.concatenate([items, negatives]),
            jnp.concatenate([jnp.ones(n, jnp.float32), jnp.zeros(n * n_negatives, jnp.float32)]),
            jnp.ones(n * (1 + n_negatives), jnp.float32),
            jnp.concatenate([jnp.ones(n, bool), ~clicked]),
        )
        fields, where = _rows_to_batches(shuffle_key, rows[:-1], rows[-1], batch_size)
        return PairBatch(*fields, where)

    return batches


def clicks_and_uniform_pairs(*, batch_size: int, n_negatives: int = 5) -> BatchesFn:
    """Every click, and ``n_negatives`` uniform (user, item) pairs per click as zeros, weighted to the whole matrix.

    A zero has the weight (number of unclicked pairs) / (number of zeros drawn), a click has weight 1 (of a pair that
    was logged several times all rows together), both divided by their mean over the epoch; the weighted mean over an
    epoch is then an unbiased estimate of the mean over all pairs, whatever ``n_negatives`` is. A drawn pair that was
    clicked is dropped.

    Args:
        batch_size: rows a step.
        n_negatives: zeros drawn per click.
    """
    check_sizes(batch_size=batch_size, n_negatives=n_negatives)

    def batches(data: TrainData, key: Key) -> PairBatch:
        draw_key, shuffle_key = jax.random.split(key)
        users, items = data.clicks
        n = users.shape[0]
        n_users, n_items = data.click_set.indptr.shape[0] - 1, data.popularity.shape[0]
        zero_users, zero_items = sampling.uniform_pairs(
            draw_key, (n * n_negatives,), n_users=n_users, n_items=n_items
        )
        keep = ~sampling.contains(data.click_set, zero_users, zero_items)
        # Float before the product: n_users * n_items passes 2^31 for catalogues of ordinary size.
        # A pair that was logged twice is two rows, and one pair of the matrix.
        pair, clicked_pairs = sampling.find(data.click_set, users, items), data.click_set.items.shape[0]
        share = 1.0 / jnp.zeros(clicked_pairs, jnp.float32).at[pair].add(1.0)[pair]
        unclicked = float(n_users) * float(n_items) - clicked_pairs
        zero_weight = unclicked / jnp.maximum(jnp.sum(keep, dtype=jnp.float32), 1.0)
        mean_weight = (clicked_pairs + unclicked) / (n + jnp.maximum(jnp.sum(keep, dtype=jnp.float32), 1.0))
        rows = (
            jnp.concatenate([users, zero_users]),
            jnp.concatenate([items, zero_items]),
            jnp.concatenate([jnp.ones(n, jnp.float32), jnp.zeros(n * n_negatives, jnp.float32)]),
            jnp.concatenate(
                [
                    share / mean_weight,
                    jnp.full(n * n_negatives, zero_weight / mean_weight, jnp.float32),
                ]
            ),
        )
        fields, where = _rows_to_batches(
            shuffle_key, rows, jnp.concatenate([jnp.ones(n, bool), keep]), batch_size
        )
        return PairBatch(*fields, where)

    return batches


def click_triplets(*, batch_size: int, n_negatives: int = 1) -> BatchesFn:
    """Every click ``n_negatives`` times an epoch, each time with another item that its user did not click.

    Args:
        batch_size: triplets a step.
        n_negatives: triplets a click; each draws its own unclicked item, uniformly.
    """
    check_sizes(batch_size=batch_size, n_negatives=n_negatives)

    def batches(data: TrainData, key: Key) -> TripletBatch:
        draw_key, shuffle_key = jax.random.split(key)
        n = data.clicks[0].shape[0] * n_negatives
        users, items = (jnp.repeat(ids, n_negatives, total_repeat_length=n) for ids in data.clicks)
        negatives, exists = sampling.uniform_unseen_items(
            draw_key, users, data.click_set, n_items=data.popularity.shape[0]
        )
        fields, where = _rows_to_batches(shuffle_key, (users, items, negatives), exists, batch_size)
        return TripletBatch(*fields, where)

    return batches


def without_exposed(frame: BatchesFn) -> BatchesFn:
    """A pair frame with the "probably exposed" pairs masked out of it, positive and negative ones.

    What ``clicks_and_uniform_pairs`` then estimates is the risk over all other pairs, its weights apart, which still
    count the exposed ones.

    Args:
        frame: gives ``PairBatch``.
    """

    def batches(data: TrainData, key: Key) -> PairBatch:
        batch = frame(data, key)
        n = data.observed_set.items.shape[0]
        exposed = sampling.find(data.observed_set, data.exposed_users, data.exposed_items)
        # Position n stands for pairs that are not in the log.
        held_out = jnp.zeros(n + 1, bool).at[exposed].set(exposed >= 0)
        position = sampling.find(data.observed_set, batch.users, batch.items)
        return batch._replace(where=batch.where & ~held_out[jnp.where(position < 0, n, position)])

    return batches


def clicks_and_other_items(*, batch_size: int, n_negatives: int = 1) -> BatchesFn:
    """Every click ``n_negatives`` times an epoch, each time with another uniform item, clicked or not.

    Args:
        batch_size: triplets a step; their ``negatives`` are the other items.
        n_negatives: triplets a click.

    Raises:
        ValueError: (at the first draw) there is one item only.
    """
    check_sizes(batch_size=batch_size, n_negatives=n_negatives)

    def batches(data: TrainData, key: Key) -> TripletBatch:
        draw_key, shuffle_key = jax.random.split(key)
        n = data.clicks[0].shape[0] * n_negatives
        users, items = (jnp.repeat(ids, n_negatives, total_repeat_length=n) for ids in data.clicks)
        others = sampling.uniform_items(draw_key, (n,), n_items=data.matrix_size[1] - 1)
        # Numbered without the clicked item itself.
        others += others >= items
        fields, where = _rows_to_batches(shuffle_key, (users, items, others), jnp.ones(n, bool), batch_size)
        return TripletBatch(*fields, where)

    return batches


def part_size(data: TrainData, n_parts: int) -> int:
    """Clicks of a part of ``clicks_in_parts``; the last may have fewer."""
    return -(-data.clicks[0].shape[0] // n_parts)


def clicks_in_parts(*, batch_size: int, n_parts: int, n_negatives: int = 5) -> BatchesFn:
    """CJMF's: part by part, in random order, every click with K uniform items; then once more with all parts mixed.

    Args:
        batch_size: rows a step; no batch of the first pass holds rows of two parts.
        n_parts: C.
        n_negatives: K.
    """
    check_sizes(batch_size=batch_size, n_parts=n_parts, n_negatives=n_negatives)

    def batches(data: TrainData, key: Key) -> PartBatch:
        n, size = data.clicks[0].shape[0], part_size(data, n_parts)
        order_key, draw_key, residual_key, *part_keys = jax.random.split(key, 3 + n_parts)

        def rows(key: Key, n_clicks: int, first: Array):
            """Batches of ``n_clicks`` slots from ``first`` on, each once as a click and with its negatives."""
            index, where = sampling.epoch_batches(key, n_clicks * (1 + n_negatives), batch_size=batch_size)
            slots = first + index % n_clicks
            # The last part may be short.
            begins = jnp.arange(index.shape[0]) == 0
            return jnp.minimum(slots, n - 1), index < n_clicks, where & (slots < n), begins

        starts = size * jax.random.permutation(order_key, jnp.arange(n_parts, dtype=jnp.int32))
        of_parts = jax.vmap(lambda key, first: rows(key, size, first))(jnp.stack(part_keys), starts)
        of_parts = [x.reshape(-1, *x.shape[2:]) for x in of_parts]
        of_all = rows(residual_key, n, jnp.int32(0))
        slots, is_click, where, begins = (
            jnp.concatenate(pair) for pair in zip(of_parts, of_all, strict=True)
        )
        items = sampling.uniform_items(draw_key, slots.shape, n_items=data.matrix_size[1])
        residual = jnp.arange(slots.shape[0]) >= of_parts[0].shape[0]
        return PartBatch(slots, items, is_click, where, residual, begins)

    return batches


FRAMES = {
    "observed": lambda batch_size, n_negatives: observed_pairs(batch_size=batch_size),
    "clicks_and_negatives": lambda batch_size, n_negatives: clicks_and_negatives(
        batch_size=batch_size, n_negatives=n_negatives
    ),
    "clicks_and_uniform_pairs": lambda batch_size, n_negatives: clicks_and_uniform_pairs(
        batch_size=batch_size, n_negatives=n_negatives
    ),
}
"""Pair frames by their name in a config."""


def pair_frame(name: str, *, batch_size: int, n_negatives: int) -> BatchesFn:
    """The pair frame of that name.

    Args:
        name: a key of ``FRAMES``.
        batch_size: rows a step.
        n_negatives: zeros drawn per click, where the frame draws any.

    Raises:
        ValueError: the name is unknown.
    """
    check_choice(FRAMES, frame=name)
    return FRAMES[name](batch_size, n_negatives)
