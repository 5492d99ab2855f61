"""Training: the loop, its host side (checkpoints, writers, early stopping), evaluation and significance."""

from debias_jax.training import early_stop as early_stop
from debias_jax.training._programs import train_epochs as train_epochs
from debias_jax.training._settings import resolve_strategy as resolve_strategy
from debias_jax.training.checkpoint import Checkpointer as Checkpointer
from debias_jax.training.checkpoint import Restored as Restored
from debias_jax.training.device_data import data_for as data_for
from debias_jax.training.device_data import histories_of as histories_of
from debias_jax.training.device_data import item_popularity as item_popularity
from debias_jax.training.device_data import padded_histories as padded_histories
from debias_jax.training.device_data import sequence_data as sequence_data
from debias_jax.training.device_data import train_data as train_data
from debias_jax.training.evaluation import EvalSet as EvalSet
from debias_jax.training.evaluation import Evaluation as Evaluation
from debias_jax.training.evaluation import build_eval_set as build_eval_set
from debias_jax.training.evaluation import check_finite as check_finite
from debias_jax.training.evaluation import evaluate as evaluate
from debias_jax.training.evaluation import exposure_matrix as exposure_matrix
from debias_jax.training.evaluation import summarise as summarise
from debias_jax.training.loop import FitResult as FitResult
from debias_jax.training.loop import fit as fit
from debias_jax.training.loop import fit_many as fit_many
from debias_jax.training.loop import load_many as load_many
from debias_jax.training.loop import run_key as run_key
from debias_jax.training.mesh import make_mesh as make_mesh
from debias_jax.training.significance import Interval as Interval
from debias_jax.training.significance import paired_t_test as paired_t_test
from debias_jax.training.significance import paired_user_bootstrap as paired_user_bootstrap
from debias_jax.training.writers import JsonlWriter as JsonlWriter
from debias_jax.training.writers import ProgressBar as ProgressBar
from debias_jax.training.writers import TensorboardWriter as TensorboardWriter
from debias_jax.training.writers import environment as environment
from debias_jax.training.writers import read_jsonl as read_jsonl
from debias_jax.training.writers import write_json as write_json

__all__ = [
    "Checkpointer",
    "EvalSet",
    "Evaluation",
    "FitResult",
    "Interval",
    "JsonlWriter",
    "ProgressBar",
    "Restored",
    "TensorboardWriter",
    "build_eval_set",
    "check_finite",
    "data_for",
    "early_stop",
    "environment",
    "evaluate",
    "exposure_matrix",
    "fit",
    "fit_many",
    "histories_of",
    "item_popularity",
    "load_many",
    "make_mesh",
    "padded_histories",
    "paired_t_test",
    "paired_user_bootstrap",
    "read_jsonl",
    "resolve_strategy",
    "run_key",
    "sequence_data",
    "summarise",
    "train_data",
    "train_epochs",
    "write_json",
]
