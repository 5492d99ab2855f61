"""``bpr`` and ``bce``: one positive against K samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import losses as reference

from debias_jax import losses

POS = np.array([-80.0, -1.5, 0.0, 2.25, 80.0], np.float32)
NEG = np.array([[80.0, -80.0], [0.5, -3.0], [0.0, 1.0], [-4.0, 2.25], [-80.0, 80.0]], np.float32)


@pytest.mark.parametrize("name", ["bpr", "bce"])
def test_published_form(name):
    ours = getattr(losses, name)(POS, NEG, reduce_fn=None)
    expected = [getattr(reference, name)(float(p), n.tolist()) for p, n in zip(POS, NEG, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_hand_values():
    pos, neg = jnp.array([1.0]), jnp.array([[1.0, 1.0]])
    assert float(losses.bpr(pos, neg)) == pytest.approx(np.log(2.0), rel=1e-6)
    assert float(losses.bce(pos, neg)) == pytest.approx(np.log1p(np.exp(-1.0)) + np.log1p(np.e), rel=1e-6)


def test_bpr_gradient_is_the_probability_of_the_wrong_order():
    gradient = jax.grad(lambda p: losses.bpr(p, jnp.array([[0.5]])))(jnp.array([2.0]))
    np.testing.assert_allclose(gradient, [-1 / (1 + np.exp(1.5))], rtol=1e-6)


def test_bce_weighs_all_negatives_together_like_the_positive():
    one = losses.bce(jnp.array([0.3]), jnp.array([[0.7]]))
    many = losses.bce(jnp.array([0.3]), jnp.full((1, 9), 0.7))
    assert float(one) == pytest.approx(float(many), rel=1e-6)


@pytest.mark.parametrize("loss", [losses.bpr, losses.bce])
def test_leading_axes_are_batch_and_weights_are_factors(loss):
    pos, neg = POS[:4].reshape(2, 2), NEG[:4].reshape(2, 2, 2)
    weights = np.array([[1.0, 0.0], [2.0, 3.0]], np.float32)
    values = loss(POS[:4], NEG[:4], reduce_fn=None).reshape(2, 2)
    weighted = loss(pos, neg, weights=weights, reduce_fn=None)
    np.testing.assert_allclose(weighted, weights * values, rtol=1e-6)
    assert float(loss(pos, neg, weights=weights)) == pytest.approx(float(np.mean(weights * values)), rel=1e-6)


@pytest.mark.parametrize("loss", [losses.bpr, losses.bce])
def test_misuse_is_refused(loss):
    pos = jnp.zeros(3)
    with pytest.raises(TypeError, match="neg must be of a floating dtype, got int32"):
        loss(pos, jnp.zeros((3, 2), jnp.int32))
    for wrong in [(3,), (2, 4), (3, 0), (3, 1, 1)]:
        with pytest.raises(ValueError, match=r"neg must be of shape \(3, K\) with K >= 1, got"):
            loss(pos, jnp.zeros(wrong))
    with pytest.raises(ValueError, match=r"weights must be a scalar or of shape \(3,\)"):
        loss(pos, jnp.zeros((3, 2)), weights=jnp.ones((3, 2)))


@pytest.mark.parametrize(("name", "key"), [("bce", "BCE"), ("bpr", "BPR")])
@pytest.mark.parametrize("suffix", ["", "_K1"])
def test_parity_with_the_released_sasrec_losses(fixtures_dir, name, key, suffix):
    with np.load(fixtures_dir / "sasrec.npz", allow_pickle=False) as f:
        scored = f["out/scored_mask"]
        negatives = f["batch/negatives"][scored][:, : 1 if suffix else None]
        table = f["param/Item.embeddings.weight"]
        neg = np.einsum("nd,nkd->nk", f["out/features_scored"], table[negatives])
        pos = f["out/pos_logits_scored"][:, 0]
        expected = float(f[f"loss/{key}{suffix}"])
    assert float(getattr(losses, name)(pos, neg)) == pytest.approx(expected, rel=1e-5)
    # The same with padded slots in place, masked instead of dropped.
    full_pos = np.full(scored.shape, np.nan, np.float32)
    full_neg = np.full(scored.shape + neg.shape[1:], np.nan, np.float32)
    full_pos[scored], full_neg[scored] = pos, neg
    masked = getattr(losses, name)(full_pos, full_neg, where=scored)
    assert float(masked) == pytest.approx(expected, rel=1e-5)
