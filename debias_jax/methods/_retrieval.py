"""What the retrieval methods share: batches of clicks, the score matrix of a batch, popularity, chunked gradients.

A batch holds clicks, each a row (its user) and a column (its item). Clicks that fill up the last batch of an epoch are
no candidates of the others. A loss is what a click's score comes to against the total of its row: rows of one user have
the same total, and columns of one item the same score, so that a batch with more clicks than there are users, or items,
computes each of these once.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax.errors import ConfigError
from debias_jax.methods._terms import predict_logits, prediction_group
from debias_jax.methods.base import BatchesFn, Method, TrainData
from debias_jax.methods.recipes import ADAM_HPARAMS, Context, supervised, total_and_count
from debias_jax.models.base import Model, inner_products
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


class Columns(NamedTuple):
    """Rows against a set of columns: the items of the batch, or further ones.

    Where a catalogue has fewer items than the batch has clicks, each item is one column that stands for all its clicks.

    Attributes:
        queries: ``[b, d]`` of the rows.
        vectors: ``[C, d]`` of the columns.
        items: int32 ``[C]``.
        log_counts: ``[b, C]`` or ``[1, C]``, log of how many clicks (or further items) the column stands for; minus
            infinity for padding and for what is to be left out.
    """

    queries: Array
    vectors: Array
    items: Array
    log_counts: Array

    @property
    def scores(self) -> Array:
        """``[b, C]``."""
        return self.queries @ self.vectors.T

    def logits(self, log_q: Array | None = None, sharpness: float = 1.0) -> Array:
        r"""``[b, C]``: :math:`\beta s` plus the log counts less log q; a large negative number at what is left out.

        Args:
            log_q: ``[C]``; None for 0.
            sharpness: :math:`\beta`.
        """
        queries = sharpness * self.queries
        added = self.log_counts if log_q is None else self.log_counts - log_q[None, :]
        # A finite number: the product's gradient multiplies it by 0.
        added = jnp.maximum(added, _LEFT_OUT)
        if added.shape[0] > 1:
            return queries @ self.vectors.T + added
        # As one more term of the product it spares the CPU a pass over the matrix, half of the time of a step.
        terms = jnp.concatenate([queries, jnp.ones((queries.shape[0], 1), queries.dtype)], axis=1)
        others = jnp.concatenate([self.vectors, added.T], axis=1)
        return jnp.matmul(terms, others.T, precision="highest")

    def log_total(self, log_q: Array | None = None, sharpness: float = 1.0) -> Array:
        """``[b]``: log of the sum of exponentials of ``logits``; minus infinity where nothing is left in."""
        total = jax.nn.logsumexp(self.logits(log_q, sharpness), axis=1)
        return jnp.where(total > _LEFT_OUT / 2, total, -jnp.inf)

    def log_weights(self, log_pop: Array) -> Array:
        """``[b, C]`` BIR's log weights before they are normalised, a constant; -inf at what is left out."""
        logits = jax.lax.stop_gradient(self.logits(log_pop[self.items]))
        return jnp.where(logits > _LEFT_OUT / 2, logits, -jnp.inf)


_LEFT_OUT = -1e30


class Rows(NamedTuple):
    """Rows of a batch, or a chunk of them, against their columns.

    Where there are fewer users than clicks in the batch, and nothing is left out for single clicks, each user is one
    row that stands for all its clicks.

    Attributes:
        batch: the columns of the batch's items.
        further: further columns; None without any.
        numbers: int32 ``[b]``, the rows' numbers, for their draws.
        weights: float ``[b]``, how many clicks a row stands for.
        n_clicks: float scalar, clicks of the batch, without padding.
    """

    batch: Columns
    further: Columns | None
    numbers: Array
    weights: Array
    n_clicks: Array


class Clicks(NamedTuple):
    """The clicks of a batch.

    Attributes:
        pos: ``[B]`` their scores.
        items: int32 ``[B]``.
        n_clicks: float scalar, how many are no padding.
    """

    pos: Array
    items: Array
    n_clicks: Array


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


TotalsFn = Callable[[Rows, Context], PyTree]
"""``(rows, context) -> arrays [b]``: what a row's columns come to."""

ClickLoss = Callable[[Clicks, PyTree, Context], Array]
"""``(clicks, totals of their rows, context) -> [B]`` losses of the clicks."""


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
    totals: TotalsFn,
    loss: ClickLoss,
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
        totals: see ``TotalsFn``.
        loss: see ``ClickLoss``.
        further_items: ``context -> int [K]``, columns behind those of the batch; the context is that of the loss.
        prepare: see ``recipes.Prepare``, with ``sum_rows`` in place of the parameters: ``sum_rows(function, further)``
            adds up the arrays ``function(rows)`` of the chunks of rows with these further items, without a gradient.
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

    def matrix(params: Params, data: TrainData, batch: ClickBatch, further: Array | None):
        return _Matrix(model, params, data, batch, further, remove_accidental_hits, chunk)

    def term(params, context: Context, batch: ClickBatch):
        further = None if further_items is None else further_items(context)
        scores = matrix(params["prediction"], context.data, batch, further)
        of_rows = scores.each_chunk(lambda rows: totals(rows, context))
        return total_and_count(loss(scores.clicks, scores.of_clicks(of_rows), context), batch.where)

    def prepared(params, context: Context, batch: ClickBatch):
        def sum_rows(function, further):
            scores = matrix(params["prediction"], context.data, batch, further)
            return jax.tree.map(lambda x: jnp.sum(x, axis=0), scores.each_chunk(function))

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


class _Matrix:
    """The rows and columns of one batch."""

    def __init__(
        self,
        model: Model,
        params: Params,
        data: TrainData,
        batch: ClickBatch,
        further: Array | None,
        remove_accidental_hits: bool,
        chunk: int | None,
    ):
        n_users, n_items = data.matrix_size
        (size,) = batch.users.shape
        each, valid = jnp.arange(size), batch.where.astype(jnp.float32)
        self.row_of, self.column_of, users, self.weights = each, each, batch.users, valid
        if by_user := n_users < size and not remove_accidental_hits:
            self.row_of, users = batch.users, jnp.arange(n_users)
            self.weights = jnp.zeros(n_users, jnp.float32).at[batch.users].add(valid)
        if by_item := n_items < size:
            self.column_of, self.items = batch.items, jnp.arange(n_items)
            self.counts = jnp.zeros(n_items, jnp.float32).at[batch.items].add(valid)
        else:
            self.items, self.counts = batch.items, valid
        self.further_items = self.further_counts = self.further_vectors = None
        self.queries = model.user_tower(params, users)
        self.vectors = model.item_tower(params, self.items)
        if further is not None:
            if by_item:
                self.further_items, self.further_vectors = self.items, self.vectors
                self.further_counts = jnp.zeros(n_items, jnp.float32).at[further].add(1.0)
            else:
                self.further_items, self.further_vectors = further, model.item_tower(params, further)
                self.further_counts = jnp.ones(further.shape, jnp.float32)
        self.own_items = batch.items if remove_accidental_hits else None
        self.chunk = chunk
        queries = self.queries[self.row_of] if by_user else self.queries
        vectors = self.vectors[self.column_of] if by_item else self.vectors
        self.clicks = Clicks(inner_products(queries, vectors), batch.items, jnp.sum(valid))

    def columns(self, numbers: Array, further: bool) -> Columns:
        """The chunk of rows with these numbers against one set of columns."""
        if further:
            items, vectors, counts = self.further_items, self.further_vectors, self.further_counts
        else:
            items, vectors, counts = self.items, self.vectors, self.counts
        log_counts = jnp.log(counts)[None, :]
        if self.own_items is not None:
            hits = self.own_items[numbers][:, None] == items[None, :]
            log_counts = jnp.where(hits, -jnp.inf, log_counts)
            if not further:
                # Its own click stays, though the row be padding, which has no other where all are hits.
                own = self.column_of[numbers][:, None] == jnp.arange(items.shape[0])[None, :]
                log_counts = jnp.where(own, 0.0, log_counts)
        return Columns(self.queries[numbers], vectors, items, log_counts)

    def each_chunk(self, function: Callable[[Rows], PyTree]) -> PyTree:
        """``function`` of each chunk of rows, stacked; its scores are computed again on the way back."""
        n_rows = self.queries.shape[0]

        def of_rows(numbers: Array) -> PyTree:
            # The last chunk is filled up with rows that stand for nothing.
            live, numbers = numbers < n_rows, jnp.minimum(numbers, n_rows - 1)
            weights = jnp.where(live, self.weights[numbers], 0.0)
            batch = self.columns(numbers, further=False)
            further = None if self.further_items is None else self.columns(numbers, further=True)
            return function(Rows(batch, further, numbers, weights, self.clicks.n_clicks))

        if self.chunk is None or self.chunk >= n_rows:
            return jax.tree.map(lambda x: x[None], of_rows(jnp.arange(n_rows)))
        n_chunks = -(-n_rows // self.chunk)
        return jax.lax.map(jax.checkpoint(of_rows), jnp.arange(n_chunks * self.chunk).reshape(n_chunks, -1))

    def of_clicks(self, of_rows: PyTree) -> PyTree:
        """What ``each_chunk`` gave for rows, for each click."""
        return jax.tree.map(lambda x: x.reshape(-1)[self.row_of], of_rows)
