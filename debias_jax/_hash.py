"""A hash of 32-bit numbers, cheap enough to be computed again wherever it is needed."""

import jax.numpy as jnp

from debias_jax.types import Array


def hash_bits(bits: Array) -> Array:
    """A bijection of uint32 in which each bit depends on all: pseudo-random, and the same for the same number.

    Args:
        bits: uint32 ``[...]``.

    Returns:
        uint32 ``[...]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> ids = sampling.hash_bits(jnp.arange(100_000, dtype=jnp.uint32))
        >>> print(f"{(ids < 2**32 // 10).mean():.2f}")  # a tenth of the ids, always the same ones
        0.10
    """
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)
