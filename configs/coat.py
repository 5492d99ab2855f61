"""Coat Shopping under the protocol of Biif's tables (CJMF's evaluator, 237 users).

    python launch/train.py --config=configs/coat.py:biif --workdir=runs/coat_biif
    python launch/train.py --config=configs/coat.py:table2 --workdir=runs/coat
    python launch/tune.py --config=configs/coat.py:cjmf,ceb,auto_debias --workdir=runs/coat_tune

Ratings >= 4 are clicks. The "probably exposed" pairs are in the training part, 10 % of the other rated pairs are for
tuning by SNIPS. Settings of the paper: dim 50, batch 1024, 100 epochs, Adam; 15 epochs for CJMF, each of whose epochs
trains eight models. Every method had 15 settings to choose from, of three seeds each; ``ubo`` has what was tuned for
``biif``. ``cjmf_program``, ``ceb_program`` and ``auto_debias_program`` have the settings of the released programs.
Results: docs/results.md.
"""

from debias_jax import experiment

TUNED = {
    # From sweep.py --seeds=3 --grid=lr=3e-4,1e-3,3e-3 --grid=weight_decay=0,1e-6,1e-5,1e-4,1e-3, snips_dcg@3 on the
    # hyper-validation part, the best mean of three seeds; the same 15 points for every method.
    "mf": {"lr": 3e-3, "weight_decay": 1e-4},
    "bpr": {"lr": 3e-3, "weight_decay": 1e-3},
    "ips": {"lr": 3e-3, "weight_decay": 1e-3},
    "snips": {"lr": 3e-3, "weight_decay": 1e-4},
    "relmf": {"lr": 3e-3, "weight_decay": 0.0},
    "umf": {"lr": 1e-3, "weight_decay": 1e-4},
    "biif": {"lr": 1e-3, "weight_decay": 1e-4},
    "joint_opt": {"lr": 1e-3, "weight_decay": 1e-4},
    "alter_opt": {"lr": 1e-3, "weight_decay": 1e-4},
    "bi_opt2": {"lr": 1e-3, "weight_decay": 1e-4},
    "mf_uniform": {"lr": 1e-3, "weight_decay": 1e-5},
    "relmf_uniform": {"lr": 3e-3, "weight_decay": 1e-4},
    "umf_uniform": {"lr": 1e-3, "weight_decay": 0.0},
    "biif_uniform": {"lr": 3e-3, "weight_decay": 1e-5},
    "mf_rated": {"lr": 3e-3, "weight_decay": 1e-4},
    "mf_with_biases": {"lr": 3e-3, "weight_decay": 1e-4},
    "ips_popularity": {"lr": 3e-3, "weight_decay": 1e-4},
    "bpr_5": {"lr": 1e-3, "weight_decay": 1e-3},
    "relmf_unclipped": {"lr": 1e-3, "weight_decay": 1e-4},
    "ubo": {"lr": 1e-3, "weight_decay": 1e-4},
    "ubpr": {"lr": 3e-3, "weight_decay": 1e-3},
    # As many points, without a learning rate: --grid=regularization=1e-3,1e-1,1,3,10 --grid=initial_exposure=.01,.03,.1
    # (of which the second changes nothing at the better values of the first), and --grid=alpha=.3,3,30
    # --grid=regularization=.1,1,3,10,30.
    "expomf": {"regularization": 3.0, "initial_exposure": 0.01},
    "wmf": {"alpha": 0.3, "regularization": 3.0},
    # tune.py --trials=15 --seeds=3, with the settings of the released programs as the first trial.
    "cjmf": {
        "lr": 9.285e-3,
        "weight_decay": 1.231e-6,
        "exposure_weight_decay": 1.253,
        "residual_lr": 9.885e-5,
        "residual_decay": 0.9103,
    },
    "ceb": {"lr": 2.325e-3, "weight_decay": 2.578e-4, "outer_lr": 3.739e-4, "likelihood_weight": 2.691},
    # Without a lower bound, and so with a search of its own: at ``ceb``'s settings its loss becomes NaN.
    "ceb_pu": {"lr": 8.75e-4, "weight_decay": 2.061e-3, "outer_lr": 5.928e-4, "likelihood_weight": 13.68},
}

# What the released program of AutoDebias sets for Coat (the defaults of ``auto_debias_released``), put into means: its
# sum over a block of 64 x 64 pairs is 4,096 * 1,728 clicks / 87,000 pairs = 81 times the mean, its sum over the set of
# probably exposed pairs 116 times; and its weights are exp(x / 5), so that x moves five times as far.
_AUTO_DEBIAS = {
    "inner_lr": 1e-3 * 81,
    "observed_lr": 1e-3 / 5,
    "observed_weight_decay": 1e-4 * 5**2 / 116,
    "imputed_lr": 1e-3 / 5,
    "imputed_weight_decay": 1e-3 * 5**2 / 116,
    "imputation_lr": 0.1,
    "imputation_weight_decay": 1e-4 / 116,
    # 20 epochs of 5 x 5 blocks.
    "weight_delay": 500.0,
}
_AUTO_DEBIAS_FIRST = {**_AUTO_DEBIAS, "imputation_weight": 0.05 * 87_000 / 1_728}
TUNED["auto_debias"] = {
    **_AUTO_DEBIAS,
    "lr": 7.674e-3,
    "weight_decay": 1.424e-4,
    "observed_weight_decay": 1.18e-4,
    "imputed_weight_decay": 3.045e-3,
    "imputation_weight": 0.04739,
    "imputation_lr": 7.349e-3,
    "imputation_weight_decay": 5.807e-4,
}
# From its own 15 trials.
TUNED["auto_debias_without_biases"] = {
    **_AUTO_DEBIAS,
    "lr": 1.348e-3,
    "weight_decay": 1.752e-3,
    "observed_weight_decay": 1.777e-5,
    "imputed_weight_decay": 6.717e-4,
    "imputation_weight": 2.389,
    "imputation_lr": 6.407e-3,
    "imputation_weight_decay": 2.117e-7,
}
# Not tuned; of 6,276 rated pairs.
TUNED["auto_debias_ratings"] = {
    **_AUTO_DEBIAS,
    "lr": 1e-3,
    "weight_decay": 0.0,
    "inner_lr": 1e-3 * 295,
    "imputation_weight": 0.05 * 87_000 / 6_276,
}

_DECAYS = ("observed_weight_decay", "imputed_weight_decay")
_SEARCHED = (*_DECAYS, "imputation_weight", "imputation_lr", "imputation_weight_decay")
SPACE = {
    "cjmf": {
        "exposure_weight_decay": ("log", 1e-2, 100.0),
        "residual_lr": ("log", 1e-5, 1e-3),
        "residual_decay": ("uniform", 0.0, 1.0),
    },
    "ceb": {"outer_lr": ("log", 1e-4, 1e-2), "likelihood_weight": ("log", 1.0, 100.0)},
    "auto_debias": {**dict.fromkeys(_DECAYS, ("log", 1e-6, 1e-2)), "imputation_weight": ("log", 1e-2, 10.0)},
    "auto_debias_released": {
        **dict.fromkeys(_DECAYS, ("log", 1e-5, 1e-1)),
        "imputation_weight": ("log", 1e-3, 1.0),
        "l2": ("log", 1e-2, 10.0),
        "inner_lr": ("log", 1e-4, 1e-2),
    },
}
# What the released programs set: CJMF for Yahoo! R3 and Coat alike, CEB for citations, AutoDebias for Coat.
FIRST = {
    "cjmf": [
        {
            "lr": 1e-3,
            "weight_decay": 5e-5,
            "exposure_weight_decay": 11.0,
            "residual_lr": 1e-3 / 13,
            "residual_decay": 0.5,
        }
    ],
    "ceb": [{"lr": 1e-3, "outer_lr": 1e-3, "likelihood_weight": 20.0}],
    "auto_debias": [{name: _AUTO_DEBIAS_FIRST[name] for name in _SEARCHED}],
    "auto_debias_released": [
        {
            "inner_lr": 1e-3,
            "imputation_weight": 0.05,
            "l2": 1.0,
            "observed_weight_decay": 1e-4,
            "imputed_weight_decay": 1e-3,
            "imputation_lr": 0.1,
            "imputation_weight_decay": 1e-4,
        }
    ],
}

GROUPS = {
    **experiment.EXPOSURE_GROUPS,
    "table2": experiment.IMPLICIT,
    "reasons": ("mf", "bpr", "bpr_5", "relmf", "relmf_unclipped"),
    "uniform_frames": ("mf", "mf_uniform", "relmf_uniform", "umf_uniform", "biif_uniform"),
    "forms": (
        *("mf", "expomf", "expomf_released", "joint_opt", "joint_opt_attached"),
        *("cjmf", "cjmf_without_exposure", "cjmf_released"),
        *("ceb", "ceb_pu", "ceb_added_positives", "ceb_attached", "ceb_detached"),
        *("auto_debias", "auto_debias_ratings", "auto_debias_released"),
    ),
    # Whether the settings or the user and item biases make the rows of CJMF, CEB and AutoDebias what they are.
    "joint_reasons": (
        "mf",
        "mf_with_biases",
        "auto_debias",
        "auto_debias_without_biases",
        "auto_debias_program",
        "cjmf",
        "cjmf_program",
        "ceb",
        "ceb_program",
    ),
    "rated": ("mf", "mean_logit_ratings", "mf_rated", "ips", "ips_popularity", "snips"),
}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    variants = experiment.implicit_variants(TUNED)
    for name in ("cjmf", "ceb", "auto_debias"):
        own = variants[f"{name}_program"] = variants[name].copy_and_resolve_references()
        own.hparams = {**(_AUTO_DEBIAS if name == "auto_debias" else {}), **FIRST[name][0]}
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, variants, groups=GROUPS)
        config.data.name = "coat"
        config.data.options = {"threshold": 4.0}
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "cjmf"
        config.protocol.headline = "dcg@3"
        config.tune.space.update(SPACE)
        config.tune.first = FIRST
        experiment.use_own_schedules(config)
    return config
