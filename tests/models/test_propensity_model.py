"""The additive logistic model, and that the released parametrisation is this function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models


def test_logit_is_additive():
    model = models.additive_logistic(2, 3)
    params = {
        "user": jnp.asarray([0.5, -1.0], jnp.float32),
        "item": jnp.asarray([1.0, 2.0, -4.0], jnp.float32),
        "bias": jnp.asarray(0.25, jnp.float32),
    }
    logits = model.apply(params, jnp.arange(2)[:, None], jnp.arange(3)[None, :])
    expected = [[a + b + 0.25 for b in (1.0, 2.0, -4.0)] for a in (0.5, -1.0)]
    np.testing.assert_allclose(logits, expected, rtol=1e-6)


def test_concatenated_embeddings_with_a_linear_layer_are_this_function(rng):
    users, items, dim = 4, 5, 3
    user, item = rng.normal(size=(users, dim)), rng.normal(size=(items, dim))
    weight, bias = rng.normal(size=2 * dim), rng.normal()
    released = np.array([[weight @ np.concatenate([u, i]) + bias for i in item] for u in user])
    params = {"user": user @ weight[:dim], "item": item @ weight[dim:], "bias": np.asarray(bias)}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    logits = models.additive_logistic(users, items).apply(
        params, jnp.arange(users)[:, None], jnp.arange(items)[None, :]
    )
    np.testing.assert_allclose(logits, released, rtol=1e-5, atol=1e-5)


def test_starts():
    zero = models.additive_logistic(3, 4).init(jax.random.key(0))
    assert {name: leaf.shape for name, leaf in zero.items()} == {"user": (3,), "item": (4,), "bias": ()}
    assert all((leaf == 0).all() for leaf in zero.values())
    spread = models.additive_logistic(20_000, 4, init_scale=0.41).init(jax.random.key(0))
    assert abs(spread["user"].std() - 0.41) < 5 * 0.41 / 40_000**0.5
    assert spread["bias"] == 0.0


def test_id_out_of_range_is_nan():
    model = models.additive_logistic(3, 4)
    params = model.init(jax.random.key(0))
    logits = model.apply(params, jnp.asarray([0, 3, 0]), jnp.asarray([0, 0, -1]))
    np.testing.assert_array_equal(jnp.isnan(logits), [False, True, True])


def test_messages():
    model = models.additive_logistic(3, 4)
    with pytest.raises(ValueError, match="do not broadcast against items"):
        model.apply(model.init(jax.random.key(0)), jnp.zeros(2, jnp.int32), jnp.zeros(3, jnp.int32))
