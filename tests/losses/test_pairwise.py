"""``ubpr``: its published form, its expectation by enumeration, and what the clip does."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import losses

EXPOSURE = np.array([0.8, 0.3, 0.55])
RELEVANCE = np.array([[0.9, 0.4, 0.2], [0.1, 0.7, 0.5]])
SCORES = np.array([[1.5, -0.5, 0.25], [-1.0, 2.0, 0.5]])


def _softplus(x):
    return np.logaddexp(0.0, x)


def _pairs():
    """All (user, item, other item)."""
    users, items, others = (axis.ravel() for axis in np.indices((2, 3, 3)))
    keep = items != others
    return users[keep], items[keep], others[keep]


def _estimates(beta=None, *, clicked_others=True):
    """The summed loss of each of the 64 click matrices, and the probability of each."""
    users, items, others = _pairs()

    @jax.jit
    @jax.vmap
    def total(clicks):
        return losses.ubpr(
            jnp.asarray(SCORES)[users, items],
            jnp.asarray(SCORES)[users, others][:, None],
            clicks[users, others][:, None],
            pos_exposure=jnp.asarray(EXPOSURE)[items],
            neg_exposure=jnp.asarray(EXPOSURE)[others][:, None],
            where=(clicks[users, items] > 0) & (clicked_others | (clicks[users, others] == 0)),
            beta=beta,
            reduce_fn=jnp.sum,
        )

    clicks = np.array(list(itertools.product([0.0, 1.0], repeat=6))).reshape(64, 2, 3)
    rate = EXPOSURE * RELEVANCE
    probability = np.where(clicks > 0, rate, 1 - rate).prod(axis=(1, 2))
    assert probability.sum() == pytest.approx(1.0, rel=1e-12)
    return np.asarray(total(jnp.asarray(clicks))), probability


def _ideal():
    users, items, others = _pairs()
    weight = RELEVANCE[users, items] * (1 - RELEVANCE[users, others])
    return np.sum(weight * _softplus(SCORES[users, others] - SCORES[users, items]))


def test_it_is_unbiased_for_the_pairwise_loss_on_relevance(x64):
    """Claim: with the true exposure E L = sum gamma_i (1 - gamma_j) (-log sigma(s_i - s_j)). True without a clip."""
    values, probability = _estimates()
    assert float(probability @ values) == pytest.approx(_ideal(), rel=1e-12)


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_the_clip_biases_it_upwards_by_what_it_leaves_out(x64, beta):
    """A pair of two clicks has the value (1/m_i)(1 - 1/m_j) l, of which the clip keeps the part above -beta."""
    values, probability = _estimates(beta)
    users, items, others = _pairs()
    rate = EXPOSURE * RELEVANCE
    both = rate[users, items] * rate[users, others]
    taken_back = (1 / EXPOSURE[others] - 1) / EXPOSURE[items]
    taken_back = taken_back * _softplus(SCORES[users, others] - SCORES[users, items])
    bias = np.sum(both * np.maximum(taken_back - beta, 0))
    assert bias > 0.1
    assert float(probability @ values) == pytest.approx(_ideal() + bias, rel=1e-12)
    if beta == 0:
        assert (values >= 0).all()


def test_others_that_leave_out_clicked_items_bias_it(x64):
    """The factor 1 - Y/m is then 1: its expectation has 1 - m_j gamma_j in the place of 1 - gamma_j."""
    values, probability = _estimates(clicked_others=False)
    users, items, others = _pairs()
    weight = RELEVANCE[users, items] * (1 - EXPOSURE[others] * RELEVANCE[users, others])
    biased = np.sum(weight * _softplus(SCORES[users, others] - SCORES[users, items]))
    assert float(probability @ values) == pytest.approx(biased, rel=1e-12)
    assert biased > 1.2 * _ideal()


def test_hand_values_and_gradients():
    pos, neg = jnp.array([1.0, 1.0]), jnp.array([[0.0, 2.0], [0.0, 2.0]])
    clicks = jnp.array([[0.0, 1.0], [0.0, 0.0]])

    def values(pos, **options):
        return losses.ubpr(
            pos,
            neg,
            clicks,
            pos_exposure=jnp.array([0.5, 0.25]),
            neg_exposure=jnp.array([[0.0, 0.2], [0.0, 0.0]]),
            reduce_fn=None,
            **options,
        )

    below, above = _softplus(-1.0), _softplus(1.0)
    np.testing.assert_allclose(values(pos), [2 * (below - 4 * above) / 2, 4 * (below + above) / 2], rtol=1e-6)
    np.testing.assert_allclose(
        values(pos, beta=3.0), [(2 * below - 3.0) / 2, 4 * (below + above) / 2], rtol=1e-6
    )
    gradient = jax.jacobian(lambda pos: values(pos, beta=3.0))(pos)
    slopes = [-1 / (1 + np.e), -1 / (1 + np.exp(-1.0))]
    np.testing.assert_allclose(
        np.diag(gradient), [2 * slopes[0] / 2, 4 * (slopes[0] + slopes[1]) / 2], rtol=1e-6
    )


def test_with_exposure_one_and_no_clicked_others_it_is_bpr():
    pos, neg = jnp.array([0.3, -80.0, 80.0]), jnp.array([[0.7, 1.0], [80.0, 0.0], [-80.0, 2.0]])
    ours = losses.ubpr(pos, neg, jnp.zeros((3, 2)), pos_exposure=1.0, neg_exposure=1.0, reduce_fn=None)
    np.testing.assert_array_equal(ours, losses.bpr(pos, neg, reduce_fn=None))


def test_misuse_is_refused():
    pos, neg = jnp.zeros(3), jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=r"neg \(3, 2\), neg_clicks \(3,\)"):
        losses.ubpr(pos, neg, jnp.zeros(3), pos_exposure=1.0, neg_exposure=1.0)
    with pytest.raises(ValueError, match=r"neg_exposure must be a scalar or of shape \(3, 2\)"):
        losses.ubpr(pos, neg, neg, pos_exposure=1.0, neg_exposure=jnp.ones(3))
    with pytest.raises(TypeError, match="pos_exposure must be of a floating dtype, got int32"):
        losses.ubpr(pos, neg, neg, pos_exposure=jnp.ones(3, jnp.int32), neg_exposure=1.0)
