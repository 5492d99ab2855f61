"""Per-example losses: pure functions of logits, finite for ``|logit| <= 80``.

Each takes ``(predictions, targets, *, weights, where, ..., reduce_fn)`` and works under ``jit``, ``grad`` and
``vmap``.
"""

from debias_jax.losses.implicit import relmf, umf
from debias_jax.losses.pairwise import bpr
from debias_jax.losses.pointwise import bce

__all__ = [
    "bce",
    "bpr",
    "relmf",
    "umf",
]
