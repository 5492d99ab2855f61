"""KuaiRec's fixed split (watch ratio >= 2): conversion-rate methods trained on biased rows, tested on unbiased ones.

    python launch/train.py --config=configs/kuairec.py:badr --workdir=runs/kuairec_badr
    python launch/reproduce.py --table=badr_table3 --config=configs/kuairec.py:table3 --workdir=runs/kuairec_table3

Settings of the paper: dim 64, batch 4096. ``badr_released`` is the released program with its published hyperparameters;
all else is tuned. The group ``released`` keeps the program's schedule. Protocol ``badr`` at k = 50 (users without a
positive count, see docs/protocols.md); ``mean_logit`` has AUC .8281, NDCG@50 .6547, recall@50 .7070 and no seed in it.
Results: docs/results.md; what they say: docs/badr.md.
"""

from debias_jax import experiment

TUNED = {
    # From launch/tune.py --config=configs/kuairec.py:NAME --trials=12; others are untuned.
    "mf": {"lr": 0.0023362789638732887, "weight_decay": 3.513612918527467e-05},
    "mf_bias": {"lr": 0.007130874626643603, "weight_decay": 3.614178986640868e-05},
}

PUBLISHED = {
    "lr": 0.006152742961925225,
    "weight_decay": 0.00010705245764563371,
    "imputation_lr": 0.07647306971338631,
    "imputation_weight_decay": 0.00014177672747735153,
    "propensity_lr": 0.04798410261969416,
    "propensity_weight_decay": 0.9423863023273242,
    "min_propensity": 0.07640626255241306,
}

_LAB = {
    "lr": 0.05,
    "weight_decay": 1e-4,
    "imputation_lr": 0.05,
    "imputation_weight_decay": 1e-4,
    "min_propensity": 0.05,
}

_CALIBRATED = {
    "lr": 0.0176,
    "weight_decay": 1e-4,
    "imputation_lr": 0.0199,
    "imputation_weight_decay": 6.75e-3,
    "min_propensity": 0.0583,
    "calibration_lr": 0.0104,
    "calibration_weight_decay": 0.01,  # published: 0.0611, outside of the range
}

FIRST = {
    # What the released programs of BADR's laboratory and of DCE set for KuaiRec; the search begins with it.
    "mf": [{"lr": 0.05, "weight_decay": 1e-5}],
    "ips": [{"lr": 0.01, "weight_decay": 1e-4, "min_propensity": 0.05}],
    **{name: [_LAB] for name in ("dr_jl", "mrdr", "dr_bias", "dr_mse", "d_dr", "dr_mse_gpl")},
    "stable_dr": [{"lr": 0.05, "weight_decay": 1e-5, "imputation_lr": 0.05, "imputation_weight_decay": 1e-5}],
    "tdr_cl": [{**_LAB, "min_propensity": 0.1}],
    **{name: [_CALIBRATED] for name in ("dce_dr", "dce_tdr")},
    "cvib": [{"lr": 0.01, "weight_decay": 1e-4, "contrast_weight": 0.1, "confidence_weight": 0.05}],
    "dib": [{"lr": 0.05, "weight_decay": 1e-4, "combined_weight": 0.15, "biased_weight": 0.05}],
    "damf": [{"lr": 0.01, "adversary_lr": 0.01, "weight_decay": 1e-4, "discrepancy_weight": 0.038}],
    **experiment.MULTITASK_FIRST,
    "badr": [{name: value for name, value in PUBLISHED.items() if not name.startswith("propensity")}],
    # What an earlier search of 12 trials found for mf, for the prediction and the imputation of every method.
    "default": [
        {
            "lr": 2.3e-3,
            "weight_decay": 8.6e-6,
            "imputation_lr": 2.3e-3,
            "imputation_weight_decay": 8.6e-6,
            "observed_weight": 1.0,
        }
    ],
}

TABLE5 = ("mf", "dr_jl", "mrdr", "dr_bias", "tdr_cl", "dr_mse_gpl", "dce_tdr", "badr")

GROUPS = {
    "table3": (
        "mean_logit",
        "mf_bias",
        *experiment.CVR_TABLE,
        "eib",
        "sndr",
        "badr_corrected",
        "dce_dr",
        "badr_mmoe",
    ),
    "table5": TABLE5,
    "ablation": experiment.CVR_ABLATION,
    "controls": experiment.CVR_CONTROLS,
    "released": experiment.CVR_RELEASED,
}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    table = experiment.cvr_variants(
        TUNED,
        settings={"frame": "block", "ratio": 5, "propensity": "additive"},
        released={"ratio": 5, "propensity_batch_size": 32768},
        released_hparams=PUBLISHED,
    )
    if method == "all":
        # The released program has a schedule of its own.
        table = {name: entry for name, entry in table.items() if name not in experiment.CVR_RELEASED}
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "kuairec"
        config.model.dim = 64
        config.train.batch_size = 4096
        config.train.epochs = 40
        config.train.eval_every = 1
        config.train.patience = 6
        config.tune.trials = 12
        config.tune.startup = 4
        config.tune.first = FIRST
        experiment.table_settings(config, metrics=("auc", "ndcg@50", "recall@50"))
        # About what the programs that were released for KuaiRec use; 12 trials do not search five decades.
        config.tune.space.default.lr = ("log", 1e-3, 5e-2)
        config.tune.space.default.weight_decay = ("log", 1e-6, 5e-4)
        config.tune.space.default.observed_weight = ("log", 0.5, 15.0)
        experiment.released_schedule(config)
    return config
