"""Serving: a trained recommender as one folder of plain files, and answers from it in raw ids."""

from debias_jax.serving.bundle import Bundle as Bundle
from debias_jax.serving.bundle import load_bundle as load_bundle
from debias_jax.serving.bundle import save_bundle as save_bundle
from debias_jax.serving.export import ExportReport as ExportReport
from debias_jax.serving.export import VectorIndex as VectorIndex
from debias_jax.serving.export import export as export
from debias_jax.serving.export import load_index as load_index
from debias_jax.serving.export import recall as recall
from debias_jax.serving.export import recommend_from as recommend_from
from debias_jax.serving.export import top_k as top_k
from debias_jax.serving.export import tower_vectors as tower_vectors
from debias_jax.serving.recommend import Recommendation as Recommendation
from debias_jax.serving.recommend import Recommendations as Recommendations
from debias_jax.serving.recommend import encode_users as encode_users
from debias_jax.serving.recommend import recommend as recommend
from debias_jax.serving.recommend import recommend_many as recommend_many
from debias_jax.serving.recommend import recommend_next as recommend_next

__all__ = [
    "Bundle",
    "ExportReport",
    "Recommendation",
    "Recommendations",
    "VectorIndex",
    "encode_users",
    "export",
    "load_bundle",
    "load_index",
    "recall",
    "recommend",
    "recommend_from",
    "recommend_many",
    "recommend_next",
    "save_bundle",
    "top_k",
    "tower_vectors",
]
