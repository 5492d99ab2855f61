"""Per-example losses: pure functions of logits, finite for ``|logit| <= 80``.

Each takes ``(predictions, targets, *, weights, where, ..., reduce_fn)`` and works under ``jit``, ``grad`` and
``vmap``.
"""

from debias_jax.losses.implicit import relmf, umf
from debias_jax.losses.in_batch import in_batch_softmax, resampled_softmax
from debias_jax.losses.pairwise import bpr, ubpr
from debias_jax.losses.pointwise import bce
from debias_jax.losses.sampled import importance_sampled_softmax

__all__ = [
    "bce",
    "bpr",
    "importance_sampled_softmax",
    "in_batch_softmax",
    "relmf",
    "resampled_softmax",
    "ubpr",
    "umf",
]
