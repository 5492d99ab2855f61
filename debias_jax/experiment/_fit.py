"""The fit of one variant of an experiment: its judges, its checkpoints, its logs."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from debias_jax import data, metrics, training
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DivergedError, nearest
from debias_jax.experiment._build import build_for, check_labels, model_settings
from debias_jax.experiment._config import choose, only
from debias_jax.methods.base import Method, TrainData
from debias_jax.training import checkpoint, early_stop, evaluation, writers
from debias_jax.training.mesh import check_splits


class Judge(NamedTuple):
    """A protocol with its evaluation set, and the pure function that the loop calls."""

    protocol: metrics.EvalProtocol
    eval_set: evaluation.EvalSet


def make_judge(
    config: ConfigDict,
    dataset: Dataset,
    part: str,
    protocol: str | metrics.EvalProtocol | None = None,
    *,
    history: int = 0,
) -> Judge | None:
    """The judge of the validation or test part, None where the dataset has no such part.

    ``protocol`` is a name or a protocol of one's own; by default that of the config. ``history`` is the number of
    events that a method is given which reads them.

    Where users come back to items, a protocol that is chosen by its name leaves no seen item out, and says so by its
    ``mask_seen``; a protocol of one's own is taken as it is.
    """
    held_out = getattr(dataset, part)
    if held_out is None:
        return None
    if not isinstance(protocol, metrics.EvalProtocol):
        protocol = choose("protocol", protocol or config.protocol[part], metrics.PROTOCOLS)
        measured = config.protocol["metrics" if part == "test" else "validation_metrics"]
        protocol = protocol.with_metrics(*measured) if measured else protocol
        if protocol.mask_seen != "none" and data.sequences.has_repeats(dataset):
            # What is consumed again may be the right answer.
            protocol = dataclasses.replace(protocol, mask_seen="none")
    popularity = training.item_popularity(dataset.train.positives.items, dataset.n_items)
    # Eligibility and masking are properties of the whole log, not of how it was split for tuning.
    log = dataset.log("validation") if part == "test" else dataset.train
    histories = None
    if history or dataset.context is not None:
        histories = data.sequences.histories_before(dataset, part)
        log = data.sequences.events_of(histories, n_items=dataset.n_items)
    eval_set = evaluation.build_eval_set(
        protocol,
        held_out,
        log,
        popularity=popularity,
        histories=histories if history else None,
        length=history,
    )
    return Judge(protocol, eval_set)


def _validation_settings(
    config: ConfigDict, method: Method, judge: Judge | None, train: TrainData, dataset: Dataset
) -> dict[str, Any]:
    """The arguments of ``fit_many`` that concern validation.

    On simulated data the PCC of estimated and true exposure is logged with every evaluation, also where there is no
    validation part. It is nothing to monitor: no real log has it.
    """
    patience = config.train.patience or None
    knows_exposure = dataset.truth is not None and method.exposure is not None
    if judge is None:
        if patience or config.train.restore == "best":
            raise ConfigError(
                "train.patience and train.restore='best' need a validation part; this dataset has none: set "
                "data.split, or train.patience=0 and train.restore='last'"
            )
        if not knows_exposure:
            return {"restore": "last"}
    elif config.protocol.monitor not in judge.protocol.metrics:
        raise ConfigError(
            f"unknown protocol.monitor {config.protocol.monitor!r}; "
            f"{nearest(config.protocol.monitor, judge.protocol.metrics)}"
        )

    # Compiled programs outlive a fit, and what a function closes over with them: not the evaluation set.
    protocol = None if judge is None else judge.protocol

    def evaluate(state, known):
        logs = {}
        if protocol is not None:
            scores = evaluation.evaluate(protocol, method.predict, state, known["eval_set"])
            logs |= evaluation.summarise(scores)
        if knows_exposure:
            estimate = evaluation.exposure_matrix(method.exposure, state, known["train"])
            # An estimate that is the same for all items, as ExpoMF's before training, has no correlation.
            varies = jnp.any(estimate != estimate[:, :1])
            logs["pcc"] = jnp.where(varies, metrics.pearson(estimate, known["exposure"]), jnp.nan)
        return logs

    known: dict[str, Any] = {} if judge is None else {"eval_set": judge.eval_set}
    if knows_exposure:
        known |= {"train": train, "exposure": jnp.asarray(dataset.truth.exposure)}
    return {
        "evaluate": evaluate,
        "eval_data": known,
        "monitor": None if judge is None else config.protocol.monitor,
        "patience": patience,
        "restore": "last" if judge is None else config.train.restore,
    }


def _digest(dataset: Dataset, *, features: bool, histories: bool) -> str:
    """A fingerprint of what is learnt from and chosen by, so that a checkpoint of other data is refused."""
    digest = hashlib.sha256()
    parts = [dataset.train, dataset.validation, dataset.probably_exposed]
    for part in [*parts, dataset.context] if histories else parts:
        if part is not None:
            columns = [part.users, part.items, part.labels, part.propensities]
            # Only where events have an order their times matter.
            for column in [*columns, part.timestamps] if histories else columns:
                if column is not None:
                    digest.update(np.ascontiguousarray(column).tobytes())
    for table in (dataset.user_features, dataset.item_features) if features else ():
        if table is not None:
            digest.update(np.ascontiguousarray(table).tobytes())
    for bags in (dataset.user_bags, dataset.item_bags) if features else ():
        for name, values in (bags or {}).items():
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def fingerprint(
    config: ConfigDict, entry: Mapping[str, Any], dataset: Dataset, runs, method: Method
) -> dict[str, Any]:
    """What a checkpoint must share with the run that continues it; ``train.epochs`` may grow.

    ``method`` is the one that is built of ``entry`` for ``dataset``.
    """
    model = model_settings(config, entry)
    train = {name: config.train[name] for name in ("batch_size", "eval_every", "patience")}
    if config.train.eval_at_start:
        train["eval_at_start"] = True
    if config.train.plateau.log:
        train["plateau"] = dict(config.train.plateau)
    return writers.jsonable(
        {
            "data": _digest(dataset, features=model["features"], histories=history_of(method) > 0),
            "method": entry["method"],
            "options": dict(entry["options"]),
            "model": model,
            "validation": [config.protocol.validation, config.protocol.monitor],
            "train": train,
            "runs": runs,
        }
    )


class Task(NamedTuple):
    """What all fits of a variant share; fits of equally many runs that are given one task compile once."""

    method: Method
    data: TrainData
    settings: dict[str, Any]


def make_task(config: ConfigDict, entry: Mapping[str, Any], dataset: Dataset) -> Task:
    """The method of a variant, the training data on the device, and how validation is read."""
    method = build_for(config, entry, dataset)
    train = training.data_for(method, dataset)
    judge = make_judge(config, dataset, "validation", history=history_of(method))
    return Task(method, train, _validation_settings(config, method, judge, train, dataset))


def history_of(method: Method) -> int:
    """How many events of a user a method is given to score the next one; 0 if it reads none."""
    return 0 if method.frame is None else method.frame.max_len


def mesh_of(config: ConfigDict) -> Any:
    """The devices to train on, None for the default one.

    Raises:
        ConfigError: there are not as many.
    """
    return None if set(config.mesh.values()) == {1} else training.make_mesh(**config.mesh)


def check_devices(config: ConfigDict, dataset: Dataset) -> None:
    """Refuses ``config.mesh`` if it splits nothing of a variant, before the first of them is trained.

    Raises:
        ConfigError: it does so.
    """
    mesh = mesh_of(config)
    if mesh is None:
        return
    for name in config.methods:
        method = build_for(only(config, name), config.variants[name], dataset)
        try:
            check_splits(mesh, method, training.data_for(method, dataset))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error


def fit(
    config: ConfigDict,
    entry: Mapping[str, Any],
    dataset: Dataset,
    folder: pathlib.Path,
    *,
    label: str,
    runs: list[dict[str, Any]],
    on_accept: Callable[[bool], None],
    on_nonfinite: str = "raise",
    task: Task | None = None,
    keep: Callable[[list[dict[str, Any]]], Any] | None = None,
) -> tuple[Method, training.FitResult]:
    """Fits the runs (dicts of ``seed`` and hyperparameters) of one variant, resumably, with logs and a bar.

    ``on_accept(resumed)`` is called once the folder is locked and its checkpoint, if any, is known to be of this
    very configuration: only then may records in it be written. ``keep`` is that of ``training.fit_many``.
    """
    method, train, settings = task or make_task(config, entry, dataset)
    check_labels(label, entry, method, dataset)
    keys = jnp.stack([training.run_key(run["seed"]) for run in runs])
    names = [name for name in runs[0] if name != "seed"]
    hparams = {name: np.asarray([run[name] for run in runs], np.float32) for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    with (
        checkpoint.Checkpointer(
            folder / "checkpoints", fingerprint=fingerprint(config, entry, dataset, runs, method)
        ) as saver,
        writers.JsonlWriter(folder / "metrics.jsonl") as log,
        writers.ProgressBar(config.train.epochs, label) as bar,
    ):
        board: list[writers.TensorboardWriter] = []

        def on_resume(epochs_done: int) -> None:
            on_accept(epochs_done > 0)
            # Without a checkpoint the row of epoch 0, if any, is written again.
            last = epochs_done or -1
            log.resume(last)
            bar.update(epochs_done)
            if config.tensorboard:
                board.append(writers.TensorboardWriter(folder / "tensorboard", resume_step=last))

        def on_epoch(row: dict[str, Any]) -> None:
            named = {name: value for name, value in row.items() if name != "epoch"}
            for number, run in enumerate(runs):
                values = {name: value[number] for name, value in named.items()}
                log.write(row["epoch"], {"run": number, "seed": run["seed"], **values})
            if row["epoch"] % config.train.eval_every == 0:
                # A checkpoint follows; the rows that it stands for must not be lost with the power.
                log.sync()
            means = {
                name: float(np.nanmean(value)) for name, value in named.items() if np.isfinite(value).any()
            }
            for writer in board:
                writer.write(row["epoch"], means)
            shown = ("loss", config.protocol.monitor)
            bar.update(
                min(row["epoch"], 1), **{name: f"{means[name]:.4f}" for name in shown if name in means}
            )

        try:
            result = training.fit_many(
                method,
                train,
                keys,
                hparams,
                epochs=config.train.epochs,
                eval_every=config.train.eval_every,
                eval_at_start=config.train.eval_at_start,
                plateau=early_stop.Plateau(**config.train.plateau) if config.train.plateau.log else None,
                strategy=config.train.strategy,
                mesh=mesh_of(config),
                checkpointer=saver,
                save_seconds=config.train.save_seconds,
                on_epoch=on_epoch,
                on_resume=on_resume,
                on_nonfinite=on_nonfinite,
                keep=keep,
                **settings,
            )
        except DivergedError as error:
            raise DivergedError(f"{label}: {error}") from error
        finally:
            for writer in board:
                writer.close()
    return method, result


def load(
    config: ConfigDict, entry: Mapping[str, Any], dataset: Dataset, folder: pathlib.Path, *, label: str, runs
) -> tuple[Method, training.FitResult]:
    """The finished fit of a variant, from its checkpoint.

    Raises:
        CheckpointError: there is none, or one of other data or settings.
        ConfigError: the fit is not finished.
    """
    if not (folder / "checkpoints").is_dir():
        raise ConfigError(f"{folder} holds no checkpoint of {label}; train first with launch/train.py")
    method, train, settings = make_task(config, entry, dataset)
    own = fingerprint(config, entry, dataset, runs, method)
    with checkpoint.Checkpointer(folder / "checkpoints", fingerprint=own) as saver:
        result, done, active = training.load_many(
            method,
            train,
            len(runs),
            checkpointer=saver,
            monitor=settings.get("monitor"),
            restore=settings["restore"],
        )
    if active and done < config.train.epochs:
        raise ConfigError(
            f"the run of {label} in {folder} is at epoch {done} of {config.train.epochs}; finish it with "
            "launch/train.py"
        )
    return method, result
