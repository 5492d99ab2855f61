"""Next-item prediction: a model that encodes a history, and any loss of the cross-entropy family."""

import jax
import jax.numpy as jnp

from debias_jax import losses, sampling
from debias_jax._checks import check_choice, check_sizes
from debias_jax._reduce import safe_divide
from debias_jax.errors import ConfigError
from debias_jax.losses.chunked import SCORES_PER_CHUNK
from debias_jax.methods._negatives import POOLS, Draw, draw_each, draw_shared
from debias_jax.methods._row_sparse import adam_step, distinct_items, item_tables, row_adam
from debias_jax.methods._sequence_losses import (
    LOSSES,
    Loss,
    full_total,
    positions_that_count,
    shared_total,
    values_by_counts,
    values_of_draws,
)
from debias_jax.methods.base import Method, Range, TrainState
from debias_jax.methods.recipes import ADAM_HPARAMS, Context, Group, prediction_group, supervised
from debias_jax.methods.sequences import (
    SampleBatch,
    SequenceData,
    SequenceFrame,
    Sequences,
    check_frame,
    cut,
    lengths_up_to,
    sequence_batches,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params

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
    sparse: bool = False,
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
            ``"importance_sampled_softmax"``, ``"bce"``, ``"bpr"`` or ``"gbce"``; or ``"importance_sampling"``, that is
            ``importance_sampled_softmax`` without the positive in the sum, as the paper writes it.
        negatives: what a sampled loss draws, with replacement: ``"uniform"``: all items alike; ``"popularity"``: in
            proportion to how often they occur; ``"unseen"``: alike among the items outside the user's training
            history; ``"in_batch"``: targets of the batch, whose log q is that of all training events. None for what is
            usual: ``"unseen"`` for ``bce``, ``bpr`` and ``gbce``, ``"popularity"`` for ``importance_sampled_softmax``,
            else ``"uniform"``. The importance-sampled losses alone correct by log q; ``noise_contrastive`` holds for
            uniform noise only.
        n_negatives: K; None for 1 with ``bce`` and ``bpr``, 256 with ``gbce``, else 100.
        shared: whether all positions of a batch share their K negatives, which is far cheaper; else each position
            draws its own. ``"in_batch"`` negatives are always shared, ``"unseen"`` never.
        exclude_target: whether the target of a position is kept out of its negatives. The published programs do not.
            A position that is left without negatives has of ``bce``, ``gbce`` and ``negative_sampling`` the part of the
            positive, of the softmax losses 0; of ``bpr`` and ``importance_sampling`` it does not count.
        samples: ``"windows"``, ``"prefixes"``, ``"cloze"`` or ``"events"``, see ``SequenceFrame``; None for ``"cloze"``
            with a model that has a mask token, ``"prefixes"`` with one that encodes the last slot alone, ``"events"``
            with one that has no history, else ``"windows"``.
        lengths: of the arrays that hold histories, ascending to ``model.max_len``; None for 4, 8, 16, 32 ...,
            or for ``model.max_len`` alone where the model fills histories up to it. The gradient does not depend on
            them, except by the draws of dropout.
        truncate: see ``SequenceFrame``.
        min_items: see ``SequenceFrame``.
        batch_size: samples a step at most; the batches of an epoch are equally large up to one sample.
        chunk: positions whose scores are held at once; None for as many as make four million scores.
        scoring: of negatives that each position draws for itself: ``"gather"`` their vectors, ``"dense"``: one product
            with the whole table and the number of times that each item was drawn (the same loss and gradient, and
            faster where K is not far below the number of items), ``"auto"`` for the cheaper one. With other
            negatives, or none, there is nothing to choose.
        sparse: whether a step reads and moves only the rows of the items that stand in its batch or are drawn, by
            Adam with moments of their own (``torch.optim.SparseAdam``'s rule): for catalogues of millions, with
            ``shared`` negatives. Else every row decays and moves by its momentum in every step, as published.

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
    shared = shared or pool == "in_batch"
    if scoring != "auto" and (shared or spec.value is None):
        raise ConfigError(
            f"scoring={scoring!r} is of negatives that each position draws for itself, and "
            + ("here a batch shares them" if shared else f"{loss} draws none")
            + "; leave scoring out"
        )
    if sparse and not (shared and frame.samples in ("windows", "prefixes") and model.resized is not None):
        raise ConfigError(
            "sparse=True needs negatives that a batch shares (shared=True) and a model of histories that reads them "
            "from left to right: sasrec, gru4rec, caser or fmlp_rec"
        )
    hparams = {**ADAM_HPARAMS, **spec.hparams, **({"mask_rate": 0.2} if frame.samples == "cloze" else {})}

    def asked_of(context: Context, batch: dict[str, SampleBatch]) -> dict[str, Sequences]:
        """The histories of a batch by length, and what is asked of them."""
        asked = {}
        for number, rows in batch.items():
            sequences = cut(context.data, rows, samples=frame.samples, length=frame.edges[int(number)])
            if frame.samples == "cloze":
                key = jax.random.fold_in(jax.random.fold_in(context.key, int(number)), 0)
                where = sampling.cloze_mask(key, sequences.where, rate=context.hparams["mask_rate"])
                hidden = jnp.where(where, model.mask_id, sequences.histories)
                sequences = sequences._replace(histories=hidden, where=where)
            asked[number] = sequences
        return asked

    def encode(model: Model, params: Params, asked: dict[str, Sequences], key: Key) -> Array:
        """The encodings of all positions of a batch, ``[S, d]``."""
        parts = []
        for number, sequences in asked.items():
            own = jax.random.fold_in(jax.random.fold_in(key, int(number)), 1)
            encoded = model.encode(params, sequences.histories, sequences.users, key=own)
            parts.append(encoded[:, -sequences.targets.shape[1] :])
        return _flat(parts)

    def draw_for_all(context: Context, targets: Array, where: Array) -> Draw:
        key = jax.random.fold_in(context.key, len(frame.edges))
        return draw_shared(key, context.data, targets, where, pool=pool, n=n, exclude_target=exclude_target)

    def term(params, context: Context, batch: dict[str, SampleBatch]):
        asked = asked_of(context, batch)
        encoded = encode(model, params["prediction"], asked, context.key)
        targets, where, users = _positions(asked)
        table = model.output_table(params["prediction"])
        n_items = table.shape[0]
        if spec.value is None:
            total = full_total(spec, encoded, table, targets, where, context.hparams, chunk)
            return total, jnp.sum(where, dtype=encoded.dtype)
        if shared:
            draw = draw_for_all(context, targets, where)
            where = positions_that_count(spec, where, draw)
            total = shared_total(spec, encoded, targets, where, table, draw, context.hparams, n_items)
            return total, jnp.sum(where, dtype=encoded.dtype)

        key = jax.random.fold_in(context.key, len(frame.edges))
        dense = scoring == "dense" or (scoring == "auto" and n > _DENSE_FROM * n_items)
        slots = jnp.arange(targets.shape[0], dtype=jnp.int32)
        sizes = {
            "chunk": chunk or max(1, SCORES_PER_CHUNK // (n_items if dense else n * table.shape[1])),
            "where": where,
        }

        def draw_of(users, targets, slots) -> Draw:
            # Chunks differ by their first slot.
            own_key = jax.random.fold_in(key, slots[0])
            return draw_each(
                own_key, context.data, users, targets, pool=pool, n=n, exclude_target=exclude_target
            )

        def values_of(table, inputs):
            encoded, *asked_for = inputs
            targets = asked_for[1]
            draw = draw_of(*asked_for)
            if dense:
                values = values_by_counts(spec, encoded, targets, table, draw, context)
            else:
                neg = jnp.einsum("nd,nkd->nk", encoded, table[draw.items])
                values = values_of_draws(spec, encoded, targets, table, draw, context.hparams, neg, n_items)
            counted = positions_that_count(spec, jnp.ones(targets.shape, bool), draw)
            return jnp.where(counted, values, 0.0)

        def counts_of(nothing, inputs):
            del nothing
            ones = jnp.ones(inputs[0].shape, bool)
            return positions_that_count(spec, ones, draw_of(*inputs)).astype(encoded.dtype)

        total = losses.in_chunks(
            values_of, table, (encoded, users, targets, slots), **sizes, reduce_fn=jnp.sum
        )
        may_lack = pool == "unseen" or (exclude_target and pool == "popularity")
        if not (spec.needs_negative and may_lack):
            return total, jnp.sum(where, dtype=encoded.dtype)
        # The same draws once more, which cost little beside the scores.
        return total, losses.in_chunks(counts_of, (), (users, targets, slots), **sizes, reduce_fn=jnp.sum)

    def predict(state: TrainState, users: Array, histories: Array) -> Array:
        return model.apply(state.params["prediction"], histories, users)

    def sparse_step(state: TrainState, data: SequenceData, batch: dict[str, SampleBatch], key: Key):
        context = Context(data, state.hparams, state.extra, key, state.step)
        asked = asked_of(context, batch)
        targets, where, _ = _positions(asked)
        draw = draw_for_all(context, targets, where)
        n_items = data.counts.shape[0]
        read = [sequences.histories.reshape(-1) for sequences in asked.values()]
        # Where there is no target a 0 stands, which is an item.
        read += [jnp.where(where, targets, n_items), draw.items]
        items = distinct_items(jnp.concatenate(read), n_items=n_items)
        where = positions_that_count(spec, where, draw)
        small = model.resized(items.rows.shape[0])
        local = {
            number: sequences._replace(histories=items.local(sequences.histories))
            for number, sequences in asked.items()
        }
        local_draw = draw._replace(items=items.local(draw.items))

        def mean_loss(params: Params) -> Array:
            encoded = encode(small, params, local, key)
            table = small.output_table(params)
            total = shared_total(
                spec, encoded, items.local(targets), where, table, local_draw, state.hparams, n_items
            )
            return safe_divide(total, jnp.sum(where, dtype=encoded.dtype))

        params = state.params["prediction"]
        tables = item_tables(model, n_items)
        value, grads = jax.value_and_grad(mean_loss)(items.take(params, tables))
        rates = {name: state.hparams[name] for name in ("lr", "weight_decay")}
        params, moments = adam_step(params, state.opt_state["prediction"], grads, items, tables, **rates)
        state = state._replace(
            step=state.step + 1, params={"prediction": params}, opt_state={"prediction": moments}
        )
        return state, {"loss": value}

    method = supervised(
        {"prediction": Group(model.init, row_adam()) if sparse else prediction_group(model)},
        loss=term,
        batches=sequence_batches(batch_size),
        predict=predict,
        hparams=hparams,
        ranges={**spec.ranges, "mask_rate": Range(0.0, 1.0, without_ends=True)},
    )
    return method._replace(frame=frame, step=sparse_step if sparse else method.step)


def _flat(parts: list[Array]) -> Array:
    """Parts ``[B, l, ...]`` one behind the other, ``[S, ...]``."""
    return jnp.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])


def _positions(asked: dict[str, Sequences]) -> tuple[Array, Array, Array]:
    """Targets, their mask, and users of all positions, ``[S]``."""
    found = list(asked.values())
    users = [jnp.broadcast_to(each.users[:, None], each.targets.shape) for each in found]
    return _flat([each.targets for each in found]), _flat([each.where for each in found]), _flat(users)


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
        elif model.last_slot_only:
            samples = "prefixes"
    fits = {"cloze": model.mask_id is not None, "events": pairs}
    if not fits.get(samples, model.mask_id is None and not pairs) or (
        samples == "windows" and model.last_slot_only
    ):
        raise ConfigError(
            f"samples={samples!r} does not fit the model: bert4rec learns from 'cloze', mf and two_tower from "
            "'events', caser and fmlp_rec from 'prefixes', the others from 'windows' or 'prefixes'"
        )
    if lengths is not None:
        edges = tuple(lengths)
    else:
        edges = (model.max_len,) if model.fills_up else lengths_up_to(model.max_len)
    return check_frame(SequenceFrame(samples, model.max_len, edges, truncate, min_items))


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
    if loss == "noise_contrastive" and pool != "uniform":
        raise ConfigError(
            f"noise_contrastive holds for uniform noise, and negatives={pool!r} is other noise; take "
            "negatives='uniform', or importance_sampled_softmax, which corrects by log q, or scaled_cross_entropy"
        )
    n = spec.n_negatives if n_negatives is None else n_negatives
    check_sizes(n_negatives=n)
    return pool, n
