"""The exact additive propensity fit: optimality, margins, and what weight decay does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, models, training
from debias_jax.errors import ConfigError
from debias_jax.methods import _propensity

N_USERS, N_ITEMS = 30, 20


@pytest.fixture(scope="module")
def log():
    return training.train_data(
        data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3)
    )


def table(params):
    """Propensities of all pairs."""
    model = models.additive_logistic(N_USERS, N_ITEMS)
    return np.asarray(
        jax.nn.sigmoid(model.apply(params, jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]))
    )


def margins(log):
    """Distinct observed pairs of each user and item."""
    observed = np.zeros((N_USERS, N_ITEMS))
    observed[np.asarray(log.users), np.asarray(log.items)] = 1
    return observed.sum(axis=1), observed.sum(axis=0)


def test_without_decay_it_reproduces_the_observed_counts(log):
    p = table(_propensity.fit_additive(log, weight_decay=0.0, n_sweeps=60))
    users, items = margins(log)
    np.testing.assert_allclose(p.sum(axis=1), users, atol=0.01)
    np.testing.assert_allclose(p.sum(axis=0), items, atol=0.01)


@pytest.mark.parametrize("weight_decay", [1e-4, 1e-2])
def test_the_gradient_of_the_objective_vanishes(log, weight_decay):
    params = _propensity.fit_additive(log, weight_decay=weight_decay, n_sweeps=60)
    p, (users, items) = table(params), margins(log)
    size = N_USERS * N_ITEMS
    np.testing.assert_allclose(
        (p.sum(axis=1) - users) / size + weight_decay * np.asarray(params["user"]), 0, atol=1e-5
    )
    np.testing.assert_allclose(
        (p.sum(axis=0) - items) / size + weight_decay * np.asarray(params["item"]), 0, atol=1e-5
    )
    np.testing.assert_allclose(p.mean(), users.sum() / size, rtol=1e-4)


def test_a_large_decay_leaves_the_density(log):
    p = table(_propensity.fit_additive(log, weight_decay=1e3))
    np.testing.assert_allclose(p, margins(log)[0].sum() / p.size, rtol=1e-3)


def test_a_large_matrix_is_refused(log):
    large = log._replace(popularity=jnp.zeros(2**26 // N_USERS + 1))
    with pytest.raises(ConfigError, match=r"2\^26.*estimated"):
        _propensity.fit_additive(large, weight_decay=0.0)
