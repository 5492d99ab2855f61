"""Simulated data with known exposure and relevance; the embedded default, no download.

    python launch/train.py --config=configs/synthetic.py:demo --workdir=runs/demo
    python launch/train.py --config=configs/synthetic.py:biif --workdir=runs/biif

``make demo`` runs the first line; its table stands in docs/results.md. The test part is every pair that was not
clicked, with a fresh draw of its true relevance.
"""

from debias_jax import experiment

TUNED = {
    # From sweep.py --config=configs/synthetic.py:mf,bpr,ips,snips,relmf,umf,biif --seeds=2
    # --grid=lr=3e-3,1e-2,3e-2 --grid=weight_decay=0,1e-5,1e-4,1e-3: snips_dcg@3 on the hyper-validation part, the best
    # mean of two seeds; the same 12 points for every method.
    "mf": {"lr": 1e-2, "weight_decay": 1e-4},
    "bpr": {"lr": 1e-2, "weight_decay": 1e-4},
    "ips": {"lr": 3e-2, "weight_decay": 1e-5},
    "snips": {"lr": 3e-2, "weight_decay": 0.0},
    "relmf": {"lr": 3e-3, "weight_decay": 1e-4},
    "umf": {"lr": 1e-2, "weight_decay": 1e-4},
    "biif": {"lr": 1e-2, "weight_decay": 1e-4},
    "joint_opt": {"lr": 1e-2, "weight_decay": 1e-4},
    "alter_opt": {"lr": 1e-2, "weight_decay": 1e-4},
    "bi_opt2": {"lr": 1e-2, "weight_decay": 1e-4},
}
"""The last three are not tuned: they take Biif's setting."""

DEMO = ("mean_logit", "mf", "bpr", "ips", "snips", "relmf", "umf", "biif")


def get_config(method: str = ""):
    """Config of one method, several (comma-separated), ``demo`` or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, experiment.implicit_variants(TUNED), groups={"demo": DEMO})
        config.seeds = tuple(range(8))
        config.data.name = "synthetic"
        config.data.options = {"seed": 0, "n_users": 400, "n_items": 250}
        config.data.split = {"name": "biif", "seed": 0}
        config.model.dim = 16
        config.protocol.test = "strict"
        config.protocol.metrics = ("auc", "ndcg@5", "recall@5", "map@5")
        config.protocol.headline = "ndcg@5"
        config.train.epochs = 60
        config.train.batch_size = 1024
        config.train.eval_every = 5
        config.train.patience = 3
        config.train.restore = "best"
    return config
