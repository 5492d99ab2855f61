"""Doubly robust estimators: hand values, the slow reference, identities, and what their docstrings claim."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import dr as reference

from debias_jax import risks

E = np.array([1.0, 3.0, 8.0], np.float32)
H = np.array([0.5, 2.0, 4.0], np.float32)
O = np.array([1.0, 1.0, 0.0], np.float32)  # noqa: E741
P = np.array([0.5, 0.25, 0.1], np.float32)

ESTIMATORS = {
    "eib": risks.eib,
    "dr": risks.dr,
    "dr_released": lambda *a, **k: risks.dr(*a, **k, variant="released"),
    "sndr": risks.sndr,
    "badr": risks.badr,
    "badr_released": lambda *a, **k: risks.badr(*a, **k, variant="released"),
    "d_dr": lambda *a, **k: risks.d_dr(*a, **k, variance_weight=0.2),
    "tdr": risks.tdr,
    "stable_dr": risks.stable_dr,
}
REFERENCES = {
    "eib": reference.eib,
    "dr": reference.dr,
    "dr_released": lambda *a: reference.dr(*a, released=True),
    "sndr": reference.sndr,
    "badr": reference.badr,
    "badr_released": lambda *a: reference.badr(*a, released=True),
    "d_dr": lambda e, h, o, p, s, all_: reference.dr(
        e, h, o, [reference.dynamic_propensity(x, 0.2) for x in p], s, all_
    ),
}
each = pytest.mark.parametrize("name", ESTIMATORS)


def draw(rng, shape=(9,)):
    """Errors, imputed errors, observation, propensities and weights of a batch; float64 in, float32 to the risks."""
    observed = (rng.uniform(size=shape) < 0.6).astype(float)
    observed[0] = 1.0
    uniform = rng.uniform
    return (
        uniform(0, 3, shape),
        uniform(0, 3, shape),
        observed,
        uniform(0.1, 0.9, shape),
        uniform(0.5, 2, shape),
    )


def f32(*arrays):
    return [np.asarray(x, np.float32) for x in arrays]


def test_hand_values():
    options = {"observed": O, "propensity": P}
    values = {name: float(estimator(E, H, **options)) for name, estimator in ESTIMATORS.items()}
    assert values == pytest.approx(
        {
            "eib": (1 + 3 + 4) / 3,
            "dr": (6.5 + 0.5 / 0.5 + 1 / 0.25) / 3,
            "dr_released": (6.5 + (1 / 0.5 - 0.5) + (3 / 0.25 - 2)) / 3,
            "sndr": 6.5 / 3 + (1 + 4) / 6,
            "badr": (6.5 + 1 + 4) / 6,
            "badr_released": (6.5 + 1.5 + 10) / 6,
            "d_dr": (6.5 + 0.5 / 0.6 + 1 / 0.4) / 3,
            "tdr": (0.85 + 3.05 + 7.15 + 0.15 / 0.5 - 0.05 / 0.25) / 3,
            "stable_dr": (2 + 12) / 6,
        },
        rel=1e-6,
    )


def test_hand_values_of_two_samples():
    # Two observed rows of weight 2 and 1 beside a sample of four pairs: m = 4, sum of imputed errors 6.
    population = np.array([[1.0, 2.0], [0.5, 2.5]], np.float32)
    options = {
        "observed": np.ones(2, np.float32),
        "propensity": P[:2],
        "weights": np.array([2.0, 1.0], np.float32),
    }
    values = {
        name: float(estimator(E[:2], H[:2], population=population, **options))
        for name, estimator in ESTIMATORS.items()
        if name != "tdr"
    }
    assert values == pytest.approx(
        {
            "eib": (6 + 2 * 0.5 + 1) / 4,
            "dr": (6 + 2 * 0.5 / 0.5 + 1 / 0.25) / 4,
            "dr_released": (6 + 2 * (1 / 0.5 - 0.5) + (3 / 0.25 - 2)) / 4,
            "sndr": 6 / 4 + (2 + 4) / 8,
            "badr": (6 + 2 + 4) / 8,
            "badr_released": (6 + 3 + 10) / 8,
            "d_dr": (6 + 2 * 0.5 / 0.6 + 1 / 0.4) / 4,
            "stable_dr": (2 * 2 + 12) / 8,
        },
        rel=1e-6,
    )
    # epsilon = (2 * 1 * 0.5 + 3 * 1) / (2 * 1 + 9) = 4/11; the four pairs have 1/p - 1 = 0, 1, 3, 1.
    epsilon = 4 / 11
    targeted = risks.tdr(
        E[:2],
        H[:2],
        population=population,
        population_propensity=np.array([[1.0, 0.5], [0.25, 0.5]], np.float32),
        **options,
    )
    corrections = 2 * (0.5 - epsilon) / 0.5 + (1 - 3 * epsilon) / 0.25
    assert float(targeted) == pytest.approx((6 + 5 * epsilon + corrections) / 4, rel=1e-6)


@pytest.mark.parametrize("name", REFERENCES)
def test_agrees_with_the_papers_pair_by_pair(rng, name):
    e, h, o, p, s = draw(rng)
    population = rng.uniform(0, 3, 12)
    arrays = f32(e, h)
    options = dict(zip(("observed", "propensity", "weights"), f32(o, p, s), strict=True))
    for everyone, population_or_none in ((h, None), (population, np.float32(population))):
        ours = ESTIMATORS[name](*arrays, population=population_or_none, **options)
        assert float(ours) == pytest.approx(REFERENCES[name](e, h, o, p, s, everyone), rel=2e-5)


def test_tdr_agrees_with_a_least_squares_fit(rng):
    e, h, o, p, s = draw(rng)
    population, chances = rng.uniform(0, 3, 12), rng.uniform(0.1, 0.9, 12)
    arrays = f32(e, h)
    options = dict(zip(("observed", "propensity", "weights"), f32(o, p, s), strict=True))
    assert float(risks.tdr(*arrays, **options)) == pytest.approx(reference.tdr(e, h, o, p, s, h, p), rel=2e-5)
    two = risks.tdr(
        *arrays,
        population=np.float32(population),
        population_propensity=np.float32(chances),
        **options,
    )
    assert float(two) == pytest.approx(reference.tdr(e, h, o, p, s, population, chances), rel=2e-5)


@each
def test_one_batch_is_the_case_where_the_batch_is_the_sample_of_all_pairs(rng, name):
    e, h, o, p, s = f32(*draw(rng))
    options = {"observed": o, "propensity": p, "weights": s}
    more = {"population_propensity": p} if name == "tdr" else {}
    together = ESTIMATORS[name](e, h, population=h, **options, **more)
    np.testing.assert_allclose(ESTIMATORS[name](e, h, **options), together, rtol=1e-6)


@each
def test_hidden_values_of_unobserved_pairs_are_not_read(rng, name):
    e, h, o, p, s = f32(*draw(rng))
    hidden = o == 0
    estimator = jax.value_and_grad(ESTIMATORS[name], argnums=(0, 1))
    shown = estimator(e, h, observed=o, propensity=p, weights=s)
    e, s = (np.where(hidden, np.nan, x) for x in (e, s))
    if name != "tdr":
        p = np.where(hidden, np.nan, p)
    value, gradients = estimator(e, h, observed=o, propensity=p, weights=s)
    np.testing.assert_array_equal(value, shown[0])
    np.testing.assert_array_equal(gradients, shown[1])


@each
def test_with_a_separate_sample_imputed_errors_are_read_only_where_observed(rng, name):
    e, h, o, p, s = f32(*draw(rng))
    population = np.float32(rng.uniform(0, 3, 5))
    options = {"observed": o, "propensity": p, "weights": s, "population": population}
    if name == "tdr":
        options["population_propensity"] = 0.5
    value = ESTIMATORS[name](e, h, **options)
    np.testing.assert_array_equal(ESTIMATORS[name](e, np.where(o > 0, h, np.nan), **options), value)


@each
@pytest.mark.parametrize("separate", [False, True], ids=["one_batch", "two_samples"])
def test_nothing_observed(name, separate):
    nothing = np.zeros(3, bool)
    options = {"observed": nothing, "propensity": P}
    mean = 6.5 / 3
    if separate:
        options["population"], mean = np.array([1.0, 2.0], np.float32), 1.5
    if separate and name == "tdr":
        options["population_propensity"] = 0.5
    value, gradients = jax.value_and_grad(ESTIMATORS[name], argnums=(0, 1))(E, H, **options)
    empty = 0.0 if name in ("badr", "badr_released", "stable_dr") else mean
    assert float(value) == pytest.approx(empty)
    np.testing.assert_array_equal(gradients[0], np.zeros(3))
    own = np.full(3, 1 / 3) if empty and not separate else np.zeros(3)
    np.testing.assert_allclose(gradients[1], own, rtol=1e-6)


class TestIdentities:
    def test_propensity_one_turns_dr_badr_and_d_dr_into_eib(self, rng):
        e, h, o, p, _ = f32(*draw(rng))
        eib = float(risks.eib(e, h, observed=o))
        assert float(risks.dr(e, h, observed=o, propensity=1.0)) == pytest.approx(eib, rel=1e-6)
        assert float(risks.tdr(e, h, observed=o, propensity=1.0)) == pytest.approx(eib, rel=1e-6)
        raised = risks.d_dr(e, h, observed=o, propensity=p, variance_weight=1.0)
        assert float(raised) == pytest.approx(eib, rel=1e-6)

    def test_eib_ignores_the_propensity(self, rng):
        e, h, o, p, _ = f32(*draw(rng))
        np.testing.assert_array_equal(
            risks.eib(e, h, observed=o, propensity=p), risks.eib(e, h, observed=o, propensity=None)
        )

    def test_without_imputed_errors_badr_and_sndr_are_snips_and_dr_is_ips(self, rng):
        e, _, o, p, _ = f32(*draw(rng))
        zero = np.zeros_like(e)
        options = {"observed": o, "propensity": p}
        snips = float(risks.snips(e, **options))
        for risk in (risks.badr, risks.sndr, risks.stable_dr, ESTIMATORS["badr_released"]):
            assert float(risk(e, zero, **options)) == pytest.approx(snips, rel=1e-6)
        assert float(risks.dr(e, zero, **options)) == pytest.approx(float(risks.ips(e, **options)), rel=1e-6)

    @pytest.mark.parametrize("variant", ["published", "released"])
    def test_the_gradient_of_badr_is_that_of_dr_times_m_over_w(self, rng, variant):
        e, h, o, p, s = f32(*draw(rng))
        options = {"observed": o, "propensity": p, "weights": s, "variant": variant}
        badr = jax.grad(risks.badr, argnums=(0, 1))(e, h, **options)
        dr = jax.grad(risks.dr, argnums=(0, 1))(e, h, **options)
        factor = e.size / np.sum(o * s / p)
        np.testing.assert_allclose(badr, factor * np.stack(dr), rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("risk", [risks.sndr, risks.stable_dr])
    def test_self_normalised_estimators_ignore_the_scale_of_propensities_and_weights(self, rng, risk):
        e, h, o, p, s = f32(*draw(rng))
        value = float(risk(e, h, observed=o, propensity=p, weights=s))
        scaled = float(risk(e, h, observed=o, propensity=p / 3, weights=5 * s))
        assert scaled == pytest.approx(value, rel=1e-6)

    def test_tdr_on_one_batch_is_eib_plus_the_targeted_mean_over_unobserved_pairs(self, rng):
        e, h, o, p, _ = f32(*draw(rng))
        epsilon = risks.targeting_coefficient(e, h, observed=o, propensity=p)
        expected = risks.eib(e, h, observed=o) + epsilon * np.mean((1 - o) * (1 / p - 1))
        assert float(risks.tdr(e, h, observed=o, propensity=p)) == pytest.approx(float(expected), rel=1e-5)

    def test_targeted_errors_are_orthogonal_to_the_odds(self, rng):
        e, h, o, p, s = f32(*draw(rng))
        odds = 1 / p - 1
        options = {"observed": o, "propensity": p, "weights": s}
        moved = h + risks.targeting_coefficient(e, h, **options) * odds
        assert float(np.sum(s * o * odds * (e - moved))) == pytest.approx(0.0, abs=1e-4)
        assert float(risks.targeting_coefficient(e, moved, **options)) == pytest.approx(0.0, abs=1e-6)
        # Perfect imputation leaves nothing to move.
        assert float(risks.targeting_coefficient(e, e, **options)) == 0.0

    def test_a_detached_targeting_coefficient_has_the_gradient_of_dr(self, rng):
        e, h, o, p, _ = f32(*draw(rng))
        options = {"observed": o, "propensity": p}
        epsilon = risks.targeting_coefficient(e, h, **options)
        detached = jax.grad(lambda e, h: risks.dr(e, h + epsilon * (1 / p - 1), **options), argnums=(0, 1))(
            e, h
        )
        plain = jax.grad(risks.dr, argnums=(0, 1))(e, h, **options)
        targeted = jax.grad(risks.tdr, argnums=(0, 1))(e, h, **options)
        np.testing.assert_allclose(detached, plain, rtol=1e-6)
        assert not np.allclose(targeted, plain, rtol=1e-3)

    def test_under_the_stabilization_constraint_stable_dr_is_sndr(self, rng):
        e, h, o, p, _ = f32(*draw(rng))
        options = {"observed": o, "propensity": p}
        assert abs(float(risks.stable_dr(e, h, **options)) - float(risks.sndr(e, h, **options))) > 1e-3
        # Moving the observed h by a constant c changes the constraint linearly, so one step solves it.
        moved = lambda c: h + c * o  # noqa: E731
        at_zero = risks.stabilization_constraint(moved(0.0), **options)
        slope = risks.stabilization_constraint(moved(1.0), **options) - at_zero
        balanced = np.asarray(moved(-at_zero / slope), np.float32)
        assert float(risks.stabilization_constraint(balanced, **options)) == pytest.approx(0.0, abs=1e-5)
        stable, sndr = risks.stable_dr(e, balanced, **options), risks.sndr(e, balanced, **options)
        assert float(stable) == pytest.approx(float(sndr), rel=1e-5)

    def test_badr_stays_bounded_where_dr_explodes(self):
        tiny = np.array([1e-6, 1e-6, 0.5], np.float32)
        options = {"observed": np.ones(3, np.float32), "propensity": tiny}
        assert float(risks.dr(E, H, **options)) > 1e5
        assert abs(float(risks.badr(E, H, **options))) < 8.0


def test_dynamic_propensity_minimises_its_objective():
    for p, weight in itertools.product([0.05, 0.4, 1.0], [0.0, 0.03, 0.5, 1.0, 4.0]):
        ours = float(risks.dynamic_propensity(jnp.float32(p), variance_weight=weight))
        assert ours == pytest.approx(reference.dynamic_propensity(p, weight), rel=1e-3)


def test_stabilization_constraint_by_hand_and_in_expectation(x64):
    options = {"observed": O, "propensity": P}
    mean = 6.5 / 3
    expected = ((0.5 - mean) / 0.5 + (2 - mean) / 0.25) / 3
    assert float(risks.stabilization_constraint(H, **options)) == pytest.approx(expected, rel=1e-6)
    imputed = np.cos(np.arange(N))
    value, _ = exact_moments(
        lambda o: risks.stabilization_constraint(imputed, observed=o, propensity=ESTIMATE), TRUE_P
    )
    assert value == pytest.approx(np.mean((TRUE_P / ESTIMATE - 1) * (imputed - imputed.mean())), rel=1e-12)


N = 10
TRUE_P = np.linspace(0.35, 0.95, N)
ESTIMATE = TRUE_P * np.linspace(0.5, 1.05, N)
ERRORS = np.cos(np.arange(N)) + 2 * TRUE_P
IMPUTED = ERRORS + 0.5 * np.sin(np.arange(N))


def exact_moments(risk, p):
    """Mean and variance over all 2^n outcomes of the observation."""
    outcomes = jnp.array(list(itertools.product([0.0, 1.0], repeat=p.size)))
    values = np.asarray(jax.jit(jax.vmap(risk))(outcomes))
    chance = np.prod(np.where(np.asarray(outcomes) > 0, p, 1 - p), axis=1)
    mean = np.sum(chance * values)
    return mean, np.sum(chance * (values - mean) ** 2)


class TestMoments:
    """What the docstrings say of expectation, bias and variance, over all outcomes of the observation."""

    @pytest.mark.parametrize("propensity", [TRUE_P, ESTIMATE], ids=["true", "estimated"])
    @pytest.mark.parametrize("name", ["eib", "dr", "dr_released", "d_dr"])
    def test_linear_estimators_have_the_documented_bias_and_variance(self, x64, name, propensity):
        risk = ESTIMATORS[name]
        mean, variance = exact_moments(
            lambda o: risk(ERRORS, IMPUTED, observed=o, propensity=propensity), TRUE_P
        )
        p, e, h, d = TRUE_P, ERRORS, IMPUTED, ERRORS - IMPUTED
        effective = propensity + 0.2 * (1 - propensity)
        bias, spread = {
            "eib": (-np.mean((1 - p) * d), d),
            "dr": (np.mean((p / propensity - 1) * d), d / propensity),
            "dr_released": (np.mean((p / propensity - 1) * e + (1 - p) * h), e / propensity - h),
            "d_dr": (np.mean((p / effective - 1) * d), d / effective),
        }[name]
        assert mean - ERRORS.mean() == pytest.approx(bias, rel=1e-10, abs=1e-12)
        assert variance == pytest.approx(np.sum(p * (1 - p) * spread**2) / N**2, rel=1e-10)

    @pytest.mark.parametrize("name", ["eib", "dr", "sndr", "tdr", "d_dr"])
    def test_perfect_imputation_is_exact_whatever_the_propensity(self, x64, name):
        mean, variance = exact_moments(
            lambda o: ESTIMATORS[name](ERRORS, ERRORS, observed=o, propensity=ESTIMATE), TRUE_P
        )
        assert mean == pytest.approx(ERRORS.mean(), rel=1e-12)
        assert variance == pytest.approx(0.0, abs=1e-24)

    @pytest.mark.parametrize("name", ["sndr", "badr", "badr_released"])
    def test_ratios_have_the_documented_leading_terms(self, x64, name):
        """What the stated terms leave out is small, and halves when the number of pairs doubles."""
        few, many = self.relative_remainders(name, 7), self.relative_remainders(name, 14)
        assert (np.abs(many) < 0.25).all()
        assert (np.abs(many) < 0.6 * np.abs(few)).all()

    @staticmethod
    def relative_remainders(name, n):
        p, e = np.linspace(0.9, 0.98, n), np.linspace(0.0, 1.0, n) ** 2
        h, estimate = 0.8 * np.linspace(1.0, 0.5, n), 0.7 * p * np.linspace(0.8, 1.0, n)
        mean, variance = exact_moments(lambda o: ESTIMATORS[name](e, h, observed=o, propensity=estimate), p)
        total, ratio = np.sum(p / estimate), p * (1 - p) / estimate**2
        d = e - h
        average = np.sum(p / estimate * d) / total
        if name == "badr_released":
            # The documented variance; the bias is that of badr and not stated.
            target = np.sum(h + p * (e / estimate - h)) / total
            leading = np.sum(ratio * (e - estimate * h - target) ** 2) / total**2
            return np.array([variance / leading - 1])
        centre = average if name == "sndr" else np.sum(h) / total + average
        bias = np.sum(ratio * (centre - d)) / total**2
        leading = np.sum(ratio * (d - centre) ** 2) / total**2
        limit = np.mean(h) + average if name == "sndr" else centre
        documented = (average - d.mean()) + bias
        if name == "badr":
            documented += (1 / total - 1 / n) * np.sum(h)
        assert limit + bias - e.mean() == pytest.approx(documented, rel=1e-10)
        return np.array([(mean - limit) / bias - 1, variance / leading - 1])


class TestMisuse:
    def test_unknown_variant(self):
        for risk in (risks.dr, risks.badr):
            with pytest.raises(ValueError, match="unknown variant 'publishd'; did you mean 'published'?"):
                risk(E, H, observed=O, propensity=P, variant="publishd")

    @each
    def test_shapes_and_types(self, name):
        estimator = ESTIMATORS[name]
        with pytest.raises(TypeError, match="imputed must be of a floating dtype, got int32"):
            estimator(E, np.zeros(3, np.int32), observed=O, propensity=P)
        with pytest.raises(ValueError, match=r"shapes must be equal, got errors \(3,\), imputed \(2,\)"):
            estimator(E, H[:2], observed=O, propensity=P)
        with pytest.raises(ValueError, match=r"weights must be a scalar or of shape \(3,\), got \(2,\)"):
            estimator(E, H, observed=O, propensity=P, weights=P[:2])
        more = {"population_propensity": 0.5} if name == "tdr" else {}
        with pytest.raises(ValueError, match=r"population must hold .* at least one pair, got shape \(0,\)"):
            estimator(E, H, observed=O, propensity=P, population=np.zeros(0, np.float32), **more)
        with pytest.raises(TypeError, match="population must be of a floating dtype, got int32"):
            estimator(E, H, observed=O, propensity=P, population=np.zeros(4, np.int32), **more)

    def test_tdr_needs_the_propensities_of_a_separate_sample(self):
        options = {"observed": O, "propensity": P}
        with pytest.raises(ValueError, match="go together, and population_propensity is None"):
            risks.tdr(E, H, population=H, **options)
        with pytest.raises(ValueError, match="go together, and population is None"):
            risks.tdr(E, H, population_propensity=P, **options)
        with pytest.raises(ValueError, match=r"population_propensity must be a scalar or of shape \(3,\)"):
            risks.tdr(E, H, population=H, population_propensity=P[:2], **options)

    def test_variance_weight_is_a_scalar(self):
        with pytest.raises(ValueError, match="variance_weight must be a scalar"):
            risks.d_dr(E, H, observed=O, propensity=P, variance_weight=P)

    def test_stabilization_constraint_names_its_own_argument(self):
        with pytest.raises(ValueError, match=r"got imputed \(3,\), observed \(2,\)"):
            risks.stabilization_constraint(H, observed=O[:2], propensity=P)
