"""SASRec: what an output may depend on, and how the parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.starts import check_constant, check_normal, check_uniform

from debias_jax import models

PAD = 9


def test_a_later_item_does_not_change_earlier_vectors():
    model = models.sasrec(PAD, dim=8, max_len=6, n_heads=2)
    params, encode = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.encode)
    before = encode(params, jnp.asarray([[PAD, PAD, 3, 1, 4]]))
    after = encode(params, jnp.asarray([[PAD, PAD, 3, 7, 4]]))
    np.testing.assert_array_equal(after[:, :3], before[:, :3])
    assert (after[:, 3:] != before[:, 3:]).any(axis=-1).all()


def test_what_stands_at_pads_is_the_bias_of_the_last_norm():
    model = models.sasrec(PAD, dim=8, max_len=6)
    params = jax.jit(model.init)(jax.random.key(0))
    params["norm"]["bias"] = jnp.arange(8.0)
    vectors = jax.jit(model.encode)(params, jnp.asarray([[PAD, PAD, 3, 1]]))
    np.testing.assert_array_equal(vectors[0, :2], np.tile(np.arange(8.0), (2, 1)))


@pytest.mark.parametrize("norm", ["query", "pre"])
def test_start(norm):
    model = models.sasrec(2000, dim=32, max_len=100, tied=False, norm=norm)
    params = jax.jit(model.init)(jax.random.key(1))
    check_normal(params["item"], (2 / (2001 + 32)) ** 0.5)
    check_normal(params["output"], (2 / (2000 + 32)) ** 0.5)
    check_normal(params["position"], (2 / (100 + 32)) ** 0.5)
    assert params["output"].shape == (2000, 32)
    check_constant(params["norm"]["scale"], 1.0)
    check_constant(params["norm"]["bias"], 0.0)
    for block in params["blocks"].values():
        attention = block["attention"]
        check_uniform(attention["in_projection"]["kernel"], (6 / (32 + 96)) ** 0.5)
        check_normal(attention["out_projection"]["kernel"], (2 / 64) ** 0.5)
        check_constant(attention["in_projection"]["bias"], 0.0)
        check_constant(attention["out_projection"]["bias"], 0.0)
        for layer in (block["hidden"], block["output"]):
            check_uniform(layer["kernel"], 32**-0.5)
            check_uniform(layer["bias"], 32**-0.5)
    first, second = (params["blocks"][number]["attention"]["in_projection"]["kernel"] for number in "01")
    assert (first != second).any()


def test_messages():
    with pytest.raises(ValueError, match="unknown norm 'post'; there are query, pre"):
        models.sasrec(PAD, dim=8, max_len=6, norm="post")
    with pytest.raises(ValueError, match="unknown pad_keys 'seen'; there are attended, masked"):
        models.sasrec(PAD, dim=8, max_len=6, pad_keys="seen")
