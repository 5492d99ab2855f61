r"""The user's own csv, tsv or parquet file: a user and an item column, and a label or a rating if there is one.

    python launch/train.py --config=configs/own_data.py:umf --config.data.path=log.csv --workdir=runs/own
    python launch/train.py --config=configs/own_data.py:snips --config.data.path=log.csv \
        --config.data.options.user=uid --config.data.options.item=sku --config.data.options.rating=stars \
        --config.data.options.threshold=4 --workdir=runs/own_rated

Without label and rating every row is a click. Without a split column 10 % of each user's rows are the test part and
10 % of the rest choose hyperparameters; such a test part is as biased as the log. ``docs/own_data.md`` has the rest.
"""

from ml_collections import config_dict

from debias_jax import experiment


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated) or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(
            config, method, experiment.implicit_variants({}), groups={"family": experiment.IMPLICIT}
        )
        config.data.name = "own"
        config.data.options = {
            "user": "user",
            "item": "item",
            **{
                name: config_dict.placeholder(str)
                for name in ("label", "rating", "timestamp", "propensity", "split", "separator", "name")
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
    return config
