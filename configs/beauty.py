"""Amazon Beauty, next item: 22,363 users, 12,101 items, 198,502 reviews; the last one of each user is the test.

    python launch/train.py --config=configs/beauty.py:sasrec_ce --workdir=runs/beauty_sasrec_ce
    python launch/train.py --config=configs/beauty.py:sasrec_sce --config.seeds='(0,)' --workdir=runs/beauty_sasrec_sce
    python launch/reproduce.py --table=sce_table5 --config=configs/beauty.py:sasrec --workdir=runs/beauty

``MODEL_LOSS`` for every model of sasrec, gru4rec, caser, bert4rec, fmlp_rec and sasrec_plus (on prefixes of 20 items),
and every loss of ce, ce_eta, sce, ssm (SCE with alpha 1), sce_shared (the positions of a batch share negatives), is
(uniform draws, the positive out of the sum, as in the paper), is_popularity (draws by popularity, the positive in the
sum), nce, neg, bce, bpr, gbce. Settings are those of the published runs (Xu et al., 2024), with K = 500 negatives.
"""

from debias_jax import experiment
from debias_jax.experiment import Published

PUBLISHED = {
    "gru4rec": {
        "ce": Published(5e-4, 1e-6, 0.5),
        "bce": Published(1e-3, 1e-8, 0.3),
        "bpr": Published(5e-3, 1e-6, 0.3),
    },
    "caser": {
        "ce": Published(5e-3, 5e-4, 0.7),
        "bce": Published(1e-3, 1e-8, 0.7),
        "bpr": Published(1e-3, 1e-8, 0.7),
    },
    "sasrec": {
        "ce": Published(5e-4, 1e-8, 0.6),
        "bce": Published(5e-4, 1e-8, 0.4),
        "bpr": Published(5e-4, 1e-8, 0.3),
    },
    "sasrec_plus": {"ce": Published(5e-4, 1e-6, 0.5, max_len=20)},
    "bert4rec": {
        "ce": Published(5e-3, 1e-4, 0.1, 256, mask_rate=0.2),
        "bce": Published(1e-3, 1e-4, 0.0, 256, mask_rate=0.4),
        "bpr": Published(5e-4, 1e-4, 0.1, 256, mask_rate=0.5),
    },
    "fmlp_rec": {
        "ce": Published(1e-4, 5e-4, 0.5),
        "bce": Published(1e-4, 1e-8, 0.5),
        "bpr": Published(1e-4, 1e-6, 0.1),
    },
}

GROUPS = experiment.SEQUENCE_GROUPS


def get_config(method: str = ""):
    """Config of one variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        table = experiment.sequence_variants(PUBLISHED, max_len=50, n_negatives=500)
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "beauty"
        experiment.sequence_settings(config)
    return config
