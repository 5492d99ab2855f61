"""MovieLens 1M, next item: 6,040 users, 3,416 films, 999,611 ratings; the last one of each user is the test.

    python launch/train.py --config=configs/ml_1m.py:sasrec_ce --workdir=runs/ml_1m_sasrec_ce
    python launch/reproduce.py --table=sce_table5 --config=configs/ml_1m.py:sasrec --workdir=runs/ml_1m

Variants as in ``configs/beauty.py``. Settings are those of the published runs (Xu et al., 2024): histories of 200
items, K = 100 negatives.
"""

from debias_jax import experiment
from debias_jax.experiment import Published

PUBLISHED = {
    "gru4rec": {
        "ce": Published(1e-3, 1e-6, 0.3),
        "bce": Published(1e-3, 0.0, 0.4),
        "bpr": Published(1e-3, 1e-6, 0.2),
    },
    "caser": {
        "ce": Published(1e-4, 1e-6, 0.4),
        "bce": Published(5e-4, 1e-6, 0.2),
        "bpr": Published(5e-4, 1e-6, 0.6),
    },
    "sasrec": {
        "ce": Published(1e-3, 1e-6, 0.1, 128),
        "bce": Published(5e-4, 1e-8, 0.1, 256),
        "bpr": Published(5e-3, 1e-8, 0.1, 256),
    },
    "sasrec_plus": {"ce": Published(1e-3, 1e-6, 0.1, max_len=20)},
    "bert4rec": {
        "ce": Published(5e-3, 1e-4, 0.0, 256, mask_rate=0.2),
        "bce": Published(1e-3, 1e-4, 0.0, 256, mask_rate=0.3),
        "bpr": Published(1e-3, 1e-8, 0.0, 256, mask_rate=0.3),
    },
    "fmlp_rec": {
        "ce": Published(1e-4, 1e-6, 0.3),
        "bce": Published(1e-4, 1e-8, 0.2),
        "bpr": Published(1e-4, 1e-8, 0.2),
    },
}

GROUPS = experiment.SEQUENCE_GROUPS


def get_config(method: str = ""):
    """Config of one variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        table = experiment.sequence_variants(PUBLISHED, max_len=200, n_negatives=100)
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "ml_1m"
        experiment.sequence_settings(config)
    return config
