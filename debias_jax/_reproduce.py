"""Published tables beside our own numbers, as a marked section of a Markdown page."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from debias_jax import experiment
from debias_jax._config import choose
from debias_jax._results import Scored, compare
from debias_jax.errors import ConfigError, DataError

TABLES = {
    "biif_table2": {
        "published": "biif_table2.json",
        "metrics": ("dcg@1", "dcg@2", "dcg@3", "map@1", "map@2", "map@3"),
        "headline": "dcg@3",
        "baseline": "mf",
        "title": "Coat, protocol `cjmf` (Biif, Table 2)",
    }
}
"""Tables by name: the file of published rows below ``docs/published``, and what is compared."""


def published_values(path: pathlib.Path) -> dict[tuple[str, str], tuple[float, float]]:
    """``{(method, metric): (mean, sd)}`` of a file of published rows.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"the published figures are not at {path}; run from the root of the repository")
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["method"], f"{row['metric']}@{row['k']}"): (row["value"], row["sd"]) for row in rows}


def _cell(values: Sequence[float]) -> str:
    sd = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{sd}"


def markdown(table: str, scored: Sequence[Scored], published: dict, command: str) -> str:
    """The section: published and ours for every metric, the difference in published sd, paired comparisons.

    Args:
        table: a name of ``TABLES``.
        scored: our runs.
        published: from ``published_values``.
        command: the command that made the section.

    Raises:
        ConfigError: the table is unknown, or the runs do not measure what it compares.
    """
    spec = choose("table", table, TABLES)
    for one in scored:
        for metric in spec["metrics"]:
            if metric not in one.values():
                raise ConfigError(
                    f"{table} compares {metric}, which {one.name} does not measure; "
                    f"set config.protocol.metrics to {spec['metrics']}"
                )
    head = ["method", *spec["metrics"], f"difference in {spec['headline']}, published sd"]
    lines = [
        f"### {spec['title']}",
        "",
        f"`{command}`, seeds {', '.join(map(str, scored[0].seeds))}. First line of a method: ours, mean ± sd over "
        "seeds; second line: published.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for one in scored:
        values = one.values()
        theirs = published.get((one.name, spec["headline"]))
        gap = "not published"
        if theirs is not None:
            sds = (np.mean(values[spec["headline"]]) - theirs[0]) / theirs[1]
            gap = f"{sds:+.1f}" + (" **(over 2)**" if abs(sds) > 2 else "")
        lines.append(
            f"| **{one.name}** | " + " | ".join(_cell(values[m]) for m in spec["metrics"]) + f" | {gap} |"
        )
        if theirs is not None:
            cells = [published[one.name, metric] for metric in spec["metrics"]]
            lines.append(
                "| published | " + " | ".join(f"{mean:.3f} ± {sd:.3f}" for mean, sd in cells) + " | |"
            )
    rows = compare(scored, baseline=spec["baseline"], metric=spec["headline"])
    lines += [
        "",
        f"Against `{spec['baseline']}` on {spec['headline']} (paired bootstrap over users, seeds averaged; paired "
        "t-test over seeds):",
        "",
        "| method | difference | 95 % interval | p (users) | p (seeds) |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['variant']} | {row['difference']:+.3f} | [{row['low']:+.3f}, {row['high']:+.3f}] | "
        f"{row['p_users']:.4f} | {'-' if row['p_seeds'] is None else format(row['p_seeds'], '.4f')} |"
        for row in rows
    ]
    settings = [
        f"| {one.name} | "
        + ", ".join(f"{name} {value:g}" for name, value in sorted(one.hparams.items()))
        + " |"
        for one in scored
    ]
    lines += ["", "| method | hyperparameters |", "|---|---|", *settings]
    return "\n".join(lines)


def _section(page: pathlib.Path, name: str) -> tuple[str, str]:
    """The page up to a section's begin marker, and the page from its end marker.

    Raises:
        DataError: the page or the markers are missing.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise DataError(f"{page} has no section {begin} ... {end} to write into; add these two lines to it")
    return before + begin, end + after


def replace_section(page: pathlib.Path, name: str, text: str) -> None:
    """Puts ``text`` between the page's markers ``<!-- begin name -->`` and ``<!-- end name -->``.

    Raises:
        DataError: the page or the markers are missing.
    """
    before, after = _section(page, name)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def reproduce(
    table: str, config: Any, workdir: str, *, command: str, docs: str = "docs", section: str | None = None
) -> str:
    """Runs the config (or reads its finished workdir) and writes the table's section of ``docs/results.md``.

    Args:
        table: a name of ``TABLES``.
        config: the experiment.
        workdir: its folder.
        command: the command to print in the section.
        docs: folder of ``results.md`` and ``published/``.
        section: name of the section; default the table's.

    Returns:
        The section.

    Raises:
        ConfigError: the table is unknown, or the runs do not measure what it compares.
        DataError: the published figures, the page or its section are missing; nothing is trained then.
    """
    spec = choose("table", table, TABLES)
    published = published_values(pathlib.Path(docs) / "published" / spec["published"])
    page = pathlib.Path(docs) / "results.md"
    _section(page, section or table)
    scored = experiment.run_scored(config, workdir)
    text = markdown(table, scored, published, command)
    replace_section(page, section or table, text)
    return text
