"""Gowalla check-ins in LightGCN's split: retrieval from 40,981 places, 810,128 training pairs of 29,858 users.

    python launch/train.py --config=configs/gowalla.py:ssl_pop --workdir=runs/gowalla_ssl_pop
    python launch/train.py --config=configs/gowalla.py:table --workdir=runs/gowalla

A tenth of each user's training rows is for validation. Settings of the program of Chen et al., NeurIPS 2022: dim 32,
batch 2048, 100 epochs; ours end after two evaluations without improvement, and have their own rates and decays.
"""

from debias_jax import experiment

TUNED = {
    # From launch/tune.py --config=configs/gowalla.py:NAME --config.train.epochs=10 --batch=1, eight trials each.
    **dict.fromkeys(experiment.RETRIEVAL, {"lr": 5e-3, "weight_decay": 5e-6}),
    "ssl": {"lr": 5e-3, "weight_decay": 1e-5},
    "ssl_pop": {"lr": 1e-2, "weight_decay": 5e-6},
    # The weight of the cache that its own program sets.
    "xir": {"lr": 5e-3, "weight_decay": 5e-6, "cache_weight": 0.2},
}

SPACE = {"default": {"lr": ("log", 1e-3, 3e-2), "weight_decay": ("log", 1e-6, 1e-3)}}
FIRST = {
    "default": [
        {"lr": lr, "weight_decay": weight_decay}
        for lr, weight_decay in (
            *((1e-2, 1e-5), (5e-3, 1e-5), (5e-3, 5e-6), (1e-2, 5e-6)),
            *((2e-2, 5e-6), (2e-2, 1e-5), (1e-2, 2.5e-6), (5e-3, 2.5e-6)),
        )
    ]
}
"""A trial takes minutes here, so that a search is what is published (Fan et al., CIKM 2023: 1e-2 and 1e-5, for ``ssl``
5e-3 and 1e-5) and seven settings around it. With a decay of 1e-4 nothing is learnt."""

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
        config.data.name = "gowalla"
        config.data.split = {"name": "random_where_missing", "validation": 0.1, "seed": 10}
        config.model.dim = 32
        config.train.batch_size = 2048
        config.train.epochs = 100
        config.train.eval_every = 5
        config.train.patience = 2
        config.tune.trials = 8
        config.tune.first = FIRST
        config.seeds = (10, 20)
        experiment.retrieval_settings(config)
        config.tune.space = SPACE
    return config
