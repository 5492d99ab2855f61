"""Positions of a sequence drawn to be hidden."""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_mask
from debias_jax.types import Array, Key


def cloze_mask(key: Key, where: Array, *, rate: float | Array) -> Array:
    """Hides each position with the same probability, independently: what a bidirectional model is asked to fill in.

    Args:
        key: PRNG key.
        where: bool ``[...]``, False for padding, which is never hidden.
        rate: probability of hiding a position, in [0, 1]; may be traced.

    Returns:
        bool of the shape of ``where``, True for hidden. A sequence may have no hidden position, or none left.

    Raises:
        TypeError: ``where`` is not boolean.
        ValueError: ``rate`` is a number outside [0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> sampling.cloze_mask(jax.random.key(0), jnp.array([True, True, False]), rate=1.0).tolist()
        [True, True, False]

    References:
        Sun et al., "BERT4Rec", CIKM 2019, section 3.6; without its replacement of some hidden items by others.
    """
    where = jnp.asarray(where)
    check_mask(where, where.shape)
    if not isinstance(rate, jax.Array) and not 0 <= rate <= 1:
        raise ValueError(f"rate must be in [0, 1], got {rate}")
    return where & (jax.random.uniform(key, where.shape, jnp.float32) < rate)
