"""GRU4Rec: what an output may depend on, and how the parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
from reference.starts import check_normal, check_uniform

from debias_jax import models

PAD = 9


def test_a_later_item_does_not_change_earlier_vectors():
    model = models.gru4rec(PAD, dim=4, max_len=6, n_layers=2)
    params, encode = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.encode)
    before = encode(params, jnp.asarray([[PAD, 3, 1, 4]]))
    after = encode(params, jnp.asarray([[PAD, 3, 7, 4]]))
    np.testing.assert_array_equal(after[:, :2], before[:, :2])
    assert (after[:, 2:] != before[:, 2:]).any(axis=-1).all()


def test_the_state_is_zero_before_the_first_item():
    model = models.gru4rec(PAD, dim=4, max_len=6, n_layers=2)
    params = jax.jit(model.init)(jax.random.key(0))
    vectors = jax.jit(model.encode)(params, jnp.asarray([[PAD, PAD, 3]]))
    np.testing.assert_array_equal(vectors[0, :2], np.tile(params["output"]["bias"], (2, 1)))


def test_start():
    params = jax.jit(models.gru4rec(2000, dim=32, max_len=5, hidden=48, n_layers=2).init)(jax.random.key(1))
    check_normal(params["item"], (2 / (2001 + 32)) ** 0.5)
    for number, width in (("0", 32), ("1", 48)):
        assert params["layers"][number]["input"].shape == (width, 144)
        check_uniform(params["layers"][number]["input"], (6 / (width + 144)) ** 0.5)
        check_uniform(params["layers"][number]["state"], (6 / (48 + 144)) ** 0.5)
    assert params["output"]["kernel"].shape == (48, 32)
    check_uniform(params["output"]["kernel"], 48**-0.5)
    check_uniform(params["output"]["bias"], 48**-0.5)
