"""The mixture of experts against a written-out network, one pair, one expert and one task at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models
from debias_jax.errors import ConfigError

SIZES = {"dim": 3, "tasks": ("ctr", "cvr"), "n_experts": 3, "expert_hidden": (5, 4), "tower_hidden": (6,)}
SHAPES = [((4,), (4,)), ((2, 1), (2, 3)), ((3, 1), (1, 6)), ((), ())]


def drawn(model, rng):
    """Every parameter from N(0, 1), biases too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def dense(layers, number, which, x):
    layer = layers[str(number)]
    return x @ layer["kernel"][which] + layer["bias"][which]


def reference(p, u, i):
    x = np.concatenate([p["user"][u], p["item"][i]])
    outputs = []
    for expert in range(p["gate"].shape[-1]):
        y = x
        for number in range(len(p["experts"])):
            y = np.maximum(dense(p["experts"], number, expert, y), 0)
        outputs.append(y)
    logits = []
    for task in range(len(p["gate"])):
        weights = np.exp(x @ p["gate"][task])
        y = sum(w * output for w, output in zip(weights / weights.sum(), outputs, strict=True))
        last = len(p["towers"]) - 1
        for number in range(last):
            y = np.maximum(dense(p["towers"], number, task, y), 0)
        logits.append(dense(p["towers"], last, task, y)[0])
    return logits


@pytest.mark.parametrize("sizes", [SIZES, SIZES | {"n_experts": 1, "tower_hidden": ()}])
def test_each_task_is_its_tower_on_its_mixture(rng, sizes):
    model = models.mmoe(3, 6, **sizes)
    params, apply = drawn(model, rng), jax.jit(model.apply)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for user_shape, item_shape in SHAPES:
        users, items = rng.integers(0, 3, user_shape), rng.integers(0, 6, item_shape)
        logits = apply(params, jnp.asarray(users), jnp.asarray(items))
        every_user, every_item = np.broadcast_arrays(users, items)
        expected = np.zeros((*every_user.shape, 2))
        for index in np.ndindex(every_user.shape):
            expected[index] = reference(p, every_user[index], every_item[index])
        assert logits.dtype == jnp.float32
        # Four layers of sums of products; numbers of some hundreds before they cancel.
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)


def test_start():
    params = jax.jit(models.mmoe(300, 200, dim=16).init)(jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == {
        "user": (300, 16),
        "item": (200, 16),
        "gate": (3, 32, 4),
        "experts": {
            "0": {"kernel": (4, 32, 64), "bias": (4, 64)},
            "1": {"kernel": (4, 64, 32), "bias": (4, 32)},
        },
        "towers": {
            "0": {"kernel": (3, 32, 32), "bias": (3, 32)},
            "1": {"kernel": (3, 32, 1), "bias": (3, 1)},
        },
    }
    for leaf, deviation in (
        (params["user"], 0.1),
        (params["gate"], 32**-0.5),
        (params["experts"]["0"]["kernel"], 32**-0.5),
        (params["experts"]["1"]["kernel"], 64**-0.5),
    ):
        assert abs(leaf.std() - deviation) < 5 * deviation / (2 * leaf.size) ** 0.5
    kernel = params["experts"]["0"]["kernel"]
    assert (kernel[0] != kernel[1]).all()


def test_a_task_reaches_its_own_gate_and_tower_and_every_expert(rng):
    model = models.mmoe(3, 6, **SIZES)
    params = drawn(model, rng)
    users, items = jnp.asarray(rng.integers(0, 3, 20)), jnp.asarray(rng.integers(0, 6, 20))
    grads = jax.jit(jax.grad(lambda params: model.apply(params, users, items)[..., 1].sum()))(params)
    own = [grads["gate"], *(layer["kernel"] for layer in grads["towers"].values())]
    for leaf in own:
        np.testing.assert_array_equal(leaf[0], 0.0)
        assert (leaf[1] != 0).any()
    for layer in grads["experts"].values():
        assert (layer["kernel"] != 0).any(axis=(1, 2)).all()


def test_id_out_of_range_scores_nan_in_every_task():
    model = models.mmoe(3, 6, dim=2)
    params = jax.jit(model.init)(jax.random.key(0))
    logits = jax.jit(model.apply)(params, jnp.asarray([0, 3, 0, -1]), jnp.asarray([5, 0, 6, 0]))
    np.testing.assert_array_equal(
        jnp.isnan(logits), np.array([[False], [True], [True], [True]]) | np.zeros(3, bool)
    )


def test_messages():
    for options, message in (
        ({"n_experts": 0}, "n_experts must be an integer of at least 1, got 0"),
        ({"expert_hidden": (8, -1)}, r"expert_hidden\[1\] must be an integer"),
        ({"expert_hidden": ()}, "expert_hidden is empty"),
        ({"tasks": ("cvr", "cvr")}, r"distinct names, at least one, got \('cvr', 'cvr'\)"),
        ({"tasks": "cvr"}, "distinct names"),
        ({"tasks": ()}, "distinct names"),
    ):
        with pytest.raises(ConfigError, match=message):
            models.mmoe(3, 6, dim=4, **options)
    model = models.mmoe(3, 6, dim=4)
    params = jax.jit(model.init)(jax.random.key(0))
    with pytest.raises(ValueError, match="do not broadcast against items"):
        model.apply(params, jnp.zeros(4, jnp.int32), jnp.zeros((4, 5), jnp.int32))
