"""UBPR: its frame, and a step written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, training
from debias_jax.methods import batching

N_USERS, N_ITEMS, DIM = 24, 18, 4


@pytest.fixture(scope="module")
def train():
    return training.train_data(
        data.synthetic.generate(seed=3, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3)
    )


def _clicked(train):
    clicked = np.zeros((N_USERS, N_ITEMS), bool)
    clicked[np.asarray(train.clicks[0]), np.asarray(train.clicks[1])] = True
    return clicked


def test_each_click_meets_uniform_other_items_clicked_or_not(train):
    frame = batching.clicks_and_other_items(batch_size=64, n_negatives=200)
    batch = jax.jit(frame)(train, jax.random.key(0))
    users, items, others = (np.asarray(x)[np.asarray(batch.where)] for x in batch[:3])
    counts = np.zeros((N_USERS, N_ITEMS))
    np.add.at(counts, (users, items), 1)
    np.testing.assert_array_equal(counts, 200 * _clicked(train))
    assert (items != others).all()
    # Each of the other 17 items is met 200 / 17 times by a click in the mean; the counts of one item with all others.
    item = np.bincount(items).argmax()
    met = np.bincount(others[items == item], minlength=N_ITEMS)
    expected = met.sum() / (N_ITEMS - 1)
    assert met[item] == 0
    assert np.abs(np.delete(met, item) - expected).max() < 4.5 * np.sqrt(expected)
    assert _clicked(train)[users, others].any()


@pytest.mark.parametrize("options", [{}, {"clipped": False}])
def test_a_step_is_the_mean_of_its_pairs(train, options):
    method = methods.ubpr(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=400, n_negatives=3, **options)
    hparams = {"min_exposure": 0.4} | ({"beta": 0.25} if not options else {})
    state = method.init(jax.random.key(0), train, hparams)
    batch = jax.tree.map(lambda x: x[0], jax.jit(method.batches)(train, jax.random.key(5)))
    _, logs = jax.jit(method.step)(state, train, batch, jax.random.key(1))
    scores = np.asarray(method.predict(state, jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]))
    exposure, clicked = np.maximum(np.asarray(train.popularity), 0.4), _clicked(train)
    assert (np.asarray(train.popularity) < 0.4).any()
    values = []
    for u, i, j in zip(*(np.asarray(x)[np.asarray(batch.where)] for x in batch[:3]), strict=True):
        value = np.logaddexp(0, scores[u, j] - scores[u, i]) / exposure[i] * (1 - clicked[u, j] / exposure[j])
        values.append(value if options else max(value, -0.25))
    assert float(logs["loss"]) == pytest.approx(np.mean(values), rel=1e-5)
    # Both forms meet a pair that the clip would change.
    assert (min(values) < -0.25) if options else (min(values) == -0.25)


def test_a_catalogue_of_one_item_has_no_other(train):
    method = methods.ubpr(models.mf(N_USERS, 1, dim=DIM))
    with pytest.raises(ValueError, match="n_items"):
        method.batches(train._replace(popularity=train.popularity[:1]), jax.random.key(0))
