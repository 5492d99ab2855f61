"""Gowalla: 1,027,370 check-ins of 29,858 users at 40,981 places, without ratings or an unbiased part.

Cho, Myers, Leskovec, "Friendship and mobility: user movement in location-based social networks" (KDD 2011); the split
into training and test is that of LightGCN (He et al., SIGIR 2020).
"""

import pathlib

import numpy as np

from debias_jax.data._tables import Source, find_file, open_text, read_arrays, read_rows
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import DataError

N_USERS, N_ITEMS, N_TRAIN, N_TEST = 29_858, 40_981, 810_128, 217_242
SOURCE = Source(
    "Gowalla in LightGCN's split",
    "https://github.com/kuandeng/LightGCN/tree/master/Data/gowalla, its check-ins at "
    "https://snap.stanford.edu/data/loc-Gowalla.html",
    "no licence stated; cite both papers",
)

_ARRAYS = ("train_indptr", "train_items", "test_indptr", "test_items", "n_items")


def load(path: str | pathlib.Path, *, strict_counts: bool = True) -> Dataset:
    """Reads the split; every row is a positive.

    Args:
        path: a folder with ``train.txt`` and ``test.txt``, a user's number and then the numbers of the user's items in
            each line (each may be gzipped), or with ``gowalla.npz``, the same as integer arrays ``train_indptr``,
            ``train_items``, ``test_indptr``, ``test_items`` and ``n_items``.
        strict_counts: whether there must be exactly the published numbers of users, items and rows.

    Returns:
        The dataset with ``train`` and ``test``, rows by user. Raw ids are the numbers of the files.

    Raises:
        DataError: no such file, or it does not hold what it should.

    >>> from debias_jax.data import gowalla
    >>> gowalla.load("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    debias_jax.errors.DataError: no/such/folder is not a folder; it should hold train.txt or gowalla.npz ...
    """
    file = find_file(path, ["train.txt", "gowalla.npz"], SOURCE)
    if file.suffix == ".npz":
        parts, n_items = _read_arrays(file)
    else:
        test = find_file(file.parent, ["test.txt"], SOURCE)
        parts = {"train": _read_lists(file), "test": _read_lists(test)}
        n_items = 1 + max(int(items.max(initial=-1)) for _, items in parts.values())
    n_users = 1 + max(int(users.max(initial=-1)) for users, _ in parts.values())
    found = (n_users, n_items, len(parts["train"][0]), len(parts["test"][0]))
    if strict_counts and found != (N_USERS, N_ITEMS, N_TRAIN, N_TEST):
        raise DataError(
            f"{file} and its test part hold {n_users:,} users, {n_items:,} items, {found[2]:,} training and "
            f"{found[3]:,} test rows, the published data {N_USERS:,}, {N_ITEMS:,}, {N_TRAIN:,} and {N_TEST:,}; "
            "strict_counts=False reads it all the same"
        )
    train, test = (
        Interactions(users, items, np.ones(len(users)), n_users, n_items) for users, items in parts.values()
    )
    for part, rows in (("training", train), ("test", test)):
        if len(np.unique(rows.pair_keys)) < len(rows):
            raise DataError(f"{file}: a pair stands twice in the {part} part")
    known = np.isin(test.pair_keys, train.pair_keys)
    if known.any():
        row = np.flatnonzero(known)[0]
        raise DataError(
            f"{file}: user {test.users[row]}, item {test.items[row]} is in the training and in the test part"
        )
    return Dataset(
        name="gowalla",
        train=train,
        validation=None,
        test=test,
        users=Vocabulary.range(n_users, kind="user"),
        items=Vocabulary.range(n_items, kind="item"),
        notes=("every row is a check-in; LightGCN's split",),
    )


def _read_lists(file: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of a file with a user and the user's items in each line."""
    users, items = [], []
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            cells = line.split()
            if not all(cell.isdecimal() and len(cell) < 10 for cell in cells):
                raise DataError(
                    f"{file}:{number} holds something that is no number from 0: {line.strip()[:60]!r}"
                )
            values = np.array(cells, np.int64)
            if len(values) > 1:
                users.append(np.full(len(values) - 1, values[0]))
                items.append(values[1:])
            if len(np.unique(values[1:])) != len(values[1:]):
                raise DataError(f"{file}:{number}: an item stands there twice")
    if not users:
        raise DataError(f"{file} holds no pairs")
    together = np.concatenate(users)
    order = np.argsort(together, kind="stable")
    return together[order], np.concatenate(items)[order]


def _read_arrays(file: pathlib.Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    found = read_arrays(file, _ARRAYS)
    n_items = int(found["n_items"])
    parts = {
        part: read_rows(file, found, f"{part}_indptr", f"{part}_items", n_items=n_items)
        for part in ("train", "test")
    }
    return parts, n_items
