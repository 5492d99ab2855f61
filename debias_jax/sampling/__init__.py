"""Everything that draws at random, but for parameter initialisation and dropout.

Every function takes its key first and is a pure function of it: the same key gives the same bits, eager or
under ``jit``. ``alias_table`` and ``pair_set`` draw nothing; they build the tables that the samplers read, on
the host. Integer ids are int32 and are not range-checked inside ``jit``: map raw ids through a vocabulary
first.
"""

from debias_jax._hash import hash_bits
from debias_jax.sampling.draws import AliasTable, alias_table, popularity_items, uniform_items, uniform_pairs
from debias_jax.sampling.frequency import (
    StreamingFrequency,
    init_frequency,
    log_frequency,
    update_frequency,
)
from debias_jax.sampling.in_batch import (
    ItemCache,
    accidental_hits,
    in_batch_counts,
    in_batch_resample,
    init_cache,
    update_cache,
)
from debias_jax.sampling.masking import cloze_mask
from debias_jax.sampling.orders import epoch_batches, stratified_batches
from debias_jax.sampling.pairs import PairSet, contains, find, pair_set, uniform_unseen_items

__all__ = [
    "AliasTable",
    "ItemCache",
    "PairSet",
    "StreamingFrequency",
    "accidental_hits",
    "alias_table",
    "cloze_mask",
    "contains",
    "epoch_batches",
    "find",
    "hash_bits",
    "in_batch_counts",
    "in_batch_resample",
    "init_cache",
    "init_frequency",
    "log_frequency",
    "pair_set",
    "popularity_items",
    "stratified_batches",
    "uniform_items",
    "uniform_pairs",
    "uniform_unseen_items",
    "update_cache",
    "update_frequency",
]
