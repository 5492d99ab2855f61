"""SNIPS evaluation of held-out clicks, one user at a time."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ranking as reference

from debias_jax import metrics


def held_out(seed=0, n_users=16, n=15):
    rng = np.random.default_rng(seed)
    scores = rng.integers(5, size=(n_users, n)).astype(np.float32)
    labels = (rng.random((n_users, n)) < 0.2).astype(np.float32)
    labels[0] = 0.0
    propensity = rng.choice(np.array([0.0, 0.25, 0.5, 1.0], np.float32), size=(n_users, n))
    where = rng.random((n_users, n)) < 0.8
    propensity[~where] = np.nan
    return scores, labels, propensity, where


@pytest.mark.parametrize("options", [{"k": 3}, {"k": 5, "discount": "jarvelin"}, {"ties": "by_index"}])
def test_agrees_with_the_definition(options):
    scores, labels, propensity, where = held_out()

    @functools.partial(jax.jit, static_argnames="reduce_fn")
    def snips_dcg(reduce_fn):
        return metrics.snips_dcg(
            scores, labels, propensity=propensity, where=where, reduce_fn=reduce_fn, **options
        )

    ours = snips_dcg(None)
    expected = [
        reference.snips_dcg(s[w].tolist(), y[w].tolist(), p[w].tolist(), **options)
        for s, y, p, w in zip(scores, labels, propensity, where, strict=True)
    ]
    # Ratios of sums of at most 15 float32 terms.
    np.testing.assert_allclose(ours, [value or 0.0 for value in expected], rtol=0, atol=5e-6)
    counted = [value for value in expected if value is not None]
    assert len(counted) < len(expected)
    assert float(snips_dcg(jnp.mean)) == pytest.approx(np.mean(counted), abs=5e-6)


def test_written_out():
    scores = jnp.array([0.9, 0.8, 0.7, 0.6])
    labels, propensity = jnp.array([0.0, 1.0, 0.0, 1.0]), jnp.array([1.0, 0.5, 1.0, 0.25])
    second, fourth = 1 / math.log2(3), 1 / math.log2(5)
    whole, cut = jax.jit(
        lambda: [metrics.snips_dcg(scores, labels, propensity=propensity, k=k) for k in (None, 3)]
    )()
    assert float(whole) == pytest.approx((2 * second + 4 * fourth) / 6, abs=5e-7)
    assert float(cut) == pytest.approx(2 * second / 6, abs=5e-7)


def test_the_scale_of_propensities_cancels_and_equal_ones_give_the_mean_discount():
    scores, labels, propensity, where = held_out(1)

    @jax.jit
    def snips_dcg(propensity):
        return metrics.snips_dcg(scores, labels, propensity=propensity, where=where, k=3, reduce_fn=None)

    np.testing.assert_array_equal(snips_dcg(propensity), snips_dcg(propensity / 64))
    equal = snips_dcg(jnp.full(scores.shape, 0.5))
    dcg = jax.jit(lambda: metrics.dcg(scores, labels, where=where, k=3, reduce_fn=None))()
    plain = dcg / np.maximum((labels * where).sum(axis=1), 1)
    np.testing.assert_allclose(equal, plain, rtol=0, atol=5e-7)


def test_self_normalisation_is_consistent():
    """Many positives, thinned with known propensities: the estimate meets the value of full information."""
    rng = np.random.default_rng(0)
    scores = np.tile(rng.random((1, 1000), np.float32), (64, 1))
    relevant = np.tile((rng.random((1, 1000)) < 0.5).astype(np.float32), (64, 1))
    # Items that score high are seen more often, so that the unweighted mean is too good.
    propensity = 0.1 + 0.8 * scores
    observed = relevant * (rng.random(scores.shape) < propensity)

    @jax.jit
    def compiled(scores, labels, propensity):
        return metrics.snips_dcg(scores, labels, propensity=propensity, k=500, reduce_fn=None)

    def value(labels, propensity):
        return np.asarray(compiled(scores, labels, propensity))

    certain = np.ones_like(scores)
    truth = value(relevant, certain)[0]
    estimates, naive = value(observed, propensity), value(observed, certain)
    error = estimates.std() / math.sqrt(estimates.size)
    assert abs(estimates.mean() - truth) < 4 * error
    assert naive.mean() - truth > 20 * error


def test_errors_name_the_offence():
    scores, labels = jnp.array([0.2, 0.1]), jnp.array([1.0, 0.0])
    with pytest.raises(TypeError, match="propensity must be of a floating dtype"):
        metrics.snips_dcg(scores, labels, propensity=jnp.array([1, 1]))
    with pytest.raises(ValueError, match=r"propensity \(1,\)"):
        metrics.snips_dcg(scores, labels, propensity=jnp.ones(1))


class TestUserSnips:
    def test_published_dcg_is_snips_dcg(self):
        scores, labels, propensity, where = held_out(2)
        scores += np.linspace(
            0, 0.5, scores.shape[1], dtype=np.float32
        )  # no ties, about which the two differ
        propensity = np.where(propensity == 0, 0.125, propensity)
        options = {"propensity": propensity, "where": where, "k": 4}
        ours = metrics.user_snips(scores, labels, **options)
        values = metrics.snips_dcg(scores, labels, reduce_fn=None, **options)
        counted = (labels * where).any(axis=1)
        kept = np.asarray(values, np.float64)[counted]
        assert int(ours.n) == counted.sum() < len(scores)
        assert float(ours.estimate) == pytest.approx(kept.mean(), rel=1e-5)
        half = 1.959964 * kept.std(ddof=1) / math.sqrt(kept.size)
        assert float(ours.high - ours.low) == pytest.approx(2 * half, rel=1e-4)

    def test_a_click_of_no_propensity_weighs_nothing_and_stays_a_candidate(self):
        scores, labels, propensity, where = held_out(4)
        scores += np.linspace(0, 0.5, scores.shape[1], dtype=np.float32)
        unseen = (propensity == 0) & (labels * where > 0)
        counted = ((labels * where > 0) & ~unseen).any(axis=1)
        # Users who lose some of their clicks, and users who lose all.
        assert (unseen.any(axis=1) & counted).any() and (unseen.any(axis=1) & ~counted).any()
        options = {"propensity": propensity, "where": where, "k": 4}
        ours = metrics.user_snips(scores, labels, **options)
        expected = np.asarray(metrics.snips_dcg(scores, labels, reduce_fn=None, **options))
        assert int(ours.n) == counted.sum()
        assert float(ours.estimate) == pytest.approx(expected[counted].mean(), rel=1e-5)

    @pytest.mark.parametrize(
        ("metric", "variant", "expected"),
        [
            # A click of weight 2 at rank 2 of 4; the one at rank 1 has P = 0.
            ("auc", "published", 3 / 4),
            ("recall", "cjmf", 1.0),
            ("dcg", "cjmf", 2 / math.log2(3)),
            ("map", "cjmf", (2 / 2) / (1 + 4e-7)),
        ],
    )
    def test_no_metric_counts_a_click_of_no_propensity(self, metric, variant, expected):
        scores = jnp.array([[0.9, 0.8, 0.7, 0.6]])
        labels, propensity = jnp.array([[1.0, 1.0, 0.0, 0.0]]), jnp.array([[0.0, 0.5, 1.0, 1.0]])
        value = metrics.user_snips(scores, labels, propensity=propensity, metric=metric, variant=variant)
        assert float(value.estimate) == pytest.approx(expected, rel=1e-6)
        assert float(value.ess) == 1.0

    @pytest.mark.parametrize(
        ("metric", "variant", "expected"),
        [
            # The clicks stand at ranks 2 and 4 of 4 and weigh 2 and 4.
            ("auc", "published", (2 * 3 / 4 + 4 * 1 / 4) / 6),
            ("recall", "published", 2 / 6),
            ("recall", "cjmf", 2 / 6),
            ("dcg", "published", 2 / math.log2(3) / 6),
            ("dcg", "cjmf", 2 / math.log2(3)),
            # One hit within three ranks: the weights up to it over its rank, over 1 and the program's 3e-7.
            ("map", "cjmf", (2 / 2) / (1 + 3e-7)),
        ],
    )
    def test_written_out(self, metric, variant, expected):
        scores = jnp.array([[0.9, 0.8, 0.7, 0.6]])
        labels, propensity = jnp.array([[0.0, 1.0, 0.0, 1.0]]), jnp.array([[1.0, 0.5, 1.0, 0.25]])
        k = None if metric == "auc" else 3
        value = metrics.user_snips(scores, labels, propensity=propensity, k=k, metric=metric, variant=variant)
        assert float(value.estimate) == pytest.approx(expected, rel=1e-6)

    def test_weighted_map_adds_up_weights_of_earlier_hits(self):
        scores = jnp.array([[0.9, 0.8, 0.7, 0.6]])
        labels, propensity = jnp.array([[1.0, 0.0, 1.0, 0.0]]), jnp.array([[0.5, 1.0, 0.25, 1.0]])
        value = metrics.user_snips(scores, labels, propensity=propensity, metric="map", variant="cjmf")
        assert float(value.estimate) == pytest.approx((2 / 1 + (2 + 4) / 3) / (2 + 4e-7), rel=1e-6)

    def test_cjmf_dcg_grows_as_a_model_calls_its_hits_rare_and_the_published_one_does_not(self):
        scores, labels, propensity, where = held_out(3)
        propensity = np.full_like(propensity, 0.5)

        def value(scale, variant):
            return float(
                metrics.user_snips(
                    scores, labels, propensity=scale * propensity, where=where, k=3, variant=variant
                ).estimate
            )

        assert value(0.1, "cjmf") == pytest.approx(10 * value(1.0, "cjmf"), rel=1e-5)
        assert value(0.1, "published") == pytest.approx(value(1.0, "published"), rel=1e-5)

    def test_metrics_of_the_other_variant_are_refused(self):
        lists = jnp.ones((2, 3))
        with pytest.raises(
            ValueError, match="metric of variant 'published' must be one of 'auc', .*got 'map'"
        ):
            metrics.user_snips(lists, lists, propensity=lists, metric="map")
        with pytest.raises(ValueError, match="unknown variant 'yang'; there are published, cjmf"):
            metrics.user_snips(lists, lists, propensity=lists, variant="yang")

    def test_ties_of_map_are_by_index(self):
        scores, labels = jnp.array([[0.5, 0.5, 0.5]]), jnp.array([[0.0, 1.0, 0.0]])
        options = {"propensity": jnp.full((1, 3), 0.5), "metric": "map", "variant": "cjmf"}
        # The second of three equal scores: a weight of 2 over its rank.
        for more in ({}, {"ties": "by_index"}):
            value = metrics.user_snips(scores, labels, **options, **more).estimate
            assert float(value) == pytest.approx((2 / 2) / (1 + 3e-7), rel=1e-6)
        for ties in ("mean", "foo"):
            with pytest.raises(
                ValueError, match=f"ties of metric 'map' must be one of 'by_index', got '{ties}'"
            ):
                metrics.user_snips(scores, labels, **options, ties=ties)
        with pytest.raises(ValueError, match="ties of metric 'dcg' must be one of 'mean', .*got 'foo'"):
            metrics.user_snips(scores, labels, **(options | {"metric": "dcg"}), ties="foo")

    @pytest.mark.parametrize(("metric", "variant"), [("recall", "published"), ("map", "cjmf")])
    @pytest.mark.parametrize("value", [-0.5, np.inf, np.nan])
    def test_propensities_that_cannot_be_are_refused_and_nan_under_jit(self, metric, variant, value):
        scores, labels = jnp.array([[0.9, 0.5, 0.1]]), jnp.array([[0.0, 1.0, 1.0]])
        propensity = jnp.array([[value, 0.5, value]])
        of = functools.partial(metrics.user_snips, scores, labels, metric=metric, variant=variant)
        with pytest.raises(ValueError, match=rf"propensity\[0, 2\] is {value:g}; .* \(0, inf\)"):
            of(propensity=propensity)
        assert np.isnan(jax.jit(of)(propensity=propensity).estimate)
        # P is needed up to a factor.
        assert np.isfinite(of(propensity=propensity.at[0, 2].set(3.0)).estimate)
