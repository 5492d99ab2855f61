"""The figures that papers print, read from ``docs/published``."""

import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from debias_jax.errors import DataError


class Figure(NamedTuple):
    """One printed cell.

    Attributes:
        value: the mean.
        sd: standard deviation as printed, None where none is.
        note: a doubt about this cell, or None.
    """

    value: float
    sd: float | None
    note: str | None = None


Figures = dict[tuple[str, str], Figure]
"""Printed cells by (method, metric), in the order of print."""


def published_values(
    path: pathlib.Path, *, dataset: str | None = None, settings: Mapping[str, float] | None = None
) -> Figures:
    """The cells of a file, in the order of print.

    Args:
        path: the file.
        dataset: rows of this dataset only.
        settings: rows with these settings only.

    Returns:
        ``{(method, metric): figure}``, metrics written as in a protocol: ``"auc"``, ``"ndcg@5"``.

    Raises:
        DataError: there is no such file, or no such row in it.
    """
    if not path.is_file():
        raise DataError(f"the published figures are not at {path}; run from the root of the repository")
    found: Figures = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        own = row.get("settings") or {}
        if dataset is not None and row.get("dataset", dataset) != dataset:
            continue
        if any(own.get(name) != value for name, value in (settings or {}).items()):
            continue
        metric = row["metric"] if row["k"] is None else f"{row['metric']}@{row['k']}"
        found[row["method"], metric] = Figure(row["value"], row["sd"], row.get("note"))
    if not found:
        raise DataError(f"{path} has no row of dataset {dataset} with settings {dict(settings or {})}")
    return found


def metrics_of(figures: Figures) -> list[str]:
    """The metrics, in the order of print."""
    return list(dict.fromkeys(metric for _, metric in figures))


def methods_of(figures: Figures) -> list[str]:
    """The methods, in the order of print."""
    return list(dict.fromkeys(method for method, _ in figures))
