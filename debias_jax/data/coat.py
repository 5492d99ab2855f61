"""Coat Shopping: 290 users who rated 24 coats they chose and 16 coats drawn at random.

Schnabel, Swaminathan, Singh, Chandak, Joachims, "Recommendations as Treatments" (ICML 2016).
"""

import pathlib

import numpy as np

from debias_jax.data._tables import (
    Source,
    check_threshold,
    find_file,
    read_csv_split,
    read_matrix,
)
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import DataError

N_USERS, N_ITEMS = 290, 300
N_TRAIN, N_TEST = 6_960, 4_640
SOURCE = Source("Coat", "https://www.cs.cornell.edu/~schnabts/mnar/", "CC BY-NC, non-commercial, attribution")

_FEATURES = {"user_features.ascii": (N_USERS, 14), "item_features.ascii": (N_ITEMS, 33)}


def load(path: str | pathlib.Path, *, threshold: float = 4, strict_counts: bool = True) -> Dataset:
    """Reads the authors' matrices: the self-selected ratings are ``train``, the random ones ``test``.

    ``label = rating >= threshold``. Ids are the 0-based row and column numbers. One-hot user ``[290, 14]``
    and item ``[300, 33]`` features are read where their files stand beside the ratings. No validation part:
    see ``debias_jax.data.splits``.

    Args:
        path: the folder with ``train.ascii`` and ``test.ascii``.
        threshold: on the ratings 1..5; Biif's tables use 4, the doubly robust family 3.
        strict_counts: whether there must be exactly 6,960 and 4,640 ratings.

    Returns:
        The dataset, with raw ratings beside the labels.

    Raises:
        DataError: a file is missing or does not hold what it should.
        ConfigError: the threshold is outside (1, 5].

    >>> from debias_jax.data import coat
    >>> coat.load("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    debias_jax.errors.DataError: no/such/folder is not a folder; it should hold train.ascii ...
    """
    check_threshold(threshold)
    parts = {}
    for part, count in (("train", N_TRAIN), ("test", N_TEST)):
        file = find_file(path, [f"{part}.ascii"], SOURCE)
        ratings = read_matrix(file, shape=(N_USERS, N_ITEMS), low=0, high=5)
        users, items = np.nonzero(ratings)
        if strict_counts and len(users) != count:
            raise DataError(
                f"{file} holds {len(users):,} ratings, the published data {count:,}; "
                "pass strict_counts=False to read it all the same"
            )
        rated = ratings[users, items]
        parts[part] = Interactions(users, items, rated >= threshold, N_USERS, N_ITEMS, ratings=rated)
    features = {}
    for name, shape in _FEATURES.items():
        file = pathlib.Path(path) / name
        if file.is_file():
            field = name.removesuffix(".ascii")
            features[field] = read_matrix(file, shape=shape, low=0, high=1).astype(np.float32)
    return Dataset(
        name="coat",
        train=parts["train"],
        validation=None,
        test=parts["test"],
        users=Vocabulary.range(N_USERS, kind="user"),
        items=Vocabulary.range(N_ITEMS, kind="item"),
        notes=(f"label = rating >= {threshold:g}", "test: ratings of items drawn at random (unbiased)"),
        **features,
    )


def load_fixed_split(path: str | pathlib.Path, *, strict_counts: bool = True) -> Dataset:
    """Reads the split of the doubly robust papers: all biased ratings, and 20/80 of the unbiased ones.

    ``label = rating >= 3``, as given in the files; validation and test are one fixed draw of pooled pairs.

    Args:
        path: the folder with ``split_thres3_{train,val,test}.csv.gz`` (columns user,item,label, 0-based).
        strict_counts: whether there must be exactly 6,960, 928 and 3,712 rows.

    Returns:
        The dataset; its validation part is unbiased.

    Raises:
        DataError: a file is missing or does not hold what it should.
    """
    return read_csv_split(
        path,
        "split_thres3_{}.csv",
        name="coat",
        n_users=N_USERS,
        n_items=N_ITEMS,
        counts={"train": N_TRAIN, "val": 928, "test": 3_712},
        source=SOURCE,
        strict_counts=strict_counts,
        notes=(
            "label = rating >= 3",
            "validation and test: 20/80 of the ratings of items drawn at random (unbiased)",
        ),
    )
