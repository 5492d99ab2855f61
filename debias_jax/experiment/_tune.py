"""Search of hyperparameters: Optuna proposes a batch of settings, one compiled program trains it.

What is kept, and why. A study is an SQLite file (``study.db``), which holds finished trials only: each is one
transaction, so that a kill or a power loss leaves whole trials, where Optuna's journal file is left with a torn last
line that the next append makes unreadable. Optuna stores neither the state of its sampler nor half-run trials in a way
that could be continued exactly, so a batch is asked for in memory, from the finished trials and a seed that depends on
the number of its first trial alone. A search that was killed asks for the same batch again, finds its checkpoint, and
ends in the trials of a search that was not.

A trial that diverges is stored as pruned without values: to the sampler the worst there is, where it would not learn
from a failed one. Trials whose validation score is below the median of earlier trials at the same epoch rest
(``config.tune.prune``); the others of their batch train on. The numbers of the sampler and the pruner are given here
and not left to Optuna's defaults, which change between versions.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from debias_jax import training
from debias_jax.data.types import Dataset
from debias_jax.errors import CheckpointError, ConfigError, nearest, require_extra
from debias_jax.experiment import _config, _plots, _results
from debias_jax.experiment._build import build_for, default_hparams, variant_hparams
from debias_jax.experiment._fit import Task, check_devices, fingerprint, fit, make_task
from debias_jax.experiment._search_space import distributions, first_settings, search_space
from debias_jax.methods.base import Method
from debias_jax.training import _files, writers
from debias_jax.training.checkpoint import fingerprint_differences

_SAMPLER = {"n_ei_candidates": 24, "multivariate": True, "constant_liar": True}
"""Arguments of Optuna's TPE besides its seed and ``config.tune.startup``."""

_PRUNER = {"after_trials": 5, "after_epochs": 0.25}
"""Trials before any is pruned, and the share of epochs that none loses."""


class _Plan(NamedTuple):
    """The search of one variant: what it varies, what it starts with, what stays."""

    name: str
    entry: Mapping[str, Any]
    method: Method
    space: dict[str, list]
    first: list[dict[str, float]]
    fixed: dict[str, float]


def tune(
    config: ConfigDict, folder: pathlib.Path, dataset: Dataset, *, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Runs what is left of the search of every variant; see ``experiment.tune``.

    Args:
        config: the experiment.
        folder: the workdir; it exists.
        dataset: its data.
        say: is told what was done, a line a batch.

    Returns:
        For each variant its best setting and the counts of its trials, as written to ``tuned.json``.
    """
    optuna = require_extra("optuna", "tune")
    if dataset.validation is None:
        raise ConfigError(
            "a search chooses on the validation part, and this dataset has none; set data.split"
        )
    for name, least in (("trials", 1), ("batch", 1), ("startup", 1), ("seed", 0)):
        if config.tune[name] < least:
            raise ConfigError(f"tune.{name} is {config.tune[name]}; it must be at least {least}")
    own_configs = {name: _config.only(config, name) for name in config.methods}
    plans = [_plan(own_configs[name], name, dataset) for name in config.methods]
    check_devices(config, dataset)
    results, rows = [], {}
    with _locked(folder), _quiet(optuna):
        for plan in plans:
            own = folder / plan.name
            own.mkdir(exist_ok=True)
            with _study(folder / "study.db", plan.name) as study:
                own_config = own_configs[plan.name]
                _check_same(study, _fingerprint(own_config, plan, dataset), own)
                _records(own_config, own)
                _search(own_config, plan, dataset, own, study, say)
                rows[plan.name] = [_row(trial) for trial in study.get_trials(deepcopy=False)]
            results.append(_best(config, plan, dataset, rows[plan.name]))
            if results[-1]["hparams"]:
                tuned = _results.read_json(folder / "tuned.json") or {}
                writers.write_json(folder / "tuned.json", {**tuned, plan.name: results[-1]})
    values = {
        name: [row["value"] if row["outcome"] == "complete" else None for row in trials]
        for name, trials in rows.items()
    }
    _plots.save_search(folder / "plots", values, monitor=config.protocol.monitor, title=dataset.name)
    return results


def apply_tuned(config: ConfigDict, path: str | os.PathLike) -> tuple[str, ...]:
    """Puts the settings of a ``tuned.json`` into the variants of a config.

    A variant that the file does not have takes what was found for its method, of which it may lack some. What a variant
    fixes (see ``variant``) is never changed; ``config.train.lr`` still comes on top.

    Args:
        config: the experiment; changed in place.
        path: written by ``tune``.

    Returns:
        The variants that keep their own values: neither they nor their methods are in the file, or they fix all that
        was found.

    Raises:
        ConfigError: there is no such file, it has none of the config's variants or their methods, or one of its
            variants is of another method or has a hyperparameter that the method does not have.
    """
    tuned = _results.read_json(path)
    if tuned is None:
        raise ConfigError(f"there is no file {path}; launch/tune.py writes a tuned.json into its workdir")
    if not isinstance(tuned, dict) or not all(
        isinstance(one, dict) and {"method", "hparams"} <= set(one) for one in tuned.values()
    ):
        raise ConfigError(f"{path} is not what launch/tune.py writes: variants with their method and hparams")
    names = {*config.methods, *(config.variants[name].method for name in config.methods)}
    if not set(tuned) & names:
        raise ConfigError(
            f"{path} has none of {', '.join(config.methods)}; it has {', '.join(sorted(tuned))}"
        )
    unchanged = []
    for name in config.methods:
        entry = config.variants[name]
        found = _found(config, name, tuned, path)
        with config.unlocked():
            entry.hparams.update(found)
        if not found:
            unchanged.append(name)
    return tuple(unchanged)


def _found(
    config: ConfigDict, name: str, tuned: Mapping[str, Any], path: str | os.PathLike
) -> dict[str, float]:
    """What a variant takes from a ``tuned.json``."""
    entry = config.variants[name]
    source = name if name in tuned else entry.method
    if source not in tuned:
        return {}
    if tuned[source]["method"] != entry.method:
        raise ConfigError(
            f"{source} is the method {tuned[source]['method']} in {path}, and {entry.method} here"
        )
    known = default_hparams(config, entry)
    hparams = tuned[source]["hparams"]
    for key in hparams:
        # A variant of other options may lack hyperparameters that its method was tuned with.
        if key not in known and source == name:
            raise ConfigError(f"unknown hyperparameter {key!r} of {name} in {path}; {nearest(key, known)}")
    taken = set(known) - set(_config.fixed_names(entry))
    return {key: value for key, value in hparams.items() if key in taken}


def _plan(config: ConfigDict, name: str, dataset: Dataset) -> _Plan:
    entry = config.variants[name]
    method = build_for(config, entry, dataset)
    values = variant_hparams(config, entry, method)
    space = search_space(config, name, values)
    fixed = {key: value for key, value in values.items() if key not in space}
    return _Plan(name, entry, method, space, first_settings(config, name, space), fixed)


def _fingerprint(config: ConfigDict, plan: _Plan, dataset: Dataset) -> dict[str, Any]:
    """What a search must share with the one that continues it; ``tune.trials`` may grow."""
    import optuna

    runs = [{"seed": int(seed), **plan.fixed} for seed in config.seeds]
    own = fingerprint(config, plan.entry, dataset, runs, plan.method)
    own["train"] |= {name: config.train[name] for name in ("epochs", "restore")}
    own["train"]["strategy"] = training.resolve_strategy(config.train.strategy)
    own["tune"] = {name: config.tune[name] for name in ("batch", "seed", "startup", "prune")}
    own["tune"] |= {"space": plan.space, "first": plan.first, "sampler": _SAMPLER, "pruner": _PRUNER}
    own["optuna"] = optuna.__version__
    return json.loads(json.dumps(own))


def _check_same(study: Any, own: dict[str, Any], folder: pathlib.Path) -> None:
    """Refuses to continue a study of another configuration."""
    saved = study.user_attrs.get("fingerprint")
    if saved is None:
        study.set_user_attr("fingerprint", own)
        return
    differences = fingerprint_differences(saved, own)
    if differences:
        raise CheckpointError(
            f"the search in {folder} is of another configuration: {'; '.join(differences)}. Use another workdir, or "
            "change these back"
        )


def _records(config: ConfigDict, folder: pathlib.Path) -> None:
    """Writes the resolved config of a variant, and the environment in which its search began."""
    writers.write_json(folder / "config.json", _config.to_dict(config))
    if not (folder / "environment.json").exists():
        writers.write_json(folder / "environment.json", writers.environment())


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> Iterator[None]:
    lock = _files.FolderLock(folder / "lock")
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keeps Optuna's log of every study to warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


@contextlib.contextmanager
def _study(path: pathlib.Path, name: str) -> Iterator[Any]:
    """The stored study of a variant, made if it is not there.

    Raises:
        CheckpointError: the file cannot be read or written, or holds something else.
    """
    import optuna
    from sqlalchemy.exc import DatabaseError

    storage = None
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        yield optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    except (DatabaseError, optuna.exceptions.StorageInternalError) as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be used ({reason}); if the disk is not full it is damaged: move it away, and the search "
            "starts again"
        ) from error
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


class _Watch:
    """Reports the validation history of a batch to its trials, and says which runs train on.

    Called with the whole history, it takes up where it left off; a resumed batch replays what was seen before.
    """

    def __init__(self, trials: Sequence[Any], n_runs: int, n_seeds: int, *, monitor: str, prune: bool):
        self._trials, self._n_runs, self._n_seeds = trials, n_runs, n_seeds
        self._monitor, self._prune = monitor, prune
        self._rows_seen = 0
        self.reported: list[dict[int, float]] = [{} for _ in trials]
        self.pruned = [False] * len(trials)

    def __call__(self, history: Sequence[Mapping[str, Any]]) -> np.ndarray:
        for row in history[self._rows_seen :]:
            if self._monitor in row:
                scores = [np.nan if value is None else value for value in row[self._monitor]]
                means = np.asarray(scores, np.float64).reshape(-1, self._n_seeds).mean(axis=1)
                # What stands behind the trials only fills up the batch.
                for number, mean in enumerate(means[: len(self._trials)].tolist()):
                    self._report(number, row["epoch"], mean)
        self._rows_seen = len(history)
        keep = np.zeros(self._n_runs, bool)
        keep[: len(self._trials) * self._n_seeds] = np.repeat(~np.asarray(self.pruned), self._n_seeds)
        return keep

    def _report(self, number: int, epoch: int, value: float) -> None:
        # A value that is not finite is left to the check of the loss.
        if self.pruned[number] or not math.isfinite(value):
            return
        self._trials[number].report(value, epoch)
        self.reported[number][epoch] = value
        self.pruned[number] = self._prune and self._trials[number].should_prune()


def _ask(config: ConfigDict, plan: _Plan, finished: Sequence[Any], stop: int) -> list[Any]:
    """The trials behind the finished ones up to ``stop``, of a study in memory; the same for the same arguments."""
    import optuna

    start = len(finished)
    seed = int(np.random.SeedSequence([config.tune.seed, start]).generate_state(1)[0])
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(
            n_startup_trials=config.tune.startup,
            seed=seed,
            **_SAMPLER,
        ),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=_PRUNER["after_trials"],
            n_warmup_steps=math.ceil(_PRUNER["after_epochs"] * config.train.epochs),
        ),
    )
    study.add_trials(finished)
    for setting in plan.first[start:stop]:
        study.enqueue_trial(setting)
    space = distributions(plan.space)
    return [study.ask(space) for _ in range(start, stop)]


def _search(
    config: ConfigDict,
    plan: _Plan,
    dataset: Dataset,
    folder: pathlib.Path,
    study: Any,
    say: Callable[[str], None],
) -> None:
    """Runs batches until the study has ``config.tune.trials`` trials."""
    task = None
    while True:
        finished = study.get_trials(deepcopy=False)
        _write_trials(folder, finished)
        start, stop = _next_batch(finished, config.tune.trials, config.tune.batch)
        # A batch that is stored needs its checkpoints no more.
        for leftover in folder.glob("batch_*"):
            if start == stop or leftover.name != _batch_name(start):
                shutil.rmtree(leftover)
        if start == stop:
            return
        task = task or make_task(config, plan.entry, dataset)
        trials = _run_batch(config, plan, dataset, folder, task, finished[:start], stop)
        # A kill may have come between two trials of this very batch.
        for trial in trials[len(finished) - start :]:
            study.add_trial(trial)
        values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.value is not None]
        best = f"best {config.protocol.monitor} {max(values):.4f}" if values else "none finished"
        say(f"{plan.name}: {stop} of {config.tune.trials} trials, {best}")


def _batch_name(start: int) -> str:
    return f"batch_{start:05d}"


def _next_batch(finished: Sequence[Any], total: int, size: int) -> tuple[int, int]:
    """Numbers of the first trial of the next batch and of the one behind it; equal where there is none."""
    done = len(finished)
    if done:
        start, stop = finished[-1].user_attrs["batch"]
        if done < stop:
            return start, stop
    return done, max(done, min(done + size, total))


def _run_batch(
    config: ConfigDict,
    plan: _Plan,
    dataset: Dataset,
    folder: pathlib.Path,
    task: Task,
    finished: Sequence[Any],
    stop: int,
) -> list[Any]:
    """Trains a batch as one program, and returns its trials as they are to be stored."""
    import optuna

    start, monitor, n_seeds = len(finished), config.protocol.monitor, len(config.seeds)
    trials = _ask(config, plan, finished, stop)
    settings = [trial.params for trial in trials]
    # The last batch is filled up, for a program of another width would have to be compiled; what fills it up rests
    # after the first evaluation.
    settings += settings[:1] * (config.tune.batch - len(settings))
    runs = [{"seed": int(seed), **plan.fixed, **setting} for setting in settings for seed in config.seeds]
    watch = _Watch(trials, len(runs), n_seeds, monitor=monitor, prune=config.tune.prune)
    _, fitted = fit(
        config,
        plan.entry,
        dataset,
        folder / _batch_name(start),
        label=f"{plan.name}, trials {start}-{stop - 1}",
        runs=runs,
        on_accept=lambda resumed: None,
        on_nonfinite="drop",
        task=task,
        keep=watch,
    )
    # Of a batch that was found finished nothing was watched yet.
    watch(fitted.history)
    scores = _results.validation_scores(
        fitted, n_seeds=n_seeds, monitor=monitor, restore=config.train.restore
    )
    done = []
    for number, trial in enumerate(trials):
        diverged = not np.isfinite(scores[number]).all()
        outcome = "diverged" if diverged else "pruned" if watch.pruned[number] else "complete"
        states = optuna.trial.TrialState
        done.append(
            optuna.trial.create_trial(
                state=states.COMPLETE if outcome == "complete" else states.PRUNED,
                value=float(scores[number].mean()) if outcome == "complete" else None,
                params=trial.params,
                distributions=trial.distributions,
                intermediate_values={} if diverged else watch.reported[number],
                user_attrs={
                    "batch": [start, stop],
                    "outcome": outcome,
                    "values": writers.jsonable(scores[number]),
                    "seconds": fitted.seconds / len(trials),
                },
            )
        )
    return done


def _row(trial: Any) -> dict[str, Any]:
    """A line of ``trials.jsonl``."""
    values = trial.user_attrs["values"]
    return {
        "trial": trial.number,
        "outcome": trial.user_attrs["outcome"],
        "value": None if None in values else float(np.mean(values)),
        "values": values,
        "hparams": trial.params,
        "seconds": trial.user_attrs["seconds"],
    }


def _write_trials(folder: pathlib.Path, trials: Sequence[Any]) -> None:
    text = "".join(json.dumps(_row(trial)) + "\n" for trial in trials)
    _files.write_atomic(folder / "trials.jsonl", text.encode())


def _best(
    config: ConfigDict, plan: _Plan, dataset: Dataset, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A variant's entry of ``tuned.json``; without ``hparams`` and ``value`` where no trial finished."""
    complete = [row for row in rows if row["outcome"] == "complete"]
    best = max(complete, key=lambda row: row["value"], default=None)
    outcomes = [row["outcome"] for row in rows]
    return {
        "variant": plan.name,
        "dataset": dataset.name,
        "method": plan.entry.method,
        "options": dict(plan.entry.options),
        "monitor": config.protocol.monitor,
        "seeds": [int(seed) for seed in config.seeds],
        "hparams": {} if best is None else best["hparams"],
        "fixed": plan.fixed,
        "value": None if best is None else best["value"],
        "trial": None if best is None else best["trial"],
        "trials": len(rows),
        "pruned": outcomes.count("pruned"),
        "diverged": outcomes.count("diverged"),
        "seconds": sum(row["seconds"] for row in rows),
    }
