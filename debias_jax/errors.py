"""Errors a user can act on: each message names the value, the place and the way out.

They subclass the built-in types, so that library users may catch those; the launch scripts print them as one line.
"""

import difflib
from collections.abc import Iterable


class DebiasError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(DebiasError, ValueError):
    """A setting is unknown, of the wrong type, or does not fit the others."""


class DataError(DebiasError, ValueError):
    """A file or an array does not hold what it should."""


class CheckpointError(DebiasError, RuntimeError):
    """A checkpoint or bundle is missing, damaged or belongs to another configuration."""


class DivergedError(DebiasError, FloatingPointError):
    """A loss or a score is not finite."""


class MissingExtraError(DebiasError, ImportError):
    """An optional package is needed; the message names the extra to install."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A clause for the end of a message: the nearest valid name, or all of them where none is near.

    >>> nearest("bif", ["biif", "mf"]), nearest("xyz", ["biif", "mf"])
    ("did you mean 'biif'?", 'there are biif, mf')
    """
    known = sorted(str(each) for each in valid)
    close = difflib.get_close_matches(str(name), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def require_extra(module: str, extra: str):
    """Imports an optional module, or says which extra brings it.

    Args:
        module: dotted name of the module.
        extra: the extra of ``debias_jax`` that installs it.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: the module cannot be imported.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{module} is not installed; install it with: pip install 'debias_jax[{extra}]'"
        ) from error
