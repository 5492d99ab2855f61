"""Recommenders learnt from biased feedback, in JAX.

Sub-packages are loaded on first use, so that importing the top level costs next to nothing.
"""

import importlib

__version__ = "0.1.0"

__all__ = [
    "data",
    "experiment",
    "hypergrad",
    "losses",
    "methods",
    "metrics",
    "models",
    "optimizers",
    "risks",
    "sampling",
    "serving",
    "training",
]


def __getattr__(name: str):
    if name in __all__:
        return importlib.import_module(f"debias_jax.{name}")
    raise AttributeError(f"module 'debias_jax' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
