"""Coat Shopping under the protocol of Biif's tables (CJMF's evaluator, 237 users).

    python launch/train.py --config=configs/coat.py:biif --workdir=runs/coat_biif
    python launch/train.py --config=configs/coat.py:table2 --workdir=runs/coat

Ratings >= 4 are clicks. The "probably exposed" pairs are in the training part, 10 % of the other rated pairs are for
tuning by SNIPS. Settings of the paper: dim 50, batch 1024, 100 epochs, Adam. Results: docs/results.md.
"""

from debias_jax import _config, _variants

TUNED = {}


def get_config(method: str = ""):
    """Config of one method or variant, several (comma-separated), ``table2`` or ``all``."""
    config = _config.base_config()
    with config.unlocked():
        _config.select_variants(
            config, method, _variants.implicit_variants(TUNED), groups={"table2": _variants.IMPLICIT}
        )
        config.data.name = "coat"
        config.data.options = {"threshold": 4.0}
        config.data.split = {"name": "biif", "seed": 0}
        config.protocol.test = "cjmf"
        config.protocol.headline = "dcg@3"
    return config
