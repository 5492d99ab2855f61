"""Rows of a table: each a run of its own, that is resumed or read back; and what bounds them."""

import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from debias_jax import experiment
from debias_jax._reproduction import markdown
from debias_jax.data.types import Dataset
from debias_jax.experiment._config import only
from debias_jax.experiment._fit import Judge, check_devices, mesh_of
from debias_jax.experiment._results import Scored
from debias_jax.training import evaluation


def changed(config: ConfigDict, change: Mapping[str, Any]) -> ConfigDict:
    """A copy of a config with nested changes."""
    copy = config.copy_and_resolve_references()
    with copy.unlocked():
        copy.update(ConfigDict(dict(change)))
    return copy


def run_rows(config: ConfigDict, workdir: pathlib.Path) -> list[Scored]:
    """Runs every variant in a folder of its own, or reads it back where it is finished."""
    if mesh_of(config) is not None:
        check_devices(config, experiment.load_dataset(config)[0])
    scored = []
    for name in config.methods:
        scored += experiment.run_scored(only(config, name), workdir / name, quiet=True)
        values = scored[-1].values()[config.protocol.headline]
        print(
            f"{workdir / name}: {config.protocol.headline} {markdown.measured(values, 4)}, "
            f"{scored[-1].seconds['fit']:.1f} s",
            flush=True,
        )
    return scored


def bounds(dataset: Dataset, judge: Judge, seeds: Sequence[int]) -> tuple[Scored, Scored]:
    """What random scores and the test labels themselves reach, by the evaluator that scores the runs.

    Args:
        dataset: its size and name.
        judge: protocol and evaluation set.
        seeds: of the random scores, one draw each.

    Returns:
        The floor and the ceiling, as variants ``random`` and ``oracle``.
    """
    protocol, eval_set = judge
    labels = np.zeros((dataset.n_users, dataset.n_items), np.float32)
    where = np.asarray(eval_set.where)
    users = np.broadcast_to(np.asarray(eval_set.users)[:, None], where.shape)
    labels[users[where], np.asarray(eval_set.items)[where]] = np.asarray(eval_set.labels)[where]

    def look_up(scores, users, items):
        return scores[users, items]

    one = jax.jit(functools.partial(evaluation.evaluate, protocol, look_up))

    def scored(name: str, own_seeds: Sequence[int], matrices) -> Scored:
        fields = {
            "name": name,
            "dataset": dataset.name,
            "method": name,
            "protocol": protocol.to_dict(),
            "seeds": tuple(own_seeds),
            "evaluations": [jax.device_get(one(jnp.asarray(scores), eval_set)) for scores in matrices],
            "pcc": [],
            "hparams": {},
            "history": [],
        }
        return Scored(**dict.fromkeys(Scored._fields) | fields)

    random = (np.random.default_rng(seed).random(labels.shape, np.float32) for seed in seeds)
    return scored("random", seeds, random), scored("oracle", (0,), [labels])
