"""Data in numpy: published datasets, the user's own files, simulators with known truth, sequences, and splits.

Every reader returns a ``Dataset``: integer-coded ``Interactions`` for training, validation and test, with the
vocabularies that lead back to raw ids. ``summarise(dataset)`` says what is in it. Nothing here
imports jax.
"""

from debias_jax.data import beauty as beauty
from debias_jax.data import coat as coat
from debias_jax.data import core as core
from debias_jax.data import frame as frame
from debias_jax.data import gowalla as gowalla
from debias_jax.data import implicit as implicit
from debias_jax.data import kuairec as kuairec
from debias_jax.data import ml_1m as ml_1m
from debias_jax.data import movielens as movielens
from debias_jax.data import semi_synthetic as semi_synthetic
from debias_jax.data import sequences as sequences
from debias_jax.data import splits as splits
from debias_jax.data import synthetic as synthetic
from debias_jax.data import synthetic_sequences as synthetic_sequences
from debias_jax.data import yahoo_r3 as yahoo_r3
from debias_jax.data.core import k_core as k_core
from debias_jax.data.report import PartSummary as PartSummary
from debias_jax.data.report import Report as Report
from debias_jax.data.report import summarise as summarise
from debias_jax.data.types import Dataset as Dataset
from debias_jax.data.types import Interactions as Interactions
from debias_jax.data.types import Truth as Truth
from debias_jax.data.types import concatenate as concatenate
from debias_jax.data.vocab import Vocabulary as Vocabulary

__all__ = [
    "Dataset",
    "Interactions",
    "PartSummary",
    "Report",
    "Truth",
    "Vocabulary",
    "beauty",
    "coat",
    "concatenate",
    "core",
    "frame",
    "gowalla",
    "implicit",
    "k_core",
    "kuairec",
    "ml_1m",
    "movielens",
    "semi_synthetic",
    "sequences",
    "splits",
    "summarise",
    "synthetic",
    "synthetic_sequences",
    "yahoo_r3",
]
