"""Losses of the imputed errors: hand values, the slow reference, identities, gradients and expectations."""

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

FACTORS = {
    "dr_jl": lambda o, p: 1 / p,
    "mrdr": lambda o, p: (1 - p) / p**2,
    "dr_bias": lambda o, p: (o - p) ** 2 / p**3,
}
FACTORS["dr_mse"] = lambda o, p: 0.25 * FACTORS["dr_bias"](o, p) + 0.75 * FACTORS["mrdr"](o, p)
SQUARES = {
    "dr_jl": risks.dr_jl,
    "mrdr": risks.mrdr,
    "dr_bias": risks.dr_bias,
    "dr_mse": lambda *a, **k: risks.dr_mse(*a, **k, bias_weight=0.25),
}
BADR = ("published", "detached", "corrected", "released")
squares = pytest.mark.parametrize("name", SQUARES)
badr_variants = pytest.mark.parametrize("variant", BADR)


def draw(rng, shape=(9,)):
    """Errors, imputed errors, observation, propensities and weights of a batch."""
    observed = (rng.uniform(size=shape) < 0.6).astype(float)
    observed[:2] = 1.0
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
    values = {name: float(loss(E, H, **options)) for name, loss in SQUARES.items()}
    mrdr, bias = (0.5 / 0.25 * 0.25 + 0.75 / 0.0625) / 3, (0.25 / 0.125 * 0.25 + 0.5625 / 0.015625) / 3
    assert values == pytest.approx(
        {"dr_jl": (0.5 + 4) / 3, "mrdr": mrdr, "dr_bias": bias, "dr_mse": 0.25 * bias + 0.75 * mrdr}, rel=1e-6
    )
    # Weights 2 and 4, d 1/2 and 1, mean of d 5/6; L = 6.5/6 + 5/6 = 11.5/6, L' = (6.5 + 1.5 + 10) / 6 = 3.
    values = {v: float(risks.badr_imputation(E, H, **options, variant=v)) for v in BADR}
    centred = (4 * (1 / 3) ** 2 + 16 * (1 / 6) ** 2) / 36
    assert values == pytest.approx(
        {
            "published": centred,
            "detached": centred,
            "corrected": (4 * 0.5 * (0.5 - 11.5 / 6) ** 2 + 16 * 0.75 * (1 - 11.5 / 6) ** 2) / 36,
            "released": (4 * (0.5 + 6.5 / 3 - 3) ** 2 + 16 * (1 + 6.5 / 3 - 3) ** 2) / 3,
        },
        rel=1e-5,
    )


@squares
def test_squares_agree_with_the_papers_pair_by_pair(rng, name):
    e, h, o, p, s = draw(rng)
    arrays = f32(e, h)
    options = dict(zip(("observed", "propensity", "weights"), f32(o, p, s), strict=True))
    expected = reference.imputation(e, h, o, p, s, FACTORS[name])
    assert float(SQUARES[name](*arrays, **options)) == pytest.approx(expected, rel=2e-5)
    gradient = jax.grad(SQUARES[name], argnums=1)(*arrays, **options)
    slopes = 2 * s * o * FACTORS[name](o, p) * (h - e) / e.size
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("separate", [False, True], ids=["one_batch", "two_samples"])
def test_badr_imputation_agrees_with_the_paper_and_the_program_pair_by_pair(rng, separate):
    e, h, o, p, s = draw(rng)
    everyone = rng.uniform(0, 3, 12) if separate else h
    population = np.float32(everyone) if separate else None
    options = dict(zip(("observed", "propensity", "weights"), f32(o, p, s), strict=True))
    arguments = (e, h, o, p, s, everyone)
    expected = {
        "published": reference.badr_eq32(*arguments),
        "detached": reference.badr_eq32(*arguments),
        "corrected": reference.badr_corrected(*arguments),
        "released": reference.badr_released(*arguments)[0],
    }
    for variant, value in expected.items():
        ours = risks.badr_imputation(*f32(e, h), population=population, **options, variant=variant)
        assert float(ours) == pytest.approx(value, rel=1e-4), variant


class TestGradientsOfBadrImputation:
    def gradients(self, rng, variant):
        """Of errors, imputed errors of the rows, and those of the separate sample; and the reference's arguments."""
        e, h, o, p, s = draw(rng)
        everyone = rng.uniform(0, 3, 12)
        options = dict(zip(("observed", "propensity", "weights"), f32(o, p, s), strict=True))

        def loss(errors, imputed, population):
            return risks.badr_imputation(errors, imputed, population=population, **options, variant=variant)

        ours = jax.grad(loss, argnums=(0, 1, 2))(*f32(e, h, everyone))
        return ours, (e, h, o, p, s, everyone)

    def test_published_knows_only_the_observed_rows_and_not_their_level(self, rng):
        (errors, imputed, population), (e, h, o, p, s, _) = self.gradients(rng, "published")
        np.testing.assert_array_equal(population, np.zeros(12))
        np.testing.assert_allclose(np.sum(imputed), 0.0, atol=1e-6)
        np.testing.assert_allclose(errors, -imputed, atol=1e-7)
        w = s * o / p
        share, d = w / w.sum(), e - h
        centred = d - np.sum(share * d)
        slopes = 2 * share**2 * centred - share * np.sum(2 * share**2 * centred)
        np.testing.assert_allclose(imputed, -slopes, rtol=1e-4, atol=1e-6)

    def test_published_ignores_a_constant_added_to_the_observed_imputed_errors(self, rng):
        e, h, o, p, s = f32(*draw(rng))
        options = {"observed": o, "propensity": p, "weights": s}
        value = float(risks.badr_imputation(e, h, **options))
        assert float(risks.badr_imputation(e, h + 2.0 * o, **options)) == pytest.approx(value, rel=1e-4)
        corrected = [
            float(risks.badr_imputation(e, x, **options, variant="corrected")) for x in (h, h + 2.0 * o)
        ]
        assert corrected[1] != pytest.approx(corrected[0], rel=1e-2)

    def test_detached_trains_the_level_and_the_pairs_of_the_separate_sample(self, rng):
        (_, imputed, population), arguments = self.gradients(rng, "detached")
        rows, everyone = reference.badr_eq32_gradient_with_constant_value(*arguments)
        np.testing.assert_allclose(imputed, rows, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(population, everyone, rtol=1e-4, atol=1e-6)

    def test_released_moves_one_scalar(self, rng):
        (errors, imputed, population), arguments = self.gradients(rng, "released")
        np.testing.assert_array_equal(errors, np.zeros(9))
        np.testing.assert_array_equal(imputed, np.zeros(9))
        _, slope = reference.badr_released(*arguments)
        np.testing.assert_allclose(population, np.full(12, slope), rtol=1e-4)

    def test_released_with_constant_propensities_does_not_see_the_errors(self, rng):
        """dL/dm_U = (2 w^2 / G) [(1 - G/w) m_U - (1 - 1/w) m_O]: the true errors cancel."""
        e, h = f32(rng.uniform(0, 3, 6), rng.uniform(0, 3, 6))
        population = np.float32(rng.uniform(0, 3, 18))
        w, ratio = 4.0, 3.0

        def loss(errors, shift):
            return risks.badr_imputation(
                errors,
                h,
                observed=np.ones(6, np.float32),
                propensity=1 / w,
                population=population + shift,
                variant="released",
            )

        slope = 2 * w**2 / ratio * ((1 - ratio / w) * population.mean() - (1 - 1 / w) * h.mean())
        for errors in (e, e + 5.0):
            assert float(jax.grad(loss, argnums=1)(errors, 0.0)) == pytest.approx(slope, rel=1e-4)


@badr_variants
def test_the_level_of_the_population_does_not_cost_digits(rng, variant):
    """Published and detached do not depend on it in value; the others are checked against float64."""
    e, h, o, p, s = draw(rng)
    everyone = 1000.0 + rng.uniform(0, 3, 64)
    options = dict(zip(("observed", "propensity", "weights"), f32(o, p, s), strict=True))
    value = risks.badr_imputation(*f32(e, h), population=np.float32(everyone), **options, variant=variant)
    expected = {
        "published": reference.badr_eq32,
        "detached": reference.badr_eq32,
        "corrected": reference.badr_corrected,
        "released": lambda *a: reference.badr_released(*a)[0],
    }[variant]
    assert float(value) == pytest.approx(expected(e, h, o, p, s, everyone), rel=1e-4)


@squares
def test_unobserved_values_are_not_read_by_squares(rng, name):
    e, h, o, p, s = f32(*draw(rng))
    loss = jax.value_and_grad(SQUARES[name], argnums=(0, 1))
    shown = loss(e, h, observed=o, propensity=p, weights=s)
    e, h, p, s = (np.where(o > 0, x, np.nan) for x in (e, h, p, s))
    value, gradients = loss(e, h, observed=o, propensity=p, weights=s)
    np.testing.assert_array_equal(value, shown[0])
    np.testing.assert_array_equal(gradients, shown[1])


@badr_variants
def test_unobserved_values_are_not_read_by_badr_imputation(rng, variant):
    e, h, o, p, s = f32(*draw(rng))
    population = np.float32(rng.uniform(0, 3, 5))
    loss = jax.value_and_grad(
        lambda e, h, p, s: risks.badr_imputation(
            e, h, observed=o, propensity=p, weights=s, population=population, variant=variant
        ),
        argnums=(0, 1),
    )
    shown = loss(e, h, p, s)
    value, gradients = loss(*(np.where(o > 0, x, np.nan) for x in (e, h, p, s)))
    np.testing.assert_array_equal(value, shown[0])
    np.testing.assert_array_equal(gradients, shown[1])


@badr_variants
def test_nothing_observed_is_zero_with_zero_gradients(variant):
    loss = jax.value_and_grad(
        lambda e, h, p: risks.badr_imputation(e, h, observed=np.zeros(3), propensity=p, variant=variant),
        argnums=(0, 1, 2),
    )
    value, gradients = loss(E, H, P)
    assert float(value) == 0.0
    np.testing.assert_array_equal(gradients, np.zeros((3, 3)))


def test_expectations(x64):
    """Over all 2^8 outcomes: what each square estimates when the propensities are true."""
    p, d = np.linspace(0.3, 0.9, 8), np.cos(np.arange(8))
    outcomes = jnp.array(list(np.ndindex(*[2] * 8)), jnp.float64)
    chance = np.prod(np.where(np.asarray(outcomes) > 0, p, 1 - p), axis=1)
    expected = {
        "dr_jl": np.mean(d**2),
        "mrdr": np.mean((1 - p) / p * d**2),
        "dr_bias": np.mean((1 - p) ** 2 / p**2 * d**2),
    }
    for name, value in expected.items():
        losses = jax.vmap(lambda o, name=name: SQUARES[name](d, np.zeros(8), observed=o, propensity=p))(
            outcomes
        )
        assert float(np.sum(chance * losses)) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_badr_imputation_estimates_the_documented_variance(x64, variant):
    """Its mean over draws approaches the leading variance: of SNDR without the factor 1 - p, or of BADR."""

    def relative_remainder(n):
        p = np.linspace(0.5, 0.9, n)
        d, h = np.linspace(0.0, 1.0, n) ** 2, np.linspace(1.0, 0.5, n)
        observed = np.random.default_rng(5).uniform(size=(2000, n)) < p
        loss = jax.jit(
            jax.vmap(lambda o: risks.badr_imputation(d + h, h, observed=o, propensity=p, variant=variant))
        )
        centre = d.mean() + (h.mean() if variant == "corrected" else 0.0)
        keep = 1 - p if variant == "corrected" else 1.0
        leading = np.sum(keep * (d - centre) ** 2 / p) / n**2
        return abs(np.mean(loss(observed)) / leading - 1)

    # The remainder falls as 1/n; 2000 draws leave an error of about 0.001 at n = 400.
    assert relative_remainder(20) < 0.2
    assert relative_remainder(400) < 0.01


class TestMisuse:
    def test_unknown_variant(self):
        with pytest.raises(
            ValueError, match="unknown variant 'paper'; there are corrected, detached, published"
        ):
            risks.badr_imputation(E, H, observed=O, propensity=P, variant="paper")

    def test_bias_weight_is_a_scalar(self):
        with pytest.raises(ValueError, match="bias_weight must be a scalar"):
            risks.dr_mse(E, H, observed=O, propensity=P, bias_weight=P)

    @squares
    def test_shapes_and_types(self, name):
        with pytest.raises(TypeError, match="imputed must be of a floating dtype, got int32"):
            SQUARES[name](E, np.zeros(3, np.int32), observed=O, propensity=P)
        with pytest.raises(ValueError, match=r"weights must be a scalar or of shape \(3,\), got \(2,\)"):
            SQUARES[name](E, H, observed=O, propensity=P, weights=P[:2])
