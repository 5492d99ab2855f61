r"""Semi-synthetic MovieLens 100K with known exposure and relevance (Biif, section 4), at three levels of difficulty.

    python launch/train.py --config=configs/ml_100k_exposure.py:biif --workdir=runs/exposure_biif
    python launch/reproduce.py --table=biif_figures --config=configs/ml_100k_exposure.py:figures \
        --config.data.options.level=hard --workdir=runs/figures_hard

Exposure m and relevance gamma are logistic factorisations of what was rated and of what was rated > 3; the log is one
draw, and the test part every pair without a click, its relevance drawn afresh. A level sets the factorisation, and so
how far popularity alone explains the exposure:

    level    dim   l2   mean m   clicks   PCC of theta with m
    easy       0   .1    .0637   17,068   .944
    medium     1   13    .0750   15,079   .800
    hard      20    1    .0639   29,993   .504

which every run prints (``popularity_pcc``: the whole log, draw seed 0). The paper's factorisation is not published; its
methods all start at a PCC above .8, which popularity has by itself on the first two levels. ``plots/pcc.png`` of a run
shows the PCC of every method that estimates exposure, over training from epoch 0 on, and popularity's. The group
``figures`` holds what Biif's Figures 1-3 show; see docs/results.md.
"""

from debias_jax import experiment

TUNED = {
    # On the medium level: tune.py --trials=6 --batch=6 --config.train.eval_every=20 --config.train.eval_at_start=False,
    # one seed, by snips_dcg@3 on the hyper-validation part.
    "mf": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "bpr": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "relmf": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "umf": {"lr": 3.24e-4, "weight_decay": 6.153e-6},
    "biif": {"lr": 3.24e-4, "weight_decay": 6.153e-6},
    "joint_opt": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "alter_opt": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "bi_opt2": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "expomf": {"regularization": 2.085, "initial_exposure": 0.2017},
    "cjmf": {"lr": 8.75e-4, "weight_decay": 2.083e-5},
    "ceb": {"lr": 1.955e-2, "weight_decay": 3.229e-4},
    "auto_debias": {
        "lr": 8.504e-3,
        "weight_decay": 5.973e-3,
        "imputation_lr": 1.955e-2,
        "imputation_weight_decay": 3.229e-4,
    },
}
"""``alter_opt`` and ``bi_opt2`` have what was tuned for ``joint_opt``."""


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), of ``experiment.EXPOSURE_GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        experiment.select_variants(
            config, method, experiment.implicit_variants(TUNED), groups=experiment.EXPOSURE_GROUPS
        )
        config.data.name = "ml_100k_exposure"
        config.data.options = {"level": "medium", "likelihood": "bernoulli", "seed": 0}
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "strict"
        config.protocol.metrics = ("dcg@1", "dcg@2", "dcg@3", "ndcg@5", "recall@5", "auc")
        config.protocol.headline = "dcg@3"
        config.train.epochs = 100
        config.train.eval_every = 2
        config.train.eval_at_start = True
        experiment.use_own_schedules(config)
    return config
