"""What a dataset holds, on one screen."""

import dataclasses

import numpy as np

from debias_jax.data.types import Dataset, Interactions


@dataclasses.dataclass(frozen=True)
class PartSummary:
    """Counts of one part of a dataset.

    Attributes:
        name: ``"train"``, ``"validation"``, ``"test"``, ``"context"`` or ``"probably exposed"``.
        rows: number of rows.
        users: distinct users among them.
        items: distinct items among them.
        density: rows / (all users x all items).
        positives: rows whose label is > 0.
    """

    name: str
    rows: int
    users: int
    items: int
    density: float
    positives: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Counts of a dataset and of what was left out while reading it; ``str(report)`` is a one-screen text.

    Attributes:
        name: of the dataset.
        users: size of the user vocabulary.
        items: size of the item vocabulary.
        parts: one summary for each part that exists, in the order train, validation, test, context, probably exposed.
        overlaps: pairs that stand in two parts, e.g. ``{"train and test": 366}``; only those that are not 0.
        cold: users and items of a held-out part without a training row, e.g. ``{"test users": 3}``; only
            those not 0.
        repeats: rows whose pair an earlier row of the same part has, e.g. ``{"train": 12}``; only parts that
            have some.
        unobserved_rows: impressions without a known label; they are no rows of a part.
        duplicates_dropped: rows that a duplicates policy left out.
        bad_rows_skipped: rows that ``on_bad_rows="skip"`` left out.
        bad_row_examples: place and reason of the first of them.
        times: the first and the last timestamp, in seconds since 1970; None where there are none.
        notes: the dataset's notes.
    """

    name: str
    users: int
    items: int
    parts: tuple[PartSummary, ...]
    overlaps: dict[str, int]
    cold: dict[str, int]
    repeats: dict[str, int] = dataclasses.field(default_factory=dict)
    unobserved_rows: int = 0
    duplicates_dropped: int = 0
    bad_rows_skipped: int = 0
    bad_row_examples: tuple[str, ...] = ()
    times: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> PartSummary:
        """The summary of one part.

        Raises:
            KeyError: the dataset has no such part.
        """
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(f"{self.name} has no part {name!r}; it has {', '.join(p.name for p in self.parts)}")

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {self.users:,} users x {self.items:,} items",
            f"  {'':<16}{'rows':>12}{'users':>10}{'items':>10}{'density':>10}{'positives':>20}",
        ]
        for part in self.parts:
            share = f" ({part.positives / part.rows:.1%})" if part.rows else ""
            lines.append(
                f"  {part.name:<16}{part.rows:>12,}{part.users:>10,}{part.items:>10,}{part.density:>10.3%}"
                f"{f'{part.positives:,}{share}':>20}"
            )
        lines += [f"  pairs in both {parts}: {count:,}" for parts, count in self.overlaps.items()]
        lines += [f"  {what} without a training row: {count:,}" for what, count in self.cold.items()]
        for part, count in self.repeats.items():
            share = f"{count / self.part(part).rows:.1%}"
            lines.append(f"  rows of {part} whose pair occurs before: {count:,} ({share})")
        if self.unobserved_rows:
            lines.append(f"  unobserved rows (label unknown, in no part): {self.unobserved_rows:,}")
        if self.duplicates_dropped:
            lines.append(f"  duplicates dropped: {self.duplicates_dropped:,}")
        if self.bad_rows_skipped:
            lines.append(f"  bad rows skipped: {self.bad_rows_skipped:,}, e.g.")
            lines += [f"    {example}" for example in self.bad_row_examples]
        if self.times:
            first, last = (str(np.datetime64(time, "s")).replace("T", " ") for time in self.times)
            lines.append(f"  times from {first} to {last} (UTC)")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def _summarise_part(name: str, rows: Interactions) -> PartSummary:
    return PartSummary(
        name=name,
        rows=len(rows),
        users=len(np.unique(rows.users)),
        items=len(np.unique(rows.items)),
        density=len(rows) / max(1, rows.n_users * rows.n_items),
        positives=int((rows.labels > 0).sum()),
    )


def summarise(
    dataset: Dataset,
    *,
    unobserved_rows: int = 0,
    duplicates_dropped: int = 0,
    bad_rows_skipped: int = 0,
    bad_row_examples: tuple[str, ...] = (),
) -> Report:
    """Counts a dataset.

    Args:
        dataset: any.
        unobserved_rows: impressions that a reader found without a known label, for the report.
        duplicates_dropped: what a reader dropped, for the report.
        bad_rows_skipped: what a reader skipped, for the report.
        bad_row_examples: place and reason of some of the skipped rows.

    Returns:
        The report; print it.

    >>> from debias_jax.data import Dataset, Interactions, Vocabulary
    >>> log = Interactions(np.array([0, 1]), np.array([2, 0]), np.array([1.0, 0.0]), n_users=2, n_items=3)
    >>> tiny = Dataset("tiny", log, None, log.take([0]), Vocabulary("ab"), Vocabulary("xyz"))
    >>> report = summarise(tiny)
    >>> report.part("train").density, report.overlaps
    (0.3333333333333333, {'train and test': 1})
    """
    held_out = {
        name: rows
        for name, rows in (("validation", dataset.validation), ("test", dataset.test))
        if rows is not None
    }
    parts = {"train": dataset.train, **held_out}
    names = list(parts)
    overlaps = {
        f"{first} and {second}": int(np.isin(parts[second].pair_keys, parts[first].pair_keys).sum())
        for position, first in enumerate(names)
        for second in names[position + 1 :]
    }
    cold = {}
    for name, rows in held_out.items():
        cold[f"{name} users"] = len(np.setdiff1d(rows.users, dataset.train.users))
        cold[f"{name} items"] = len(np.setdiff1d(rows.items, dataset.train.items))
    if dataset.context is not None:
        parts["context"] = dataset.context
    if dataset.probably_exposed is not None:
        parts["probably exposed"] = dataset.probably_exposed
    repeats = {name: rows.n_repeats for name, rows in parts.items()}
    times = [rows.timestamps for rows in parts.values() if rows.timestamps is not None and len(rows)]
    return Report(
        name=dataset.name,
        users=dataset.n_users,
        items=dataset.n_items,
        parts=tuple(_summarise_part(name, rows) for name, rows in parts.items()),
        overlaps={key: count for key, count in overlaps.items() if count},
        cold={key: count for key, count in cold.items() if count},
        repeats={key: count for key, count in repeats.items() if count},
        unobserved_rows=unobserved_rows,
        duplicates_dropped=duplicates_dropped,
        bad_rows_skipped=bad_rows_skipped,
        bad_row_examples=bad_row_examples,
        times=(int(min(map(np.min, times))), int(max(map(np.max, times)))) if times else None,
        notes=dataset.notes,
    )
