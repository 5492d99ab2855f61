"""What the retrieval methods share: batches of clicks, settings, popularity, and the step."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from debias_jax import sampling
from debias_jax._checks import check_sizes
from debias_jax.errors import ConfigError
from debias_jax.methods._score_matrix import ClickBatch, Clicks, FurtherItems, Rows, ScoreMatrix
from debias_jax.methods._terms import log_shares
from debias_jax.methods.base import BatchesFn, Method, TrainData
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    predict_logits,
    prediction_group,
    supervised,
    total_and_count,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params, PyTree


def click_batches(*, batch_size: int) -> BatchesFn:
    """Every click once an epoch, in random order.

    Args:
        batch_size: clicks a step; the last batch is padded.

    Returns:
        A function of data and key that gives ``ClickBatch`` with leading axes ``[steps]``.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """
    check_sizes(batch_size=batch_size)

    def batches(data: TrainData, key: Key) -> ClickBatch:
        users, items = data.clicks
        index, where = sampling.epoch_batches(key, users.shape[0], batch_size=batch_size)
        return ClickBatch(users[index], items[index], where)

    return batches


def log_popularity(data: TrainData) -> Array:
    """Log share of each item among the clicks, float32 ``[n_items]``; an item without clicks counts as the rarest."""
    # ``popularity`` is the root of counts over the largest count.
    return log_shares(data.popularity**2)


BATCH_SIZE = 1024
"""Clicks a step, if nothing is said."""


def size_or(default: int, **given: int | None) -> int:
    """The size that is given, which must be at least 1, or the default where it is None."""
    ((name, value),) = given.items()
    if value is None:
        return default
    check_sizes(**given)
    return value


TotalsFn = Callable[[Rows, Context], PyTree]
"""``(rows, context) -> arrays [b]``: what a row's columns come to; with ``update``, ``-> (arrays [b], counts)``."""

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
    totals: TotalsFn | Sequence[TotalsFn],
    loss: ClickLoss,
    further: Callable[[Context], FurtherItems] | None = None,
    prepare: Callable[[Params, Context, ClickBatch], tuple[PyTree, PyTree]] | None = None,
    update: Callable[[PyTree, Context], PyTree] | None = None,
    fit: Callable[[Key, TrainData, dict[str, Array]], PyTree] | None = None,
    hparams: Mapping[str, float] | None = None,
    batch_size: int = BATCH_SIZE,
    remove_accidental_hits: bool = False,
    chunk: int | None = None,
) -> Method:
    """The supervised method of a loss on the score matrix of a batch.

    Args:
        model: a model with towers.
        totals: see ``TotalsFn``; of several, whose results the loss gets in a tuple, each goes through the chunks of
            rows alone, so that the matrices of one of them are held at a time.
        loss: see ``ClickLoss``.
        further: columns besides those of the batch; the context is that of the loss.
        prepare: see ``recipes.Prepare``, with the model's parameters.
        update: ``(counts, context) -> extra after the step``, of what ``totals`` counted in all rows (of several, a
            tuple), without a gradient.
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

    functions = (totals,) if callable(totals) else tuple(totals)

    def term(params, context: Context, batch: ClickBatch):
        columns = None if further is None else further(context)
        scores = ScoreMatrix(
            model, params["prediction"], context.data, batch, columns, remove_accidental_hits, chunk
        )
        of_each = [
            scores.each_chunk(functools.partial(with_counts, function, context)) for function in functions
        ]
        of_rows, counts = of_each[0] if callable(totals) else tuple(zip(*of_each, strict=True))
        losses = loss(scores.clicks, scores.of_clicks(of_rows), context)
        return *total_and_count(losses, batch.where), {}, counts

    def with_counts(function: TotalsFn, context: Context, rows: Rows) -> tuple[PyTree, PyTree]:
        result = function(rows, context)
        return (result, ()) if update is None else result

    def prepared(params, context: Context, batch: ClickBatch):
        return prepare(params["prediction"], context, batch)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=click_batches(batch_size=batch_size),
        predict=predict_logits(model),
        hparams={**ADAM_HPARAMS, **(hparams or {})},
        fit=fit,
        prepare=None if prepare is None else prepared,
        update=update,
    )
