"""AUC, log loss and Pearson correlation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from reference import ranking as reference

from debias_jax import metrics


def scored(seed, n=300, levels=7):
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=n).astype(np.float32) - 3.0
    return scores, (rng.random(n) < 0.4).astype(np.float32), rng.random(n) < 0.8


pooled_auc = jax.jit(lambda s, y, w: metrics.auc(s, y, where=w))


def test_auc_with_ties_and_a_mask():
    scores, labels, where = scored(0)
    # Shares in [0, 1], rounded a few times: 1e-6 is 16 units in the last place.
    ours = float(pooled_auc(scores, labels, where))
    assert ours == pytest.approx(sklearn.metrics.roc_auc_score(labels[where], scores[where]), abs=1e-6)
    assert ours == pytest.approx(reference.auc(scores[where], labels[where]), abs=1e-6)


def test_auc_pools_all_axes_and_vmap_does_not():
    scores, labels, where = scored(1)
    grids = [array.reshape(3, 100) for array in (scores, labels, where)]
    assert float(pooled_auc(*grids)) == pytest.approx(reference.auc(scores[where], labels[where]), abs=1e-6)
    rows = [reference.auc(s[w], y[w]) for s, y, w in zip(*grids, strict=True)]
    np.testing.assert_allclose(jax.jit(jax.vmap(pooled_auc))(*grids), rows, rtol=0, atol=1e-6)


def test_auc_of_a_large_pool_keeps_float32_accuracy():
    rng = np.random.default_rng(2)
    labels = (rng.random(50_000) < 0.3).astype(np.float32)
    scores = (labels + rng.normal(size=labels.size)).astype(np.float32)
    ours = float(jax.jit(metrics.auc)(scores, labels))
    assert ours == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=5e-7)


def test_auc_is_half_for_a_constant_and_does_not_depend_on_the_order():
    scores, labels, where = scored(3)
    assert float(pooled_auc(np.where(where, 0.0, -0.0).astype(np.float32), labels, where)) == 0.5
    zeros = np.where(np.arange(scores.size) % 2, 0.0, -0.0).astype(np.float32)
    assert float(pooled_auc(zeros, labels, where)) == 0.5
    order = np.random.default_rng(4).permutation(scores.size)
    shuffled = pooled_auc(scores[order], labels[order], where[order])
    assert float(shuffled) == pytest.approx(float(pooled_auc(scores, labels, where)), abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "labels", "where", "expected"),
    [
        ([0.1, 0.2, 0.3], [1, 1, 1], [1, 1, 1], np.nan),
        ([0.1, 0.2, 0.3], [0, 0, 0], [1, 1, 1], np.nan),
        ([0.1, 0.2, 0.3], [0, 1, 1], [0, 1, 1], np.nan),
        ([0.1, 0.2, 0.3], [0, 1, 1], [0, 0, 0], np.nan),
        ([np.nan, 0.2, 0.1], [1, 1, 0], [1, 1, 1], np.nan),
        ([np.nan, 0.2, 0.1], [1, 1, 0], [0, 1, 1], 1.0),
        ([np.inf, np.inf, -np.inf], [1, 0, 0], [1, 1, 1], 0.75),
        ([np.inf, 0.2, 0.1], [0, 0, 1], [0, 1, 1], 0.0),
    ],
)
def test_auc_at_its_edges(scores, labels, where, expected):
    ours = pooled_auc(np.array(scores, np.float32), np.array(labels), np.array(where, bool))
    np.testing.assert_equal(float(ours), expected)


def test_log_loss():
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=50).astype(np.float32) * 3, (rng.random(50) < 0.5).astype(np.float32)
    where, weights = rng.random(50) < 0.6, rng.random(50).astype(np.float32)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    ours = float(metrics.log_loss(logits, labels, where=where))
    assert ours == pytest.approx(sklearn.metrics.log_loss(labels[where], probabilities[where]), rel=2e-6)
    each = -weights * (labels * np.log(probabilities) + (1 - labels) * np.log(1 - probabilities))
    ours = metrics.log_loss(logits, labels, weights=weights, reduce_fn=None)
    np.testing.assert_allclose(ours, each, rtol=1e-5, atol=1e-6)
    assert float(metrics.log_loss(jnp.array([80.0, -80.0]), jnp.array([0.0, 1.0]))) == 80.0


def test_pearson():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 5, 40)).astype(np.float32)
    y += x
    where = rng.random((5, 40)) < 0.7
    expected = [
        np.corrcoef(a[w], b[w])[0, 1]
        for a, b, w in zip(x.astype(np.float64), y.astype(np.float64), where, strict=True)
    ]
    ours = jax.jit(lambda x, y, w: metrics.pearson(x, y, where=w, reduce_fn=None))
    # 40 products, each a few units in the last place of 1.
    np.testing.assert_allclose(ours(x, y, where), expected, rtol=0, atol=5e-6)
    np.testing.assert_allclose(ours(x, x, where), np.ones(5), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours(x, -3.0 * x - 1.0, where), -np.ones(5), rtol=0, atol=1e-6)
    # Squares of such small values would underflow.
    np.testing.assert_allclose(ours(np.float32(1e-25) * x, x, where), np.ones(5), rtol=0, atol=1e-6)


def test_pearson_leaves_out_constant_rows():
    x = np.array([[0.1, 0.1, 0.1], [0.1, 0.2, 0.4], [0.3, 0.1, 0.2]], np.float32)
    y = np.array([[0.1, 0.2, 0.3], [0.2, 0.4, 0.8], [0.7, 0.7, 0.7]], np.float32)
    each, mean = jax.jit(lambda x, y: (metrics.pearson(x, y, reduce_fn=None), metrics.pearson(x, y)))(x, y)
    np.testing.assert_allclose(each, [0.0, 1.0, 0.0], rtol=0, atol=1e-6)
    assert float(mean) == pytest.approx(1.0, abs=1e-6)
    gradient = jax.jit(jax.grad(metrics.pearson))(x, y[[0, 0, 2]])
    assert np.isfinite(gradient).all()
    assert float(jax.jit(metrics.pearson)(x, np.ones_like(x))) == 0.0
    x[1, 0] = np.nan
    assert np.isnan(jax.jit(metrics.pearson)(x, y))


def test_errors_name_the_offence():
    x = jnp.array([0.1, 0.2])
    for call, message in (
        (lambda: metrics.auc(jnp.array([1, 2]), x), "scores must be of a floating dtype"),
        (lambda: metrics.log_loss(x, x, weights=jnp.array([1, 2])), "weights must be of a floating dtype"),
        (lambda: metrics.pearson(x, jnp.array([1, 2])), "y must be of a floating dtype"),
        (lambda: metrics.auc(x, x, where=x), "where must be boolean"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    for call, message in (
        (lambda: metrics.auc(x, x[:1]), r"scores \(2,\), labels \(1,\)"),
        (lambda: metrics.log_loss(x, x[:1]), r"logits \(2,\), labels \(1,\)"),
        (lambda: metrics.pearson(x[0], x[1]), "last axis"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
