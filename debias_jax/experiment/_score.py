"""What the trained runs of one variant score on the test part."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from debias_jax import metrics, risks, training
from debias_jax.data.types import Dataset
from debias_jax.errors import DivergedError
from debias_jax.experiment import _results
from debias_jax.experiment._build import model_settings, variant_hparams
from debias_jax.experiment._fit import Judge
from debias_jax.methods.base import Method, TrainState
from debias_jax.training import evaluation
from debias_jax.training.mesh import inside, on_every_device


def score(
    config: ConfigDict,
    name: str,
    entry: Mapping[str, Any],
    method: Method,
    states: TrainState,
    dataset: Dataset,
    judge: Judge | None,
    mesh: Mesh | None = None,
) -> _results.Scored:
    """Test metrics of each run of a stacked state, on the devices of ``mesh`` if they lie there.

    Raises:
        DivergedError: a score is not finite.
    """
    n_runs = states.step.shape[0]
    evaluations, pcc, estimate = [], [], None
    if judge is not None:

        def evaluate(state, eval_set):
            with inside(mesh):
                return evaluation.evaluate(judge.protocol, method.predict, state, eval_set)

        one, eval_set = jax.jit(evaluate), on_every_device(mesh, judge.eval_set)
        for number in range(n_runs):
            state = jax.tree.map(lambda x, number=number: x[number], states)
            scores = jax.device_get(one(state, eval_set))
            try:
                evaluation.check_finite(scores)
            except DivergedError as error:
                raise DivergedError(f"{name}, run {number}, test part: {error}") from error
            evaluations.append(scores)
    if dataset.truth is not None and method.exposure is not None:
        train = on_every_device(mesh, training.train_data(dataset))
        truth = jnp.asarray(dataset.truth.exposure)

        def exposure_of_all(state, train):
            with inside(mesh):
                return evaluation.exposure_matrix(method.exposure, state, train)

        of_all = jax.jit(exposure_of_all)
        for number in range(n_runs):
            state = jax.tree.map(lambda x, number=number: x[number], states)
            exposure = of_all(state, train)
            exposure = jax.device_get(exposure)
            pcc.append(float(metrics.pearson(exposure, truth)))
            estimate = exposure if estimate is None else estimate
    return _results.Scored(
        name=name,
        dataset=dataset.name,
        method=entry["method"],
        options=dict(entry["options"]),
        model=model_settings(config, entry),
        protocol=None if judge is None else judge.protocol.to_dict(),
        seeds=tuple(int(seed) for seed in config.seeds),
        evaluations=evaluations,
        pcc=pcc,
        exposure=estimate,
        hparams=variant_hparams(config, entry, method),
        overlap=_overlap(method, states, dataset),
        seconds={"fit": 0.0, "evaluate": 0.0},
        history=[],
    )


def _overlap(method: Method, states: TrainState, dataset: Dataset) -> dict[str, float] | None:
    """How far the inverse propensities of a weighting method stretch its training rows; the first run's."""
    if "min_propensity" not in method.hparams:
        return None
    if method.exposure is None:
        propensity = jnp.asarray(dataset.train.propensities)
    else:
        train = training.train_data(dataset)
        state = jax.tree.map(lambda x: x[0], states)
        propensity = method.exposure(state, train, train.users, train.items)
    floor = jnp.maximum(states.hparams["min_propensity"][0], 1e-12)
    _, report = risks.clip_propensity(propensity, floor=floor)
    return {name: float(value) for name, value in report._asdict().items()} | {"rows": len(dataset.train)}
