"""Figures 2-4 of Xu et al. (2024), drawn from whatever runs are finished; the paper prints no numbers for them.

A point is a setting of one loss with SASRec, and a run in a folder of its own. A call runs the settings that its config
has, and draws them with all that were run before.
"""

import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from debias_jax._reproduction import markdown
from debias_jax._reproduction.finished import Cell, Run, gather, shown_folder, together
from debias_jax._reproduction.rows import changed, run_rows
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, require_extra
from debias_jax.experiment import _plots
from debias_jax.experiment._build import model_settings
from debias_jax.experiment._config import only
from debias_jax.experiment._sequence_variants import TO_CONVERGENCE

METRIC = "ndcg@10"
"""What the figures show."""

_SHOWN = {
    "cross_entropy": ("CE", None, False),
    "truncated_cross_entropy": ("CE-eta", "eta", False),
    "noise_contrastive": ("NCE", "c", True),
    "negative_sampling": ("NEG", None, True),
    "scaled_cross_entropy": ("SCE", "alpha", True),
}
"""Loss -> its name, the hyperparameter that the figures vary, whether they vary K."""

_SLOW = ("NCE", "NEG")
"""Figure 3 is about how long these stand still, which would end a run that stops early."""


class Point(NamedTuple):
    """A setting of the figures.

    Attributes:
        loss: as the paper calls it.
        value: of eta, c or alpha; None for a loss that has none.
        negatives: K; None for a loss that samples nothing.
    """

    loss: str
    value: float | None
    negatives: int | None

    @property
    def varied(self) -> str | None:
        """The hyperparameter whose value it is."""
        return next(name for shown, name, _ in _SHOWN.values() if shown == self.loss)

    def folder(self) -> str:
        """Of the run, below the workdir; "" for the workdir itself."""
        parts = [] if self.varied is None else [f"{self.varied}_{self.value:g}"]
        return "_".join([*parts, *([] if self.negatives is None else [f"K_{self.negatives}"])])


Points = dict[Point, Cell]
"""What is finished."""


def draw(
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    command: str,
    folder: pathlib.Path,
    *,
    records: pathlib.Path | None = None,
    train: bool = True,
) -> str:
    """Runs what the config names, and draws what is finished below the workdir.

    Args:
        config: variants of SASRec, each at the eta, c, alpha and K that it has.
        workdir: of the runs.
        dataset: the config's.
        command: to print in the section.
        folder: of the images, beside the page.
        records: of finished runs, which are shown too; those of the workdir are added.
        train: whether the config's variants are run, where False shows what there is.

    Returns:
        The section: the images that have a point, and the numbers of each.

    Raises:
        ConfigError: a variant is in none of the figures, the runs do not measure NDCG@10, or two finished runs of a
            point hold the same seed or differ in more than their seeds.
        MissingExtraError: matplotlib is not installed.
    """
    require_extra("matplotlib", "plot")
    if config.protocol.metrics and METRIC not in config.protocol.metrics:
        raise ConfigError(f"the figures show {METRIC}; add it to config.protocol.metrics")
    wanted = {name: _asked_for(config, name) for name in config.methods if train}
    for name, point in wanted.items():
        patient = {"train": TO_CONVERGENCE} if point.loss in _SLOW else {}
        run_rows(changed(only(config, name), patient), workdir / point.folder())
    points = points_of(gather(workdir, dataset.name, records))
    folder.mkdir(parents=True, exist_ok=True)
    of_all_items = _values(points, "CE").get(None, {}).get(None)
    levels = {"CE": statistics.fmean(of_all_items)} if of_all_items else {}
    lines = [
        f"### {dataset.name}: Figures 2-4 of Xu et al. (2024), SASRec",
        "",
        f"`{command}`; the figures show every run below {shown_folder(records)}. The paper prints no numbers for them.",
        "",
    ]

    def image(number: int, caption: str) -> pathlib.Path:
        path = folder / f"sce_figure{number}_{dataset.name}.png"
        lines.extend([f"![Figure {number}: {caption}, {dataset.name}](figures/{path.name})", ""])
        return path

    truncated = _values(points, "CE-eta").get(None)
    if truncated:
        path = image(2, "truncated cross-entropy, dashed: all items")
        _plots.save_settings(
            path, {"CE-eta": truncated}, xlabel="eta", ylabel=METRIC, title=dataset.name, levels=levels
        )
    slow = {point: cell for point, cell in points.items() if point.loss in _SLOW}
    if slow:
        panels: dict[str, dict[str, list[list[tuple[int, float]]]]] = {}
        for point, cell in slow.items():
            title = point.loss if point.value is None else f"{point.loss}, c = {point.value:g}"
            panels.setdefault(title, {})[f"K = {point.negatives}"] = cell.curves
        path = image(3, "NCE and NEG over the number of negatives")
        monitor = next(iter(slow.values())).monitor
        _plots.save_curves(path, panels, ylabel=f"validation {monitor}", title=dataset.name)
    scaled = {f"K = {number}": series for number, series in _values(points, "SCE").items()}
    if scaled:
        path = image(4, "scaled cross-entropy over alpha, dashed: all items")
        _plots.save_settings(path, scaled, xlabel="alpha", ylabel=METRIC, title=dataset.name, levels=levels)
    return "\n".join([*lines, *_table(points)])


def points_of(runs: Iterable[Run]) -> Points:
    """The points among runs, losses in the order of the figures.

    Raises:
        ConfigError: two runs of a point hold the same seed, or differ in more than their seeds.
    """
    found: dict[Point, list[Run]] = {}
    for run in runs:
        point = _point(run.settings["options"], run.settings["hparams"], run.settings["model"])
        if point is not None:
            found.setdefault(point, []).append(run)
    order = [shown for shown, _, _ in _SHOWN.values()]
    ranked = sorted(found, key=lambda each: (order.index(each.loss), each.negatives or 0, each.value or 0.0))
    return {point: together(found[point]) for point in ranked}


def _point(
    options: Mapping[str, Any], hparams: Mapping[str, float], model: Mapping[str, Any]
) -> Point | None:
    """The point of a run; None if it is none: another model, other samples, draws that are not its own or uniform."""
    shown = _SHOWN.get(options.get("loss", ""))
    usual = {"loss", "samples", "n_negatives"}
    if shown is None or model["name"] != "sasrec" or options.get("samples") != "windows":
        return None
    if any(value not in (None, False) for name, value in options.items() if name not in usual):
        return None
    loss, name, sampled = shown
    return Point(
        loss,
        None if name is None else float(hparams[name]),
        int(options["n_negatives"]) if sampled else None,
    )


def _asked_for(config: ConfigDict, name: str) -> Point:
    """The point that a variant of a config is."""
    entry = config.variants[name]
    point = _point(entry.options, entry.hparams, model_settings(config, entry))
    if point is None:
        raise ConfigError(
            f"{name} is in none of these figures, which show sasrec_ce, sasrec_ce_eta, sasrec_nce, sasrec_neg, "
            "sasrec_sce and sasrec_ssm"
        )
    return point


def _values(points: Points, loss: str) -> dict[int | None, dict[float | None, list[float]]]:
    """K -> eta or alpha -> NDCG@10 of each seed."""
    series: dict[int | None, dict[float | None, list[float]]] = {}
    for point, cell in points.items():
        if point.loss == loss:
            series.setdefault(point.negatives, {})[point.value] = cell.values[METRIC]
    return series


def _table(points: Points) -> list[str]:
    """Every point in a row."""
    body = []
    for point, cell in points.items():
        body.append(
            [
                point.loss,
                "-" if point.varied is None else f"{point.varied} {point.value:g}",
                "-" if point.negatives is None else str(point.negatives),
                markdown.measured(cell.values[METRIC], 4),
                ", ".join(str(_half(curve)) for curve in cell.curves),
                cell.seeds_text(),
                cell.epochs_text(),
            ]
        )
    head = ["loss", "setting", "K", METRIC, "half of the best at epoch", "seeds", "epochs (best)"]
    return [
        f"Test {METRIC}, mean ± sd over seeds; the first epoch at which validation had half of its best value, and the "
        "epochs trained, of each seed:",
        "",
        *markdown.rows(head, body),
    ]


def _half(curve: list[tuple[int, float]]) -> int:
    """The first epoch that has half of the best value."""
    best = max(value for _, value in curve)
    return next(epoch for epoch, value in curve if value >= best / 2)
