"""Published tables and figures beside our own numbers, as marked sections of a Markdown page.

Every row is a run of its own in ``workdir/<setting>/<variant>``: what is finished is read back, what was cut is
resumed, and a variant that joins the list later is trained alone.
"""

import dataclasses
import pathlib
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from debias_jax import experiment, metrics
from debias_jax._reproduction import markdown, sequence_tables
from debias_jax._reproduction.figures import FIGURES
from debias_jax._reproduction.published import Figures, methods_of, metrics_of, published_values
from debias_jax._reproduction.rows import bounds, changed, run_rows
from debias_jax.errors import ConfigError
from debias_jax.experiment._config import choose
from debias_jax.experiment._fit import make_judge
from debias_jax.experiment._results import Scored

DATASETS = {
    "coat": "Coat",
    "gowalla": "Gowalla",
    "kuairec": "KuaiRec",
    "ml_100k": "MovieLens 100K",
    "ml_100k_simulated": "MovieLens 100K, simulated",
    "yahoo_r3": "Yahoo! R3",
}
"""How the datasets of published rows are written."""

VARIANTS_OF = {
    name: "badr"
    for name in (
        "badr_released",
        "badr_released_block",
        "badr_released_tiles",
        "badr_detached",
        "badr_corrected",
    )
}
"""Variants that stand beside the published row of another name."""


class Setting(NamedTuple):
    """One block of a table.

    Attributes:
        folder: of its runs, below the workdir; "" for the workdir itself.
        title: over the block.
        published: the settings of its published rows.
        config: what it changes in the config, nested.
        share: of the training rows that are left; epochs and patience are divided by it, so that a run of few rows may
            take as many steps as one of all.
    """

    folder: str = ""
    title: str = ""
    published: Mapping[str, float] = {}
    config: Mapping[str, Any] = {}
    share: float = 1.0

    def of(self, config: ConfigDict) -> ConfigDict:
        """A copy of a config with what the block changes."""
        longer = {name: round(config.train[name] / self.share) for name in ("epochs", "patience")}
        return changed(changed(config, self.config), {"train": longer} if self.share < 1 else {})


class Table(NamedTuple):
    """A published table.

    Attributes:
        source: paper and number.
        published: the file of its rows, below ``docs/published``.
        datasets: the dataset's own name -> its name in the rows.
        settings: its blocks.
        baseline: the variant that the others are compared with, "" for none.
        limit: differences over so many published sd are marked.
        digits: decimals.
        bounds: whether floor, ceiling and the protocol ``strict`` are reported, and each metric has three columns.
    """

    source: str
    published: str
    datasets: Mapping[str, str]
    settings: Sequence[Setting] = (Setting(),)
    baseline: str = "mf"
    limit: float = 3.0
    digits: int = 4
    bounds: bool = True


def _rates(*sparsities: float) -> tuple[Setting, ...]:
    rates = (0.8, 0.6, 0.4, 0.2)
    return tuple(
        Setting(
            folder=f"rate_{rate:g}",
            title=f"{rate:.0%} of the training pairs ({sparsity:g} % sparse), epochs and patience divided by that",
            published={"sampling_rate": rate},
            config={"data": {"split": {"name": "subsample", "fraction": rate, "seed": 2024}}},
            share=rate,
        )
        for rate, sparsity in zip(rates, sparsities, strict=True)
    )


TABLES = {
    "biif_table1": Table(
        source="Biif, Table 1",
        published="biif_table1.json",
        datasets={"yahoo_r3": "yahoo_r3"},
        limit=2.0,
        digits=3,
        bounds=False,
    ),
    "biif_table2": Table(
        source="Biif, Table 2",
        published="biif_table2.json",
        datasets={"coat": "coat"},
        limit=2.0,
        digits=3,
        bounds=False,
    ),
    "badr_table3": Table(
        source="BADR, Table 3",
        published="badr_table3.json",
        datasets={name: name for name in ("coat", "kuairec", "yahoo_r3")},
    ),
    "badr_table4": Table(
        source="BADR, Table 4",
        published="badr_table4.json",
        datasets={"yahoo_r3": "yahoo_r3"},
        settings=_rates(98.38, 98.79, 99.19, 99.60),
        baseline="",
    ),
    "badr_table5": Table(
        source="BADR, Table 5",
        published="badr_table5.json",
        datasets={"kuairec": "kuairec"},
        settings=_rates(96.57, 97.43, 98.29, 99.14),
        baseline="",
    ),
    "badr_table6": Table(
        source="BADR, Table 6",
        published="badr_table6.json",
        datasets={"ml_100k_sim": "ml_100k_simulated"},
        settings=tuple(
            Setting(
                folder=f"decay_{decay:g}",
                title=f"propensity decay {decay:g} (density {density:.2f} % as printed)",
                published={"density_percent": density},
                config={"data": {"options": {"decay": decay}}},
            )
            for decay, density in ((0.5, 10.0), (0.58, 15.11))
        ),
        baseline="",
    ),
}
"""Published tables by name."""

OWN = {"retrieval": "ssl_pop"}
"""Tables of our own runs alone, for which nothing was published, and the variant that the others are compared with."""


def known() -> dict[str, Any]:
    """Everything that ``reproduce`` makes, by name."""
    return {**TABLES, **OWN, **FIGURES, **sequence_tables.TABLES}


def command_of(
    table: str,
    config: str,
    overrides: Mapping[str, Any],
    *,
    section: str | None = None,
    tuned: str | None = None,
    records: str | None = None,
    train: bool = True,
) -> str:
    """The command of a section as its readers can run it: no path of the machine that ran it.

    Args:
        table: ``--table``.
        config: ``--config``, with the variants behind the colon.
        overrides: of single keys of the config, in the order in which they were given.
        section: ``--section``, if given.
        tuned: ``--tuned``, if given.
        records: ``--records``, if given.
        train: ``--train``.

    Returns:
        The command with the workdir as ``DIR``, and what else is an absolute path as a word in capitals.

    Examples:
        >>> command_of("biif_table2", "configs/coat.py:mf", {"data.path": "/my/coat"}).partition(" --config.")[2]
        'data.path=DATA --workdir=DIR'
    """

    def shown(path: str, word: str) -> str:
        return word if pathlib.Path(path).expanduser().is_absolute() else path

    file, colon, names = config.partition(":")
    given = [f"--table={table}", f"--config={shown(file, 'CONFIG.py')}{colon}{names}"]
    for key, value in overrides.items():
        value = value.to_dict() if isinstance(value, ConfigDict) else value
        given.append(f"--config.{key}={shown(value, 'DATA') if key == 'data.path' else value}")
    given += [] if section is None else [f"--section={section}"]
    given += [] if tuned is None else [f"--tuned={shown(tuned, 'TUNED.json')}"]
    given += [] if records is None else [f"--records={shown(records, 'RECORDS')}"]
    given += [] if train else ["--notrain"]
    return shlex.join(["python", "launch/reproduce.py", *given, "--workdir=DIR"])


def reproduce(
    table: str,
    config: ConfigDict,
    workdir: str,
    *,
    command: str,
    docs: str = "docs",
    section: str | None = None,
    records: str | None = None,
    train: bool = True,
) -> str:
    """Runs the config (or reads its finished workdir) and writes the table's section of ``docs/results.md``.

    Args:
        table: a name of ``known()``.
        config: the experiment; its dataset chooses the columns of a table of several.
        workdir: its folder.
        command: the command to print in the section.
        docs: folder of ``results.md``, ``published/`` and ``figures/``.
        section: name of the section; default the table's, with the dataset for a table of several.
        records: folder of records of finished runs; tables and figures of next-item models alone.
        train: False shows what is finished; as for ``records``.

    Returns:
        The section.

    Raises:
        ConfigError: the table is unknown or not of this dataset, the runs do not measure what it compares, or it is
            none that is put together from finished runs.
        DataError: the published figures, the page or its section are missing; nothing is trained then.
    """
    choose("table", table, known())
    of_finished_runs = table in sequence_tables.TABLES or table == "sce_figures"
    if (records is not None or not train) and not of_finished_runs:
        raise ConfigError(
            f"--records and --notrain are for tables and figures of next-item models, and {table} is none; leave them "
            "out, it reads back what is finished in its workdir"
        )
    finished = {"records": records and pathlib.Path(records), "train": train} if of_finished_runs else {}
    dataset, _ = experiment.load_dataset(config)
    page = pathlib.Path(docs) / "results.md"
    if table in TABLES:
        spec = TABLES[table]
        name = choose(f"dataset of {table}", dataset.name, spec.datasets)
        section = section or (table if len(spec.datasets) == 1 else f"{table}_{name}")
        markdown.cut_at_section(page, section)
        published = [
            published_values(
                pathlib.Path(docs) / "published" / spec.published, dataset=name, settings=setting.published
            )
            for setting in spec.settings
        ]
        text = _table(table, spec, config, pathlib.Path(workdir), command, DATASETS[name], published)
    else:
        section = section or f"{table}_{dataset.name}"
        markdown.cut_at_section(page, section)
        if table in sequence_tables.TABLES:
            text = sequence_tables.write(
                table,
                config,
                pathlib.Path(workdir),
                dataset,
                command,
                pathlib.Path(docs),
                **finished,
            )
        elif table in FIGURES:
            folder = pathlib.Path(docs) / "figures"
            text = FIGURES[table](config, pathlib.Path(workdir), dataset, command, folder, **finished)
        else:
            text = _own_table(config, pathlib.Path(workdir), dataset.name, command, baseline=OWN[table])
    markdown.replace_section(page, section, text)
    return text


def _table(
    table: str,
    spec: Table,
    config: ConfigDict,
    workdir: pathlib.Path,
    command: str,
    title: str,
    published: Sequence[Figures],
) -> str:
    """The section of a table, block by block."""
    names = metrics_of(published[0])
    protocol = choose("protocol", config.protocol.test, metrics.PROTOCOLS)
    missing = [name for name in names if name not in (config.protocol.metrics or protocol.metrics)]
    if missing:
        raise ConfigError(
            f"{table} compares {', '.join(missing)}, which the runs do not measure; "
            f"set config.protocol.metrics to {tuple(names)}"
        )
    lines = [
        f"### {title}, protocol `{protocol.name}` ({spec.source})",
        "",
        _legend(spec, config, command),
        "",
    ]
    scored: list[Scored] = []
    for setting, figures in zip(spec.settings, published, strict=True):
        own = setting.of(config)
        scored = run_rows(own, workdir / setting.folder)
        lines += [f"#### {setting.title}", ""] if setting.title else []
        lines += _block(spec, own, workdir / setting.folder, scored, figures)
    lines += [_one_row(command, len(spec.settings)), ""]
    lines += markdown.hyperparameters({one.name: one.hparams for one in scored})
    return "\n".join(lines)


def _own_table(
    config: ConfigDict, workdir: pathlib.Path, dataset: str, command: str, *, baseline: str
) -> str:
    """The section of a table of our own runs."""
    scored = run_rows(config, workdir)
    compared = markdown.comparison(scored, baseline=baseline, metric=config.protocol.headline, digits=4)
    return "\n".join(
        [
            f"### {DATASETS.get(dataset, dataset)}, protocol `{config.protocol.test}`",
            "",
            f"`{command}`, seeds {', '.join(map(str, config.seeds))}. Test metrics, mean ± sd over seeds; nothing was "
            "published for this split.",
            "",
            *markdown.ours(scored, digits=4),
            "",
            *compared,
            *([""] if compared else []),
            _one_row(command, n_settings=1),
            "",
            *markdown.hyperparameters({one.name: one.hparams for one in scored}),
        ]
    )


def _one_row(command: str, n_settings: int) -> str:
    """How to get one row alone, with its settings below."""
    one = re.sub(r"(--config=\S+?\.py:)\S+", r"\1METHOD", command)
    if n_settings > 1:
        return f"One row alone: `{one}`, which writes this section anew and leaves the other rows in DIR. Its settings:"
    one = re.sub(r" --(table|section)=\S+", "", one).replace("launch/reproduce.py", "launch/train.py")
    return f"One row alone: `{one.replace('--workdir=DIR', '--workdir=DIR/METHOD')}`. Its settings:"


def _legend(spec: Table, config: ConfigDict, command: str) -> str:
    text = f"`{command}`, seeds {', '.join(map(str, config.seeds))}. "
    if not spec.bounds:
        return text + "First line of a method: ours, mean ± sd over seeds; second line: published."
    return (
        text + "Mean ± sd over seeds; differences are in published sd, marked over "
        f"{spec.limit:g}. `random` and `oracle` are random scores and the test labels, scored by the same evaluator."
    )


def _block(
    spec: Table, config: ConfigDict, workdir: pathlib.Path, scored: list[Scored], published: Figures
) -> list[str]:
    """One block: the table, the protocol ``strict``, the comparison with the baseline."""
    headline = config.protocol.headline
    beside = dict(published)
    for variant, method in VARIANTS_OF.items():
        beside |= {(variant, name): published[own, name] for own, name in published if own == method}
    style = {"limit": spec.limit, "digits": spec.digits}
    if spec.bounds:
        dataset, _ = experiment.load_dataset(config)
        floor, ceiling = bounds(dataset, make_judge(config, dataset, "test"), config.seeds)
        lines = markdown.side_by_side([floor, *scored, ceiling], beside, **style)
        strict = dataclasses.replace(
            metrics.PROTOCOLS["strict"].with_metrics(*metrics_of(published)), short_lists="cut"
        )
        again = [
            one
            for name in config.methods
            for one in experiment.evaluate_scored(workdir / name, protocol=strict)
        ]
        floor, ceiling = bounds(dataset, make_judge(config, dataset, "test", strict), config.seeds)
        lines += [
            "",
            "The same trained states under protocol `strict` (users with a positive only; recall divides by min(k, "
            "positives)):",
            "",
            *markdown.ours([floor, *again, ceiling], digits=spec.digits),
        ]
    else:
        lines = markdown.two_lines(scored, beside, headline=headline, **style)
    run = {VARIANTS_OF.get(name, name) for name in config.methods}
    absent = [name for name in methods_of(published) if name not in run]
    if spec.bounds and absent:
        lines += ["", f"Published, not run here: {', '.join(absent)}."]
    compared = markdown.comparison(scored, baseline=spec.baseline, metric=headline, digits=spec.digits)
    return [*lines, "", *compared, *([""] if compared else [])]
