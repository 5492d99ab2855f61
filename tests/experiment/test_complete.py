"""The completion of a rating matrix, and the semi-synthetic MovieLens 100K made from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import methods, metrics, training
from debias_jax.data import Interactions
from debias_jax.errors import DataError
from debias_jax.experiment import _complete


def log_of(matrix, rows):
    users, items = np.divmod(rows, matrix.shape[1])
    return Interactions(
        users, items, np.ones(len(rows)), *matrix.shape, ratings=matrix[users, items].astype(np.float32)
    )


def test_completion_predicts_what_it_did_not_see(rng):
    biases = 3.0 + rng.normal(size=(40, 1)) + rng.normal(size=(1, 50))
    matrix = biases + rng.normal(size=(40, 1)) @ rng.normal(size=(1, 50))
    rows = rng.permutation(matrix.size)
    seen, hidden = rows[:1200], rows[1200:]
    full = _complete.complete(log_of(matrix, seen), dim=2, init_scale=0.1, epochs=60, lr=0.02, batch_size=128)
    assert (full.shape, full.dtype) == ((40, 50), np.float32)
    error = np.mean((full - matrix).ravel()[hidden] ** 2)
    # User mean plus item mean leave the product of the two vectors, of variance 1.
    assert error < 0.1 < np.mean((biases - matrix) ** 2)


def test_penalty_shrinks_and_seed_decides(rng):
    matrix = rng.integers(1, 6, (20, 30)).astype(np.float32)
    log = log_of(matrix, rng.permutation(600)[:300])

    def spread(**options):
        return _complete.complete(log, dim=4, epochs=30, lr=0.05, batch_size=64, **options)

    first = spread()
    np.testing.assert_array_equal(first, spread())
    assert not np.array_equal(first, spread(seed=1))
    # The penalty leaves the global bias alone.
    heavy = spread(l2=100.0)
    assert heavy.std() < 0.1 * first.std()
    assert abs(heavy.mean() - log.ratings.mean()) < 0.3


def test_log_without_ratings_is_refused():
    with pytest.raises(DataError, match="from ratings only"):
        _complete.complete(Interactions(np.zeros(1, int), np.zeros(1, int), np.ones(1), 2, 2))


@pytest.mark.slow
def test_ml_100k_sim(data_dir):
    data = _complete.load_ml_100k_sim(data_dir / "ml-100k")
    n_pairs = 943 * 1682
    assert (data.n_users, data.n_items, data.name) == (943, 1682, "ml_100k_sim")
    assert data.users.ids[:2] == ("1", "2")
    # Densities 9.43 % and 15.08 %; the standard deviation of the count is .02 % of the pairs, of the second .03 %.
    assert len(data.train) / n_pairs == pytest.approx(0.0943, abs=8e-4)
    assert data.truth.relevance.mean() == pytest.approx(0.2318, abs=1e-4)
    # Simulated afresh on the matrix that BADR used, the test parts have positive rates of .205 and .198.
    assert data.test.labels.mean() == pytest.approx(0.205, abs=2e-3)
    denser = _complete.load_ml_100k_sim(data_dir / "ml-100k", decay=0.58)
    assert len(denser.train) / n_pairs == pytest.approx(0.1508, abs=12e-4)
    assert denser.test.labels.mean() == pytest.approx(0.198, abs=2e-3)
    np.testing.assert_array_equal(denser.truth.relevance, data.truth.relevance)

    # And user mean plus item mean an AUC of .726 there; an additive matrix would give .99.
    method = methods.mean_logit(feedback="ratings")
    state = training.fit(method, training.train_data(data), jax.random.key(0), epochs=1).state
    scores = method.predict(state, jnp.asarray(data.test.users), jnp.asarray(data.test.items))
    assert float(metrics.auc(scores, jnp.asarray(data.test.labels))) == pytest.approx(0.726, abs=0.02)
