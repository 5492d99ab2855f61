"""Masked reductions that return 0 for an empty mask and never hide a NaN."""

import jax.numpy as jnp

from debias_jax.types import Array, ReduceFn


def safe_reduce(values: Array, *, where: Array | None = None, reduce_fn: ReduceFn | None = jnp.mean) -> Array:
    """Reduces per-example values under a mask.

    With ``reduce_fn=None`` masked entries are zeroed and the values returned, so that ``f(reduce_fn=None).sum()``
    equals ``f(reduce_fn=jnp.sum)``. Where everything is masked the result is 0 with zero gradients, unless an
    unmasked-by-nobody NaN stands in ``values`` - masked entries are replaced before they are read, so a NaN that
    shows in the result came from an entry that counts.

    Args:
        values: ``[...]``.
        where: boolean ``[...]`` of the same shape, or None for all.
        reduce_fn: ``jnp.mean``, ``jnp.sum`` or any function ``(a, where=...) -> array``; None keeps the values.

    Returns:
        The reduced scalar, or ``[...]`` values with ``reduce_fn=None``.
    """
    if where is None:
        return values if reduce_fn is None else reduce_fn(values)
    values = jnp.where(where, values, 0.0)
    if reduce_fn is None:
        return values
    anything = jnp.any(where)
    # An all-False mask would make a mean 0/0; the mask that is used then admits only the zeros written above.
    reduced = reduce_fn(values, where=where | ~anything)
    return reduced


def safe_divide(numerator: Array, denominator: Array, *, otherwise: float = 0.0) -> Array:
    """``numerator / denominator`` where the denominator is not 0, else ``otherwise``; gradients stay finite."""
    usable = denominator != 0
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1.0), otherwise)
