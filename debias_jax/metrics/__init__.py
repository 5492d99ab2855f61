"""Metrics: pure functions over padded lists, and protocols that fix every convention of an evaluation."""

from debias_jax.metrics.offpolicy import (
    Estimate,
    Overlap,
    dr_value,
    ips_value,
    overlap,
    snips_value,
)
from debias_jax.metrics.pointwise import auc, log_loss, pearson
from debias_jax.metrics.protocol import PROTOCOLS, EvalProtocol, user_metrics
from debias_jax.metrics.ranking import average_precision, dcg, hit_rate, mrr, ndcg, precision, recall
from debias_jax.metrics.snips import snips_dcg, user_snips

__all__ = [
    "PROTOCOLS",
    "Estimate",
    "EvalProtocol",
    "Overlap",
    "auc",
    "average_precision",
    "dcg",
    "dr_value",
    "hit_rate",
    "ips_value",
    "log_loss",
    "mrr",
    "ndcg",
    "overlap",
    "pearson",
    "precision",
    "recall",
    "snips_dcg",
    "snips_value",
    "user_metrics",
    "user_snips",
]
