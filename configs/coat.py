"""Coat Shopping under the protocol of Biif's tables (CJMF's evaluator, 237 users).

    python launch/train.py --config=configs/coat.py:biif --workdir=runs/coat_biif
    python launch/train.py --config=configs/coat.py:table2 --workdir=runs/coat
    python launch/tune.py --config=configs/coat.py:cjmf,ceb,auto_debias --workdir=runs/coat_tune

Ratings >= 4 are clicks. The "probably exposed" pairs are in the training part, 10 % of the other rated pairs are for
tuning by SNIPS. Settings of the paper: dim 50, batch 1024, 100 epochs, Adam; 15 epochs for CJMF where it runs alone, as
each of its epochs trains eight models. ``ubo``, ``cjmf``, ``ceb`` and ``auto_debias`` are not tuned here: they have the
published settings. Results: docs/results.md.
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
}

# What the released program of AutoDebias sets for Coat.
TUNED["auto_debias_released"] = {
    "inner_lr": 1e-3,
    "imputation_weight": 0.05,
    "l2": 1.0,
    "observed_lr": 1e-3,
    "observed_weight_decay": 1e-4,
    "imputed_lr": 1e-3,
    "imputed_weight_decay": 1e-3,
    "imputation_lr": 0.1,
    "imputation_weight_decay": 1e-4,
    # 20 epochs of 5 x 5 blocks of 64 x 64 pairs.
    "weight_delay": 500.0,
}

_META = {"observed_weight_decay": ("log", 1e-5, 1e-1), "imputed_weight_decay": ("log", 1e-5, 1e-1)}
SPACE = {
    "cjmf": {
        "exposure_weight_decay": ("log", 1e-2, 100.0),
        "residual_lr": ("log", 1e-5, 1e-3),
        "residual_decay": ("uniform", 0.0, 1.0),
    },
    "ceb": {"outer_lr": ("log", 1e-4, 1e-2), "likelihood_weight": ("log", 1.0, 100.0)},
    "auto_debias": {**_META, "imputation_weight": ("log", 1e-2, 10.0)},
    "auto_debias_released": {
        **_META,
        "imputation_weight": ("log", 1e-3, 1.0),
        "l2": ("log", 1e-2, 10.0),
        "inner_lr": ("log", 1e-4, 1e-2),
    },
}
# What the released programs set: CJMF for Yahoo! R3 and Coat alike, CEB for citations, AutoDebias for Coat.
_AUTO_DEBIAS = {
    "observed_weight_decay": 1e-4,
    "imputed_weight_decay": 1e-3,
    "imputation_lr": 0.1,
    "imputation_weight_decay": 1e-4,
}
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
    # 0.05 against sums is 0.05 * 87,000 / 1,905 clicks against means.
    "auto_debias": [{**_AUTO_DEBIAS, "imputation_weight": 2.3}],
    "auto_debias_released": [{**_AUTO_DEBIAS, "imputation_weight": 0.05, "l2": 1.0, "inner_lr": 1e-3}],
}

GROUPS = {
    "table2": experiment.IMPLICIT,
    "reasons": ("mf", "bpr", "bpr_5", "relmf", "relmf_unclipped"),
    "choices": (
        "mf",
        "biif",
        "biif_frozen",
        "biif_mean",
        "biif_attached",
        "biif_inner_adam",
        "biif_inner_sgd",
    ),
    "uniform_frames": ("mf", "mf_uniform", "relmf_uniform", "umf_uniform", "biif_uniform"),
    "joint": ("cjmf", "cjmf_released", "ceb", "ceb_pu", "ceb_added_positives", "ceb_detached"),
    "meta": ("biif", "ubo", "auto_debias", "auto_debias_ratings", "auto_debias_released"),
    "rated": ("mf", "mean_logit_ratings", "mf_rated", "ips", "ips_popularity", "snips"),
}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, experiment.implicit_variants(TUNED), groups=GROUPS)
        config.data.name = "coat"
        config.data.options = {"threshold": 4.0}
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "cjmf"
        config.protocol.headline = "dcg@3"
        config.tune.space.update(SPACE)
        config.tune.first = FIRST
        if config.methods and all(name.startswith("cjmf") for name in config.methods):
            config.train.epochs, config.train.eval_every = 15, 5
    return config
