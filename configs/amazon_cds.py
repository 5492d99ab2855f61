"""Semi-synthetic exposure data from a file of ratings of your own, as Biif made it from Amazon CDs (section 4).

    python launch/train.py --config=configs/amazon_cds.py:biif --config.data.path=ratings.csv --workdir=runs/cds_biif

The ratings-only file of SNAP has no header; put ``user,item,rating,timestamp`` on its first line. Users with fewer than
10 ratings and items with fewer than 8 are dropped, and the first 3,000 users and items in the order of the file kept:
the numbers are the paper's; order and repetition it leaves open. Other columns and numbers are options:
``--config.data.options.item=asin``. With ``--config.data.options.timestamp=timestamp`` the times are read too, by which
``duplicates=last`` chooses; without, the order of the file does.

The report says how far popularity explains the exposure (PCC), which ``options.dim`` and ``options.l2`` decide;
``plots/pcc.png`` shows what methods learn beyond it. Not measured here: no copy was at hand.
"""

from debias_jax import experiment

GROUPS = {"family": experiment.IMPLICIT, **experiment.EXPOSURE_GROUPS}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, experiment.implicit_variants({}), groups=GROUPS)
        config.data.name = "own_exposure"
        config.data.options = {
            "user": "user",
            "item": "item",
            "rating": "rating",
            "timestamp": "",
            "threshold": 4.0,
            "min_user_rows": 10,
            "min_item_rows": 8,
            "n_users": 3000,
            "n_items": 3000,
            "dim": 1,
            "l2": 13.0,
            "likelihood": "bernoulli",
            "duplicates": "error",
            "separator": "",
            "seed": 0,
        }
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "strict"
        config.protocol.metrics = ("dcg@1", "dcg@2", "dcg@3", "ndcg@5", "recall@5", "auc")
        config.protocol.headline = "dcg@3"
        # The paper's, but 15 epochs of ``cjmf``.
        config.train.batch_size = 8096
        config.train.epochs = 100
        config.train.eval_every = 2
        config.train.eval_at_start = True
        experiment.use_own_schedules(config)
    return config
