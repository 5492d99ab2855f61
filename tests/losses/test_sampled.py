"""Losses of one positive against K samples, but for the binary ones with a sum over the samples (``test_noise.py``)."""

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


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0, 100.0])
def test_scaled_cross_entropy(alpha):
    ours = losses.scaled_cross_entropy(POS, NEG, alpha=alpha, reduce_fn=None)
    expected = [
        reference.scaled_cross_entropy(float(p), n.tolist(), alpha) for p, n in zip(POS, NEG, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=2e-6)


def test_scaled_by_one_is_the_sampled_softmax():
    ours = losses.scaled_cross_entropy(POS, NEG, alpha=1.0, reduce_fn=None)
    sampled = losses.cross_entropy(
        np.concatenate([POS[:, None], NEG], axis=1), np.zeros(5, np.int32), reduce_fn=None
    )
    np.testing.assert_allclose(ours, sampled, rtol=1e-6, atol=1e-7)


def test_scaled_on_every_other_item_once_is_the_cross_entropy(rng):
    scores = rng.normal(0.0, 2.0, (4, 7)).astype(np.float32)
    target = np.array([0, 3, 6, 2], np.int32)
    others = np.arange(7) != target[:, None]
    ours = losses.scaled_cross_entropy(
        scores[np.arange(4), target], scores[others].reshape(4, 6), alpha=1.0, reduce_fn=None
    )
    np.testing.assert_allclose(ours, losses.cross_entropy(scores, target, reduce_fn=None), rtol=2e-6)


def test_gradients_of_the_scaled_loss_are_those_of_logits_with_log_alpha_added():
    pos, neg, alpha = jnp.array([0.5]), jnp.array([[1.0, -1.0, 0.0]]), 3.0
    weights = np.array([np.exp(0.5), *(3.0 * np.exp([1.0, -1.0, 0.0]))])
    share = weights / weights.sum()

    def loss(pos, neg, alpha):
        return losses.scaled_cross_entropy(pos, neg, alpha=alpha)

    of_pos, of_neg, of_alpha = jax.grad(loss, argnums=(0, 1, 2))(pos, neg, alpha)
    np.testing.assert_allclose(of_pos, [share[0] - 1], rtol=1e-6)
    np.testing.assert_allclose(of_neg, [share[1:]], rtol=1e-6)
    # d/d alpha of log(e^s+ + alpha S) is S / Z.
    np.testing.assert_allclose(of_alpha, share[1:].sum() / alpha, rtol=1e-6)


def test_alpha_of_each_example_and_one_compilation_for_a_sweep():
    traces = []

    @jax.jit
    def loss(alpha):
        traces.append(1)
        return losses.scaled_cross_entropy(POS, NEG, alpha=alpha, reduce_fn=None)

    both = [np.asarray(loss(jnp.asarray(alpha))) for alpha in (1.0, 50.0)]
    assert len(traces) == 1
    mixed = losses.scaled_cross_entropy(
        POS, NEG, alpha=jnp.array([1.0, 50.0, 1.0, 1.0, 50.0]), reduce_fn=None
    )
    np.testing.assert_allclose(mixed, np.where([0, 1, 0, 0, 1], both[1], both[0]), rtol=1e-6)


def test_importance_sampled_softmax_without_the_positive_in_its_sum():
    log_q_pos, log_q_neg = np.float32(-1.0), np.array([-0.5, -2.0], np.float32)
    ours = losses.importance_sampled_softmax(
        POS, NEG, log_q_pos=log_q_pos, log_q_neg=log_q_neg, positive_in_sum=False, reduce_fn=None
    )
    expected = [
        reference.importance_sampled(float(p), n.tolist(), -1.0, [-0.5, -2.0])
        for p, n in zip(POS, NEG, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=2e-6)
    assert ours[-1] < 0 or ours[0] > 0
    within = losses.importance_sampled_softmax(
        POS, NEG, log_q_pos=log_q_pos, log_q_neg=log_q_neg, reduce_fn=None
    )
    assert (np.asarray(within) > np.asarray(ours)).any()


COUNTED = {
    "bce": {},
    "bpr": {},
    "scaled_cross_entropy": {"alpha": 3.0},
    "noise_contrastive": {"c": 1.5, "n_items": 9},
    "negative_sampling": {},
    "gbce": {"n_items": 9, "t": 0.75},
    "importance_sampled_softmax": {"log_q_pos": -1.0, "log_q_neg": -2.0},
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts_of_all_items_equal_gathered_samples_in_value_and_gradient(rng, name):
    scores = jnp.asarray(rng.normal(0.0, 2.0, (4, 9)), jnp.float32)
    drawn = rng.integers(0, 9, (4, 6))
    counts = np.stack([np.bincount(row, minlength=9) for row in drawn]).astype(np.float32)
    assert counts.max() > 1
    pos = scores[:, 2] + 0.5

    def loss(pos, neg, **more):
        return getattr(losses, name)(pos, neg, **COUNTED[name], **more)

    def gathered(pos, scores):
        return loss(pos, jnp.take_along_axis(scores, drawn, axis=1))

    dense, of_dense = jax.value_and_grad(
        lambda pos, scores: loss(pos, scores, counts=counts), argnums=(0, 1)
    )(pos, scores)
    value, of_gathered = jax.value_and_grad(gathered, argnums=(0, 1))(pos, scores)
    assert float(dense) == pytest.approx(float(value), rel=2e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), of_dense, of_gathered)


@pytest.mark.parametrize("name", COUNTED)
def test_a_count_of_zero_leaves_a_sample_out_whatever_it_holds(name):
    neg = jnp.array([[0.5, np.nan, -1.0], [np.nan, np.inf, np.nan]])
    counts = jnp.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    pos = jnp.array([0.25, 0.25])

    def loss(pos, neg):
        return getattr(losses, name)(pos, neg, counts=counts, reduce_fn=None, **COUNTED[name])

    values = loss(pos, neg)
    kept = getattr(losses, name)(pos[:1], jnp.array([[0.5, -1.0, -1.0]]), **COUNTED[name])
    assert float(values[0]) == pytest.approx(float(kept), rel=1e-6)
    gradients = jax.grad(lambda pos, neg: jnp.sum(loss(pos, neg)), argnums=(0, 1))(pos, neg)
    assert all(np.isfinite(leaf).all() for leaf in gradients)
    np.testing.assert_array_equal(np.asarray(gradients[1])[np.asarray(counts) == 0], 0.0)
    # Without any sample the softmax kinds have nothing to tell the positive from.
    if name in ("bpr", "scaled_cross_entropy", "importance_sampled_softmax", "noise_contrastive"):
        assert values[1] == 0 and gradients[0][1] == 0
    if name == "bce":
        assert float(values[1]) == pytest.approx(np.log1p(np.exp(-0.25)), rel=1e-6)


def test_bce_and_bpr_take_the_mean_over_the_draws_that_count():
    pos, neg = jnp.array([1.0]), jnp.array([[0.0, 2.0, 5.0]])
    counts = jnp.array([[3.0, 1.0, 0.0]])
    drawn = (3 * np.log1p(np.exp(0.0)) + np.log1p(np.exp(2.0))) / 4
    assert float(losses.bce(pos, neg, counts=counts)) == pytest.approx(
        np.log1p(np.exp(-1.0)) + drawn, rel=1e-6
    )
    drawn = (3 * np.log1p(np.exp(-1.0)) + np.log1p(np.exp(1.0))) / 4
    assert float(losses.bpr(pos, neg, counts=counts)) == pytest.approx(drawn, rel=1e-6)


def test_no_gradient_is_taken_of_counts():
    gradient = jax.grad(lambda counts: losses.scaled_cross_entropy(POS, NEG, alpha=2.0, counts=counts))(
        jnp.ones_like(NEG)
    )
    np.testing.assert_array_equal(gradient, 0.0)


def test_misuse_of_the_softmax_kind_is_refused():
    with pytest.raises(ValueError, match="alpha must be positive, got 0"):
        losses.scaled_cross_entropy(POS, NEG, alpha=0)
    with pytest.raises(ValueError, match=r"alpha must be a scalar or of shape \(5,\), got \(2,\)"):
        losses.scaled_cross_entropy(POS, NEG, alpha=jnp.ones(2))
    with pytest.raises(ValueError, match=r"shapes must be equal, got neg \(5, 2\), counts \(5, 3\)"):
        losses.scaled_cross_entropy(POS, NEG, alpha=1.0, counts=jnp.ones((5, 3)))
    with pytest.raises(TypeError, match="counts must be of a floating dtype, got int32"):
        losses.scaled_cross_entropy(POS, NEG, alpha=1.0, counts=jnp.ones((5, 2), jnp.int32))
