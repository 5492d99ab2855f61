"""Two towers against a written-out network, one pair at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models
from debias_jax.errors import ConfigError

# Fewer ids than rows run the towers on the asked ids, more on the whole tables.
SHAPES = [((4,), (4,)), ((2,), (2,)), ((2, 1), (2, 3)), ((3, 1), (1, 6)), ((), ())]


def drawn(model, rng):
    """Every parameter from N(0, 1), biases too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)


def tower(params, features, row):
    parts = [params["embedding"][row]] if "embedding" in params else []
    x = np.concatenate([*parts, *([] if features is None else [features[row]])])
    layers = params["layers"]
    for number in range(len(layers)):
        x = x @ layers[str(number)]["kernel"] + layers[str(number)]["bias"]
        if number < len(layers) - 1:
            x = np.maximum(x, 0)
    return x


@pytest.mark.parametrize(
    "options",
    [
        {"users": True, "items": True},
        {"users": True, "items": False, "bias": True},
        {"users": False, "items": False, "hidden": (5, 4)},
        {"users": True, "items": True, "ids": False, "hidden": ()},
    ],
)
def test_logit_is_the_inner_product_of_both_towers(rng, options):
    user_features = rng.normal(size=(3, 2)) if options.pop("users") else None
    item_features = rng.normal(size=(6, 5)) if options.pop("items") else None
    options = {"hidden": (7,)} | options
    model = models.two_tower(3, 6, dim=4, user_features=user_features, item_features=item_features, **options)
    params, apply = drawn(model, rng), jax.jit(model.apply)
    p = jax.tree.map(np.asarray, params)
    for user_shape, item_shape in SHAPES:
        users, items = rng.integers(0, 3, user_shape), rng.integers(0, 6, item_shape)
        logits = apply(params, jnp.asarray(users), jnp.asarray(items))
        every_user, every_item = np.broadcast_arrays(users, items)
        expected = np.zeros(every_user.shape)
        for index in np.ndindex(expected.shape):
            u, i = every_user[index], every_item[index]
            expected[index] = tower(p["user"], user_features, u) @ tower(p["item"], item_features, i)
            if options.get("bias"):
                expected[index] += p["user_bias"][u] + p["item_bias"][i] + p["global_bias"]
        assert logits.dtype == jnp.float32
        # Sums of some 30 products of numbers up to 100.
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


def test_start():
    model = models.two_tower(2000, 30, dim=8, item_features=np.ones((30, 3)), hidden=(64,), init_scale=0.3)
    params = jax.jit(model.init)(jax.random.key(1))
    assert jax.tree.map(jnp.shape, params) == {
        "user": {
            "embedding": (2000, 8),
            "layers": {"0": {"kernel": (8, 64), "bias": (64,)}, "1": {"kernel": (64, 8), "bias": (8,)}},
        },
        "item": {
            "embedding": (30, 8),
            "layers": {"0": {"kernel": (11, 64), "bias": (64,)}, "1": {"kernel": (64, 8), "bias": (8,)}},
        },
    }
    embedding = params["user"]["embedding"]
    assert abs(embedding.std() - 0.3) < 5 * 0.3 / (2 * embedding.size) ** 0.5
    kernel = params["user"]["layers"]["0"]["kernel"]
    assert abs(kernel.std() - 8**-0.5) < 5 * 8**-0.5 / (2 * kernel.size) ** 0.5
    np.testing.assert_array_equal(params["item"]["layers"]["1"]["bias"], 0.0)


@pytest.mark.parametrize("ids", [True, False])
def test_id_out_of_range_scores_nan_and_leaves_the_others_alone(ids):
    features = {"user_features": np.eye(3), "item_features": np.eye(6)}
    model = models.two_tower(3, 6, dim=4, ids=ids, bias=True, **features)
    params = jax.jit(model.init)(jax.random.key(0))
    users, items = jnp.asarray([0, 3, 0, -1]), jnp.asarray([5, 0, 6, 0])
    apply = jax.jit(model.apply)
    np.testing.assert_array_equal(jnp.isnan(apply(params, users, items)), [False, True, True, True])
    # Fewer ids than rows: the other way through the tower.
    alone = [bool(jnp.isnan(apply(params, users[n : n + 1], items[n : n + 1]))[0]) for n in range(4)]
    assert alone == [False, True, True, True]


def test_both_ways_through_a_tower_have_one_gradient(rng):
    model = models.two_tower(3, 6, dim=4, user_features=rng.normal(size=(3, 2)))
    params = drawn(model, rng)
    pairs = jnp.asarray([[1, 0], [2, 4]])

    def loss(params, users, items):
        return jnp.mean(model.apply(params, users, items) ** 2)

    few = jax.jit(jax.grad(loss))(params, *pairs)
    many = jax.jit(jax.grad(loss))(params, *jnp.tile(pairs, (1, 5)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), few, many)
    assert (few["user"]["embedding"][2] == 0).all() and (few["user"]["embedding"][0] != 0).any()


def test_features_alone_score_ids_that_were_never_trained(rng):
    kinds = np.repeat(np.eye(2), 3, axis=0)
    model = models.two_tower(6, 6, dim=2, user_features=kinds, item_features=kinds, ids=False)
    logits = jax.jit(model.apply)(drawn(model, rng), jnp.arange(6)[:, None], jnp.arange(6)[None, :])
    for block in (logits[:3, :3], logits[:3, 3:], logits[3:, :3], logits[3:, 3:]):
        np.testing.assert_array_equal(block, jnp.full((3, 3), block[0, 0]))


def test_messages():
    with pytest.raises(ConfigError, match=r"hidden\[1\] must be an integer of at least 1, got 0"):
        models.two_tower(3, 6, dim=4, hidden=(8, 0))
    with pytest.raises(ConfigError, match="the item tower has no input: give item_features, or set ids=True"):
        models.two_tower(3, 6, dim=4, user_features=np.eye(3), ids=False)
    with pytest.raises(
        ConfigError, match=r"user_features must be of shape \(3, d\) with d >= 1, got \(6, 6\)"
    ):
        models.two_tower(3, 6, dim=4, user_features=np.eye(6))
    with pytest.raises(ConfigError, match="item_features must be finite"):
        models.two_tower(3, 6, dim=4, item_features=np.full((6, 1), np.nan))
    with pytest.raises(ConfigError, match="user_features take 17 MiB .* at most 16 MiB"):
        models.two_tower(17, 6, dim=4, user_features=np.zeros((17, 2**18), np.float32))
    model = models.two_tower(3, 6, dim=4)
    params = jax.jit(model.init)(jax.random.key(0))
    with pytest.raises(ValueError, match=r"users \(4,\) do not broadcast against items \(4, 5\)"):
        model.apply(params, jnp.zeros(4, jnp.int32), jnp.zeros((4, 5), jnp.int32))
    with pytest.raises(TypeError, match="ids must be of an integer dtype"):
        model.apply(params, jnp.zeros(4), jnp.zeros(4, jnp.int32))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda bias: models.mf(3, 6, dim=4, bias=bias),
        lambda bias: models.two_tower(3, 6, dim=4, hidden=(7,), bias=bias),
        lambda bias: models.two_tower(3, 6, dim=4, hidden=(7,), bias=bias, normalize=True, temperature=0.1),
    ],
    ids=["mf", "two_tower", "cosine"],
)
def test_the_towers_give_vectors_whose_inner_products_are_the_logits(rng, build, bias):
    model = build(bias)
    params = drawn(model, rng)
    users, items = jnp.arange(3), jnp.arange(6)
    vectors = model.user_tower(params, users), model.item_tower(params, items)
    assert vectors[0].shape[1] == vectors[1].shape[1] == 4 + 2 * bias
    logits = model.apply(params, users[:, None], items[None, :])
    np.testing.assert_allclose(vectors[0] @ vectors[1].T, logits, rtol=1e-4, atol=1e-3)
    np.testing.assert_array_equal(model.output_table(params), vectors[1])


def test_normalised_towers_give_cosines_over_the_temperature(rng):
    plain = models.two_tower(3, 6, dim=4, hidden=(7,))
    cosine = models.two_tower(3, 6, dim=4, hidden=(7,), normalize=True, temperature=0.2)
    params = drawn(plain, rng)
    users, items = jnp.arange(3)[:, None], jnp.arange(6)[None, :]
    vectors = (
        np.asarray(plain.user_tower(params, users[:, 0])),
        np.asarray(plain.item_tower(params, items[0])),
    )
    lengths = np.linalg.norm(vectors[0], axis=1)[:, None] * np.linalg.norm(vectors[1], axis=1)[None]
    expected = vectors[0] @ vectors[1].T / lengths / 0.2
    np.testing.assert_allclose(cosine.apply(params, users, items), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="temperature must be positive, got 0"):
        models.two_tower(3, 6, dim=4, temperature=0)
