"""Splits: against slow loops, on real Coat, and that no row is lost."""

import itertools

import numpy as np
import pytest

from debias_jax.data import Dataset, Interactions, Vocabulary, coat, splits
from debias_jax.errors import ConfigError


def random_log(rng, n_users=17, n_items=13, n=120):
    keys = rng.choice(n_users * n_items, size=n, replace=False)
    return Interactions(
        keys // n_items,
        keys % n_items,
        rng.integers(0, 2, n),
        n_users,
        n_items,
        ratings=rng.integers(1, 6, n),
        timestamps=np.arange(n),
    )


def as_dataset(log, **parts):
    users, items = Vocabulary.range(log.n_users), Vocabulary.range(log.n_items)
    return Dataset("x", log, parts.get("validation"), parts.get("test"), users, items)


def rows(interactions):
    return sorted(
        zip(
            interactions.users.tolist(),
            interactions.items.tolist(),
            interactions.labels.tolist(),
            strict=True,
        )
    )


def slow_probably_exposed(log, fraction, activity, popularity, labels):
    triples = list(zip(log.users.tolist(), log.items.tolist(), log.labels.tolist(), strict=True))
    active = {u: 0 for u in range(log.n_users)}
    popular = {i: 0 for i in range(log.n_items)}
    for u, i, y in triples:
        active[u] += activity == "ratings" or y > 0
        popular[i] += popularity == "ratings" or y > 0
    chosen = []
    for u in sorted(active, key=lambda u: (-active[u], u))[: round(fraction * log.n_users)]:
        for wanted in (1.0, 0.0) if labels == "both" else (1.0,):
            candidates = [i for v, i, y in triples if v == u and y == wanted]
            if candidates:
                chosen.append((u, min(candidates, key=lambda i: (-popular[i], i)), wanted))
    return sorted(chosen)


@pytest.mark.parametrize(
    ("activity", "popularity", "labels"),
    list(itertools.product(("ratings", "positives"), ("clicks", "ratings"), ("both", "positives"))),
)
def test_probably_exposed_is_what_the_loops_give(rng, activity, popularity, labels):
    log = random_log(rng)
    for fraction in (0.2, 0.5, 1.0):
        pairs = splits.probably_exposed(
            log, active_fraction=fraction, activity=activity, popularity=popularity, labels=labels
        )
        assert rows(pairs) == slow_probably_exposed(log, fraction, activity, popularity, labels)


def test_probably_exposed_does_not_depend_on_row_order(rng):
    log = random_log(rng)
    shuffled = log.take(rng.permutation(len(log)))
    np.testing.assert_array_equal(
        splits.probably_exposed(log).pair_keys, splits.probably_exposed(shuffled).pair_keys
    )


@pytest.mark.parametrize(
    ("activity", "n_positive_items", "n_negative_items"), [("ratings", 26, 24), ("positives", 15, 28)]
)
def test_probably_exposed_on_coat(data_dir, activity, n_positive_items, n_negative_items):
    pairs = splits.probably_exposed(coat.load(data_dir / "coat").train, activity=activity)
    positive = pairs.labels > 0
    assert (len(pairs), len(np.unique(pairs.users))) == (116, 58)
    assert len(np.unique(pairs.items[positive])) == n_positive_items
    assert len(np.unique(pairs.items[~positive])) == n_negative_items


def test_holdout_parts_the_log_and_keeps_what_must_stay(rng):
    log = random_log(rng)
    keep = log.take(np.arange(40))
    rest, held = splits.holdout(log, fraction=0.25, seed=5, keep=keep)
    assert len(held) == 20
    assert sorted(rows(rest) + rows(held)) == rows(log)
    assert not np.isin(held.pair_keys, keep.pair_keys).any()
    assert (np.diff(rest.timestamps) > 0).all()
    again = splits.holdout(log, fraction=0.25, seed=5, keep=keep)[1]
    np.testing.assert_array_equal(held.pair_keys, again.pair_keys)
    other = splits.holdout(log, fraction=0.25, seed=6, keep=keep)[1]
    assert not np.array_equal(held.pair_keys, other.pair_keys)


def test_biif_split(rng):
    log = random_log(rng)
    data = splits.biif(as_dataset(log), seed=2)
    n_exposed = len(data.probably_exposed)
    assert len(data.validation) == round(0.1 * (len(log) - n_exposed))
    assert sorted(rows(data.train) + rows(data.validation)) == rows(log)
    assert np.isin(data.probably_exposed.pair_keys, data.train.pair_keys).all()
    assert "split seed 2" in data.notes[-1]
    with pytest.raises(ConfigError, match="has a validation part"):
        splits.biif(data)


def test_random_split_over_all_rows(rng):
    log = random_log(rng)
    data = splits.random_split(as_dataset(log), validation=0.1, test=0.25, seed=0)
    assert (len(data.validation), len(data.test)) == (12, 30)
    assert sorted(rows(data.train) + rows(data.validation) + rows(data.test)) == rows(log)


def test_random_split_per_user(rng):
    log = random_log(rng)
    data = splits.random_split(as_dataset(log), validation=0.2, test=0.4, seed=0, per_user=True)
    assert sorted(rows(data.train) + rows(data.validation) + rows(data.test)) == rows(log)
    sizes = np.bincount(log.users, minlength=log.n_users)
    in_test = np.bincount(data.test.users, minlength=log.n_users)
    in_train = np.bincount(data.train.users, minlength=log.n_users)
    np.testing.assert_array_equal(in_test[sizes > 1], np.rint(0.4 * sizes)[sizes > 1])
    assert (in_train[sizes > 0] >= 1).all()


def test_random_split_leaves_a_share_of_zero_as_it_is(rng):
    log = random_log(rng)
    data = splits.random_split(as_dataset(log, test=log), validation=0.5, test=0, seed=0)
    assert data.test is log


def test_subsample_is_nested_and_rounds_down(rng):
    log = random_log(rng)
    parts = [splits.subsample(log, fraction=f, seed=9) for f in (0.2, 0.404, 1.0)]
    assert [len(part) for part in parts] == [24, 48, 120]
    assert np.isin(parts[0].pair_keys, parts[1].pair_keys).all()
    np.testing.assert_array_equal(parts[2].pair_keys, log.pair_keys)


def test_refusals(rng):
    log = random_log(rng)
    data = as_dataset(log, test=log)
    for call, message in (
        (lambda: splits.probably_exposed(log, activity="rating"), "did you mean 'ratings'"),
        (
            lambda: splits.probably_exposed(log, active_fraction=0),
            r"active_fraction = 0 must be a number in \(0, 1\]",
        ),
        (lambda: splits.holdout(log, fraction=1.1, seed=0), "fraction = 1.1"),
        (lambda: splits.holdout(log, seed=-1), "seed = -1 must be an integer >= 0"),
        (lambda: splits.subsample(log, fraction=0.5, seed=1.0), "seed = 1.0"),
        (lambda: splits.random_split(data, seed=0), "has a test part of 120 rows already"),
        (lambda: splits.random_split(as_dataset(log), validation=0.5, test=0.5, seed=0), "leaves nothing"),
    ):
        with pytest.raises(ConfigError, match=message):
            call()
