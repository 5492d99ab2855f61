"""``saturating_cross_entropy`` is the arithmetic of a program that holds probabilities in float32.

Emulated in numpy, operation by operation: a sigmoid, a cross-entropy of the probability with its logarithms cut at
-100 and its gradient's divisor at 1e-12, and the sigmoid's gradient from its own result.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax.methods.doubly_robust import cross_entropy, saturating_cross_entropy

EDGES = (-200.0, -100.0, -60.0, -28.0, -27.0, -20.0, -17.0, -16.0, 0.0, 16.0, 17.0, 20.0, 28.0, 100.0, 200.0)
TARGETS = (0.0, 0.3, 1.0)
ULP_BELOW_ONE = 2.0**-24
"""Distance of float32 numbers between 1/2 and 1."""


def emulated(logits, targets):
    """Value and gradient in the logits, in float32."""
    one = np.float32(1)
    logits, targets = np.asarray(logits, np.float32), np.asarray(targets, np.float32)
    with np.errstate(over="ignore", divide="ignore"):
        p = one / (one + np.exp(-logits))
        log_1 = np.maximum(np.log(p), np.float32(-100))
        log_0 = np.maximum(np.log(one - p), np.float32(-100))
    values = -(targets * log_1 + (one - targets) * log_0)
    slope_of_p = (p - targets) / np.maximum((one - p) * p, np.float32(1e-12))
    return values, slope_of_p * ((one - p) * p)


@jax.jit
def ours(logits, targets):
    def total(logits):
        values = saturating_cross_entropy(logits, targets)
        return jnp.sum(values), values

    gradients, values = jax.grad(total, has_aux=True)(logits)
    return values, gradients


def grid(logits):
    logits, targets = np.meshgrid(np.asarray(logits, np.float32), np.asarray(TARGETS, np.float32))
    return logits.ravel(), targets.ravel()


def test_values_and_gradients_are_those_of_float32_probabilities():
    logits, targets = grid(EDGES)
    values, gradients = ours(logits, targets)
    assert values.dtype == gradients.dtype == jnp.float32
    expected_values, expected_gradients = emulated(logits, targets)
    # Near 17 a last-place difference of the two sigmoids is a share of 1 - p: p is one or two places below 1.
    rounded = np.where((logits >= 16) & (logits < 17), 0.7, 1e-6)
    assert (np.abs(values - expected_values) <= rounded + 1e-5 * expected_values).all()
    np.testing.assert_allclose(gradients, expected_gradients, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("logit", "share", "probability"),
    [(17.0, 0.0, 1.0), (200.0, 0.0, 1.0), (-28.0, np.exp(-28.0) / 1e-12, 0.0), (-20.0, 1.0, 0.0)],
)
def test_saturated_logits_stand_still(logit, share, probability, target):
    """At 17 the probability is 1 and nothing is left of the gradient; at -28 two thirds; at -20 all."""
    _, gradient = ours(jnp.full(1, logit), jnp.full(1, target))
    np.testing.assert_allclose(gradient, share * (probability - target), rtol=1e-5, atol=3e-9)


@pytest.mark.parametrize(("logit", "target"), [(17.0, 0.0), (200.0, 0.0), (-200.0, 1.0)])
def test_values_end_at_a_hundred(logit, target):
    values, _ = ours(jnp.full(1, logit), jnp.full(1, target))
    assert float(values[0]) == 100.0
    opposite, _ = ours(jnp.full(1, logit), jnp.full(1, 1.0 - target))
    assert float(opposite[0]) == 0.0


def test_equals_the_exact_cross_entropy_where_nothing_saturates():
    logits, targets = grid(np.linspace(-10, 10, 401))
    values, gradients = ours(logits, targets)
    exact = cross_entropy(logits, targets)
    exact_gradients = jax.grad(lambda logits: jnp.sum(cross_entropy(logits, targets)))(jnp.asarray(logits))
    # An error of a last place in p, or in 1 - p, is divided by p, or 1 - p.
    tail = 1 / (1 + np.exp(np.abs(logits.astype(np.float64))))
    assert (np.abs(values - exact) <= 2 * ULP_BELOW_ONE / tail + 1e-6).all()
    # The exact gradient is a sum of exponentials and quotients, each off by a last place or two.
    np.testing.assert_allclose(gradients, exact_gradients, rtol=0, atol=16 * ULP_BELOW_ONE)


def test_targets_have_no_gradient_and_batches_map():
    logits, targets = jnp.linspace(-3.0, 3.0, 6).reshape(2, 3), jnp.full((2, 3), 0.4)
    assert saturating_cross_entropy(logits, targets).shape == (2, 3)
    gradients = jax.grad(lambda targets: saturating_cross_entropy(logits, targets).sum())(targets)
    np.testing.assert_array_equal(gradients, 0.0)
    mapped = jax.vmap(jax.vmap(jax.grad(saturating_cross_entropy)))(logits, targets)
    np.testing.assert_allclose(mapped, jax.nn.sigmoid(logits) - targets, atol=1e-6)
