"""Histories and training samples: against slow loops, and the published sample counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.events import EVENTS, by_user, log_of

from debias_jax.data import Interactions, beauty, sequences
from debias_jax.errors import ConfigError, DataError


def made(*lists):
    """Histories of lists of items."""
    indptr = np.cumsum([0, *map(len, lists)])
    return sequences.Histories(indptr, np.array([item for items in lists for item in items], np.int32))


def cut(histories, samples, *, shift=0):
    """The slice of each sample, as (user, items)."""
    return [
        (user, histories.items[start : end + shift].tolist())
        for user, start, end in zip(*(column.tolist() for column in samples), strict=True)
    ]


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_histories_are_a_stable_sort_by_time(triples):
    found = sequences.histories(log_of(triples, 6, 6))
    assert (found.indptr.dtype, found.items.dtype) == (np.int64, np.int32)
    rows = by_user(triples)
    expected = [[triples[row][1] for row in rows.get(user, [])] for user in range(6)]
    split = np.split(found.items, found.indptr[1:-1])
    assert [part.tolist() for part in split] == expected


def test_without_timestamps_the_rows_are_in_order_of_time():
    log = Interactions(np.array([1, 0, 1, 1]), np.array([2, 2, 0, 2]), np.array([0.0, 1, 1, 0]), 3, 3)
    found = sequences.histories(log)
    assert (found.indptr.tolist(), found.items.tolist()) == ([0, 1, 4, 4], [2, 2, 0, 2])


def test_times_before_1970_and_beyond_int32():
    log = log_of([(0, 0, 2**40), (0, 1, -(2**40)), (0, 2, 0)])
    assert sequences.histories(log).items.tolist() == [1, 2, 0]


def test_repeats_are_of_pairs():
    assert not sequences.has_repeats(log_of([(0, 1, 0), (1, 1, 0), (0, 0, 0)]))
    assert sequences.has_repeats(log_of([(0, 1, 0), (1, 1, 0), (0, 1, 7)]))


LISTS = st.lists(st.integers(0, 9).map(lambda n: list(range(100, 100 + n))), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(LISTS, st.integers(1, 6))
def test_windows(lists, max_len):
    histories = made(*lists)
    samples = sequences.windows(histories, max_len=max_len)
    long_enough = [(user, items) for user, items in enumerate(lists) if len(items) > 1]
    assert cut(histories, samples) == [(user, items[:-1][-max_len:]) for user, items in long_enough]
    targets = samples._replace(starts=samples.starts + 1)
    assert cut(histories, targets, shift=1) == [(user, items[1:][-max_len:]) for user, items in long_enough]
    assert {column.dtype for column in samples} == {np.dtype(np.int32)}


@settings(max_examples=100, deadline=None)
@given(LISTS, st.integers(1, 6), st.none() | st.integers(2, 6), st.integers(2, 6))
def test_prefixes(lists, max_len, first_cut, min_items):
    histories = made(*lists)
    inputs, targets = [], []
    for user, items in enumerate(lists):
        items = items[-first_cut:] if first_cut else items
        for k in range(min(min_items, len(items)), len(items) + 1):
            if k >= 2:
                inputs.append((user, items[: k - 1][-max_len:]))
                targets.append(items[k - 1])
    samples = sequences.prefixes(histories, max_len=max_len, first_cut=first_cut, min_items=min_items)
    assert cut(histories, samples) == inputs
    assert histories.items[samples.ends].tolist() == targets


@settings(max_examples=60, deadline=None)
@given(LISTS, st.integers(1, 6))
def test_cloze(lists, max_len):
    histories = made(*lists)
    samples = sequences.cloze(histories, max_len=max_len)
    assert cut(histories, samples, shift=1) == [
        (user, items[-max_len:]) for user, items in enumerate(lists) if items
    ]


def test_nobody_has_a_sample():
    histories = made([], [5], [])
    for samples in (sequences.windows(histories, max_len=3), sequences.prefixes(histories, max_len=3)):
        assert [len(column) for column in samples] == [0, 0, 0]
    assert cut(histories, sequences.cloze(histories, max_len=3), shift=1) == [(1, [5])]


def test_buckets_part_the_samples_by_length(rng):
    lengths = rng.integers(1, 51, 200)
    samples = sequences.Samples(*np.arange(600, dtype=np.int32).reshape(3, 200))
    edges = (1, 8, 16, 32, 50)
    buckets = sequences.bucketed(samples, lengths=lengths, edges=edges)
    for low, high, bucket in zip((0, *edges), edges, buckets, strict=False):
        rows = [row for row in range(200) if low < lengths[row] <= high]
        assert [column.tolist() for column in bucket] == [column[rows].tolist() for column in samples]
    assert len(buckets) == 5 and sum(len(bucket.users) for bucket in buckets) == 200


def test_an_empty_bucket_stays_in_its_place():
    samples = sequences.Samples(*np.zeros((3, 2), np.int32))
    buckets = sequences.bucketed(samples, lengths=np.array([9, 1]), edges=(2, 4, 9))
    assert [len(bucket.users) for bucket in buckets] == [1, 0, 1]
    nothing = sequences.Samples(*np.zeros((3, 0), np.int32))
    assert [len(bucket.users) for bucket in sequences.bucketed(nothing, lengths=np.zeros(0, int))] == [0] * 4


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda h: sequences.windows(h, max_len=0), ConfigError, "max_len = 0 must be an integer >= 1"),
        (lambda h: sequences.cloze(h, max_len=2.0), ConfigError, "max_len = 2.0"),
        (lambda h: sequences.prefixes(h, max_len=3, min_items=1), ConfigError, "min_items = 1 .* >= 2"),
        (lambda h: sequences.prefixes(h, max_len=3, first_cut=1), ConfigError, "first_cut = 1 .* >= 2"),
        (
            lambda h: sequences.bucketed(
                sequences.windows(h, max_len=9), lengths=np.array([4]), edges=(2, 3)
            ),
            DataError,
            r"a sample has 4 inputs, edges = \(2, 3\) end before; append 4",
        ),
        (
            lambda h: sequences.bucketed(sequences.windows(h, max_len=9), lengths=np.array([4]), edges=()),
            DataError,
            "a sample has 4 inputs",
        ),
        (
            lambda h: sequences.bucketed(
                sequences.windows(h, max_len=9), lengths=np.array([4]), edges=(5, 5)
            ),
            ConfigError,
            r"edges = \(5, 5\) must ascend",
        ),
        (
            lambda h: sequences.bucketed(sequences.windows(h, max_len=9), lengths=np.array([4, 4])),
            DataError,
            r"lengths must have shape \(1,\) like users, got \(2,\)",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(made([1, 2, 3, 4, 5]))


def test_positions_that_int32_cannot_hold():
    # A view of one item, so that no 8 GiB are needed.
    items = np.broadcast_to(np.int32(0), (2**31,))
    with pytest.raises(DataError, match="2,147,483,648 items are more than int32"):
        sequences.windows(sequences.Histories(np.array([0, 2**31]), items), max_len=5)


def test_published_sample_counts_on_beauty(data_dir):
    """What the released library trains on, epoch by epoch."""
    train = sequences.leave_one_out(beauty.load(data_dir / "beauty")).train
    histories = sequences.histories(train)
    windows = sequences.windows(histories, max_len=50)
    assert (len(windows.users), int((windows.ends - windows.starts).sum())) == (22_363, 128_031)
    cloze = sequences.cloze(histories, max_len=50)
    assert (len(cloze.users), int((cloze.ends - cloze.starts + 1).sum())) == (22_363, 150_258)
    for settings_, count in (
        ({"max_len": 50}, 131_413),
        ({"max_len": 50, "first_cut": 50}, 127_895),
        ({"max_len": 5, "min_items": 5}, 82_869),
    ):
        assert len(sequences.prefixes(histories, **settings_).users) == count
