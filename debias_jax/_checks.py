"""Shape and dtype checks of public functions. They run while tracing and cost nothing at run time."""

import chex
import jax.numpy as jnp


def check_float(**arrays) -> None:
    """Raises unless every array is of a floating dtype."""
    for name, value in arrays.items():
        if value is not None and not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"{name} must be of a floating dtype, got {jnp.result_type(value)}")


def check_integer(**arrays) -> None:
    """Raises unless every array is of an integer dtype."""
    for name, value in arrays.items():
        if value is not None and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise TypeError(f"{name} must be of an integer dtype, got {jnp.result_type(value)}")


def check_same_shape(**arrays) -> None:
    """Raises unless all arrays that are given (not None) have one shape."""
    shapes = {name: jnp.shape(value) for name, value in arrays.items() if value is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            "shapes must be equal, got " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        )


def check_broadcastable(shape: tuple[int, ...], **arrays) -> None:
    """Raises unless every given array is a scalar or has exactly ``shape``: nothing else is broadcast silently."""
    for name, value in arrays.items():
        if value is not None and jnp.shape(value) not in ((), tuple(shape)):
            raise ValueError(f"{name} must be a scalar or of shape {tuple(shape)}, got {jnp.shape(value)}")


def check_mask(where, shape: tuple[int, ...]) -> None:
    """Raises unless ``where`` is None or a boolean array of ``shape``."""
    if where is None:
        return
    if jnp.result_type(where) != jnp.bool_:
        raise TypeError(f"where must be boolean, got {jnp.result_type(where)}")
    chex.assert_shape(where, shape)
