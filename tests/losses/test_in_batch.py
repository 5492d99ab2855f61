"""In-batch losses: what a column that does not exist does. Their values: parity, claims and conformance tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import losses

SCORES = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


@pytest.mark.parametrize("bad", [-1, 4])
def test_a_target_that_is_no_column_is_nan_and_no_other_rows_matter(bad):
    def loss(scores, targets, **more):
        return losses.in_batch_softmax(scores, targets=targets, **more)

    targets = jnp.asarray([0, bad, 2])
    values = loss(SCORES, targets, reduce_fn=None)
    assert np.isnan(values).tolist() == [False, True, False]
    where = jnp.asarray([True, False, True])
    sound = loss(SCORES, jnp.asarray([0, 1, 2]), where=where)
    assert loss(SCORES, targets, where=where) == sound
    gradient = jax.grad(loss)(SCORES, targets, where=where)
    assert np.isfinite(gradient).all() and not gradient[1].any()


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("variant", ["published", "mean", "corrected"])
def test_a_drawn_column_that_does_not_exist_is_nan(bad, variant):
    log_w = {"log_w": jax.nn.log_softmax(SCORES)} if variant == "corrected" else {}
    indices = jnp.asarray([[0, 1], [2, bad], [3, 3]])
    values = losses.resampled_softmax(SCORES[:, 0], SCORES, indices, variant=variant, reduce_fn=None, **log_w)
    assert np.isnan(values).tolist() == [False, True, False]
