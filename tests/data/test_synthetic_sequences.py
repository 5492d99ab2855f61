"""The simulator of event logs: it draws from the law that it states, and nothing beats the best hit rate."""

import numpy as np
import pytest

from debias_jax.data import sequences, synthetic_sequences
from debias_jax.data.synthetic_sequences import best_hit_rate, generate, transition_law
from debias_jax.errors import ConfigError, DataError


def columns(dataset):
    train = dataset.train
    return [train.users, train.items, train.timestamps if train.timestamps is not None else train.labels]


def test_same_seed_same_data_other_seed_other_data():
    for timestamps in (False, True):
        first, again, other = (generate(seed=seed, timestamps=timestamps) for seed in (3, 3, 4))
        for one, two in zip(columns(first), columns(again), strict=True):
            np.testing.assert_array_equal(one, two)
        assert len(first.train) != len(other.train) or (first.train.items != other.train.items).any()
    # Times have a stream of their own.
    np.testing.assert_array_equal(generate(seed=3).train.items, first.train.items)


def test_the_law_is_what_the_docstring_says():
    start, transition = transition_law(
        seed=5, n_items=30, predictability=0.6, n_successors=2, popularity_skew=2.0
    )
    zipf = (1.0 + np.arange(30)) ** -2.0
    np.testing.assert_allclose(np.sort(start)[::-1], zipf / zipf.sum())
    extra = transition - 0.4 * start
    # Two successors an item, of weights 1 and 1/2 of 3/2, the item itself excluded.
    np.testing.assert_allclose(
        np.sort(extra, axis=1)[:, -3:], np.tile([0.0, 0.6 * 1 / 3, 0.6 * 2 / 3], (30, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.diag(extra), 0.0, atol=1e-12)
    np.testing.assert_allclose(transition.sum(1), 1.0)


@pytest.mark.parametrize("repeats", [False, True])
def test_pairs_of_events_follow_the_law(repeats):
    settings = {"n_items": 12, "predictability": 0.7, "n_successors": 2}
    data = generate(
        seed=1, n_users=20_000, mean_length=4, length_sd=0.0, min_length=2, repeats=repeats, **settings
    )
    start, transition = transition_law(seed=1, **settings)
    histories = sequences.histories(data.train)
    first, second = (histories.items[histories.indptr[:-1] + slot] for slot in (0, 1))
    law = start[:, None] * transition
    if not repeats:
        np.fill_diagonal(law, 0.0)
        law *= (start / law.sum(1))[:, None]
    counts = np.zeros((12, 12))
    np.add.at(counts, (first, second), 1)
    # Chi squared with a degree of freedom less than there are cells that may occur, six deviations up.
    cells = law > 0
    statistic = ((counts - 20_000 * law)[cells] ** 2 / (20_000 * law[cells])).sum()
    freedom = cells.sum() - 1
    assert counts[~cells].sum() == 0
    assert statistic < freedom + 6 * np.sqrt(2 * freedom)


def test_lengths():
    data = generate(seed=0, n_users=5_000, n_items=400, mean_length=15, length_sd=0.4, min_length=3)
    sizes = np.bincount(data.train.users)
    assert sizes.min() >= 3 and not sequences.has_repeats(data.train)
    # A log-normal of mean 15 has a standard deviation of 15 sqrt(exp(.4^2) - 1) = 6.2.
    assert abs(sizes.mean() - 15) < 6 * 6.2 / np.sqrt(5_000)
    same = generate(seed=0, n_users=50, mean_length=9, length_sd=0.0)
    assert set(np.bincount(same.train.users)) == {9}
    short = generate(seed=0, n_users=500, n_items=10, mean_length=9, min_length=2)
    assert np.bincount(short.train.users).max() == 5


def test_times_are_days_in_order_and_often_equal():
    train = generate(seed=0, timestamps=True).train
    same_user = np.diff(train.users) == 0
    gaps = np.diff(train.timestamps)[same_user]
    assert (gaps >= 0).all() and (gaps % 86_400 == 0).all()
    # exp(-0) - exp(-1 / 7) of the gaps are rounded down to none.
    share = 1 - np.exp(-1 / 7)
    assert abs((gaps == 0).mean() - share) < 6 * np.sqrt(share * (1 - share) / len(gaps))
    assert sequences.has_repeats(generate(seed=0, repeats=True).train)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("k", [1, 5])
def test_the_law_reaches_the_best_hit_rate_and_popularity_does_not(repeats, k):
    data = generate(seed=2, n_users=4_000, n_items=60, repeats=repeats, mean_length=8)
    start, transition = transition_law(seed=2, n_items=60)
    split = sequences.leave_one_out(data)
    before = sequences.histories_before(split, "test")
    best = best_hit_rate(start, transition, before, k=k, repeats=repeats)

    def hit_rate(scores_of):
        hits = []
        for user, item in zip(split.test.users, split.test.items, strict=True):
            seen = before.items[before.indptr[user] : before.indptr[user + 1]]
            scores = scores_of(seen).copy()
            if not repeats:
                scores[seen] = -1.0
            hits.append(item in np.argsort(-scores)[:k])
        return np.mean(hits)

    deviation = np.sqrt(best * (1 - best) / len(split.test))
    assert abs(hit_rate(lambda seen: transition[seen[-1]]) - best) < 4 * deviation
    assert hit_rate(lambda seen: start) < best - 4 * deviation
    assert hit_rate(lambda seen: transition[seen[0]]) < best - 4 * deviation


def test_best_hit_rate_by_hand():
    chain = np.array([[0.0, 0.75, 0.25], [0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])
    start = np.array([0.5, 0.3, 0.2])
    log = sequences.Histories(np.array([0, 0, 2]), np.array([2, 1], np.int32))
    # Nothing before: the start; after 2, 1: row 1, and without repeats only item 0 is left.
    assert best_hit_rate(start, chain, log, k=1, repeats=True) == (0.5 + 0.5) / 2
    assert best_hit_rate(start, chain, log, k=2, repeats=True) == (0.8 + 0.75) / 2
    assert best_hit_rate(start, chain, log, k=1, repeats=False) == (0.5 + 1.0) / 2
    assert best_hit_rate(start, chain, log, k=9, repeats=True) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed = -1"),
        ({"n_users": 0}, "n_users = 0"),
        ({"n_items": 1}, "n_items = 1"),
        ({"predictability": 1.0}, r"predictability = 1.0 must be a number in \[0, 1\)"),
        ({"n_successors": 100}, "n_successors = 100 must be less than n_items = 100"),
        ({"popularity_skew": 6}, "popularity_skew = 6"),
        ({"mean_length": 0.5}, "mean_length = 0.5"),
        ({"length_sd": -1}, "length_sd = -1"),
        ({"n_items": 6}, "min_length = 4 is more than 3, the longest history of 6 items without repeats"),
        (
            {"min_length": 21, "mean_length": 2.0, "repeats": True},
            "min_length = 21 is more than 20, the long",
        ),
        ({"n_items": 20_000}, "n_items = 20,000 must be at most 10,000"),
        ({"n_users": 2_000_000}, "must be at most 100,000,000"),
    ],
)
def test_knobs_have_ranges(settings, message):
    with pytest.raises(ConfigError, match=message):
        synthetic_sequences.generate(**settings)


def test_what_the_best_hit_rate_refuses():
    start, transition = transition_law(n_items=5)
    log = sequences.Histories(np.array([0, 1]), np.array([5], np.int32))
    with pytest.raises(DataError, match="item 5 is not among the 5 items of the law"):
        best_hit_rate(start, transition, log, k=1, repeats=True)
    with pytest.raises(ConfigError, match="k = 0"):
        best_hit_rate(start, transition, log, k=0, repeats=True)
