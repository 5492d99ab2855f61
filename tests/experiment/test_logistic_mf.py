"""Logistic factorisation: what its maximum is, what it recovers, and the exposure data made from it."""

import numpy as np
import pytest
from scipy import optimize

from debias_jax import data
from debias_jax.data import Interactions
from debias_jax.errors import ConfigError, DataError
from debias_jax.experiment import _logistic_mf
from debias_jax.experiment._logistic_mf import logistic_mf


def log_of(clicked):
    users, items = np.nonzero(clicked)
    return Interactions(users, items, np.ones(len(users)), *clicked.shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def biased_log(rng, shape=(30, 20)):
    logits = rng.normal(size=(shape[0], 1)) + rng.normal(size=shape[1])
    return rng.random(shape) < sigmoid(logits)


@pytest.mark.parametrize(
    ("likelihood", "confidence"), [("bernoulli", 1.0), ("johnson", 1.0), ("johnson", 5.0)]
)
def test_score_equations_of_the_biases_hold(rng, likelihood, confidence):
    """Without a penalty the derivative in each bias is 0: margins of the fit equal weighted margins of the log."""
    clicked = biased_log(rng).astype(np.float64)
    fitted = logistic_mf(
        log_of(clicked), dim=0, l2=0.0, likelihood=likelihood, confidence=confidence, iterations=800
    )
    weights = 1 + confidence * clicked if likelihood == "johnson" else np.ones_like(clicked)
    residual = confidence * clicked - weights * fitted
    np.testing.assert_allclose(residual.sum(axis=1), 0, atol=0.02)
    np.testing.assert_allclose(residual.sum(axis=0), 0, atol=0.02)


@pytest.mark.parametrize("likelihood", ["bernoulli", "johnson"])
def test_maximum_is_that_of_another_optimiser(rng, likelihood):
    clicked = biased_log(rng, (9, 7)).astype(np.float64)
    l2, alpha = 0.5, 2.0
    n, m = clicked.shape

    def scores(flat):
        users, items = flat[: 2 * n].reshape(n, 2), flat[2 * n :].reshape(m, 2)
        return np.outer(users[:, 0], items[:, 0]) + users[:, 1:] + items[:, 1]

    def negative(flat):
        s = scores(flat)
        counts = (1 if likelihood == "johnson" else 1 - clicked) + alpha * clicked
        return -np.sum(alpha * clicked * s - counts * np.log1p(np.exp(s))) + l2 / 2 * np.sum(flat**2)

    found = [optimize.minimize(negative, rng.normal(size=2 * (n + m)), method="L-BFGS-B") for _ in range(5)]
    best = min(found, key=lambda one: one.fun)
    ours = logistic_mf(
        log_of(clicked),
        dim=1,
        l2=l2,
        confidence=alpha,
        likelihood=likelihood,
        iterations=2000,
        init_scale=0.5,
    )
    np.testing.assert_allclose(ours, sigmoid(scores(best.x)), atol=5e-3)


def test_truth_is_recovered_and_johnson_finds_odds_of_p(rng):
    """A block model: each of nine blocks has its probability, which many pairs determine."""
    blocks = np.array([[0.9, 0.5, 0.1], [0.2, 0.6, 0.4], [0.05, 0.3, 0.7]])
    truth = np.kron(blocks, np.ones((120, 100)))
    log = log_of(rng.random(truth.shape) < truth)

    def block_means(likelihood, alpha):
        fitted = logistic_mf(log, dim=2, l2=1.0, likelihood=likelihood, confidence=alpha, iterations=200)
        return fitted.reshape(3, 120, 3, 100).mean(axis=(1, 3))

    # 12,000 draws a block: a standard deviation of .005 at most; the rest is the penalty's pull.
    np.testing.assert_allclose(block_means("bernoulli", 1.0), blocks, atol=0.03)
    np.testing.assert_allclose(block_means("johnson", 1.0), blocks / (1 + blocks), atol=0.03)
    np.testing.assert_allclose(block_means("johnson", 4.0), 4 * blocks / (1 + 4 * blocks), atol=0.03)


def test_penalty_shrinks_and_seed_decides(rng):
    log = log_of(biased_log(rng))
    first = logistic_mf(log, dim=2)
    np.testing.assert_array_equal(first, logistic_mf(log, dim=2))
    assert not np.array_equal(first, logistic_mf(log, dim=2, seed=1))
    np.testing.assert_array_equal(logistic_mf(log, dim=0), logistic_mf(log, dim=0, seed=1))
    assert logistic_mf(log, dim=2, l2=1000.0).std() < 0.1 * first.std()


def test_only_positive_rows_count_and_options_are_checked():
    log = Interactions(np.array([0, 1]), np.array([0, 1]), np.array([1.0, 0.0]), 2, 2)
    fitted = logistic_mf(log, dim=0)
    assert fitted[0, 0] > fitted[0, 1] > fitted[1, 1]
    assert fitted.dtype == np.float32
    with pytest.raises(ValueError, match="unknown likelihood 'poisson'; there are bernoulli, johnson"):
        logistic_mf(log, likelihood="poisson")
    with pytest.raises(DataError, match="ran away; lower lr, or raise l2"):
        logistic_mf(log, dim=0, l2=0.0, lr=1e3)


def rated(n_users=40, n_items=30):
    rng = np.random.default_rng(0)
    log = data.synthetic.generate(seed=0, n_users=n_users, n_items=n_items).replace(test=None)
    ratings = np.where(
        log.train.labels > 0, rng.integers(4, 6, len(log.train)), rng.integers(1, 4, len(log.train))
    )
    train = log.train
    return log.replace(
        train=Interactions(train.users, train.items, train.labels, n_users, n_items, ratings=ratings)
    )


def test_exposure_is_fitted_to_rows_and_relevance_to_high_ratings():
    ratings = rated()
    exposure, relevance = _logistic_mf.exposure_truth(ratings, dim=0, l2=0.0, iterations=800)
    n_pairs = ratings.n_users * ratings.n_items
    assert exposure.mean() == pytest.approx(len(ratings.train) / n_pairs, abs=2e-3)
    high = (ratings.train.ratings >= 4).sum()
    assert relevance.mean() == pytest.approx(high / n_pairs, abs=2e-3)
    assert (relevance > 0).all()
    bare = data.synthetic.generate(n_users=5, n_items=4)
    with pytest.raises(DataError, match="synthetic has no ratings"):
        _logistic_mf.exposure_truth(bare)


class TestOwnFile:
    @pytest.fixture
    def path(self, tmp_path):
        ratings = rated().train
        lines = [
            f"u{u},b{i},{r:g},1"
            for u, i, r in zip(ratings.users, ratings.items, ratings.ratings, strict=True)
        ]
        path = tmp_path / "discs.csv"
        path.write_text("\n".join(["user,item,rating,timestamp", *lines]) + "\n", encoding="utf-8")
        return path

    def test_filters_fit_and_draw(self, path):
        options = {
            "min_user_rows": 3,
            "min_item_rows": 3,
            "n_users": 25,
            "n_items": 20,
            "timestamp": "timestamp",
        }
        dataset = _logistic_mf.load_own_exposure(path, **options)
        assert dataset.name == "discs_exposure"
        assert dataset.n_users <= 25 and dataset.n_items <= 20
        assert dataset.users.ids[0].startswith("u") and dataset.items.ids[0].startswith("b")
        assert dataset.truth.exposure.shape == (dataset.n_users, dataset.n_items)
        assert len(dataset.train.positives) + len(dataset.test) == dataset.truth.exposure.size
        stated = float(next(note for note in dataset.notes if "PCC" in note).split()[-1])
        theta = np.sqrt(np.bincount(dataset.train.positives.items, minlength=dataset.n_items))
        rows = [np.corrcoef(theta, row)[0, 1] for row in dataset.truth.exposure]
        assert stated == pytest.approx(np.mean(rows), abs=6e-4)
        other = _logistic_mf.load_own_exposure(path, seed=1, **options)
        np.testing.assert_array_equal(other.truth.exposure, dataset.truth.exposure)
        assert not np.array_equal(other.train.pair_keys[:20], dataset.train.pair_keys[:20])

    def test_a_file_that_changed_is_read_again(self, path):
        options = {"min_user_rows": 1, "min_item_rows": 1}
        before = _logistic_mf.load_own_exposure(path, **options)
        path.write_text(path.read_text(encoding="utf-8") + "new,b1,5,1\n", encoding="utf-8")
        assert _logistic_mf.load_own_exposure(path, **options).n_users == before.n_users + 1

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"nothing\.csv"):
            _logistic_mf.load_own_exposure(tmp_path / "nothing.csv")


@pytest.mark.parametrize("dim", [-1, 1.5])
def test_a_dim_that_is_no_size_is_named(rng, dim):
    with pytest.raises(ConfigError, match=f"dim must be an integer of at least 0, .* got {dim}"):
        logistic_mf(log_of(biased_log(rng)), dim=dim)


def test_unknown_levels_are_named():
    with pytest.raises(DataError, match="unknown level 'esay'; .*easy"):
        _logistic_mf.load_ml_100k_exposure("nowhere", level="esay")


@pytest.mark.slow
@pytest.mark.parametrize(("level", "pcc"), [("easy", 0.944), ("medium", 0.800), ("hard", 0.504)])
def test_levels_of_movielens(data_dir, level, pcc):
    """The table in the docstring of ``configs/ml_100k_exposure.py``."""
    dataset = _logistic_mf.load_ml_100k_exposure(data_dir / "ml-100k", level=level)
    assert (dataset.n_users, dataset.n_items) == (943, 1682)
    # Another device may round, and so draw a few pairs, differently.
    assert _logistic_mf.popularity_pcc(dataset) == pytest.approx(pcc, abs=2e-3)
    assert dataset.users.ids[:2] == ("1", "2")
