"""The k-core, against dropping one id at a time, and datasets encoded anew."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.events import EVENTS, log_of

from debias_jax.data import Dataset, Vocabulary, core, k_core
from debias_jax.errors import ConfigError, DataError


def as_dataset(log, **parts):
    users = Vocabulary((f"u{user}" for user in range(log.n_users)), kind="user")
    items = Vocabulary((f"i{item}" for item in range(log.n_items)), kind="item")
    return Dataset("x", log, None, None, users, items, **parts)


def raw_rows(dataset, rows):
    users, items = dataset.users.decode(rows.users), dataset.items.decode(rows.items)
    return list(zip(users, items, rows.timestamps.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(EVENTS, st.integers(0, 4), st.integers(0, 4))
def test_core_is_what_dropping_one_by_one_leaves(triples, least_of_user, least_of_item):
    left = list(triples)
    while True:
        users, items = [user for user, *_ in left], [item for _, item, _ in left]
        poor_users = [user for user in users if users.count(user) < least_of_user]
        poor_items = [item for item in items if items.count(item) < least_of_item]
        if poor_items:
            left = [row for row in left if row[1] != poor_items[0]]
        elif poor_users:
            left = [row for row in left if row[0] != poor_users[0]]
        else:
            break
    data = as_dataset(log_of(triples, 5, 6))
    if not left:
        with pytest.raises(DataError, match=f"no user with {least_of_user} rows of items with"):
            k_core(data, min_user_rows=least_of_user, min_item_rows=least_of_item)
        return
    found = k_core(data, min_user_rows=least_of_user, min_item_rows=least_of_item)
    assert raw_rows(found, found.train) == [(f"u{user}", f"i{item}", time) for user, item, time in left]
    assert found.users.ids == tuple(f"u{user}" for user in sorted({user for user, *_ in left}))
    assert found.items.ids == tuple(f"i{item}" for item in sorted({item for _, item, _ in left}))


def test_what_was_dropped_is_said():
    # Item 2 has one row; without it user 1 has one, and without user 1 nothing else falls.
    triples = [(0, 0, 1), (0, 1, 2), (1, 1, 3), (1, 2, 4), (2, 0, 5), (2, 1, 6)]
    data = as_dataset(
        log_of(triples), item_features=np.array([[0.0], [1.0], [2.0]], np.float32), notes=("a",)
    )
    found = k_core(data, min_user_rows=2, min_item_rows=2)
    assert found.notes == (
        "a",
        "users with 2 and items with 2 rows at least: dropped 2 of 6 rows, 1 of 3 users and 1 of 3 items",
    )
    assert found.item_features.tolist() == [[0.0], [1.0]]


def test_a_repeated_pair_counts_as_often_as_it_occurs():
    triples = [(0, 0, 1), (0, 0, 2), (1, 0, 3)]
    assert k_core(as_dataset(log_of(triples)), min_user_rows=2, min_item_rows=2).users.ids == ("u0",)


def test_keep_ids_encodes_every_part_and_column(rng):
    log = dataclasses.replace(
        log_of([(user, item, user + item) for user in range(4) for item in range(5)]),
        labels=rng.integers(0, 2, 20),
        ratings=np.arange(20.0),
        propensities=np.full(20, 0.5),
    )
    data = as_dataset(log, context=log.take(np.arange(12, 20)), user_features=np.eye(4, dtype=np.float32))
    data = data.replace(item_bags={"tags": np.array([[0, -1], [1, 2], [2, -1], [3, 0], [-1, -1]])})
    data = data.replace(validation=log.take([0, 7]), test=log.take([9, 19]), probably_exposed=log.take([6]))
    kept = core.keep_ids(data, np.array([1, 3]), np.array([0, 2, 4]))
    assert (kept.users.ids, kept.items.ids) == (("u1", "u3"), ("i0", "i2", "i4"))
    for part in ("train", "validation", "test", "context", "probably_exposed"):
        rows = getattr(data, part)
        stay = np.isin(rows.users, [1, 3]) & np.isin(rows.items, [0, 2, 4])
        found = getattr(kept, part)
        assert raw_rows(kept, found) == raw_rows(data, rows.take(stay)), part
        for column in ("labels", "ratings", "propensities"):
            np.testing.assert_array_equal(getattr(found, column), getattr(rows, column)[stay])
    assert kept.user_features.tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]
    assert kept.item_bags["tags"].tolist() == [[0, -1], [2, -1], [-1, -1]] and kept.user_bags is None


def test_refusals():
    data = as_dataset(log_of([(0, 0, 0)]))
    for call, error, message in (
        (
            lambda: k_core(data, min_user_rows=-1),
            ConfigError,
            r"min_user_rows = -1 must be a number in \[0, inf",
        ),
        (lambda: k_core(data.replace(test=data.train)), ConfigError, "take the core before splitting"),
        (lambda: k_core(data), DataError, "x: no user with 5 rows of items with 5 is left"),
    ):
        with pytest.raises(error, match=message):
            call()
