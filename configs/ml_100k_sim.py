"""Semi-synthetic MovieLens 100K (BADR, Table 6): every pair has a label, a log observes some with known propensities.

    python launch/train.py --config=configs/ml_100k_sim.py:mf --workdir=runs/ml_100k_sim_mf
    python launch/reproduce.py --table=badr_table6 --config=configs/ml_100k_sim.py:table6 --workdir=runs/table6

Label: rating >= 3 of a completed matrix. ``decay`` 0.5 observes 9.4 % of the pairs, 0.58 observes 15.1 %; high ratings
are observed more often. Validation and test are 10 and 90 % of the others, 1.3 million test pairs. Table 6 trains with
dim 16; its other hyperparameters are not published.
"""

from debias_jax import experiment

TUNED = {
    # python launch/tune.py --config=configs/ml_100k_sim.py:METHOD --trials=12 --workdir=DIR, validation AUC, seed 2024.
    "mf_bias": {"lr": 0.06474, "weight_decay": 6.136e-07},
    "mf": {"lr": 0.06474, "weight_decay": 6.136e-07},
    "ips": {
        "lr": 0.005418,
        "min_propensity": 0.1487,
        "propensity_weight_decay": 4.604e-07,
        "weight_decay": 4.194e-05,
    },
    "snips": {
        "lr": 0.01178,
        "min_propensity": 0.09384,
        "propensity_weight_decay": 8.343e-07,
        "weight_decay": 8.554e-06,
    },
    "dr_jl": {
        "imputation_lr": 0.048,
        "imputation_weight_decay": 0.0001418,
        "lr": 0.007242,
        "min_propensity": 0.1,
        "observed_weight": 2.178,
        "propensity_weight_decay": 0.005756,
        "weight_decay": 1.894e-05,
    },
    "sndr": {
        "imputation_lr": 0.06478,
        "imputation_weight_decay": 6.891e-07,
        "lr": 0.01882,
        "min_propensity": 0.1209,
        "propensity_weight_decay": 1.614e-07,
        "weight_decay": 1.228e-05,
    },
    "dce_tdr": {
        "calibration_lr": 0.005433,
        "calibration_weight_decay": 0.002231,
        "imputation_lr": 0.005798,
        "imputation_weight_decay": 1.801e-07,
        "lr": 0.02692,
        "min_propensity": 0.0485,
        "propensity_weight_decay": 4.009e-07,
        "weight_decay": 4.202e-06,
    },
    "badr": {
        "imputation_lr": 0.01018,
        "imputation_weight_decay": 3.47e-07,
        "lr": 0.05564,
        "min_propensity": 0.04183,
        "observed_weight": 4.036,
        "propensity_weight_decay": 3.07e-07,
        "weight_decay": 3.88e-05,
    },
}

GROUPS = {"table6": ("mean_logit", "mf_bias", "mf", "ips", "snips", "dr_jl", "sndr", "dce_tdr", "badr")}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    table = experiment.cvr_variants(TUNED, settings={"frame": "block", "ratio": 5, "propensity": "additive"})
    # The released program is its settings for its own datasets.
    table = {name: entry for name, entry in table.items() if name not in experiment.CVR_RELEASED}
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "ml_100k_sim"
        config.data.options = {"decay": 0.5, "seed": 0}
        config.model.dim = 16
        config.train.batch_size = 4096
        config.train.epochs = 60
        config.train.eval_every = 2
        config.train.patience = 5
        config.tune.trials = 12
        config.tune.startup = 4
        experiment.table_settings(
            config,
            metrics=(
                "auc",
                "ndcg@5",
                "recall@5",
                "precision@5",
                "ndcg@50",
                "recall@50",
                "precision@50",
            ),
        )
    return config
