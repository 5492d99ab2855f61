import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import risks


def test_popularity_power_is_relative_to_the_most_popular_item():
    counts = jnp.array([9, 100, 0, 1])
    np.testing.assert_allclose(risks.popularity_power(counts), [0.3, 1.0, 0.0, 0.1], rtol=1e-6)
    np.testing.assert_allclose(risks.popularity_power(counts, power=1.0), [0.09, 1.0, 0.0, 0.01], rtol=1e-6)
    assert risks.popularity_power(counts).dtype == jnp.float32


def test_popularity_power_without_any_click_is_zero_not_nan():
    np.testing.assert_array_equal(risks.popularity_power(jnp.zeros(3)), np.zeros(3))


def test_popularity_power_works_on_the_last_axis():
    counts = jnp.array([[4.0, 1.0], [2.0, 8.0]])
    np.testing.assert_allclose(risks.popularity_power(counts), [[1.0, 0.5], [0.5, 1.0]])


def test_clip_reports_share_weight_and_effective_sample_size():
    clipped, report = risks.clip_propensity(jnp.array([1.0, 0.5, 0.05, 0.0]), floor=0.1)
    np.testing.assert_allclose(clipped, [1.0, 0.5, 0.1, 0.1])
    assert float(report.clipped_share) == 0.5
    assert float(report.largest_weight) == pytest.approx(10.0)
    # Weights 1, 2, 10, 10.
    assert float(report.effective_sample_size) == pytest.approx(23.0**2 / 205.0, rel=1e-6)


def test_clip_report_leaves_masked_entries_out():
    propensity, where = jnp.array([1.0, 0.5, 0.01]), jnp.array([True, True, False])
    clipped, report = risks.clip_propensity(propensity, floor=0.1, where=where)
    np.testing.assert_allclose(clipped, [1.0, 0.5, 0.1])
    assert [float(value) for value in report] == pytest.approx([0.0, 2.0, 9.0 / 5.0])
    _, nothing = risks.clip_propensity(propensity, floor=0.1, where=jnp.zeros(3, bool))
    assert [float(value) for value in nothing] == [0.0, 0.0, 0.0]


def test_a_propensity_at_the_floor_is_not_clipped():
    _, report = risks.clip_propensity(jnp.array([0.25, 0.5]), floor=0.25)
    assert float(report.clipped_share) == 0.0


def test_effective_sample_size_between_one_and_n():
    assert float(risks.effective_sample_size(jnp.full(7, 3.0))) == pytest.approx(7.0)
    assert float(risks.effective_sample_size(jnp.array([1.0, 0.0, 0.0]))) == 1.0
    assert float(risks.effective_sample_size(jnp.array([1.0, 3.0]))) == pytest.approx(16 / 10)
    assert float(risks.effective_sample_size(jnp.zeros(3))) == 0.0
    masked = risks.effective_sample_size(jnp.array([1.0, 3.0, jnp.nan]), where=jnp.array([True, True, False]))
    assert float(masked) == pytest.approx(1.6)


def test_effective_sample_size_of_weights_whose_squares_overflow():
    assert float(risks.effective_sample_size(jnp.array([1e30, 3e30]))) == pytest.approx(1.6, rel=1e-6)


def test_misuse_is_refused():
    with pytest.raises(TypeError, match="propensity must be of a floating dtype"):
        risks.clip_propensity(jnp.array([1, 0]), floor=0.1)
    with pytest.raises(ValueError, match=r"where must be of shape \(2,\)"):
        risks.clip_propensity(jnp.ones(2), floor=0.1, where=jnp.ones(3, bool))
    with pytest.raises(TypeError, match="weights must be of a floating dtype"):
        risks.effective_sample_size(jnp.array([1, 2]))


@pytest.mark.parametrize("floor", [0, -0.1, float("nan")])
def test_a_floor_that_bounds_no_weight_is_refused(floor):
    with pytest.raises(ValueError, match="floor must be positive"):
        risks.clip_propensity(jnp.array([0.5, 0.0]), floor=floor)
