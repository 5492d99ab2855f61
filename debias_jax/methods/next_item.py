"""Next-item prediction: a model that encodes a history, and any loss of the cross-entropy family."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax import losses, sampling
from debias_jax._checks import check_choice
from debias_jax.errors import ConfigError
from debias_jax.losses.chunked import SCORES_PER_CHUNK
from debias_jax.methods._negatives import POOLS, Draw, draw_each, draw_shared, log_popularity
from debias_jax.methods._terms import prediction_group
from debias_jax.methods.base import Method, TrainState
from debias_jax.methods.recipes import ADAM_HPARAMS, Context, supervised
from debias_jax.methods.sequences import (
    SampleBatch,
    SequenceFrame,
    check_frame,
    cut,
    lengths_up_to,
    sequence_batches,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params


class Loss(NamedTuple):
    """A loss of this method.

    Attributes:
        value: ``(pos [n], neg [n, K], log_q_pos, log_q_neg, counts, hparams, n_items) -> [n]``; ``None`` for a loss of
            all scores.
        dense: ``(scores [n, V], targets [n], hparams) -> [n]`` of a loss of all scores that has no fused form.
        hparams: its numeric hyperparameters.
        pool: what its negatives are drawn from if nothing is said.
        n_negatives: how many.
        counted: whether ``value`` reads ``counts``, the multiplicities of the negatives.
    """

    value: Callable[..., Array] | None = None
    dense: Callable[[Array, Array, dict[str, Array]], Array] | None = None
    hparams: Mapping[str, float] = MappingProxyType({})
    pool: str | None = None
    n_negatives: int | None = None
    counted: bool = False


def _sampled(function, *names: str, n_items: bool = False, counted: bool = True):
    """A loss of (pos, neg) with hyperparameters of these names."""

    def value(pos, neg, log_q_pos, log_q_neg, counts, hparams, size):
        del log_q_pos, log_q_neg
        options = {name: hparams[name] for name in names} | ({"n_items": size} if n_items else {})
        if counted:
            options["counts"] = counts
        return function(pos, neg, **options, reduce_fn=None)

    return value


def _importance(pos, neg, log_q_pos, log_q_neg, counts, hparams, size):
    del hparams, size
    return losses.importance_sampled_softmax(
        pos, neg, log_q_pos=log_q_pos, log_q_neg=log_q_neg, counts=counts, reduce_fn=None
    )


def _truncated(scores, targets, hparams):
    return losses.truncated_cross_entropy(scores, targets, eta=hparams["eta"], reduce_fn=None)


LOSSES = {
    "cross_entropy": Loss(),
    "truncated_cross_entropy": Loss(dense=_truncated, hparams={"eta": 1.0}),
    "scaled_cross_entropy": Loss(
        _sampled(losses.scaled_cross_entropy, "alpha"),
        hparams={"alpha": 100.0},
        pool="uniform",
        n_negatives=100,
        counted=True,
    ),
    "noise_contrastive": Loss(
        _sampled(losses.noise_contrastive, "c", n_items=True),
        hparams={"c": 10.0},
        pool="uniform",
        n_negatives=100,
        counted=True,
    ),
    "negative_sampling": Loss(
        _sampled(losses.negative_sampling), pool="uniform", n_negatives=100, counted=True
    ),
    "importance_sampled_softmax": Loss(_importance, pool="popularity", n_negatives=100, counted=True),
    "bce": Loss(_sampled(losses.bce, counted=False), pool="unseen", n_negatives=1),
    "bpr": Loss(_sampled(losses.bpr, counted=False), pool="unseen", n_negatives=1),
    "gbce": Loss(
        _sampled(losses.gbce, "t", n_items=True, counted=False),
        hparams={"t": 0.75},
        pool="unseen",
        n_negatives=256,
    ),
}
"""The losses by name."""

SCORINGS = ("auto", "gather", "dense")
"""How negatives of single positions are scored, see ``next_item``."""

# On CPU an item costs far less in a product with the whole table than if its vector is gathered and the gradient is
# added up again.
_DENSE_FROM = 1 / 30


def next_item(
    model: Model,
    *,
    loss: str = "cross_entropy",
    negatives: str | None = None,
    n_negatives: int | None = None,
    shared: bool = False,
    exclude_target: bool = False,
    samples: str | None = None,
    lengths: tuple[int, ...] | None = None,
    truncate: bool = False,
    min_items: int = 2,
    batch_size: int = 512,
    chunk: int | None = None,
    scoring: str = "auto",
) -> Method:
    r"""Learns to score the item that follows a history above the others.

    .. math:: L = \frac{1}{\sum_b m_b} \sum_b m_b \, \ell\bigl(h_b^\top E,\; t_b\bigr)

    over the positions b of a batch, :math:`m_b` whether it has a target :math:`t_b`, :math:`h_b` the encoded history,
    :math:`E` the vectors of the items and :math:`\ell` the loss. No work is spent on what is not there: histories lie
    in arrays of a few lengths, and positions without a target are left out of the softmax, which never holds more than
    ``chunk`` rows of scores.

    Args:
        model: a model with ``encode``, e.g. ``models.sasrec``; or a model with towers (``models.mf``,
            ``models.two_tower``), which knows the user but no history.
        loss: a name of ``debias_jax.losses``: ``"cross_entropy"``, ``"truncated_cross_entropy"``,
            ``"scaled_cross_entropy"``, ``"noise_contrastive"``, ``"negative_sampling"``,
            ``"importance_sampled_softmax"``, ``"bce"``, ``"bpr"`` or ``"gbce"``.
        negatives: what a sampled loss draws, with replacement: ``"uniform"``: all items alike; ``"popularity"``: in
            proportion to how often they occur; ``"unseen"``: alike among the items outside the user's training
            history; ``"in_batch"``: targets of the batch. None for what is usual: ``"unseen"`` for ``bce``, ``bpr`` and
            ``gbce``, ``"popularity"`` for ``importance_sampled_softmax``, else ``"uniform"``.
        n_negatives: K; None for 1 with ``bce`` and ``bpr``, 256 with ``gbce``, else 100.
        shared: whether all positions of a batch share their K negatives, which is far cheaper; else each position
            draws its own. ``"in_batch"`` negatives are always shared, ``"unseen"`` never.
        exclude_target: whether the target of a position is kept out of its negatives. The published programs do not.
        samples: ``"windows"``, ``"prefixes"``, ``"cloze"`` or ``"events"``, see ``SequenceFrame``; None for ``"cloze"``
            with a model that has a mask token, ``"prefixes"`` with one that encodes the last slot alone, ``"events"``
            with one that has no history, else ``"windows"``.
        lengths: of the arrays that hold histories, ascending to ``model.max_len``; None for 4, 8, 16, 32 ... The
            gradient does not depend on them.
        truncate: see ``SequenceFrame``.
        min_items: see ``SequenceFrame``.
        batch_size: samples a step at most; the batches of an epoch are equally large up to one sample.
        chunk: positions whose scores are held at once; None for as many as make eight million scores.
        scoring: of negatives that each position draws for itself: ``"gather"`` their vectors, ``"dense"``: one product
            with the whole table and the number of times that each item was drawn (the same loss and gradient, and
            faster where K is not far below the number of items), ``"auto"`` for the cheaper one.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, those of the loss (``alpha``, ``c``, ``eta``, ``t``), and
        of ``"cloze"`` samples ``mask_rate``. ``predict(state, users, histories)`` gives the scores of all items.

    Raises:
        ConfigError: the model, the loss, the negatives and the samples do not fit together.
        ValueError: an option is unknown or out of its range.

    Example:
        >>> import jax
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic_sequences.generate(seed=0, n_users=20, n_items=12)
        >>> method = methods.next_item(models.gru4rec(12, dim=4, max_len=5), loss="scaled_cross_entropy", n_negatives=3)
        >>> result = training.fit(method, training.sequence_data(log, method.frame), jax.random.key(0), epochs=1)
        >>> histories = training.histories_of(log.train, [0, 1], length=5)
        >>> method.predict(result.state, None, histories).shape
        (2, 12)

    Source:
        The losses and settings of Xu et al., "Understanding the role of cross-entropy loss in fairly evaluating large
        language model-based recommendation" (2024); samples and models as its released program has them.
    """
    check_choice(LOSSES, loss=loss)
    check_choice(SCORINGS, scoring=scoring)
    spec = LOSSES[loss]
    pairs = model.encode is None
    model = _as_encoder(model)
    frame = _frame(model, samples, lengths, truncate, min_items, pairs=pairs)
    pool, n = _checked_negatives(loss, spec, negatives, n_negatives, shared, exclude_target)
    hparams = {**ADAM_HPARAMS, **spec.hparams, **({"mask_rate": 0.2} if frame.samples == "cloze" else {})}

    def positions(params: Params, context: Context, batch: dict[str, SampleBatch]):
        """Encodings, targets, users and mask of all positions of a batch, ``[S, d]`` and ``[S]``."""
        parts = []
        for number, rows in batch.items():
            key = jax.random.fold_in(context.key, int(number))
            sequences = cut(context.data, rows, samples=frame.samples, length=frame.edges[int(number)])
            histories, where = sequences.histories, sequences.where
            if frame.samples == "cloze":
                where = sampling.cloze_mask(
                    jax.random.fold_in(key, 0), where, rate=context.hparams["mask_rate"]
                )
                histories = jnp.where(where, model.mask_id, histories)
            encoded = model.encode(params, histories, sequences.users, key=jax.random.fold_in(key, 1))
            width = sequences.targets.shape[1]
            users = jnp.broadcast_to(sequences.users[:, None], sequences.targets.shape)
            parts.append((encoded[:, -width:], sequences.targets, users, where))
        return tuple(
            jnp.concatenate([part.reshape(-1, *part.shape[2:]) for part in column])
            for column in zip(*parts, strict=True)
        )

    def term(params, context: Context, batch: dict[str, SampleBatch]):
        encoded, targets, users, where = positions(params["prediction"], context, batch)
        table = model.output_table(params["prediction"])
        n_items = table.shape[0]
        key = jax.random.fold_in(context.key, len(frame.edges))
        count = jnp.sum(where, dtype=encoded.dtype)
        if spec.value is None:
            total = _full(spec, encoded, table, targets, where, context.hparams, chunk)
            return total, count
        if shared or pool == "in_batch":
            draw = draw_shared(
                key, context.data, targets, where, pool=pool, n=n, exclude_target=exclude_target
            )
            values = _values(
                spec, encoded, targets, table, draw, context.hparams, encoded @ table[draw.items].T
            )
            return jnp.sum(jnp.where(where, values, 0.0)), count

        dense = spec.counted and (scoring == "dense" or (scoring == "auto" and n > _DENSE_FROM * n_items))

        def values_of(table, inputs):
            encoded, targets, users, slots = inputs
            # Chunks differ by their first slot.
            own_key = jax.random.fold_in(key, slots[0])
            draw = draw_each(
                own_key, context.data, users, targets, pool=pool, n=n, exclude_target=exclude_target
            )
            if dense:
                return _dense_values(spec, encoded, targets, table, draw, context)
            neg = jnp.einsum("nd,nkd->nk", encoded, table[draw.items])
            return _values(spec, encoded, targets, table, draw, context.hparams, neg)

        slots = jnp.arange(targets.shape[0], dtype=jnp.int32)
        total = losses.in_chunks(
            values_of,
            table,
            (encoded, targets, users, slots),
            chunk=chunk or max(1, SCORES_PER_CHUNK // (n_items if dense else n * table.shape[1])),
            where=where,
            reduce_fn=jnp.sum,
        )
        return total, count

    def predict(state: TrainState, users: Array, histories: Array) -> Array:
        return model.apply(state.params["prediction"], histories, users)

    method = supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=sequence_batches(batch_size),
        predict=predict,
        hparams=hparams,
    )
    return method._replace(frame=frame)


def _full(spec: Loss, encoded, table, targets, where, hparams, chunk) -> Array:
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


def _values(spec: Loss, encoded, targets, table, draw: Draw, hparams, neg: Array) -> Array:
    """The loss of drawn items by their scores ``[n, K]``."""
    pos = jnp.sum(encoded * table[targets], axis=-1)
    counts = None if draw.where is None else draw.where.astype(neg.dtype)
    return spec.value(pos, neg, draw.log_q_pos, draw.log_q, counts, hparams, table.shape[0])


def _dense_values(spec: Loss, encoded, targets, table, draw: Draw, context: Context) -> Array:
    """The loss of drawn items by the scores of all, and how often each was drawn."""
    scores = encoded @ table.T
    rows = jnp.arange(targets.shape[0], dtype=jnp.int32)
    added = (
        jnp.ones(draw.items.shape, scores.dtype) if draw.where is None else draw.where.astype(scores.dtype)
    )
    counts = jnp.zeros(scores.shape, scores.dtype).at[rows[:, None], draw.items].add(added)
    pos = jnp.take_along_axis(scores, targets[:, None], axis=1)[:, 0]
    # The draw's log probabilities are those of its items; here all items stand in their order.
    log_q = draw.log_q if jnp.ndim(draw.log_q) == 0 else log_popularity(context.data)
    return spec.value(pos, scores, draw.log_q_pos, log_q, counts, context.hparams, table.shape[0])


def _as_encoder(model: Model) -> Model:
    """The model with ``encode`` and ``output_table``; a model of pairs encodes the user, whatever the history."""
    if model.encode is not None:
        return model
    if model.user_tower is None or model.output_table is None:
        raise ConfigError(
            "next_item needs a model of histories, or one of two towers: take sasrec, gru4rec, bert4rec, caser, "
            "fmlp_rec, mf or two_tower (config: model.name)"
        )

    def encode(
        params: Params, histories: Array, users: Array | None = None, *, key: Key | None = None
    ) -> Array:
        del histories, key
        return model.user_tower(params, users)[:, None]

    def apply(
        params: Params, histories: Array, users: Array | None = None, *, key: Key | None = None
    ) -> Array:
        return encode(params, histories, users, key=key)[:, 0] @ model.output_table(params).T

    return model._replace(apply=apply, encode=encode, max_len=1)


def _frame(
    model: Model, samples: str | None, lengths, truncate: bool, min_items: int, *, pairs: bool
) -> SequenceFrame:
    """The frame of a model; ``pairs`` says that it is one of pairs."""
    if samples is None:
        samples = "windows"
        if model.mask_id is not None:
            samples = "cloze"
        elif pairs:
            samples = "events"
        elif _encodes_one_slot(model):
            samples = "prefixes"
    fits = {"cloze": model.mask_id is not None, "events": pairs}
    if not fits.get(samples, model.mask_id is None and not pairs) or (
        samples == "windows" and _encodes_one_slot(model)
    ):
        raise ConfigError(
            f"samples={samples!r} does not fit the model: bert4rec learns from 'cloze', mf and two_tower from "
            "'events', caser and fmlp_rec from 'prefixes', the others from 'windows' or 'prefixes'"
        )
    edges = lengths_up_to(model.max_len) if lengths is None else tuple(lengths)
    return check_frame(SequenceFrame(samples, model.max_len, edges, truncate, min_items))


def _encodes_one_slot(model: Model) -> bool:
    """Whether the model encodes the last slot of a history alone."""
    if model.max_len == 1:
        return False
    params = jax.eval_shape(model.init, jax.random.key(0))
    history, users = jax.ShapeDtypeStruct((1, 2), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    return jax.eval_shape(model.encode, params, history, users).shape[1] == 1


def _checked_negatives(
    loss: str, spec: Loss, negatives, n_negatives, shared: bool, exclude_target: bool
) -> tuple[str | None, int | None]:
    """The pool and the number of the negatives."""
    if spec.value is None:
        if negatives is not None or n_negatives is not None or shared or exclude_target:
            raise ConfigError(
                f"{loss} reads the scores of all items; leave out negatives, n_negatives, shared and exclude_target"
            )
        return None, None
    pool = spec.pool if negatives is None else negatives
    check_choice(POOLS, negatives=pool)
    if shared and pool == "unseen":
        raise ConfigError(
            "shared=True: positions of different users share no unseen items; take negatives='uniform'"
        )
    n = spec.n_negatives if n_negatives is None else n_negatives
    if n < 1:
        raise ValueError(f"n_negatives must be at least 1, got {n}")
    return pool, n
