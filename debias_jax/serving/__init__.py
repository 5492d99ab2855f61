"""Serving: a trained recommender as one folder of plain files, and answers from it in raw ids."""

from debias_jax.serving.bundle import Bundle as Bundle
from debias_jax.serving.bundle import load_bundle as load_bundle
from debias_jax.serving.bundle import save_bundle as save_bundle
from debias_jax.serving.recommend import Recommendation as Recommendation
from debias_jax.serving.recommend import Recommendations as Recommendations
from debias_jax.serving.recommend import recommend as recommend
from debias_jax.serving.recommend import recommend_many as recommend_many

__all__ = [
    "Bundle",
    "Recommendation",
    "Recommendations",
    "load_bundle",
    "recommend",
    "recommend_many",
    "save_bundle",
]
