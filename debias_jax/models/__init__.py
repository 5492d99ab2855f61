"""Models as pairs of pure functions: parameters are plain nested dicts, flax stays inside this package."""

from debias_jax.models.base import Model, from_nnx
from debias_jax.models.exposure import biif_exposure, cjmf_exposure
from debias_jax.models.mf import item_vectors, mf, user_vectors
from debias_jax.models.mmoe import mmoe
from debias_jax.models.propensity import additive_logistic
from debias_jax.models.two_tower import two_tower

__all__ = [
    "Model",
    "additive_logistic",
    "biif_exposure",
    "cjmf_exposure",
    "from_nnx",
    "item_vectors",
    "mf",
    "mmoe",
    "two_tower",
    "user_vectors",
]
