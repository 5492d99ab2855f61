"""MovieLens 1M, 5-core: 999,611 ratings of 6,040 users and 3,416 films as sequences, without times or ratings.

Harper, Konstan, "The MovieLens Datasets: History and Context" (TiiS 2015).
"""

import pathlib

from debias_jax.data._tables import Source
from debias_jax.data.sequences._files import load_published
from debias_jax.data.types import Dataset

N_USERS, N_ITEMS, N_EVENTS = 6_040, 3_416, 999_611
SOURCE = Source(
    "MovieLens 1M",
    "https://grouplens.org/datasets/movielens/1m/, from which the sequences are made by a stable sort by time of the "
    "ratings of films with 5 ratings",
    "research use, no redistribution without permission",
)


def load(path: str | pathlib.Path, *, strict_counts: bool = True) -> Dataset:
    """Reads the sequences; everything is ``train``, and no user has a film twice.

    Equal times are common, and their order is that of the original file of ratings.

    Args:
        path: see ``data.sequences.load``.
        strict_counts: whether there must be exactly the published numbers of users, items and events.

    Returns:
        The dataset, rows by user and in time order.

    Raises:
        DataError: no such file, or it does not hold what it should.

    >>> from debias_jax.data import ml_1m
    >>> ml_1m.load("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    debias_jax.errors.DataError: no/such/folder is not a folder; it should hold sequences.txt or sequences.npz ...
    """
    counts = (N_USERS, N_ITEMS, N_EVENTS)
    return load_published(path, name="ml_1m", source=SOURCE, counts=counts, strict_counts=strict_counts)
