"""``cross_entropy`` and its truncations: values, ties, limits, masks and misuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import losses as reference

from debias_jax import losses

SCORES = np.array(
    [
        [0.5, -1.0, 2.0, 0.0, 1.5, -3.0],
        [-2.0, -2.5, -1.0, -4.0, -2.25, -2.0],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        [80.0, -80.0, 79.0, 0.0, 3.0, -80.0],
        [0.0, 0.5, -0.5, 0.0, 1.0, -80.0],
    ],
    np.float32,
)
TARGET = np.array([4, 0, 3, 2, 0], np.int32)


def each(function, *arguments):
    return [function(row.tolist(), int(t), *arguments) for row, t in zip(SCORES, TARGET, strict=True)]


def test_cross_entropy():
    np.testing.assert_allclose(
        losses.cross_entropy(SCORES, TARGET, reduce_fn=None), each(reference.cross_entropy), rtol=2e-6
    )


def test_gradient_is_probability_less_target():
    gradient = jax.grad(lambda s: losses.cross_entropy(s, jnp.array([1])))(
        jnp.array([[0.0, np.log(2.0), 0.0]])
    )
    np.testing.assert_allclose(gradient, [[0.25, 0.5 - 1.0, 0.25]], atol=1e-7)


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.5, 0.7, 2.0, 100.0])
def test_truncated(eta):
    ours = losses.truncated_cross_entropy(SCORES, TARGET, eta=eta, reduce_fn=None)
    np.testing.assert_allclose(
        ours, each(reference.truncated_cross_entropy, float(np.float32(eta))), rtol=2e-6, atol=1e-7
    )


@pytest.mark.parametrize("n", range(1, 7))
def test_top(n):
    ours = losses.top_cross_entropy(SCORES, TARGET, n=n, reduce_fn=None)
    for value, row, target in zip(ours, SCORES.tolist(), TARGET, strict=True):
        # Ties with the n-th place are kept: as many places as the last of them takes.
        places = max(reference.rank(row, item) for item in np.argsort(row)[::-1][:n])
        last = sorted(row, reverse=True)[n - 1]
        assert places == sum(score >= last for score in row)
        expected = reference.top_cross_entropy(row, int(target), places)
        np.testing.assert_allclose(value, expected, rtol=2e-6, atol=1e-7)


def test_top_of_all_places_is_the_cross_entropy_and_of_one_the_distance_to_the_best():
    full = losses.cross_entropy(SCORES, TARGET, reduce_fn=None)
    np.testing.assert_array_equal(losses.top_cross_entropy(SCORES, TARGET, n=6, reduce_fn=None), full)
    one = losses.top_cross_entropy(SCORES[[0, 3]], TARGET[[0, 3]], n=1, reduce_fn=None)
    np.testing.assert_allclose(one, [2.0 - 1.5, 80.0 - 79.0], rtol=1e-6)


def test_no_gradient_is_taken_of_the_truncation():
    """At s+ = 1 and eta = .5 the first two stay: their softmax, and nothing from the threshold, which moves with s+."""
    scores = jnp.array([[1.0, 0.75, 0.25]])

    def loss(scores, eta):
        return losses.truncated_cross_entropy(scores, jnp.array([0]), eta=eta)

    in_scores, in_eta = jax.grad(loss, argnums=(0, 1))(scores, 0.5)
    share = 1 / (1 + np.exp(-0.25))
    np.testing.assert_allclose(in_scores, [[share - 1, 1 - share, 0.0]], atol=1e-7)
    assert in_eta == 0


def test_a_sweep_of_eta_compiles_once():
    traces = []

    @jax.jit
    def loss(eta):
        traces.append(1)
        return losses.truncated_cross_entropy(SCORES, TARGET, eta=eta)

    values = [float(loss(eta)) for eta in (0.0, 0.5, 5.0)]
    assert len(traces) == 1
    assert values == sorted(values)
    assert values[0] < values[2]


@pytest.mark.parametrize(
    ("name", "options"),
    [("cross_entropy", {}), ("top_cross_entropy", {"n": 2}), ("truncated_cross_entropy", {"eta": 0.7})],
)
class TestCommon:
    def test_candidates_equal_dropped_columns_and_hide_what_stands_there(self, name, options):
        loss = getattr(losses, name)
        kept = np.array([True, True, False, True, True, False])
        scores = SCORES.copy()
        scores[:, ~kept] = np.nan
        target = np.array([3, 0, 3, 0, 0], np.int32)
        columns = np.flatnonzero(kept)
        expected = loss(SCORES[:, kept], np.searchsorted(columns, target), reduce_fn=None, **options)
        for candidates in (kept, np.broadcast_to(kept, scores.shape)):
            ours = loss(scores, target, candidates=candidates, reduce_fn=None, **options)
            np.testing.assert_allclose(ours, expected, rtol=1e-6)
            gradient = jax.grad(lambda s, c=candidates: loss(s, target, candidates=c, **options))(
                jnp.asarray(scores)
            )
            assert np.isfinite(gradient).all()
            np.testing.assert_array_equal(gradient[:, ~kept], 0.0)

    def test_the_target_is_always_a_candidate(self, name, options):
        loss = getattr(losses, name)
        kept = np.array([True, True, False, True, True, False])
        ours = loss(SCORES[:1], np.array([2]), candidates=kept, reduce_fn=None, **options)
        with_it = kept | (np.arange(6) == 2)
        expected = loss(SCORES[:1], np.array([2]), candidates=with_it, reduce_fn=None, **options)
        assert float(ours[0]) == float(expected[0]) > 0

    @pytest.mark.parametrize("wrong", [-1, 6, 2**31 - 1])
    def test_a_target_that_is_no_item_makes_its_own_loss_nan(self, name, options, wrong):
        target = np.array([4, wrong, 3, 2, 0], np.int32)
        values = getattr(losses, name)(SCORES, target, reduce_fn=None, **options)
        np.testing.assert_array_equal(np.isnan(values), target == wrong)
        masked = getattr(losses, name)(SCORES, target, where=target != wrong, reduce_fn=None, **options)
        assert np.isfinite(masked).all()

    def test_a_nan_among_the_scores_is_not_hidden(self, name, options):
        scores = SCORES.copy()
        scores[1, 3] = np.nan
        values = getattr(losses, name)(scores, TARGET, reduce_fn=None, **options)
        np.testing.assert_array_equal(np.isnan(values), [False, True, False, False, False])

    def test_misuse_is_refused(self, name, options):
        loss = getattr(losses, name)
        with pytest.raises(TypeError, match="target must be of an integer dtype, got float32"):
            loss(SCORES, TARGET.astype(np.float32), **options)
        with pytest.raises(ValueError, match=r"target must be of shape \(5,\), got \(4,\)"):
            loss(SCORES, TARGET[:4], **options)
        with pytest.raises(ValueError, match=r"candidates must be of shape \(6,\), got \(5,\)"):
            loss(SCORES, TARGET, candidates=np.ones(5, bool), **options)
        with pytest.raises(ValueError, match=r"scores must be of shape \(..., V\) with V >= 1, got \(5, 0\)"):
            loss(SCORES[:, :0], TARGET, **options)


def test_wrong_options_are_refused():
    for n in (0, 7):
        with pytest.raises(ValueError, match=f"n must be between 1 and the 6 items, got {n}"):
            losses.top_cross_entropy(SCORES, TARGET, n=n)
    with pytest.raises(TypeError, match=r"n must be a Python integer \(it sets a shape\), got 2.0"):
        losses.top_cross_entropy(SCORES, TARGET, n=2.0)
    with pytest.raises(ValueError, match="eta must not be negative, got -0.5"):
        losses.truncated_cross_entropy(SCORES, TARGET, eta=-0.5)
