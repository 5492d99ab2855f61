"""The bridge from NNX modules to pure functions over plain dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from debias_jax.models import base


class Affine(nnx.Module):
    def __init__(self, number):
        self.scale = nnx.Param(jnp.asarray(1.0 + number / 10))
        self.shift = nnx.Param(jnp.asarray(float(number)))

    def __call__(self, x):
        return self.scale[...] * x + self.shift[...]


class Tower(nnx.Module):
    """A drawn layer, twelve layers in a list (more than ten: "10" sorts before "2"), and dropout."""

    def __init__(self, *, rngs):
        self.first = nnx.Linear(2, 2, rngs=rngs)
        self.layers = nnx.List([Affine(number) for number in range(12)])
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        return self.dropout(x, deterministic=rngs is None, rngs=rngs)


@pytest.fixture(scope="module")
def tower():
    return base.from_nnx(lambda rngs: Tower(rngs=rngs))


@pytest.fixture(scope="module")
def params(tower):
    return tower.init(jax.random.key(0))


def test_parameters_are_plain_float32_dicts(params):
    def walk(node):
        if type(node) is dict:
            assert all(type(name) is str for name in node)
            for child in node.values():
                walk(child)
        else:
            assert isinstance(node, jax.Array)
            assert (node.dtype, node.weak_type) == (jnp.float32, False)

    walk(params)
    assert sorted(params) == ["first", "layers"]
    assert sorted(params["layers"], key=int) == [str(n) for n in range(12)]


def test_parameters_are_float32_under_x64(tower, params, x64):
    again = tower.init(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, again, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {jnp.dtype(jnp.float32)}


def test_each_layer_gets_its_own_parameters(tower, params):
    x = np.ones((1, 2), np.float32)
    expected = x @ np.asarray(params["first"]["kernel"])
    for number in range(12):
        assert params["layers"][str(number)]["shift"] == number
        expected = (1 + number / 10) * expected + number
    np.testing.assert_allclose(tower.apply(params, jnp.asarray(x)), expected, rtol=1e-5)


def test_init_repeats_with_the_key_and_differs_without(tower, params):
    jax.tree.map(np.testing.assert_array_equal, tower.init(jax.random.key(0)), params)
    other = tower.init(jax.random.key(1))
    assert (other["first"]["kernel"] != params["first"]["kernel"]).all()


def test_key_decides_dropout(tower, params):
    x = jnp.ones((50, 2), jnp.float32)
    plain, dropped = tower.apply(params, x), tower.apply(params, x, key=jax.random.key(3))
    np.testing.assert_array_equal(plain, tower.apply(params, x))
    np.testing.assert_array_equal(dropped, tower.apply(params, x, key=jax.random.key(3)))
    assert (dropped != tower.apply(params, x, key=jax.random.key(4))).any()
    kept = np.asarray(dropped != 0)
    assert 0 < kept.sum() < kept.size
    # Inverted dropout: what is kept is doubled.
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept], rtol=1e-6)


def test_key_is_ignored_by_a_module_without_rngs():
    model = base.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    params = model.init(jax.random.key(0))
    x = jnp.ones((4, 3), jnp.float32)
    np.testing.assert_array_equal(model.apply(params, x, key=jax.random.key(1)), model.apply(params, x))


def test_jit_vmap_and_grad(tower, params):
    x = jnp.ones((3, 2), jnp.float32)

    def loss(params, key):
        return jnp.sum(tower.apply(params, x, key=key) ** 2)

    grads = jax.jit(jax.grad(loss))(params, jax.random.key(5))
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    assert float(abs(grads["layers"]["11"]["scale"])) > 0

    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(tower.init))(keys)
    values = jax.jit(jax.vmap(lambda params: tower.apply(params, x)))(many)
    one = jax.jit(tower.init)(keys[1])
    np.testing.assert_allclose(values[1], tower.apply(one, x), rtol=1e-5)


def test_second_call_does_not_recompile(tower, params):
    traces = []

    @jax.jit
    def step(params):
        traces.append(1)
        return jax.tree.map(lambda leaf: leaf - 0.1, params)

    for _ in range(3):
        params = step(params)
    assert len(traces) == 1


def test_named_methods():
    class Named(nnx.Module):
        def __init__(self, *, rngs):
            self.table = nnx.Param(jax.random.normal(rngs(), (4, 2)))
            self.dropout = nnx.Dropout(0.5)

        def rows(self, ids, rngs=None):
            return self.dropout(self.table[...][ids], deterministic=rngs is None, rngs=rngs)

        def total(self):
            return jnp.sum(self.table[...])

    init, (rows, total) = base.pure_methods(lambda rngs: Named(rngs=rngs), "rows", "total")
    params = init(jax.random.key(0))
    np.testing.assert_array_equal(rows(params, jnp.asarray([3, 1])), params["table"][jnp.asarray([3, 1])])
    dropped = rows(params, jnp.arange(4), key=jax.random.key(1))
    assert set(np.ravel(dropped / params["table"])) == {0.0, 2.0}
    # A method without rngs ignores the key.
    assert total(params, key=jax.random.key(1)) == total(params) == jnp.sum(params["table"])
    with pytest.raises(ValueError, match=r"do not fit Named: missing \['table'\], unknown \['tables'\]"):
        rows({"tables": params["table"]}, jnp.asarray([3]))


def test_state_that_is_not_a_parameter_is_refused():
    with pytest.raises(TypeError, match=r"BatchNorm keeps state that is not a parameter: mean, var"):
        base.from_nnx(lambda rngs: nnx.BatchNorm(2, rngs=rngs))
    with pytest.raises(TypeError, match="make dropout layers without rngs"):
        base.from_nnx(lambda rngs: nnx.Sequential(nnx.Dropout(0.5, rngs=rngs)))


def test_params_of_another_model_are_named():
    model = base.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
    with pytest.raises(ValueError, match=r"do not fit Linear: missing \['bias'\], unknown \['scale'\]"):
        model.apply({"kernel": jnp.ones((3, 2)), "scale": jnp.ones(2)}, jnp.ones((1, 3)))


def test_lookup_out_of_range_is_nan_and_has_no_gradient():
    table = jnp.asarray([[1.0, 2.0], [3.0, 4.0]], jnp.float32)
    ids = jnp.asarray([1, 2, -1, 0])
    rows, pull = jax.vjp(lambda table: base.lookup(table, ids), table)
    np.testing.assert_array_equal(rows, [[3.0, 4.0], [np.nan, np.nan], [np.nan, np.nan], [1.0, 2.0]])
    np.testing.assert_array_equal(pull(jnp.ones((4, 2), jnp.float32))[0], [[1.0, 1.0], [1.0, 1.0]])
    with pytest.raises(TypeError, match="ids must be of an integer dtype, got float32"):
        base.lookup(table, jnp.ones(2, jnp.float32))


@pytest.mark.parametrize(("users", "items"), [((), (3,)), ((4,), (4, 3)), ((4,), (3,)), ((4, 2), (4, 3))])
def test_pairs_that_do_not_broadcast_are_refused(users, items):
    with pytest.raises(ValueError, match=r"do not broadcast against items .* users\[:, None\]"):
        base.check_pairs(jnp.zeros(users), jnp.zeros(items))
