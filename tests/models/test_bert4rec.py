"""BERT4Rec: masks, the token that asks for the next item, and how the parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
from reference.starts import check_constant, check_uniform

from debias_jax import models

PAD, MASK = 9, 10


def test_it_reads_in_both_directions():
    model = models.bert4rec(PAD, dim=8, max_len=6)
    params, encode = jax.jit(model.init)(jax.random.key(0)), jax.jit(model.encode)
    before, after = (encode(params, jnp.asarray([[PAD, MASK, 1, item]])) for item in (4, 7))
    assert (before[:, 1:] != after[:, 1:]).any(axis=-1).all()


def test_the_next_item_is_asked_for_by_a_token_and_the_oldest_makes_room():
    model = models.bert4rec(PAD, dim=8, max_len=4)
    params = jax.jit(model.init)(jax.random.key(0))
    apply, encode = jax.jit(model.apply), jax.jit(model.encode)
    table = params["item"][:PAD]
    asked = encode(params, jnp.asarray([[3, 5, 7, MASK]]))[:, -1] @ table.T
    np.testing.assert_allclose(apply(params, jnp.asarray([[3, 5, 7]])), asked, rtol=1e-5)
    for oldest in (0, 8, PAD):
        np.testing.assert_allclose(apply(params, jnp.asarray([[oldest, 3, 5, 7]])), asked, rtol=1e-5)


def test_start():
    params = jax.jit(models.bert4rec(200, dim=64, max_len=50).init)(jax.random.key(1))

    def check_clamped(x, deviation):
        """Xavier normal, of which what lies beyond 0.02 was moved to it."""
        assert abs(x).max() == np.float32(0.02)
        inside = abs(x) < np.float32(0.02)
        # P(|z| < c) is about 2 c times the density where c is small: here 0.02 is within half a deviation.
        z = 0.02 / deviation
        share = 2 * z / (2 * np.pi) ** 0.5 * (1 - z**2 / 6 + z**4 / 40)
        assert abs(inside.mean() - share) < 5 * (share * (1 - share) / x.size) ** 0.5
        assert abs((np.asarray(x) > 0).mean() - 0.5) < 5 * 0.5 / x.size**0.5

    check_clamped(params["item"], (2 / (202 + 64)) ** 0.5)
    check_clamped(params["position"], (2 / (50 + 64)) ** 0.5)
    for block in params["blocks"].values():
        check_uniform(block["attention"]["in_projection"]["kernel"], (6 / (64 + 192)) ** 0.5)
        check_constant(block["attention"]["in_projection"]["bias"], 0.0)
        check_clamped(block["attention"]["out_projection"]["kernel"], (2 / 128) ** 0.5)
        check_clamped(block["hidden"]["kernel"], (2 / (64 + 256)) ** 0.5)
        check_clamped(block["output"]["kernel"], (2 / (64 + 256)) ** 0.5)
        for layer in ("hidden", "output"):
            check_constant(block[layer]["bias"], 0.0)
    first, second = (params["blocks"][number] for number in "01")
    np.testing.assert_array_equal(
        first["attention"]["in_projection"]["kernel"], second["attention"]["in_projection"]["kernel"]
    )
    assert (first["hidden"]["kernel"] != second["hidden"]["kernel"]).any()
