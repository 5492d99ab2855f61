"""Estimators of a population risk from a batch of pairs of which some were observed, the losses that train
their imputed errors, and the propensities they need.

A risk is a ratio or a sum over the batch and returns a scalar; ``jax.vmap`` gives one a batch.
"""

from debias_jax.risks.adjusted_dr import (
    d_dr,
    dynamic_propensity,
    stabilization_constraint,
    stable_dr,
    targeting_coefficient,
    tdr,
)
from debias_jax.risks.dr import badr, dr, eib, sndr
from debias_jax.risks.imputation import badr_imputation, dr_bias, dr_jl, dr_mse, mrdr
from debias_jax.risks.ips import ips, naive, snips
from debias_jax.risks.propensity import (
    ClipReport,
    clip_propensity,
    effective_sample_size,
    naive_bayes,
    popularity_power,
    user_item,
)

__all__ = [
    "ClipReport",
    "badr",
    "badr_imputation",
    "clip_propensity",
    "d_dr",
    "dr",
    "dr_bias",
    "dr_jl",
    "dr_mse",
    "dynamic_propensity",
    "effective_sample_size",
    "eib",
    "ips",
    "mrdr",
    "naive",
    "naive_bayes",
    "popularity_power",
    "sndr",
    "snips",
    "stabilization_constraint",
    "stable_dr",
    "targeting_coefficient",
    "tdr",
    "user_item",
]
