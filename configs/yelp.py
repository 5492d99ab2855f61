"""Yelp reviews of 2019, next item: 30,431 users, 20,033 businesses, 316,354 reviews; needs the user's own copy.

    python launch/train.py --config=configs/yelp.py:sasrec_ce --config.data.path=FOLDER --workdir=runs/yelp_sasrec_ce

FOLDER holds ``sequences.txt``: a line a user, ``user item item ...`` in the order of time, as S3-Rec's processing of
2019-01-01 to 2019-12-31 leaves it. Users review a business again, so that no item is left out of the ranking. Variants
as in ``configs/beauty.py``. Settings are those of the published runs (Xu et al., 2024), with K = 100 negatives.
"""

from debias_jax import experiment
from debias_jax.experiment import Published

PUBLISHED = {
    "gru4rec": {
        "ce": Published(1e-3, 5e-4, 0.2),
        "bce": Published(5e-4, 1e-4, 0.7),
        "bpr": Published(1e-3, 1e-8, 0.6),
    },
    "caser": {
        "ce": Published(5e-3, 1e-8, 0.7, epochs=50, eval_every=1),
        "bce": Published(1e-3, 1e-8, 0.7),
        "bpr": Published(1e-3, 1e-8, 0.7),
    },
    "sasrec": {
        "ce": Published(1e-3, 1e-6, 0.7),
        "bce": Published(5e-4, 1e-4, 0.4),
        "bpr": Published(5e-4, 1e-4, 0.1),
    },
    "bert4rec": {
        "ce": Published(1e-3, 1e-8, 0.1, 256, mask_rate=0.5),
        "bce": Published(1e-3, 1e-4, 0.0, 256, mask_rate=0.4),
        "bpr": Published(5e-4, 1e-8, 0.0, 256, mask_rate=0.4),
    },
    "fmlp_rec": {
        "ce": Published(1e-4, 1e-6, 0.7),
        "bce": Published(5e-4, 1e-8, 0.5),
        "bpr": Published(1e-3, 1e-8, 0.4),
    },
}

GROUPS = experiment.SEQUENCE_GROUPS


def get_config(method: str = ""):
    """Config of one variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        table = experiment.sequence_variants(PUBLISHED, max_len=50, n_negatives=100)
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "sequences"
        config.data.options = {"name": "yelp"}
        experiment.sequence_settings(config)
    return config
