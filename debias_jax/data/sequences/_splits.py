"""Splits of event logs by time: each user's last events, or all events after a moment."""

import numpy as np

from debias_jax.data._settings import check_choice, check_integer, check_number
from debias_jax.data.core import keep_ids
from debias_jax.data.sequences._histories import time_order
from debias_jax.data.types import Dataset, Interactions
from debias_jax.errors import ConfigError, DataError


def leave_one_out(dataset: Dataset, *, validation: int = 1, test: int = 1, min_train: int = 2) -> Dataset:
    """Each user's last event is for test, the one before it for validation, the rest for training.

    Events are in time order; those of equal time, and all where there are no timestamps, in the order of the rows. A
    user who would keep fewer than ``min_train`` events stays wholly in training, and is not scored.

    Args:
        dataset: an event log, all of it in ``train``.
        validation: events of each user for validation; 0 makes no such part.
        test: events of each user for test; 0 makes no such part.
        min_train: events that a user of the other parts must keep: with the default of 2, an input and a target, users
            of 3 events or fewer stay in training.

    Returns:
        The dataset with the new parts, rows in the log's order. ``notes`` says how many users are scored, how many of
        the held-out events only the order of the rows tells from the one before, and how many events are repeats.

    Raises:
        ConfigError: a part exists already, a number is out of range, or nothing would be held out.
        DataError: no user has enough events.

    Source:
        Kang, McAuley, "Self-attentive sequential recommendation" (ICDM 2018), section 4.

    >>> from debias_jax.data import Dataset, Interactions, Vocabulary
    >>> log = Interactions(np.array([0, 0, 0, 0, 1]), np.array([3, 2, 1, 0, 0]), np.ones(5), 2, 4)
    >>> split = leave_one_out(Dataset("x", log, None, None, Vocabulary("ab"), Vocabulary("rstu")))
    >>> split.train.items.tolist(), split.validation.items.tolist(), split.test.items.tolist()
    ([3, 2, 0], [1], [0])
    """
    shares = {"validation": validation, "test": test}
    for name, count in shares.items():
        check_integer(name, count, 0)
    check_integer("min_train", min_train, 1)
    _check_parts(dataset, shares)
    log = dataset.train
    order, indptr = time_order(log)
    sizes = np.diff(indptr)
    scored = sizes >= validation + test + min_train
    if not scored.any():
        raise DataError(
            f"{dataset.name}: no user has the {validation + test + min_train} events that a split into {min_train} + "
            f"{validation} + {test} needs; the longest history has {sizes.max(initial=0)}"
        )
    from_end = np.empty(len(log), np.int64)
    from_end[order] = np.repeat(indptr[1:], sizes) - 1 - np.arange(len(log))
    held = scored[log.users] & (from_end < validation + test)
    in_test = held & (from_end < test)
    held_parts = ", ".join(f"{count} for {name}" for name, count in shares.items() if count)
    notes = [
        f"leave one out: the last events of each of {scored.sum():,} users, {held_parts}",
        f"{len(log):,} events in histories of {sizes[sizes > 0].mean():.1f} on average, {sizes.max()} at most",
    ]
    n_short = (sizes > 0).sum() - scored.sum()
    if n_short:
        notes.append(
            f"{n_short:,} users of fewer than {validation + test + min_train} events are in training only"
        )
    if log.timestamps is None:
        notes.append("no timestamps: the order of the rows is the order of time")
    else:
        tied = np.zeros(len(sizes), bool)
        times, lasts = log.timestamps[order], indptr[1:] - 1
        for back in range(validation + test):
            position = lasts[scored] - back
            tied[scored] |= times[position] == times[position - 1]
        if tied.any():
            notes.append(
                f"of {tied.sum():,} users a held-out event has the time of the one before: the rows' order decides"
            )
    return dataset.replace(
        train=log.take(~held),
        **({"validation": log.take(held & ~in_test)} if validation else {}),
        **({"test": log.take(in_test)} if test else {}),
        notes=(*dataset.notes, *notes, *_repeats_note(log)),
        held_out=(*dataset.held_out, *(name for name, count in shares.items() if count)),
    )


def global_time_split(
    dataset: Dataset, *, validation: float = 0.1, test: float = 0.1, targets: str = "first"
) -> Dataset:
    """What comes after a moment, the same for all users, is for validation, what comes after a later one for test.

    Leave-one-out trains on events of other users that come after the one to be predicted; this does not. The moments
    are quantiles of the time of all events, and events of equal time are never parted. Of a user, one event after
    each moment is the target:

    - ``targets="first"``, the next event after the moment, predicted from what came before the moment;
    - ``targets="last"``, the user's last event of the part, predicted from all before it.

    Users and items without a training event are unknown to what is trained: their events are dropped, and the
    vocabularies hold the others. Known events after the first moment that are no targets are in ``context``;
    ``histories_before`` puts those before a target in their place, and the others are known to what is served.

    Args:
        dataset: an event log with timestamps, all of it in ``train``.
        validation: share of the events for validation, in [0, 1); 0 makes no such part.
        test: share of the events for test, in [0, 1); 0 makes no such part.
        targets: "first" or "last".

    Returns:
        The dataset with the new parts, rows in the log's order. Parts have fewer rows than their share of the events;
        ``notes`` counts what became of the others.

    Raises:
        ConfigError: a part exists already, or a share is out of range.
        DataError: there are no timestamps, or a part would be empty.

    Source:
        Gusak et al., "Time to split: exploring data splitting strategies for offline evaluation of sequential
        recommenders" (RecSys 2025), global temporal split with targets First and Last.

    >>> from debias_jax.data import Dataset, Interactions, Vocabulary
    >>> users, items, times = np.array([[0, 0, 1], [1, 1, 3], [0, 1, 8], [1, 0, 8], [1, 1, 9], [0, 0, 9]]).T
    >>> log = Interactions(users, items, np.ones(6), 2, 2, timestamps=times)
    >>> data = Dataset("x", log, None, None, Vocabulary("ab"), Vocabulary("rs"))
    >>> split = global_time_split(data, validation=0.3, test=0.3)
    >>> split.train.timestamps.tolist(), split.validation.timestamps.tolist(), split.test.timestamps.tolist()
    ([1, 3], [8, 8], [9, 9])
    """
    shares = {"validation": validation, "test": test}
    for name, share in shares.items():
        check_number(name, share, "[0, 1)")
    check_choice("targets", targets, ("first", "last"))
    if validation + test >= 1:
        raise ConfigError(f"validation + test = {validation + test:g} leaves nothing to train on")
    _check_parts(dataset, shares)
    log = dataset.train
    if log.timestamps is None:
        raise DataError(
            f"{dataset.name} has no timestamps to split by; name their column with timestamp=, or leave_one_out goes "
            "by the order of the rows"
        )
    part = _parts_by_time(dataset.name, log.timestamps, shares)
    users, items = np.unique(log.users[part == 0]), np.unique(log.items[part == 0])
    known = np.isin(log.users, users) & np.isin(log.items, items)
    order, _ = time_order(log)
    target = np.zeros(len(log), bool)
    rows, notes = {}, []
    for code, name in enumerate(shares, start=1):
        if not shares[name]:
            continue
        inside = order[(part[order] == code) & known[order]]
        # In time order by user, so that the first or last of each run of one user is the target.
        ends = np.diff(log.users[inside], **{"prepend" if targets == "first" else "append": -1}) != 0
        rows[name] = np.sort(inside[ends])
        target[rows[name]] = True
        if not inside.size:
            raise DataError(
                f"{dataset.name}: none of the {(part == code).sum():,} events of the {name} part is one of a user and "
                "an item of the training part; give training a larger share"
            )
        since = log.timestamps[part == code].min()
        notes.append(
            f"{name}: {(part == code).sum():,} events from time {since}, the {targets} of each of {len(rows[name]):,} "
            "users is the target"
        )
        unknown = ((part == code) & ~known).sum()
        if unknown:
            notes.append(f"{name}: {unknown:,} events of users or items without a training event dropped")
    latest = np.full(log.n_users, np.iinfo(np.int64).min)
    np.maximum.at(latest, log.users[target], log.timestamps[target])
    context = (part > 0) & known & ~target
    between = context & (log.timestamps < latest[log.users])
    notes.append(
        f"{context.sum():,} other events are context: {between.sum():,} of a later target, the rest of what is asked "
        "for when all is known"
    )
    split = dataset.replace(
        train=log.take(part == 0),
        **{name: log.take(chosen) for name, chosen in rows.items()},
        context=log.take(context),
        notes=(*dataset.notes, *notes, *_repeats_note(log)),
        held_out=(*dataset.held_out, *rows),
    )
    return keep_ids(split, users, items)


def _check_parts(dataset: Dataset, shares: dict[str, float]) -> None:
    if not any(shares.values()):
        raise ConfigError("validation and test are both 0, so nothing would be held out")
    for name in ("validation", "test", "context"):
        rows = getattr(dataset, name)
        if rows is not None and (shares.get(name) or name == "context"):
            raise ConfigError(
                f"{dataset.name} has a {name} part of {len(rows):,} rows already; drop it on purpose with "
                f"dataset.replace({name}=None)"
            )


def _parts_by_time(name: str, times: np.ndarray, shares: dict[str, float]) -> np.ndarray:
    """0 for training, 1 for validation, 2 for test, of each event."""
    in_order = np.sort(times)
    n_test = round(shares["test"] * len(times))
    n_held = n_test + round(shares["validation"] * len(times))
    part = np.zeros(len(times), np.int64)
    # The moments are times of events, and all events of that time come after it.
    if n_held:
        part[times >= in_order[len(times) - n_held]] = 1 if shares["validation"] else 2
    if n_test:
        part[times >= in_order[len(times) - n_test]] = 2
    wanted = {"training": 0, **{part: code for code, part in enumerate(shares, start=1) if shares[part]}}
    for empty, code in wanted.items():
        if not (part == code).any():
            raise DataError(
                f"{name}: the {empty} part would be empty; of {len(times):,} events "
                f"{len(np.unique(times)):,} have a time of their own, and events of equal time are not parted"
            )
    return part


def _repeats_note(log: Interactions) -> tuple[str, ...]:
    repeats = log.n_repeats
    if not repeats:
        return ()
    return (
        f"{repeats:,} events repeat an earlier pair: rank with mask_seen='none', a target may have been seen",
    )
