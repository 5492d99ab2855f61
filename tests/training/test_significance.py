"""Paired tests over seeds and over users."""

import math

import numpy as np
import pytest
import scipy.stats

from debias_jax.training import significance


def test_mean_sd():
    mean, sd = significance.mean_sd([1.0, 2.0, 6.0])
    assert (mean, sd) == (3.0, pytest.approx(math.sqrt((4 + 1 + 9) / 2)))
    mean, sd = significance.mean_sd([0.5])
    assert mean == 0.5
    assert math.isnan(sd)
    with pytest.raises(ValueError, match=r"non-empty vector, got shape \(0,\)"):
        significance.mean_sd([])


def test_paired_t_test_agrees_with_scipy(rng):
    a, b = rng.normal(size=(2, 7))
    difference, p = significance.paired_t_test(a, b)
    assert difference == pytest.approx((a - b).mean())
    assert p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)


def test_paired_t_test_of_equal_differences():
    assert significance.paired_t_test([0.5, 0.75], [0.5, 0.75]) == (0.0, 1.0)
    assert significance.paired_t_test([0.5, 0.75], [0.25, 0.5]) == (0.25, 0.0)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0], [2.0], "at least two pairs, got 1; run more seeds"),
        ([1.0, 2.0], [1.0], r"one length, got \(2,\) and \(1,\)"),
        ([1.0, np.nan], [1.0, 2.0], "must be finite"),
    ],
)
def test_paired_t_test_refuses(a, b, message):
    with pytest.raises(ValueError, match=message):
        significance.paired_t_test(a, b)


def test_bootstrap_agrees_with_the_normal_interval(rng):
    """Of 2,000 users the bootstrap's interval is the normal one, up to its own error of some 1/sqrt(resamples)."""
    a = rng.random(2000)
    b = a - 0.02 + 0.3 * (rng.random(2000) - 0.5)
    interval = significance.paired_user_bootstrap(a, b, n_resamples=4000)
    error = (a - b).std() / math.sqrt(2000)
    assert interval.difference == pytest.approx((a - b).mean())
    assert interval.low == pytest.approx(interval.difference - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.difference + 1.96 * error, abs=0.15 * error)
    narrow = significance.paired_user_bootstrap(a, b, n_resamples=4000, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_bootstrap_p_value_is_uniform_where_there_is_no_difference(rng):
    ps = [
        significance.paired_user_bootstrap(*rng.normal(size=(2, 100)), n_resamples=400).p for _ in range(300)
    ]
    # Binomial(300, q): four standard errors.
    for q in (0.1, 0.5):
        assert abs(np.mean(np.array(ps) <= q) - q) < 4 * math.sqrt(q * (1 - q) / 300) + 0.01


def test_bootstrap_is_deterministic_paired_and_averages_seeds(rng):
    a, b = rng.random((2, 5, 40))
    first = significance.paired_user_bootstrap(a, b, n_resamples=500)
    assert first == significance.paired_user_bootstrap(a, b, n_resamples=500)
    assert first == significance.paired_user_bootstrap(a.mean(axis=0), b.mean(axis=0), n_resamples=500)
    assert first != significance.paired_user_bootstrap(a, b, n_resamples=500, seed=1)
    mirrored = significance.paired_user_bootstrap(b, a, n_resamples=500)
    assert (mirrored.difference, mirrored.low, mirrored.high, mirrored.p) == pytest.approx(
        (-first.difference, -first.high, -first.low, first.p)
    )
    # Users' level cancels: a constant gain on very different users is certain.
    certain = significance.paired_user_bootstrap(a[0] + 0.25, a[0], n_resamples=500)
    assert (certain.low, certain.high) == pytest.approx((0.25, 0.25))
    assert certain.p == pytest.approx(2 / 501)
    assert significance.paired_user_bootstrap(a, a, n_resamples=500).p == 1.0


def test_bootstrap_counts_only_whom_where_admits(rng):
    a, b = rng.random((2, 40))
    where = rng.random(40) < 0.5
    expected = significance.paired_user_bootstrap(a[where], b[where], n_resamples=300)
    a[~where] = np.nan
    assert significance.paired_user_bootstrap(a, b, where=where, n_resamples=300) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_user_b": np.zeros(3)}, "the same users, got 4 and 3"),
        ({"per_user_a": np.zeros((2, 2, 2))}, r"per_user_a must have shape \[E\] or \[S, E\]"),
        ({"where": np.zeros(4, bool)}, "no user counts"),
        ({"where": np.zeros(3, bool)}, r"where must be boolean of shape \(4,\)"),
        ({"per_user_a": np.full(4, np.nan)}, "must be finite"),
        ({"level": 1.0}, "level in"),
        ({"n_resamples": 0}, "n_resamples must be at least 1"),
    ],
)
def test_bootstrap_refuses(change, message):
    arguments = {"per_user_a": np.ones(4), "per_user_b": np.zeros(4), **change}
    with pytest.raises(ValueError, match=message):
        significance.paired_user_bootstrap(
            arguments.pop("per_user_a"), arguments.pop("per_user_b"), **arguments
        )
