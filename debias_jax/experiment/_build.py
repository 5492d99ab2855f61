"""From a config to a method and its hyperparameters."""

import functools
import inspect
import typing
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from debias_jax import methods, models, training
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DataError, nearest
from debias_jax.experiment._config import base_config, call_with_options, choose, schedule, to_dict
from debias_jax.methods.base import CvrBatch, Method, PairBatch


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
        return call_with_options(
            functools.partial(factory, **taken), settings.get("options", {}), "model.options"
        )

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


class Features(TypedDict, total=False):
    """What ``model.features`` lets a model read of a dataset, by the names that datasets and models have for it.

    Attributes:
        user_features: ``[n_users, d]``.
        item_features: ``[n_items, d]``.
        user_bags: by name ``[n_users, m]``.
        item_bags: by name ``[n_items, m]``.
    """

    user_features: np.ndarray | None
    item_features: np.ndarray | None
    user_bags: Mapping[str, np.ndarray] | None
    item_bags: Mapping[str, np.ndarray] | None


FEATURES = tuple(Features.__annotations__)
"""The names of ``Features``."""


def _check_names(features: Mapping[str, Any]) -> None:
    for name in features:
        if name not in FEATURES:
            raise TypeError(f"unknown keyword argument {name!r}; {nearest(name, FEATURES)}")


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
    bias: bool | None = None,
    **features: Unpack[Features],
) -> models.Model:
    """The model of pairs of one variant.

    Args:
        config: the experiment.
        entry: one entry of ``config.variants``.
        n_users: size of the user vocabulary.
        n_items: size of the item vocabulary.
        bias: whether it has biases; None for what ``model.bias`` says.
        **features: of the dataset, read where ``model.features`` is set.

    Raises:
        ConfigError: a name or an option is unknown, or the model does not fit the data.
        TypeError: features of a name that there is not.
    """
    _check_names(features)
    settings = model_settings(config, entry)
    if bias is not None:
        settings["bias"] = bias
    return MODELS[settings["name"]](n_users, n_items, settings, **features)


def build_method(
    config: ConfigDict, entry: Mapping[str, Any], *, n_users: int, n_items: int, **features: Unpack[Features]
) -> Method:
    """The method of one variant, with the models that its function asks for by argument name.

    Args:
        config: the experiment.
        entry: one entry of ``config.variants``.
        n_users: size of the user vocabulary.
        n_items: size of the item vocabulary.
        **features: of the dataset, read where ``model.features`` is set.

    Raises:
        ConfigError: a name or an option is unknown, or the model does not fit the method or the data.
        TypeError: features of a name that there is not.
    """
    _check_names(features)
    factory = choose("method", entry["method"], {name: getattr(methods, name) for name in methods.__all__})
    settings = model_settings(config, entry)
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
        "batch_size": lambda: schedule(config, entry, "batch_size"),
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


_OF_TOWERS = ("hidden", "ids", "normalize", "temperature")
"""Keys of ``config.model`` that two_tower alone reads."""


def check_read(config: ConfigDict) -> None:
    """Refuses what is set for a run and read by none of its variants: a rate, or what only another model has.

    Raises:
        ConfigError: there is something.
    """
    entries = [config.variants[each] for each in config.methods]
    for name in ("lr", "weight_decay"):
        if config.train.get(name) is None:
            continue
        known = {each: default_hparams(config, config.variants[each]) for each in config.methods}
        if not any(name in hparams for hparams in known.values()):
            own = "; ".join(
                f"{each} has {', '.join(sorted(hparams)) or 'none'}" for each, hparams in known.items()
            )
            raise ConfigError(
                f"train.{name} is {config.train[name]:g}, and no method of this run has that hyperparameter ({own}); "
                f"leave train.{name} unset"
            )
    names = {model_settings(config, entry)["name"] for entry in entries}
    readers = {**dict.fromkeys(_OF_TOWERS, {"two_tower"}), "options": set(SEQUENCE_MODELS)}
    defaults = base_config().model
    for key, models_with_it in readers.items():
        value = to_dict(config.model)[key]
        if value != to_dict(defaults)[key] and not names & models_with_it:
            raise ConfigError(
                f"model.{key} is {value}, which {', '.join(sorted(names))} does not read; take "
                f"model.name={' or '.join(map(repr, sorted(models_with_it)))}, or leave model.{key} as it is"
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
