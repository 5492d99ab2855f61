"""Semi-synthetic MovieLens 100K (BADR, Table 6): every pair has a label, a log observes some with known propensities.

    python launch/train.py --config=configs/ml_100k_sim.py:mf_rated --workdir=runs/ml_100k_sim_mf
    python launch/train.py --config=configs/ml_100k_sim.py:rated --workdir=runs/ml_100k_sim

Label: rating >= 3 of a completed matrix. ``decay`` 0.5 observes 9.4 % of the pairs, 0.58 observes 15.1 %; high ratings
are observed more often. Validation and test are 10 and 90 % of the others, 1.3 million test pairs. Table 6 trains with
dim 16.
"""

from debias_jax import experiment

# From sweep.py --seeds=1 --grid=weight_decay=1e-6,5e-6,1e-5,2e-5,5e-5 of mf_rated at lr 0.01, validation AUC.
TUNED = dict.fromkeys(("mf", "ips", "snips"), {"lr": 1e-2, "weight_decay": 2e-5})

GROUPS = {"rated": ("mean_logit_ratings", "mf_rated", "ips", "ips_logged", "snips")}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, experiment.implicit_variants(TUNED), groups=GROUPS)
        config.baseline = "mf_rated"
        config.data.name = "ml_100k_sim"
        config.data.options = {"decay": 0.5, "seed": 0}
        config.model.dim = 16
        config.protocol.validation = "badr"
        config.protocol.validation_metrics = ("auc",)
        config.protocol.monitor = "auc"
        config.protocol.test = "badr"
        config.protocol.metrics = (
            "auc",
            "ndcg@5",
            "recall@5",
            "precision@5",
            "ndcg@50",
            "recall@50",
            "precision@50",
        )
        config.protocol.headline = "auc"
        config.train.batch_size = 4096
        config.train.epochs = 30
        config.train.eval_every = 5
    return config
