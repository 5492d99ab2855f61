"""From a config to results: what a launch script does is one call to a function here.

| function | does |
|---|---|
| ``run`` | trains every variant of a config over its seeds, tests it once, writes the workdir |
| ``sweep`` | trains a grid of numeric hyperparameters, scores it on validation only |
| ``tune`` | searches hyperparameters with Optuna, on validation only |
| ``apply_tuned`` | puts what a search found into a config |
| ``evaluate`` | scores a finished workdir again |
| ``recommend``, ``recommend_next`` | answers one question from a workdir's bundle |
| ``Recommender`` | answers many, and compiles once |
| ``base_config``, ``variant``, ``select_variants``, ``implicit_variants`` | what ``configs/*.py`` are written with |
| ``use_own_schedules`` | the last line of a config whose variants train for different times |
"""

from debias_jax.experiment._build import build_method as build_method
from debias_jax.experiment._build import variant_hparams as variant_hparams
from debias_jax.experiment._config import base_config as base_config
from debias_jax.experiment._config import only as only
from debias_jax.experiment._config import select_variants as select_variants
from debias_jax.experiment._config import use_own_schedules as use_own_schedules
from debias_jax.experiment._config import variant as variant
from debias_jax.experiment._datasets import load_dataset as load_dataset
from debias_jax.experiment._exposure_variants import EXPOSURE_GROUPS as EXPOSURE_GROUPS
from debias_jax.experiment._run import Outcome as Outcome
from debias_jax.experiment._run import evaluate as evaluate
from debias_jax.experiment._run import evaluate_scored as evaluate_scored
from debias_jax.experiment._run import parse_grid as parse_grid
from debias_jax.experiment._run import run as run
from debias_jax.experiment._run import run_scored as run_scored
from debias_jax.experiment._run import sweep as sweep
from debias_jax.experiment._run import tune as tune
from debias_jax.experiment._sequence_variants import SCE_TABLE as SCE_TABLE
from debias_jax.experiment._sequence_variants import SEQUENCE_GROUPS as SEQUENCE_GROUPS
from debias_jax.experiment._sequence_variants import Published as Published
from debias_jax.experiment._sequence_variants import sequence_settings as sequence_settings
from debias_jax.experiment._sequence_variants import sequence_variants as sequence_variants
from debias_jax.experiment._serve import Recommender as Recommender
from debias_jax.experiment._serve import export as export
from debias_jax.experiment._serve import load_predictor as load_predictor
from debias_jax.experiment._serve import recommend as recommend
from debias_jax.experiment._serve import recommend_next as recommend_next
from debias_jax.experiment._tune import apply_tuned as apply_tuned
from debias_jax.experiment._variants import CVR as CVR
from debias_jax.experiment._variants import CVR_ABLATION as CVR_ABLATION
from debias_jax.experiment._variants import CVR_CONTROLS as CVR_CONTROLS
from debias_jax.experiment._variants import CVR_RELEASED as CVR_RELEASED
from debias_jax.experiment._variants import CVR_SPACE as CVR_SPACE
from debias_jax.experiment._variants import CVR_TABLE as CVR_TABLE
from debias_jax.experiment._variants import IMPLICIT as IMPLICIT
from debias_jax.experiment._variants import MULTITASK_FIRST as MULTITASK_FIRST
from debias_jax.experiment._variants import RETRIEVAL as RETRIEVAL
from debias_jax.experiment._variants import RETRIEVAL_RELEASED as RETRIEVAL_RELEASED
from debias_jax.experiment._variants import RETRIEVAL_SPACE as RETRIEVAL_SPACE
from debias_jax.experiment._variants import conversion_settings as conversion_settings
from debias_jax.experiment._variants import cvr_variants as cvr_variants
from debias_jax.experiment._variants import implicit_variants as implicit_variants
from debias_jax.experiment._variants import released_schedule as released_schedule
from debias_jax.experiment._variants import retrieval_settings as retrieval_settings
from debias_jax.experiment._variants import retrieval_variants as retrieval_variants
from debias_jax.experiment._variants import table_settings as table_settings

__all__ = [
    "CVR",
    "CVR_ABLATION",
    "CVR_CONTROLS",
    "CVR_RELEASED",
    "CVR_SPACE",
    "CVR_TABLE",
    "EXPOSURE_GROUPS",
    "IMPLICIT",
    "MULTITASK_FIRST",
    "RETRIEVAL",
    "RETRIEVAL_RELEASED",
    "RETRIEVAL_SPACE",
    "SCE_TABLE",
    "SEQUENCE_GROUPS",
    "Outcome",
    "Published",
    "Recommender",
    "apply_tuned",
    "base_config",
    "build_method",
    "conversion_settings",
    "cvr_variants",
    "evaluate",
    "evaluate_scored",
    "export",
    "implicit_variants",
    "load_dataset",
    "load_predictor",
    "only",
    "parse_grid",
    "recommend",
    "recommend_next",
    "released_schedule",
    "retrieval_settings",
    "retrieval_variants",
    "run",
    "run_scored",
    "select_variants",
    "sequence_settings",
    "sequence_variants",
    "sweep",
    "table_settings",
    "tune",
    "use_own_schedules",
    "variant",
    "variant_hparams",
]
