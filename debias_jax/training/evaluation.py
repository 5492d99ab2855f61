"""Evaluation under a protocol: the host lays out who is asked what, a pure function scores and counts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import metrics
from debias_jax._checks import check_sizes
from debias_jax._devices import split_rows
from debias_jax.data import sequences
from debias_jax.data.types import Interactions
from debias_jax.errors import ConfigError, DataError, DivergedError
from debias_jax.methods.base import ExposureFn, PredictFn, TrainData, TrainState
from debias_jax.metrics.protocol import POOLED, EvalProtocol, parse_metric
from debias_jax.training.device_data import item_popularity, padded_histories
from debias_jax.types import Array

_CHUNK_SCORES = 2**22
"""Scores that are held at once where the caller sets no chunk: 16 MiB of float32."""


class EvalSet(NamedTuple):
    """What an evaluation asks, as padded lists on the device; an argument of jitted functions.

    Attributes:
        users: int32 ``[E]``, the users that are asked, ascending.
        items: int32 ``[E, C]``: their candidates; of a catalogue ranking, their held-out pairs. Ascending in
            a row.
        labels: float32 ``[E, C]``.
        where: bool ``[E, C]``, False for padding.
        seen: int32 ``[E, S]``, items that a catalogue ranking leaves out, padded with ``n_items``; S = 0
            otherwise.
        propensity: float32 ``[n_items]``, for SNIPS; its length is the size of the catalogue.
        histories: int32 ``[E, l]``, what a method that reads histories is given, the newest item last and padded on
            the left with ``n_items``; l = 0 for methods of pairs.
    """

    users: Array
    items: Array
    labels: Array
    where: Array
    seen: Array
    propensity: Array
    histories: Array


class Evaluation(NamedTuple):
    """The numbers of one evaluation; with a leading axis of runs where the evaluation was mapped.

    Attributes:
        per_user: ``{metric: [E]}``.
        where: ``{metric: [E]}``, which users count; the others have value 0 or the metric's own.
        pooled: ``{metric: scalar}``, metrics of all pairs at once.
        finite: bool scalar, whether all scores of candidates were finite. Check it on the host
            (``check_finite``).
    """

    per_user: dict[str, Array]
    where: dict[str, Array]
    pooled: dict[str, Array]
    finite: Array


def build_eval_set(
    protocol: EvalProtocol,
    test: Interactions,
    train: Interactions,
    *,
    popularity: np.ndarray | None = None,
    candidates: Interactions | None = None,
    histories: sequences.Histories | None = None,
    length: int = 0,
) -> EvalSet:
    """Lays out an evaluation on the host.

    Args:
        protocol: the conventions.
        test: the rows to evaluate on; a validation part does as well.
        train: what the model saw: the clicks that ``eligible_items``, ``eligible_users`` and ``mask_seen``
            read. For a protocol that is fixed by the whole biased log (``cjmf``) pass the whole log, not a
            part of it.
        popularity: ``[n_items]``, item propensities for SNIPS up to a common factor; None takes
            theta_i = (c_i / max_j c_j)^(1/2) over the training positives.
        candidates: for ``candidates="given"``, rows whose pairs are ranked; their labels are not read.
        histories: what is known of each user, for a method that reads it.
        length: how many of the last events such a method is given.

    Returns:
        The evaluation set.

    Raises:
        DataError: parts count users or items differently, a pair occurs twice, there are no ratings for the
            protocol's threshold, a test positive is not among the given candidates, or nobody is left to
            evaluate.
        ConfigError: a metric's k is larger than the list of a user, or ``candidates`` does not fit the
            protocol.

    Example:
        >>> test = Interactions(np.array([0, 0, 1]), np.array([0, 2, 1]), np.array([1.0, 0.0, 1.0]), 2, 3)
        >>> train = Interactions(np.array([0, 1]), np.array([1, 2]), np.array([1.0, 1.0]), 2, 3)
        >>> build_eval_set(metrics.PROTOCOLS["badr"], test, train).items.tolist()
        [[0, 2], [1, 0]]
    """
    if (candidates is not None) != (protocol.candidates == "given"):
        raise ConfigError(
            f"protocol {protocol.name} has candidates={protocol.candidates!r}; "
            "a candidate list goes with 'given', and with nothing else"
        )
    if length and protocol.candidates != "catalogue":
        raise ConfigError(
            f"protocol {protocol.name} ranks candidates={protocol.candidates!r}, and a method that reads histories "
            "scores the whole catalogue; take 'leave_one_out', or another protocol of the catalogue"
        )
    for name, rows in (("train", train), ("candidates", candidates)):
        if rows is not None and (rows.n_users, rows.n_items) != (test.n_users, test.n_items):
            raise DataError(
                f"{name} counts {rows.n_users} users and {rows.n_items} items, "
                f"the evaluated part {test.n_users} and {test.n_items}; encode both with one vocabulary"
            )
    if not len(test):
        raise DataError("the evaluated part has no row")
    labels = _labels(protocol, test, "the evaluated part")
    clicks = train.take(_labels(protocol, train, "train") >= 0.5)
    if protocol.candidates == "given":
        listed, labels = _given(test, labels, candidates)
    else:
        listed = test
    _check_distinct(listed)

    seen = train.take(np.zeros(0, np.int64))
    if protocol.mask_seen != "none":
        seen = clicks if protocol.mask_seen == "positives" else train
        seen = seen.take(np.unique(seen.pair_keys, return_index=True)[1])
    keep = ~np.isin(listed.pair_keys, seen.pair_keys)
    if protocol.eligible_items == "clicked":
        keep &= np.bincount(clicks.items, minlength=test.n_items)[listed.items] > 0
    if protocol.candidates == "catalogue":
        keep &= labels > 0
    users = _eligible_users(protocol, test, listed.take(keep), labels[keep], clicks)
    if not users.size:
        raise DataError(
            f"protocol {protocol.name}: none of the {len(np.unique(test.users))} evaluated users qualifies "
            f"(eligible_users={protocol.eligible_users!r}, eligible_items={protocol.eligible_items!r})"
        )
    listed, labels = listed.take(keep), labels[keep]

    row_of = np.full(test.n_users, -1)
    row_of[users] = np.arange(users.size)
    items, list_labels, where = _padded(
        row_of, listed, users.size, (listed.items, np.int32(0)), (labels, np.float32(0)), (True, np.False_)
    )
    # As wide as the longest history, and of int32 for its sake.
    (seen_items,) = _padded(row_of, seen, users.size, (seen.items, np.int32(test.n_items)))
    sizes = where.sum(axis=1)
    if protocol.candidates == "catalogue":
        sizes = test.n_items - (seen_items < test.n_items).sum(axis=1)
    _check_k(protocol, users, sizes)
    return EvalSet(
        users=jnp.asarray(users, jnp.int32),
        items=jnp.asarray(items, jnp.int32),
        labels=jnp.asarray(list_labels, jnp.float32),
        where=jnp.asarray(where),
        seen=jnp.asarray(seen_items, jnp.int32),
        propensity=jnp.asarray(_propensity(popularity, clicks)),
        histories=jnp.asarray(
            np.zeros((users.size, 0), np.int32)
            if histories is None
            else padded_histories(*histories, users, length, fill=test.n_items)
        ),
    )


def evaluate(
    protocol: EvalProtocol,
    predict: PredictFn,
    state: TrainState,
    eval_set: EvalSet,
    *,
    chunk: int | None = None,
) -> Evaluation:
    """Scores an evaluation set and computes the protocol's metrics, in chunks of users to bound memory.

    Pure: ``jax.jit(functools.partial(evaluate, protocol, predict))``, mapped over ``state`` for many runs. Users are
    split over devices as the rows of ``losses.in_chunks`` are.

    Args:
        protocol: the one that ``eval_set`` was built with.
        predict: ``(state, users [c, 1], items [c, C] or [1, n_items]) -> scores``, broadcasting; where the evaluation
            set has histories, ``(state, users [c], histories [c, l]) -> scores [c, n_items]``.
        state: what ``predict`` reads.
        eval_set: from ``build_eval_set``.
        chunk: users that are scored at once; None for as many as make four million scores.

    Returns:
        The evaluation. The values do not depend on ``chunk`` beyond the rounding of ``predict``.

    Raises:
        ValueError: ``chunk < 1``, or ``predict`` does not broadcast users against items.

    Example:
        >>> rows = Interactions(np.array([0, 0]), np.array([0, 1]), np.array([0.0, 1.0]), 1, 2)
        >>> eval_set = build_eval_set(metrics.PROTOCOLS["badr"], rows, rows)
        >>> scorer = lambda state, users, items: state[items] + 0.0 * users
        >>> result = evaluate(metrics.PROTOCOLS["badr"], scorer, jnp.array([0.1, 0.9]), eval_set)
        >>> float(result.pooled["auc"]), result.per_user["ndcg@5"].tolist()
        (1.0, [1.0])
    """
    catalogue = protocol.candidates == "catalogue"
    pooled_metrics = [metric for metric in protocol.metrics if metric in POOLED]
    n_users, width = eval_set.items.shape
    n_items = eval_set.propensity.shape[0]
    if chunk is None:
        chunk = min(n_users, max(1, _CHUNK_SCORES // max(1, n_items if catalogue else width)))
    check_sizes(chunk=chunk)
    n_chunks = -(-n_users // chunk)

    def one_chunk(rows):
        users, items, labels, where, seen, histories = split_rows(rows)
        if catalogue:
            items, labels, where = _catalogue(items, labels, where, seen, n_items)
        asked = (users, histories) if histories.shape[1] else (users[:, None], items)
        scores = jnp.asarray(predict(state, *asked), jnp.float32)
        if scores.shape != where.shape:
            raise ValueError(
                f"predict returned {scores.shape} for users {asked[0].shape} and "
                f"{'histories' if histories.shape[1] else 'items'} {asked[1].shape}; it must broadcast them to "
                f"{where.shape}"
            )
        propensity = jnp.broadcast_to(eval_set.propensity[items], where.shape)
        values, counted = metrics.user_metrics(protocol, scores, labels, propensity=propensity, where=where)
        finite = jnp.all(jnp.isfinite(scores) | ~where)
        return values, counted, finite, scores if pooled_metrics else ()

    def chunked(leaf):
        # The last chunk is filled up with copies of the last user, which are cut off again below.
        filled = jnp.pad(leaf, [(0, n_chunks * chunk - n_users)] + [(0, 0)] * (leaf.ndim - 1), mode="edge")
        return filled.reshape(n_chunks, chunk, *leaf.shape[1:])

    rows = (
        eval_set.users,
        eval_set.items,
        eval_set.labels,
        eval_set.where,
        eval_set.seen,
        eval_set.histories,
    )
    values, counted, finite, scores = jax.tree.map(
        lambda leaf: leaf if leaf.ndim == 1 else leaf.reshape(n_chunks * chunk, *leaf.shape[2:])[:n_users],
        jax.lax.map(one_chunk, jax.tree.map(chunked, rows)),
    )
    pooled_functions = {"auc": metrics.auc, "log_loss": metrics.log_loss}
    pooled = {
        metric: pooled_functions[metric](scores, eval_set.labels, where=eval_set.where)
        for metric in pooled_metrics
    }
    return Evaluation(values, counted, pooled, jnp.all(finite))


def exposure_matrix(
    exposure: ExposureFn, state: TrainState, data: TrainData, *, chunk: int | None = None
) -> Array:
    """The exposure estimate of a method for every pair, in chunks of users to bound what it holds on the way.

    Pure, like ``evaluate``. Beside a simulator's truth, ``metrics.pearson`` of the two is the PCC of Biif (eq. 20).

    Args:
        exposure: ``Method.exposure``, ``(state, data, users [c, 1], items [1, n]) -> probabilities`` that broadcast to
            ``[c, n]``.
        state: what it reads.
        data: the training data.
        chunk: users that are estimated at once; None for as many as make four million values.

    Returns:
        float32 ``[n_users, n_items]``.

    Raises:
        ValueError: ``chunk < 1``.

    Example:
        >>> from debias_jax import data, training
        >>> train = training.train_data(data.synthetic.generate(seed=0, n_users=8, n_items=6))
        >>> popularity = lambda state, data, users, items: data.popularity[items]
        >>> exposure_matrix(popularity, None, train).shape
        (8, 6)
    """
    n_users, n_items = data.matrix_size
    if chunk is None:
        chunk = min(n_users, max(1, _CHUNK_SCORES // n_items))
    check_sizes(chunk=chunk)
    n_chunks = -(-n_users // chunk)
    # The last chunk is filled up with copies of the last user, which are cut off again below.
    users = jnp.minimum(jnp.arange(n_chunks * chunk, dtype=jnp.int32), n_users - 1).reshape(n_chunks, chunk)

    items = jnp.arange(n_items, dtype=jnp.int32)[None, :]

    def one_chunk(users):
        users = split_rows(users)
        # Indices of one axis each: a model then multiplies vectors of users and items, not copies for each pair.
        estimate = jnp.asarray(exposure(state, data, users[:, None], items), jnp.float32)
        return jnp.broadcast_to(estimate, (chunk, n_items))

    return jax.lax.map(one_chunk, users).reshape(n_chunks * chunk, n_items)[:n_users]


def summarise(evaluation: Evaluation) -> dict[str, Array]:
    """Means over the users that count, beside the pooled metrics; pure, also over leading axes of runs.

    Args:
        evaluation: from ``evaluate``.

    Returns:
        ``{metric: value}``. NaN where nobody counts, and everywhere if a score was not finite: no early
        stopping then takes it for the best.

    Example:
        >>> counted = {"dcg@3": jnp.array([True, True, False])}
        >>> result = Evaluation({"dcg@3": jnp.array([1.0, 0.5, 9.0])}, counted, {}, jnp.array(True))
        >>> float(summarise(result)["dcg@3"])
        0.75
    """
    means = {
        metric: jnp.mean(values, axis=-1, where=evaluation.where[metric])
        for metric, values in evaluation.per_user.items()
    }
    return {
        metric: jnp.where(evaluation.finite, value, jnp.nan)
        for metric, value in (means | evaluation.pooled).items()
    }


def check_finite(evaluation: Evaluation) -> None:
    """Raises on the host if a score was not finite.

    Raises:
        DivergedError: naming the runs, where the evaluation has an axis of runs.

    Example:
        >>> check_finite(Evaluation({}, {}, {}, jnp.array(True)))
    """
    finite = np.asarray(evaluation.finite)
    if not finite.all():
        runs = (
            "" if finite.ndim == 0 else f" in run(s) {', '.join(map(str, np.flatnonzero(~finite.ravel())))}"
        )
        raise DivergedError(
            f"a score is NaN or infinite{runs}; lower the learning rate or raise the weight decay"
        )


def _catalogue(items, labels, where, seen, n_items):
    """The catalogue as candidates: items ``[1, n]``, labels ``[c, n]``, and a mask of what may be ranked."""
    rows = jnp.arange(seen.shape[0], dtype=jnp.int32)[:, None]
    held_out = jnp.where(where, items, n_items)
    dense = jnp.zeros((seen.shape[0], n_items), jnp.float32).at[rows, held_out].set(labels, mode="drop")
    allowed = jnp.ones((seen.shape[0], n_items), jnp.bool_).at[rows, seen].set(False, mode="drop")
    return jnp.arange(n_items, dtype=jnp.int32)[None, :], dense, allowed


def _labels(protocol: EvalProtocol, rows: Interactions, what: str) -> np.ndarray:
    if protocol.threshold is None:
        return rows.labels
    if rows.ratings is None:
        raise DataError(
            f"protocol {protocol.name} thresholds ratings at {protocol.threshold:g}, but {what} has none; "
            "set threshold=None to take its labels"
        )
    return (rows.ratings >= protocol.threshold).astype(np.float32)


def _given(
    test: Interactions, labels: np.ndarray, candidates: Interactions
) -> tuple[Interactions, np.ndarray]:
    known = dict(zip(test.pair_keys.tolist(), labels.tolist(), strict=True))
    lost = np.flatnonzero((labels > 0) & ~np.isin(test.pair_keys, candidates.pair_keys))
    if lost.size:
        raise DataError(
            f"{lost.size} test positives are not among the given candidates, the first is "
            f"user {test.users[lost[0]]}, item {test.items[lost[0]]}; add them"
        )
    return candidates, np.array([known.get(key, 0.0) for key in candidates.pair_keys.tolist()], np.float32)


def _check_distinct(rows: Interactions) -> None:
    keys, counts = np.unique(rows.pair_keys, return_counts=True)
    if (counts > 1).any():
        user, item = divmod(int(keys[counts > 1][0]), rows.n_items)
        raise DataError(
            f"user {user}, item {item} occurs {counts.max()} times among the evaluated rows; "
            "drop the duplicates, or they would take several ranks"
        )


def _eligible_users(protocol, test, listed, labels, clicks) -> np.ndarray:
    if protocol.eligible_users == "all":
        return np.arange(test.n_users)
    if protocol.eligible_users == "test":
        return np.unique(test.users if protocol.candidates == "catalogue" else listed.users)
    positives = listed.users[labels >= 0.5]
    negatives = listed.users[labels < 0.5]
    if protocol.candidates == "catalogue":
        negatives = test.users
    return np.intersect1d(np.intersect1d(positives, negatives), clicks.users)


def _padded(row_of, pairs, n_rows: int, *columns: tuple[Any, np.generic]) -> list[np.ndarray]:
    """Columns ``(values, fill)`` of pairs as ``[n_rows, width]`` of the fill's dtype, in each row ascending by item."""
    rows = row_of[pairs.users]
    order = np.lexsort((pairs.items, rows))
    order = order[rows[order] >= 0]
    rows = rows[order]
    counts = np.bincount(rows, minlength=n_rows)
    slots = np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = []
    for values, fill in columns:
        padded.append(np.full((n_rows, counts.max(initial=0)), fill))
        padded[-1][rows, slots] = np.broadcast_to(values, np.shape(pairs.items))[order]
    return padded


def _check_k(protocol: EvalProtocol, users: np.ndarray, sizes: np.ndarray) -> None:
    smallest = int(sizes.argmin())
    for metric in protocol.metrics:
        kind, k = parse_metric(metric)
        catalogue = protocol.candidates == "catalogue"
        if k is not None and k > sizes[smallest] and (protocol.short_lists == "raise" or catalogue):
            way_out = "" if catalogue else ", or set short_lists='cut' to use min(k, list)"
            raise ConfigError(
                f"protocol {protocol.name}: {metric} asks for k = {k} ranks, but the user of code {users[smallest]} "
                f"has {sizes[smallest]} candidates, the smallest list; lower k{way_out} ("
                "config.protocol.metrics of the test, config.protocol.validation_metrics and .monitor of validation)"
            )


def _propensity(popularity: np.ndarray | None, clicks: Interactions) -> np.ndarray:
    if popularity is None:
        return item_popularity(clicks.items, clicks.n_items)
    popularity = np.asarray(popularity, np.float32)
    if popularity.shape != (clicks.n_items,):
        raise DataError(
            f"popularity must have shape ({clicks.n_items},), one an item, got {popularity.shape}"
        )
    bad = np.flatnonzero(~np.isfinite(popularity) | (popularity < 0))
    if bad.size:
        raise DataError(f"popularity[{bad[0]}] = {popularity[bad[0]]} must be finite and at least 0")
    return popularity
