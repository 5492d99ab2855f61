"""Splits of event logs by time: against slow loops, and what is known before each target."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.events import EVENTS, by_user, log_of

from debias_jax.data import Dataset, Vocabulary, sequences, summarise, synthetic_sequences
from debias_jax.errors import ConfigError, DataError


def as_dataset(log, **parts):
    users, items = Vocabulary.range(log.n_users), Vocabulary.range(log.n_items)
    return Dataset("x", log, None, None, users, items, **parts)


def events(dataset, part):
    """(raw user, raw item, time) rows of a part."""
    rows = getattr(dataset, part)
    if rows is None:
        return None
    raw_users = [int(raw) for raw in dataset.users.decode(rows.users)]
    raw_items = [int(raw) for raw in dataset.items.decode(rows.items)]
    return list(zip(raw_users, raw_items, rows.timestamps.tolist(), strict=True))


def known_before(dataset, part):
    """Raw items of ``histories_before`` by raw user, users without any left out."""
    found = sequences.histories_before(dataset, part)
    lists = np.split(found.items, found.indptr[1:-1])
    return {
        int(raw): [int(item) for item in dataset.items.decode(items)]
        for raw, items in zip(dataset.users.ids, lists, strict=True)
        if len(items)
    }


@settings(max_examples=80, deadline=None)
@given(EVENTS, st.integers(0, 2), st.integers(0, 2), st.integers(1, 3))
def test_leave_one_out_is_what_the_loop_gives(triples, validation, test, min_train):
    part_of = dict.fromkeys(range(len(triples)), "train")
    for rows in by_user(triples).values():
        if len(rows) >= validation + test + min_train:
            part_of |= dict.fromkeys(rows[len(rows) - test - validation :], "validation")
            part_of |= dict.fromkeys(rows[len(rows) - test :], "test")
    data = as_dataset(log_of(triples, 5, 6))
    options = {"validation": validation, "test": test, "min_train": min_train}
    if set(part_of.values()) == {"train"}:
        with pytest.raises((ConfigError, DataError), match=r"nothing would be held out|no user has the \d"):
            sequences.leave_one_out(data, **options)
        return
    split = sequences.leave_one_out(data, **options)
    for part, size in (("train", 1), ("validation", validation), ("test", test)):
        # A part keeps the order of the rows.
        expected = [row for row_number, row in enumerate(triples) if part_of[row_number] == part]
        assert events(split, part) == (expected if size else None)
    assert split.held_out == tuple(name for name, n in (("validation", validation), ("test", test)) if n)


def test_a_user_of_three_events_stays_in_training():
    triples = [(0, item, item) for item in range(4)] + [(1, item, item) for item in range(3)]
    split = sequences.leave_one_out(as_dataset(log_of(triples)))
    assert events(split, "train") == [(0, 0, 0), (0, 1, 1), *triples[4:]]
    assert (events(split, "validation"), events(split, "test")) == ([(0, 2, 2)], [(0, 3, 3)])
    assert split.notes[0] == "leave one out: the last events of each of 1 users, 1 for validation, 1 for test"
    assert split.notes[2] == "1 users of fewer than 4 events are in training only"


def test_the_rows_of_a_log_without_times_are_its_order():
    log = dataclasses.replace(log_of([(0, item, -item) for item in range(5)]), timestamps=None)
    split = sequences.leave_one_out(as_dataset(log))
    assert (split.validation.items.tolist(), split.test.items.tolist()) == ([3], [4])
    assert "no timestamps: the order of the rows is the order of time" in split.notes


def test_ties_and_repeats_are_said():
    # User 0: the target has the time of the event before; user 1: only older events share a time.
    triples = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 0, 3), (1, 0, 1), (1, 1, 1), (1, 2, 2), (1, 3, 3)]
    split = sequences.leave_one_out(as_dataset(log_of(triples)))
    tied, repeats = split.notes[-2:]
    assert tied.startswith("of 1 users a held-out event has the time of the one before")
    assert repeats.startswith("1 events repeat an earlier pair: rank with mask_seen='none'")
    assert events(split, "test") == [(0, 0, 3), (1, 3, 3)]
    # The pair stands in two parts, which the training part alone does not show.
    assert not sequences.has_repeats(split.train)
    assert sequences.has_repeats(split)
    assert summarise(split).overlaps == {"train and test": 1}


def test_what_is_known_before_a_left_out_event():
    split = sequences.leave_one_out(as_dataset(log_of([(0, item, 9 - item) for item in range(6)])))
    assert known_before(split, "validation") == {0: [5, 4, 3, 2]}
    assert known_before(split, "test") == {0: [5, 4, 3, 2, 1]}
    with pytest.raises(ConfigError, match="has no validation part; split it first"):
        sequences.histories_before(split.replace(validation=None), "validation")
    with pytest.raises(ConfigError, match="did you mean 'test'"):
        sequences.histories_before(split, "tests")


# Time    1 2 3 4 5 | 6 7 8 | 9 10 11 12; item 9 is in no training event, nor is user 3.
TIMELINE = [
    *[(0, 0, 1), (1, 1, 2), (0, 2, 3), (1, 3, 4), (2, 0, 5)],
    *[(0, 1, 6), (1, 9, 6), (0, 3, 7), (0, 0, 8), (1, 0, 8)],
    *[(0, 2, 9), (3, 0, 9), (1, 2, 10), (0, 1, 11), (0, 9, 12)],
]


@pytest.mark.parametrize(
    ("targets", "validation", "test", "context", "between", "before"),
    [
        # Of validation user 0's later events are known before the test; an event after the test target is not.
        (
            "first",
            [(0, 1, 6), (1, 0, 8)],
            [(0, 2, 9), (1, 2, 10)],
            [(0, 3, 7), (0, 0, 8), (0, 1, 11)],
            2,
            ({0: [0, 2], 1: [1, 3], 2: [0]}, {0: [0, 2, 1, 3, 0], 1: [1, 3, 0], 2: [0]}),
        ),
        (
            "last",
            [(0, 0, 8), (1, 0, 8)],
            [(1, 2, 10), (0, 1, 11)],
            [(0, 1, 6), (0, 3, 7), (0, 2, 9)],
            3,
            ({0: [0, 2, 1, 3], 1: [1, 3], 2: [0]}, {0: [0, 2, 1, 3, 0, 2], 1: [1, 3, 0], 2: [0]}),
        ),
    ],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_global_time_split(targets, validation, test, context, between, before, shuffled, rng):
    triples = [TIMELINE[row] for row in rng.permutation(15)] if shuffled else TIMELINE
    data = as_dataset(log_of(triples))
    split = sequences.global_time_split(data, validation=5 / 15, test=5 / 15, targets=targets)
    in_time = sorted if shuffled else list
    assert in_time(events(split, "train")) == in_time(TIMELINE[:5])
    assert in_time(events(split, "validation")) == in_time(validation)
    assert in_time(events(split, "test")) == in_time(test)
    assert in_time(events(split, "context")) == in_time(context)
    assert (known_before(split, "validation"), known_before(split, "test")) == before
    assert (split.users.ids, split.items.ids) == (("0", "1", "2"), ("0", "1", "2", "3"))
    assert split.held_out == ("validation", "test")
    assert split.notes == (
        f"validation: 5 events from time 6, the {targets} of each of 2 users is the target",
        "validation: 1 events of users or items without a training event dropped",
        f"test: 5 events from time 9, the {targets} of each of 2 users is the target",
        "test: 2 events of users or items without a training event dropped",
        f"{len(context)} other events are context: {between} of a later target, the rest of what is asked for when "
        "all is known",
        "3 events repeat an earlier pair: rank with mask_seen='none', a target may have been seen",
    )
    assert sequences.has_repeats(split)
    assert [part.name for part in summarise(split).parts] == ["train", "validation", "test", "context"]


@settings(max_examples=80, deadline=None)
@given(EVENTS, st.sampled_from([0.0, 0.2, 0.4]), st.sampled_from([0.0, 0.2, 0.4]))
def test_no_time_is_on_both_sides_of_a_moment(triples, validation, test):
    try:
        split = sequences.global_time_split(as_dataset(log_of(triples)), validation=validation, test=test)
    except (ConfigError, DataError):
        return
    parts = [events(split, part) for part in ("train", "validation", "test")]
    parts = [part for part in parts if part is not None]
    for earlier, later in zip(parts, parts[1:], strict=False):
        assert max(time for *_, time in earlier) < min(time for *_, time in later)
    users, items = ({row[column] for row in parts[0]} for column in (0, 1))
    for part in parts[1:]:
        assert len({user for user, *_ in part}) == len(part)
        assert {user for user, *_ in part} <= users and {item for _, item, _ in part} <= items
    assert {int(raw) for raw in split.users.ids} == users
    assert {int(raw) for raw in split.items.ids} == items


def test_an_event_at_the_time_of_a_target_is_not_known_before_it():
    # The two events of time 6 may have happened in either order.
    triples = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 1, 5), (0, 0, 6), (0, 2, 6)]
    data = as_dataset(log_of(triples))
    split = sequences.global_time_split(data, validation=0.0, test=0.5, targets="last")
    assert events(split, "test") == [(0, 2, 6)]
    assert known_before(split, "test") == {0: [0, 1, 2, 1]}
    assert split.validation is None and split.held_out == ("test",)


def test_a_repeat_may_stand_in_the_context():
    triples = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (0, 3, 3), (1, 2, 1), (1, 3, 1), (0, 3, 4), (0, 2, 4)]
    split = sequences.global_time_split(as_dataset(log_of(triples)), validation=2 / 8, test=2 / 8)
    assert (events(split, "validation"), events(split, "test")) == ([(0, 2, 3)], [(0, 3, 4)])
    # The target was seen in between, which the parts alone do not show.
    assert known_before(split, "test")[0][-1] == 3
    assert not sequences.has_repeats(split.log("validation", "test"))
    assert sequences.has_repeats(split)


def test_features_follow_the_users_and_items_that_stay():
    data = as_dataset(log_of(TIMELINE), item_features=np.arange(10, dtype=np.float32)[:, None])
    split = sequences.global_time_split(data, validation=5 / 15, test=5 / 15)
    assert split.item_features.tolist() == [[0.0], [1.0], [2.0], [3.0]]


def test_global_time_on_simulated_data():
    data = synthetic_sequences.generate(seed=2, timestamps=True)
    split = sequences.global_time_split(data)
    n_later = round(0.1 * len(data.train))
    cut = np.sort(data.train.timestamps)[-n_later]
    assert split.test.timestamps.min() >= cut > split.validation.timestamps.max()
    assert len(np.unique(split.test.users)) == len(split.test) > 30
    # A user with both targets has seen the first when asked for the second.
    before = sequences.histories_before(split, "test")
    both = np.intersect1d(split.validation.users, split.test.users)
    for user, item in zip(split.validation.users, split.validation.items, strict=True):
        if user in both:
            assert item in before.items[before.indptr[user] : before.indptr[user + 1]]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda d: sequences.leave_one_out(d, test=-1), ConfigError, "test = -1 must be an integer >= 0"),
        (
            lambda d: sequences.leave_one_out(d, validation=0, test=0),
            ConfigError,
            "nothing would be held out",
        ),
        (lambda d: sequences.leave_one_out(d, min_train=0), ConfigError, "min_train = 0"),
        (
            lambda d: sequences.leave_one_out(d, test=20),
            DataError,
            r"no user has the 23 .* longest history has 8",
        ),
        (lambda d: sequences.leave_one_out(d.replace(test=d.train)), ConfigError, "a test part of 15 rows"),
        (
            lambda d: sequences.global_time_split(d, test=1.0),
            ConfigError,
            r"test = 1.0 must be a number in \[0, 1\)",
        ),
        (lambda d: sequences.global_time_split(d, validation=0.5, test=0.5), ConfigError, "leaves nothing"),
        (
            lambda d: sequences.global_time_split(d, validation=0, test=0),
            ConfigError,
            "nothing would be held",
        ),
        (lambda d: sequences.global_time_split(d, targets="lasts"), ConfigError, "did you mean 'last'"),
        (
            lambda d: sequences.global_time_split(d.replace(context=d.train)),
            ConfigError,
            "a context part of 15",
        ),
        (
            lambda d: sequences.global_time_split(d, test=0.01),
            DataError,
            "the test part would be empty; of 15 events",
        ),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call(as_dataset(log_of(TIMELINE)))


def test_what_time_cannot_part():
    log = log_of(TIMELINE)
    without = as_dataset(dataclasses.replace(log, timestamps=None))
    with pytest.raises(DataError, match="has no timestamps to split by; name their column with timestamp="):
        sequences.global_time_split(without)
    one_time = as_dataset(dataclasses.replace(log, timestamps=np.full(15, 7)))
    with pytest.raises(DataError, match="the training part would be empty; of 15 events 1 have"):
        sequences.global_time_split(one_time)
    strangers = as_dataset(log_of([(0, 0, 1), (0, 0, 2), (1, 1, 3), (1, 1, 4)]))
    with pytest.raises(
        DataError, match="none of the 2 events of the test part is one of a user and an item of"
    ):
        sequences.global_time_split(strangers, validation=0, test=0.5)
