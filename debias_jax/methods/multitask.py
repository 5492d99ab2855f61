"""What the multi-task methods share: towers, with or without common parameters, and the losses on their logits.

A tower gives one logit for any pair: the propensity tower that of "observed" (a click), the prediction tower that of
the label (a conversion), the imputation tower that of a pseudo-label. All are trained at once on one sum of losses. A
loss reads logits, never parameters, so that it does not know whether the towers share any; what a loss treats as
constant is detached at the logits, and towers with common parameters then still meet in them.
"""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp

from debias_jax import losses, risks
from debias_jax._checks import check_choice
from debias_jax.methods._propensity import PROPENSITY_HPARAMS
from debias_jax.methods.base import CvrBatch, Method, TrainData, TrainState
from debias_jax.methods.cvr_batches import cvr_batches
from debias_jax.methods.doubly_robust import (
    IMPUTATION_HPARAMS,
    Errors,
    cross_entropy,
    imputation_group,
)
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    Group,
    adam,
    as_term,
    prediction_group,
    supervised,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Params

TOWERS = ("separate", "shared")

TOWER_ORDER = ("propensity", "prediction", "imputation")
"""The towers in the last axis of a multi-task model."""


class TowerLogits(NamedTuple):
    """One logit a tower and pair; ``imputation`` is None where a method has no such tower."""

    propensity: Array
    prediction: Array
    imputation: Array | None = None


class Towers(NamedTuple):
    """Towers with their parameters.

    Attributes:
        groups: parameter groups; one group for towers that share parameters.
        logits: ``(params, users, items) -> TowerLogits``, ``params`` those of all groups.
        hparams: hyperparameters that the groups read.
    """

    groups: dict[str, Group]
    logits: Callable[[dict[str, Params], Array, Array], TowerLogits]
    hparams: dict[str, float]


def separate_towers(model: Model, propensity_model: Model, imputation_model: Model | None = None) -> Towers:
    """Towers that are models of their own, each with its own learning rate and weight decay."""
    models = {"propensity": propensity_model, "prediction": model}
    groups = {
        "propensity": Group(
            propensity_model.init, adam(lr="propensity_lr", weight_decay="propensity_weight_decay")
        ),
        "prediction": prediction_group(model),
    }
    hparams = {**ADAM_HPARAMS, "propensity_lr": 1e-2, "propensity_weight_decay": 1e-6}
    if imputation_model is not None:
        models["imputation"] = imputation_model
        groups["imputation"] = imputation_group(imputation_model)
        hparams |= IMPUTATION_HPARAMS

    def logits(params: dict[str, Params], users: Array, items: Array) -> TowerLogits:
        return TowerLogits(
            **{name: tower.apply(params[name], users, items) for name, tower in models.items()}
        )

    return Towers(groups, logits, hparams)


def shared_towers(multitask_model: Model, *, imputation: bool) -> Towers:
    """The first towers of a multi-task model, one group of parameters under ``"prediction"``.

    Args:
        multitask_model: ``apply(params, users, items) -> [..., T]`` logits in the order of ``TOWER_ORDER``.
        imputation: whether an imputation tower is needed: T is then at least 3, else 2.
    """
    needed = TOWER_ORDER if imputation else TOWER_ORDER[:2]

    def logits(params: dict[str, Params], users: Array, items: Array) -> TowerLogits:
        values = multitask_model.apply(params["prediction"], users, items)
        if values.shape[-1] < len(needed):
            raise ValueError(
                f"multitask_model gives {values.shape[-1]} logits a pair, and this method needs {len(needed)}: "
                f"{', '.join(needed)}"
            )
        return TowerLogits(*(values[..., number] for number in range(len(needed))))

    return Towers({"prediction": prediction_group(multitask_model)}, logits, dict(ADAM_HPARAMS))


def choose_towers(towers: str, *, multitask_model: Model | None, **models: Model | None) -> Towers:
    """``separate_towers`` of ``models`` or ``shared_towers`` of ``multitask_model``, as ``towers`` says.

    Raises:
        ValueError: ``towers`` is unknown, or a model that it needs is None.
    """
    check_choice(TOWERS, towers=towers)
    needed = models if towers == "separate" else {"multitask_model": multitask_model}
    if missing := [name for name, model in needed.items() if model is None]:
        raise ValueError(f"towers={towers!r} needs {' and '.join(missing)}")
    if towers == "separate":
        return separate_towers(**models)
    return shared_towers(multitask_model, imputation="imputation_model" in models)


class TowerBatch(NamedTuple):
    """A batch with the logits of its rows and of its sample of all pairs."""

    batch: CvrBatch
    rows: TowerLogits
    sample: TowerLogits

    def ctr_loss(self) -> Array:
        """CTR loss: mean over all pairs of CE(p; o)."""
        observed = self.batch.sample.observed
        return jnp.mean(cross_entropy(self.sample.propensity, observed.astype(jnp.float32)))

    def ctcvr_loss(self) -> Array:
        """CTCVR loss: mean over all pairs of CE(p r_hat; o r)."""
        return losses.umf(
            self.sample.prediction,
            self.batch.sample.labels,
            exposure=jax.nn.sigmoid(self.sample.propensity),
        )

    def prediction_errors(self, context: Context, *, detach_propensity: bool) -> Errors:
        """Errors with the gradient of the prediction tower: pseudo-labels are constants."""

        def imputed(logits: TowerLogits) -> Array:
            if logits.imputation is None:
                return jnp.zeros_like(logits.prediction)
            pseudo = jax.lax.stop_gradient(jax.nn.sigmoid(logits.imputation))
            return cross_entropy(logits.prediction, pseudo)

        return self._errors(context, imputed, self.rows.prediction, detach_propensity)

    def imputation_errors(self, context: Context) -> Errors:
        """Errors with the gradient of the imputation tower: predictions and propensities are constants."""

        def imputed(logits: TowerLogits) -> Array:
            return cross_entropy(jax.lax.stop_gradient(logits.prediction), jax.nn.sigmoid(logits.imputation))

        return self._errors(context, imputed, jax.lax.stop_gradient(self.rows.prediction), True)

    def _errors(self, context, imputed, row_logits: Array, detach_propensity: bool) -> Errors:
        rows = self.batch.rows
        propensity = jax.nn.sigmoid(self.rows.propensity)
        if detach_propensity:
            propensity = jax.lax.stop_gradient(propensity)
        return Errors(
            errors=cross_entropy(row_logits, rows.labels),
            imputed=imputed(self.rows),
            observed=self.batch.observed,
            propensity=jnp.maximum(propensity, context.hparams["min_propensity"]),
            weights=rows.weights,
            population=None if self.batch.population is None else imputed(self.sample),
            where=rows.where,
        )


class MultitaskSettings(TypedDict, total=False):
    """Keyword arguments that every multi-task method takes.

    Attributes:
        batch_size: B, observed rows a step; default 1024.
        frame: how a step samples all pairs: ``"pairs"`` (default), ``"block"``, ``"tiles"`` or ``"uniform"``; see
            ``methods.cvr_batches``.
        ratio: G, pairs of the population for each observed row; default 4.
        weighting: what an observed row counts against a pair of the population: ``"population"`` (default) or
            ``"batch"``; see ``methods.cvr_batches``.
    """

    batch_size: int
    frame: str
    ratio: int
    weighting: str


def multitask(
    towers: Towers,
    *,
    terms: Callable[[TowerBatch, Context], dict[str, Array]],
    weights: dict[str, float],
    min_propensity: float = PROPENSITY_HPARAMS["min_propensity"],
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 4,
    weighting: str = "population",
) -> Method:
    """The supervised method that minimises a weighted sum of losses on the logits of towers.

    Args:
        towers: the towers.
        terms: ``(batch, context) -> {name: loss}``.
        weights: default of the hyperparameter ``NAME_weight`` of each loss; a loss that is not named weighs 1. ``ctr``
            and ``ctcvr`` are the ``TowerBatch`` losses of these names, computed where they are named.
        min_propensity: default of the hyperparameter of that name.
        batch_size: see ``MultitaskSettings``, as for all below.
        frame: ditto.
        ratio: ditto.
        weighting: ditto.

    Returns:
        The method; its logs hold every loss as ``loss/NAME`` and, as ``loss``, the sum without the imputation's.

    Raises:
        ValueError: an option is unknown.
    """
    shared_terms = {"ctr": TowerBatch.ctr_loss, "ctcvr": TowerBatch.ctcvr_loss}

    def loss(params, context: Context, batch: CvrBatch):
        logits = {
            name: towers.logits(params, pairs.users, pairs.items)
            for name, pairs in (("rows", batch.rows), ("sample", batch.sample))
        }
        tower_batch = TowerBatch(batch, **logits)
        values = {name: term(tower_batch) for name, term in shared_terms.items() if name in weights}
        values |= terms(tower_batch, context)
        total = sum(context.hparams.get(f"{name}_weight", 1.0) * value for name, value in values.items())
        logs = {f"loss/{name}": value for name, value in values.items()}
        # What the imputation chases moves with the prediction: a sum with its loss tells nothing about progress.
        imputation = context.hparams.get("imputation_weight", 1.0) * values.get("imputation", 0.0)
        return *as_term(total), {"loss": total - imputation, **logs}

    def predict(state: TrainState, users: Array, items: Array) -> Array:
        return towers.logits(state.params, users, items).prediction

    def exposure(state: TrainState, data: TrainData, users: Array, items: Array) -> Array:
        del data
        return jax.nn.sigmoid(towers.logits(state.params, users, items).propensity)

    return supervised(
        towers.groups,
        loss=loss,
        batches=cvr_batches(
            frame, batch_size=batch_size, ratio=ratio, weighting=weighting, with_observed=True
        ),
        predict=predict,
        hparams={
            **towers.hparams,
            "min_propensity": min_propensity,
            **{f"{name}_weight": value for name, value in weights.items()},
        },
        exposure=exposure,
    )


def ips_term(batch: TowerBatch, context: Context, *, detach_propensity: bool) -> Array:
    """(1 / m) sum of o e / p over the sample of all pairs: ``risks.dr`` without imputed errors."""
    errors = batch.prediction_errors(context, detach_propensity=detach_propensity)
    return errors.risk(risks.dr)


def dr_terms(batch: TowerBatch, context: Context, *, detach_propensity: bool) -> dict[str, Array]:
    """The doubly robust risk, and the inversely weighted squared error of the imputed errors."""
    errors = batch.prediction_errors(context, detach_propensity=detach_propensity)
    return {
        "cvr": errors.risk(risks.dr),
        "imputation": batch.imputation_errors(context).risk(risks.dr_jl),
    }
