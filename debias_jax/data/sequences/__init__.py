"""Event logs as sequences: files, histories, splits by time, and training samples of sequence models.

    histories = data.sequences.histories(dataset.train)      each user's items, oldest first
    samples = data.sequences.windows(histories, max_len=50)  slices of them, as positions

Importing this needs neither jax nor polars.
"""

from debias_jax.data.sequences._files import load as load
from debias_jax.data.sequences._histories import Histories as Histories
from debias_jax.data.sequences._histories import events_of as events_of
from debias_jax.data.sequences._histories import has_repeats as has_repeats
from debias_jax.data.sequences._histories import histories as histories
from debias_jax.data.sequences._histories import histories_before as histories_before
from debias_jax.data.sequences._samples import Samples as Samples
from debias_jax.data.sequences._samples import bucketed as bucketed
from debias_jax.data.sequences._samples import cloze as cloze
from debias_jax.data.sequences._samples import prefixes as prefixes
from debias_jax.data.sequences._samples import windows as windows
from debias_jax.data.sequences._splits import global_time_split as global_time_split
from debias_jax.data.sequences._splits import leave_one_out as leave_one_out

__all__ = [
    "Histories",
    "Samples",
    "bucketed",
    "cloze",
    "events_of",
    "global_time_split",
    "has_repeats",
    "histories",
    "histories_before",
    "leave_one_out",
    "load",
    "prefixes",
    "windows",
]
