"""Files that hold each user's items in time order."""

import itertools
import pathlib
import re

import numpy as np

from debias_jax.data._tables import Source, find_file, read_arrays, read_lines, read_rows
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import DataError

_FORMAT = "A line is a user and the user's items, oldest first, with blanks between; data.frame reads tables of events"
_ARRAYS = ("indptr", "items", "user_ids", "item_ids")


def load(path: str | pathlib.Path, *, name: str | None = None) -> Dataset:
    r"""Reads each user's items in time order; everything is ``train``, and every row is an event.

    Ids are strings exactly as they stand ("007" is not "7") and hold no blanks. Codes follow the order of first
    appearance, in both forms of the file.

    Args:
        path: a folder with one of these, looked for in this order, or the file itself: ``sequences.txt`` (it may be
            gzipped), a line a user: the user and then the user's items, oldest first, with blanks between; or
            ``sequences.npz`` with ``user_ids`` ``[n_users]``, ``item_ids`` ``[n_items]``, ``indptr`` ``[n_users + 1]``
            and ``items``, positions in ``item_ids``, of which ``items[indptr[u]:indptr[u + 1]]`` are user ``u``'s.
        name: of the dataset; that of the folder or the file by default.

    Returns:
        The dataset, rows by user and in time order, without timestamps.

    Raises:
        DataError: no such file, or it does not hold what it should; the message has file and line.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "sequences.txt").write_text("ann tea jam tea\n007 jam\n")
    >>> data = load(folder, name="shop")
    >>> data.users.ids, data.items.ids, data.train.users.tolist(), data.train.items.tolist()
    (('ann', '007'), ('tea', 'jam'), [0, 0, 0, 1], [0, 1, 0, 1])
    """
    return read_sequences(path, name=name, source=_FORMAT)


def load_published(
    path: str | pathlib.Path, *, name: str, source: Source, counts: tuple[int, int, int], strict_counts: bool
) -> Dataset:
    """``load`` of a published dataset, whose users, items and events are counted.

    Args:
        path: see ``load``.
        name: of the dataset.
        source: for the message of a missing file.
        counts: published numbers of users, items and events.
        strict_counts: whether they must be just these.

    Raises:
        DataError: as ``load``, or the counts differ.
    """
    dataset = read_sequences(path, name=name, source=source)
    found = (dataset.n_users, dataset.n_items, len(dataset.train))
    if strict_counts and found != counts:
        raise DataError(
            f"{path} holds {found[0]:,} users, {found[1]:,} items and {found[2]:,} events, the published data "
            f"{counts[0]:,}, {counts[1]:,} and {counts[2]:,}; strict_counts=False reads it all the same"
        )
    return dataset


def read_sequences(path: str | pathlib.Path, *, name: str | None, source: Source | str) -> Dataset:
    """``load``, with where the file is to be had for the message of a missing one."""
    file = find_file(path, ["sequences.txt", "sequences.npz"], source)
    user_ids, item_ids, users, items = (_read_arrays if file.suffix == ".npz" else _read_lists)(file)
    path = pathlib.Path(path).resolve()
    return Dataset(
        name=name or (path.name if path.is_dir() else path.name.split(".")[0]),
        train=Interactions(users, items, np.ones(len(users)), len(user_ids), len(item_ids)),
        validation=None,
        test=None,
        users=Vocabulary(user_ids, kind="user"),
        items=Vocabulary(item_ids, kind="item"),
        notes=("each row is an event, a user's in time order",),
    )


def _read_lists(file: pathlib.Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    lines_of: dict[str, int] = {}
    item_ids: dict[str, int] = {}
    sizes, items = [], []
    for number, line in enumerate(read_lines(file), start=1):
        # Only blanks part ids: split() would also part at a no-break space, which an id may hold.
        user, *history = re.findall(r"[^ \t]+", line) or [""]
        if not history:
            what = f"one id, {user[:60]!r}, and no items" if user else "nothing"
            raise DataError(f"{file}:{number} holds {what}. {_FORMAT}")
        if user in lines_of:
            raise DataError(f"{file}:{number}: user {user!r} also stands in line {lines_of[user]}")
        lines_of[user] = number
        sizes.append(len(history))
        items.extend(item_ids.setdefault(item, len(item_ids)) for item in history)
    users = np.repeat(np.arange(len(sizes)), sizes)
    return list(lines_of), list(item_ids), users, np.array(items)


def _read_arrays(file: pathlib.Path) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    arrays = read_arrays(file, _ARRAYS)
    ids = {}
    for name in ("user_ids", "item_ids"):
        if arrays[name].ndim != 1 or arrays[name].dtype.kind not in "iuU":
            raise DataError(
                f"{file}: {name} must be one row of integers or strings, got {arrays[name].dtype} "
                f"{arrays[name].shape}"
            )
        ids[name] = [str(raw) for raw in arrays[name].tolist()]
        twice = next((raw for raw, same in itertools.groupby(sorted(ids[name])) if len(list(same)) > 1), None)
        if twice is not None:
            raise DataError(f"{file}: {name} holds {twice!r} twice")
    users, items = read_rows(file, arrays, "indptr", "items", n_items=len(ids["item_ids"]))
    sizes = np.diff(arrays["indptr"].astype(np.int64))
    if len(sizes) != len(ids["user_ids"]):
        raise DataError(
            f"{file}: indptr cuts out {len(sizes):,} users, user_ids has {len(ids['user_ids']):,}"
        )
    if not len(sizes):
        raise DataError(f"{file} holds no users")
    if not sizes.all():
        raise DataError(f"{file}: user {ids['user_ids'][int(np.argmin(sizes))]!r} has no items")
    # The order of first appearance, as in the text file; what nobody has comes last.
    seen, first = np.unique(items, return_index=True)
    order = np.concatenate([seen[np.argsort(first)], np.setdiff1d(np.arange(len(ids["item_ids"])), seen)])
    codes = np.empty(len(order), np.int64)
    codes[order] = np.arange(len(order))
    return ids["user_ids"], [ids["item_ids"][code] for code in order], users, codes[items]
