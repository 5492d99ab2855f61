import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax._reduce import fill_masked, safe_divide, safe_reduce

VALUES = jnp.array([1.0, 2.0, 4.0, jnp.nan])
WHERE = jnp.array([True, False, True, False])
NOTHING = jnp.zeros(4, bool)


def test_reductions_read_unmasked_entries_only():
    assert float(safe_reduce(VALUES, where=WHERE)) == 2.5
    assert float(safe_reduce(VALUES, where=WHERE, reduce_fn=jnp.sum)) == 5.0
    np.testing.assert_array_equal(safe_reduce(VALUES, where=WHERE, reduce_fn=None), [1.0, 0.0, 4.0, 0.0])
    assert float(safe_reduce(VALUES[:3])) == pytest.approx(7 / 3)


def test_weights_are_factors_not_shares():
    weights = jnp.array([2.0, jnp.nan, 3.0, 1.0])
    assert float(safe_reduce(VALUES, weights=weights, where=WHERE)) == 7.0
    assert float(safe_reduce(VALUES[:3], weights=2.0, reduce_fn=jnp.sum)) == 14.0


def test_nothing_left_is_zero_with_zero_gradients():
    for reduce_fn in (jnp.mean, jnp.sum):
        nothing = functools.partial(safe_reduce, where=NOTHING, reduce_fn=reduce_fn)
        value, gradient = jax.value_and_grad(nothing)(VALUES)
        assert float(value) == 0.0
        np.testing.assert_array_equal(gradient, np.zeros(4))
    assert float(safe_reduce(jnp.zeros((0, 3)))) == 0.0


def test_a_nan_that_counts_is_not_hidden():
    assert np.isnan(safe_reduce(VALUES))
    assert np.isnan(safe_reduce(VALUES, where=jnp.array([True, True, False, True])))


def test_fill_masked_keeps_padding_out_of_the_gradient():
    def total(v):
        return safe_reduce(jnp.log(fill_masked(v, WHERE, fill=1.0)), where=WHERE, reduce_fn=jnp.sum)

    np.testing.assert_array_equal(jax.grad(total)(jnp.array([1.0, 0.0, 4.0, jnp.nan])), [1.0, 0.0, 0.25, 0.0])


def test_fill_masked_masks_leading_axes():
    filled = fill_masked(jnp.ones((2, 3)), jnp.array([True, False]), fill=-1.0)
    np.testing.assert_array_equal(filled, [[1, 1, 1], [-1, -1, -1]])
    assert fill_masked(VALUES, None) is VALUES


def test_safe_divide_has_finite_gradients_at_zero():
    value, gradient = jax.value_and_grad(
        lambda a, b: jnp.sum(safe_divide(a, b, otherwise=7.0)), argnums=(0, 1)
    )(jnp.array([1.0, 1.0]), jnp.array([4.0, 0.0]))
    assert float(value) == 7.25
    np.testing.assert_array_equal(gradient[0], [0.25, 0.0])
    np.testing.assert_array_equal(gradient[1], [-1 / 16, 0.0])
