"""Training samples of sequence models, as positions in the histories: nothing is copied or padded here."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from debias_jax.data._settings import check_integer
from debias_jax.data.sequences._histories import Histories
from debias_jax.errors import ConfigError, DataError


class Samples(NamedTuple):
    """Slices of ``Histories.items``, one a training sample.

    Attributes:
        users: int32 ``[m]``.
        starts: int32 ``[m]``, position of the first input.
        ends: int32 ``[m]``: of ``windows`` and ``prefixes`` the position of the last target, which is one after the
            last input; of ``cloze`` the position of the last input.
    """

    users: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def windows(histories: Histories, *, max_len: int) -> Samples:
    """One sample a user with at least 2 items: its last items, each of which predicts the one after it (SASRec).

    Inputs are ``items[starts:ends]``, the newest ``max_len`` but the last item, targets
    ``items[starts + 1:ends + 1]``; there are ``ends - starts`` of them.

    Args:
        histories: the training log's.
        max_len: most inputs of a sample.

    Raises:
        ConfigError: ``max_len`` is no positive integer.
        DataError: there are more items than int32 counts.

    >>> log = Histories(np.array([0, 1, 5, 8]), np.array([7, 0, 1, 2, 3, 4, 5, 6], np.int32))
    >>> samples = windows(log, max_len=3)
    >>> samples.users.tolist(), samples.starts.tolist(), samples.ends.tolist()
    ([1, 2], [1, 5], [4, 7])
    """
    first, last = _bounds(histories, max_len)
    users = np.flatnonzero(last > first)
    return _samples(users, np.maximum(first, last - max_len)[users], last[users])


def prefixes(
    histories: Histories, *, max_len: int, first_cut: int | None = None, min_items: int = 2
) -> Samples:
    """One sample a prefix of a history: the items before it predict its last one (GRU4Rec, Caser, FMLP-Rec).

    The prefixes have ``k = min_items .. n`` items; a user with ``2 <= n < min_items`` gives one sample, the whole
    history. The input is ``items[starts:ends]``, the newest ``max_len`` before the target ``items[ends]``.

    Args:
        histories: the training log's.
        max_len: most inputs of a sample.
        first_cut: number of a user's newest items that are looked at, or None for all. FMLP-Rec cuts to ``max_len``
            items before it forms prefixes.
        min_items: items of the shortest prefix, at least 2; Caser has 5, its length.

    Returns:
        The samples by user, the shortest prefix first.

    Raises:
        ConfigError: a number is no integer in its range.
        DataError: there are more items than int32 counts.

    >>> log = Histories(np.array([0, 1, 5]), np.array([7, 0, 1, 2, 3], np.int32))
    >>> samples = prefixes(log, max_len=2)
    >>> samples.users.tolist(), samples.starts.tolist(), samples.ends.tolist()
    ([1, 1, 1], [1, 1, 2], [2, 3, 4])
    >>> prefixes(log, max_len=2, first_cut=3).starts.tolist()
    [2, 2]
    >>> prefixes(log, max_len=4, min_items=9).ends.tolist()
    [4]
    """
    first, last = _bounds(histories, max_len)
    check_integer("min_items", min_items, 2)
    if first_cut is not None:
        check_integer("first_cut", first_cut, 2)
        first = np.maximum(first, last + 1 - first_cut)
    n_items = last + 1 - first
    n_samples = np.where(n_items < 2, 0, np.maximum(n_items - min_items, 0) + 1)
    users = np.repeat(np.arange(len(first)), n_samples)
    shortest = np.cumsum(n_samples) - n_samples
    ends = last[users] + 1 - n_samples[users] + np.arange(len(users)) - shortest[users]
    return _samples(users, np.maximum(first[users], ends - max_len), ends)


def cloze(histories: Histories, *, max_len: int) -> Samples:
    """One sample a user: its newest items, of which some will be masked and predicted from the others (BERT4Rec).

    Inputs, and what may be a target, are ``items[starts:ends + 1]``; there are ``ends - starts + 1`` of them.

    Args:
        histories: the training log's.
        max_len: most inputs of a sample.

    Returns:
        The samples of the users with an item.

    Raises:
        ConfigError: ``max_len`` is no positive integer.
        DataError: there are more items than int32 counts.

    >>> log = Histories(np.array([0, 1, 1, 5]), np.array([7, 0, 1, 2, 3], np.int32))
    >>> samples = cloze(log, max_len=3)
    >>> samples.users.tolist(), samples.starts.tolist(), samples.ends.tolist()
    ([0, 2], [0, 2], [0, 4])
    """
    first, last = _bounds(histories, max_len)
    users = np.flatnonzero(last >= first)
    return _samples(users, np.maximum(first, last + 1 - max_len)[users], last[users])


def bucketed(
    samples: Samples, *, lengths: np.ndarray, edges: Sequence[int] = (8, 16, 32, 50)
) -> tuple[Samples, ...]:
    """Sorts samples by length, so that a batch of short ones need not be padded to the longest.

    Args:
        samples: any.
        lengths: int ``[m]``, inputs of each sample: ``ends - starts``, of ``cloze`` one more.
        edges: longest length of each bucket, ascending; no sample may be longer than the last.

    Returns:
        One ``Samples`` for each edge, in the samples' order; a bucket may be empty, so that edge and bucket always
        belong together by position.

    Raises:
        ConfigError: the edges are not ascending positive integers.
        DataError: a sample is longer than the last edge, or ``lengths`` has another shape.

    >>> samples = Samples(np.arange(4), np.zeros(4, np.int32), np.array([3, 1, 4, 2]))
    >>> [bucket.users.tolist() for bucket in bucketed(samples, lengths=samples.ends, edges=(2, 3, 6))]
    [[1, 3], [0], [2]]
    """
    for previous, edge in itertools.pairwise((0, *edges)):
        check_integer("each of edges", edge, 1)
        if edge <= previous:
            raise ConfigError(f"edges = {tuple(edges)!r} must ascend")
    lengths = np.asarray(lengths)
    if lengths.shape != samples.users.shape:
        raise DataError(f"lengths must have shape {samples.users.shape} like users, got {lengths.shape}")
    longest = int(lengths.max(initial=0))
    if not edges or longest > edges[-1]:
        raise DataError(
            f"a sample has {longest} inputs, edges = {tuple(edges)!r} end before; append {longest} or cut by max_len"
        )
    buckets = np.searchsorted(np.asarray(edges), lengths, side="left")
    return tuple(Samples(*(column[buckets == bucket] for column in samples)) for bucket in range(len(edges)))


def _bounds(histories: Histories, max_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions of each user's first and last item, int64; of an empty history the last stands before the first."""
    check_integer("max_len", max_len, 1)
    if len(histories.items) > np.iinfo(np.int32).max:
        raise DataError(f"{len(histories.items):,} items are more than int32 positions can count")
    return histories.indptr[:-1], histories.indptr[1:] - 1


def _samples(users: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> Samples:
    return Samples(users.astype(np.int32), starts.astype(np.int32), ends.astype(np.int32))
