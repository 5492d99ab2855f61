"""The losses of next-item training, and their sums over the positions of a batch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax.numpy as jnp

from debias_jax import losses
from debias_jax.losses.chunked import SCORES_PER_CHUNK
from debias_jax.methods._negatives import Draw
from debias_jax.methods._terms import log_shares
from debias_jax.methods.base import Range
from debias_jax.methods.recipes import Context
from debias_jax.types import Array


class Loss(NamedTuple):
    """A loss of this method.

    Attributes:
        value: ``(pos [n], neg [n, K], log_q_pos, log_q_neg, counts, hparams, n_items) -> [n]``; ``None`` for a loss of
            all scores.
        dense: ``(scores [n, V], targets [n], hparams) -> [n]`` of a loss of all scores that has no fused form.
        hparams: its numeric hyperparameters.
        ranges: see ``Method.ranges``.
        pool: what its negatives are drawn from if nothing is said.
        n_negatives: how many.
        needs_negative: whether a position of which no negative is left says nothing, and is no part of the mean.
    """

    value: Callable[..., Array] | None = None
    dense: Callable[[Array, Array, dict[str, Array]], Array] | None = None
    hparams: Mapping[str, float] = MappingProxyType({})
    ranges: Mapping[str, Range] = MappingProxyType({})
    pool: str | None = None
    n_negatives: int | None = None
    needs_negative: bool = False


def _sampled(function, *names: str, n_items: bool = False):
    """A loss of (pos, neg) with hyperparameters of these names."""

    def value(pos, neg, log_q_pos, log_q_neg, counts, hparams, size):
        del log_q_pos, log_q_neg
        options = {name: hparams[name] for name in names} | ({"n_items": size} if n_items else {})
        return function(pos, neg, counts=counts, **options, reduce_fn=None)

    return value


def _importance(*, positive_in_sum: bool):
    def value(pos, neg, log_q_pos, log_q_neg, counts, hparams, size):
        del hparams, size
        return losses.importance_sampled_softmax(
            pos,
            neg,
            log_q_pos=log_q_pos,
            log_q_neg=log_q_neg,
            counts=counts,
            positive_in_sum=positive_in_sum,
            reduce_fn=None,
        )

    return value


def _truncated(scores, targets, hparams):
    return losses.truncated_cross_entropy(scores, targets, eta=hparams["eta"], reduce_fn=None)


LOSSES = {
    "cross_entropy": Loss(),
    "truncated_cross_entropy": Loss(dense=_truncated, hparams={"eta": 1.0}),
    "scaled_cross_entropy": Loss(
        _sampled(losses.scaled_cross_entropy, "alpha"),
        hparams={"alpha": 100.0},
        ranges={"alpha": Range(0.0, without_ends=True)},
        pool="uniform",
        n_negatives=100,
    ),
    "noise_contrastive": Loss(
        _sampled(losses.noise_contrastive, "c", n_items=True),
        hparams={"c": 10.0},
        pool="uniform",
        n_negatives=100,
    ),
    "negative_sampling": Loss(_sampled(losses.negative_sampling), pool="uniform", n_negatives=100),
    "importance_sampled_softmax": Loss(_importance(positive_in_sum=True), pool="popularity", n_negatives=100),
    "importance_sampling": Loss(
        _importance(positive_in_sum=False), pool="uniform", n_negatives=100, needs_negative=True
    ),
    "bce": Loss(_sampled(losses.bce), pool="unseen", n_negatives=1),
    "bpr": Loss(_sampled(losses.bpr), pool="unseen", n_negatives=1, needs_negative=True),
    "gbce": Loss(
        _sampled(losses.gbce, "t", n_items=True),
        hparams={"t": 0.75},
        pool="unseen",
        n_negatives=256,
    ),
}
"""The losses by name."""


def positions_that_count(spec: Loss, where: Array, draw: Draw) -> Array:
    """``where`` without the positions that have no negative, if the loss needs one, ``[n]``."""
    if not spec.needs_negative or draw.where is None:
        return where
    return where & jnp.any(draw.where, axis=-1)


def shared_total(spec: Loss, encoded, targets, where, table, draw: Draw, hparams, n_items: int) -> Array:
    """Sum of the loss of the positions in ``where`` on the same drawn items."""
    values = values_of_draws(
        spec, encoded, targets, table, draw, hparams, encoded @ table[draw.items].T, n_items
    )
    return jnp.sum(jnp.where(where, values, 0.0))


def full_total(spec: Loss, encoded, table, targets, where, hparams, chunk) -> Array:
    """Sum of a loss of all scores."""
    if spec.dense is None:
        return losses.chunked_cross_entropy(
            encoded, table, targets, chunk=chunk, where=where, reduce_fn=jnp.sum
        )

    def values_of(table, inputs):
        encoded, targets = inputs
        return spec.dense(encoded @ table.T, targets, hparams)

    return losses.in_chunks(
        values_of,
        table,
        (encoded, targets),
        chunk=chunk or max(1, SCORES_PER_CHUNK // table.shape[0]),
        where=where,
        reduce_fn=jnp.sum,
    )


def values_of_draws(
    spec: Loss, encoded, targets, table, draw: Draw, hparams, neg: Array, n_items: int
) -> Array:
    """The loss of drawn items by their scores ``[n, K]``."""
    pos = jnp.sum(encoded * table[targets], axis=-1)
    counts = None if draw.where is None else draw.where.astype(neg.dtype)
    return spec.value(pos, neg, draw.log_q_pos, draw.log_q, counts, hparams, n_items)


def values_by_counts(spec: Loss, encoded, targets, table, draw: Draw, context: Context) -> Array:
    """The loss of drawn items by the scores of all, and how often each was drawn."""
    scores = encoded @ table.T
    rows = jnp.arange(targets.shape[0], dtype=jnp.int32)
    added = (
        jnp.ones(draw.items.shape, scores.dtype) if draw.where is None else draw.where.astype(scores.dtype)
    )
    counts = jnp.zeros(scores.shape, scores.dtype).at[rows[:, None], draw.items].add(added)
    pos = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
    # The draw's log probabilities are those of its items; here all items stand in their order.
    log_q = draw.log_q if jnp.ndim(draw.log_q) == 0 else log_shares(context.data.counts)
    return spec.value(pos, scores, draw.log_q_pos, log_q, counts, context.hparams, table.shape[0])
