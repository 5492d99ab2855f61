"""Matrix factorisation against written-out sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models
from debias_jax.errors import ConfigError

SHAPES = [((4,), (4,)), ((2, 1), (2, 3)), ((3, 1), (1, 6)), ((2, 3, 1), (2, 1, 4)), ((), ())]


def drawn(model, rng):
    """Every parameter from N(0, 1), biases too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("user_shape", "item_shape"), SHAPES)
def test_logit_is_the_inner_product_of_each_pair(rng, bias, user_shape, item_shape):
    model = models.mf(3, 6, dim=4, bias=bias)
    params = drawn(model, rng)
    users, items = rng.integers(0, 3, user_shape), rng.integers(0, 6, item_shape)
    logits = jax.jit(model.apply)(params, jnp.asarray(users), jnp.asarray(items))

    p = jax.tree.map(np.asarray, params)
    every_user, every_item = np.broadcast_arrays(users, items)
    expected = np.zeros(every_user.shape)
    for index in np.ndindex(expected.shape):
        u, i = every_user[index], every_item[index]
        expected[index] = sum(p["user"][u, d] * p["item"][i, d] for d in range(4))
        if bias:
            expected[index] += p["user_bias"][u] + p["item_bias"][i] + p["global_bias"]
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_start():
    params = models.mf(2000, 1500, dim=8, bias=True, init_scale=0.3).init(jax.random.key(1))
    assert {name: leaf.shape for name, leaf in params.items()} == {
        "user": (2000, 8),
        "item": (1500, 8),
        "user_bias": (2000,),
        "item_bias": (1500,),
        "global_bias": (),
    }
    for name in ("user", "item"):
        # n draws: the mean's standard error is .3 / sqrt(n), the deviation's .3 / sqrt(2 n); five of each.
        n = params[name].size
        assert abs(params[name].mean()) < 5 * 0.3 / n**0.5
        assert abs(params[name].std() - 0.3) < 5 * 0.3 / (2 * n) ** 0.5
    assert not np.array_equal(params["user"][:1500], params["item"])
    for name in ("user_bias", "item_bias", "global_bias"):
        np.testing.assert_array_equal(params[name], 0.0)


def test_item_vectors_are_those_of_the_score(rng):
    model = models.mf(3, 6, dim=4)
    params = drawn(model, rng)
    items = jnp.asarray([[5, 0], [2, 2]])
    vectors = models.item_vectors(params, items)
    assert vectors.shape == (2, 2, 4)
    scores = vectors @ params["user"][1]
    np.testing.assert_allclose(scores, model.apply(params, jnp.ones((1, 1), jnp.int32), items), rtol=1e-5)


def test_id_out_of_range_scores_nan_and_leaves_the_others_alone():
    model = models.mf(3, 6, dim=4, bias=True)
    params = model.init(jax.random.key(0))
    users, items = jnp.asarray([0, 3, 0, -1]), jnp.asarray([5, 0, 6, 0])
    np.testing.assert_array_equal(jnp.isnan(model.apply(params, users, items)), [False, True, True, True])


def test_gradient_reaches_the_rows_of_the_batch_only():
    model = models.mf(3, 6, dim=4)
    params = model.init(jax.random.key(0))
    grads = jax.grad(lambda p: model.apply(p, jnp.asarray([1]), jnp.asarray([2])).sum())(params)
    np.testing.assert_array_equal(grads["user"][1], params["item"][2])
    np.testing.assert_array_equal(grads["user"][jnp.asarray([0, 2])], 0.0)


def test_messages():
    with pytest.raises(ConfigError, match="dim must be an integer of at least 1, got 0"):
        models.mf(3, 6, dim=0)
    model = models.mf(3, 6, dim=4)
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"users \(4,\) do not broadcast against items \(4, 5\)"):
        model.apply(params, jnp.zeros(4, jnp.int32), jnp.zeros((4, 5), jnp.int32))
    with pytest.raises(TypeError, match="ids must be of an integer dtype"):
        model.apply(params, jnp.zeros(4), jnp.zeros(4, jnp.int32))
