"""Vocabularies and integer-coded interactions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from debias_jax.data import Dataset, Interactions, Vocabulary
from debias_jax.errors import DataError


def log(users, items, labels, n_users=3, n_items=4, **columns):
    return Interactions(np.array(users), np.array(items), np.array(labels), n_users, n_items, **columns)


@given(st.lists(st.text(min_size=1), unique=True))
def test_ids_round_trip_exactly(ids):
    vocabulary = Vocabulary(ids)
    codes = vocabulary.encode(ids)
    assert codes.dtype == np.int32
    assert codes.tolist() == list(range(len(ids)))
    assert vocabulary.decode(codes) == ids


def test_ids_that_look_alike_stay_apart():
    ids = ["7", "007", "7.0", " 7", "nan", "é", "e\u0301"]
    assert Vocabulary(ids).encode(ids).tolist() == list(range(7))


def test_encode_takes_numpy_arrays_and_numbers():
    vocabulary = Vocabulary.range(5, start=10, kind="user")
    assert vocabulary.encode(np.array([12, 10])).tolist() == [2, 0]
    assert vocabulary.encode(np.array(["11"])).tolist() == [1]
    assert vocabulary.encode([]).shape == (0,)


def test_unknown_id_is_named_with_its_row():
    with pytest.raises(DataError, match=r"item 'x' \(row 1\) is not among the 2 known items"):
        Vocabulary(["a", "b"], kind="item").encode(["a", "x"])


def test_decode_refuses_codes_outside():
    with pytest.raises(DataError, match="user code -1"):
        Vocabulary(["a"], kind="user").decode([-1])


@pytest.mark.parametrize(
    ("ids", "message"), [(["a", "a"], "'a' occurs twice"), (["a", ""], "number 1 is empty")]
)
def test_vocabulary_refuses(ids, message):
    with pytest.raises(DataError, match=message):
        Vocabulary(ids)


def test_dtypes_and_positives():
    rows = log([0, 2], [3, 1], [1, 0], ratings=np.array([5, 2]), timestamps=np.array([7, 8], np.int32))
    assert (rows.users.dtype, rows.labels.dtype, rows.ratings.dtype) == (np.int32, np.float32, np.float32)
    assert rows.timestamps.dtype == np.int64
    assert rows.positives.items.tolist() == [3]
    assert rows.take(np.array([1])).ratings.tolist() == [2.0]


def test_pair_keys_do_not_overflow():
    rows = log([69_999], [39_999], [1], n_users=70_000, n_items=40_000)
    assert rows.pair_keys.tolist() == [70_000 * 40_000 - 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(users=[0, 3], items=[0, 0], labels=[1, 1]), r"users\[1\] = 3 is outside \[0, 3\)"),
        (dict(users=[0, 1], items=[-1, 0], labels=[1, 1]), r"items\[0\] = -1"),
        (dict(users=[0.5, 1], items=[0, 0], labels=[1, 1]), "users must be integers"),
        (dict(users=[0, 1], items=[0], labels=[1, 1]), r"items must have shape \(2,\)"),
        (dict(users=[0], items=[0], labels=[np.nan]), r"labels\[0\] = nan is not finite"),
        (dict(users=[0], items=[0], labels=[1], propensities=np.array([0.0])), r"outside \(0, 1\]"),
        (dict(users=[0], items=[0], labels=[1], propensities=np.array([1.5])), r"outside \(0, 1\]"),
        (dict(users=0, items=0, labels=1), "must have shape"),
    ],
)
def test_interactions_refuse(columns, message):
    with pytest.raises(DataError, match=message):
        log(**columns)


def test_dataset_refuses_parts_of_another_size():
    rows = log([0], [0], [1])
    with pytest.raises(DataError, match="train counts 3 users and 4 items, the vocabularies 2 and 4"):
        Dataset("x", rows, None, None, Vocabulary.range(2), Vocabulary.range(4))


def test_repeats_are_rows_whose_pair_occurs_before():
    users, items = np.array([[0, 1], [1, 0], [0, 1], [1, 1], [0, 1]]).T
    log = Interactions(users, items, np.ones(5), 2, 2)
    assert (log.n_repeats, log.take([1, 2, 3]).n_repeats, log.take([]).n_repeats) == (2, 0, 0)
