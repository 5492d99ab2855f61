r"""The user's own log of events: a user, an item and a timestamp column; the next item is to be predicted.

    python launch/train.py --config=configs/own_sequences.py:sasrec_ce --config.data.path=events.csv --workdir=runs/own
    python launch/recommend.py --workdir=runs/own --history=ITEM,ITEM,ITEM --k=10
    python launch/train.py --config=configs/own_sequences.py:gru4rec_sce --config.data.path=events.parquet \
        --config.data.options.user=uid --config.data.options.item=sku --config.data.options.timestamp=ts \
        --config.data.split.name=global_time --workdir=runs/own_time

Users and items of fewer than five events are left out (``data.options.min_user_rows``, ``min_item_rows``; 0 for none).
The last event of each user is the test and the one before it chooses the epoch; ``global_time`` holds out what came
last of all instead. Where users come back to an item, items of the history stay in the ranking. Several variants run
side by side (``sasrec_ce,sasrec_sce``).
"""

from ml_collections import config_dict

from debias_jax import experiment
from debias_jax.experiment import Published

# One schedule, so that losses can be trained side by side.
_START = Published(1e-3, 1e-6, 0.3, epochs=200)

PUBLISHED = {
    "gru4rec": {"ce": _START},
    "caser": {"ce": _START},
    "sasrec": {"ce": _START},
    "bert4rec": {"ce": Published(1e-3, 1e-6, 0.1, 256, mask_rate=0.2, epochs=200)},
    "fmlp_rec": {"ce": _START},
}
"""Where a search may begin; nothing was tuned for the user's data."""

GROUPS = experiment.SEQUENCE_GROUPS


def get_config(method: str = ""):
    """Config of one variant, several (comma-separated), a name of ``GROUPS``, or ``all``."""
    config = experiment.base_config()
    with config.unlocked():
        table = experiment.sequence_variants(PUBLISHED, max_len=50, n_negatives=100)
        experiment.select_variants(config, method, table, groups=GROUPS)
        config.data.name = "own"
        config.data.options = {
            "user": "user",
            "item": "item",
            "timestamp": "timestamp",
            "separator": config_dict.placeholder(str),
            "name": config_dict.placeholder(str),
            "duplicates": "keep",
            "min_user_rows": 5,
            "min_item_rows": 5,
            "on_bad_rows": "error",
        }
        experiment.sequence_settings(config)
        config.seeds = (0,)
    return config
