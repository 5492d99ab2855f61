"""Shape and dtype checks of public functions. They run while tracing and cost nothing at run time.

Wrong dtypes raise ``TypeError``, wrong shapes ``ValueError``; the message names the argument. Values are not
looked at: under ``jit`` there are none to see. ``data.Interactions`` checks them on the host, once. Options, which are
Python strings, are checked by ``check_choice``.
"""

import numbers
from collections.abc import Iterable

import jax.numpy as jnp

from debias_jax.errors import ConfigError


def check_sizes(**sizes: int) -> None:
    """Raises ``ConfigError``, a ``ValueError``, unless every size is an integer of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < 1:
            raise ConfigError(f"{name} must be an integer of at least 1, got {value!r}")


def check_float(**arrays) -> None:
    """Raises unless every array that is given (not None) is of a floating dtype."""
    for name, value in arrays.items():
        if value is not None and not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"{name} must be of a floating dtype, got {jnp.result_type(value)}")


def check_integer(**arrays) -> None:
    """Raises unless every array that is given (not None) is of an integer dtype."""
    for name, value in arrays.items():
        if value is not None and not jnp.issubdtype(jnp.result_type(value), jnp.integer):
            raise TypeError(f"{name} must be of an integer dtype, got {jnp.result_type(value)}")


def check_indicator(**arrays) -> None:
    """Raises unless every array that is given (not None) is boolean or floating, as 0/1 indicators are."""
    for name, value in arrays.items():
        if value is None or jnp.result_type(value) == jnp.bool_:
            continue
        if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"{name} must be boolean or of a floating dtype, got {jnp.result_type(value)}")


def check_same_shape(**arrays) -> None:
    """Raises unless all arrays that are given (not None) have one shape."""
    shapes = {name: jnp.shape(value) for name, value in arrays.items() if value is not None}
    if len(set(shapes.values())) > 1:
        raise ValueError(
            "shapes must be equal, got " + ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        )


def check_broadcastable(shape: tuple[int, ...], **arrays) -> None:
    """Raises unless every given array is a scalar or has exactly ``shape``; nothing else broadcasts."""
    for name, value in arrays.items():
        if value is not None and jnp.shape(value) not in ((), tuple(shape)):
            raise ValueError(f"{name} must be a scalar or of shape {tuple(shape)}, got {jnp.shape(value)}")


def check_samples(shape: tuple[int, ...], **arrays) -> None:
    """Raises unless every array has ``shape`` and one more axis that is not empty: ``[..., K]`` samples."""
    for name, value in arrays.items():
        found = jnp.shape(value)
        if found[:-1] != tuple(shape) or len(found) != len(shape) + 1 or found[-1] == 0:
            wanted = ", ".join([*map(str, shape), "K"])
            raise ValueError(f"{name} must be of shape ({wanted}) with K >= 1, got {found}")


def check_choice(allowed: Iterable[str], **values: str) -> None:
    """Raises unless every named value is one of ``allowed``, which the message lists."""
    for name, value in values.items():
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; there are {', '.join(allowed)}")


def check_mask(where, shape: tuple[int, ...], *, name: str = "where") -> None:
    """Raises unless ``where`` is None or a boolean array of ``shape``; ``name`` is for the message."""
    if where is None:
        return
    if jnp.result_type(where) != jnp.bool_:
        raise TypeError(f"{name} must be boolean, got {jnp.result_type(where)}")
    if jnp.shape(where) != tuple(shape):
        raise ValueError(f"{name} must be of shape {tuple(shape)}, got {jnp.shape(where)}")
