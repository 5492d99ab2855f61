"""The risks of CEB by enumeration: an expectation over a click is the exact sum over its two outcomes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, logit

from debias_jax import losses

RISKS = {"weighted": losses.ceb_weighted, "added_positives": losses.ceb_added_positives}
M, GAMMA, P = (
    axis.ravel() for axis in np.meshgrid([0.02, 0.3, 0.9, 1.0], [0.05, 0.5, 0.9], [0.01, 0.6, 0.95])
)


def expected(risk, logits, weight_logits):
    """E over Y ~ Bern(m gamma) of each entry's risk at the true exposure."""
    at_click, at_zero = (
        risk(logits, jnp.full(logits.shape, y), exposure=M, weight_logits=weight_logits, reduce_fn=None)
        for y in (1.0, 0.0)
    )
    return M * GAMMA * at_click + (1 - M * GAMMA) * at_zero


def ideal(p):
    return -GAMMA * np.log(p) - (1 - GAMMA) * np.log1p(-p)


def slope_at(risk, p, *, detach):
    def total(logits):
        return jnp.sum(expected(risk, logits, jax.lax.stop_gradient(logits) if detach else None))

    return np.asarray(jax.jit(jax.grad(total))(logit(p)))


@pytest.mark.parametrize("name", RISKS)
def test_unbiased_at_every_prediction_given_the_true_relevance(x64, name):
    value = expected(RISKS[name], jnp.asarray(logit(P)), jnp.asarray(logit(GAMMA)))
    np.testing.assert_allclose(value, ideal(P), rtol=1e-12)


def test_biased_with_its_own_prediction_by_how_far_the_posterior_is_off(x64):
    """Zeros have probability 1 - m gamma; their weights are off by the posterior at p less that at gamma."""
    zeros = 1 - M * GAMMA
    off = zeros * ((1 - P) / (1 - M * P) - (1 - GAMMA) / (1 - M * GAMMA))
    bias = {"weighted": -off * np.log1p(-P), "added_positives": off * (np.log(P) - np.log1p(-P))}
    assert (abs(off) > 0.003)[M < 1].all()
    assert (abs(bias["weighted"]) > 2e-5)[M < 1].all()
    for name, risk in RISKS.items():
        ours = expected(risk, jnp.asarray(logit(P)), None)
        np.testing.assert_allclose(ours - ideal(P), bias[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RISKS)
def test_gamma_is_stationary_only_with_constant_weights(x64, name):
    np.testing.assert_allclose(slope_at(RISKS[name], GAMMA, detach=True), 0, atol=1e-14)
    through = slope_at(RISKS[name], GAMMA, detach=False)
    # Both classes cost the same at 1/2, where moving weight between them changes nothing.
    moved = (M < 0.5) & ((GAMMA != 0.5) | (name == "weighted"))
    assert (abs(through[moved]) > 1e-3).all()
    np.testing.assert_allclose(through[M == 1.0], 0, atol=1e-14)


def test_the_weighted_risk_of_an_unexposed_zero_falls_to_nothing_through_its_weight():
    """(1 - p) / (1 - m p) softplus(s) is (1 - p) (-log(1 - p)) at m = 0: highest at 1 - p = 1/e, and 0 at p = 1."""
    p = np.array([1 - np.exp(-1), 0.9, 0.999], np.float32)
    values = losses.ceb_weighted(jnp.asarray(logit(p)), jnp.zeros(3), exposure=0.0, reduce_fn=None)
    np.testing.assert_allclose(values, -(1 - p) * np.log1p(-p), rtol=2e-4)
    assert values[0] == pytest.approx(np.exp(-1), rel=1e-5)
    assert values[2] < 0.01


def test_added_positives_with_constant_weights_have_the_gradient_of_umf(x64):
    """The M-step of an EM algorithm raises the likelihood along its gradient."""
    s = jnp.asarray(logit(P))
    for y in (0.0, 1.0):
        clicks = jnp.full(s.shape, y)

        def m_step(x, clicks=clicks):
            return losses.ceb_added_positives(
                x, clicks, exposure=M, weight_logits=jax.lax.stop_gradient(x), reduce_fn=jnp.sum
            )

        def likelihood(x, clicks=clicks):
            return losses.umf(x, clicks, exposure=M, reduce_fn=jnp.sum)

        np.testing.assert_allclose(jax.grad(m_step)(s), jax.grad(likelihood)(s), rtol=1e-9, atol=1e-12)


def test_the_released_added_positives_are_the_cross_entropy_of_the_click(x64):
    s, clicks = jnp.asarray(logit(P)), jnp.asarray(np.arange(P.size) % 2.0)
    ours = losses.ceb_added_positives(s, clicks, exposure=M, variant="released", reduce_fn=None)
    np.testing.assert_allclose(ours, np.where(clicks > 0, -np.log(P), -np.log1p(-P)), rtol=1e-12)


def test_weights_are_exact_at_the_ends():
    """1 / (1 + (1 - m) e^s) in float64, where 1 - m p is 0 to float32."""
    s, m = (
        axis.ravel().astype(np.float32) for axis in np.meshgrid([-80.0, -3.0, 0.0, 20.0, 80.0], [0, 0.5, 1])
    )
    weight = 1 / (1 + (1 - m.astype(float)) * np.exp(s.astype(float)))
    softplus = np.logaddexp(0, s.astype(float))
    ours = losses.ceb_weighted(s, np.zeros_like(s), exposure=m, reduce_fn=None)
    np.testing.assert_allclose(ours, weight * softplus, rtol=1e-5, atol=1e-30)
    ours = losses.ceb_added_positives(s, np.zeros_like(s), exposure=m, reduce_fn=None)
    unseen = (1 - m.astype(float)) * np.exp(s.astype(float)) * weight
    np.testing.assert_allclose(ours, weight * softplus + unseen * np.logaddexp(0, -s), rtol=1e-5, atol=1e-30)


def test_an_exposure_rounded_up_past_one_is_one(x64):
    """A product of sigmoids can come out as 1 + 1.2e-7 in float32: at e^16 times that, 1 + (1 - m) e^s is near 0."""
    m = jnp.asarray(np.float32(1 + 1.2e-7), jnp.float64)
    assert m > 1
    s = jnp.array([0.0, 15.9, 40.0])
    weighted, added = (risk(s, jnp.zeros(3), exposure=m, reduce_fn=None) for risk in RISKS.values())
    # Surely exposed, a zero is surely irrelevant: both risks are softplus(s).
    np.testing.assert_allclose(weighted, np.logaddexp(0, np.asarray(s)), rtol=1e-12)
    np.testing.assert_allclose(added, np.logaddexp(0, np.asarray(s)), rtol=1e-12)


def test_clicks_weigh_one_over_the_exposure():
    s = jnp.array([0.5, -2.0])
    ours = losses.ceb_weighted(s, jnp.ones(2), exposure=jnp.array([0.25, 0.5]), reduce_fn=None)
    np.testing.assert_allclose(ours, -np.log(expit(np.asarray(s))) / [0.25, 0.5], rtol=1e-6)


@pytest.mark.parametrize("risk", RISKS.values())
def test_misuse_is_refused(risk):
    s = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"logits \(3,\), weight_logits \(2,\)"):
        risk(s, s, exposure=1.0, weight_logits=jnp.zeros(2))
    with pytest.raises(TypeError, match="weight_logits must be of a floating dtype, got int32"):
        risk(s, s, exposure=1.0, weight_logits=jnp.zeros(3, jnp.int32))
    with pytest.raises(TypeError, match="clicks must be of a floating dtype, got int32"):
        risk(s, jnp.zeros(3, jnp.int32), exposure=1.0)


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="no_such.*released"):
        losses.ceb_added_positives(jnp.zeros(1), jnp.zeros(1), exposure=1.0, variant="no_such")
