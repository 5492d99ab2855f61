"""Models as pairs of pure functions: parameters are plain nested dicts, flax stays inside this package."""

from debias_jax.models import convert as convert
from debias_jax.models.base import Model, from_nnx
from debias_jax.models.bert4rec import bert4rec
from debias_jax.models.caser import caser
from debias_jax.models.exposure import biif_exposure, cjmf_exposure
from debias_jax.models.fmlp import fmlp_rec
from debias_jax.models.gru4rec import gru4rec
from debias_jax.models.mf import item_vectors, mf, user_vectors
from debias_jax.models.mmoe import mmoe
from debias_jax.models.propensity import additive_logistic
from debias_jax.models.sasrec import sasrec
from debias_jax.models.two_tower import two_tower

__all__ = [
    "Model",
    "additive_logistic",
    "bert4rec",
    "biif_exposure",
    "caser",
    "cjmf_exposure",
    "convert",
    "fmlp_rec",
    "from_nnx",
    "gru4rec",
    "item_vectors",
    "mf",
    "mmoe",
    "sasrec",
    "two_tower",
    "user_vectors",
]
