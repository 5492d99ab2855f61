"""From a config to results: what a launch script does is one call to a function here.

| function | does |
|---|---|
| ``run`` | trains every variant of a config over its seeds, tests it once, writes the workdir |
| ``sweep`` | trains a grid of numeric hyperparameters, scores it on validation only |
| ``evaluate`` | scores a finished workdir again |
| ``recommend`` | answers from a workdir's bundle |
"""

import functools
import hashlib
import inspect
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from debias_jax import _config, _plots, _results, data, methods, metrics, models, serving, training
from debias_jax._config import choose, nearest
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DivergedError
from debias_jax.methods.base import Method, TrainState
from debias_jax.training import checkpoint, writers
from debias_jax.training import evaluate as evaluation

DATASETS = {
    "coat": data.coat.load,
    "coat_fixed_split": data.coat.load_fixed_split,
    "kuairec": data.kuairec.load,
    "ml_100k": data.movielens.load_100k,
    "own": data.frame.read,
    "synthetic": None,
    "yahoo_r3": data.yahoo_r3.load,
}
"""Readers by ``config.data.name``; ``synthetic`` is generated from ``config.data.options``."""

FOLDERS = {
    "coat": "coat",
    "coat_fixed_split": "coat",
    "kuairec": "kuairec",
    "ml_100k": "ml-100k",
    "yahoo_r3": "yahoo-r3",
}
"""Where each dataset lies below ``DEBIAS_DATA_DIR``."""


def random_test_then_biif(
    dataset: Dataset, *, test: float = 0.1, validation: float = 0.1, seed: int = 0
) -> Dataset:
    """A random test part of each user's rows where the log has none, then Biif's preparation where it has no validation.

    Args:
        dataset: a log.
        test: share of each user's rows for the test part; it is as biased as the log.
        validation: share of the remaining rows for validation.
        seed: of both draws.
    """
    if dataset.test is None:
        dataset = data.splits.random_split(dataset, validation=0.0, test=test, seed=seed, per_user=True)
    if dataset.validation is None:
        return data.splits.biif(dataset, hyper_fraction=validation, seed=seed)
    return dataset.replace(probably_exposed=data.splits.probably_exposed(dataset.train))


SPLITS = {
    "biif": data.splits.biif,
    "random": data.splits.random_split,
    "random_test_then_biif": random_test_then_biif,
}


class Outcome(NamedTuple):
    """What a call leaves: ``results`` as written to ``results.json``, and ``text`` for the terminal."""

    results: list[dict[str, Any]]
    text: str


def load_dataset(config: ConfigDict) -> tuple[Dataset, data.Report]:
    """Reads (or generates) the dataset of ``config.data`` and splits it.

    Returns:
        The dataset, and the report of what is in it.

    Raises:
        ConfigError: an option is unknown, or no path is known.
        DataError: the files are missing or wrong.
    """
    settings = config.data
    reader = choose("dataset", settings.name, DATASETS)
    options = dict(settings.options)
    if settings.name == "synthetic":
        dataset = _call(data.synthetic.generate, options, "data.options")
    else:
        path = settings.path
        if not path and settings.name in FOLDERS and os.environ.get("DEBIAS_DATA_DIR"):
            path = str(pathlib.Path(os.environ["DEBIAS_DATA_DIR"]) / FOLDERS[settings.name])
        if not path:
            raise ConfigError(
                f"where is the dataset {settings.name}? pass --config.data.path=FOLDER, or set DEBIAS_DATA_DIR to "
                "the folder that holds it"
            )
        dataset = _call(functools.partial(reader, path), options, "data.options")
    dropped = {}
    if isinstance(dataset, tuple):
        dataset, read = dataset
        dropped = {
            name: getattr(read, name)
            for name in ("duplicates_dropped", "bad_rows_skipped", "bad_row_examples")
        }
    split = dict(settings.split)
    if split:
        splitter = choose("split", split.pop("name", ""), SPLITS)
        dataset = _call(functools.partial(splitter, dataset), split, "data.split")
    return dataset, data.summarise(dataset, **dropped)


def _call(function, options: Mapping[str, Any], where: str):
    """Calls with keyword options, an unknown one named with the nearest valid key."""
    valid = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    for name in options:
        if valid and name not in valid:
            raise ConfigError(f"unknown key {where}.{name}; {nearest(name, valid)}")
    return function(**options)


def build_method(config: ConfigDict, entry: Mapping[str, Any], *, n_users: int, n_items: int) -> Method:
    """The method of one variant, with the models that its function asks for by argument name.

    Args:
        config: the experiment.
        entry: one entry of ``config.variants``.
        n_users: size of the user vocabulary.
        n_items: size of the item vocabulary.

    Raises:
        ConfigError: a name or an option is unknown.
    """
    factory = choose("method", entry["method"], {name: getattr(methods, name) for name in methods.__all__})
    choose("model", config.model.name, {"mf": models.mf})
    given: dict[str, Any] = {
        "model": lambda: models.mf(
            n_users,
            n_items,
            dim=config.model.dim,
            bias=config.model.bias,
            init_scale=config.model.init_scale,
        ),
        "exposure_model": lambda: models.biif_exposure(n_users, dim=config.model.dim),
        "propensity_model": lambda: models.additive_logistic(n_users, n_items),
        "item_vectors": lambda: models.item_vectors,
        "batch_size": lambda: config.train.batch_size,
    }
    options = dict(entry["options"])
    parameters = inspect.signature(factory).parameters
    for name in options:
        if name not in parameters or name in given:
            raise ConfigError(f"unknown option {name!r} of {entry['method']}; {nearest(name, parameters)}")
    arguments = {name: make() for name, make in given.items() if name in parameters} | options
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{entry['method']}: {error}") from error


def variant_hparams(config: ConfigDict, entry: Mapping[str, Any], method: Method) -> dict[str, float]:
    """Numeric hyperparameters of a variant: defaults, then its own (tuned) values, then ``config.train``.

    Raises:
        ConfigError: the variant names one that its method does not have.
    """
    for name in entry["hparams"]:
        if name not in method.hparams:
            raise ConfigError(
                f"unknown hyperparameter {name!r} of {entry['method']}; {nearest(name, method.hparams)}"
            )
    values = {**method.hparams, **entry["hparams"]}
    for name in ("lr", "weight_decay"):
        if config.train.get(name) is not None and name in values:
            values[name] = config.train[name]
    return values


class _Judge(NamedTuple):
    """A protocol with its evaluation set, and the pure function that the loop calls."""

    protocol: metrics.EvalProtocol
    eval_set: evaluation.EvalSet

    def full(self, method: Method, state: TrainState) -> evaluation.Evaluation:
        """Per-user values of one state."""
        return evaluation.evaluate(self.protocol, method.predict, state, self.eval_set)


def _judge(config: ConfigDict, dataset: Dataset, part: str, name: str | None = None) -> _Judge | None:
    """The judge of the validation or test part, None where the dataset has no such part."""
    held_out = getattr(dataset, part)
    if held_out is None:
        return None
    protocol = choose("protocol", name or config.protocol[part], metrics.PROTOCOLS)
    if part == "test" and config.protocol.metrics:
        protocol = protocol.with_metrics(*config.protocol.metrics)
    popularity = training.item_popularity(dataset.train.positives.items, dataset.n_items)
    log = dataset.train
    if part == "test" and dataset.validation is not None:
        # Eligibility and masking are properties of the whole log, not of how it was split for tuning.
        log = data.concatenate(log, dataset.validation)
    return _Judge(protocol, evaluation.build_eval_set(protocol, held_out, log, popularity=popularity))


def _validation_settings(config: ConfigDict, method: Method, judge: _Judge | None) -> dict[str, Any]:
    """The arguments of ``fit_many`` that concern validation."""
    patience = config.train.patience or None
    if judge is None:
        if patience or config.train.restore == "best":
            raise ConfigError(
                "train.patience and train.restore='best' need a validation part; this dataset has none: set "
                "data.split, or train.patience=0 and train.restore='last'"
            )
        return {"restore": "last"}
    if config.protocol.monitor not in judge.protocol.metrics:
        raise ConfigError(
            f"unknown protocol.monitor {config.protocol.monitor!r}; "
            f"{nearest(config.protocol.monitor, judge.protocol.metrics)}"
        )

    def evaluate(state, eval_set):
        return evaluation.summarise(evaluation.evaluate(judge.protocol, method.predict, state, eval_set))

    return {
        "evaluate": evaluate,
        "eval_data": judge.eval_set,
        "monitor": config.protocol.monitor,
        "patience": patience,
        "restore": config.train.restore,
    }


def _digest(dataset: Dataset) -> str:
    """A fingerprint of what is learnt from, so that a checkpoint of other data is refused."""
    digest = hashlib.sha256()
    for part in (dataset.train, dataset.probably_exposed):
        if part is not None:
            for column in (part.users, part.items, part.labels):
                digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()[:16]


def _fingerprint(config: ConfigDict, entry: Mapping[str, Any], dataset: Dataset, strategy: str, runs) -> dict:
    """What a checkpoint must share with the run that continues it; ``train.epochs`` may grow."""
    train = {name: config.train[name] for name in ("batch_size", "eval_every", "patience")}
    return writers.jsonable(
        {
            "data": _digest(dataset),
            "method": entry["method"],
            "options": dict(entry["options"]),
            "model": _config.to_dict(config.model),
            "validation": [config.protocol.validation, config.protocol.monitor],
            "train": {**train, "strategy": strategy},
            "runs": runs,
        }
    )


def _strategy(config: ConfigDict) -> str:
    """``auto`` resolved, since programs of different strategies are not bit-equal."""
    if config.train.strategy != "auto":
        return config.train.strategy
    return "map" if jax.default_backend() == "cpu" else "vmap"


def _fit(
    config: ConfigDict,
    entry: Mapping[str, Any],
    dataset: Dataset,
    folder: pathlib.Path,
    *,
    label: str,
    runs: list[dict[str, Any]],
    on_nonfinite: str = "raise",
) -> tuple[Method, training.FitResult]:
    """Fits the runs (dicts of ``seed`` and hyperparameters) of one variant, resumably, with logs and a bar."""
    method = build_method(config, entry, n_users=dataset.n_users, n_items=dataset.n_items)
    keys = jnp.stack([training.run_key(run["seed"]) for run in runs])
    names = [name for name in runs[0] if name != "seed"]
    hparams = {name: np.asarray([run[name] for run in runs], np.float32) for name in names}
    strategy = _strategy(config)
    settings = _validation_settings(config, method, _judge(config, dataset, "validation"))
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = _fingerprint(config, entry, dataset, strategy, runs)
    with (
        checkpoint.Checkpointer(folder / "checkpoints", fingerprint=fingerprint) as saver,
        writers.JsonlWriter(folder / "metrics.jsonl") as log,
        writers.ProgressBar(config.train.epochs, label) as bar,
    ):
        board: list[writers.TensorboardWriter] = []

        def on_resume(epochs_done: int) -> None:
            log.resume(epochs_done)
            bar.update(epochs_done)
            if config.tensorboard:
                board.append(writers.TensorboardWriter(folder / "tensorboard", resume_step=epochs_done))

        def on_epoch(row: dict[str, Any]) -> None:
            named = {name: value for name, value in row.items() if name != "epoch"}
            for number, run in enumerate(runs):
                values = {name: value[number] for name, value in named.items()}
                log.write(row["epoch"], {"run": number, "seed": run["seed"], **values})
            means = {
                name: float(np.nanmean(value)) for name, value in named.items() if np.isfinite(value).any()
            }
            for writer in board:
                writer.write(row["epoch"], means)
            shown = ("loss", config.protocol.monitor)
            bar.update(1, **{name: f"{means[name]:.4f}" for name in shown if name in means})

        try:
            result = training.fit_many(
                method,
                training.train_data(dataset),
                keys,
                hparams,
                epochs=config.train.epochs,
                eval_every=config.train.eval_every,
                strategy=strategy,
                checkpointer=saver,
                on_epoch=on_epoch,
                on_resume=on_resume,
                on_nonfinite=on_nonfinite,
                **settings,
            )
        except DivergedError as error:
            raise DivergedError(f"{label}: {error}") from error
        finally:
            for writer in board:
                writer.close()
    return method, result


def _prepare(config: ConfigDict, workdir: str | os.PathLike) -> tuple[pathlib.Path, Dataset, data.Report]:
    """Checks what can be checked before training, and writes config and environment."""
    if not config.methods:
        raise ConfigError(
            "the config has no method; name one after the colon: --config=configs/<dataset>.py:mf"
        )
    if not config.seeds:
        raise ConfigError("config.seeds is empty; give at least one, e.g. --config.seeds='(0,)'")
    if len(set(config.seeds)) != len(config.seeds):
        raise ConfigError(f"config.seeds {tuple(config.seeds)} holds a seed twice")
    folder = pathlib.Path(workdir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the workdir {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write into the workdir {folder}")
    dataset, report = load_dataset(config)
    resolved = _config.to_dict(config)
    written = _results.read_json(folder / "config.json")
    if written is not None and written["methods"] != resolved["methods"]:
        raise ConfigError(
            f"{folder} holds a run of {', '.join(written['methods'])}, not of {', '.join(resolved['methods'])}; "
            "give each run its own --workdir"
        )
    writers.write_json(folder / "config.json", resolved)
    writers.write_json(folder / "environment.json", writers.environment())
    return folder, dataset, report


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
    scored, comparison = _run(config, workdir, quiet=quiet)
    text = _results.table(scored, comparison, headline=config.protocol.headline)
    (pathlib.Path(workdir) / "table.txt").write_text(text + "\n", encoding="utf-8")
    return Outcome([one.to_json() for one in scored], text)


def run_scored(config: ConfigDict, workdir: str | os.PathLike) -> list[_results.Scored]:
    """``run``, with the scores themselves (per user, per seed) as the result."""
    return _run(config, workdir, quiet=False)[0]


def _run(config, workdir, *, quiet: bool) -> tuple[list[_results.Scored], list[dict[str, Any]]]:
    folder, dataset, report = _prepare(config, workdir)
    if not quiet:
        print(report, flush=True)
    judge = _judge(config, dataset, "test")
    scored: list[_results.Scored] = []
    for name in config.methods:
        own = folder if len(config.methods) == 1 else folder / name
        scored.append(_run_variant(config, name, config.variants[name], dataset, own, judge))
        if not quiet and len(config.methods) > 1:
            print(f"{name}: done in {scored[-1].seconds['fit']:.1f} s", flush=True)
    comparison = _results.compare(scored, baseline=config.baseline, metric=config.protocol.headline)
    results = [one.to_json() for one in scored]
    content = results[0] if len(scored) == 1 else {"results": results, "comparison": comparison}
    writers.write_json(folder / "results.json", content)
    _plots.save_all(folder / "plots", scored, comparison, dataset, monitor=config.protocol.monitor)
    return scored, comparison


def _run_variant(
    config: ConfigDict, name: str, entry, dataset: Dataset, folder: pathlib.Path, judge: _Judge | None
) -> _results.Scored:
    method = build_method(config, entry, n_users=dataset.n_users, n_items=dataset.n_items)
    hparams = variant_hparams(config, entry, method)
    runs = [{"seed": int(seed), **hparams} for seed in config.seeds]
    method, fitted = _fit(config, entry, dataset, folder, label=name, runs=runs)
    started = time.perf_counter()
    scored = _score(config, name, entry, method, fitted.state, dataset, judge)
    seconds = {"fit": fitted.seconds, "evaluate": time.perf_counter() - started}
    scored = scored._replace(seconds=seconds, hparams=hparams, history=fitted.history)
    np.savez(folder / "per_user.npz", **_results.per_user_arrays(scored))
    _save_bundle(config, entry, fitted, dataset, folder / "bundle")
    if len(config.methods) > 1:
        writers.write_json(folder / "results.json", scored.to_json())
        alone = _config.to_dict(config)
        alone |= {"methods": [name], "variants": {name: alone["variants"][name]}}
        writers.write_json(folder / "config.json", alone)
    return scored


def _score(
    config, name, entry, method: Method, states: TrainState, dataset: Dataset, judge
) -> _results.Scored:
    """Test metrics of each run of a stacked state."""
    n_runs = states.step.shape[0]
    evaluations, pcc, estimate = [], [], None
    if judge is not None:
        one = jax.jit(
            lambda state, eval_set: evaluation.evaluate(judge.protocol, method.predict, state, eval_set)
        )
        for number in range(n_runs):
            state = jax.tree.map(lambda x, number=number: x[number], states)
            scores = jax.device_get(one(state, judge.eval_set))
            if not bool(scores.finite):
                raise DivergedError(
                    f"{name}: run {number} scores a test pair with a value that is not finite"
                )
            evaluations.append(scores)
    if dataset.truth is not None and method.exposure is not None:
        train = training.train_data(dataset)
        users = jnp.arange(dataset.n_users, dtype=jnp.int32)[:, None]
        items = jnp.arange(dataset.n_items, dtype=jnp.int32)[None, :]
        shape = (dataset.n_users, dataset.n_items)
        truth = jnp.asarray(dataset.truth.exposure)
        for number in range(n_runs):
            state = jax.tree.map(lambda x, number=number: x[number], states)
            pairs = (jnp.broadcast_to(users, shape), jnp.broadcast_to(items, shape))
            exposure = method.exposure(state, train, *pairs)
            pcc.append(float(metrics.pearson(exposure, truth)))
            estimate = np.asarray(exposure) if estimate is None else estimate
    return _results.Scored(
        name=name,
        dataset=dataset.name,
        method=entry["method"],
        options=dict(entry["options"]),
        model=_config.to_dict(config.model),
        protocol=None if judge is None else judge.protocol.to_dict(),
        seeds=tuple(int(seed) for seed in config.seeds),
        evaluations=evaluations,
        pcc=pcc,
        exposure=estimate,
        hparams={},
        seconds={},
        history=[],
    )


def _save_bundle(config, entry, fitted: training.FitResult, dataset: Dataset, folder: pathlib.Path) -> None:
    """Saves the run that validation likes best (the first where there is no validation)."""
    values = np.where(np.isfinite(fitted.best_value), fitted.best_value, -np.inf)
    best = int(np.argmax(values))
    clicks = dataset.train.positives
    pairs = training.train_data(dataset).click_set
    serving.save_bundle(
        folder,
        params=jax.device_get(jax.tree.map(lambda x: x[best], fitted.state.params["prediction"])),
        users=dataset.users,
        items=dataset.items,
        config={"experiment": _config.to_dict(config), "entry": _config.to_dict(entry)},
        seen=(np.asarray(pairs.indptr), np.asarray(pairs.items)),
        popularity=np.bincount(clicks.items, minlength=dataset.n_items).astype(np.float32),
        meta={"dataset": dataset.name, "seed": int(config.seeds[best])},
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
    results, text = [], []
    for name in config.methods:
        entry = config.variants[name]
        method = build_method(config, entry, n_users=dataset.n_users, n_items=dataset.n_items)
        base = variant_hparams(config, entry, method)
        for key in grid:
            if key not in base:
                raise ConfigError(f"unknown hyperparameter {key!r} of {name}; {nearest(key, base)}")
        points: list[dict[str, float]] = [{}]
        for key, values in grid.items():
            points = [{**point, key: value} for point in points for value in values]
        runs = [{"seed": int(seed), **base, **point} for point in points for seed in config.seeds]
        own = folder if len(config.methods) == 1 else folder / name
        _, fitted = _fit(config, entry, dataset, own, label=name, runs=runs, on_nonfinite="drop")
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


def _workdir_configs(workdir: str | os.PathLike) -> list[tuple[str, pathlib.Path, ConfigDict]]:
    """(variant, folder, config) of every variant in a workdir."""
    folder = pathlib.Path(workdir)
    written = _results.read_json(folder / "config.json")
    if written is None:
        raise ConfigError(
            f"{folder} is no workdir: it holds no config.json; train first with launch/train.py"
        )
    config = _config.from_dict(written)
    names = list(config.methods)
    return [(name, folder if len(names) == 1 else folder / name, config) for name in names]


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
    scored = []
    for name, folder, config in _workdir_configs(workdir):
        if data_path is not None:
            config.data.path = data_path
        if protocol is not None:
            config.protocol.metrics = ()
        dataset, _ = load_dataset(config)
        judge = _judge(config, dataset, "test", protocol)
        if judge is None:
            raise ConfigError(f"the dataset {dataset.name} has no test part to evaluate on")
        entry = config.variants[name]
        method, fitted = _fit_finished(config, name, entry, dataset, folder)
        one = _score(config, name, entry, method, fitted.state, dataset, judge)
        hparams = variant_hparams(config, entry, method)
        scored.append(one._replace(hparams=hparams, seconds={"fit": 0.0, "evaluate": 0.0}))
    headline = config.protocol.headline
    if headline not in scored[0].metric_names():
        headline = scored[0].metric_names()[0]
    comparison = _results.compare(scored, baseline=config.baseline, metric=headline)
    return Outcome([one.to_json() for one in scored], _results.table(scored, comparison, headline=headline))


def _fit_finished(config, name, entry, dataset, folder) -> tuple[Method, training.FitResult]:
    """The result of a finished run, from its checkpoint; it trains nothing."""
    if not (folder / "checkpoints").is_dir():
        raise ConfigError(f"{folder} holds no checkpoint of {name}; train first with launch/train.py")
    method = build_method(config, entry, n_users=dataset.n_users, n_items=dataset.n_items)
    hparams = variant_hparams(config, entry, method)
    runs = [{"seed": int(seed), **hparams} for seed in config.seeds]
    return _fit(config, entry, dataset, folder, label=name, runs=runs)


def load_predictor(workdir: str | os.PathLike):
    """The bundle of a one-variant workdir, and ``score(params, users, items)`` for it.

    Raises:
        ConfigError: the workdir has no bundle, or several variants.
        CheckpointError: the bundle is damaged.
    """
    configs = _workdir_configs(workdir)
    if len(configs) > 1:
        names = ", ".join(name for name, _, _ in configs)
        raise ConfigError(
            f"{workdir} holds several variants; name one: --workdir={workdir}/NAME, NAME of {names}"
        )
    folder = configs[0][1] / "bundle"
    if not folder.is_dir():
        raise ConfigError(f"{folder.parent} holds no bundle; train first with launch/train.py")
    bundle = serving.load_bundle(folder)
    config = _config.from_dict(bundle.config["experiment"])
    method = build_method(
        config, bundle.config["entry"], n_users=len(bundle.users), n_items=len(bundle.items)
    )

    def score(params, users, items):
        state = TrainState(jnp.zeros((), jnp.int32), {"prediction": params}, {}, {}, {})
        return method.predict(state, users, items)

    return bundle, score


def recommend(
    workdir: str | os.PathLike,
    user: str,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    unknown_user: str = "error",
) -> list[serving.Recommendation]:
    """The top-k items of a user in raw ids, from the bundle of a workdir alone.

    Args:
        workdir: folder of a finished run of one variant.
        user: raw id.
        k: number of items.
        exclude_seen: whether items that the user clicked in training stay out.
        unknown_user: ``"error"`` or ``"popular"``.

    Raises:
        ConfigError: the workdir has no bundle.
        DataError: the user is unknown, or ``k`` is larger than what is left.
    """
    bundle, score = load_predictor(workdir)
    return serving.recommend(score, bundle, user, k=k, exclude_seen=exclude_seen, unknown_user=unknown_user)
