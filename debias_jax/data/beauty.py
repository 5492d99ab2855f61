"""Amazon Beauty, 5-core: 198,502 reviews of 22,363 users and 12,101 products as sequences, without times or ratings.

McAuley, Targett, Shi, van den Hengel, "Image-based recommendations on styles and substitutes" (SIGIR 2015).
"""

import pathlib

from debias_jax.data._tables import Source
from debias_jax.data.sequences._files import load_published
from debias_jax.data.types import Dataset

N_USERS, N_ITEMS, N_EVENTS = 22_363, 12_101, 198_502
SOURCE = Source(
    "Amazon Beauty as sequences",
    "https://github.com/RUCAIBox/CIKM2020-S3Rec (data/Beauty.txt), its reviews at "
    "https://jmcauley.ucsd.edu/data/amazon/",
    "research use; cite the paper",
)


def load(path: str | pathlib.Path, *, strict_counts: bool = True) -> Dataset:
    """Reads the sequences; everything is ``train``, and no user has an item twice.

    Times were whole days, so that the order within a day is that of the file.

    Args:
        path: see ``data.sequences.load``.
        strict_counts: whether there must be exactly the published numbers of users, items and events.

    Returns:
        The dataset, rows by user and in time order.

    Raises:
        DataError: no such file, or it does not hold what it should.

    >>> from debias_jax.data import beauty
    >>> beauty.load("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    debias_jax.errors.DataError: no/such/folder is not a folder; it should hold sequences.txt or sequences.npz ...
    """
    counts = (N_USERS, N_ITEMS, N_EVENTS)
    return load_published(path, name="beauty", source=SOURCE, counts=counts, strict_counts=strict_counts)
