"""Metrics: pure functions over padded lists, and protocols that fix every convention of an evaluation."""

from debias_jax.metrics.offpolicy import snips_dcg
from debias_jax.metrics.pointwise import auc
from debias_jax.metrics.pointwise import log_loss
from debias_jax.metrics.pointwise import pearson
from debias_jax.metrics.protocol import PROTOCOLS
from debias_jax.metrics.protocol import EvalProtocol
from debias_jax.metrics.protocol import user_metrics
from debias_jax.metrics.ranking import average_precision
from debias_jax.metrics.ranking import dcg
from debias_jax.metrics.ranking import hit_rate
from debias_jax.metrics.ranking import mrr
from debias_jax.metrics.ranking import ndcg
from debias_jax.metrics.ranking import precision
from debias_jax.metrics.ranking import recall

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
