"""Metrics: pure functions over padded lists, and protocols that fix every convention of an evaluation."""

from debias_jax.metrics.offpolicy import snips_dcg
from debias_jax.metrics.pointwise import auc, log_loss, pearson
from debias_jax.metrics.protocol import PROTOCOLS, EvalProtocol, user_metrics
from debias_jax.metrics.ranking import average_precision, dcg, hit_rate, mrr, ndcg, precision, recall

__all__ = [
    "PROTOCOLS",
    "EvalProtocol",
    "auc",
    "average_precision",
    "dcg",
    "hit_rate",
    "log_loss",
    "mrr",
    "ndcg",
    "pearson",
    "precision",
    "recall",
    "snips_dcg",
    "user_metrics",
]
