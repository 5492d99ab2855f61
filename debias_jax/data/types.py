"""What a dataset is, in numpy: integer-coded interactions, their vocabularies, and the splits."""

import dataclasses

import numpy as np

from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Interactions:
    """Rows of (user, item, label), integer-coded and checked.

    Attributes:
        users: int32 ``[n]`` in ``[0, n_users)``.
        items: int32 ``[n]`` in ``[0, n_items)``.
        labels: float32 ``[n]``; binary unless the reader says otherwise.
        n_users: size of the user vocabulary.
        n_items: size of the item vocabulary.
        ratings: float32 ``[n]`` before thresholding, or None.
        timestamps: int64 ``[n]`` seconds, or None.
        propensities: float32 ``[n]`` in ``(0, 1]``, probability that the pair was observed, or None.

    Raises:
        DataError: shapes differ, an id is outside its range, or a value is not finite or not a probability.

    >>> log = Interactions(np.array([0, 1]), np.array([2, 0]), np.array([1.0, 0.0]), n_users=2, n_items=3)
    >>> len(log), len(log.positives), log.pair_keys.tolist()
    (2, 1, [2, 3])
    """

    users: np.ndarray
    items: np.ndarray
    labels: np.ndarray
    n_users: int
    n_items: int
    ratings: np.ndarray | None = None
    timestamps: np.ndarray | None = None
    propensities: np.ndarray | None = None

    def __post_init__(self):
        kinds = {
            "users": np.int32,
            "items": np.int32,
            "labels": np.float32,
            "ratings": np.float32,
            "timestamps": np.int64,
            "propensities": np.float32,
        }
        n = np.size(self.users)
        for name, dtype in kinds.items():
            value = getattr(self, name)
            if value is None:
                continue
            value = np.asarray(value)
            if value.ndim != 1 or value.shape[0] != n:
                raise DataError(f"{name} must have shape ({n},) like users, got {value.shape}")
            if name in ("users", "items", "timestamps") and value.dtype.kind not in "iu" and n:
                raise DataError(f"{name} must be integers, got dtype {value.dtype}")
            if name in ("users", "items"):
                bound = self.n_users if name == "users" else self.n_items
                bad = np.flatnonzero((value < 0) | (value >= bound))
                if bad.size:
                    raise DataError(
                        f"{name}[{bad[0]}] = {value[bad[0]]} is outside [0, {bound}); "
                        "map raw ids through a Vocabulary first"
                    )
            elif name != "timestamps" and not np.isfinite(value).all():
                row = np.flatnonzero(~np.isfinite(value))[0]
                raise DataError(f"{name}[{row}] = {value[row]} is not finite")
            object.__setattr__(self, name, value.astype(dtype, copy=False))
        if self.propensities is not None:
            bad = np.flatnonzero((self.propensities <= 0) | (self.propensities > 1))
            if bad.size:
                raise DataError(
                    f"propensities[{bad[0]}] = {self.propensities[bad[0]]} is outside (0, 1]; "
                    "drop the row or clip it on purpose before loading"
                )

    def __len__(self) -> int:
        return int(self.users.shape[0])

    def take(self, rows: np.ndarray) -> "Interactions":
        """The rows at integer positions, or where a boolean mask holds, in that order."""
        columns = {
            name: None if getattr(self, name) is None else getattr(self, name)[rows]
            for name in ("users", "items", "labels", "ratings", "timestamps", "propensities")
        }
        return Interactions(n_users=self.n_users, n_items=self.n_items, **columns)

    @property
    def pair_keys(self) -> np.ndarray:
        """``users * n_items + items``, int64 ``[n]``: one number a pair, safe where int32 would overflow."""
        return self.users.astype(np.int64) * self.n_items + self.items

    @property
    def n_repeats(self) -> int:
        """Number of rows whose pair an earlier row has."""
        # Sorting is several times faster than np.unique, which counts by a hash table.
        keys = np.sort(self.pair_keys)
        return int((keys[1:] == keys[:-1]).sum())

    @property
    def positives(self) -> "Interactions":
        """The rows whose label is positive (> 0)."""
        return self.take(self.labels > 0)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What only a simulator knows, over all pairs.

    Attributes:
        exposure: float32 ``[n_users, n_items]``, probability m_ui that the user saw the item.
        relevance: float32 ``[n_users, n_items]``, probability gamma_ui of a click (a conversion) once seen.
    """

    exposure: np.ndarray
    relevance: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """One dataset, split, with its vocabularies.

    Attributes:
        name: a short id, e.g. ``"coat"``.
        train: the biased log that methods learn from.
        validation: held out of the training log (biased), or a part of an unbiased log; None where there is
            none.
        test: read once; unbiased where the dataset has an unbiased part.
        users: user vocabulary.
        items: item vocabulary.
        probably_exposed: Biif's validation pairs ("probably exposed": label known, exposure taken as 1), or
            None. They are rows of ``train`` too.
        user_features: float32 ``[n_users, d]`` or None.
        item_features: float32 ``[n_items, d]`` or None.
        user_bags: what a user has several of, by name int32 ``[n_users, m]``, ids from 0 in rows that are filled up
            with -1; or None.
        item_bags: likewise of items, ``[n_items, m]``, e.g. ``{"genres": ...}``; or None.
        truth: for simulated data, else None.
        notes: what a reader or a split wants said in the report, one line each.
        held_out: the parts, of ``"validation"`` and ``"test"``, that a split took out of the log. They are as biased
            as it is, and what is in them was seen; other parts came with the dataset.
        context: events after the training log that are neither learnt from nor asked for, but known: they stand in the
            histories that later targets, and recommendations when all is known, are predicted from. A split by time
            makes it; else None.
    """

    name: str
    train: Interactions
    validation: Interactions | None
    test: Interactions | None
    users: Vocabulary
    items: Vocabulary
    probably_exposed: Interactions | None = None
    user_features: np.ndarray | None = None
    item_features: np.ndarray | None = None
    user_bags: dict[str, np.ndarray] | None = None
    item_bags: dict[str, np.ndarray] | None = None
    truth: Truth | None = None
    notes: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    context: Interactions | None = None

    def __post_init__(self):
        for part in ("train", "validation", "test", "probably_exposed", "context"):
            rows = getattr(self, part)
            if rows is not None and (rows.n_users, rows.n_items) != (len(self.users), len(self.items)):
                raise DataError(
                    f"{self.name}: {part} counts {rows.n_users} users and {rows.n_items} items, "
                    f"the vocabularies {len(self.users)} and {len(self.items)}"
                )

    @property
    def n_users(self) -> int:
        """Size of the user vocabulary."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Size of the item vocabulary."""
        return len(self.items)

    def log(self, *parts: str) -> Interactions:
        """The training rows, and those of ``parts`` that were held out of the log."""
        rows = self.train
        for part in parts:
            if part in self.held_out and getattr(self, part) is not None:
                rows = concatenate(rows, getattr(self, part))
        return rows

    def replace(self, **changes) -> "Dataset":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def concatenate(first: Interactions, second: Interactions) -> Interactions:
    """The rows of both, in that order; an optional column is kept where both have it.

    Args:
        first: rows.
        second: rows of the same vocabularies.

    Returns:
        New interactions.

    Raises:
        DataError: they count users or items differently.

    >>> rows = Interactions(np.array([0]), np.array([1]), np.array([1.0]), 2, 2)
    >>> concatenate(rows, rows).items.tolist()
    [1, 1]
    """
    if (first.n_users, first.n_items) != (second.n_users, second.n_items):
        raise DataError(
            f"cannot join {first.n_users} x {first.n_items} with {second.n_users} x {second.n_items} pairs; "
            "encode both with one vocabulary"
        )
    columns = {}
    for name in ("users", "items", "labels", "ratings", "timestamps", "propensities"):
        one, other = getattr(first, name), getattr(second, name)
        columns[name] = None if one is None or other is None else np.concatenate([one, other])
    return Interactions(n_users=first.n_users, n_items=first.n_items, **columns)
