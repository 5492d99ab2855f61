"""Semi-synthetic logs: ratings by quantile, propensities by formula, parts that cover all pairs once; clicks."""

import numpy as np
import pytest

from debias_jax.data import Vocabulary, splits
from debias_jax.data.semi_synthetic import YAHOO_R3_RATINGS, quantile_ratings, simulate, simulate_clicks
from debias_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def ratings():
    return quantile_ratings(np.random.default_rng(0).normal(size=(943, 1682)))


def test_each_rating_has_its_share_and_keeps_the_order(rng):
    scores = rng.normal(size=(40, 25))
    made = quantile_ratings(scores, (4, 3, 2, 0.5, 0.5))
    assert np.bincount(made.ravel(), minlength=6).tolist() == [0, 400, 300, 200, 50, 50]
    for low in range(1, 5):
        assert scores[made == low].max() < scores[made == low + 1].min()


def test_equal_scores_are_ordered_by_position():
    assert quantile_ratings(np.zeros((2, 2)), (1, 3)).tolist() == [[1, 2], [2, 2]]


def test_default_shares_are_the_published_ones(ratings):
    counts = np.bincount(ratings.ravel(), minlength=6)[1:]
    np.testing.assert_allclose(counts / ratings.size, [0.5262, 0.2419, 0.1439, 0.0624, 0.0255], atol=5e-5)
    assert sum(YAHOO_R3_RATINGS) == pytest.approx(1.0)


# Means by hand from the shares: .0255 a + .0624 a^2 + .1439 a^3 + .7682 a^4.
@pytest.mark.parametrize(("decay", "mean", "least"), [(0.5, 0.0943, 0.0625), (0.58, 0.1508, 0.1132)])
def test_density_is_the_published_one_within_sampling_error(ratings, decay, mean, least):
    data = simulate(ratings, decay=decay)
    propensity = data.truth.exposure.astype(np.float64)
    assert propensity.mean() == pytest.approx(mean, abs=1e-4)
    assert propensity.min() == pytest.approx(least, abs=5e-5)
    deviation = np.sqrt((propensity * (1 - propensity)).sum()) / ratings.size
    assert abs(len(data.train) / ratings.size - propensity.mean()) < 4 * deviation


def test_propensity_of_each_rating():
    data = simulate(np.tile([1, 2, 3, 4, 5], (200, 4)), decay=0.5, scale=1.6)
    expected = 1.6 * np.array([1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2])
    np.testing.assert_allclose(data.truth.exposure[7, :5], expected, rtol=1e-6)
    np.testing.assert_array_equal(
        data.train.propensities, data.truth.exposure[data.train.users, data.train.items]
    )
    # 800 draws of each rating; four standard deviations of the count.
    observed = np.bincount(data.train.ratings.astype(int), minlength=6)[1:]
    assert (abs(observed - 800 * expected) < 4 * np.sqrt(800 * expected * (1 - expected))).all()


@pytest.mark.parametrize("threshold", [3, 4])
def test_parts_cover_all_pairs_once_with_labels_of_the_matrix(ratings, threshold):
    ratings = ratings[:60, :80]
    data = simulate(ratings, threshold=threshold, validation=0.25, seed=4)
    parts = (data.train, data.validation, data.test)
    keys = np.concatenate([part.pair_keys for part in parts])
    np.testing.assert_array_equal(np.sort(keys), np.arange(60 * 80))
    assert len(data.validation) == int(0.25 * (60 * 80 - len(data.train)))
    for part in parts:
        np.testing.assert_array_equal(part.ratings, ratings[part.users, part.items])
        np.testing.assert_array_equal(part.labels, part.ratings >= threshold)
        assert (np.diff(part.pair_keys) > 0).all()
    np.testing.assert_array_equal(data.truth.relevance, ratings >= threshold)
    assert data.validation.propensities is None and data.test.propensities is None


def test_seed_decides_the_draw_and_scale_nests_it(ratings):
    ratings = ratings[:60, :80]
    first, again, other = (simulate(ratings, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train.pair_keys, again.train.pair_keys)
    np.testing.assert_array_equal(first.validation.pair_keys, again.validation.pair_keys)
    assert not np.array_equal(first.train.pair_keys, other.train.pair_keys)
    sparser = simulate(ratings, seed=1, scale=0.5)
    assert np.isin(sparser.train.pair_keys, first.train.pair_keys).all()


def test_vocabularies_and_notes(ratings):
    users, items = Vocabulary(["ann", "bob"], kind="user"), Vocabulary.range(300, kind="item")
    data = simulate(ratings[:2, :300], users=users, items=items, name="small")
    assert (data.name, data.users, data.items) == ("small", users, items)
    assert any("mean 0." in note and "seed 0" in note for note in data.notes)


def test_messages():
    fives = np.full((4, 5), 5)
    cases = [
        (lambda: quantile_ratings(np.array([0.0, np.nan])), DataError, "must be finite"),
        (lambda: quantile_ratings(np.zeros(2), (1, 0)), ConfigError, r"proportions\[1\] = 0 must be"),
        (lambda: simulate(fives[0]), DataError, r"a matrix of whole numbers 1..5, got int64 \(5,\)"),
        (lambda: simulate(fives + 1), DataError, "whole numbers 1..5"),
        (lambda: simulate(fives, decay=0), ConfigError, r"decay = 0 must be a number in \(0, 1\]"),
        (lambda: simulate(fives, scale=2.5), ConfigError, r"scale \* decay = 1.25 is the propensity"),
        (lambda: simulate(fives, scale=2), ConfigError, "20 of 20 pairs are observed"),
        (lambda: simulate(fives, scale=1e-9), ConfigError, "0 of 20 pairs are observed"),
        (lambda: simulate(fives, seed=-1), ConfigError, "seed = -1"),
        (lambda: simulate(fives, threshold=1), ConfigError, "threshold = 1"),
        (
            lambda: simulate(fives, users=Vocabulary.range(3, kind="user")),
            DataError,
            r"\(4, 5\) do not fit vocabularies of 3 users and 5 items",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


class TestClicks:
    @pytest.fixture
    def matrices(self, rng):
        return rng.uniform(0.02, 0.98, (200, 150)), rng.uniform(0, 1, (200, 150))

    def test_draws_have_the_probabilities_they_were_given(self, matrices):
        exposure, relevance = matrices
        dataset = simulate_clicks(exposure, relevance)
        train, test = dataset.train, dataset.test
        exposed = np.zeros(exposure.shape, bool)
        exposed[train.users, train.items] = True
        # Standardised sums over pairs; weighting by the probabilities tells them from their mean.
        for weight in (np.ones_like(exposure), exposure):
            score = np.sum(weight * (exposed - exposure))
            assert abs(score) < 4 * np.sqrt(np.sum(weight**2 * exposure * (1 - exposure)))
        for rows in (train, test):
            chance = relevance[rows.users, rows.items]
            for weight in (np.ones_like(chance), chance):
                assert abs(np.sum(weight * (rows.labels - chance))) < 4 * np.sqrt(
                    np.sum(weight**2 * chance * (1 - chance))
                )
        np.testing.assert_array_equal(
            train.propensities, exposure[train.users, train.items].astype(np.float32)
        )

    def test_test_part_is_every_pair_without_a_click(self, matrices):
        dataset = simulate_clicks(*matrices, seed=3)
        clicks = dataset.train.positives
        keys = np.concatenate([clicks.pair_keys, dataset.test.pair_keys])
        np.testing.assert_array_equal(np.sort(keys), np.arange(200 * 150))
        np.testing.assert_array_equal(dataset.truth.relevance, matrices[1].astype(np.float32))
        assert any(f"{len(clicks):,} clicks" in note and "seed 3" in note for note in dataset.notes)

    def test_seed_decides_and_one_matrix_leaves_the_draws_of_the_other(self, matrices):
        exposure, relevance = matrices
        first, again, other = (simulate_clicks(exposure, relevance, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.train.labels, again.train.labels)
        np.testing.assert_array_equal(first.test.labels, again.test.labels)
        assert not np.array_equal(first.train.pair_keys, other.train.pair_keys)
        more = simulate_clicks(exposure, np.minimum(1, relevance + 0.1), seed=1)
        np.testing.assert_array_equal(more.train.pair_keys, first.train.pair_keys)
        assert (more.train.labels >= first.train.labels).all()

    def test_splits_take_it_as_a_rated_log(self, matrices):
        dataset = splits.biif(simulate_clicks(*matrices), seed=0)
        assert set(dataset.probably_exposed.labels.tolist()) == {0.0, 1.0}
        assert dataset.train.propensities is not None

    def test_messages(self):
        half = np.full((3, 2), 0.5)
        cases = [
            (lambda: simulate_clicks(half[0], half[0]), r"matrices of one shape, got \(2,\) and \(2,\)"),
            (lambda: simulate_clicks(half, half.T), r"got \(3, 2\) and \(2, 3\)"),
            (lambda: simulate_clicks(0 * half, half), r"exposure\[0, 0\] = 0.0 must be in \(0, 1\]"),
            (lambda: simulate_clicks(half, half * [1, 3]), r"relevance\[0, 1\] = 1.5 must be in \[0, 1\]"),
            (lambda: simulate_clicks(half, np.nan * half), r"relevance\[0, 0\] = nan must"),
            (lambda: simulate_clicks(1e-9 * half, half), "no pair was exposed; the mean exposure is 5e-10"),
            (
                lambda: simulate_clicks(half, half, users=Vocabulary.range(4, kind="user")),
                r"\(3, 2\) does not fit vocabularies of 4 users and 2 items",
            ),
        ]
        for call, message in cases:
            with pytest.raises(DataError, match=message):
                call()
        with pytest.raises(ConfigError, match="seed = -1"):
            simulate_clicks(half, half, seed=-1)
