"""The simulator: its knobs do what they say, and what it draws has the law it states."""

import numpy as np
import pytest

from debias_jax.data import summarise, synthetic
from debias_jax.data.splits import biif
from debias_jax.errors import ConfigError, DataError


def correlation(x, y):
    return np.corrcoef(np.ravel(x), np.ravel(y))[0, 1]


@pytest.fixture(scope="module")
def data():
    return synthetic.generate(seed=3)


def test_same_seed_same_data_other_seed_other_data(data):
    again, other = synthetic.generate(seed=3), synthetic.generate(seed=4)
    for name in ("users", "items", "labels", "propensities"):
        np.testing.assert_array_equal(getattr(data.train, name), getattr(again.train, name))
    np.testing.assert_array_equal(data.test.labels, again.test.labels)
    assert not np.array_equal(data.truth.relevance, other.truth.relevance)


def test_parts_are_the_exposed_and_the_unclicked_pairs(data):
    n_pairs = data.n_users * data.n_items
    keys = np.concatenate([data.train.positives.pair_keys, data.test.pair_keys])
    np.testing.assert_array_equal(np.sort(keys), np.arange(n_pairs))
    np.testing.assert_array_equal(
        data.train.propensities, data.truth.exposure[data.train.users, data.train.items]
    )
    assert set(np.unique(data.train.labels)) == {0.0, 1.0}
    assert data.validation is None


@pytest.mark.parametrize("mean_exposure", [0.02, 0.1, 0.5, 0.95])
@pytest.mark.parametrize("skew", [0.0, 1.0, 4.0])
def test_means_are_hit_within_one_percent(mean_exposure, skew):
    truth = synthetic.generate(
        mean_exposure=mean_exposure, mean_relevance=0.25, popularity_skew=skew, propensity_floor=0.001
    ).truth
    np.testing.assert_allclose(truth.exposure.mean(), mean_exposure, rtol=0.01)
    np.testing.assert_allclose(truth.relevance.mean(), 0.25, rtol=0.01)


def test_floor_bounds_exposure():
    truth = synthetic.generate(propensity_floor=0.05, popularity_skew=3.0).truth
    assert truth.exposure.min() == np.float32(0.05)
    assert truth.exposure.max() <= 1.0


def test_skew_concentrates_exposure():
    def top_share(skew):
        exposure = np.sort(synthetic.generate(popularity_skew=skew).truth.exposure.mean(0))[::-1]
        return exposure[:20].sum() / exposure.sum()

    flat, zipf, steep = (top_share(skew) for skew in (0.0, 1.0, 2.0))
    assert flat < 0.15 < zipf < steep


@pytest.mark.parametrize(
    ("rho", "low", "high"), [(-0.8, -1.0, -0.5), (0.0, -0.15, 0.15), (0.8, 0.5, 1.0), (1.0, 0.9, 1.0)]
)
def test_correlation_knob(rho, low, high):
    truth = synthetic.generate(
        exposure_relevance_correlation=rho, popularity_skew=0.0, user_exposure=0.0, propensity_floor=1e-4
    ).truth
    logits = [np.log(p) - np.log1p(-p) for p in (truth.exposure, np.clip(truth.relevance, 1e-6, 1 - 1e-6))]
    assert low <= correlation(*logits) <= high


def test_draws_follow_their_probabilities(data):
    # Six standard deviations of the mean of independent Bernoulli draws.
    m, gamma = data.truth.exposure.astype(float), data.truth.relevance.astype(float)
    for drawn, p in (
        (len(data.train), m),
        (len(data.train.positives), m * gamma),
        (data.test.labels.sum(), gamma[data.test.users, data.test.items]),
    ):
        assert abs(drawn - p.sum()) < 6 * np.sqrt((p * (1 - p)).sum())


def test_test_labels_favour_no_item_over_its_relevance(data):
    # Labels of popular items among the unclicked pairs average to gamma, which R itself would not do.
    exposed = data.truth.exposure[data.test.users, data.test.items] > 0.5
    gamma = data.truth.relevance[data.test.users, data.test.items][exposed].astype(float)
    assert exposed.sum() > 1000
    assert abs(data.test.labels[exposed].sum() - gamma.sum()) < 6 * np.sqrt((gamma * (1 - gamma)).sum())


def test_default_is_missing_not_at_random(data):
    clicks = np.bincount(data.train.positives.items, minlength=data.n_items)
    assert correlation(clicks, data.truth.exposure.mean(0)) > 0.9
    assert abs(correlation(clicks, data.truth.relevance.mean(0))) < 0.3
    # The observed mean label is biased; weighting by the true propensity removes it.
    gamma = data.truth.relevance.mean()
    ips = (data.train.labels / data.train.propensities).sum() / (data.n_users * data.n_items)
    assert abs(ips - gamma) < abs(data.train.labels.mean() - gamma)


def test_notes_say_what_was_realised(data):
    notes = "\n".join(data.notes)
    assert f"{len(data.train.positives):,} clicks" in notes
    assert "mean exposure 0.2000" in notes
    assert notes in str(summarise(data)).replace("\n  ", "\n")


def test_constant_exposure_has_no_correlation():
    notes = synthetic.generate(
        popularity_skew=0.0,
        user_exposure=0.0,
        mean_exposure=0.010001,
        propensity_floor=0.01,
        n_users=5,
        n_items=4,
    ).notes
    assert any("correlation" in note for note in notes)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (dict(mean_exposure=1.0), r"mean_exposure = 1.0 must be a number in \(0.01, 1\)"),
        (dict(mean_exposure=0.01), r"mean_exposure = 0.01"),
        (dict(mean_relevance=float("nan")), "mean_relevance = nan"),
        (dict(exposure_relevance_correlation=1.5), r"in \[-1, 1\]"),
        (dict(popularity_skew=-1), "popularity_skew = -1"),
        (dict(propensity_floor=0), "propensity_floor = 0"),
        (dict(n_users=1), "n_users = 1 must be an integer >= 2"),
        (dict(n_items=True), "n_items = True"),
        (dict(seed=-1), "seed = -1"),
        (dict(dim=0), "dim = 0"),
        (dict(n_users=10**6, n_items=10**6), "must be at most"),
    ],
)
def test_knobs_out_of_range(knobs, message):
    with pytest.raises(ConfigError, match=message):
        synthetic.generate(**knobs)


def test_conversion_form_survives_a_split(data):
    whole, split = synthetic.cvr_matrices(data), synthetic.cvr_matrices(biif(data, seed=1))
    for a, b in zip(whole, split, strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole.observed.sum() == len(data.train)
    np.testing.assert_array_equal(whole.label[data.train.users, data.train.items], data.train.labels)
    gamma = data.truth.relevance.astype(float)
    assert abs(whole.label.sum() - gamma.sum()) < 6 * np.sqrt((gamma * (1 - gamma)).sum())


def test_conversion_form_needs_everything(data):
    with pytest.raises(DataError, match="are in none of train, validation and test"):
        synthetic.cvr_matrices(data.replace(test=None))
    with pytest.raises(DataError, match="has no truth"):
        synthetic.cvr_matrices(data.replace(truth=None))
