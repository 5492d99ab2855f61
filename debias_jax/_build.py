"""From a config to a dataset, a method and its hyperparameters."""

import functools
import inspect
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from debias_jax import data, methods, models
from debias_jax._config import choose
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DataError, nearest
from debias_jax.methods.base import Method

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


SPLITS = {
    "biif": data.splits.biif,
    "random": data.splits.random_split,
    "random_test_then_biif": random_test_then_biif,
}


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


def check_labels(name: str, entry: Mapping[str, Any], dataset: Dataset) -> None:
    """Refuses to train a method that contrasts labels of shown pairs on a log that has one label only.

    Raises:
        DataError: it does.
    """
    options = entry["options"]
    reads_ratings = (
        entry["method"] in ("ips", "snips")
        or options.get("frame") == "observed"
        or options.get("feedback") == "ratings"
    )
    labels = dataset.train.labels
    if reads_ratings and (labels == labels[0]).all():
        raise DataError(
            f"{name} needs shown pairs with both labels, and all {len(labels)} training rows have label "
            f"{labels[0]:g}; for a log of clicks alone take mf, bpr, relmf, umf or biif"
        )


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
