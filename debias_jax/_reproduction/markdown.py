"""Sections of a Markdown page: published figures beside ours, comparisons, settings."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from debias_jax._reproduction.published import Figure, Figures, metrics_of
from debias_jax.errors import DataError
from debias_jax.experiment._results import Scored, compare

_METRICS_A_TABLE = 4
"""Metrics that stand side by side, three columns each, before a second table begins."""

NO_SD = "no sd is printed (or 0): the difference itself, in parentheses"


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table."""
    lines = ["| " + " | ".join(line) + " |" for line in (head, *body)]
    return [lines[0], "|" + "---|" * len(head), *lines[1:]]


def measured(values: Sequence[float], digits: int) -> str:
    """``mean ± sd`` over seeds."""
    sd = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{sd}"


def printed(figure: Figure, digits: int) -> str:
    """``mean ± sd`` as printed."""
    sd = "" if figure.sd is None else f" ± {figure.sd:.{digits}f}"
    return f"{figure.value:.{digits}f}{sd}"


def difference(values: Sequence[float], figure: Figure | None, *, limit: float, digits: int) -> str:
    """(ours - published) / published sd, marked over the limit; without an sd the difference itself."""
    if figure is None:
        return "not published"
    gap = float(np.mean(values)) - figure.value
    if not figure.sd:
        return f"({gap:+.{digits}f})"
    return f"{gap / figure.sd:+.1f}" + (f" **(over {limit:g})**" if abs(gap / figure.sd) > limit else "")


def two_lines(
    scored: Sequence[Scored], published: Figures, *, headline: str, limit: float, digits: int
) -> list[str]:
    """Ours in one line and published in the next, the difference for the headline only."""
    names = metrics_of(published)
    body = []
    for one in scored:
        values = one.values()
        gap = difference(values[headline], published.get((one.name, headline)), limit=limit, digits=digits)
        body.append([f"**{one.name}**", *(measured(values[name], digits) for name in names), gap])
        if (one.name, headline) in published:
            body.append(["published", *(printed(published[one.name, name], digits) for name in names), ""])
    return rows(["method", *names, f"difference in {headline}, published sd"], body)


def side_by_side(scored: Sequence[Scored], published: Figures, *, limit: float, digits: int) -> list[str]:
    """Published, ours and the difference in published sd for every metric; what is doubtful in notes below."""
    names = metrics_of(published)
    n_tables = -(-len(names) // _METRICS_A_TABLE)
    size = -(-len(names) // n_tables)
    notes: dict[str, int] = {}
    lines = []
    for start in range(0, len(names), size):
        shown = names[start : start + size]
        body = []
        for one in scored:
            values = one.values()
            figures = {name: published.get((one.name, name)) for name in shown}
            own_notes = [figure.note for figure in figures.values() if figure is not None and figure.note]
            own_notes += [NO_SD for figure in figures.values() if figure is not None and not figure.sd]
            marks = {notes.setdefault(note, len(notes) + 1) for note in own_notes}
            cells = [one.name + "".join(f" [{mark}]" for mark in sorted(marks))]
            for name, figure in figures.items():
                theirs = "-" if figure is None else printed(figure, digits)
                gap = "-" if figure is None else difference(values[name], figure, limit=limit, digits=digits)
                cells += [theirs, measured(values[name], digits), gap]
            body.append(cells)
        head = [
            "method",
            *(cell for name in shown for cell in (f"{name}, published", "ours", "difference")),
        ]
        lines += [*rows(head, body), ""]
    lines += [f"- [{number}] {note}" for note, number in notes.items()]
    return lines if notes else lines[:-1]


def ours(scored: Sequence[Scored], *, digits: int) -> list[str]:
    """Every metric of our runs alone."""
    names = scored[0].metric_names()
    body = [[one.name, *(measured(one.values()[name], digits) for name in names)] for one in scored]
    return rows(["method", *names], body)


def comparison(scored: Sequence[Scored], *, baseline: str, metric: str, digits: int) -> list[str]:
    """Every method against the baseline, paired over users and over seeds; nothing where it was not run."""
    found = compare(scored, baseline=baseline, metric=metric)
    if not found:
        return []

    def number(value, form: str) -> str:
        return "-" if value is None else format(value, form)

    body = [
        [
            row["variant"],
            number(row["difference"], f"+.{digits}f"),
            "-" if row["low"] is None else f"[{row['low']:+.{digits}f}, {row['high']:+.{digits}f}]",
            number(row["p_users"], ".4f"),
            number(row["p_seeds"], ".4f"),
        ]
        for row in found
    ]
    return [
        f"Against `{baseline}` on {metric} (paired bootstrap over users, seeds averaged; paired "
        "t-test over seeds):",
        "",
        *rows(["method", "difference", "95 % interval", "p (users)", "p (seeds)"], body),
    ]


def hyperparameters(hparams: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The settings of every method."""
    body = [
        [name, ", ".join(f"{key} {value:g}" for key, value in sorted(values.items()))]
        for name, values in hparams.items()
    ]
    return rows(["method", "hyperparameters"], body)


def cut_at_section(page: pathlib.Path, name: str) -> tuple[str, str]:
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
    before, after = cut_at_section(page, name)
    page.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")
