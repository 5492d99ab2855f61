"""Caser: its users, and how the parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.starts import check_constant, check_normal, check_uniform

from debias_jax import models


def test_every_user_has_scores_of_their_own_and_one_out_of_range_none():
    model = models.caser(3, 9, dim=4)
    params = jax.jit(model.init)(jax.random.key(0))
    history = jnp.asarray([[3, 1]] * 4)
    scores = jax.jit(model.apply)(params, history, jnp.asarray([0, 2, 3, -1]))
    np.testing.assert_array_equal(jnp.isnan(scores).all(axis=1), [False, False, True, True])
    # The users' half of the output vectors is all that sets the first two rows apart.
    expected = (params["user"][2] - params["user"][0]) @ params["output"][:9, 4:].T
    np.testing.assert_allclose(scores[1] - scores[0], expected, atol=1e-6)


def test_messages():
    model = models.caser(3, 9, dim=4)
    params, history = model.init(jax.random.key(0)), jnp.asarray([[3, 1]] * 4)
    with pytest.raises(ValueError, match=r"the model reads users: give users of shape \(B,\)"):
        model.apply(params, history)
    with pytest.raises(ValueError, match=r"users must be of shape \(4,\), got \(4, 1\)"):
        model.encode(params, history, jnp.zeros((4, 1), jnp.int32))
    with pytest.raises(TypeError, match="users must be of an integer dtype"):
        model.encode(params, history, jnp.zeros(4))


def test_start():
    params = jax.jit(models.caser(1000, 2000, dim=32, max_len=3).init)(jax.random.key(1))
    for table, shape in (("user", (1000, 32)), ("item", (2001, 32)), ("output", (2001, 64))):
        assert params[table].shape == shape
        check_normal(params[table], 1 / 32)
    check_constant(params["output_bias"], 0.0)
    check_uniform(params["vertical"]["kernel"], 3**-0.5)
    check_uniform(params["vertical"]["bias"], 3**-0.5)
    for height in (1, 2, 3):
        filters = params["horizontal"][str(height - 1)]
        assert filters["kernel"].shape == (height * 32, 16)
        check_uniform(filters["kernel"], (height * 32) ** -0.5)
        check_uniform(filters["bias"], (height * 32) ** -0.5)
    assert params["hidden"]["kernel"].shape == (4 * 32 + 16 * 3, 32)
    check_normal(params["hidden"]["kernel"], (2 / (176 + 32)) ** 0.5)
    check_constant(params["hidden"]["bias"], 0.0)
