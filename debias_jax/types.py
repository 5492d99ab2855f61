"""Aliases and protocols shared by the whole library. For type checking only: nothing needs to subclass them."""

from typing import Any, Protocol

import jax

Array = jax.Array
Key = jax.Array
"""A typed PRNG key (``jax.random.key``)."""
PyTree = Any
Params = dict[str, Any]
"""Nested dicts of arrays, as ``models`` returns them."""


class ReduceFn(Protocol):
    """A reduction such as ``jnp.mean`` or ``jnp.sum``."""

    def __call__(self, a: Array, where: Array | None = None) -> Array:
        """Reduces ``a`` over its entries where ``where`` holds."""
