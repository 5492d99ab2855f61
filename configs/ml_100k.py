"""MovieLens 100K as a biased log: ratings >= 4 are clicks, 10 % of each user's rows are held out at random.

    python launch/train.py --config=configs/ml_100k.py:mf --workdir=runs/ml_100k_mf

There is no unbiased part: test positives are as exposed as training clicks, so this ranks methods by how well they
predict the log (protocol ``xir``: the whole catalogue without training items), not by relevance.
"""

from debias_jax import experiment


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated) or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(
            config, method, experiment.implicit_variants({}), groups={"family": experiment.IMPLICIT}
        )
        config.data.name = "ml_100k"
        config.data.options = {"threshold": 4.0}
        config.data.split = {"name": "random_test_then_biif", "test": 0.1, "seed": 0}
        config.protocol.test = "xir"
        config.protocol.headline = "ndcg@10"
        config.train.epochs = 30
        config.train.eval_every = 5
    return config
