"""MovieLens 100K as implicit feedback: retrieval from 1,152 films, 53,473 pairs of 943 users.

    python launch/train.py --config=configs/ml_100k_retrieval.py:ssl_pop --workdir=runs/ml_100k_ssl_pop
    python launch/train.py --config=configs/ml_100k_retrieval.py:table --workdir=runs/ml_100k_retrieval

Users and items with ten ratings at least; a row is a rating of at least the user's own mean. Of each user's rows 20 %
are for the test and 8 %, a tenth of the rest, for validation; both parts are as biased as the log. Preparation and
settings (dim 32, batch 256, 100 epochs) are those of the program of Chen et al., NeurIPS 2022.
"""

from debias_jax import experiment

TUNED = {
    # From launch/tune.py --config=configs/ml_100k_retrieval.py:NAME --trials=16
    "ssl": {"lr": 0.0004937842828420854, "weight_decay": 0.00023284314445264727},
    "ssl_pop": {"lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844},
    "ssl_pop_sharp": {"lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844},
    "mns": {"lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844},
    "g_tower": {
        "frequency_rate": 0.029081573072630804,
        "lr": 0.00046972709392627255,
        "weight_decay": 0.00017788092703315553,
    },
    "bir": {"lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844},
    "bir_mean": {"lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844},
    # The first of its trials; see FIRST.
    "xir": {"cache_weight": 0.2, "lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844},
}

AT_BATCH_SIZE = {
    # From launch/tune.py --config=configs/ml_100k_retrieval.py:ssl_pop --trials=16 --config.train.batch_size=SIZE: as
    # in the paper's program the choice of ssl_pop is that of all. With batches of 256 each method has its own.
    **dict.fromkeys(
        ("512", "1024", "2048"), {"lr": 0.001711996340678133, "weight_decay": 0.00019910542161123847}
    ),
    **dict.fromkeys(("4096", "8192"), {"lr": 0.0026204654230220408, "weight_decay": 0.00020476231259751844}),
}
"""Settings of Figure 7 by batch size."""

FIRST = {
    "default": [{"lr": 1e-3, "weight_decay": 1e-3}],
    "xir": [TUNED["xir"]],
}
"""What the released program sets for this dataset; xir begins with what was found for bir, and the program's weight of
the cache."""

GROUPS = {
    "table": experiment.RETRIEVAL,
    "figure7": ("ssl_pop", "ssl_pop_sharp", "bir", "xir"),
    "released": experiment.RETRIEVAL_RELEASED,
}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        table = experiment.retrieval_variants(TUNED)
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "ml_100k_implicit"
        config.data.split = {"name": "random", "validation": 0.08, "test": 0.2, "per_user": True, "seed": 10}
        config.model.dim = 32
        config.train.batch_size = 256
        config.train.epochs = 100
        config.train.eval_every = 5
        config.train.patience = 4
        config.tune.first = FIRST
        config.tune.trials = 16
        config.at_batch_size = AT_BATCH_SIZE
        config.seeds = (10, 20, 30, 40, 50)
        experiment.retrieval_settings(config)
    return config
