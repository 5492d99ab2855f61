"""Yahoo! R3 (the user's own licensed copy) under the protocol of Biif's tables (CJMF's evaluator, 2,374 users).

    python launch/train.py --config=configs/yahoo_r3.py:biif --config.data.path=FOLDER --workdir=runs/yahoo_biif

FOLDER holds ydata-ymusic-rating-study-v1_0-train.txt and -test.txt. Settings of the paper: dim 50, batch 1024, 100
epochs. Not measured here: the data may not be redistributed, and no copy was at hand.
"""

from debias_jax import experiment


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), ``table1`` or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(
            config, method, experiment.implicit_variants({}), groups={"table1": experiment.IMPLICIT}
        )
        config.data.name = "yahoo_r3"
        config.data.options = {"threshold": 4.0, "strict_counts": True}
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "cjmf"
        config.protocol.headline = "dcg@3"
    return config
