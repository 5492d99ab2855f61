"""The score matrix of a batch of clicks, whole or in chunks of rows.

A batch holds clicks, each a row (its user) and a column (its item). Clicks that fill up the last batch of an epoch are
no candidates of the others. A loss is what a click's score comes to against the total of its row: rows of one user have
the same total, and columns of one item the same score, so that a batch with more clicks than there are users, or items,
computes each of these once.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax.methods.base import TrainData
from debias_jax.models.base import Model, inner_products
from debias_jax.types import Array, Params, PyTree


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


class FurtherItems(NamedTuple):
    """Items that are columns besides those of the batch.

    Attributes:
        items: int32 ``[K]``.
        counts: float ``[K]``, how often each counts, 0 for not at all; None for once.
        vectors: ``[K, d]``, constants to score in place of what the item tower gives; None to embed the items.
    """

    items: Array
    counts: Array | None = None
    vectors: Array | None = None


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
        return _product(self.queries, self.vectors)

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
            return _product(queries, self.vectors) + added
        # As one more term of the product it spares the CPU a pass over the matrix, half of the time of a step.
        terms = jnp.concatenate([queries, jnp.ones((queries.shape[0], 1), queries.dtype)], axis=1)
        others = jnp.concatenate([self.vectors, added.T], axis=1)
        return _product(terms, others)

    def log_total(self, log_q: Array | None = None, sharpness: float = 1.0) -> Array:
        """``[b]``: log of the sum of exponentials of ``logits``; minus infinity where nothing is left in."""
        total = jax.nn.logsumexp(self.logits(log_q, sharpness), axis=1)
        # Not the other way round: NaN must stay NaN.
        return jnp.where(total < _LEFT_OUT / 2, -jnp.inf, total)

    def log_weights(self, log_pop: Array) -> Array:
        """``[b, C]`` BIR's log weights before they are normalised, a constant; -inf at what is left out."""
        logits = jax.lax.stop_gradient(self.logits(log_pop[self.items]))
        return jnp.where(logits < _LEFT_OUT / 2, -jnp.inf, logits)


_LEFT_OUT = -1e30


def _product(queries: Array, vectors: Array) -> Array:
    """Inner products in full float32 on every device: what is drawn and what is weighed must be the same scores.

    The gradient in the vectors is a product that contracts the rows of a ``[b, C]`` matrix. The barrier keeps XLA from
    writing it with that matrix transposed, which on CPU takes thrice as long as with the small factor transposed.
    """
    return jnp.matmul(queries, jax.lax.optimization_barrier(vectors.T), precision="highest")


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

    def log_total(
        self, log_q: Callable[[Array], Array] = lambda items: None, sharpness: float = 1.0
    ) -> Array:
        """``[b]``: ``Columns.log_total`` of the batch's and the further columns together.

        Args:
            log_q: ``items [C] -> [C]``.
            sharpness: see ``Columns.logits``.
        """
        parts = [self.batch] if self.further is None else [self.batch, self.further]
        totals = [columns.log_total(log_q(columns.items), sharpness) for columns in parts]
        return functools.reduce(jnp.logaddexp, totals)


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


class _Side(NamedTuple):
    """A set of columns: int32 ``[C]`` items, their vectors ``[C, d]``, and ``[C]`` how many clicks each stands for."""

    items: Array
    vectors: Array
    counts: Array


class ScoreMatrix:
    """The rows and columns of one batch.

    Attributes:
        clicks: the clicks with their scores.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        data: TrainData,
        batch: ClickBatch,
        further: FurtherItems | None,
        remove_accidental_hits: bool,
        chunk: int | None,
    ):
        n_users, n_items = data.matrix_size
        (size,) = batch.users.shape
        each, valid = jnp.arange(size), batch.where.astype(jnp.float32)
        by_user, by_item = n_users < size and not remove_accidental_hits, n_items < size
        if by_user:
            self._row_of, users = batch.users, jnp.arange(n_users)
            self._weights = jnp.zeros(n_users, jnp.float32).at[batch.users].add(valid)
        else:
            self._row_of, users, self._weights = each, batch.users, valid
        self._queries = model.user_tower(params, users)
        if by_item:
            every = jnp.arange(n_items)
            of_every = model.item_tower(params, every)

        def side(own: Array, counts: Array, vectors: Array | None = None) -> _Side:
            if vectors is not None:
                # An item stands there as often as it was seen, each time with another vector.
                return _Side(own, jax.lax.stop_gradient(vectors), counts)
            if by_item:
                return _Side(every, of_every, jnp.zeros(n_items, jnp.float32).at[own].add(counts))
            return _Side(own, model.item_tower(params, own), counts)

        self._column_of = batch.items if by_item else each
        self._batch = side(batch.items, valid)
        self._further = None
        if further is not None:
            once = jnp.ones(further.items.shape, jnp.float32)
            counts = once if further.counts is None else further.counts
            self._further = side(further.items, counts, further.vectors)
        self._own_items = batch.items if remove_accidental_hits else None
        self._chunk = chunk
        queries = self._queries[self._row_of] if by_user else self._queries
        vectors = self._batch.vectors[self._column_of] if by_item else self._batch.vectors
        self.clicks = Clicks(inner_products(queries, vectors), batch.items, jnp.sum(valid))

    def _columns(self, numbers: Array, side: _Side) -> Columns:
        """The chunk of rows with these numbers against one side."""
        log_counts = jnp.log(side.counts)[None, :]
        if self._own_items is not None and side is self._further:
            hits = self._own_items[numbers][:, None] == side.items[None, :]
            log_counts = jnp.where(hits, -jnp.inf, log_counts)
        elif self._own_items is not None:
            column_of = self._column_of[numbers]
            hits = sampling.accidental_hits(side.items, column_of)
            # Its own click stays, though the row be padding, which has no other where all are hits.
            own = column_of[:, None] == jnp.arange(side.items.shape[0])[None, :]
            log_counts = jnp.where(own, 0.0, jnp.where(hits, -jnp.inf, log_counts))
        return Columns(self._queries[numbers], side.vectors, side.items, log_counts)

    def each_chunk(self, function: Callable[[Rows], tuple[PyTree, PyTree]]) -> tuple[PyTree, PyTree]:
        """What ``function`` gives for rows and what it counts, over the chunks of rows; on the way back the scores of a
        chunk are computed again.

        Args:
            function: ``rows -> (arrays [b], counts)``; no gradient passes through the counts.

        Returns:
            The arrays of all rows stacked by chunk, and the counts of all chunks added up.
        """
        chunks = self._chunks()
        if len(chunks) == 1:
            of_rows, counts = function(self._rows(chunks[0]))
            return jax.tree.map(lambda x: x[None], of_rows), jax.lax.stop_gradient(counts)
        of_chunk = jax.checkpoint(lambda numbers: function(self._rows(numbers)))

        def add(total: PyTree, numbers: Array) -> tuple[PyTree, PyTree]:
            of_rows, counts = of_chunk(numbers)
            return jax.tree.map(jnp.add, total, jax.lax.stop_gradient(counts)), of_rows

        _, shapes = jax.eval_shape(of_chunk, chunks[0])
        counts, of_rows = jax.lax.scan(
            add, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes), chunks
        )
        return of_rows, counts

    def _chunks(self) -> Array:
        """The rows' numbers ``[chunks, rows]``, of which the last chunk goes on beyond the last row."""
        n_rows = self._queries.shape[0]
        size = n_rows if self._chunk is None else min(self._chunk, n_rows)
        n_chunks = -(-n_rows // size)
        return jnp.arange(n_chunks * size).reshape(n_chunks, size)

    def _rows(self, numbers: Array) -> Rows:
        """The rows with these numbers; those beyond the last row stand for nothing."""
        n_rows = self._queries.shape[0]
        live, numbers = numbers < n_rows, jnp.minimum(numbers, n_rows - 1)
        weights = jnp.where(live, self._weights[numbers], 0.0)
        batch = self._columns(numbers, self._batch)
        further = None if self._further is None else self._columns(numbers, self._further)
        return Rows(batch, further, numbers, weights, self.clicks.n_clicks)

    def of_clicks(self, of_rows: PyTree) -> PyTree:
        """What ``each_chunk`` gave for rows, for each click."""
        return jax.tree.map(lambda x: x.reshape(-1)[self._row_of], of_rows)
