"""Estimators of a population risk from a batch of pairs of which some were observed, and the propensities
they need.

A risk is a ratio or a sum over the batch and returns a scalar; ``jax.vmap`` gives one a batch.
"""

from debias_jax.risks.ips import ips, naive, snips
from debias_jax.risks.propensity import (
    ClipReport,
    clip_propensity,
    effective_sample_size,
    popularity_power,
)

__all__ = [
    "ClipReport",
    "clip_propensity",
    "effective_sample_size",
    "ips",
    "naive",
    "popularity_power",
    "snips",
]
