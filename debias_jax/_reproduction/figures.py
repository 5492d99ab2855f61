"""Figures 1-4 of BADR and Figure 7 of XIR, drawn from our own runs; the papers print no numbers for them."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from debias_jax._reproduction import exposure_figures, markdown, sequence_figures
from debias_jax._reproduction.rows import changed, run_rows
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, require_extra
from debias_jax.experiment import _plots
from debias_jax.experiment._config import choose
from debias_jax.experiment._fit import make_judge

ABLATIONS = {
    "1a": (("badr", "badr"), ("badr", "dr_jl"), ("dr_jl", "")),
    "1b": (
        ("badr", "badr"),
        *(("badr", name) for name in ("mrdr", "dr_bias", "dr_mse")),
        *((name, "") for name in ("mrdr", "dr_bias", "dr_mse")),
    ),
}
"""The parts of Figure 1 as (method, imputation loss of BADR): the loss left out, then the estimator too; the loss taken
from another method, beside that method."""

BATCH_SIZES = {
    "coat": (32, 64, 128, 256, 512, 1024),
    "kuairec": (256, 512, 1024, 2048, 4096, 8192, 16384),
    "yahoo_r3": (256, 512, 1024, 2048, 4096, 8192, 16384),
}
"""Batch sizes of BADR's Figure 3, by dataset; the whole log is the last."""

RETRIEVAL_SIZES = {name: (256, 512, 1024, 2048, 4096, 8192) for name in ("ml_100k", "gowalla")}
"""Batch sizes of XIR's Figure 7, by dataset."""


def draw(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, command: str, folder: pathlib.Path
) -> str:
    """Draws the figures of one dataset.

    Args:
        config: the variants; those of Figure 1 are found by method and imputation loss, Figures 3 and 4 show ``badr``.
        workdir: of the runs.
        dataset: the config's.
        command: to print in the section.
        folder: of the images, beside the page.

    Returns:
        The section: the images, and the numbers of Figures 1 and 3.

    Raises:
        ConfigError: the dataset is none of the paper's, there is no ``badr``, or validation does not measure the loss.
        MissingExtraError: matplotlib is not installed.
    """
    require_extra("matplotlib", "plot")
    sizes = (*choose("dataset of these figures", dataset.name, BATCH_SIZES), len(dataset.train))
    judge = make_judge(config, dataset, "validation")
    if judge is None or "log_loss" not in judge.protocol.metrics:
        raise ConfigError(
            "Figure 2 draws the log loss on the validation part, which is as unbiased as the test part; add "
            "'log_loss' to config.protocol.validation_metrics"
        )
    roles = {name: _role(config.variants[name]) for name in config.methods}
    if ("badr", "badr") not in roles.values():
        raise ConfigError(
            "the config has no variant of badr with its own imputation loss, which all figures show"
        )
    _check_settings_of_sizes(config, sizes)
    scored = run_rows(config, workdir)
    if not all("log_loss" in row for one in scored for row in one.history[-1:]):
        raise ConfigError(
            f"Figure 2 draws log_loss, and the runs in {workdir} were trained before it was among "
            "config.protocol.validation_metrics; use another --workdir"
        )
    own = [one for one in scored if roles[one.name] == ("badr", "badr")]
    folder.mkdir(parents=True, exist_ok=True)
    images = {}

    def image(number: str, caption: str) -> pathlib.Path:
        path = folder / f"badr_figure{number}_{dataset.name}.png"
        images[caption] = path
        return path

    for part, wanted in ABLATIONS.items():
        shown = [one for one in scored if roles[one.name] in wanted]
        _plots.compare(image(part, f"Figure {part}: ablation"), shown)
    _plots.curves(
        image("2", "Figure 2: loss on unbiased data"), scored, {"log_loss": "log loss on unbiased data"}
    )
    series = _by_batch_size(config, workdir, [one.name for one in own], sizes, metric="auc")
    _plots.save_settings(
        image("3", "Figure 3: batch size"), series, xlabel="batch size", ylabel="auc", title=dataset.name
    )
    _plots.curves(
        image("4", "Figure 4: training losses"),
        own,
        {
            "loss/prediction": "prediction loss",
            "loss/imputation": "imputation loss",
            "observed_loss": "observed_loss",
        },
    )
    links = [f"![{caption}, {dataset.name}](figures/{path.name})" for caption, path in images.items()]
    return "\n\n".join(
        [
            f"### {dataset.name}: Figures 1-4 of BADR",
            f"`{command}`, seeds {', '.join(map(str, config.seeds))}. The paper prints no numbers for them.",
            *links,
            "Test metrics, mean ± sd over seeds:",
            "\n".join(markdown.ours(scored, digits=4)),
            "AUC by batch size:",
            _size_table(series, sizes),
            *_what_sizes_change(config),
        ]
    )


def draw_batch_sizes(
    config: ConfigDict, workdir: pathlib.Path, dataset: Dataset, command: str, folder: pathlib.Path
) -> str:
    """Draws the headline metric of every variant against the batch size; for the rest see ``draw``."""
    require_extra("matplotlib", "plot")
    sizes = choose("dataset of this figure", dataset.name, RETRIEVAL_SIZES)
    _check_settings_of_sizes(config, sizes)
    metric = config.protocol.headline
    series = _by_batch_size(config, workdir, config.methods, sizes, metric=metric)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"bir_figure7_{dataset.name}.png"
    _plots.save_settings(path, series, xlabel="batch size", ylabel=metric, title=dataset.name)
    caption = "Figure 7 of XIR: batch size"
    return "\n\n".join(
        [
            f"### {dataset.name}: {caption}",
            f"`{command}`, seeds {', '.join(map(str, config.seeds))}. The paper prints no numbers for it, "
            "and tunes at every size; runs stop early here"
            + (
                ", and have the settings below."
                if config.at_batch_size
                else ", and a method keeps one setting."
            ),
            f"![{caption}, {dataset.name}](figures/{path.name})",
            f"Test {metric} by batch size, mean ± sd over seeds:",
            _size_table(series, sizes),
            *_what_sizes_change(config),
        ]
    )


FIGURES = {
    "badr_figures": draw,
    "biif_figures": exposure_figures.draw,
    "bir_figure7": draw_batch_sizes,
    "sce_figures": sequence_figures.draw,
}
"""Figures by the name of their table."""

_Series = dict[str, dict[float, list[float]]]


def _by_batch_size(
    config: ConfigDict, workdir: pathlib.Path, names: Sequence[str], sizes: Sequence[int], *, metric: str
) -> _Series:
    """A metric of these variants in each run, at each batch size with the settings that the config has for it."""
    series: _Series = {name: {} for name in names}
    for size in sizes:
        settings = config.at_batch_size.get(str(size), {})
        at_size = changed(config, {"train": {"batch_size": size, **settings}})
        at_size.methods = tuple(names)
        for one in run_rows(at_size, workdir / f"batch_{size}"):
            series[one.name][size] = one.values()[metric]
    return series


_OF_A_SIZE = ("lr", "weight_decay")
"""What may differ by batch size: what ``config.train`` sets for all variants of a run."""


def _check_settings_of_sizes(config: ConfigDict, sizes: Sequence[int]) -> None:
    """Raises unless ``config.at_batch_size`` has only what is read.

    Raises:
        ConfigError: it has a size that is not drawn, or another key than a learning rate or a weight decay.
    """
    for size, settings in config.at_batch_size.items():
        choose("batch size in config.at_batch_size", size, {str(each): None for each in sizes})
        for name in settings:
            choose(f"key in config.at_batch_size[{size!r}]", name, dict.fromkeys(_OF_A_SIZE))


def _what_sizes_change(config: ConfigDict) -> list[str]:
    """A paragraph and a table of what is set at single batch sizes; none where nothing is."""
    if not config.at_batch_size:
        return []
    body = [
        [size, *(f"{settings[name]:g}" if name in settings else "" for name in _OF_A_SIZE)]
        for size, settings in sorted(config.at_batch_size.items(), key=lambda item: int(item[0]))
    ]
    return [
        "At these batch sizes all methods have these settings; all else is a method's own:",
        "\n".join(markdown.rows(["batch size", *_OF_A_SIZE], body)),
    ]


def _size_table(series: _Series, sizes: Sequence[int]) -> str:
    body = [
        [name, *(markdown.measured(values, 4) for values in points.values())]
        for name, points in series.items()
    ]
    return "\n".join(markdown.rows(["method", *map(str, sizes)], body))


def _role(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Method, and which imputation loss BADR is trained with."""
    return entry["method"], entry["options"].get("imputation", "badr") if entry["method"] == "badr" else ""
