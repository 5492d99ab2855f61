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
    with pytest.raises(
        ConfigError, match="the item tower has no input: give item_features or item_bags, or set"
    ):
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


GENRES = np.array([[0, 3], [2, -1], [-1, -1], [3, 3], [-1, 1], [0, -1]])
WORDS = np.array([[1, 0, 2], [0, -1, -1], [2, -1, 2], [-1, 1, -1], [-1, -1, -1], [2, 1, 0]])
PLACES = np.array([[1], [0], [-1]])


def averaged(params, bags, row, reduction):
    """What a tower reads of its bags, id by id."""
    read = []
    for name, bag in bags.items():
        table = np.asarray(params["bags"][name])
        total, length = np.zeros(table.shape[1]), 0
        for value in bag[row]:
            if value != -1:
                total, length = total + table[value], length + 1
        read.append(total / max(length, 1) if reduction == "mean" else total)
    return np.concatenate(read)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ids", [True, False])
def test_a_tower_reads_the_mean_of_a_bags_vectors(rng, ids, reduction):
    bags = {"genres": GENRES, "title words": WORDS}
    options = {"hidden": (7,), "ids": ids, "bag_reduction": reduction}
    model = models.two_tower(
        3,
        6,
        dim=4,
        item_features=WORDS[:, :1],
        user_bags={"places": PLACES},
        item_bags=bags,
        **options,
    )
    params, apply = drawn(model, rng), jax.jit(model.apply)
    assert jax.tree.map(jnp.shape, params["item"]["bags"]) == {"genres": (4, 4), "title words": (3, 4)}
    assert jax.tree.map(jnp.shape, params["user"]["bags"]) == {"places": (2, 4)}
    p = jax.tree.map(np.asarray, params)
    user = [averaged(p["user"], {"places": PLACES}, row, reduction) for row in range(3)]
    # Ids come first, then features, then bags in the order given.
    item = [np.concatenate([WORDS[row, :1], averaged(p["item"], bags, row, reduction)]) for row in range(6)]
    for user_shape, item_shape in SHAPES:
        users, items = rng.integers(0, 3, user_shape), rng.integers(0, 6, item_shape)
        logits = np.asarray(apply(params, jnp.asarray(users), jnp.asarray(items)))
        every_user, every_item = np.broadcast_arrays(users, items)
        for index in np.ndindex(every_user.shape):
            u, i = every_user[index], every_item[index]
            expected = tower(p["user"], user, u) @ tower(p["item"], item, i)
            # Sums of some 30 products of numbers up to 100.
            np.testing.assert_allclose(logits[index], expected, rtol=1e-5, atol=1e-4)


def test_an_empty_bag_is_the_zero_vector_and_one_id_twice_that_of_once():
    model = models.two_tower(3, 6, dim=4, item_bags={"genres": GENRES}, ids=False, user_features=np.eye(3))
    params = jax.jit(model.init)(jax.random.key(0))
    other = jax.tree.map(lambda x: x, params)
    other["item"]["bags"]["genres"] = params["item"]["bags"]["genres"] + 1.0
    vectors, moved = (np.asarray(model.item_tower(p, jnp.arange(6))) for p in (params, other))
    # Layers start without a bias.
    np.testing.assert_array_equal(vectors[2], 0.0)
    np.testing.assert_array_equal(moved[2], 0.0)
    assert (np.abs(moved - vectors).max(axis=1) > 0).tolist() == [True, True, False, True, True, True]
    single = models.two_tower(
        3, 6, dim=4, item_bags={"genres": GENRES[:, 1:]}, ids=False, user_features=np.eye(3)
    )
    np.testing.assert_array_equal(single.item_tower(params, jnp.arange(6))[3], vectors[3])


@pytest.mark.parametrize("n", [1, 8], ids=["asked", "all"])
def test_gradients_reach_the_values_of_the_asked_rows_alone(rng, n):
    model = models.two_tower(3, 6, dim=4, item_bags={"genres": GENRES, "words": WORDS})
    params = drawn(model, rng)

    def loss(params, item):
        users, items = jnp.zeros(n, jnp.int32), jnp.full(n, item)
        return jnp.mean(model.apply(params, users, items) ** 2)

    gradients = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, jnp.arange(6))["item"]["bags"]
    for name, bag in (("genres", GENRES), ("words", WORDS)):
        for item in range(6):
            reached = np.flatnonzero(np.abs(gradients[name][item]).max(axis=1) > 0)
            assert reached.tolist() == sorted({*bag[item]} - {-1}), (name, item)


def test_bags_alone_score_ids_out_of_range_nan():
    model = models.two_tower(
        3, 6, dim=4, ids=False, user_bags={"places": PLACES}, item_bags={"genres": GENRES}
    )
    params = jax.jit(model.init)(jax.random.key(0))
    users, items = jnp.asarray([0, 3, 0, -1]), jnp.asarray([5, 0, 6, 0])
    np.testing.assert_array_equal(jnp.isnan(model.apply(params, users, items)), [False, True, True, True])
    alone = [bool(jnp.isnan(model.apply(params, users[n : n + 1], items[n : n + 1]))[0]) for n in range(4)]
    assert alone == [False, True, True, True]
    gradient = jax.grad(lambda p: model.apply(p, users[1:3], items[1:3]).sum())(params)
    np.testing.assert_array_equal(gradient["item"]["bags"]["genres"][1:3], 0.0)


def test_a_model_without_bags_starts_as_one_with_bags_does():
    """The tables of bags are drawn last in a tower: an earlier result is that of the same seed."""
    plain = models.two_tower(3, 6, dim=4).init(jax.random.key(0))
    with_bags = models.two_tower(3, 6, dim=4, item_bags={"genres": GENRES}).init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, plain["user"], with_bags["user"])
    np.testing.assert_array_equal(plain["item"]["embedding"], with_bags["item"]["embedding"])


@pytest.mark.parametrize(
    ("bags", "message"),
    [
        ([GENRES], r"item_bags must be a dict of arrays by the bag's name, got list"),
        ({"": GENRES}, r"item_bags\[''\]: the name of a bag must be a string that is not empty"),
        ({"a/b": GENRES}, r"item_bags\['a/b'\]: the name of a bag must be a string .* has no '/'"),
        ({3: GENRES}, r"item_bags\[3\]: the name of a bag must be a string"),
        ({"it": GENRES[:5]}, r"item_bags\['it'\] must be of shape \(6, m\) with m >= 1, got \(5, 2\)"),
        ({"it": GENRES[:, 0]}, r"item_bags\['it'\] must be of shape \(6, m\)"),
        ({"it": GENRES[:, :0]}, r"item_bags\['it'\] must be of shape \(6, m\)"),
        (
            {"it": [[0], [0, 1], [], [], [], []]},
            r"item_bags\['it'\] has rows of several lengths; fill them up",
        ),
        ({"it": GENRES.astype(float)}, r"item_bags\['it'\] must be integers, got dtype float64; number"),
        ({"it": GENRES > 0}, r"item_bags\['it'\] must be integers, got dtype bool"),
        ({"it": GENRES - 1}, r"item_bags\['it'\]\[1, 1\] = -2 is no id; number the values from 0 and fill"),
        ({"it": np.where(GENRES < 1, 2**31, 0)}, r"item_bags\['it'\]\[0, 0\] = 2147483648 is no id"),
        ({"it": np.full((6, 2), -1)}, r"item_bags\['it'\] holds no id, only padding; leave the bag out"),
        ({"it": np.zeros((6, 2**20), np.int32)}, r"item_bags\['it'\] takes 24 MiB .* at most 16 MiB"),
    ],
)
def test_bags_that_do_not_fit_are_refused(bags, message):
    with pytest.raises(ConfigError, match=message):
        models.two_tower(3, 6, dim=4, item_bags=bags)


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="unknown bag_reduction 'max'"):
        models.two_tower(3, 6, dim=4, item_bags={"genres": GENRES}, bag_reduction="max")
