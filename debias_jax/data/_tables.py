"""Text tables of integers, as the published datasets come: every complaint names the file and the line."""

import dataclasses
import gzip
import pathlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

import numpy as np

from debias_jax.data._settings import check_number
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import DataError

# A rating that a tool wrote as "4.0" is the integer 4; 18 digits always fit int64.
_INTEGER = r"(-?\d{1,18})(?:\.0+)?"
_GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a dataset comes from, for the message of a missing file.

    Attributes:
        title: the dataset's name.
        site: where its owners offer it.
        licence: under which terms.
    """

    title: str
    site: str
    licence: str

    def __str__(self) -> str:
        return f"{self.title} is at {self.site} ({self.licence})"


@contextmanager
def open_text(path: pathlib.Path, *, errors: str = "strict") -> Iterator[TextIO]:
    """Opens a text file, gzipped (told by its first bytes) or not; what goes wrong becomes a DataError."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
        opener = gzip.open if zipped else open
        with opener(path, "rt", encoding="utf-8-sig", errors=errors, newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def find_file(folder: str | pathlib.Path, names: Sequence[str], source: Source | str) -> pathlib.Path:
    """The first of ``names`` (or ``name.gz``) in ``folder``; where ``folder`` is a file, that file.

    Raises:
        DataError: none does; the message lists what was looked for and where the dataset is to be had.
    """
    folder = pathlib.Path(folder)
    if folder.is_file():
        return folder
    for name in names:
        for candidate in (folder / name, folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
    wanted = " or ".join(names)
    missing = (
        f"{folder} holds no {wanted}"
        if folder.is_dir()
        else f"{folder} is not a folder; it should hold {wanted}"
    )
    raise DataError(f"{missing} (or the same with .gz). {source}")


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a text file; blank ones at its end are none.

    Raises:
        DataError: there are no others, or the file cannot be read.
    """
    with open_text(path) as file:
        lines = file.read().replace("\r\n", "\n").rstrip("\n").split("\n")
    if lines == [""]:
        raise DataError(f"{path} is empty")
    return lines


def read_arrays(file: pathlib.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Named arrays of an npz file.

    Raises:
        DataError: the file is no npz file, or lacks one of them.
    """
    try:
        # Opened here, as numpy leaves a torn archive open; a lone array is no context and a TypeError.
        with open(file, "rb") as raw, np.load(raw, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} is not an npz file with the arrays {', '.join(names)}: {error}") from error


def read_rows(
    file: pathlib.Path, arrays: dict[str, np.ndarray], indptr: str, items: str, *, n_items: int
) -> tuple[np.ndarray, np.ndarray]:
    """Users and items, int64 ``[n]``, of items that lie user after user, ``indptr[u]:indptr[u + 1]`` user ``u``'s.

    Args:
        file: for messages.
        arrays: of ``read_arrays``.
        indptr: name of the array of ``n_users + 1`` bounds.
        items: name of the array of items.
        n_items: items must be below it.

    Raises:
        DataError: an array is not one of integers, the bounds do not fit, or an item is out of range.
    """
    for name in (indptr, items):
        if arrays[name].ndim != 1 or arrays[name].dtype.kind not in "iu":
            raise DataError(
                f"{file}: {name} must be one row of integers, got {arrays[name].dtype} {arrays[name].shape}"
            )
    bounds, codes = arrays[indptr].astype(np.int64), arrays[items].astype(np.int64)
    sizes = np.diff(bounds)
    if not bounds.size or bounds[0] != 0 or (sizes < 0).any() or bounds[-1] != len(codes):
        raise DataError(f"{file}: {indptr} does not cut the {len(codes):,} {items} into users")
    if ((codes < 0) | (codes >= n_items)).any():
        raise DataError(f"{file}: {items} are not all in [0, {n_items})")
    return np.repeat(np.arange(len(sizes)), sizes), codes


def read_matrix(path: pathlib.Path, *, shape: tuple[int, int], low: int, high: int) -> np.ndarray:
    """A matrix of integers in ``low..high``, one row a line, separated by blanks; int64 ``shape``.

    Raises:
        DataError: the shape differs, or a cell is no integer in the range.
    """
    lines = read_lines(path)
    if len(lines) != shape[0]:
        raise DataError(f"{path} has {len(lines)} lines, expected {shape[0]}")
    allowed = {str(value): value for value in range(low, high + 1)}
    matrix = np.empty(shape, np.int64)
    for number, line in enumerate(lines, start=1):
        cells = line.split()
        if len(cells) != shape[1]:
            raise DataError(f"{path}:{number}: {len(cells)} numbers, expected {shape[1]}")
        for column, cell in enumerate(cells):
            if cell not in allowed:
                raise DataError(
                    f"{path}:{number}: column {column + 1} holds {cell!r}, expected an integer {low}..{high}"
                )
            matrix[number - 1, column] = allowed[cell]
    return matrix


@dataclasses.dataclass(frozen=True)
class IntegerTable:
    """Named int64 columns of one file, and where in the file each row stands.

    Attributes:
        path: the file.
        first_line: line number of row 0.
        columns: name -> int64 ``[n]``.
    """

    path: pathlib.Path
    first_line: int
    columns: dict[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """``file:line`` of a row."""
        return f"{self.path}:{self.first_line + int(row)}"

    def check_range(self, name: str, low: int, high: int) -> None:
        """Raises unless every value of a column is in ``low..high``."""
        values = self[name]
        bad = np.flatnonzero((values < low) | (values > high))
        if bad.size:
            raise DataError(f"{self.place(bad[0])}: {name} {values[bad[0]]} is outside {low}..{high}")

    def check_distinct_pairs(self) -> None:
        """Raises where one (user, item) pair stands in two rows."""
        order = np.lexsort((self["item"], self["user"]))
        users, items = self["user"][order], self["item"][order]
        same = np.flatnonzero((users[1:] == users[:-1]) & (items[1:] == items[:-1]))
        if same.size:
            # lexsort is stable, so the earlier line of a pair comes first.
            first, second = order[same[0]], order[same[0] + 1]
            raise DataError(
                f"{self.place(second)}: user {self['user'][second]}, item {self['item'][second]} "
                f"also stands in line {self.first_line + int(first)}"
            )

    def check_count(self, expected: int) -> None:
        """Raises unless there are ``expected`` rows."""
        if len(self) != expected:
            raise DataError(
                f"{self.path} has {len(self):,} rows, the published data {expected:,}; "
                "pass strict_counts=False to read it all the same"
            )


def read_integers(
    path: pathlib.Path, columns: Sequence[str], *, separator: str, header: Sequence[str] | None = None
) -> IntegerTable:
    """Reads a table whose cells are all integers.

    Args:
        path: the file, gzipped or not.
        columns: names of the columns, in the file's order.
        separator: between two cells.
        header: the cells of the first line, or None where the file has no header.

    Raises:
        DataError: the header differs, or a line does not hold one integer a column.
    """
    lines = read_lines(path)
    if header is not None:
        if lines[0].split(separator) != list(header):
            raise DataError(f"{path}:1: the header is {lines[0]!r}, expected {separator.join(header)!r}")
        lines = lines[1:]
        if not lines:
            raise DataError(f"{path} holds a header and no rows")
    first_line = 1 if header is None else 2
    pattern = re.compile(re.escape(separator).join([_INTEGER] * len(columns)), re.ASCII)
    rows = [pattern.fullmatch(line) for line in lines]
    if None in rows:
        row = rows.index(None)
        raise DataError(
            f"{path}:{first_line + row}: {lines[row]!r} is not "
            f"{len(columns)} integers ({', '.join(columns)}) separated by {separator!r}"
        )
    values = np.array([row.groups() for row in rows]).astype(np.int64)
    return IntegerTable(path, first_line, dict(zip(columns, values.T, strict=True)))


def check_threshold(threshold: float) -> None:
    """Raises unless a threshold on 1..5 ratings can part them: in ``(1, 5]``."""
    check_number("threshold", threshold, "(1, 5]")


def read_csv_split(
    folder: str | pathlib.Path,
    pattern: str,
    *,
    name: str,
    n_users: int,
    n_items: int,
    counts: dict[str, int],
    source: Source,
    strict_counts: bool,
    notes: tuple[str, ...],
) -> Dataset:
    """Reads a fixed split ``user,item,label`` (0-based ids, labels 0/1) from one csv a part.

    Args:
        folder: where the three files are.
        pattern: file name with ``{}`` for ``train``, ``val``, ``test``.
        name: name of the dataset.
        n_users: ids are ``0 .. n_users - 1``.
        n_items: ids are ``0 .. n_items - 1``.
        counts: published number of rows of ``train``, ``val``, ``test``.
        source: for the message of a missing file.
        strict_counts: whether the number of rows must be the published one.
        notes: notes of the dataset.

    Raises:
        DataError: a file is missing or does not hold what it should, or validation and test share a pair.
    """
    columns = ("user", "item", "label")
    parts: dict[str, Interactions] = {}
    tables: dict[str, IntegerTable] = {}
    for part, count in counts.items():
        path = find_file(folder, [pattern.format(part)], source)
        tables[part] = table = read_integers(path, columns, separator=",", header=columns)
        table.check_range("user", 0, n_users - 1)
        table.check_range("item", 0, n_items - 1)
        table.check_range("label", 0, 1)
        table.check_distinct_pairs()
        if strict_counts:
            table.check_count(count)
        parts[part] = Interactions(table["user"], table["item"], table["label"], n_users, n_items)
    shared = np.flatnonzero(np.isin(parts["test"].pair_keys, parts["val"].pair_keys))
    if shared.size:
        raise DataError(f"{tables['test'].place(shared[0])}: this pair is in {tables['val'].path} too")
    return Dataset(
        name=name,
        train=parts["train"],
        validation=parts["val"],
        test=parts["test"],
        users=Vocabulary.range(n_users, kind="user"),
        items=Vocabulary.range(n_items, kind="item"),
        notes=notes,
    )
