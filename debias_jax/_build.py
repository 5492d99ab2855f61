"""From a config to a dataset, a method and its hyperparameters."""

import functools
import inspect
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from debias_jax import _complete, _logistic_mf, data, methods, models, training
from debias_jax._config import choose
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DataError, nearest
from debias_jax.methods.base import CvrBatch, Method, PairBatch


def ml_100k_implicit(path: str, *, min_user_rows: int = 10, min_item_rows: int = 10) -> Dataset:
    """MovieLens 100K as implicit feedback, see ``data.implicit.from_ratings``."""
    ratings = data.movielens.load_100k(path)
    return data.implicit.from_ratings(ratings, min_user_rows=min_user_rows, min_item_rows=min_item_rows)


DATASETS = {
    "beauty": data.beauty.load,
    "coat": data.coat.load,
    "coat_fixed_split": data.coat.load_fixed_split,
    "gowalla": data.gowalla.load,
    "kuairec": data.kuairec.load,
    "ml_100k": data.movielens.load_100k,
    "ml_100k_exposure": _logistic_mf.load_ml_100k_exposure,
    "ml_100k_implicit": ml_100k_implicit,
    "ml_100k_sim": _complete.load_ml_100k_sim,
    "ml_1m": data.ml_1m.load,
    "own": data.frame.read,
    "own_exposure": _logistic_mf.load_own_exposure,
    "sequences": data.sequences.load,
    "synthetic": data.synthetic.generate,
    "synthetic_sequences": data.synthetic_sequences.generate,
    "yahoo_r3": data.yahoo_r3.load,
}
"""Readers by ``config.data.name``, and the generators of ``GENERATED``."""

GENERATED = ("synthetic", "synthetic_sequences")
"""Datasets that are made from ``config.data.options`` and have no path."""

FOLDERS = {
    "beauty": "beauty",
    "coat": "coat",
    "coat_fixed_split": "coat",
    "gowalla": "gowalla",
    "kuairec": "kuairec",
    "ml_100k": "ml-100k",
    "ml_100k_exposure": "ml-100k",
    "ml_100k_implicit": "ml-100k",
    "ml_100k_sim": "ml-100k",
    "ml_1m": "ml-1m",
    "yahoo_r3": "yahoo-r3",
}
"""Where each dataset lies below ``DEBIAS_DATA_DIR``."""


def random_test_then_biif(
    dataset: Dataset, *, test: float = 0.1, validation: float = 0.1, seed: int = 0
) -> Dataset:
    """A random test part where the log has none, then Biif's preparation where it has no validation part.

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


def random_where_missing(
    dataset: Dataset, *, test: float = 0.1, validation: float = 0.1, seed: int = 0, per_user: bool = True
) -> Dataset:
    """Random test and validation parts of the log, each only where the log has none.

    Args:
        dataset: a log.
        test: share of the rows for the test part; it is as biased as the log, as is validation.
        validation: share of the rows for validation.
        seed: of the draw.
        per_user: True gives each user these shares, rounded to the nearest count: at 0.1 a user of fewer than five
            rows keeps them all; False draws from all rows together.

    Raises:
        DataError: a part would be empty.
    """
    shares = {"test": test, "validation": validation}
    missing = {part: share for part, share in shares.items() if getattr(dataset, part) is None and share}
    if not missing:
        return dataset
    drawn = data.splits.random_split(
        dataset, **{part: missing.get(part, 0.0) for part in shares}, seed=seed, per_user=per_user
    )
    for part, share in missing.items():
        if not len(getattr(drawn, part)):
            raise DataError(
                f"{dataset.name}: no user has enough of the {len(dataset.train):,} rows for a {part} share of "
                f"{share:g}; draw from all rows together with data.split.per_user=False, or raise data.split.{part}"
            )
    note = f"{' and '.join(missing)} drawn from the log, and as biased as it is"
    return drawn.replace(notes=(*drawn.notes, note))


def subsample(dataset: Dataset, *, fraction: float, seed: int = 2024) -> Dataset:
    """A random part of the training rows, for studies of sparsity; validation and test stay.

    What is dropped counts as not observed, also for propensities that are fitted.

    Args:
        dataset: with the parts that it came with.
        fraction: share of the training rows to keep, in (0, 1]; the count is rounded down.
        seed: of the draw, the same for all runs; the parts of one seed are nested.

    Source:
        BADR, its study of sparsity: fractions .8, .6, .4 and .2, one draw (seed 2024) for all training seeds.
    """
    train = data.splits.subsample(dataset.train, fraction=fraction, seed=seed)
    note = f"training rows: {fraction:.0%} of {len(dataset.train):,}, drawn at random with seed {seed}"
    return dataset.replace(train=train, notes=(*dataset.notes, note))


SPLITS = {
    "biif": data.splits.biif,
    "global_time": data.sequences.global_time_split,
    "leave_one_out": data.sequences.leave_one_out,
    "random": data.splits.random_split,
    "random_test_then_biif": random_test_then_biif,
    "random_where_missing": random_where_missing,
    "subsample": subsample,
}
"""Splits by ``config.data.split.name``: ``(dataset, **options) -> dataset``."""


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
    # A flag cannot say None: --config.data.options.label= takes back a column that the config names.
    options = {name: None if value == "" else value for name, value in settings.options.items()}
    if settings.name in GENERATED:
        dataset = _call(reader, options, "data.options")
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
            for name in ("unobserved_rows", "duplicates_dropped", "bad_rows_skipped", "bad_row_examples")
        }
    split = dict(settings.split)
    if split:
        chosen = choose("split", split.pop("name", ""), SPLITS)
        dataset = _call(functools.partial(chosen, dataset), split, "data.split")
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


def _mf(n_users: int, n_items: int, settings: Mapping[str, Any], **features) -> models.Model:
    if settings["features"]:
        raise ConfigError("model.features=True: mf reads no features; take model.name='two_tower' or 'mmoe'")
    return models.mf(
        n_users, n_items, dim=settings["dim"], bias=settings["bias"], init_scale=settings["init_scale"]
    )


def _chosen_features(settings: Mapping[str, Any], features: Mapping[str, Any]) -> Mapping[str, Any]:
    """The features, if ``model.features`` asks for them."""
    if not settings["features"]:
        return {}
    if not any(table is not None for table in features.values()):
        raise ConfigError(
            "model.features=True, and the dataset has no features of users or items; set model.features=False"
        )
    return features


def _dense_features(settings: Mapping[str, Any], features: Mapping[str, Any]) -> Mapping[str, Any]:
    """The features without bags, if ``model.features`` asks for them."""
    chosen = _chosen_features(settings, features)
    dense = {name: chosen[name] for name in ("user_features", "item_features") if name in chosen}
    if chosen and not any(table is not None for table in dense.values()):
        raise ConfigError(
            "model.features=True: the dataset has bags alone, which mmoe does not read; take model.name='two_tower'"
        )
    return dense


def _two_tower(n_users: int, n_items: int, settings: Mapping[str, Any], **features) -> models.Model:
    return models.two_tower(
        n_users,
        n_items,
        **_chosen_features(settings, features),
        **{
            name: settings[name]
            for name in ("dim", "hidden", "ids", "bias", "init_scale", "normalize", "temperature")
        },
    )


def _multitask(
    n_users: int, n_items: int, settings: Mapping[str, Any], *, tasks=("ctr", "cvr", "imputation"), **features
) -> models.Model:
    return models.mmoe(
        n_users,
        n_items,
        dim=settings["dim"],
        tasks=tasks,
        init_scale=settings["init_scale"],
        **_dense_features(settings, features),
    )


def _mmoe(n_users: int, n_items: int, settings: Mapping[str, Any], **features) -> models.Model:
    """The mixture for one task, a model of pairs as any other."""
    model = _multitask(n_users, n_items, settings, tasks=("label",), **features)
    return models.Model(model.init, lambda *arguments, **options: model.apply(*arguments, **options)[..., 0])


def _of_histories(name: str):
    """The maker of a model that reads histories."""
    factory = getattr(models, name)

    def make(n_users: int, n_items: int, settings: Mapping[str, Any], **features) -> models.Model:
        if settings["features"]:
            raise ConfigError(f"model.features=True: {name} reads no features; set model.features=False")
        sizes = {"n_users": n_users, "n_items": n_items, "dim": settings["dim"]}
        taken = {each: size for each, size in sizes.items() if each in argument_names(factory)}
        return _call(functools.partial(factory, **taken), settings.get("options", {}), "model.options")

    return make


SEQUENCE_MODELS = ("gru4rec", "caser", "sasrec", "bert4rec", "fmlp_rec")
"""Models that read histories, in the order of the published tables."""

MODELS = {
    "mf": _mf,
    "two_tower": _two_tower,
    "mmoe": _mmoe,
    **{name: _of_histories(name) for name in SEQUENCE_MODELS},
}
"""Models by ``config.model.name``."""


FEATURES = ("user_features", "item_features", "user_bags", "item_bags")
"""What ``model.features`` lets a model read of a dataset, by the names that datasets and models have for it."""


def model_settings(config: ConfigDict, entry: Mapping[str, Any]) -> dict[str, Any]:
    """``config.model`` with what a variant sets for itself.

    Raises:
        ConfigError: the variant sets a key that there is not, or the model is unknown.
    """
    settings = {**config.model, **entry.get("model", {})}
    for name in settings:
        if name not in config.model:
            raise ConfigError(f"unknown key model.{name}; {nearest(name, config.model)}")
    choose("model", settings["name"], MODELS)
    # Only models of histories have options; without, the settings are those of a run that knew of none.
    options = dict(settings.pop("options"))
    return settings | ({"options": options} if options else {})


def build_for(config: ConfigDict, entry: Mapping[str, Any], dataset: Dataset) -> Method:
    """``build_method`` with the sizes and the features of a dataset."""
    features = {name: getattr(dataset, name) for name in FEATURES}
    return build_method(config, entry, n_users=dataset.n_users, n_items=dataset.n_items, **features)


def default_hparams(config: ConfigDict, entry: Mapping[str, Any]) -> dict[str, float]:
    """Name and default of every hyperparameter of a variant's method, for which no dataset is needed."""
    row = np.zeros((1, 1), np.float32)
    return build_method(config, entry, n_users=1, n_items=1, user_features=row, item_features=row).hparams


def build_model(
    config: ConfigDict,
    entry: Mapping[str, Any],
    *,
    n_users: int,
    n_items: int,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_bags: Mapping[str, np.ndarray] | None = None,
    item_bags: Mapping[str, np.ndarray] | None = None,
    **changes,
) -> models.Model:
    """The model of pairs of one variant.

    Args:
        config: the experiment.
        entry: one entry of ``config.variants``.
        n_users: size of the user vocabulary.
        n_items: size of the item vocabulary.
        user_features: ``[n_users, d]``, read where ``model.features`` is set.
        item_features: ``[n_items, d]``, likewise.
        user_bags: by name ``[n_users, m]``, likewise.
        item_bags: by name ``[n_items, m]``, likewise.
        **changes: of ``config.model``.

    Raises:
        ConfigError: a name or an option is unknown, or the model does not fit the data.
    """
    settings = {**model_settings(config, entry), **changes}
    return MODELS[settings["name"]](
        n_users,
        n_items,
        settings,
        user_features=user_features,
        item_features=item_features,
        user_bags=user_bags,
        item_bags=item_bags,
    )


def build_method(
    config: ConfigDict,
    entry: Mapping[str, Any],
    *,
    n_users: int,
    n_items: int,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_bags: Mapping[str, np.ndarray] | None = None,
    item_bags: Mapping[str, np.ndarray] | None = None,
) -> Method:
    """The method of one variant, with the models that its function asks for by argument name.

    Args:
        config: the experiment.
        entry: one entry of ``config.variants``.
        n_users: size of the user vocabulary.
        n_items: size of the item vocabulary.
        user_features: ``[n_users, d]``, read where ``model.features`` is set.
        item_features: ``[n_items, d]``, likewise.
        user_bags: by name ``[n_users, m]``, likewise.
        item_bags: by name ``[n_items, m]``, likewise.

    Raises:
        ConfigError: a name or an option is unknown, or the model does not fit the method or the data.
    """
    factory = choose("method", entry["method"], {name: getattr(methods, name) for name in methods.__all__})
    settings = model_settings(config, entry)

    features = {
        "user_features": user_features,
        "item_features": item_features,
        "user_bags": user_bags,
        "item_bags": item_bags,
    }
    pairwise = functools.partial(build_model, config, entry, n_users=n_users, n_items=n_items, **features)

    def multitask() -> models.Model | None:
        if "model" in parameters and options.get("towers") != "shared":
            return None
        # The default names no choice; two towers are one, and not of a model that has an output for each task.
        if settings["name"] == "two_tower":
            raise ConfigError(
                f"{entry['method']} trains one network for all tasks; set model.name='mmoe', not 'two_tower'"
            )
        return _multitask(n_users, n_items, settings, **features)

    given: dict[str, Any] = {
        "model": pairwise,
        "imputation_model": pairwise,
        "adversary_model": pairwise,
        "biased_model": functools.partial(pairwise, bias=True),
        "exposure_model": lambda: models.biif_exposure(n_users, dim=settings["dim"]),
        "item_exposure_model": lambda: models.cjmf_exposure(dim=settings["dim"]),
        "propensity_model": lambda: models.additive_logistic(
            n_users, n_items, dim=settings["dim"] if settings["propensity_factors"] else None
        ),
        "multitask_model": multitask,
        "item_vectors": lambda: models.item_vectors,
        "user_vectors": lambda: models.user_vectors,
        "batch_size": lambda: config.train.batch_size,
        "chunk": lambda: config.train.chunk,
    }
    options = dict(entry["options"])
    parameters = argument_names(factory)
    for name in options:
        if name not in parameters or name in given:
            raise ConfigError(f"unknown option {name!r} of {entry['method']}; {nearest(name, parameters)}")
    for name in ("user_vectors", "item_vectors"):
        if name in parameters and settings["name"] != "mf":
            raise ConfigError(
                f"{entry['method']} shares the vectors of mf; set model.name='mf', not {settings['name']!r}"
            )
    arguments = {name: make() for name, make in given.items() if name in parameters} | options
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{entry['method']}: {error}") from error


def argument_names(factory) -> list[str]:
    """Names that a method's function takes, those of a ``**settings: Unpack[...]`` included."""
    names: list[str] = []
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (settings,) = typing.get_args(parameter.annotation)
            names.extend(settings.__annotations__)
        else:
            names.append(parameter.name)
    return names


def check_labels(name: str, entry: Mapping[str, Any], method: Method, dataset: Dataset) -> None:
    """Refuses to train a method that contrasts labels of observed pairs on a log that has one label only.

    Raises:
        DataError: it does.
    """
    if method.frame is not None:
        return
    labels = dataset.train.labels
    one_label = labels.size > 0 and labels[0] > 0 and bool((labels == labels[0]).all())
    if one_label and (entry["options"].get("feedback") == "ratings" or _draws_labels(method, dataset)):
        raise DataError(
            f"{name} needs observed pairs with both labels, and all {labels.size} training rows have label "
            f"{labels[0]:g}; for a log of clicks alone take mf, bpr, relmf, umf or biif"
        )


def _draws_labels(method: Method, dataset: Dataset) -> bool:
    """Whether the labels of a method's batches are those of the log; click methods draw theirs."""
    train = training.train_data(dataset.replace(train=dataset.train.take(np.arange(1))))
    # Traced, not run: labels that are marked by a dtype of their own show where they arrive.
    marked = train._replace(labels=train.labels.astype(jnp.float16))
    batches = jax.eval_shape(method.batches, marked, jax.random.key(0))
    if isinstance(batches, PairBatch):
        return batches.labels.dtype == marked.labels.dtype
    return isinstance(batches, CvrBatch)


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
