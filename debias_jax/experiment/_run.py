"""What a launch script does with a config: train and test, sweep, search, score again."""

import functools
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from debias_jax import data, metrics, sampling, serving, training
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, nearest
from debias_jax.experiment import _config, _plots, _results, _tune
from debias_jax.experiment._build import FEATURES, build_for, check_read, model_settings, variant_hparams
from debias_jax.experiment._config import only
from debias_jax.experiment._datasets import load_dataset
from debias_jax.experiment._fit import Judge, check_devices, fit, history_of, load, make_judge, mesh_of
from debias_jax.experiment._score import score
from debias_jax.experiment._serve import workdir_configs
from debias_jax.training import writers


class Outcome(NamedTuple):
    """What a call leaves: ``results`` as written to ``results.json``, and ``text`` for the terminal."""

    results: list[dict[str, Any]]
    text: str


def _prepare(config: ConfigDict, workdir: str | os.PathLike) -> tuple[pathlib.Path, Dataset, data.Report]:
    """Checks what can be checked before training; writes nothing but the folder."""
    if not config.methods:
        raise ConfigError(
            "the config has no method; name one after the colon: --config=configs/<dataset>.py:mf"
        )
    if not config.seeds:
        raise ConfigError("config.seeds is empty; give at least one, e.g. --config.seeds='(0,)'")
    for seed in config.seeds:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise ConfigError(f"config.seeds holds {seed!r}; give integers, e.g. --config.seeds='(0,1,2)'")
    if len(set(config.seeds)) != len(config.seeds):
        raise ConfigError(f"config.seeds {tuple(config.seeds)} holds a seed twice")
    for name, least in (("epochs", 1), ("batch_size", 1), ("eval_every", 1), ("patience", 0)):
        for each in config.methods:
            if (value := only(config, each).train[name]) < least:
                raise ConfigError(f"train.{name} is {value}; it must be at least {least}")
    mesh_of(config)
    folder = pathlib.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the workdir {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write into the workdir {folder}")
    written = _results.read_json(folder / "config.json")
    if written is not None:
        old, new = _config.from_dict(written).methods, tuple(config.methods)
        if old != new:
            raise ConfigError(
                f"{folder} holds a run of {', '.join(old)}, not of {', '.join(new)}; give each run its own --workdir"
            )
    dataset, report = load_dataset(config)
    return folder, dataset, report


def _records(config: ConfigDict, name: str, workdir: pathlib.Path, own: pathlib.Path):
    """``on_accept`` of a fit: writes config and environment once the run is known to be this one."""

    def write(resumed: bool) -> None:
        resolved = _config.to_dict(config)
        alone = _config.to_dict(_config.only(config, name))
        for folder, content in ((workdir, resolved), (own, alone)) if own != workdir else ((own, alone),):
            writers.write_json(folder / "config.json", content)
            # The environment is that in which the run began.
            if not (resumed and (folder / "environment.json").exists()):
                writers.write_json(folder / "environment.json", writers.environment())

    return write


def run(config: ConfigDict, workdir: str | os.PathLike, *, quiet: bool = False) -> Outcome:
    """Trains every variant of a config over its seeds, reads the test part once, and writes the workdir.

    A workdir of one variant holds ``config.json``, ``environment.json``, ``metrics.jsonl``, ``checkpoints/``,
    ``bundle/``, ``per_user.npz``, ``results.json``, ``plots/``; one of several has such a folder for each, and their
    comparison on top. The same call resumes what was interrupted, to the bit.

    Args:
        config: see ``configs/``.
        workdir: folder of the run.
        quiet: whether to print nothing on the way.

    Returns:
        The results and the printed table.

    Raises:
        ConfigError: the config does not fit together, or the workdir holds another run.
        DataError: the data is missing or wrong.
        DivergedError: a loss or a score is not finite.
    """
    # Of the variants of a table, which ``run_scored`` runs one by one, each may read what the others do not.
    scored, comparison = _run(config, workdir, quiet=quiet, check=check_read)
    text = _results.table(scored, comparison, headline=config.protocol.headline)
    (pathlib.Path(workdir) / "table.txt").write_text(text + "\n", encoding="utf-8")
    return Outcome([one.to_json() for one in scored], text)


def run_scored(
    config: ConfigDict, workdir: str | os.PathLike, *, quiet: bool = False
) -> list[_results.Scored]:
    """``run``, with the scores themselves (per user, per seed) as the result."""
    return _run(config, workdir, quiet=quiet)[0]


def _run(
    config, workdir, *, quiet: bool, check: Callable[[ConfigDict], None] = lambda config: None
) -> tuple[list[_results.Scored], list[dict[str, Any]]]:
    folder, dataset, report = _prepare(config, workdir)
    check(config)
    check_devices(config, dataset)
    if not quiet:
        print(report, flush=True)
    judges = functools.cache(lambda history: make_judge(config, dataset, "test", history=history))
    judge = judges(history_of(build_for(config, config.variants[config.methods[0]], dataset)))
    if judge is not None and config.protocol.headline not in judge.protocol.metrics:
        raise ConfigError(
            f"unknown protocol.headline {config.protocol.headline!r}; "
            f"{nearest(config.protocol.headline, judge.protocol.metrics)}"
        )
    scored: list[_results.Scored] = []
    for name in config.methods:
        own = folder if len(config.methods) == 1 else folder / name
        on_accept = _records(config, name, folder, own)
        scored.append(_run_variant(only(config, name), name, dataset, own, judges, on_accept))
        if len(config.methods) > 1:
            writers.write_json(own / "results.json", scored[-1].to_json())
        if not quiet and len(config.methods) > 1:
            print(f"{name}: done in {scored[-1].seconds['fit']:.1f} s", flush=True)
    comparison = _results.compare(scored, baseline=config.baseline, metric=config.protocol.headline)
    results = [one.to_json() for one in scored]
    content = results[0] if len(scored) == 1 else {"results": results, "comparison": comparison}
    writers.write_json(folder / "results.json", content)
    _plots.save_all(folder / "plots", scored, comparison, dataset, monitor=config.protocol.monitor)
    return scored, comparison


def _run_variant(
    config: ConfigDict,
    name: str,
    dataset: Dataset,
    folder: pathlib.Path,
    judges: Callable[[int], Judge | None],
    on_accept,
) -> _results.Scored:
    """One variant; ``judges`` gives the judge of the test part by the events that a method reads."""
    entry = config.variants[name]
    runs = _runs(config, entry, dataset)
    method, fitted = fit(config, entry, dataset, folder, label=name, runs=runs, on_accept=on_accept)
    started = time.perf_counter()
    judge = judges(history_of(method))
    scored = score(config, name, entry, method, fitted.state, dataset, judge, mesh_of(config))
    seconds = {"fit": fitted.seconds, "evaluate": time.perf_counter() - started}
    scored = scored._replace(seconds=seconds, history=fitted.history)
    np.savez(folder / "per_user.npz", **_results.per_user_arrays(scored))
    _save_bundle(config, entry, fitted, dataset, folder / "bundle")
    return scored


def _runs(config: ConfigDict, entry: Mapping[str, Any], dataset: Dataset) -> list[dict[str, Any]]:
    """The runs of a variant: each seed with the variant's hyperparameters."""
    method = build_for(config, entry, dataset)
    hparams = variant_hparams(config, entry, method)
    return [{"seed": int(seed), **hparams} for seed in config.seeds]


def _save_bundle(config, entry, fitted: training.FitResult, dataset: Dataset, folder: pathlib.Path) -> None:
    """Saves the run that validation likes best (the first where there is no validation)."""
    values = fitted.best_value
    if config.train.restore == "last" and config.protocol.monitor in fitted.history[-1]:
        values = np.asarray(fitted.history[-1][config.protocol.monitor], np.float64)
    best = int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))
    # What a user has seen is the whole log, also the rows that a split of ours held out of training, or left between.
    clicks = dataset.log("validation", "test").positives
    if dataset.context is not None:
        clicks = data.concatenate(clicks, dataset.context.positives)
    features = FEATURES if model_settings(config, entry)["features"] else ()
    if build_for(config, entry, dataset).frame is None:
        pairs = sampling.pair_set(clicks.users, clicks.items, n_users=dataset.n_users)
        seen = (np.asarray(pairs.indptr), np.asarray(pairs.items))
    else:
        # In the order of time, repeats and all: what the next item is predicted from.
        seen = tuple(data.sequences.histories(clicks))
    serving.save_bundle(
        folder,
        params=jax.device_get(jax.tree.map(lambda x: x[best], fitted.state.params["prediction"])),
        users=dataset.users,
        items=dataset.items,
        config={"experiment": _config.to_dict(config), "entry": _config.to_dict(entry)},
        seen=seen,
        popularity=np.bincount(clicks.items, minlength=dataset.n_items).astype(np.float32),
        meta={"dataset": dataset.name, "seed": int(config.seeds[best])},
        **{name: getattr(dataset, name) for name in features},
    )


def parse_grid(settings: Sequence[str]) -> dict[str, list[float]]:
    """``["lr=1e-3,1e-2"]`` to ``{"lr": [0.001, 0.01]}``.

    Raises:
        ConfigError: an entry is not ``name=number,number``.
    """
    grid: dict[str, list[float]] = {}
    for setting in settings:
        name, equals, values = setting.partition("=")
        try:
            grid[name] = [float(value) for value in values.split(",")]
        except ValueError:
            equals = ""
        if not (name and equals):
            raise ConfigError(f"cannot read the grid {setting!r}; write name=value,value,... with numbers")
    return grid


def sweep(config: ConfigDict, workdir: str | os.PathLike, grid: Mapping[str, Sequence[float]]) -> Outcome:
    """Trains a grid of numeric hyperparameters x seeds in one program a variant, and ranks it on validation.

    The test part is not read. A run whose loss is not finite rests and counts as worse than any other.

    Args:
        config: the experiment.
        workdir: folder of the sweep.
        grid: values of hyperparameters; every combination is trained.

    Returns:
        For each variant its rows, best first, as written to ``sweep.json``; and their text.

    Raises:
        ConfigError: a hyperparameter is unknown, or there is no validation part.
    """
    folder, dataset, _ = _prepare(config, workdir)
    if dataset.validation is None:
        raise ConfigError("a sweep chooses on the validation part, and this dataset has none; set data.split")
    check_devices(config, dataset)
    results, text = [], []
    for name in config.methods:
        entry = config.variants[name]
        method = build_for(config, entry, dataset)
        base = variant_hparams(config, entry, method)
        for key in grid:
            if key not in base:
                raise ConfigError(f"unknown hyperparameter {key!r} of {name}; {nearest(key, base)}")
        points: list[dict[str, float]] = [{}]
        for key, values in grid.items():
            points = [{**point, key: value} for point in points for value in values]
        runs = [{"seed": int(seed), **base, **point} for point in points for seed in config.seeds]
        own = folder if len(config.methods) == 1 else folder / name
        on_accept = _records(config, name, folder, own)
        _, fitted = fit(
            only(config, name),
            entry,
            dataset,
            own,
            label=name,
            runs=runs,
            on_accept=on_accept,
            on_nonfinite="drop",
        )
        rows = _results.sweep_rows(
            fitted,
            points,
            n_seeds=len(config.seeds),
            monitor=config.protocol.monitor,
            restore=config.train.restore,
        )
        results.append({"variant": name, "monitor": config.protocol.monitor, "rows": rows})
        text.append(_results.sweep_table(name, config.protocol.monitor, rows, fitted.seconds, len(runs)))
    writers.write_json(folder / "sweep.json", results)
    return Outcome(results, "\n\n".join(text))


def tune(config: ConfigDict, workdir: str | os.PathLike, *, quiet: bool = False) -> Outcome:
    """Searches the hyperparameters of every variant with Optuna, equally many trials for each; see ``config.tune``.

    The test part is not read. A trial is the mean over ``config.seeds``; one that diverges is recorded as such. The
    same call resumes, or does nothing more; with more ``config.tune.trials`` it goes on. Trials of a batch are proposed
    together, so the longer search is the one that would have had them from the start only where the old number is a
    multiple of ``config.tune.batch``; behind a last batch that was not full, other trials follow. Variants may be
    searched one after the other into the same workdir: ``tuned.json`` holds all of them.

    Args:
        config: the experiment.
        workdir: folder of the search.
        quiet: whether to print nothing on the way.

    Returns:
        For each variant its best setting, as written to ``tuned.json``; and the text of all.

    Raises:
        MissingExtraError: Optuna is not installed.
        ConfigError: the space does not fit, there is no validation part, or the workdir holds something else.
        CheckpointError: the workdir holds a search of other data or settings, or a damaged one.
    """
    folder, dataset, _ = _prepare(config, workdir)
    if (folder / "config.json").exists():
        raise ConfigError(f"{folder} holds a run; give the search its own --workdir")
    results = _tune.tune(config, folder, dataset, say=(lambda text: None) if quiet else print)
    return Outcome(results, _results.tune_table(results))


def evaluate(
    workdir: str | os.PathLike, *, protocol: str | None = None, data_path: str | None = None
) -> Outcome:
    """Scores the trained states of a workdir on the test part again.

    Args:
        workdir: folder of a finished run.
        protocol: name of another protocol; default the run's own.
        data_path: where the data lies now; default where the run read it.

    Returns:
        The results and their table; nothing is written.

    Raises:
        ConfigError: the folder is no workdir, or there is no test part.
        CheckpointError: no checkpoint, or one of other data or settings.
    """
    scored = evaluate_scored(workdir, protocol=protocol, data_path=data_path)
    config = workdir_configs(workdir)[0][2]
    headline = config.protocol.headline
    if headline not in scored[0].metric_names():
        headline = scored[0].metric_names()[0]
    comparison = _results.compare(scored, baseline=config.baseline, metric=headline)
    return Outcome([one.to_json() for one in scored], _results.table(scored, comparison, headline=headline))


def evaluate_scored(
    workdir: str | os.PathLike,
    *,
    protocol: str | metrics.EvalProtocol | None = None,
    data_path: str | None = None,
) -> list[_results.Scored]:
    """``evaluate``, with the scores themselves as the result; also under a protocol of one's own."""
    scored = []
    for name, folder, config in workdir_configs(workdir):
        if data_path is not None:
            config.data.path = data_path
        if protocol is not None:
            config.protocol.metrics = ()
        dataset, _ = load_dataset(config)
        entry = config.variants[name]
        history = history_of(build_for(config, entry, dataset))
        judge = make_judge(config, dataset, "test", protocol, history=history)
        if judge is None:
            raise ConfigError(f"the dataset {dataset.name} has no test part to evaluate on")
        runs = _runs(config, entry, dataset)
        method, fitted = load(config, entry, dataset, folder, label=name, runs=runs)
        scored.append(score(config, name, entry, method, fitted.state, dataset, judge))
    return scored
