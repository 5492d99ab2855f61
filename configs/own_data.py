r"""The user's own csv, tsv or parquet file: a user and an item column, and a label or a rating if there is one.

    python launch/train.py --config=configs/own_data.py:umf --config.data.path=log.csv --workdir=runs/own
    python launch/train.py --config=configs/own_data.py:snips --config.data.path=log.csv \
        --config.data.options.user=uid --config.data.options.item=sku --config.data.options.rating=stars \
        --config.data.options.threshold=4 --workdir=runs/own_rated
    python launch/train.py --config=configs/own_data.py:badr --config.data.path=impressions.csv --workdir=runs/own_cvr
    python launch/train.py --config=configs/own_data.py:ssl_pop --config.data.path=pairs.csv --workdir=runs/own_pairs

Without label and rating every row is a click. Without a split column 10 % of each user's rows are the test part and
10 % of the rest choose hyperparameters; such a test part is as biased as the log.

A method of conversion rates reads a file of impressions with the columns ``clicked`` and ``converted``; see
``for_conversions``. The methods that both families have (``mf``, ``mean_logit``, ``ips``, ``snips``) are those of the
implicit family: on rated or clicked pairs ``mf_rated`` and ``mean_logit_ratings`` are what the conversion-rate tables
call ``mf`` and ``mean_logit``; ``ips`` and ``snips`` are the same. ``docs/own_data.md`` has the rest.
"""

from ml_collections import ConfigDict, config_dict

from debias_jax import experiment

IMPLICIT = experiment.implicit_variants({})
CONVERSION = {
    name: entry
    for name, entry in experiment.cvr_variants({}, settings={"frame": "pairs", "ratio": 4}).items()
    # The released program is its settings for its own datasets.
    if name not in (*IMPLICIT, *experiment.CVR_RELEASED)
}

_START = {"lr": 1e-2, "weight_decay": 1e-5}
RETRIEVAL = experiment.retrieval_variants(
    dict.fromkeys(("ssl", "ssl_pop", "mns", "g_tower", "bir", "xir"), _START)
)

RATED = ("mean_logit_ratings", "mf_rated", "ips", "ips_popularity", "ips_logged", "snips", "snips_logged")
"""Variants of the implicit family that learn from the labels of observed pairs, as the conversion family does."""

GROUPS = {
    "family": experiment.IMPLICIT,
    "retrieval": experiment.RETRIEVAL,
    "cvr": ("mean_logit_ratings", "mf_bias", "ips", "dr_jl", "sndr", "badr"),
}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``.

    Variants of the conversion family, alone or beside those of ``RATED``, get the settings of ``for_conversions``,
    those of retrieval the settings of ``for_retrieval``.
    """
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, IMPLICIT | CONVERSION | RETRIEVAL, groups=GROUPS)
        config.data.name = "own"
        config.data.options = {
            "user": "user",
            "item": "item",
            **{
                name: config_dict.placeholder(str)
                for name in (
                    "label",
                    "rating",
                    "observed",
                    "timestamp",
                    "propensity",
                    "split",
                    "separator",
                    "name",
                )
            },
            "threshold": config_dict.placeholder(float),
            "duplicates": "error",
            "on_bad_rows": "error",
        }
        config.data.split = {"name": "random_test_then_biif", "test": 0.1, "validation": 0.1, "seed": 0}
        config.protocol.test = "xir"
        config.protocol.metrics = ("ndcg@10", "recall@10")
        config.protocol.headline = "ndcg@10"
        config.train.epochs = 30
        config.train.eval_every = 5
        config.train.patience = 3
        config.train.restore = "best"
        chosen = set(config.methods)
        if chosen & set(CONVERSION) and chosen <= {*CONVERSION, *RATED}:
            for_conversions(config)
        if chosen and chosen <= set(RETRIEVAL):
            for_retrieval(config)
    return config


def for_conversions(config: ConfigDict) -> None:
    """Settings of a log of impressions: conversions of the clicked rows are learnt and held out.

    Validation and test are 10 % of each user's clicked rows, as biased as the log is: clicks chose them.
    """
    config.baseline = "mf_bias"
    config.data.options.label = "converted"
    config.data.options.observed = "clicked"
    config.data.split = {
        "name": "random_where_missing",
        "test": 0.1,
        "validation": 0.1,
        "per_user": True,
        "seed": 0,
    }
    config.model.dim = 32
    experiment.conversion_settings(config, metrics=("auc", "ndcg@5"))
    config.train.batch_size = 1024
    config.train.epochs = 60
    config.train.eval_every = 2
    config.train.patience = 5
    # The datasets of that space observe 5 to 16 % of all pairs; a log of clicks may observe far fewer, and a clip above
    # every propensity would make all of them equal.
    config.tune.space.default.min_propensity = ("log", 1e-4, 1e-1)


def for_retrieval(config: ConfigDict) -> None:
    """Settings of pairs from which items are to be retrieved: towers with in-batch negatives, ranking of all items."""
    config.baseline = "ssl_pop"
    config.data.split = {"name": "random_where_missing", "test": 0.1, "validation": 0.1, "seed": 0}
    config.model.dim = 32
    experiment.retrieval_settings(config)
    config.protocol.metrics = ("ndcg@10", "recall@10")
    config.train.batch_size = 1024
    config.train.epochs = 50
