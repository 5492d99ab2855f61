"""Training: the loop, its host side (checkpoints, writers, early stopping), evaluation and significance."""

from debias_jax.training.device_data import item_popularity as item_popularity
from debias_jax.training.device_data import train_data as train_data
from debias_jax.training.loop import FitResult as FitResult
from debias_jax.training.loop import fit as fit
from debias_jax.training.loop import fit_many as fit_many
from debias_jax.training.loop import run_key as run_key
from debias_jax.training.loop import train_epochs as train_epochs
