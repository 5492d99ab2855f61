"""Each user's items in time order."""

from typing import NamedTuple

import numpy as np

from debias_jax.data._settings import check_choice
from debias_jax.data.types import Dataset, Interactions, concatenate
from debias_jax.errors import ConfigError


class Histories(NamedTuple):
    """Each user's items, oldest first, one user after the other.

    Attributes:
        indptr: int64 ``[n_users + 1]``; the items of user ``u`` are ``items[indptr[u]:indptr[u + 1]]``.
        items: int32 ``[n]``, an item as often as it occurs.
    """

    indptr: np.ndarray
    items: np.ndarray


def time_order(interactions: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the rows by user, oldest first, and where each user's begin.

    Rows of equal time, and all rows where there are no timestamps, stay in their order.

    Returns:
        ``(order, indptr)``, int64 ``[n]`` and ``[n_users + 1]``.
    """
    if interactions.timestamps is None:
        order = np.argsort(interactions.users, kind="stable")
    else:
        order = np.lexsort((interactions.timestamps, interactions.users))
    sizes = np.bincount(interactions.users, minlength=interactions.n_users)
    return order, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def histories(interactions: Interactions) -> Histories:
    """Each user's items, by timestamp where there is one, else in the order of the rows.

    Every row is an event, whatever its label: for positives only pass ``interactions.positives``. Rows of equal time
    stay in their order, and an item that occurs again stands there again.

    Args:
        interactions: rows in any order.

    Returns:
        The histories of all ``n_users`` users; one without rows has an empty one.

    >>> log = Interactions(
    ...     np.array([2, 0, 2, 2]), np.array([4, 1, 3, 4]), np.ones(4), 3, 5, timestamps=np.array([9, 5, 5, 5])
    ... )
    >>> found = histories(log)
    >>> found.indptr.tolist(), found.items.tolist()
    ([0, 1, 1, 4], [1, 3, 4, 4])
    """
    order, indptr = time_order(interactions)
    return Histories(indptr, interactions.items[order])


def histories_before(dataset: Dataset, part: str) -> Histories:
    """What is known of each user before the targets of a held-out part: what the targets are predicted from.

    That are the positive rows of the training log, for ``"test"`` also of the validation part where it was held out of
    the log, and of ``dataset.context`` what is older than the user's (first) target. Events of ``context`` at the very
    time of the target are left out, as nobody knows which of them came before it.

    Args:
        dataset: split by ``leave_one_out``, ``global_time_split`` or another split.
        part: "validation" or "test".

    Returns:
        The histories of all ``n_users`` users; of one without a target what is known anyway.

    Raises:
        ConfigError: the dataset has no such part.

    >>> from debias_jax.data import synthetic_sequences
    >>> from debias_jax.data.sequences import leave_one_out
    >>> split = leave_one_out(synthetic_sequences.generate(seed=0))
    >>> len(histories_before(split, "test").items) == len(split.train) + len(split.validation)
    True
    """
    check_choice("part", part, ("validation", "test"))
    targets = getattr(dataset, part)
    if targets is None:
        raise ConfigError(f"{dataset.name} has no {part} part; split it first")
    log = dataset.log("validation") if part == "test" else dataset.train
    if dataset.context is not None:
        first = np.full(dataset.n_users, np.iinfo(np.int64).max)
        np.minimum.at(first, targets.users, targets.timestamps)
        # Of who has no target nothing but the log is asked for.
        first[np.bincount(targets.users, minlength=dataset.n_users) == 0] = np.iinfo(np.int64).min
        context = dataset.context
        log = concatenate(log, context.take(context.timestamps < first[context.users]))
    return histories(log.positives)


def events_of(histories: Histories, *, n_items: int) -> Interactions:
    """The rows of histories, with label 1: what ``histories`` would make them of again.

    >>> events_of(Histories(np.array([0, 0, 2]), np.array([3, 1], np.int32)), n_items=4).users.tolist()
    [1, 1]
    """
    n_users = len(histories.indptr) - 1
    users = np.repeat(np.arange(n_users, dtype=np.int32), np.diff(histories.indptr))
    return Interactions(users, histories.items, np.ones(len(users), np.float32), n_users, n_items)


def has_repeats(log: Interactions | Dataset) -> bool:
    """Whether a (user, item) pair occurs more than once.

    It decides what a next-item protocol leaves out: without repeats the items of a history are no candidates
    (``mask_seen="rows"``); with repeats they must stay (``mask_seen="none"``), as a target may be among them.

    Args:
        log: rows, or a dataset: then of its training rows, those held out of the log and the context together, as a
            repeat may stand in two parts.

    >>> log = Interactions(np.array([0, 0, 1]), np.array([3, 3, 3]), np.ones(3), 2, 4)
    >>> has_repeats(log), has_repeats(log.take([1, 2]))
    (True, False)
    """
    if isinstance(log, Dataset):
        rows, context = log.log("validation", "test"), log.context
        log = rows if context is None else concatenate(rows, context)
    return log.n_repeats > 0
