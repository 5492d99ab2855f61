"""KuaiRec's fixed split (watch ratio >= 2), trained on rated pairs, validated and tested on unbiased ones.

    python launch/train.py --config=configs/kuairec.py:mf --workdir=runs/kuairec_mf

``mean_logit`` has AUC .8281, NDCG@50 .6547, recall@50 .7070 (``kuairec.py:mean_logit``, no seed in it); the others have
not been tuned. Protocol ``badr`` at k = 50 (users without a positive count, see docs/protocols.md). The methods that
read labels of shown pairs are meant here: mean_logit, mf, ips, snips. The doubly robust family is to come.
"""

from debias_jax import experiment

TUNED = {"lr": 0.01, "weight_decay": 1e-5}


def get_config(method: str = ""):
    """Config of one method, several (comma-separated) or ``all``."""
    table = {
        "mean_logit": experiment.variant("mean_logit", options={"feedback": "ratings"}),
        "mf": experiment.variant("mf", options={"frame": "observed"}, **TUNED),
        "ips": experiment.variant("ips", **TUNED),
        "snips": experiment.variant("snips", **TUNED),
    }
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(config, method, table, groups={})
        config.data.name = "kuairec"
        config.model.dim = 64
        config.protocol.validation = "badr"
        config.protocol.monitor = "auc"
        config.protocol.test = "badr"
        config.protocol.metrics = ("auc", "ndcg@50", "recall@50")
        config.protocol.headline = "ndcg@50"
        config.train.epochs = 20
        config.train.batch_size = 4096
        config.train.eval_every = 1
        config.train.patience = 3
        config.train.restore = "best"
    return config
