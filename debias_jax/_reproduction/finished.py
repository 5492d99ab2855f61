"""Finished runs below a folder: a setting's seeds are taken together, in however many runs they were trained.

A long run of one seed is best a process of its own, in a folder of its own name. What makes runs parts of one cell is
that their resolved settings differ in the seeds alone. A record is what a table reads of a run, in one small file: it
outlives the run's folder, and a table of many hours need not be trained in one place.
"""

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from debias_jax.errors import ConfigError
from debias_jax.experiment import _results
from debias_jax.training import writers

_NOT_OF_THE_SETTING = ("lr", "weight_decay", "save_seconds", "strategy")
"""Keys of ``config.train`` that stand among the hyperparameters, or do not change what is trained."""


class Run(NamedTuple):
    """A finished run of one variant.

    Attributes:
        folder: where it lies; of a record its file.
        dataset: the dataset's name.
        variant: its name.
        seeds: each trained for itself.
        settings: what was trained and how it was scored, all resolved; runs that agree on it are parts of one cell.
        monitor: the metric that chose the epoch.
        values: of every test metric, in the order of ``seeds``.
        curves: (epoch, monitored metric) of each seed, while it was trained.
        epochs: trained, of each seed.
        environment: backend, devices and precision of products, as far as the run's folder says.
    """

    folder: pathlib.Path
    dataset: str
    variant: str
    seeds: tuple[int, ...]
    settings: dict[str, Any]
    monitor: str
    values: dict[str, list[float]]
    curves: list[list[tuple[int, float]]]
    epochs: list[int]
    environment: dict[str, Any]


class Cell(NamedTuple):
    """All runs of one setting.

    Attributes:
        settings: as of ``Run``.
        monitor: as of ``Run``.
        seeds: of all runs, ascending.
        values: of every test metric that all runs have, in the order of ``seeds``.
        curves: as of ``Run``, in the order of ``seeds``.
        epochs: as of ``Run``, in the order of ``seeds``.
    """

    settings: dict[str, Any]
    monitor: str
    seeds: list[int]
    values: dict[str, list[float]]
    curves: list[list[tuple[int, float]]]
    epochs: list[int]

    def best_epochs(self) -> list[int]:
        """The epoch that validation chose, of each seed; the first one among equals."""
        return [max(curve, key=lambda point: point[1], default=(0, 0.0))[0] for curve in self.curves]

    def seeds_text(self) -> str:
        """``0, 1, 2``."""
        return ", ".join(map(str, self.seeds))

    def epochs_text(self) -> str:
        """Epochs trained and the best one of each seed: ``200 (120), 175 (125)``."""
        both = zip(self.epochs, self.best_epochs(), strict=True)
        return ", ".join(f"{trained} ({best})" for trained, best in both)


def runs_below(folder: pathlib.Path, dataset: str) -> Iterator[Run]:
    """The finished runs of a dataset in a folder and all below it, by path.

    Raises:
        ConfigError: a file of a run cannot be read.
    """
    for path in sorted(folder.rglob("results.json")):
        results = _results.read_json(path)
        # A folder of several variants has a file of its own beside theirs.
        if results.get("dataset") == dataset:
            yield _read(path.parent, results)


def gather(workdir: pathlib.Path, dataset: str, records: pathlib.Path | None) -> list[Run]:
    """The finished runs of a dataset below a workdir; with a folder of records those are added to it, and all of its
    runs returned.

    Each seed of a run of ``workdir/a/b`` is recorded in ``records/a/<variant>_<seed>.json``, in place of what is there
    of the same settings.

    Raises:
        ConfigError: a file of a run cannot be read, a file of the records is none, or the record of a seed is of other
            settings; nothing is recorded then.
    """
    found = list(runs_below(workdir, dataset))
    if records is None:
        return found
    files: dict[pathlib.Path, Run] = {}
    for run in found:
        folder = records / run.folder.relative_to(workdir).parent
        for place, seed in enumerate(run.seeds):
            path = folder / f"{run.variant}_{seed}.json"
            if path in files:
                raise ConfigError(
                    f"{files[path].folder} and {run.folder} both hold seed {seed} of {run.variant}; move one away"
                )
            _check_replaced(path, run)
            files[path] = _of_seed(run, place)
    for path, run in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        writers.write_json(path, {name: value for name, value in run._asdict().items() if name != "folder"})
    recorded = (_read_record(path) for path in sorted(records.rglob("*.json")))
    return [run for run in recorded if run.dataset == dataset]


def _of_seed(run: Run, place: int) -> Run:
    """One seed of a run."""
    return run._replace(
        seeds=run.seeds[place : place + 1],
        values={metric: values[place : place + 1] for metric, values in run.values.items()},
        curves=run.curves[place : place + 1],
        epochs=run.epochs[place : place + 1],
    )


def _check_replaced(path: pathlib.Path, run: Run) -> None:
    """Refuses to replace a record of other settings."""
    if path.exists():
        difference = first_difference(_read_record(path).settings, run.settings)
        if difference is not None:
            name, here, there = difference
            raise ConfigError(
                f"{path} records a run that differs from {run.folder} in {name} ({here} and {there}); remove it if the "
                "new settings are meant, or keep other records for them"
            )


def _read_record(path: pathlib.Path) -> Run:
    fields = _results.read_json(path)
    if not isinstance(fields, dict) or {*fields, "folder"} != {*Run._fields}:
        raise ConfigError(f"{path} is no record of a run as launch/reproduce.py writes them; move it away")
    curves = [[(epoch, value) for epoch, value in curve] for curve in fields["curves"]]
    return Run(**fields | {"folder": path, "seeds": tuple(fields["seeds"]), "curves": curves})


def shown_folder(records: pathlib.Path | None) -> str:
    """What a page says about where the runs that it shows are kept."""
    return "DIR" if records is None else "DIR and all that are recorded"


def cells_by_variant(runs: Iterable[Run]) -> dict[str, Cell]:
    """Runs by variant, the seeds of each together.

    Raises:
        ConfigError: two runs of a variant hold the same seed, or differ in more than their seeds.
    """
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run)
    return {variant: together(runs) for variant, runs in found.items()}


def together(runs: Sequence[Run]) -> Cell:
    """One cell of the runs of one setting.

    Raises:
        ConfigError: two runs hold the same seed, or differ in more than their seeds; both folders are named.
    """
    first = runs[0]
    owner: dict[int, tuple[Run, int]] = {}
    for run in runs:
        difference = first_difference(first.settings, run.settings)
        if difference is not None:
            name, here, there = difference
            raise ConfigError(
                f"{first.folder} and {run.folder} are runs of {run.variant} that differ in {name} ({here} and "
                f"{there}), so that their seeds are no one row; keep them below different folders"
            )
        for place, seed in enumerate(run.seeds):
            if seed in owner:
                raise ConfigError(
                    f"{owner[seed][0].folder} and {run.folder} both hold seed {seed} of {run.variant}; move one away"
                )
            owner[seed] = run, place
    seeds = sorted(owner)
    places = [owner[seed] for seed in seeds]
    return Cell(
        first.settings,
        first.monitor,
        seeds,
        values={metric: [run.values[metric][place] for run, place in places] for metric in first.values},
        curves=[run.curves[place] for run, place in places],
        epochs=[run.epochs[place] for run, place in places],
    )


def first_difference(one: Any, other: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """The dotted name of the first key in which two nested dicts differ, and both its values; None if equal."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return None if one == other else (name, one, other)
    for key in sorted({*one, *other}):
        found = first_difference(one.get(key), other.get(key), f"{name}.{key}" if name else key)
        if found is not None:
            return found
    return None


def _read(folder: pathlib.Path, results: Mapping[str, Any]) -> Run:
    config = _results.read_json(folder / "config.json")
    if config is None:
        raise ConfigError(f"{folder} holds results.json and no config.json; move it away")
    monitor, seeds = config["protocol"]["monitor"], tuple(results["seeds"])
    curves: list[list[tuple[int, float]]] = [[] for _ in seeds]
    epochs = [0] * len(seeds)
    for row in writers.read_jsonl(folder / "metrics.jsonl"):
        number = row["run"]
        # A run that rests while the others train on has no loss.
        if row.get("loss") is not None:
            epochs[number] = max(epochs[number], row["step"])
        if row.get(monitor) is not None:
            curves[number].append((row["step"], row[monitor]))
    settings = {name: results[name] for name in ("method", "options", "model", "hparams", "protocol")}
    settings["data"] = {name: config["data"][name] for name in ("name", "options", "split")}
    settings["train"] = {
        name: value for name, value in config["train"].items() if name not in _NOT_OF_THE_SETTING
    }
    settings["validation"] = {name: config["protocol"][name] for name in ("validation", "monitor")}
    values = {metric: entry["values"] for metric, entry in results["metrics"].items()}
    machine = _results.read_json(folder / "environment.json") or {}
    environment = {name: machine[name] for name in ("backend", "devices", "jax_config") if name in machine}
    return Run(
        folder,
        results["dataset"],
        results["variant"],
        seeds,
        settings,
        monitor,
        values,
        curves,
        epochs,
        environment,
    )
