import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from reference import losses as reference

from debias_jax import losses

# Powers of two and sums of few, so that float32, float64 and the decimal reference read the same numbers.
LOGITS = np.array([-80.0, -17.5, -3.25, -0.5, 0.0, 0.75, 4.0, 17.5, 50.0, 80.0], np.float32)
EXPOSURES = np.array([2.0**-20, 2.0**-7, 0.25, 0.5, 0.75, 1 - 2.0**-10, 1 - 2.0**-24, 1.0], np.float32)
GRID = [(s, m) for s in LOGITS.tolist() for m in EXPOSURES.tolist()]
S, M = np.array(GRID, np.float32).T
# A handful of float32 operations.
RTOL = 2e-6


@jax.jit
def relmf_values(s, y, m):
    return losses.relmf(s, y, exposure=m, reduce_fn=None)


@jax.jit
def umf_values(s, y, m):
    return losses.umf(s, y, exposure=m, reduce_fn=None)


@jax.jit
def umf_gradients(s, y, m):
    return jax.grad(lambda a, b: jnp.sum(umf_values(a, y, b)), (0, 1))(s, m)


@pytest.mark.parametrize("click", [0.0, 1.0])
def test_umf_is_the_published_form_at_every_exposure(click):
    ours = umf_values(S, np.full_like(S, click), M)
    # Below 1.2e-38 float32 flushes to 0.
    np.testing.assert_allclose(ours, [reference.umf(s, click, m) for s, m in GRID], rtol=RTOL, atol=1.2e-38)


@pytest.mark.parametrize("click", [0.0, 1.0])
def test_umf_gradients_in_logit_and_exposure_are_exact_up_to_exposure_one(click):
    in_s, in_m = umf_gradients(S, np.full_like(S, click), M)
    expected = np.array([reference.umf_gradient(s, click, m) for s, m in GRID])
    # At a click ours is sigmoid(s) - 1, which rounds where p is within float32's epsilon of 1.
    np.testing.assert_allclose(in_s, expected[:, 0], rtol=RTOL, atol=1e-7 if click else 1.2e-38)
    np.testing.assert_allclose(in_m, expected[:, 1], rtol=RTOL)


def test_umf_mixed_second_derivative_is_finite_and_right():
    def slope(s, m):
        return jax.grad(lambda x: losses.umf(x, jnp.zeros_like(x), exposure=m))(s)

    mixed = jax.jit(jax.vmap(jax.grad(slope, 1)))(S, M)
    expected = np.array([reference.umf_mixed_derivative(s, m) for s, m in GRID])
    assert np.isfinite(mixed).all()
    # Where 1 / (1 + (1 - m) e^s) is below 1e-19 its square underflows; the true value is then as small.
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-19)


def test_umf_second_order_by_finite_differences(x64):
    s, m, y = jnp.array([-3.0, 0.5, 4.0, 2.0]), jnp.array([0.9, 0.999, 0.3, 0.6]), jnp.array([0.0, 0, 0, 1])
    mean = jax.jit(lambda a, b: losses.umf(a, y, exposure=b))
    check_grads(mean, (s, m), order=2, modes=["rev"], rtol=1e-4, atol=1e-4)


def test_umf_exposure_gradient_reaches_one_from_below():
    """p / (1 - m p) = e^s at m = 1; the naive form log(1 - m) is NaN or infinite there."""
    # The second exposure is what rounding makes of 1, and counts as 1.
    m = np.nextafter(np.float32([1.0, 1.0]), np.float32([1.0, 2.0]))
    gradient = umf_gradients(jnp.full(2, 2.0), jnp.zeros(2), m)[1]
    np.testing.assert_allclose(gradient, [np.exp(2.0)] * 2, rtol=RTOL)


def test_umf_without_exposure_is_nothing_to_learn_from():
    s = jnp.array([-80.0, 0.0, 3.0, 80.0])
    np.testing.assert_array_equal(umf_values(s, jnp.zeros(4), jnp.zeros(4)), np.zeros(4))
    np.testing.assert_array_equal(umf_gradients(s, jnp.zeros(4), jnp.zeros(4))[0], np.zeros(4))


def test_umf_of_an_impossible_click_is_infinite():
    np.testing.assert_array_equal(umf_values(jnp.zeros(2), jnp.ones(2), jnp.zeros(2)), [np.inf] * 2)


@pytest.mark.parametrize("click", [0.0, 1.0])
def test_relmf_is_the_published_form(click):
    ours = relmf_values(S, np.full_like(S, click), M)
    expected = np.array([reference.relmf(s, click, m) for s, m in GRID])
    # softplus(s) - s Y / m cancels to 0 where the loss is far below either term.
    scale = np.abs(S) * (1 + click / M)
    np.testing.assert_array_less(np.abs(ours - expected), RTOL * (np.abs(expected) + scale) + 1e-30)


def test_relmf_gradient_is_p_minus_click_over_exposure():
    s, y, m = jnp.array([0.3, -1.2]), jnp.array([1.0, 0.0]), jnp.array([0.4, 0.9])
    gradient = jax.jit(jax.grad(lambda x: losses.relmf(x, y, exposure=m, reduce_fn=jnp.sum)))(s)
    expected = [1 / (1 + np.exp(-0.3)) - 1 / 0.4, 1 / (1 + np.exp(1.2))]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_relmf_reads_exposure_at_clicks_only():
    def total(s, m):
        return losses.relmf(s, jnp.zeros(3), exposure=m, reduce_fn=jnp.sum)

    s = jnp.array([-2.0, 0.0, 80.0])
    value, (in_s, in_m) = jax.jit(jax.value_and_grad(total, (0, 1)))(s, jnp.zeros(3))
    assert float(value) == pytest.approx(np.log1p(np.exp(-2.0)) + np.log(2.0) + 80.0, rel=1e-6)
    np.testing.assert_allclose(in_s, 1 / (1 + np.exp([2.0, 0.0, -80.0])), rtol=1e-6)
    np.testing.assert_array_equal(in_m, np.zeros(3))


def test_relmf_of_an_impossible_click_is_not_finite():
    assert not np.isfinite(relmf_values(jnp.ones(2), jnp.ones(2), jnp.zeros(2))).any()


def test_relmf_probability_clip_is_the_loss_at_the_clipped_probability():
    s, y, m = jnp.array([-9.0, 0.5, 9.0]), jnp.ones(3), 0.2
    p = np.clip(1 / (1 + np.exp([9.0, -0.5, -9.0])), 0.01, 0.99)
    expected = -(5.0 * np.log(p) - 4.0 * np.log1p(-p))

    def total(x):
        return losses.relmf(x, y, exposure=m, probability_clip=0.01, reduce_fn=jnp.sum)

    value, gradient = jax.jit(jax.value_and_grad(total))(s)
    assert float(value) == pytest.approx(expected.sum(), rel=1e-5)
    np.testing.assert_allclose(gradient, [0.0, 1 / (1 + np.exp(-0.5)) - 5.0, 0.0], rtol=1e-6)
    unclipped = losses.relmf(s, y, exposure=m, probability_clip=0.0)
    assert float(unclipped) == float(losses.relmf(s, y, exposure=m))


def test_exposure_one_makes_both_the_binary_cross_entropy():
    s = jnp.array([-80.0, -1.5, 0.0, 2.0, 80.0])
    for click in (0.0, 1.0):
        y = jnp.full_like(s, click)
        expected = np.logaddexp(0.0, np.asarray(s) * (1 - 2 * click))
        for values in (relmf_values, umf_values):
            ours = values(s, y, 1.0)
            np.testing.assert_allclose(ours, expected, rtol=RTOL, atol=1e-6)


def _expected(loss, s, m, gamma, estimate=None, kappa=1.0):
    """Exact expectation over the two outcomes of a click, clicks weighted by kappa."""
    estimate = m if estimate is None else estimate
    ones = jnp.ones_like(s)
    at_click = loss(s, ones, exposure=estimate, reduce_fn=None)
    elsewhere = loss(s, 0 * ones, exposure=estimate, reduce_fn=None)
    return jnp.sum(kappa * m * gamma * at_click + (1 - m * gamma) * elsewhere)


def test_relmf_is_unbiased_for_the_loss_on_relevance_and_umf_is_not(x64):
    s, m, gamma = jnp.array([-1.0, 0.5, 3.0]), jnp.array([0.05, 0.4, 1.0]), jnp.array([0.3, 0.9, 0.1])
    p = 1 / (1 + np.exp(-np.asarray(s)))
    ideal = -float(np.sum(gamma * np.log(p) + (1 - gamma) * np.log(1 - p)))
    assert float(_expected(losses.relmf, s, m, gamma)) == pytest.approx(ideal, rel=1e-12)
    assert abs(float(_expected(losses.umf, s, m, gamma)) - ideal) > 0.1


@pytest.mark.parametrize("loss", [losses.relmf, losses.umf])
@pytest.mark.parametrize(("kappa", "estimate"), [(1.0, 0.4), (1.0, 0.5), (1.0, 0.3), (2.0, 0.4)])
def test_minimiser_of_the_expected_loss(x64, loss, kappa, estimate):
    """gamma with the true exposure, gamma m / m' with an estimate, moved by kappa when zeros are dropped."""
    m, gamma = 0.4, 0.3
    if kappa == 1.0:
        p = gamma * m / estimate
    else:
        p = kappa * gamma / (kappa * m * gamma + 1 - m * gamma)
    s = jnp.log(jnp.array([p / (1 - p)]))
    slope = jax.jit(jax.grad(lambda x: _expected(loss, x, m, gamma, estimate, kappa)))(s)
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)


def test_weights_on_sampled_zeros_undo_sub_sampling(x64):
    """1000 pairs, m gamma = 0.12: all 120 clicks and 88 of 880 zeros, each of weight 10."""
    s = jnp.log(jnp.array([0.3 / 0.7]))
    y = jnp.concatenate([jnp.ones(120), jnp.zeros(88)])
    weights = jnp.where(y > 0, 1.0, 10.0)

    def total(x):
        return losses.umf(jnp.repeat(x, 208), y, exposure=0.4, weights=weights, reduce_fn=jnp.sum)

    np.testing.assert_allclose(jax.jit(jax.grad(total))(s), 0.0, atol=1e-10)


def test_both_gradients_have_the_same_signal_to_noise_ratio(x64):
    m, gamma, s, y = 0.05, 0.3, jnp.full(2, np.log(0.4 / 0.6)), jnp.array([1.0, 0.0])
    ratios = []
    for loss in (losses.relmf, losses.umf):
        slope = jax.jit(jax.grad(lambda x, f=loss: f(x, y, exposure=m, reduce_fn=jnp.sum)))
        one, zero = slope(s).tolist()
        mean = m * gamma * one + (1 - m * gamma) * zero
        variance = m * gamma * one**2 + (1 - m * gamma) * zero**2 - mean**2
        ratios.append(mean**2 / variance)
    assert ratios[0] == pytest.approx(ratios[1], rel=1e-10)


def test_relmf_is_unbounded_below_at_a_click():
    far = relmf_values(jnp.array([10.0, 70.0]), jnp.ones(2), 0.1)
    assert float(far[1] - far[0]) == pytest.approx(60.0 * (1 - 1 / 0.1), rel=1e-4)


@pytest.mark.parametrize("loss", [losses.relmf, losses.umf])
def test_misuse_is_refused(loss):
    s = jnp.zeros(3)
    with pytest.raises(TypeError, match="clicks must be of a floating dtype, got int32"):
        loss(s, jnp.zeros(3, jnp.int32), exposure=1.0)
    with pytest.raises(ValueError, match=r"shapes must be equal, got logits \(3,\), clicks \(2,\)"):
        loss(s, jnp.zeros(2), exposure=1.0)
    with pytest.raises(ValueError, match=r"exposure must be a scalar or of shape \(3,\), got \(3, 1\)"):
        loss(s, s, exposure=jnp.ones((3, 1)))
    with pytest.raises(TypeError, match="where must be boolean, got float32"):
        loss(s, s, exposure=1.0, where=jnp.ones(3))
    with pytest.raises(ValueError, match=r"where must be of shape \(3,\), got \(2,\)"):
        loss(s, s, exposure=1.0, where=jnp.ones(2, bool))


@pytest.mark.parametrize("clip", [-0.1, 0.5, 0.7, float("nan")])
def test_a_clip_that_leaves_no_probabilities_is_refused(clip):
    x = jnp.array([0.5])
    with pytest.raises(ValueError, match=r"probability_clip must be in \[0, 0.5\), got"):
        losses.relmf(x, x, exposure=x, probability_clip=clip)
