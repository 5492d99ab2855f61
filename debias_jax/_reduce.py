"""Masked reductions that return 0 for an empty mask and never hide a NaN.

A function that takes ``where`` calls ``fill_masked`` on its inputs and ends in ``safe_reduce``. The first
keeps whatever stands in the padding out of the derivatives (``0 * nan`` is NaN in a backward pass), the
second out of the value.
"""

import jax.numpy as jnp

from debias_jax.types import Array, ReduceFn


def fill_masked(values: Array, where: Array | None, *, fill: float = 0.0) -> Array:
    """``values`` where the mask holds, else ``fill``: what stands there is read neither forward nor backward.

    Args:
        values: ``[..., *]``, the axes of ``where`` first.
        where: boolean ``[...]``, or None for all.
        fill: a harmless input of the computation that follows.

    Returns:
        An array like ``values``.
    """
    if where is None:
        return values
    trailing = jnp.ndim(values) - jnp.ndim(where)
    return jnp.where(jnp.reshape(where, jnp.shape(where) + (1,) * trailing), values, fill)


def safe_reduce(
    values: Array,
    *,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    """Reduces per-example values under a mask.

    With ``reduce_fn=None`` masked entries are zeroed and the values returned, so that
    ``f(reduce_fn=None).sum()`` equals ``f(reduce_fn=jnp.sum)``. Where everything is masked, or there is
    nothing, the result is 0 with zero gradients. Masked entries are replaced before they are read, so a NaN
    in the result came from an entry that counts.

    Args:
        values: ``[...]``.
        weights: factors of the values, a scalar or ``[...]``, or None for 1. A mean divides by the number of
            entries, not by the sum of the weights.
        where: boolean ``[...]`` of the same shape, or None for all.
        reduce_fn: ``jnp.mean``, ``jnp.sum`` or any function ``(a, where=...) -> array`` that reduces all
            axes; None keeps the values.

    Returns:
        The reduced scalar, or ``[...]`` values with ``reduce_fn=None``.
    """
    if weights is not None:
        values = values * weights
    values = fill_masked(values, where)
    if reduce_fn is None:
        return values
    if values.size == 0:
        return jnp.zeros_like(reduce_fn(values))
    if where is None:
        return reduce_fn(values)
    # An all-False mask would make a mean 0/0; the mask that is used then admits only the zeros written above.
    return reduce_fn(values, where=where | ~jnp.any(where))


def safe_divide(numerator: Array, denominator: Array, *, otherwise: float = 0.0) -> Array:
    """``numerator / denominator`` where that is defined, else ``otherwise``; gradients stay finite."""
    usable = denominator != 0
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1.0), otherwise)


def effective_sample_size(weights: Array) -> Array:
    """Kish's effective sample size of all entries, (sum w)^2 / sum w^2; 0 where none is positive."""
    # Squares of weights above 1e19 overflow float32; relative to the largest they cannot.
    relative = safe_divide(weights, jnp.max(weights, initial=0.0))
    return safe_divide(jnp.sum(relative) ** 2, jnp.sum(relative**2))
