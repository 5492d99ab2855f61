"""Own csv, tsv and parquet files as polars frames of raw columns, with the place of every row.

A delimited file is parsed twice at most: by polars, which is fast but does not tell where a fault is, and,
where anything at all looks wrong, again by the ``csv`` module, which knows the line of each record.
"""

import csv
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from debias_jax.data._tables import open_text
from debias_jax.errors import DataError, nearest, require_extra

_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_CHUNK = 100_000
LINE = "line"
"""Column of the 1-based line (parquet: row) numbers, in frames that were read exactly."""


class Delimited:
    """A csv or tsv file, gzipped or not.

    Args:
        path: the file.
        separator: between two cells.
        roles: role -> name of the column in the file; frames have the roles as column names, all strings.

    Attributes:
        others: columns that have no role.

    Raises:
        DataError: the file is empty or unreadable, or lacks a column.
    """

    def __init__(self, path: pathlib.Path, separator: str, roles: dict[str, str]):
        self.path, self.separator, self.roles = path, separator, roles
        self.polars = require_extra("polars", "data")
        with open_text(path, errors="surrogateescape") as file:
            try:
                self.header = next(csv.reader(file, delimiter=separator), None)
            except csv.Error as error:
                raise DataError(f"{path}:1: the header cannot be read: {error}") from error
        if not self.header:
            raise DataError(f"{path} is empty; its first line should name the columns")
        if not all(map(_is_text, self.header)):
            raise DataError(f"{path}:1: the header is not UTF-8 text")
        self.others = other_columns(path, self.header, roles)

    def place(self, line: int) -> str:
        """``file:line``."""
        return f"{self.path}:{line}"

    def read_fast(self):
        """The frame without line numbers, or None where the file needs an exact look."""
        pl = self.polars
        try:
            frame = pl.read_csv(self.path, separator=self.separator, infer_schema=False, glob=False)
        except (pl.exceptions.PolarsError, OSError):
            return None
        # A short or blank row ends in nulls, which only the exact reader tells from empty cells.
        if frame.columns != self.header or frame.is_empty() or frame.to_series(-1).null_count():
            return None
        return frame.select(pl.col(name).alias(role) for role, name in self.roles.items())

    def read_exact(self, bad_rows: list[tuple[int, str]]):
        """The frame with line numbers, without malformed rows: line and fault of those go into ``bad_rows``.

        Raises:
            DataError: a quoted field does not end, so that what follows it cannot be told apart.
        """
        pl = self.polars
        positions = [self.header.index(name) for name in self.roles.values()]
        schema = dict.fromkeys([*self.roles], pl.String) | {LINE: pl.Int64}
        chunks = [pl.DataFrame(schema=schema)]
        rows: list[tuple[Any, ...]] = []
        for line, cells, fault in self._records():
            if fault:
                bad_rows.append((line, fault))
                continue
            rows.append((*(cells[position] for position in positions), line))
            if len(rows) == _CHUNK:
                chunks.append(pl.DataFrame(rows, schema=schema, orient="row"))
                rows = []
        chunks.append(pl.DataFrame(rows, schema=schema, orient="row"))
        return pl.concat(chunks)

    def _records(self) -> Iterator[tuple[int, list[str], str | None]]:
        """Line, cells and fault (or None) of each record after the header."""
        # Bytes that are no UTF-8 survive as surrogates, so that the row that holds them can be named.
        with open_text(self.path, errors="surrogateescape") as file:
            reader = csv.reader(file, delimiter=self.separator, strict=True)
            next(reader)
            while True:
                line = reader.line_num + 1
                try:
                    cells = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    if reader.line_num > line or "unexpected end of data" in str(error):
                        raise DataError(
                            f"{self.place(line)}: a quoted field begins here and does not end ({error})"
                        ) from error
                    yield line, [], f"malformed row ({error})"
                    continue
                if len(cells) != len(self.header):
                    fault = (
                        f"{len(cells)} cells, the header has {len(self.header)}" if cells else "blank line"
                    )
                    yield line, cells, fault
                elif not all(map(_is_text, cells)):
                    yield line, cells, "not UTF-8 text"
                else:
                    yield line, cells, None


def _is_text(cell: str) -> bool:
    if cell.isascii():
        return True
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


class Parquet:
    """A parquet file; its places are rows, and typed columns stay as they are.

    Args:
        path: the file.
        roles: role -> name of the column in the file; frames have the roles as column names.

    Attributes:
        others: columns that have no role.

    Raises:
        DataError: the file is unreadable or lacks a column.
    """

    def __init__(self, path: pathlib.Path, roles: dict[str, str]):
        self.path, self.roles = path, roles
        self.polars = pl = require_extra("polars", "data")
        try:
            columns = list(pl.read_parquet_schema(path))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path} cannot be read as parquet: {error}") from error
        self.others = other_columns(path, columns, roles)

    def place(self, line: int) -> str:
        """``file, row n``."""
        return f"{self.path}, row {line}"

    def read_fast(self):
        """The frame without row numbers."""
        pl = self.polars
        try:
            frame = pl.read_parquet(self.path, columns=list(dict.fromkeys(self.roles.values())), glob=False)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{self.path} cannot be read as parquet: {error}") from error
        return frame.select(pl.col(name).alias(role) for role, name in self.roles.items())

    def read_exact(self, bad_rows: list[tuple[int, str]]):
        """The frame with row numbers from 1; a parquet file has no malformed rows."""
        return self.read_fast().with_row_index(LINE, offset=1)


def other_columns(path: pathlib.Path, present: Sequence[str], roles: Mapping[str, str]) -> list[str]:
    """The columns that no role wants, where ``roles`` are ``{role: column}``.

    Raises:
        DataError: a wanted column is not present exactly once.
    """
    for role, name in roles.items():
        if name not in present:
            columns, hint = f"the columns are {', '.join(map(repr, present))}", nearest(name, present)
            hint = f"{hint} ({columns})" if hint.startswith("did you mean") else columns
            raise DataError(
                f"{path}:1: there is no column {name!r}; {hint}; the argument {role} names the column "
                f"(config: --config.data.options.{role}=COLUMN{'' if role in _NEEDED else ', empty for none'})"
            )
        if list(present).count(name) > 1:
            raise DataError(f"{path}:1: the column {name!r} occurs {list(present).count(name)} times")
    return [name for name in present if name not in roles.values()]


_NEEDED = ("user", "item")
"""Roles that a file must have a column for."""


def open_table(path: pathlib.Path, roles: dict[str, str], separator: str | None) -> Delimited | Parquet:
    """The reader for a file, by its suffix.

    Raises:
        DataError: there is no such file, or its kind is unknown.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of a .csv, .tsv (also .gz) or .parquet file")
    suffix = pathlib.Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix == ".parquet":
        return Parquet(path, roles)
    separator = separator or _SEPARATORS.get(suffix)
    if separator is None:
        raise DataError(
            f"{path}: cannot tell the format of {suffix or 'a file without a suffix'}; "
            "name it .csv, .tsv (each may end in .gz) or .parquet, or pass separator="
        )
    return Delimited(path, separator, roles)
