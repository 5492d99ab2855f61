"""Per-example losses: pure functions of logits, finite for ``|logit| <= 80``.

Each takes ``(predictions, targets, *, weights, where, ..., reduce_fn)`` and works under ``jit``, ``grad`` and
``vmap``.
"""

from debias_jax.losses.ceb import ceb_added_positives, ceb_weighted
from debias_jax.losses.chunked import chunked_cross_entropy, in_chunks
from debias_jax.losses.implicit import relmf, umf
from debias_jax.losses.in_batch import in_batch_softmax, resampled_softmax
from debias_jax.losses.noise import gbce, negative_sampling, noise_contrastive
from debias_jax.losses.pairwise import bpr, ubpr
from debias_jax.losses.pointwise import bce
from debias_jax.losses.sampled import importance_sampled_softmax, scaled_cross_entropy
from debias_jax.losses.softmax import cross_entropy, top_cross_entropy, truncated_cross_entropy

__all__ = [
    "bce",
    "bpr",
    "ceb_added_positives",
    "ceb_weighted",
    "chunked_cross_entropy",
    "cross_entropy",
    "gbce",
    "importance_sampled_softmax",
    "in_batch_softmax",
    "in_chunks",
    "negative_sampling",
    "noise_contrastive",
    "relmf",
    "resampled_softmax",
    "scaled_cross_entropy",
    "top_cross_entropy",
    "truncated_cross_entropy",
    "ubpr",
    "umf",
]
