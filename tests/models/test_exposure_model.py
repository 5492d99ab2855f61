"""Biif's exposure model against its eq. 14, entry by entry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models
from debias_jax.errors import ConfigError


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def drawn(rng):
    """Every parameter from N(0, 1)."""
    shapes = jax.eval_shape(models.biif_exposure(3, dim=4).init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize(("user_shape", "item_shape"), [((5,), (5,)), ((2, 1), (2, 3)), ((3, 1), (1, 6))])
def test_equals_eq_14(rng, user_shape, item_shape):
    params = drawn(rng)
    users = rng.integers(0, 3, user_shape)
    vectors, popularity = rng.normal(size=(*item_shape, 4)), rng.random(item_shape)
    actual = jax.jit(models.biif_exposure(3, dim=4).apply)(
        params, jnp.asarray(users), jnp.asarray(vectors, jnp.float32), jnp.asarray(popularity, jnp.float32)
    )

    p = jax.tree.map(np.asarray, params)
    expected = np.zeros(np.broadcast_shapes(user_shape, item_shape))
    every_user = np.broadcast_to(users, expected.shape)
    every_vector = np.broadcast_to(vectors, (*expected.shape, 4))
    every_popularity = np.broadcast_to(popularity, expected.shape)
    for index in np.ndindex(expected.shape):
        w = every_vector[index]
        r = sigmoid(p["gate_weight"] @ w + p["gate_bias"])
        expected[index] = r * sigmoid(p["user"][every_user[index]] @ w) + (1 - r) * every_popularity[index]
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_is_a_probability_even_at_the_ends(rng):
    users = jnp.asarray(rng.integers(0, 3, 500))
    vectors = jnp.asarray(100 * rng.normal(size=(500, 4)), jnp.float32)
    popularity = jnp.asarray(rng.integers(0, 2, 500), jnp.float32)
    exposure = models.biif_exposure(3, dim=4).apply(drawn(rng), users, vectors, popularity)
    assert float(exposure.min()) >= 0.0
    assert float(exposure.max()) <= 1.0


def test_start_mixes_half_and_half():
    params = models.biif_exposure(4000, dim=50).init(jax.random.key(2))
    assert params["gate_bias"] == 0.0
    assert abs(params["user"].std() - 0.1) < 5 * 0.1 / (2 * 200_000) ** 0.5
    assert params["gate_weight"].shape == (50,)
    assert abs(params["gate_weight"].std() - 0.1) < 5 * 0.1 / 100**0.5
    # At item vectors of 0 both sigmoids are 1/2, whatever the parameters.
    exposure = models.biif_exposure(4000, dim=50).apply(
        params, jnp.asarray([7]), jnp.zeros((1, 50)), jnp.asarray([0.8])
    )
    np.testing.assert_allclose(exposure, [0.5 * 0.5 + 0.5 * 0.8], rtol=1e-6)


def test_caller_decides_whether_items_receive_gradients(rng):
    model, params = models.biif_exposure(3, dim=4), drawn(rng)
    users, popularity = jnp.asarray([0, 2]), jnp.asarray([0.2, 0.7], jnp.float32)
    vectors = jnp.asarray(rng.normal(size=(2, 4)), jnp.float32)
    through = jax.grad(lambda w: model.apply(params, users, w, popularity).sum())(vectors)
    assert (through != 0).all()
    stop = jax.lax.stop_gradient
    held = jax.grad(lambda w: model.apply(params, users, stop(w), popularity).sum())(vectors)
    np.testing.assert_array_equal(held, 0.0)


def test_messages(rng):
    model, params = models.biif_exposure(3, dim=4), drawn(rng)
    vectors = jnp.zeros((5, 4))
    with pytest.raises(ValueError, match=r"popularity \(4,\), item_vectors_without_last_axis \(5,\)"):
        model.apply(params, jnp.zeros(5, jnp.int32), vectors, jnp.zeros(4))
    with pytest.raises(ValueError, match="users .* do not broadcast against items"):
        model.apply(params, jnp.zeros(4, jnp.int32), vectors, jnp.zeros(5))
    with pytest.raises(TypeError, match="popularity must be of a floating dtype"):
        model.apply(params, jnp.zeros(5, jnp.int32), vectors, jnp.zeros(5, jnp.int32))
    with pytest.raises(ValueError, match=r"item_vectors are of shape \(5, 3\), .* of dim=4"):
        model.apply(params, jnp.zeros(5, jnp.int32), vectors[:, :3], jnp.zeros(5))


def test_exposure_of_cjmf_by_hand(rng):
    model = models.cjmf_exposure(dim=4)
    params = {name: rng.normal(size=np.shape(x)) for name, x in model.init(jax.random.key(0)).items()}
    vectors, popularity = rng.normal(size=(3, 4)), np.array([0.01, 0.5, 1.0])

    def of(name):
        return 1 / (1 + np.exp(-(vectors @ params[f"{name}_weight"] + params[f"{name}_bias"])))

    want = (of("gate") * of("affinity") + (1 - of("gate")) * popularity) ** of("power")
    as_float32 = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), (params, vectors, popularity))
    np.testing.assert_allclose(model.apply(*as_float32), want, rtol=1e-5)


def test_messages_of_cjmf():
    model = models.cjmf_exposure(dim=4)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"popularity \(4,\), item_vectors_without_last_axis \(5,\)"):
        model.apply(params, jnp.zeros((5, 4)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"item_vectors are of shape \(5, 3\), .* of dim=4"):
        model.apply(params, jnp.zeros((5, 3)), jnp.zeros(5))
    with pytest.raises(ConfigError, match="dim must be an integer of at least 1, got 0"):
        models.cjmf_exposure(dim=0)
