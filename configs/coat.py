"""Coat Shopping under the protocol of Biif's tables (CJMF's evaluator, 237 users).

    python launch/train.py --config=configs/coat.py:biif --workdir=runs/coat_biif
    python launch/train.py --config=configs/coat.py:table2 --workdir=runs/coat

Ratings >= 4 are clicks. The "probably exposed" pairs are in the training part, 10 % of the other rated pairs are for
tuning by SNIPS. Settings of the paper: dim 50, batch 1024, 100 epochs, Adam. Results: docs/results.md.
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
    "ubpr": {"lr": 3e-3, "weight_decay": 1e-3},
    # As many points, without a learning rate: --grid=regularization=1e-3,1e-1,1,3,10 --grid=initial_exposure=.01,.03,.1
    # (of which the second changes nothing at the better values of the first), and --grid=alpha=.3,3,30
    # --grid=regularization=.1,1,3,10,30.
    "expomf": {"regularization": 3.0, "initial_exposure": 0.01},
    "wmf": {"alpha": 0.3, "regularization": 3.0},
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
    return config
