"""Checks of settings; each message names the setting, its value and what it may be."""

from collections.abc import Collection

import numpy as np

from debias_jax.errors import ConfigError, nearest


def check_number(name: str, value: float, interval: str) -> None:
    """Raises unless ``value`` is a number in an interval written as in mathematics, e.g. ``"(0, 1]"``.

    >>> check_number("fraction", 0.5, "(0, 1]")
    >>> check_number("fraction", 0, "(0, 1]")
    Traceback (most recent call last):
    ...
    debias_jax.errors.ConfigError: fraction = 0 must be a number in (0, 1]
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    ok = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    ok = ok and (low <= value if interval[0] == "[" else low < value)
    ok = ok and (value <= high if interval[-1] == "]" else value < high)
    if not ok:
        raise ConfigError(f"{name} = {value!r} must be a number in {interval}")


def check_integer(name: str, value: int, low: int) -> None:
    """Raises unless ``value`` is an integer of at least ``low``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ConfigError(f"{name} = {value!r} must be an integer >= {low}")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raises unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(f"{name} = {value!r} is unknown; {nearest(value, choices)}")
