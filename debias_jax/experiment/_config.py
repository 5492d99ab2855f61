"""Configs: the common skeleton, and checks that name the nearest valid key."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from debias_jax.errors import ConfigError, nearest

_RATES = ("lr", "imputation_lr", "propensity_lr")
_DECAYS = ("weight_decay", "imputation_weight_decay", "propensity_weight_decay")


def choose(what: str, name: str, table: Mapping[str, Any]) -> Any:
    """``table[name]``, or a ``ConfigError`` with the nearest valid name."""
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}; {nearest(name, table)}")
    return table[name]


def call_with_options(function: Callable, options: Mapping[str, Any], where: str):
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


def base_config() -> ConfigDict:
    """The keys that every experiment has, with their defaults.

    Returns:
        A locked ``ConfigDict``; ``configs/*.py`` fill it in.
    """
    config = ConfigDict()
    # The variants of the run in their order (a ConfigDict sorts its keys), and what each is.
    config.methods = ()
    config.variants = ConfigDict()
    config.baseline = "mf"
    config.seeds = (0, 1, 2, 3, 4)

    config.data = ConfigDict()
    config.data.name = "synthetic"
    config.data.path = ""
    config.data.options = ConfigDict()
    config.data.split = ConfigDict()

    config.model = ConfigDict()
    config.model.name = "mf"
    config.model.dim = 50
    config.model.bias = False
    config.model.init_scale = 0.1
    # Of two_tower: hidden layers, whether the towers read ids, whether the score is a cosine, and over what.
    config.model.hidden = (64,)
    config.model.ids = True
    config.model.normalize = False
    config.model.temperature = 1.0
    # Of two_tower and mmoe: whether they read the features of the dataset, two_tower its bags (genres) too.
    config.model.features = False
    # Of models of histories: keyword arguments of the model's function in ``debias_jax.models`` besides ``dim``.
    config.model.options = ConfigDict()
    # The released parametrisation of the propensity model: factors of ``dim`` and a linear layer, not two offsets.
    config.model.propensity_factors = False

    config.protocol = ConfigDict()
    config.protocol.validation = "snips"
    config.protocol.test = "strict"
    config.protocol.monitor = "snips_dcg@3"
    config.protocol.metrics = ()
    config.protocol.validation_metrics = ()
    config.protocol.headline = "ndcg@5"

    config.train = ConfigDict()
    config.train.epochs = 100
    config.train.batch_size = 1024
    config.train.eval_every = 10
    # Whether the untrained model is evaluated too, as epoch 0; that evaluation counts like any other.
    config.train.eval_at_start = False
    config.train.patience = 0
    # Stops on a training log, as released programs do: "observed_loss", say; "" for never. See training.early_stop.
    config.train.plateau = ConfigDict({"log": "", "tolerance": 1e-4, "patience": 7})
    config.train.restore = "last"
    # Seconds between checkpoints; 0 to save with every evaluation. Where epochs are short, saving costs more than they.
    config.train.save_seconds = 0.0
    config.train.strategy = "auto"
    # Of retrieval: rows of a batch's score matrix that are held at once; unset: all.
    config.train.chunk = config_dict.placeholder(int)
    # Unset: each variant's own (tuned) value. A value given here holds for every variant of the run.
    config.train.lr = config_dict.placeholder(float)
    config.train.weight_decay = config_dict.placeholder(float)

    config.tune = ConfigDict()
    config.tune.trials = 30
    config.tune.batch = 6
    config.tune.seed = 0
    config.tune.prune = True
    # Trials drawn at random, before the sampler models the finished ones; of few ``trials``, take a third.
    config.tune.startup = 10
    # What is searched, by hyperparameter: ("log", low, high), ("uniform", low, high) or ("choice", (value, ...)).
    # "default" holds for every method that has the name; an entry of a variant, or else of its method, comes on top.
    config.tune.space = ConfigDict({"default": dict.fromkeys(_RATES, ("log", 3e-4, 1e-1))})
    config.tune.space.default.update(dict.fromkeys(_DECAYS, ("log", 1e-7, 1e-1)))
    config.tune.space.default.pseudo_count = ("log", 0.1, 100.0)
    config.tune.space.expomf = {
        "regularization": ("log", 1e-5, 10.0),
        "initial_exposure": ("log", 1e-3, 0.3),
    }
    config.tune.space.ubpr = {"beta": ("log", 1e-4, 1.0)}
    config.tune.space.wmf = {"alpha": ("log", 0.1, 100.0), "regularization": ("log", 1e-2, 100.0)}
    # Settings to begin with (published ones, say), by variant or method: a list of dicts. Those of "default" come next,
    # for every method with what it has of them.
    config.tune.first = ConfigDict()
    # Of a figure over batch sizes: config.train's lr and weight_decay at a size ("4096"), as they were found there.
    config.at_batch_size = ConfigDict()
    # Devices: parts that a batch is split into, and parts of a table. See training.make_mesh.
    config.mesh = ConfigDict({"data": 1, "table": 1})
    config.tensorboard = False
    return config.lock()


def variant(
    method: str,
    *,
    options: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    fixed: Mapping[str, float] | None = None,
    train: Mapping[str, Any] | None = None,
    **hparams: float,
) -> ConfigDict:
    """A method with its options and hyperparameters, as an entry of ``config.variants``.

    Args:
        method: a name of ``debias_jax.methods``.
        options: keyword arguments of the method's function.
        model: what differs from ``config.model`` for this variant.
        fixed: hyperparameters that make the variant what it is, such as a learning rate of 0: a search leaves them
            alone, and so do tuned settings. Their names stand under ``"fixed"``, their values among the others.
        train: what this variant sets in ``config.train`` where that says 0: epochs, batch size. See
            ``use_own_schedules``.
        **hparams: the other numeric hyperparameters; ``fixed`` comes on top.

    Returns:
        The entry.
    """
    own_train = {"train": dict(train)} if train else {}
    return ConfigDict(
        {
            **own_train,
            "method": method,
            "options": options or {},
            "model": model or {},
            "hparams": {name: float(value) for name, value in {**hparams, **(fixed or {})}.items()},
            "fixed": tuple(fixed or ()),
        }
    )


def fixed_names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The hyperparameters that define a variant; none in entries of before there were any."""
    return tuple(entry.get("fixed", ()))


def select_variants(
    config: ConfigDict, argument: str, table: Mapping[str, ConfigDict], *, groups: Mapping[str, Iterable[str]]
) -> None:
    """Puts the variants named after the colon of ``--config=configs/x.py:a,b`` into a config.

    Args:
        config: receives ``methods`` and ``variants``.
        argument: the text after the colon: names separated by commas, a name of ``groups``, or ``"all"``.
        table: every variant of this dataset.
        groups: names of lists of variants.

    Raises:
        ConfigError: nothing is named, or a name is unknown.
    """
    if not argument:
        raise ConfigError(
            f"name a method after the colon, --config=configs/<dataset>.py:METHOD; {nearest('', [*table, *groups])}"
        )
    known = {**dict.fromkeys(table), **dict.fromkeys(groups), "all": None}
    names: list[str] = []
    for name in argument.split(","):
        choose("method or variant", name, known)
        names.extend(table if name == "all" else groups.get(name, [name]))
    config.methods = tuple(dict.fromkeys(names))
    config.variants = ConfigDict({name: table[name] for name in config.methods})


def only(config: ConfigDict, name: str) -> ConfigDict:
    """A copy of a config that has one of its variants, and for 0 in ``config.train`` what the variant says."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.methods = (name,)
        copy.variants = ConfigDict({name: config.variants[name]})
        for key in config.variants[name].get("train", {}):
            copy.train[key] = schedule(config, config.variants[name], key)
    return copy


def schedule(config: ConfigDict, entry: Mapping[str, Any], key: str) -> Any:
    """``config.train[key]``, or where that is 0 what the variant says."""
    return config.train[key] or entry.get("train", {}).get(key, config.train[key])


def use_own_schedules(config: ConfigDict) -> None:
    """Puts what the variants say on ``config.train`` there, where flags may change it for all of them.

    Where they differ it is 0 there, for each its own; a variant that says nothing keeps what the config said before.
    """
    entries = [config.variants[name] for name in config.methods]
    for key in sorted({key for entry in entries for key in entry.get("train", {})}):
        before = config.train[key]
        for entry in entries:
            entry.train = ConfigDict({key: before, **entry.get("train", {})})
        values = {entry.train[key] for entry in entries}
        config.train[key] = values.pop() if len(values) == 1 else 0


def use_own_settings(config: ConfigDict) -> None:
    """``use_own_schedules``; and puts the model on which all variants agree into the config, where flags may change
    it; where they differ, each keeps its own.
    """
    use_own_schedules(config)
    entries = [config.variants[name] for name in config.methods]
    if all(entry.model == entries[0].model for entry in entries):
        config.model.update(entries[0].model)
        for entry in entries:
            entry.model = ConfigDict()


def to_dict(config: ConfigDict) -> dict[str, Any]:
    """The resolved config as JSON values."""
    return json.loads(config.to_json_best_effort()) if isinstance(config, ConfigDict) else dict(config)


_LATER = ("tune", "at_batch_size", "mesh")
"""Keys that the oldest workdirs do not have, whose defaults are what was done then."""


def from_dict(values: Mapping[str, Any]) -> ConfigDict:
    """The config that ``to_dict`` wrote.

    Raises:
        ConfigError: it is not one.
    """
    config = base_config()
    required = [name for name in config if name not in _LATER]
    missing = [name for name in required if not isinstance(values, Mapping) or name not in values]
    if missing:
        raise ConfigError(f"this is no config of an experiment: {', '.join(missing)} missing")
    with config.unlocked():
        config.update(ConfigDict(dict(values)))
        config.methods = tuple(values["methods"])
        config.seeds = tuple(values["seeds"])
        if "tune" in values:
            # An update would bring back the ranges that the written config did without.
            config.tune.space = ConfigDict(values["tune"]["space"])
    return config
