"""The methods and their named variants, as the configs of several datasets list them."""

from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from debias_jax import methods
from debias_jax.errors import ConfigError
from debias_jax.experiment._build import argument_names
from debias_jax.experiment._config import variant
from debias_jax.experiment._exposure_variants import CLIPS

EXPOSURE_LEARNING = ("biif", "ubo", "joint_opt", "alter_opt", "bi_opt2", "cjmf", "ceb")

IMPLICIT = (
    *("mean_logit", "mf", "wmf", "bpr", "ubpr", "ips", "snips", "expomf", "relmf", "umf"),
    *EXPOSURE_LEARNING,
    "auto_debias",
)
"""The methods of the implicit family, in the order of the tables."""

_UNIFORM = {"frame": "clicks_and_uniform_pairs"}


def implicit_variants(
    tuned: Mapping[str, Mapping[str, float]], *, settings: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, ConfigDict]:
    """Every variant, each with the tuned hyperparameters of its method.

    ``cjmf``, each of whose epochs trains eight models on all clicks, has the 15 epochs of Biif's tables for its own; a
    config calls ``use_own_schedules`` for it, once it has set ``train``.

    Args:
        tuned: method or variant name -> hyperparameters; a variant without an entry takes its method's.
        settings: method -> options of the dataset, e.g. ``{"auto_debias": {"block": (6000, 500)}}``.

    Returns:
        Variant name -> entry of ``config.variants``.
    """
    plain = {name: (name, {}, {}) for name in IMPLICIT}
    named = {
        # A rated log says which shown items were disliked; these three read it, the click methods do not.
        "mean_logit_ratings": ("mean_logit", {"feedback": "ratings"}, {}),
        "mf_rated": ("mf", {"frame": "observed"}, {}),
        "mf_with_biases": ("mf", {}, {}),
        "ips_popularity": ("ips", {"propensity": "popularity"}, {}),
        "ips_logged": ("ips", {"propensity": "logged"}, {}),
        "snips_logged": ("snips", {"propensity": "logged"}, {}),
        "bpr_5": ("bpr", {"n_negatives": 5}, {}),
        "expomf_released": ("expomf", {"variant": "released"}, {}),
        "relmf_unclipped": ("relmf", {"probability_clip": None}, {}),
        "mf_uniform": ("mf", _UNIFORM, {}),
        "relmf_uniform": ("relmf", _UNIFORM, {}),
        "umf_uniform": ("umf", _UNIFORM, {}),
        "biif_uniform": ("biif", _UNIFORM, {}),
        "biif_mean": ("biif", {"reduction": "mean"}, {}),
        "biif_frozen": ("biif", {}, {"outer_lr": 0.0}),
        "biif_outer_batch": ("biif", {"outer_batch_size": 1024}, {}),
        "biif_positives": ("biif", {"exposed": "positives"}, {}),
        "biif_attached": ("biif", {"detach_items": False}, {}),
        "biif_inner_adam": ("biif", {"inner_step": "adam"}, {}),
        "biif_inner_sgd": ("biif", {"inner_step": "sgd"}, {}),
        # An ensemble of eight naive models and their residuals: all exposure is .99, the upper bound of its targets.
        "cjmf_without_exposure": ("cjmf", {}, {"min_exposure": 0.99}),
        "cjmf_released": ("cjmf", {"variant": "released"}, {}),
        "ceb_pu": ("ceb", {"risk": "pu"}, {}),
        "ceb_added_positives": ("ceb", {"risk": "added_positives"}, {}),
        "ceb_added_positives_released": ("ceb", {"risk": "added_positives", "variant": "released"}, {}),
        "ceb_attached": ("ceb", {"detach_items": False}, {}),
        "ceb_detached": ("ceb", {"detach_weights": True}, {}),
        "joint_opt_attached": ("joint_opt", {"detach_items": False}, {}),
        "auto_debias_ratings": ("auto_debias", {"feedback": "ratings"}, {}),
        "auto_debias_released": ("auto_debias", {"variant": "released"}, {}),
        "auto_debias_without_biases": ("auto_debias", {}, {}),
        **CLIPS,
    }
    # Settings of means are none for sums: the released program has its own, or those under its own name.
    of_method = {name: tuned.get(method, {}) for name, (method, _, _) in (plain | named).items()}
    of_method["auto_debias_released"] = {}
    settings, train = settings or {}, {"cjmf": {"epochs": 15}}
    # Its scores are fitted to labels of -1 and 1, which take an offset.
    model = {
        "auto_debias": {"bias": True},
        "auto_debias_without_biases": {"bias": False},
        "mf_with_biases": {"bias": True},
    }
    return {
        name: variant(
            method,
            options={**settings.get(method, {}), **options},
            model=model.get(name, model.get(method)),
            fixed=fixed,
            train=train.get(method),
            **{**of_method[name], **tuned.get(name, {})},
        )
        for name, (method, options, fixed) in (plain | named).items()
    }


CVR_TABLE = (
    "mf",
    "ips",
    "snips",
    "dr_jl",
    "mrdr",
    "dr_bias",
    "dr_mse",
    "stable_dr",
    "tdr_cl",
    "dr_mse_gpl",
    "d_dr",
    "dce_tdr",
    "cvib",
    "dib",
    "damf",
    "multi_ips",
    "multi_dr",
    "escm2_ips",
    "escm2_dr",
    "ddpo",
    "badr",
)
"""The methods of BADR's Table 3, in its order."""

CVR = ("mean_logit", "mf_bias", *CVR_TABLE, "eib", "sndr", "dce_dr", "badr_mmoe")
"""The methods of the conversion-rate family: Table 3 and what it leaves out."""

CVR_ABLATION = (
    "dr_jl",
    "badr",
    "badr_dr_jl",
    "mrdr",
    "badr_mrdr",
    "dr_bias",
    "badr_dr_bias",
    "dr_mse",
    "badr_dr_mse",
)
"""BADR's Figure 1: each imputation loss under the DR and under the BADR risk."""

CVR_CONTROLS = (
    "mf",
    "dr_jl",
    "dr_jl_matched",
    "badr",
    "badr_detached",
    "badr_constant",
    "badr_frozen",
    "badr_zeros",
)
"""What BADR's result rests on: propensities made constant, the imputation frozen at its start or replaced by zeros."""

CVR_RELEASED = (
    "badr_released",
    "badr_released_block",
    "badr_released_tiles",
    "badr_released_constant",
    "badr_released_frozen",
    "badr_released_zeros",
)
"""The program released with BADR, the same with blocks or tiles for lists of pairs, and the same controls of it."""

RELEASED_BADR = {
    "variant": "released",
    "frame": "pairs",
    "weighting": "batch",
    "order": "prediction_first",
    "imputed_errors": "released",
    "propensity": "released",
}
"""The options that make ``methods.badr`` the program released with the paper."""


def cvr_variants(
    tuned: Mapping[str, Mapping[str, float]],
    *,
    settings: Mapping[str, Any] | None = None,
    released: Mapping[str, Any] | None = None,
    released_hparams: Mapping[str, float] | None = None,
) -> dict[str, ConfigDict]:
    """Every variant of the conversion-rate family, each with the tuned hyperparameters of its method.

    Args:
        tuned: method or variant name -> hyperparameters; a variant without an entry takes its method's.
        settings: options of the dataset, e.g. ``{"frame": "block", "ratio": 5}``; a method that does not have one is
            built without it.
        released: options of ``badr_released`` that depend on the dataset: ``ratio``, ``propensity_batch_size``.
        released_hparams: the published hyperparameters of ``badr_released``; neither searched nor tuned.

    Returns:
        Variant name -> entry of ``config.variants``.
    """
    own = {
        "mf": {"frame": "observed"},
        "dib": {"frame": "observed"},
        "mean_logit": {"feedback": "ratings"},
    }
    plain = {name: (name, own.get(name, {}), {}) for name in CVR}
    badr = {
        "badr_corrected": {"variant": "corrected"},
        "badr_detached": {"variant": "detached"},
        "badr_dr_jl": {"imputation": "dr_jl"},
        "badr_mrdr": {"imputation": "mrdr"},
        "badr_dr_bias": {"imputation": "dr_bias"},
        "badr_dr_mse": {"imputation": "dr_mse"},
        "badr_constant": {"propensity": "constant"},
        "badr_zeros": {"imputation": "zeros"},
    }
    no_ctr, no_ctcvr = {"ctr_weight": 0.0}, {"ctcvr_weight": 0.0}
    named = {name: ("badr", options, {}) for name, options in badr.items()} | {
        "multi_ips_no_ctr": ("multi_ips", {}, no_ctr),
        "multi_dr_no_ctr": ("multi_dr", {}, no_ctr),
        "escm2_ips_no_ctcvr": ("escm2_ips", {}, no_ctcvr),
        "escm2_dr_no_ctcvr": ("escm2_dr", {}, no_ctcvr),
        # On the architecture of badr_mmoe.
        "escm2_dr_shared": ("escm2_dr", {"towers": "shared"}, {}),
    }
    named["badr_frozen"] = ("badr", {}, {"imputation_lr": 0.0})
    table = {}
    for name, (method, options, fixed) in (plain | named).items():
        accepted = argument_names(getattr(methods, method))
        shared = {key: value for key, value in (settings or {}).items() if key in accepted}
        # What was found for towers apart is not for one network, which has one learning rate.
        of_method = {} if options.get("towers") == "shared" else tuned.get(method, {})
        hparams = {**of_method, **tuned.get(name, {})}
        table[name] = variant(method, options={**shared, **options}, fixed=fixed, **hparams)
    # The loss of DR-JL in the scale of BADR's, with the settings that were chosen for DR-JL.
    table["dr_jl_matched"] = variant("badr", options=table["badr_dr_jl"]["options"], **tuned.get("dr_jl", {}))
    original = {**RELEASED_BADR, **(released or {})}
    at_paper_scale = {"init_scale": 1.0, "propensity_factors": True}
    for name, options, fixed in (
        ("badr_released", {}, {}),
        ("badr_released_block", {"frame": "block"}, {}),
        ("badr_released_tiles", {"frame": "tiles"}, {}),
        ("badr_released_constant", {"propensity": "constant"}, {}),
        ("badr_released_frozen", {}, {"imputation_lr": 0.0}),
        ("badr_released_zeros", {"imputation": "zeros"}, {}),
    ):
        # The program is its settings, and it weighs no rows: what a search found for badr is not for it.
        fixed = {"observed_weight": 1.0, **(released_hparams or {}), **fixed}
        table[name] = variant("badr", options={**original, **options}, model=at_paper_scale, fixed=fixed)
    return table


_WEIGHT = ("log", 1e-2, 10.0)
_MIXTURE = ("choice", (0.0, 0.25, 0.5, 0.75, 1.0))
_CALIBRATION = {"calibration_lr": ("log", 1e-3, 1e-1), "calibration_weight_decay": ("log", 1e-5, 1e-2)}
_MULTITASK = {"ctr_weight": _WEIGHT, "ctcvr_weight": _WEIGHT, "propensity_lr": ("log", 1e-3, 1e-1)}

CVR_SPACE = {
    "default": {
        "lr": ("log", 1e-3, 1e-1),
        "imputation_lr": ("log", 1e-3, 1e-1),
        "weight_decay": ("log", 1e-7, 1e-2),
        "imputation_weight_decay": ("log", 1e-7, 1e-2),
        "propensity_weight_decay": ("log", 1e-7, 1e-2),
        "min_propensity": ("uniform", 0.02, 0.15),
        "observed_weight": ("log", 0.5, 30.0),
        "pseudo_count": ("log", 0.1, 100.0),
    },
    "dr_mse": {"bias_weight": _MIXTURE},
    "dr_mse_gpl": {
        "bias_weight": _MIXTURE,
        "propensity_bias_weight": _MIXTURE,
        "propensity_mse_weight": _WEIGHT,
    },
    "stable_dr": {"stabilization": ("log", 1e-1, 1e3), "joint_propensity_lr": ("log", 1e-4, 1e-1)},
    "d_dr": {"variance_weight": ("log", 1e-3, 1.0)},
    "dce_dr": _CALIBRATION,
    "dce_tdr": _CALIBRATION,
    "cvib": {"contrast_weight": _WEIGHT, "confidence_weight": ("log", 1e-5, 1.0)},
    "dib": {"combined_weight": ("uniform", 0.0, 0.5), "biased_weight": ("log", 1e-3, 1e-1)},
    "damf": {"adversary_lr": ("log", 1e-3, 1e-1), "discrepancy_weight": _WEIGHT},
    "multi_ips": {name: _MULTITASK[name] for name in ("ctr_weight", "propensity_lr")},
    "multi_dr": {name: _MULTITASK[name] for name in ("ctr_weight", "propensity_lr")},
    "escm2_ips": _MULTITASK,
    "escm2_dr": _MULTITASK,
    "ddpo": _MULTITASK,
    "badr_mmoe": {name: _MULTITASK[name] for name in ("ctr_weight", "ctcvr_weight")},
}
"""Search ranges: what methods share, and what single ones have on top."""


_TOWERS = {
    "lr": 0.01,
    "weight_decay": 1e-4,
    "propensity_lr": 0.01,
    "min_propensity": 0.05,
    "ctr_weight": 1.0,
}
_WITH_IMPUTATION = {**_TOWERS, "imputation_lr": 0.01, "imputation_weight_decay": 1e-4}

MULTITASK_FIRST = {
    "multi_ips": [_TOWERS],
    "multi_dr": [_WITH_IMPUTATION],
    "escm2_ips": [{**_TOWERS, "ctcvr_weight": 1.0}],
    "escm2_dr": [{**_WITH_IMPUTATION, "ctcvr_weight": 1.0}],
    "ddpo": [{**_WITH_IMPUTATION, "ctcvr_weight": 1.0}],
}
"""What the released multi-task programs set, for ``config.tune.first``; all losses weigh alike."""


def conversion_settings(config: ConfigDict, *, metrics: Sequence[str]) -> None:
    """How conversion-rate methods are judged and searched: by validation AUC; ``metrics`` are those of the test."""
    config.protocol.validation = "badr"
    config.protocol.validation_metrics = ("auc",)
    config.protocol.monitor = "auc"
    config.protocol.test = "badr"
    config.protocol.metrics = tuple(metrics)
    config.protocol.headline = "auc"
    config.tune.space = CVR_SPACE


def table_settings(config: ConfigDict, *, metrics: Sequence[str]) -> None:
    """What BADR's tables share: ``conversion_settings``, seeds, the best state, a search as wide as the final runs."""
    conversion_settings(config, metrics=metrics)
    config.seeds = (2024, 2025, 2026, 2027, 2028)
    config.train.restore = "best"
    config.train.save_seconds = 20.0
    # As many as seeds, so that search and final runs are one compiled program.
    config.tune.batch = len(config.seeds)


def released_schedule(config: ConfigDict) -> None:
    """Gives variants of the released program its schedule: 100 epochs at most, its stopping rule, the last state.

    Raises:
        ConfigError: some of the config's variants are of that program and some are not.
    """
    released = [name for name in config.methods if name in CVR_RELEASED]
    if not released:
        return
    if others := [name for name in config.methods if name not in released]:
        raise ConfigError(
            f"{', '.join(released)} train on a schedule of their own; run them apart from {', '.join(others)}"
        )
    config.train.epochs = 100
    config.train.patience = 0
    config.train.restore = "last"
    config.train.plateau.log = "observed_loss"


RETRIEVAL = ("ssl", "ssl_pop", "ssl_pop_sharp", "mns", "g_tower", "bir", "bir_mean", "xir")
"""The retrieval methods, the limit of BIR's resampling, and the form of BIR that aims at the softmax."""

RETRIEVAL_RELEASED = (
    "ssl_released",
    "ssl_pop_released",
    "mns_released",
    "g_tower_released",
    "bir_released",
    "xir_released",
)
"""The losses and the caches of the programs released with BIR and XIR, which also start from N(0, 1) embeddings and
lower the learning rate every five epochs."""


def retrieval_variants(tuned: Mapping[str, Mapping[str, float]]) -> dict[str, ConfigDict]:
    """Every variant of the retrieval family, each with the tuned hyperparameters of its method.

    Args:
        tuned: method or variant name -> hyperparameters; a variant without an entry takes its method's.

    Returns:
        Variant name -> entry of ``config.variants``.
    """
    released = {"variant": "released"}
    named = {
        "ssl": ("ssl", {}),
        "ssl_pop": ("ssl_pop", {}),
        "ssl_pop_sharp": ("ssl_pop", {"sharpness": 2.0}),
        "ssl_pop_cache": ("ssl_pop", {"cache_size": 4096}),
        "ssl_pop_stale_cache": ("ssl_pop", {"cache_size": 4096, "cache": "stale"}),
        "mns": ("mns", {}),
        "g_tower": ("g_tower", {}),
        "bir": ("bir", {}),
        "bir_mean": ("bir", {"variant": "mean"}),
        "bir_corrected": ("bir", {"variant": "corrected"}),
        "xir": ("xir", {}),
        "ssl_released": ("ssl", released),
        "ssl_pop_released": ("ssl_pop", released),
        "mns_released": ("mns", released),
        "g_tower_released": (
            "g_tower",
            {**released, "table_sizes": (4993, 4999, 5003, 5009, 5011), "initial_interval": 1.0},
        ),
        "bir_released": ("bir", released),
        "xir_released": ("xir", released),
    }
    return {
        name: variant(method, options=options, **{**tuned.get(method, {}), **tuned.get(name, {})})
        for name, (method, options) in named.items()
    }


RETRIEVAL_SPACE = {
    "default": {"lr": ("log", 3e-4, 3e-2), "weight_decay": ("log", 1e-7, 1e-2)},
    "xir": {"cache_weight": ("choice", (0.0, 0.2, 0.5, 0.8, 1.0))},
    "g_tower": {"frequency_rate": ("log", 1e-4, 1e-1)},
}
"""Search ranges: what methods share, and what single ones have on top."""


def retrieval_settings(config: ConfigDict) -> None:
    """How retrieval methods are judged and searched: ranking of the catalogue, by validation NDCG@10."""
    config.protocol.validation = "xir"
    config.protocol.validation_metrics = ("ndcg@10",)
    config.protocol.monitor = "ndcg@10"
    config.protocol.test = "xir"
    config.protocol.headline = "ndcg@10"
    config.tune.space = RETRIEVAL_SPACE
    config.train.restore = "best"
