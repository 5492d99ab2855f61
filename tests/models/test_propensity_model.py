"""The additive logistic model, and that the released parametrisation is this function."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import models, optimizers
from debias_jax.errors import ConfigError


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


def test_factors_give_the_sum_over_the_concatenated_embeddings(rng):
    model = models.additive_logistic(4, 5, dim=3)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    p = jax.tree.map(np.asarray, params)
    for user_shape, item_shape in (((7,), (7,)), ((4, 1), (1, 5)), ((2, 1), (2, 3))):
        users, items = rng.integers(0, 4, user_shape), rng.integers(0, 5, item_shape)
        every_user, every_item = np.broadcast_arrays(users, items)
        both = np.concatenate([p["user"][every_user], p["item"][every_item]], axis=-1)
        logits = model.apply(params, jnp.asarray(users), jnp.asarray(items))
        assert logits.dtype == jnp.float32
        np.testing.assert_allclose(logits, both @ p["weight"] + p["bias"], rtol=1e-5, atol=1e-5)


def test_released_propensity_step(fixtures_dir):
    fixture = dict(np.load(fixtures_dir / "badr_step.npz", allow_pickle=False))

    def named(prefix):
        params = {
            "user": fixture[f"{prefix}/user_emb_table.weight"],
            "item": fixture[f"{prefix}/item_emb_table.weight"],
            "weight": fixture[f"{prefix}/linear_1.weight"][0],
            "bias": fixture[f"{prefix}/linear_1.bias"][0],
        }
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    def equal(ours, theirs, tolerance):
        assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()

    # Settings are stored in float32; their decimal values are what the program ran with.
    setting = {name: float(str(fixture[f"hp/{name}"])) for name in ("prop_lr", "prop_weight_decay")}
    params = named("param_prop")
    users, items = jnp.asarray(fixture["prop/pairs"]).T
    model = models.additive_logistic(*params["user"].shape[:1], *params["item"].shape[:1], dim=8)
    assert jax.tree.map(jnp.shape, model.init(jax.random.key(0))) == jax.tree.map(jnp.shape, params)

    def loss(params):
        propensity = jax.nn.sigmoid(model.apply(params, users, items))
        return jnp.mean((propensity - jnp.asarray(fixture["prop/observed"])) ** 2), propensity

    (value, propensity), grads = jax.value_and_grad(loss, has_aux=True)(params)
    equal(propensity, fixture["prop/propensity"], 1e-5)
    equal(value, fixture["prop/loss"], 1e-5)
    jax.tree.map(lambda ours, theirs: equal(ours, theirs, 2e-5), grads, named("prop/grad"))
    tx = optimizers.adam(setting["prop_lr"], weight_decay=setting["prop_weight_decay"])
    updates, _ = tx.update(grads, tx.init(params), params)
    stepped = optax.apply_updates(params, updates)
    jax.tree.map(lambda ours, theirs: equal(ours, theirs, 1e-5), stepped, named("prop/param_after"))


def test_starts():
    zero = models.additive_logistic(3, 4).init(jax.random.key(0))
    assert {name: leaf.shape for name, leaf in zero.items()} == {"user": (3,), "item": (4,), "bias": ()}
    assert all((leaf == 0).all() for leaf in zero.values())
    spread = models.additive_logistic(20_000, 4, init_scale=0.41).init(jax.random.key(0))
    assert abs(spread["user"].std() - 0.41) < 5 * 0.41 / 40_000**0.5
    assert spread["bias"] == 0.0


def test_released_start_gives_both_terms_the_deviation_of_a_sixth():
    draws = jax.vmap(models.additive_logistic(50, 40, dim=8).init)(jax.random.split(jax.random.key(0), 200))
    assert {name: leaf.shape[1:] for name, leaf in draws.items()} == {
        "user": (50, 8),
        "item": (40, 8),
        "weight": (16,),
        "bias": (),
    }
    # 80,000 normals, and 3,400 uniforms on +-1/4, whose variance is (1/4)^2 / 3; five standard errors of each.
    assert abs(draws["user"].std() - 1.0) < 5 / (2 * 80_000) ** 0.5
    uniform = jnp.concatenate([draws["weight"].ravel(), draws["bias"]])
    assert abs(uniform).max() <= 0.25
    assert abs((uniform**2).mean() - 0.25**2 / 3) < 5 * 0.25**2 * (4 / 45 / uniform.size) ** 0.5
    # The weights are shared by a model's users, so only models count as draws: 200 of variance 8 * 1/48 = 1/6.
    terms = jnp.einsum("nuk,nk->nu", draws["user"], draws["weight"][:, :8])
    assert abs((terms**2).mean() - 1 / 6) < 0.05


@pytest.mark.parametrize("dim", [None, 2])
def test_id_out_of_range_is_nan(dim):
    model = models.additive_logistic(3, 4, dim=dim)
    params = model.init(jax.random.key(0))
    logits = model.apply(params, jnp.asarray([0, 3, 0]), jnp.asarray([0, 0, -1]))
    np.testing.assert_array_equal(jnp.isnan(logits), [False, True, True])


def test_messages():
    model = models.additive_logistic(3, 4)
    with pytest.raises(ValueError, match="do not broadcast against items"):
        model.apply(model.init(jax.random.key(0)), jnp.zeros(2, jnp.int32), jnp.zeros(3, jnp.int32))
    with pytest.raises(ConfigError, match="dim must be an integer of at least 1, got 0"):
        models.additive_logistic(3, 4, dim=0)
    with pytest.raises(ConfigError, match="init_scale = 0.1 is of the sums"):
        models.additive_logistic(3, 4, dim=2, init_scale=0.1)
