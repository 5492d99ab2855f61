"""What holds for every sequence model, and the layers that they share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import sequence as reference

from debias_jax import models
from debias_jax.errors import ConfigError
from debias_jax.models import _sequence

N_USERS, N_ITEMS, DIM, MAX_LEN = 4, 9, 8, 6

BUILD = {
    "sasrec": functools.partial(models.sasrec, N_ITEMS, dim=DIM, max_len=MAX_LEN, n_heads=2),
    "sasrec_pre": functools.partial(models.sasrec, N_ITEMS, dim=DIM, max_len=MAX_LEN, norm="pre"),
    "sasrec_usual": functools.partial(
        models.sasrec,
        N_ITEMS,
        dim=DIM,
        max_len=MAX_LEN,
        n_heads=2,
        norm="pre",
        pad_keys="masked",
        tied=False,
    ),
    "gru4rec": functools.partial(models.gru4rec, N_ITEMS, dim=DIM, max_len=MAX_LEN, hidden=5, n_layers=2),
    "caser": functools.partial(
        models.caser, N_USERS, N_ITEMS, dim=DIM, max_len=MAX_LEN, n_vertical=2, n_horizontal=3
    ),
    "bert4rec": functools.partial(models.bert4rec, N_ITEMS, dim=DIM, max_len=MAX_LEN, n_heads=2, hidden=10),
    "fmlp_rec": functools.partial(models.fmlp_rec, N_ITEMS, dim=DIM, max_len=MAX_LEN, n_blocks=2, hidden=10),
}
# The histories have one to three items, so that they fit into three slots; BERT4Rec appends a token to them.
ITEMS = [[4], [0, 8], [3, 3, 5]]
USERS = np.array([3, 0, 1], np.int32)


@pytest.fixture(scope="module", params=BUILD)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return BUILD[name]()


@pytest.fixture(scope="module")
def params(model):
    return drawn(model, np.random.default_rng(1))


def drawn(model, rng):
    """Every parameter from N(0, 0.5^2): pads, biases and gains too."""
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.5, leaf.shape), jnp.float32), shapes)


def padded(items, n_slots):
    rows = [[N_ITEMS] * (n_slots - len(row)) + list(row) for row in items]
    return np.array(rows, np.int32)


def expected(name, params, items, user):
    """The last vector after some items (at the token, for BERT4Rec) by the reference."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    options = {
        "sasrec": {"n_heads": 2},
        "sasrec_pre": {"n_heads": 1, "norm": "pre"},
        "sasrec_usual": {"n_heads": 2, "norm": "pre", "pad_keys": "masked"},
        "bert4rec": {"n_heads": 2},
    }.get(name, {})
    if name == "bert4rec":
        return reference.bert4rec(p, [*items[-MAX_LEN + 1 :], N_ITEMS + 1], **options)[-1]
    if name == "caser":
        return reference.caser(p, items, user, max_len=MAX_LEN)
    return getattr(reference, name.split("_")[0] if name != "fmlp_rec" else name)(p, items, **options)[-1]


def table_of(name, params):
    if name == "caser":
        return np.concatenate([params["output"], params["output_bias"][:, None]], axis=1)[:N_ITEMS]
    return np.asarray(params["output"] if name == "sasrec_usual" else params["item"][:N_ITEMS])


def test_the_reference_is_met(name, model, params):
    items = [[7, 1, 1, 0, 2, 8], *ITEMS[1:]]
    scores = jax.jit(model.apply)(params, jnp.asarray(padded(items, MAX_LEN)), jnp.asarray(USERS))
    vectors = [expected(name, params, row, user) for row, user in zip(items, USERS, strict=True)]
    # Sums of some hundred float32 products of numbers of size 1.
    np.testing.assert_allclose(scores, np.array(vectors) @ table_of(name, params).T, rtol=2e-5, atol=5e-5)


def test_neither_vectors_nor_scores_nor_gradients_depend_on_the_number_of_slots(model, params):
    rng = np.random.default_rng(2)
    weights = jnp.asarray(rng.normal(size=(3, N_ITEMS)), jnp.float32)
    users = jnp.asarray(USERS)

    @jax.jit
    def outcome(params, history):
        def value(params):
            scores = model.apply(params, history, users)
            return jnp.sum(weights * scores), scores

        return *jax.grad(value, has_aux=True)(params), model.encode(params, history, users)

    *longest, longest_vectors = outcome(params, jnp.asarray(padded(ITEMS, MAX_LEN)))
    for n_slots in (3, 5):
        *shorter, vectors = outcome(params, jnp.asarray(padded(ITEMS, n_slots)))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5), shorter, longest)
        for row, items in enumerate(ITEMS):
            n = min(len(items), vectors.shape[1])
            np.testing.assert_allclose(vectors[row, -n:], longest_vectors[row, -n:], rtol=1e-4, atol=2e-5)


def test_scores_are_products_of_encodings_and_output_vectors(name, model, params):
    history, users = jnp.asarray(padded(ITEMS, 4)), jnp.asarray(USERS)
    table = model.output_table(params)
    np.testing.assert_array_equal(table, table_of(name, params))
    np.testing.assert_array_equal(
        model.item_tower(params, jnp.asarray([[2, 0]])), table[jnp.asarray([[2, 0]])]
    )
    outside = model.item_tower(params, jnp.asarray([-1, N_ITEMS, N_ITEMS + 1, 3]))
    np.testing.assert_array_equal(jnp.isnan(outside).all(axis=1), [True, True, True, False])
    if model.mask_id is not None:
        asked = np.concatenate([history, np.full((3, 1), model.mask_id)], axis=1)
    else:
        asked = history
    vectors = jax.jit(model.encode)(params, jnp.asarray(asked, jnp.int32), users)
    scores = jax.jit(model.apply)(params, history, users)
    np.testing.assert_allclose(scores, vectors[:, -1] @ table.T, rtol=1e-5, atol=1e-5)


def test_a_history_of_pads_alone_has_finite_scores_and_gradients(model, params):
    def total(params, n_slots):
        history = jnp.full((2, n_slots), N_ITEMS)
        return jnp.sum(model.apply(params, history, jnp.asarray(USERS[:2])))

    both = jax.jit(jax.value_and_grad(total), static_argnums=1)
    values = [both(params, n_slots) for n_slots in (1, MAX_LEN)]
    for leaf in jax.tree.leaves(values):
        assert np.isfinite(leaf).all()
    np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-4)


def test_an_id_out_of_range_makes_its_row_nan_and_no_other(name, model, params):
    history = padded([[1, 2], [N_ITEMS + 2, 2], [-1, 2], [3, N_ITEMS + 1]], 4)
    scores = jax.jit(model.apply)(params, jnp.asarray(history), jnp.zeros(4, jnp.int32))
    # The mask token is an id like others where there is one.
    outside = [False, True, True, name != "bert4rec"]
    np.testing.assert_array_equal(jnp.isnan(scores).all(axis=1), outside)
    np.testing.assert_array_equal(jnp.isnan(scores).any(axis=1), outside)


def test_the_pads_row_gets_no_gradient(model, params):
    def total(params):
        scores = model.encode(params, jnp.asarray(padded(ITEMS, 5)), jnp.asarray(USERS))
        return jnp.sum(scores**2) + jnp.sum(model.output_table(params) ** 2)

    gradient = jax.jit(jax.grad(total))(params)["item"]
    np.testing.assert_array_equal(gradient[N_ITEMS], 0.0)
    assert (np.asarray(gradient[jnp.asarray([4, 0, 8, 3, 5])]) != 0).any(axis=1).all()


def test_a_key_decides_dropout(name, model, params):
    with_rate = BUILD[name](dropout=0.4)
    history, users = jnp.asarray(padded(ITEMS, 3)), jnp.asarray(USERS)
    apply = jax.jit(with_rate.apply)
    dropped = apply(params, history, users, key=jax.random.key(3))
    np.testing.assert_array_equal(dropped, apply(params, history, users, key=jax.random.key(3)))
    assert (dropped != apply(params, history, users, key=jax.random.key(4))).any()
    # Without a key the rate does not matter, nor the key without a rate.
    plain = apply(params, history, users)
    assert (dropped != plain).any()
    np.testing.assert_array_equal(plain, jax.jit(model.apply)(params, history, users, key=jax.random.key(3)))
    keys = jax.random.split(jax.random.key(0), 2)
    mapped = jax.jit(jax.vmap(lambda key: with_rate.apply(params, history, users, key=key)))(keys)
    np.testing.assert_allclose(mapped[1], apply(params, history, users, key=keys[1]), rtol=1e-5, atol=1e-5)


def test_start_is_plain_float32_and_a_function_of_the_key(model):
    init = jax.jit(model.init)
    first = init(jax.random.key(0))
    assert {(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(first)} == {
        (jnp.dtype("float32"), False)
    }
    jax.tree.map(np.testing.assert_array_equal, first, init(jax.random.key(0)))
    assert (init(jax.random.key(1))["item"] != first["item"]).any()


def test_fields(name, model):
    assert model.max_len == MAX_LEN
    assert model.mask_id == (N_ITEMS + 1 if name == "bert4rec" else None)
    assert model.uses_users == (name == "caser")
    assert model.user_tower is None


def test_misuse_of_a_model_is_refused(model, params):
    users = jnp.zeros(2, jnp.int32)
    for call in (model.apply, model.encode):
        with pytest.raises(
            ValueError, match=r"history has 7 slots .* max_len = 6: .* history\[:, -max_len:\]"
        ):
            call(params, jnp.zeros((2, 7), jnp.int32), users)
        with pytest.raises(ValueError, match="history has 0 slots"):
            call(params, jnp.zeros((2, 0), jnp.int32), users)
        with pytest.raises(ValueError, match=r"history must be of shape \(B, l\), got \(3,\)"):
            call(params, jnp.zeros(3, jnp.int32), users)
        with pytest.raises(TypeError, match="history must be of an integer dtype, got float32"):
            call(params, jnp.zeros((2, 3)), users)


def test_misuse_of_a_factory_is_refused(name):
    with pytest.raises(ConfigError, match=r"dropout must be a number in \[0, 1\), got 1.0"):
        BUILD[name](dropout=1.0)
    for size in ("dim", "max_len"):
        with pytest.raises(ConfigError, match=f"{size} must be an integer of at least 1, got 0"):
            BUILD[name](**{size: 0})
    if name in ("sasrec", "bert4rec"):
        with pytest.raises(ConfigError, match="dim = 8 is not a multiple of n_heads = 3"):
            BUILD[name](n_heads=3)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda **sizes: models.gru4rec(12_101, max_len=50, **sizes), 803_264),
        (lambda **sizes: models.caser(22_363, 12_101, **sizes), 3_803_950),
        (lambda **sizes: models.sasrec(12_101, max_len=50, **sizes), 828_288),
        (lambda **sizes: models.bert4rec(12_101, max_len=50, **sizes), 877_888),
        (lambda **sizes: models.fmlp_rec(12_101, max_len=50, **sizes), 924_544),
    ],
    ids=["gru4rec", "caser", "sasrec", "bert4rec", "fmlp_rec"],
)
def test_as_many_parameters_as_published_on_beauty(build, count):
    shapes = jax.eval_shape(build(dim=64).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == count


class TestDropout:
    @pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
    def test_share_and_scale(self, rate):
        kept = np.asarray(_sequence.dropout(jnp.ones((111, 1001)), rate, nnx.Rngs(0)))
        share = 1 - rate
        np.testing.assert_allclose(kept[kept != 0], 1 / share, rtol=1e-6)
        deviation = (share * (1 - share) / kept.size) ** 0.5
        assert abs((kept != 0).mean() - share) < 5 * deviation
        # Neighbours, and masks of two keys, are independent.
        other = np.asarray(_sequence.dropout(jnp.ones((111, 1001)), rate, nnx.Rngs(1)))
        for left, right in ((kept[:, :1000:2], kept[:, 1:1000:2]), (kept, other)):
            both = (left != 0) & (right != 0)
            assert abs(both.mean() - share**2) < 5 * (share**2 * (1 - share**2) / both.size) ** 0.5

    def test_masks_of_many_keys_differ_in_every_place(self):
        kept = jax.vmap(lambda key: _sequence.dropout(jnp.ones(50), 0.5, nnx.Rngs(key)))(
            jax.random.split(jax.random.key(0), 4000)
        )
        share = np.asarray(kept != 0).mean(axis=0)
        np.testing.assert_allclose(share, 0.5, atol=5 * (0.25 / 4000) ** 0.5)
        correlation = np.corrcoef(np.asarray(kept != 0).T) - np.eye(50)
        assert np.abs(correlation).max() < 5 / 4000**0.5

    def test_a_rate_of_nothing_keeps_everything(self):
        x = jnp.arange(5.0)
        np.testing.assert_array_equal(_sequence.dropout(x, 0.0, nnx.Rngs(0)), x)

    def test_without_a_generator_everything_is_kept(self):
        np.testing.assert_array_equal(_sequence.dropout(jnp.ones(9), 0.9, None), 1.0)


def test_layer_norm_has_its_epsilon_inside_the_root():
    layer = _sequence.LayerNorm(2, 9.0)
    # Mean 5, variance 16: (x - 5) / sqrt(16 + 9).
    np.testing.assert_allclose(layer(jnp.asarray([[1.0, 9.0]])), [[-4 / 5, 4 / 5]], rtol=1e-6)


def test_embedding_of_pads_is_the_given_row_without_gradient():
    def total(table):
        rows = _sequence.embed(table, jnp.asarray([[2, 0, 3]]), pad=2, pad_row=table[2])
        return jnp.nansum(rows), rows

    gradient, rows = jax.grad(total, has_aux=True)(jnp.asarray([[1.0], [2.0], [4.0]]))
    np.testing.assert_array_equal(rows, [[[4.0], [1.0], [np.nan]]])
    np.testing.assert_array_equal(gradient, [[1.0], [0.0], [0.0]])
