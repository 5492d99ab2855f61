"""What the retrieval methods share: batches of clicks, the score matrix of a batch, popularity, chunked gradients.

A batch holds clicks, each a row (its user) and a column (its item). Rows that fill up the last batch of an epoch are no
candidates of the others.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from debias_jax import losses, sampling
from debias_jax.errors import ConfigError
from debias_jax.methods._terms import predict_logits, prediction_group
from debias_jax.methods.base import BatchesFn, Method, TrainData
from debias_jax.methods.recipes import ADAM_HPARAMS, Context, supervised, total_and_count
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params, PyTree


class ClickBatch(NamedTuple):
    """Clicks.

    Attributes:
        users: int32 ``[B]``.
        items: int32 ``[B]``.
        where: bool ``[B]``, False for padding.
    """

    users: Array
    items: Array
    where: Array


def click_batches(*, batch_size: int) -> BatchesFn:
    """Every click once an epoch, in random order.

    Args:
        batch_size: clicks a step; the last batch is padded.

    Returns:
        A function of data and key that gives ``ClickBatch`` with leading axes ``[steps]``.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    def batches(data: TrainData, key: Key) -> ClickBatch:
        users, items = data.clicks
        index, where = sampling.epoch_batches(key, users.shape[0], batch_size=batch_size)
        return ClickBatch(users[index], items[index], where)

    return batches


def log_popularity(data: TrainData) -> Array:
    """Log share of each item among the clicks, float32 ``[n_items]``; an item without clicks counts as the rarest."""
    # ``popularity`` is the root of counts over the largest count.
    counts = data.popularity**2
    rarest = jnp.min(jnp.where(counts > 0, counts, 1.0))
    return jnp.log(jnp.where(counts > 0, counts, rarest)) - jnp.log(jnp.sum(counts))


class Scores(NamedTuple):
    """The rows of a batch, or of a chunk of it, against columns: the items of the batch, then further ones.

    Attributes:
        scores: ``[b, C]``.
        items: int32 ``[C]``.
        rows: int32 ``[b]``, the rows' numbers in the batch, which are the columns of their own items.
        candidates: bool ``[b, C]``, False for padding and for what is to be left out; True at a row's own column.
        where: bool ``[b]``, False for padding among the rows.
        n_clicks: float scalar, rows of the batch that are no padding.
    """

    scores: Array
    items: Array
    rows: Array
    candidates: Array
    where: Array
    n_clicks: Array

    @property
    def pos(self) -> Array:
        """``[b]`` scores of the rows' own items."""
        return jnp.take_along_axis(self.scores, self.rows[:, None], axis=1)[:, 0]

    def softmax(self, **options) -> Array:
        """``losses.in_batch_softmax`` of each row."""
        return losses.in_batch_softmax(
            self.scores, targets=self.rows, candidates=self.candidates, reduce_fn=None, **options
        )


BATCH_SIZE = 1024
"""Clicks a step, if nothing is said."""


def size_or(default: int, **given: int | None) -> int:
    """The size that is given, which must be at least 1, or the default where it is None."""
    ((name, value),) = given.items()
    if value is None:
        return default
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value


RowLoss = Callable[[Scores, Context], Array]
"""``(scores of a chunk of rows, context) -> [b]`` losses of the rows."""


class RetrievalSettings(TypedDict, total=False):
    """Keyword arguments that every retrieval method takes.

    Attributes:
        batch_size: B, clicks a step; default 1024. The last batch of an epoch is filled up.
        remove_accidental_hits: whether another column with a row's own item is left out of its negatives; default
            False, as in the papers.
        chunk: rows of the score matrix that are held at once, a divisor of ``batch_size``; default None, all of them.
            The gradient is that of the whole batch: both towers are evaluated once for it, and the B x B scores chunk
            by chunk, a second time on the way back.
    """

    batch_size: int
    remove_accidental_hits: bool
    chunk: int | None


def retrieval(
    model: Model,
    *,
    loss: RowLoss,
    further_items: Callable[[Context], Array] | None = None,
    prepare: Callable[[Callable, Context, ClickBatch], tuple[PyTree, PyTree]] | None = None,
    fit: Callable[[Key, TrainData, dict[str, Array]], PyTree] | None = None,
    hparams: Mapping[str, float] | None = None,
    batch_size: int = BATCH_SIZE,
    remove_accidental_hits: bool = False,
    chunk: int | None = None,
) -> Method:
    """The supervised method of a loss on the score matrix of a batch.

    Args:
        model: a model with towers.
        loss: see ``RowLoss``.
        further_items: ``context -> int [K]``, columns behind those of the batch; the context is that of the loss.
        prepare: see ``recipes.Prepare``, with ``sum_rows`` in place of the parameters: ``sum_rows(function, columns)``
            adds up the arrays ``function(scores)`` of the chunks of rows against these columns, without a gradient.
        fit: see ``recipes.supervised``.
        hparams: hyperparameters besides ``lr`` and ``weight_decay``.
        batch_size: see ``RetrievalSettings``, as for the rest.
        remove_accidental_hits: ditto.
        chunk: ditto.

    Returns:
        The method.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``batch_size`` is below 1.
    """
    if model.user_tower is None or model.item_tower is None:
        raise ConfigError(
            "retrieval needs a model of two towers, whose score is an inner product: take mf or two_tower "
            "(config: model.name)"
        )
    if chunk is not None and (chunk < 1 or batch_size % chunk):
        raise ConfigError(f"chunk {chunk} does not divide the batch size {batch_size}")

    def columns_of(context: Context, batch: ClickBatch) -> Array:
        if further_items is None:
            return batch.items
        return jnp.concatenate([batch.items, further_items(context)])

    def each_chunk(params: Params, batch: ClickBatch, columns: Array, function: Callable[[Scores], PyTree]):
        """``function`` of each chunk of rows, stacked; its scores are computed again on the way back."""
        queries, vectors = model.user_tower(params, batch.users), model.item_tower(params, columns)
        valid = jnp.concatenate([batch.where, jnp.ones(columns.shape[0] - batch_size, bool)])
        n_clicks = jnp.sum(batch.where, dtype=jnp.float32)

        def of_rows(rows: Array) -> PyTree:
            # A row's own column stays, though the row be padding.
            own = rows[:, None] == jnp.arange(columns.shape[0])[None, :]
            candidates = valid[None, :] | own
            if remove_accidental_hits:
                candidates &= ~sampling.accidental_hits(columns, rows)
            scores = queries[rows] @ vectors.T
            return function(Scores(scores, columns, rows, candidates, batch.where[rows], n_clicks))

        rows = jnp.arange(batch_size)
        if chunk is None:
            return jax.tree.map(lambda x: x[None], of_rows(rows))
        return jax.lax.map(jax.checkpoint(of_rows), rows.reshape(-1, chunk))

    def term(params, context: Context, batch: ClickBatch):
        columns = columns_of(context, batch)
        values = each_chunk(params["prediction"], batch, columns, lambda scores: loss(scores, context))
        return total_and_count(values.reshape(batch_size), batch.where)

    def prepared(params, context: Context, batch: ClickBatch):
        def sum_rows(function, columns):
            parts = each_chunk(params["prediction"], batch, columns, function)
            return jax.tree.map(lambda x: jnp.sum(x, axis=0), parts)

        return prepare(sum_rows, context, batch)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=click_batches(batch_size=batch_size),
        predict=predict_logits(model),
        hparams={**ADAM_HPARAMS, **(hparams or {})},
        fit=fit,
        prepare=None if prepare is None else prepared,
    )


def resample(scores: Scores, logits: Array, key: Key, *, n: int) -> Array:
    """``sampling.in_batch_resample`` of each row by a key of its own, so that draws do not depend on the chunks."""
    keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(scores.rows)
    return jax.vmap(lambda row_key, row: sampling.in_batch_resample(row_key, row, n=n))(keys, logits)


def log_weights(scores: Scores, log_pop: Array) -> Array:
    """BIR's log weights of the columns before they are normalised, ``[b, C]``; -inf at what is no candidate."""
    logits = scores.scores - log_pop[scores.items][None, :]
    return jnp.where(scores.candidates, logits, -jnp.inf)
