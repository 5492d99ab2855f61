"""The user's own interactions: a csv, tsv or parquet file to integer-coded, checked arrays."""

import pathlib
from typing import Any

import numpy as np

from debias_jax.data._delimited import LINE, Delimited, Parquet, open_table
from debias_jax.data._settings import check_choice, check_number
from debias_jax.data.core import k_core
from debias_jax.data.report import Report, summarise
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError, require_extra

SPLITS = ("train", "validation", "test")
DUPLICATES = ("error", "keep", "first", "last", "mean", "max")

_NUMBERS = ("label", "rating", "timestamp", "propensity")
_FLAGS = {
    "label": "pass threshold= to make it binary",
    "observed": "it says whether the label of the row is known",
}
_EXAMPLES = 5
_DATE = (
    r"^(?<day>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](?<minute>\d\d:\d\d)(?:(?<second>:\d\d)(?:\.\d+)?)?(?<zone>[Zz]|[+-]\d\d(?::?\d\d)?)?)?$"
)


def read(
    path: str | pathlib.Path,
    *,
    user: str = "user",
    item: str = "item",
    label: str | None = None,
    rating: str | None = None,
    observed: str | None = None,
    timestamp: str | None = None,
    propensity: str | None = None,
    split: str | None = None,
    threshold: float | None = None,
    duplicates: str = "error",
    on_bad_rows: str = "error",
    min_user_rows: int = 0,
    min_item_rows: int = 0,
    separator: str | None = None,
    name: str | None = None,
) -> tuple[Dataset, Report]:
    r"""Reads the user's own file.

    The columns are named by the arguments; what is not named is not read. Labels come from one of three:

    - ``label``: its values, which must be 0 or 1, or with ``threshold`` any number: then ``label = value >=
    threshold``;
    - ``rating`` with ``threshold``: ``label = rating >= threshold``, and the ratings are kept;
    - neither: each row is a click, label 1.

    A row that is not ``observed`` is an impression whose label is unknown (not clicked, so that nobody knows whether
    it would have converted). It is no row of the log; its user and item are in the vocabularies all the same.

    Ids are strings exactly as they stand: "007" is not "7", "nan" is an id, and nothing is stripped or
    normalised. Codes follow the order of first appearance in the file.

    Args:
        path: a ``.csv`` or ``.tsv`` file with a header (each may be gzipped), or ``.parquet``.
        user: column of user ids.
        item: column of item ids.
        label: column of labels.
        rating: column of ratings; with ``label`` it is only kept.
        observed: column that says 1 (or true) where the label of the row is known and 0 (false) where it is not; the
            label and the rating of an unobserved row may be empty, but not positive.
        timestamp: column of whole seconds since 1970, or of dates: ISO 8601 in a text file
            ("2024-01-31", "2024-01-31 18:30", "2024-01-31T18:30:05.25+01:00"), dates or datetimes in parquet. Without
            a zone they are UTC; what is below a second is dropped.
        propensity: column of probabilities that the pair was observed, in (0, 1].
        split: column that says ``train``, ``validation`` or ``test``; without it all rows are ``train``.
        threshold: see above.
        duplicates: what to do with a (user, item) pair that occurs again in the same part. "error"; "keep"
            takes every row for an event of its own, as sequence models want it; "first" or "last" keep that row (by
            timestamp where there is one, then by place); "max" keeps the row of the largest value; "mean" keeps the
            first row with the mean value. The value is the one that ``threshold`` is applied to afterwards.
        on_bad_rows: "error" stops at the first; "skip" leaves them out and counts them in the report.
        min_user_rows: rows that a user must have, see ``data.k_core``; 0 keeps all users.
        min_item_rows: rows that an item must have, likewise.
        separator: between the cells of a text file, where the suffix does not tell.
        name: of the dataset; the file's name by default.

    Returns:
        The dataset and its report.

    Raises:
        DataError: the file or a row is not as it should be; the message has file, line (1-based, the header
            is line 1; for parquet the row) and column.
        ConfigError: the settings do not fit together.
        MissingExtraError: polars is not installed.

    >>> import tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "log.csv").write_text("user,item,stars\n007,tea,5\n7,tea,2\n7,jam,4\n")
    >>> data, report = read(folder / "log.csv", rating="stars", threshold=4)
    >>> data.users.ids, data.train.items.tolist(), data.train.labels.tolist()
    (('007', '7'), [0, 0, 1], [1.0, 0.0, 1.0])
    >>> report.part("train").positives
    2
    """
    roles = {
        role: column
        for role, column in (
            ("user", user),
            ("item", item),
            ("label", label),
            ("rating", rating),
            ("observed", observed),
            ("timestamp", timestamp),
            ("propensity", propensity),
            ("split", split),
        )
        if column is not None
    }
    _check_settings(roles, threshold, duplicates, on_bad_rows)
    path = pathlib.Path(path)
    table = open_table(path, roles, separator)
    rows, bad_rows = _load_rows(table, roles, threshold)
    if bad_rows and on_bad_rows == "error":
        line, fault = bad_rows[0]
        more = f" ({len(bad_rows) - 1:,} more bad rows)" if len(bad_rows) > 1 else ""
        skip = "" if rows.is_empty() else "; on_bad_rows='skip' leaves such rows out"
        raise DataError(f"{table.place(line)}: {fault}{more}{skip}")
    if rows.is_empty():
        skipped = f" but {len(bad_rows):,} bad ones, the first: {bad_rows[0][1]}" if bad_rows else ""
        raise DataError(f"{path} holds no rows{skipped}")

    _check_values(table, rows, roles, threshold)

    users, user_codes = _encode(rows["user"], "user")
    items, item_codes = _encode(rows["item"], "item")
    parts = _codes(rows["split"], SPLITS) if split else np.zeros(len(rows), np.int64)
    log_rows = np.arange(len(rows)) if observed is None else np.flatnonzero(rows["observed"].to_numpy())
    if not log_rows.size:
        raise DataError(f"{path}: no row has {observed!r} = 1, so no label is known")
    user_codes, item_codes, parts = user_codes[log_rows], item_codes[log_rows], parts[log_rows]
    # int64 throughout: users x items exceeds int32 for any larger catalogue.
    pairs = (user_codes * len(items) + item_codes) * len(SPLITS) + parts
    values = {role: rows[role].to_numpy()[log_rows] for role in _NUMBERS if role in roles}
    n_unobserved = len(rows) - len(log_rows)
    # The strings are most of the memory, and the vocabularies hold all that is still wanted of them.
    rows = rows.drop("user", "item")
    decisive = "label" if label else "rating" if rating else None
    kept = np.arange(len(pairs))
    repetition = None if duplicates == "keep" else _first_repetition(pairs)
    if repetition is not None:
        if duplicates == "error":
            first, again = (_place(table, rows, log_rows[row]) for row in repetition)
            raise DataError(
                f"{again}: user {users.ids[user_codes[repetition[1]]]!r}, item "
                f"{items.ids[item_codes[repetition[1]]]!r} also stands in {first}; "
                "duplicates='first', 'last', 'mean' or 'max' says which to keep, 'keep' takes each for an event"
            )
        kept, merged = _deduplicate(pairs, values.get("timestamp"), values.get(decisive), duplicates)
        values = {role: column[kept] for role, column in values.items()}
        if decisive:
            values[decisive] = merged

    if decisive is None:
        labels, rule = np.ones(len(kept)), "each row is a click (label 1)"
    elif threshold is None:
        labels, rule = values["label"], f"label = {label}"
    else:
        labels, rule = values[decisive] >= threshold, f"label = {roles[decisive]} >= {threshold:g}"
    if observed:
        rule += f", known where {observed} = 1"
    log = Interactions(
        user_codes[kept],
        item_codes[kept],
        labels,
        len(users),
        len(items),
        ratings=values.get("rating"),
        timestamps=values["timestamp"].astype(np.int64) if timestamp else None,
        propensities=values.get("propensity"),
    )
    in_part = [parts[kept] == code for code in range(len(SPLITS))]
    if not in_part[0].any():
        raise DataError(f"{path}: no row has {split!r} = 'train'")
    train, validation, test = (log.take(rows) if rows.any() else None for rows in in_part)
    stem = pathlib.Path(path.name.removesuffix(".gz")).stem
    notes = (rule, f"columns that are not read: {', '.join(table.others)}") if table.others else (rule,)
    dataset = Dataset(name or stem, train, validation, test, users, items, notes=notes)
    if min_user_rows or min_item_rows:
        dataset = k_core(dataset, min_user_rows=min_user_rows, min_item_rows=min_item_rows)
    return dataset, summarise(
        dataset,
        unobserved_rows=n_unobserved,
        duplicates_dropped=len(pairs) - len(kept),
        bad_rows_skipped=len(bad_rows),
        bad_row_examples=tuple(f"{table.place(line)}: {fault}" for line, fault in bad_rows[:_EXAMPLES]),
    )


def _check_settings(
    roles: dict[str, str], threshold: float | None, duplicates: str, on_bad_rows: str
) -> None:
    check_choice("duplicates", duplicates, DUPLICATES)
    check_choice("on_bad_rows", on_bad_rows, ("error", "skip"))
    for role, column in roles.items():
        twin = next(other for other, name in roles.items() if name == column)
        if twin != role:
            raise ConfigError(f"{twin} and {role} both name the column {column!r}")
    if "observed" in roles and "label" not in roles and "rating" not in roles:
        raise ConfigError(
            "observed= needs label= or rating=: it says of which rows the label is known; to learn from clicks "
            f"themselves give label={roles['observed']!r}"
        )
    if threshold is not None:
        check_number("threshold", threshold, "(-inf, inf)")
        if "label" not in roles and "rating" not in roles:
            raise ConfigError(f"threshold = {threshold!r} needs label= or rating= to apply to")
        if "label" in roles and "rating" in roles:
            raise ConfigError(
                "threshold= with both label= and rating= is ambiguous; give one of the two columns"
            )
    elif "rating" in roles and "label" not in roles:
        raise ConfigError("rating= needs threshold= (label = rating >= threshold), or label= beside it")
    elif "label" in roles and duplicates == "mean":
        raise ConfigError("duplicates='mean' of 0/1 labels is no label; use 'max', or give threshold=")


def _load_rows(
    table: Delimited | Parquet, roles: dict[str, str], threshold: float | None
) -> tuple[Any, list[tuple[int, str]]]:
    """The usable rows, typed, with line numbers if there are others, and line and fault of those."""
    frame = table.read_fast()
    if frame is not None:
        rows = _type_columns(frame, roles, table, threshold)
        if rows["fault"].null_count() == len(rows):
            return rows, []
    bad_rows: list[tuple[int, str]] = []
    rows = _type_columns(table.read_exact(bad_rows), roles, table, threshold)
    faulty = rows.filter(rows["fault"].is_not_null())
    bad_rows += zip(faulty[LINE], faulty["fault"], strict=True)
    return rows.filter(rows["fault"].is_null()), sorted(bad_rows)


def _check_values(
    table: Delimited | Parquet, rows: Any, roles: dict[str, str], threshold: float | None
) -> None:
    """Raises where a label or a flag is not binary; never skipped, as the column then holds something else."""
    for role, hint in _FLAGS.items():
        if role not in roles or (role == "label" and threshold is not None):
            continue
        # The label of an unobserved row may be missing, which is NaN here.
        values = rows[role].to_numpy()
        other = np.flatnonzero(~(np.isin(values, (0, 1)) | np.isnan(values)))
        if other.size:
            raise DataError(
                f"{_place(table, rows, other[0])}: column {roles[role]!r} holds {values[other[0]]:g}, which is not "
                f"0 or 1; {hint}"
            )


def _encode(ids: Any, kind: str) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of a column of ids in order of first appearance, and their int64 codes."""
    distinct = ids.unique(maintain_order=True)
    return Vocabulary(distinct, kind=kind), _codes(ids, distinct)


def _codes(column: Any, categories: Any) -> np.ndarray:
    """Position of each string among ``categories``, int64."""
    enum = require_extra("polars", "data").Enum(categories)
    return column.cast(enum).to_physical().to_numpy().astype(np.int64)


def _place(table: Delimited | Parquet, rows: Any, row: int) -> str:
    """Where a usable row stands; a file that was read without line numbers is read again to tell."""
    lines = rows[LINE] if LINE in rows.columns else table.read_exact([])[LINE]
    return table.place(lines[int(row)])


def _type_columns(
    frame: Any, roles: dict[str, str], table: Delimited | Parquet, threshold: float | None
) -> Any:
    """Ids as strings, numbers as float64, and ``fault``: the first thing wrong with each row, or null."""
    pl = table.polars
    typed, faults = [], []
    unobserved = pl.lit(False)
    if "observed" in roles:
        unobserved = (_number(pl, "observed", frame.schema["observed"]) == 0).fill_null(False)
    for role, name in roles.items():
        dtype, raw = frame.schema[role], pl.col(role).cast(pl.String)
        shown, empty = raw.str.slice(0, 40), raw.is_null() | (raw == "")
        if role in ("user", "item", "split"):
            if dtype.is_float() or dtype.is_nested() or dtype.is_temporal() or dtype == pl.Binary:
                raise DataError(
                    f"{table.path}: column {name!r} is {dtype}; ids and splits must be strings or integers"
                )
            typed.append(raw.alias(role))
        if role in ("user", "item"):
            checks = [(raw.str.contains(r"[\x00\n\r]"), "holds {}, with a NUL byte or a line break")]
        elif role == "split":
            checks = [(~raw.is_in(SPLITS), f"holds {{}}, which is not one of {', '.join(SPLITS)}")]
        else:
            number = _number(pl, role, dtype)
            checks, finite = [], "a finite number"
            if role == "timestamp":
                finite = "a number of seconds since 1970 or a date such as 2024-01-31T18:30:00Z (ISO 8601)"
                if dtype == pl.String:
                    dates = _seconds_of_date(pl, pl.when(number.is_null()).then(raw))
                    mixed = number.is_finite() & dates.is_not_null().any()
                    checks.append((mixed, "holds {}, and dates in other rows"))
                    number = pl.coalesce(number, dates)
            typed.append(number.alias(role))
            single = number.cast(pl.Float32, strict=False)
            checks.append((number.is_null() | ~single.is_finite(), f"holds {{}}, which is not {finite}"))
            if "observed" in roles and role == ("label" if "label" in roles else "rating"):
                positive = number == 1 if threshold is None else number >= threshold
                checks.append((unobserved & positive, f"holds {{}} where {roles['observed']!r} is 0"))
            if role == "propensity":
                checks.append((~((single > 0) & (number <= 1)), "holds {}, which is outside (0, 1]"))
            elif role == "timestamp":
                whole = (number == number.round()) & (number.abs() < 2.0**53)
                checks.append((~whole, "holds {}, which is no whole number of seconds"))
        may_be_empty = unobserved if role in ("label", "rating") else pl.lit(False)
        faults.append(pl.when(empty & ~may_be_empty).then(pl.lit(f"column {name!r} is empty")))
        for wrong, text in checks:
            before, after = f"column {name!r} {text}".split("{}")
            message = pl.concat_str(pl.lit(before + "'"), shown, pl.lit("'" + after))
            faults.append(pl.when(wrong & ~empty).then(message))
    lines = [LINE] if LINE in frame.columns else []
    return frame.select(*typed, pl.coalesce(faults).alias("fault"), *lines)


def _number(pl: Any, role: str, dtype: Any) -> Any:
    """An expression for a float64 column."""
    column = pl.col(role)
    if dtype == pl.String:
        column = column.str.strip_chars()
        if role in _FLAGS:
            column = column.str.to_lowercase().replace({"true": "1", "false": "0"})
    elif role == "timestamp" and dtype in (pl.Date, pl.Datetime):
        column = column.dt.epoch("s")
    return column.cast(pl.Float64, strict=False)


def _seconds_of_date(pl: Any, text: Any) -> Any:
    """An expression for the float64 seconds since 1970 of times as ISO 8601 writes them; null for other strings."""
    parts = text.str.strip_chars().str.extract_groups(_DATE)
    moment = pl.concat_str(
        parts.struct["day"],
        pl.lit("T"),
        parts.struct["minute"].fill_null("00:00"),
        parts.struct["second"].fill_null(":00"),
        parts.struct["zone"].replace({"Z": "+00:00", "z": "+00:00"}).fill_null("+00:00"),
    )
    return (
        moment.str.to_datetime("%Y-%m-%dT%H:%M:%S%#z", time_unit="us", strict=False)
        .dt.epoch("s")
        .cast(pl.Float64)
    )


def _first_repetition(pairs: np.ndarray) -> tuple[int, int] | None:
    """The first entry that occurs earlier too, as positions (earlier, later); None where all are distinct."""
    order = np.argsort(pairs, kind="stable")
    again = np.flatnonzero(pairs[order[1:]] == pairs[order[:-1]])
    if not again.size:
        return None
    later = again[np.argmin(order[again + 1])]
    return int(order[later]), int(order[later + 1])


def _deduplicate(
    pairs: np.ndarray, timestamps: np.ndarray | None, values: np.ndarray | None, policy: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions to keep, ascending, and their values, by the policies of ``read``."""
    position = np.arange(len(pairs))
    if policy in ("first", "last"):
        ranking = position if timestamps is None else timestamps
    else:
        ranking = -values if policy == "max" and values is not None else position
    order = np.lexsort((position, ranking, pairs))
    starts = np.flatnonzero(np.diff(pairs[order], prepend=pairs[order[0]] - 1))
    ends = np.append(starts[1:], len(pairs))
    kept = order[ends - 1] if policy == "last" else order[starts]
    in_file_order = np.argsort(kept)
    if values is not None and policy == "mean":
        values = np.add.reduceat(values[order], starts) / (ends - starts)
    elif values is not None:
        values = values[kept]
    return kept[in_file_order], None if values is None else values[in_file_order]
