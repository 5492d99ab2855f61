"""Plots of a run, as PNG files. matplotlib is an extra: without it a run says so and goes on."""

import logging
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from debias_jax.data.types import Dataset
from debias_jax.errors import MissingExtraError, require_extra
from debias_jax.experiment._logistic_mf import popularity_pcc
from debias_jax.experiment._results import Scored


def save_all(
    folder: pathlib.Path,
    scored: Sequence[Scored],
    comparison: Sequence[dict[str, Any]],
    dataset: Dataset,
    *,
    monitor: str,
) -> None:
    """Writes every plot that the results allow into ``folder``."""
    if not _ready(folder):
        return
    curves(
        folder / "learning_curves.png",
        scored,
        {"loss": "training loss (own scale)", monitor: f"validation {monitor}"},
    )
    if len(scored) > 1:
        compare(folder / "comparison.png", scored, comparison)
    if dataset.truth is not None and any(one.exposure is not None for one in scored):
        _exposure(folder / "exposure.png", scored, dataset)
        learned = [one for one in scored if any("pcc" in row for row in one.history)]
        curves(
            folder / "pcc.png",
            learned,
            {"pcc": "PCC of estimated and true exposure"},
            levels={"popularity": popularity_pcc(dataset)},
        )


def save_settings(
    path: pathlib.Path,
    series: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    title: str,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draws one metric over a setting (log scale), mean and sd over seeds.

    Args:
        path: the file.
        series: variant -> setting -> the metric in each run.
        xlabel: the setting.
        ylabel: the metric.
        title: of the figure.
        levels: what to draw as dashed lines across it, name -> height.
    """
    figure, (axis,) = _figure(1, width=5.0)
    for name, points in series.items():
        means, sds = _means_and_sds(points.values())
        axis.errorbar(list(points), means, yerr=sds, fmt="o-", capsize=3, label=name)
    _lines_across(axis, levels)
    axis.set(xlabel=xlabel, ylabel=ylabel, title=title, xscale="log")
    # The settings themselves: the powers of ten and their parts say little, and overlap.
    settings = sorted({setting for points in series.values() for setting in points})
    axis.set_xticks(settings, [f"{setting:g}" for setting in settings], rotation=45)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path)


def save_curves(
    path: pathlib.Path,
    panels: Mapping[str, Mapping[str, Sequence[Sequence[tuple[int, float]]]]],
    *,
    ylabel: str,
    title: str,
) -> None:
    """Draws one log over epochs, mean and sd over runs, in panels that share their scale.

    Args:
        path: the file.
        panels: title of a panel -> name of a curve -> (epoch, value) of each run.
        ylabel: the log.
        title: of the figure.
    """
    figure, axes = _figure(len(panels), width=5.0)
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colors = dict(zip(names, _colors(len(names)), strict=False))
    handles = {}
    for axis, (panel, lines) in zip(axes, panels.items(), strict=True):
        for name, runs in lines.items():
            epochs = np.asarray(sorted({epoch for run in runs for epoch, _ in run}))
            values = np.asarray([[dict(run).get(epoch, np.nan) for run in runs] for epoch in epochs])
            handles[name] = _band(axis, epochs, values, name, colors[name])
        axis.set(xlabel="epoch", ylabel=ylabel, title=panel)
        axis.grid(alpha=0.3)
        axis.sharey(axes[0])
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False)
    figure.suptitle(title)
    figure.savefig(path)


def save_search(
    folder: pathlib.Path, values: Mapping[str, Sequence[float | None]], *, monitor: str, title: str
) -> None:
    """Writes ``search.png``: the best value so far over the trials of each variant (None: no value)."""
    if not _ready(folder):
        return
    figure, (axis,) = _figure(1, width=5.0)
    for name, trials in values.items():
        array = np.asarray([np.nan if value is None else value for value in trials], np.float64)
        axis.step(np.arange(1, array.size + 1), np.fmax.accumulate(array), where="post", label=name)
    axis.set(xlabel="trials", ylabel=f"best validation {monitor}", title=title)
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(folder / "search.png")


def _ready(folder: pathlib.Path) -> bool:
    """Whether plots can be drawn; makes their folder."""
    try:
        matplotlib = require_extra("matplotlib", "plot")
    except MissingExtraError as error:
        logging.getLogger(__name__).warning("no plots: %s", error)
        return False
    matplotlib.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    return True


def _figure(columns: int, rows: int = 1, *, width: float = 4.2, height: float = 3.4):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained", dpi=120)
    return figure, figure.subplots(rows, columns, squeeze=False).ravel()


def series(history: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Epochs at which ``name`` was logged, and its values ``[epochs, runs]``."""
    rows = [row for row in history if name in row]
    values = [[np.nan if value is None else value for value in row[name]] for row in rows]
    return np.asarray([row["epoch"] for row in rows]), np.asarray(values, np.float64)


def _means_and_sds(runs: Iterable[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Of each list of values; the sd of a single one is drawn as 0."""
    runs = list(runs)
    return (
        [np.mean(values) for values in runs],
        [np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in runs],
    )


def _lines_across(axis, levels: Mapping[str, float] | None) -> None:
    """Draws dashed lines, name -> height."""
    for level, height in (levels or {}).items():
        axis.axhline(height, label=level, color="grey", linestyle="--", linewidth=1)


def _colors(count: int):
    from matplotlib import colormaps

    return colormaps["tab10" if count <= 10 else "tab20"].colors


def _band(axis, epochs: np.ndarray, values: np.ndarray, label: str, color):
    """Draws the mean of ``values`` ``[epochs, runs]`` with a band of one sd; returns the line."""
    # Runs that rest after early stopping are NaN; an epoch of which none is left ends the curve.
    epochs, values = epochs[np.isfinite(values).any(axis=1)], values[np.isfinite(values).any(axis=1)]
    mean, sd = np.nanmean(values, axis=1), np.zeros(len(epochs))
    several = np.isfinite(values).sum(axis=1) > 1
    sd[several] = np.nanstd(values[several], axis=1, ddof=1)
    (line,) = axis.plot(epochs, mean, label=label, linewidth=1.5, color=color)
    axis.fill_between(epochs, mean - sd, mean + sd, color=color, alpha=0.2, linewidth=0)
    return line


def curves(
    path: pathlib.Path,
    scored: Sequence[Scored],
    labels: Mapping[str, str],
    *,
    levels: Mapping[str, float] | None = None,
) -> None:
    """Draws logs over epochs, mean and sd over runs, a panel for each log that was kept.

    Args:
        path: the file.
        scored: the variants, a curve each.
        labels: name of a log -> label of its axis.
        levels: what to draw as dashed lines across every panel, name -> height.
    """
    names = [name for name in labels if any(name in row for one in scored for row in one.history)]
    if not names:
        return
    figure, axes = _figure(len(names), width=5.0)
    colors = _colors(len(scored))
    for axis, name in zip(axes, names, strict=True):
        for number, one in enumerate(scored):
            epochs, values = series(one.history, name)
            if epochs.size < 2:
                continue
            _band(axis, epochs, values, one.name, colors[number % len(colors)])
        _lines_across(axis, levels)
        axis.set(xlabel="epoch", ylabel=labels[name])
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(f"{scored[0].dataset}: mean and sd over {len(scored[0].seeds)} seeds")
    figure.savefig(path)


def compare(path: pathlib.Path, scored: Sequence[Scored], comparison: Sequence[dict[str, Any]] = ()) -> None:
    """Draws every metric's mean and sd, a panel a metric, a line a variant; with the baseline of a comparison."""
    names = [name for name in scored[0].metric_names() if scored[0].values().get(name)]
    if not names:
        return
    columns = min(3, len(names))
    figure, axes = _figure(columns, -(-len(names) // columns), height=0.6 + 0.32 * len(scored))
    order = list(reversed(scored))
    for axis, name in zip(axes, names, strict=False):
        means, sds = _means_and_sds(one.values()[name] for one in order)
        axis.errorbar(means, range(len(order)), xerr=sds, fmt="o", capsize=3, color="tab:blue")
        if comparison:
            base = next(one for one in scored if one.name == comparison[0]["baseline"])
            axis.axvline(np.mean(base.values()[name]), color="grey", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(order)), [one.name for one in order])
        axis.set_ylim(-0.5, len(order) - 0.5)
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    base = f"; dashed: {comparison[0]['baseline']}" if comparison else ""
    figure.suptitle(f"{scored[0].dataset}: test, mean ± sd over {len(scored[0].seeds)} seeds{base}")
    figure.savefig(path)


def bars(path: pathlib.Path, scored: Sequence[Scored], metric: str) -> None:
    """Draws one metric as a bar a variant from 0, in the given order from the top, with the sd over runs."""
    figure, (axis,) = _figure(1, width=6.0, height=1.0 + 0.32 * len(scored))
    means, sds = _means_and_sds(one.values()[metric] for one in scored)
    drawn = axis.barh(range(len(scored)), means, xerr=sds, capsize=3, color="tab:blue", ecolor="black")
    axis.bar_label(drawn, [f"{mean:.3f}" for mean in means], padding=3)
    axis.set_yticks(range(len(scored)), [one.name for one in scored])
    axis.invert_yaxis()
    # Room for the numbers behind the bars.
    axis.set_xlim(0, 1.15 * max(mean + sd for mean, sd in zip(means, sds, strict=True)))
    axis.set_xlabel(metric)
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    figure.suptitle(f"{scored[0].dataset}: test, mean and sd over {len(scored[0].seeds)} seeds")
    figure.savefig(path)


def _exposure(path: pathlib.Path, scored: Sequence[Scored], dataset: Dataset) -> None:
    shown = [one for one in scored if one.exposure is not None]
    columns = min(4, len(shown))
    figure, axes = _figure(columns, -(-len(shown) // columns), width=3.4, height=3.4)
    truth = dataset.truth.exposure.ravel()
    # Enough points to see the shape, few enough to draw; the same pairs in every panel.
    pairs = np.random.default_rng(0).choice(truth.size, size=min(3000, truth.size), replace=False)
    for axis, one in zip(axes, shown, strict=False):
        estimate = one.exposure.ravel()
        axis.plot(truth[pairs], estimate[pairs], ".", markersize=2, alpha=0.4)
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
        pcc = f"PCC {np.mean(one.pcc):.2f}" if one.pcc else ""
        axis.set(
            title=f"{one.name} {pcc}",
            xlabel="true exposure",
            ylabel="estimated exposure",
            xlim=(0, 1),
            ylim=(0, 1),
        )
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    figure.suptitle(f"{dataset.name}: pairs of the first seed; PCC is the mean over users and seeds")
    figure.savefig(path)
