"""NCE, NEG and gBCE: values, limits, and where their expected losses are least."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import losses as reference

from debias_jax import losses

POS = np.array([-80.0, -1.5, 0.0, 2.25, 80.0], np.float32)
NEG = np.array([[80.0, -80.0], [0.5, -3.0], [0.0, 1.0], [-4.0, 2.25], [-80.0, 80.0]], np.float32)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("negative_sampling", {}),
        ("noise_contrastive", {"c": 1.0, "n_items": 11}),
        ("noise_contrastive", {"c": 10.0, "n_items": 11}),
        ("gbce", {"n_items": 11, "t": 0.0}),
        ("gbce", {"n_items": 11, "t": 0.75}),
        ("gbce", {"n_items": 11, "t": 1.0}),
    ],
)
def test_published_form(name, options):
    ours = getattr(losses, name)(POS, NEG, reduce_fn=None, **options)
    expected = [
        getattr(reference, name)(float(p), n.tolist(), **options) for p, n in zip(POS, NEG, strict=True)
    ]
    np.testing.assert_allclose(ours, expected, rtol=3e-6)


def test_hand_values():
    pos, neg = jnp.array([0.0]), jnp.array([[0.0, 0.0, 0.0]])
    assert float(losses.negative_sampling(pos, neg)) == pytest.approx(4 * np.log(2), rel=1e-6)
    # s' = -log 2 - log(3/12) = log 2: softplus(-log 2) + 3 softplus(log 2).
    nce = losses.noise_contrastive(pos, neg, c=float(np.log(2.0)), n_items=12)
    assert float(nce) == pytest.approx(np.log(1.5) + 3 * np.log(3.0), rel=1e-6)
    # beta = 1 - .5 (1 - 3/4).
    assert float(losses.gbce(pos, neg, n_items=5, t=0.5)) == pytest.approx(3.875 / 4 * np.log(2), rel=1e-6)


def test_negative_sampling_is_noise_contrastive_with_c_of_log_n_over_k():
    ours = losses.noise_contrastive(POS, NEG, c=float(np.log(40 / 2)), n_items=40, reduce_fn=None)
    np.testing.assert_allclose(ours, losses.negative_sampling(POS, NEG, reduce_fn=None), rtol=1e-6)


def test_of_one_sample_bce_negative_sampling_and_gbce_without_calibration_are_one_loss():
    one = NEG[:, :1]
    bce = losses.bce(POS, one, reduce_fn=None)
    np.testing.assert_allclose(losses.negative_sampling(POS, one, reduce_fn=None), bce, rtol=1e-6)
    # gBCE is a mean over the K + 1 scores.
    plain = losses.gbce(POS, one, n_items=11, t=0.0, reduce_fn=None)
    np.testing.assert_allclose(2 * plain, bce, rtol=1e-6)
    many = losses.gbce(POS, NEG, n_items=11, t=0.0, reduce_fn=None)
    np.testing.assert_allclose(3 * many, losses.negative_sampling(POS, NEG, reduce_fn=None), rtol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
def test_what_probability_gbce_learns(t):
    """An item that comes next with probability p is a positive so often, and else a negative in a share a of the cases.

    The expected gradient in its score vanishes at sigmoid(s) = beta p / (beta p + a (1 - p)), which is p at t = 1.
    """
    n_items, n_samples, p = 21, 5, 0.3
    rate = n_samples / (n_items - 1)
    beta = 1 - t * (1 - rate)
    learnt = beta * p / (beta * p + rate * (1 - p))
    if t == 1.0:
        assert learnt == pytest.approx(p)
    else:
        assert learnt > p + 0.1
    score = jnp.asarray(np.log(learnt / (1 - learnt)), jnp.float32)

    def expected(score):
        others = jnp.zeros((1, n_samples - 1))
        drawn = jnp.concatenate([score[None, None], others], axis=1)
        as_positive = losses.gbce(score[None], jnp.zeros((1, n_samples)), n_items=n_items, t=t)
        as_negative = losses.gbce(jnp.zeros(1), drawn, n_items=n_items, t=t)
        return p * as_positive + (1 - p) * rate * as_negative

    assert abs(float(jax.grad(expected)(score))) < 1e-7
    assert abs(float(jax.grad(expected)(score + 0.1))) > 1e-4


def test_noise_contrastive_learns_the_softmax_where_c_is_its_log_normaliser():
    """Over positives and all uniform draws the expected gradient vanishes at the true scores, and for no other c."""
    scores = jnp.array([0.5, -1.0, 1.5, 0.0])
    log_z = float(jax.nn.logsumexp(scores))
    chance = np.asarray(jax.nn.softmax(scores))
    draws = np.stack(np.meshgrid(*[np.arange(4)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)

    def expected(scores, c):
        pos = jnp.broadcast_to(scores[:, None], (4, len(draws)))
        neg = jnp.broadcast_to(scores[draws][None], (4, *draws.shape))
        values = losses.noise_contrastive(pos, neg, c=c, n_items=4, reduce_fn=None)
        return jnp.sum(jnp.asarray(chance)[:, None] * values) / len(draws)

    assert np.abs(jax.grad(expected)(scores, log_z)).max() < 1e-6
    assert np.abs(jax.grad(expected)(scores, log_z + 1.0)).max() > 1e-2


@pytest.mark.parametrize(
    ("name", "options"),
    [("noise_contrastive", {"c": 1.0, "n_items": 11}), ("gbce", {"n_items": 11})],
)
def test_a_sweep_compiles_once(name, options):
    swept = "c" if name == "noise_contrastive" else "t"
    traces = []

    @jax.jit
    def loss(value):
        traces.append(1)
        return getattr(losses, name)(POS, NEG, **(options | {swept: value}))

    values = {float(loss(value)) for value in (0.1, 0.5, 1.0)}
    assert len(traces) == 1
    assert len(values) == 3


def test_c_of_each_example():
    c = jnp.array([1.0, 5.0, 1.0, 5.0, 1.0])
    ours = losses.noise_contrastive(POS, NEG, c=c, n_items=11, reduce_fn=None)
    ones, fives = (losses.noise_contrastive(POS, NEG, c=x, n_items=11, reduce_fn=None) for x in (1.0, 5.0))
    np.testing.assert_allclose(ours, np.where(c == 1.0, ones, fives), rtol=1e-6)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="n_items must be at least 1, got 0"):
        losses.noise_contrastive(POS, NEG, c=1.0, n_items=0)
    with pytest.raises(ValueError, match="n_items must be at least 2, got 1"):
        losses.gbce(POS, NEG, n_items=1)
    with pytest.raises(ValueError, match="t must be between 0 and 1, got 1.5"):
        losses.gbce(POS, NEG, n_items=11, t=1.5)
    with pytest.raises(ValueError, match=r"c must be a scalar or of shape \(5,\), got \(2,\)"):
        losses.noise_contrastive(POS, NEG, c=jnp.ones(2), n_items=11)
