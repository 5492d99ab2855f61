"""Xu et al.'s tables of next-item models and losses, beside our own runs.

A table has hundreds of long runs, so that it is written from whatever cells are finished below the workdir: a call runs
the variants that its config names, and shows them with all that were run before.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from debias_jax._reproduction import markdown
from debias_jax._reproduction.finished import Cell, cells_by_variant, gather, shown_folder
from debias_jax._reproduction.rows import changed, run_rows
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DataError, require_extra
from debias_jax.experiment import _plots
from debias_jax.experiment._config import choose
from debias_jax.experiment._sequence_variants import SCE_TABLE, SEQUENCE_LOSSES, TO_CONVERGENCE

LLM = ("pod", "p5_cid_iid", "llamarec", "e4srec")
"""Published rows that are no runs of this library's."""

LENGTHS = {"beauty": (10, 20, 50, 100), "ml_1m": (20, 50, 100, 200)}
"""Longest histories of Table 8, by dataset."""

NCE_SHIFTS = (1.0, 5.0, 10.0, 50.0, 100.0)
"""c of Table 2."""


class Block(NamedTuple):
    """A part of a table.

    Attributes:
        folder: of its runs, below the workdir.
        title: over the part, "" for none.
        settings: what its published cells have in their settings.
        change: of the config.
    """

    folder: str
    title: str
    settings: Mapping[str, Any]
    change: Callable[[ConfigDict], ConfigDict]


class SequenceTable(NamedTuple):
    """A table.

    Attributes:
        source: its number.
        published: the file of its rows, below ``docs/published``.
        metrics: what is compared.
        variants: the rows that were published, in their order.
        blocks: of a dataset's name.
        note: on what is compared, "" for none.
        with_logs: whether the figures of the released logs stand beside the printed ones.
        with_curves: whether validation over epochs is drawn too, a panel for each model.
    """

    source: str
    published: str
    metrics: Sequence[str]
    variants: Sequence[str]
    blocks: Callable[[str], Sequence[Block]] = lambda dataset: (Block("", "", {}, lambda config: config),)
    note: str = ""
    with_logs: bool = False
    with_curves: bool = False


def _of_lengths(dataset: str) -> tuple[Block, ...]:
    def shorter(length: int) -> Callable[[ConfigDict], ConfigDict]:
        def change(config: ConfigDict) -> ConfigDict:
            own = changed(config, {})
            with own.unlocked():
                for model in (own.model, *(own.variants[name].model for name in own.methods)):
                    if "options" in model and model.options:
                        model.options.max_len = length
            return own

        return change

    return tuple(
        Block(f"length_{length}", f"histories of {length} items", {"max_len": length}, shorter(length))
        for length in choose("dataset of Table 8", dataset, LENGTHS)
    )


def _of_shifts(dataset: str) -> tuple[Block, ...]:
    del dataset

    def shifted(c: float) -> Callable[[ConfigDict], ConfigDict]:
        def change(config: ConfigDict) -> ConfigDict:
            own = changed(config, {"train": TO_CONVERGENCE})
            with own.unlocked():
                for name in own.methods:
                    own.variants[name].hparams.c = c
                    own.variants[name].options.n_negatives = 500
            return own

        return change

    return tuple(Block(f"c_{c:g}", f"c = {c:g}", {"c": c}, shifted(c)) for c in NCE_SHIFTS)


_LENGTH_ROWS = tuple(
    f"{model}_{loss}" for loss in ("ce", "nce", "sce") for model in ("sasrec", "sasrec_plus")
)

TABLES = {
    "sce_table2": SequenceTable(
        "Table 2",
        "sce_table2.json",
        ("ndcg@10",),
        ("sasrec_nce",),
        _of_shifts,
        "Published here is the highest NDCG@10 of 500 epochs; ours is that of the test part at the epoch that "
        "validation chose.",
    ),
    "sce_table5": SequenceTable(
        "Table 5",
        "sce_table5.json",
        ("hr@5", "hr@10", "ndcg@5", "ndcg@10"),
        SCE_TABLE,
        with_logs=True,
        with_curves=True,
    ),
    "sce_table7": SequenceTable("Table 7", "sce_table7.json", ("mrr@5", "mrr@10"), SCE_TABLE, with_logs=True),
    "sce_table8": SequenceTable(
        "Table 8", "sce_table8.json", ("hr@5", "hr@10", "ndcg@5", "ndcg@10"), _LENGTH_ROWS, _of_lengths
    ),
}
"""Tables by name."""

_DATASETS = {"beauty": "beauty", "ml_1m": "ml_1m", "yelp": "yelp"}

Cells = dict[tuple[str, str], dict[str, Any]]
"""Published rows by (variant or LLM, metric)."""


def write(
    name: str,
    config: ConfigDict,
    workdir: pathlib.Path,
    dataset: Dataset,
    command: str,
    docs: pathlib.Path,
    *,
    records: pathlib.Path | None = None,
    train: bool = True,
) -> str:
    """The section of a table: what the config names is run, what was run before is read back.

    Args:
        name: of ``TABLES``.
        config: some variants of a dataset.
        workdir: of all the table's runs.
        dataset: the config's.
        command: to print.
        docs: folder of ``published/``, which is read, and of ``figures/``, for the images.
        records: of finished runs, which are shown too; those of the workdir are added.
        train: whether the config's variants are run, where False shows what there is.

    Returns:
        The section.

    Raises:
        ConfigError: the table was not published for the dataset, or the runs do not measure what it compares.
        DataError: the published figures are missing; nothing is trained then.
        MissingExtraError: the table draws curves, and matplotlib is not installed; nothing is trained then.
    """
    table = TABLES[name]
    short = choose(f"dataset of {name}", dataset.name, _DATASETS)
    measured = config.protocol.metrics
    if measured and not set(table.metrics) <= set(measured):
        raise ConfigError(
            f"{name} compares {', '.join(table.metrics)}; set config.protocol.metrics to {table.metrics}"
        )
    if table.with_curves:
        require_extra("matplotlib", "plot")
    blocks = [
        (block, published_cells(docs / "published" / table.published, short, block.settings))
        for block in table.blocks(short)
    ]
    logs = published_cells(docs / "published" / "sce_logs.json", short, {}) if table.with_logs else {}
    sds = ", and their sd of NDCG@10" if "ndcg@10" in table.metrics else ""
    about_logs = f"Logs: mean over five seeds of the logs released with the paper{sds}. " if logs else ""
    lines = [
        f"### {dataset.name}, protocol `{config.protocol.test}` (Xu et al. 2024, {table.source})",
        "",
        f"`{command}`; the section shows every run below {shown_folder(records)}. Published: as printed. "
        f"{about_logs}Ours: mean ± sd over seeds. Epochs: trained, and the best on validation, of each seed.",
        "",
        *([table.note, ""] if table.note else []),
    ]
    missing: dict[str, None] = {}
    for block, published in blocks:
        folder = workdir / block.folder
        if train:
            run_rows(block.change(config), folder)
        own = cells_by_variant(gather(folder, dataset.name, records and records / block.folder))
        lines += [f"#### {block.title}", ""] if block.title else []
        lines += [*_rows(table, own, published, logs), ""]
        if table.with_curves and own:
            lines += [_draw_curves(own, docs / "figures" / f"{name}_{dataset.name}.png", dataset.name), ""]
        missing |= dict.fromkeys(row for row in table.variants if row not in own)
    if missing:
        path = f"configs/{short}.py"
        lines += [
            f"Not run yet: {', '.join(missing)}; each by `python launch/reproduce.py --table={name} "
            f"--config={path}:VARIANT --workdir=DIR`.",
            "",
        ]
    llm = [row for row in LLM if any(key[0] == row for _, published in blocks for key in published)]
    if llm:
        lines += [f"{', '.join(llm)}: language models, as published; they are not run here.", ""]
    return "\n".join(lines).rstrip()


def published_cells(path: pathlib.Path, dataset: str, settings: Mapping[str, Any]) -> Cells:
    """The rows of a file by variant and metric.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"the published figures are not at {path}; run from the root of the repository")
    found: Cells = {}
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        if row["dataset"] == dataset and all(
            row["settings"].get(key) == value for key, value in settings.items()
        ):
            variant = row["model"] if row["loss"] is None else f"{row['model']}_{row['loss']}"
            found[variant, f"{row['metric']}@{row['k']}"] = row
    return found


def _rows(table: SequenceTable, own: Mapping[str, Cell], published: Cells, logs: Cells) -> list[str]:
    """The lines of one block."""
    printed = [variant for variant in LLM if (variant, table.metrics[0]) in published]
    known = [variant for variant in table.variants if variant in own]
    extra = sorted(set(own) - set(table.variants), key=_order)
    converged = {
        variant: str(row["settings"]["convergence_epoch"])
        for (variant, _), row in published.items()
        if "convergence_epoch" in row["settings"]
    }
    body = []
    for variant in (*printed, *known, *extra):
        cells = [variant]
        for metric in table.metrics:
            theirs, logged = published.get((variant, metric)), logs.get((variant, metric))
            cells.append("-" if theirs is None else f"{theirs['value']:.4f}")
            if logs:
                sd = "" if logged is None or logged["sd"] is None else f" ± {logged['sd']:.4f}"
                cells.append("-" if logged is None else f"{logged['value']:.4f}{sd}")
            values = None if variant in LLM else own[variant].values.get(metric)
            if values is None:
                cells.append("not run" if variant in LLM else "-")
            else:
                cells.append(markdown.measured(values, 4))
        if converged:
            cells.append(converged.get(variant, "-"))
        cell = own.get(variant)
        body.append([*cells, *(("-", "-") if cell is None else (cell.seeds_text(), cell.epochs_text()))])
    columns = ("published", "logs", "ours") if logs else ("published", "ours")
    head = ["variant", *(f"{metric}, {column}" for metric in table.metrics for column in columns)]
    head += ["epochs to convergence, published"] if converged else []
    head += ["seeds", "epochs (best)"]
    return markdown.rows(head, body)


def _draw_curves(own: Mapping[str, Cell], path: pathlib.Path, dataset: str) -> str:
    """Draws validation over epochs, a panel for each model and a line for each loss; returns the line of the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    panels: dict[str, dict[str, list[list[tuple[int, float]]]]] = {}
    for variant in sorted(own, key=_order):
        model = own[variant].settings["model"]["name"]
        panels.setdefault(model, {})[variant.removeprefix(f"{model}_")] = own[variant].curves
    monitor = next(iter(own.values())).monitor
    _plots.save_curves(path, panels, ylabel=f"validation {monitor}", title=dataset)
    return f"![Validation {monitor} over epochs, mean and sd over seeds, {dataset}](figures/{path.name})"


def _order(variant: str) -> tuple[int, str]:
    """Losses in the order of the tables, others behind them."""
    loss = variant.rsplit("_", 1)[-1]
    return (SEQUENCE_LOSSES.index(loss) if loss in SEQUENCE_LOSSES else len(SEQUENCE_LOSSES), variant)
