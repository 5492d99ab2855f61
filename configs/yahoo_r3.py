r"""Yahoo! R3 (the user's own licensed copy) under the protocol of Biif's tables (CJMF's evaluator, 2,374 users).

    python launch/train.py --config=configs/yahoo_r3.py:biif --config.data.path=FOLDER --workdir=runs/yahoo_biif
    python launch/reproduce.py --table=biif_table1 --config=configs/yahoo_r3.py:table1 --config.data.path=FOLDER \
        --workdir=runs/yahoo

FOLDER holds ydata-ymusic-rating-study-v1_0-train.txt and -test.txt. Settings of the paper: dim 50, batch 1024, 100
epochs, 15 for CJMF; of AutoDebias blocks of 6000 x 500 pairs, and its program's settings for this dataset. Not measured
here: the data may not be redistributed, and no copy was at hand.
"""

from debias_jax import experiment

TUNED = {
    "auto_debias_released": {
        "inner_lr": 1e-4,
        "imputation_weight": 1.0,
        "l2": 1.0,
        "observed_lr": 1e-2,
        "observed_weight_decay": 1e-2,
        "imputed_lr": 1e-3,
        "imputed_weight_decay": 1e-2,
        "imputation_lr": 0.1,
        "imputation_weight_decay": 1e-4,
        # 20 epochs of 3 x 2 blocks.
        "weight_delay": 120.0,
    },
}

GROUPS = {"table1": experiment.IMPLICIT, **experiment.EXPOSURE_GROUPS}
"""The whole family, of which the paper's table has eight methods; groups of Biif's figures and ablations."""


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        table = experiment.implicit_variants(TUNED, settings={"auto_debias": {"block": (6000, 500)}})
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "yahoo_r3"
        config.data.options = {"threshold": 4.0, "strict_counts": True}
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "cjmf"
        config.protocol.headline = "dcg@3"
        experiment.use_own_schedules(config)
    return config
