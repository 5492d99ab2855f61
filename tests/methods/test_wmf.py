"""WMF: alternating least squares against the same sums written out over all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import methods, models, training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError

N_USERS, N_ITEMS, DIM = 6, 5, 2
ALPHA, RIDGE = 4.0, 0.25
# The last user and the last item have no click; one click is logged twice, which makes it no heavier.
USERS, ITEMS = np.array([0, 0, 1, 2, 3, 3, 4, 4, 0]), np.array([0, 1, 0, 1, 0, 2, 2, 3, 0])
CLICKS = np.zeros((N_USERS, N_ITEMS))
CLICKS[USERS, ITEMS] = 1


def _train():
    rows = Interactions(USERS, ITEMS, np.ones(USERS.size, np.float32), N_USERS, N_ITEMS)
    return training.train_data(
        Dataset("tiny", rows, None, None, Vocabulary.range(N_USERS), Vocabulary.range(N_ITEMS))
    )


def _regress(clicks, others):
    """argmin over x of sum_j (1 + alpha y_j) (y_j - x . f_j)^2 + ridge |x|^2, for each row of clicks."""
    rows = []
    for y in clicks:
        confidence = np.diag(1 + ALPHA * y)
        gram = others.T @ confidence @ others + RIDGE * np.eye(others.shape[1])
        rows.append(np.linalg.solve(gram, others.T @ confidence @ y))
    return np.array(rows)


def _loss(user, item):
    squares = np.sum((1 + ALPHA * CLICKS) * (CLICKS - user @ item.T) ** 2)
    return (squares + RIDGE * (np.sum(user**2) + np.sum(item**2))) / CLICKS.size


def test_iterations_are_least_squares_over_all_pairs(x64):
    # Three clicks at once: the last chunk has padding.
    method = methods.wmf(models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.5), chunk_size=3)
    train = _train()
    state = method.init(jax.random.key(0), train, {"alpha": ALPHA, "regularization": RIDGE})
    state = state._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state.params))
    step, values = jax.jit(method.step), []
    user, item = (np.asarray(state.params["prediction"][name]) for name in ("user", "item"))
    for _ in range(4):
        state, logs = step(state, train, None, jax.random.key(1))
        values.append(float(logs["loss"]))
        assert values[-1] == pytest.approx(_loss(user, item), rel=1e-12)
        user = _regress(CLICKS, item)
        item = _regress(CLICKS.T, user)
        np.testing.assert_allclose(state.params["prediction"]["user"], user, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(state.params["prediction"]["item"], item, rtol=1e-10, atol=1e-14)
    assert (np.diff(values) < 0).all()
    # Nothing is known of them but zeros.
    np.testing.assert_array_equal(user[-1], 0.0)
    np.testing.assert_array_equal(item[-1], 0.0)


def test_it_solves_for_vectors_alone():
    with pytest.raises(ConfigError, match=r"wmf solves for the vectors.*global_bias.*bias=False"):
        methods.wmf(models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True))
    towers = models.two_tower(N_USERS, N_ITEMS, dim=DIM, hidden=(3,))
    with pytest.raises(ConfigError, match="wmf solves for the vectors"):
        methods.wmf(towers)
    with pytest.raises(ConfigError, match="chunk_size must be an integer of at least 1, got -1"):
        methods.wmf(models.mf(N_USERS, N_ITEMS, dim=DIM), chunk_size=-1)
