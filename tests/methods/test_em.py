"""The recipe ``em`` on a problem that fits on paper: two coins, thrown without saying which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, training
from debias_jax.errors import ConfigError
from debias_jax.methods import recipes

# Heads in ten throws of a coin that was drawn with equal chances.
HEADS = np.array([5.0, 9.0, 8.0, 4.0, 7.0])


def _likelihood(coins):
    return coins ** HEADS[:, None] * (1 - coins) ** (10 - HEADS[:, None])


def _coins():
    """Two M steps, one a coin, so that each has an E step of its own."""

    def coin(which):
        def m_step(params, responsibility, data, hparams):
            del data, hparams
            own = responsibility[:, which]
            heads = jnp.sum(own * HEADS) / (10.0 * jnp.sum(own))
            return {"prediction": params["prediction"].at[which].set(heads)}

        return m_step

    def likelihood(params):
        coins = params["prediction"][None, :]
        heads = jnp.asarray(HEADS, coins.dtype)[:, None]
        return coins**heads * (1 - coins) ** (10 - heads)

    def e_step(params, data, hparams):
        del data, hparams
        joint = likelihood(params)
        return joint / jnp.sum(joint, axis=1, keepdims=True)

    return recipes.em(
        init=lambda key, hparams: {"prediction": jnp.stack([hparams["first"], hparams["second"]])},
        e_step=e_step,
        m_steps=(coin(0), coin(1)),
        objective=lambda params, data, hparams: -jnp.sum(jnp.log(jnp.mean(likelihood(params), axis=1))),
        predict=lambda state, users, items: state.params["prediction"][users],
        hparams={"first": 0.6, "second": 0.5},
    )


@pytest.fixture(scope="module")
def train():
    return training.train_data(data.synthetic.generate(seed=0, n_users=8, n_items=6))


def test_each_block_has_an_e_step_at_the_newest_parameters(train):
    result = training.fit(_coins(), train, jax.random.key(0), {"first": 0.7}, epochs=3)
    coins, losses = np.array([0.7, 0.5]), []
    for _ in range(3):
        losses.append(-np.log(_likelihood(coins).mean(axis=1)).sum())
        for which in range(2):
            own = (_likelihood(coins) / _likelihood(coins).sum(axis=1, keepdims=True))[:, which]
            coins[which] = own @ HEADS / (10 * own.sum())
    np.testing.assert_allclose(result.state.params["prediction"], coins, rtol=1e-5)
    np.testing.assert_allclose([row["loss"] for row in result.history], losses, rtol=1e-5)
    assert int(result.state.step) == 3


def test_a_maximum_is_where_it_rests(train):
    result = training.fit(_coins(), train, jax.random.key(0), epochs=60)
    losses = np.array([row["loss"] for row in result.history])
    # Float32 of a sum of five logarithms near 35.
    assert (np.diff(losses) <= 4e-6 * losses[0]).all() and losses[-1] < losses[0] - 0.1
    responsibility = _likelihood(np.asarray(result.state.params["prediction"], np.float64))
    responsibility /= responsibility.sum(axis=1, keepdims=True)
    fixed = responsibility.T @ HEADS / (10 * responsibility.sum(axis=0))
    np.testing.assert_allclose(result.state.params["prediction"], fixed, atol=1e-4)


def test_unknown_hyperparameters_are_named(train):
    with pytest.raises(ConfigError, match="third"):
        _coins().init(jax.random.key(0), train, {"third": 0.5})
