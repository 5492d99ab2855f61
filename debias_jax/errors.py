"""Errors a user can act on: each message names the value, the place and the way out.

They subclass the built-in types, so that library users may catch those; the launch scripts print them as one line.
"""


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
