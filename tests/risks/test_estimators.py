import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import risks

E = np.array([1.0, 3.0, 8.0, 0.5], np.float32)
O = np.array([1.0, 1.0, 0.0, 1.0], np.float32)  # noqa: E741
P = np.array([0.5, 0.25, 0.1, 1.0], np.float32)


def test_hand_values():
    assert float(risks.naive(E, observed=O)) == pytest.approx(4.5 / 3)
    assert float(risks.ips(E, observed=O, propensity=P)) == pytest.approx((2 + 12 + 0.5) / 4)
    assert float(risks.snips(E, observed=O, propensity=P)) == pytest.approx((2 + 12 + 0.5) / (2 + 4 + 1))


def test_where_takes_pairs_out_of_the_count():
    where = np.array([True, True, True, False])
    assert float(risks.naive(E, observed=O, where=where)) == 2.0
    assert float(risks.ips(E, observed=O, propensity=P, where=where)) == pytest.approx(14 / 3)
    assert float(risks.snips(E, observed=O, propensity=P, where=where)) == pytest.approx(14 / 6)


def test_unobserved_pairs_are_not_read():
    errors = np.where(O > 0, E, np.nan)
    propensity = np.where(O > 0, P, 0.0).astype(np.float32)

    @jax.jit
    def total(e):
        return (
            risks.naive(e, observed=O)
            + risks.ips(e, observed=O, propensity=propensity)
            + risks.snips(e, observed=O, propensity=propensity)
        )

    value, gradient = jax.value_and_grad(total)(errors)
    assert float(value) == pytest.approx(4.5 / 3 + 14.5 / 4 + 14.5 / 7)
    inverse = np.array([2.0, 4.0, 0.0, 1.0])
    np.testing.assert_allclose(gradient, O / 3 + inverse / 4 + inverse / 7, rtol=1e-6)


def test_nothing_observed_is_zero():
    nothing = np.zeros(4, bool)
    assert float(risks.naive(E, observed=nothing)) == 0.0
    assert float(risks.ips(E, observed=nothing, propensity=P)) == 0.0
    assert float(risks.snips(E, observed=nothing, propensity=P)) == 0.0


def test_propensity_one_makes_all_three_the_mean():
    observed = np.ones(4, bool)
    for risk in (risks.ips, risks.snips):
        assert float(risk(E, observed=observed, propensity=1.0)) == pytest.approx(12.5 / 4)
    assert float(risks.naive(E, observed=observed)) == pytest.approx(12.5 / 4)


def test_snips_ignores_the_scale_of_the_propensities_and_ips_does_not():
    half = P / 2
    assert float(risks.snips(E, observed=O, propensity=half)) == pytest.approx(
        float(risks.snips(E, observed=O, propensity=P))
    )
    assert float(risks.ips(E, observed=O, propensity=half)) == pytest.approx(
        2 * float(risks.ips(E, observed=O, propensity=P))
    )


def _exact_moments(risk, p):
    """Mean and variance over all 2^n outcomes of the observation."""
    outcomes = jnp.array(list(itertools.product([0.0, 1.0], repeat=p.size)))
    values = np.asarray(jax.jit(jax.vmap(risk))(outcomes))
    chance = np.prod(np.where(np.asarray(outcomes) > 0, p, 1 - p), axis=1)
    mean = np.sum(chance * values)
    return mean, np.sum(chance * (values - mean) ** 2)


N = 10
TRUE_P = np.linspace(0.35, 0.95, N)
ERRORS = np.cos(np.arange(N)) + TRUE_P


def test_ips_is_unbiased_and_has_the_documented_variance(x64):
    mean, variance = _exact_moments(lambda o: risks.ips(ERRORS, observed=o, propensity=TRUE_P), TRUE_P)
    assert mean == pytest.approx(ERRORS.mean(), rel=1e-12)
    assert variance == pytest.approx(np.sum((1 - TRUE_P) * ERRORS**2 / TRUE_P) / N**2, rel=1e-12)


def test_ips_with_an_estimated_propensity_has_the_documented_bias_and_variance(x64):
    estimate = TRUE_P * np.linspace(0.5, 1.05, N)
    mean, variance = _exact_moments(lambda o: risks.ips(ERRORS, observed=o, propensity=estimate), TRUE_P)
    assert mean - ERRORS.mean() == pytest.approx(np.mean((TRUE_P / estimate - 1) * ERRORS), rel=1e-12)
    expected = np.sum(TRUE_P * (1 - TRUE_P) * ERRORS**2 / estimate**2) / N**2
    assert variance == pytest.approx(expected, rel=1e-12)


def _first_order(p, estimate, errors):
    """What snips estimates, its leading bias and its leading variance, as its docstring states them."""
    total = np.sum(p / estimate)
    mu = np.sum(p / estimate * errors) / total
    spread = p * (1 - p) / estimate**2
    return mu, np.sum(spread * (mu - errors)) / total**2, np.sum(spread * (errors - mu) ** 2) / total**2


def _relative_remainders(n, scale):
    """How far the exact bias and variance are from their leading terms, relative to those."""
    p, errors = np.linspace(0.9, 0.98, n), np.linspace(0.0, 1.0, n) ** 2
    if scale is None:
        estimate = np.ones(n)
        mean, variance = _exact_moments(lambda o: risks.naive(errors, observed=o), p)
    else:
        estimate = scale * p * np.linspace(0.8, 1.0, n)
        mean, variance = _exact_moments(lambda o: risks.snips(errors, observed=o, propensity=estimate), p)
    mu, bias, leading = _first_order(p, estimate, errors)
    return np.array([(mean - mu) / bias - 1, variance / leading - 1])


@pytest.mark.parametrize("scale", [None, 1.0, 0.5], ids=["naive", "snips", "snips_half"])
def test_ratios_have_the_documented_bias_and_variance(x64, scale):
    """The stated terms lead: what they leave out is small, and halves when the number of pairs doubles."""
    few, many = _relative_remainders(7, scale), _relative_remainders(14, scale)
    assert (np.abs(many) < 0.2).all()
    assert (np.abs(many) < 0.6 * np.abs(few)).all()


def test_on_observed_pairs_alone_ips_is_their_mean_weighted_error():
    ones = np.ones(3, np.float32)
    value = risks.ips(E[:3], observed=ones, propensity=P[:3])
    assert float(value) == pytest.approx((2 + 12 + 80) / 3)


@pytest.mark.parametrize("risk", [risks.ips, risks.snips])
def test_misuse_is_refused(risk):
    with pytest.raises(TypeError, match="errors must be of a floating dtype, got int32"):
        risk(np.arange(4, dtype=np.int32), observed=O, propensity=P)
    with pytest.raises(TypeError, match="observed must be boolean or of a floating dtype, got int32"):
        risk(E, observed=O.astype(np.int32), propensity=P)
    with pytest.raises(ValueError, match=r"shapes must be equal, got errors \(4,\), observed \(4, 1\)"):
        risk(E, observed=O[:, None], propensity=P)
    with pytest.raises(ValueError, match=r"propensity must be a scalar or of shape \(4,\), got \(3,\)"):
        risk(E, observed=O, propensity=P[:3])
