import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import risks


def test_user_item_is_the_expected_table_under_independence():
    # Six observed pairs: users 3, 2, 1; items 4, 2.
    table = risks.user_item(jnp.array([[3], [2], [1]]), jnp.array([[4, 2]]), total=6)
    assert table.dtype == jnp.float32
    # 3 * 4 / 6 = 2 and 2 * 4 / 6 = 4/3 are capped.
    np.testing.assert_allclose(table, [[1.0, 1.0], [1.0, 4 / 6], [4 / 6, 2 / 6]], rtol=1e-6)


def test_user_item_keeps_both_margins_where_nothing_is_capped():
    users, items = np.array([3.0, 2.0, 1.0, 2.0]), np.array([2.0, 2.0, 2.0, 1.0, 1.0])
    table = np.asarray(risks.user_item(users[:, None], items[None, :], total=users.sum()))
    assert (table < 1).all()
    np.testing.assert_allclose(table.sum(axis=1), users, rtol=1e-6)
    np.testing.assert_allclose(table.sum(axis=0), items, rtol=1e-6)


def test_user_item_of_nothing_is_zero():
    table = risks.user_item(jnp.zeros((2, 1)), jnp.zeros((1, 3)), total=0.0)
    np.testing.assert_array_equal(table, np.zeros((2, 3)))


def test_naive_bayes_by_hand():
    # Of 100 pairs 20 are observed, 15 of them positive; 40 of the 100 are positive: 15/40 and 5/60.
    labels = np.repeat([1.0, 0.0], [15, 5]).astype(np.float32)
    propensity = risks.naive_bayes(labels, label_marginal=0.4, observed_rate=0.2)
    np.testing.assert_allclose(propensity, np.repeat([15 / 40, 5 / 60], [15, 5]), rtol=1e-6)
    np.testing.assert_array_equal(
        risks.naive_bayes(labels > 0, label_marginal=0.4, observed_rate=0.2), propensity
    )


def test_naive_bayes_makes_the_inverse_weights_sum_to_all_pairs():
    """Both labels occur among the rows: sum 1/p = 40 + 60 = 100 pairs."""
    labels = np.repeat([1.0, 0.0], [15, 5]).astype(np.float32)
    propensity = risks.naive_bayes(labels, label_marginal=0.4, observed_rate=0.2)
    assert float(np.sum(1 / propensity)) == pytest.approx(100.0, rel=1e-5)


def test_naive_bayes_masks_rows_and_does_not_clamp():
    labels, where = jnp.array([1.0, 0.0, jnp.nan]), jnp.array([True, True, False])
    propensity = risks.naive_bayes(labels, label_marginal=0.125, observed_rate=0.5, where=where)
    np.testing.assert_allclose(propensity, [0.5 * 0.5 / 0.125, 0.5 * 0.5 / 0.875, 0.0], rtol=1e-6)
    assert np.isinf(risks.naive_bayes(jnp.array([1.0, 0.0]), label_marginal=0.0, observed_rate=0.5)[0])


def test_naive_bayes_compiles_once_for_all_marginals():
    traces = []

    @jax.jit
    def compiled(labels, marginal):
        traces.append(marginal)
        return risks.naive_bayes(labels, label_marginal=marginal, observed_rate=0.25)

    labels = jnp.array([1.0, 0.0])
    for marginal in (0.25, 0.5):
        np.testing.assert_allclose(
            compiled(labels, jnp.float32(marginal)), [0.125 / marginal, 0.125 / (1 - marginal)], rtol=1e-6
        )
    assert len(traces) == 1


def test_misuse_is_refused():
    labels = np.array([1.0, 0.0], np.float32)
    with pytest.raises(TypeError, match="labels must be boolean or of a floating dtype, got int32"):
        risks.naive_bayes(np.array([1, 0], np.int32), label_marginal=0.5, observed_rate=0.5)
    with pytest.raises(ValueError, match="label_marginal must be a scalar"):
        risks.naive_bayes(labels, label_marginal=labels, observed_rate=0.5)
    with pytest.raises(ValueError, match=r"where must be of shape \(2,\), got \(3,\)"):
        risks.naive_bayes(labels, label_marginal=0.5, observed_rate=0.5, where=np.ones(3, bool))
