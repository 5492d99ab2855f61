"""Ranges of a search, read from ``config.tune``: what is varied for a variant, and which settings come first."""

import math
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from debias_jax.errors import ConfigError, nearest
from debias_jax.experiment._config import fixed_names


def _own(config: ConfigDict, section: str, name: str, default: Any) -> tuple[str, Any]:
    """The entry of a variant in a section of ``config.tune``, or else of its method, and where it stands."""
    table = config.tune[section]
    keys = (name, config.variants[name].method)
    key, entry = next(((key, table[key]) for key in keys if key in table), (name, default))
    return f"tune.{section}.{key}", entry


def search_space(config: ConfigDict, name: str, known: Mapping[str, float]) -> dict[str, list]:
    """``{hyperparameter: [kind, low, high] or ["choice", [values]]}`` of a variant, by name.

    Args:
        config: the experiment.
        name: of the variant.
        known: its hyperparameters; those that it fixes are not searched.

    Raises:
        ConfigError: a range cannot be read or is of a hyperparameter that there is not, or nothing is searched.
    """
    fixed = fixed_names(config.variants[name])
    where, own = _own(config, "space", name, {})
    for key in own:
        # A variant of other options may lack hyperparameters of its method.
        if key not in known and name in config.tune.space:
            raise ConfigError(f"unknown hyperparameter {where}.{key}; {nearest(key, known)}")
    space = {}
    for key, spec in sorted({**config.tune.space.get("default", {}), **own}.items()):
        # A value that the user gave for every variant of the run is not searched.
        if key in known and key not in fixed and config.train.get(key) is None:
            space[key] = _spec(f"{where if key in own else 'tune.space.default'}.{key}", spec)
    if not space:
        but = f", of which it fixes {', '.join(fixed)}" if fixed else ""
        raise ConfigError(
            f"nothing is searched for {name}: it has the hyperparameters {', '.join(known)}{but}, and tune.space gives "
            f"a range for none that is free; add tune.space.{name}, or leave {name} out"
        )
    return space


def _spec(where: str, spec: Any) -> list:
    """A checked range, in the form that JSON would give it back."""
    try:
        kind, *values = spec
        if kind == "choice":
            (choices,) = values
            checked = [float(value) for value in choices]
            sound = len(checked) > 0
            values = [checked]
        else:
            values = low, high = [float(value) for value in values]
            sound = kind in ("log", "uniform") and low < high and (kind == "uniform" or low > 0)
            checked = values
        sound = sound and all(map(math.isfinite, checked))
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ConfigError(
            f"cannot read {where} = {spec!r}; write ('log', low, high) with 0 < low < high, ('uniform', low, high) "
            "with low < high, or ('choice', (value, ...))"
        )
    return [kind, *values]


def first_settings(config: ConfigDict, name: str, space: dict[str, list]) -> list[dict[str, float]]:
    """The settings that a variant's search begins with: its own, or what is searched for it of its method's, then
    what is searched for it of ``tune.first.default``.

    Raises:
        ConfigError: one sets what is not searched, or lies outside its range.
    """
    fixed = fixed_names(config.variants[name])
    where, settings = _own(config, "first", name, ())
    strict = name in config.tune.first
    given = [(where, setting, strict) for setting in settings]
    given += [("tune.first.default", setting, False) for setting in config.tune.first.get("default", ())]
    checked = []
    for where, setting, strict in given:
        free = {key: value for key, value in setting.items() if key not in fixed and (strict or key in space)}
        for key, value in free.items():
            if key not in space:
                raise ConfigError(f"{where} sets {key!r}, which is not searched; {nearest(key, space)}")
            kind, *values = space[key]
            inside = value in values[0] if kind == "choice" else values[0] <= value <= values[1]
            if not inside:
                raise ConfigError(f"{where} sets {key} to {value}, outside its range {space[key]}")
        setting = {key: float(value) for key, value in free.items()}
        # What a method is given for its own stands as often as it was given.
        if where != "tune.first.default" or (setting and setting not in checked):
            checked.append(setting)
    return checked


def distributions(space: Mapping[str, list]) -> dict[str, Any]:
    """The space as Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    kinds = {
        "log": lambda low, high: FloatDistribution(low, high, log=True),
        "uniform": FloatDistribution,
        "choice": CategoricalDistribution,
    }
    return {name: kinds[kind](*values) for name, (kind, *values) in space.items()}
