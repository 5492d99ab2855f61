"""KuaiRec: watch ratios of short videos, with a part that is (nearly) fully observed.

Gao et al., "KuaiRec: A Fully-observed Dataset and Insights for Evaluating Recommender Systems" (CIKM 2022),
in the sampled form that the papers on doubly robust recommendation use.
"""

import pathlib

from debias_jax.data._tables import Source, read_csv_split
from debias_jax.data.types import Dataset

N_USERS, N_ITEMS = 1_411, 3_327
SOURCE = Source("KuaiRec", "https://kuairec.com", "CC BY-SA 4.0; the files here are its sampled, split form")


def load(path: str | pathlib.Path, *, strict_counts: bool = True) -> Dataset:
    """Reads the fixed split: a biased training log, and 10/90 of the unbiased pairs as validation and test.

    ``label = watch ratio >= 2``, as given in the files.

    Args:
        path: the folder with ``split_thres2_{train,val,test}.csv.gz`` (columns user,item,label, 0-based).
        strict_counts: whether there must be exactly 201,171, 11,711 and 105,402 rows.

    Returns:
        The dataset, 1,411 users x 3,327 items; its validation part is unbiased.

    Raises:
        DataError: a file is missing or does not hold what it should.

    >>> from debias_jax.data import kuairec
    >>> kuairec.load("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    debias_jax.errors.DataError: no/such/folder is not a folder; it should hold split_thres2_train.csv ...
    """
    return read_csv_split(
        path,
        "split_thres2_{}.csv",
        name="kuairec",
        n_users=N_USERS,
        n_items=N_ITEMS,
        counts={"train": 201_171, "val": 11_711, "test": 105_402},
        source=SOURCE,
        strict_counts=strict_counts,
        notes=("label = watch ratio >= 2", "validation and test: 10/90 of the unbiased pairs"),
    )
