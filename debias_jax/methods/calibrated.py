"""Doubly robust learning with calibrated propensities and pseudo-labels (DCE): what ``dce_dr`` and ``dce_tdr`` share.

Three stages of the paper are three parts here: propensity experts are fitted once, after the propensity model; the
imputation model is trained as without calibration; and its experts take a step of their own in every step, on the
held-out rows of the batch. The prediction's loss reads calibrated propensities and calibrated pseudo-labels.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax._checks import check_choice, check_sizes
from debias_jax.methods._calibration import (
    FINAL_TEMPERATURE,
    FIT_LOSSES,
    HELD_OUT_SHARE,
    UserVectors,
    calibrate,
    fit_propensity_experts,
    gumbel_noise,
    held_out,
    init_experts,
    temperature,
)
from debias_jax.methods._propensity import Propensity, clip_population, clip_rows
from debias_jax.methods.base import CvrBatch, Method, PairBatch, Pairs, TrainData
from debias_jax.methods.cvr_batches import cvr_batches
from debias_jax.methods.doubly_robust import (
    FITTED_HPARAMS,
    IMPUTED_ERRORS,
    OBSERVED_HPARAMS,
    ORDERS,
    DoublyRobust,
    Errors,
    imputation_group,
)
from debias_jax.methods.recipes import (
    Context,
    Group,
    adam,
    alternating,
    predict_logits,
    prediction_group,
    total_and_count,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params, PyTree

CALIBRATION_HPARAMS = {
    "calibration_lr": 1e-2,
    "calibration_weight_decay": 1e-4,
    "propensity_calibration_lr": 5e-2,
    "propensity_calibration_weight_decay": 1e-4,
    "anneal_steps": 2000.0,
}
"""``calibration_*``: of the imputation experts; ``anneal_steps``: steps in which their temperature falls to its end."""

FITTED_SOURCES = ("estimated", "additive", "released")


class CalibratedPropensity(NamedTuple):
    """A fitted propensity model under its experts, to be used as a ``Propensity``.

    Attributes:
        source: fits the model.
        user_vectors: what the gate looks at, of the model's parameters.
        n_experts: number of experts.
        ratio: uniform pairs for each held-out pair in the fit of the experts.
        loss: of the fit of the experts.
    """

    source: Propensity
    user_vectors: UserVectors
    n_experts: int
    ratio: int
    loss: str

    def fit(self, key: Key, data: TrainData, hparams: dict[str, Array]) -> PyTree:
        """What the other functions read, as a method's ``extra["propensity"]``."""
        model_key, init_key, fit_key = jax.random.split(key, 3)
        fitted = self.source.fit(model_key, data, hparams)
        dim = gate_inputs(self.user_vectors, fitted, data.users[:1]).shape[-1]
        experts = fit_propensity_experts(
            lambda users, items: self.source.model.apply(fitted, users, items),
            lambda users: gate_inputs(self.user_vectors, fitted, users),
            init_experts(init_key, n_experts=self.n_experts, dim=dim),
            fit_key,
            data,
            learning_rate=hparams["propensity_calibration_lr"],
            weight_decay=hparams["propensity_calibration_weight_decay"],
            ratio=self.ratio,
            loss=self.loss,
        )
        return {"model": fitted, "experts": experts}

    def of_pairs(self, fitted: PyTree, users: Array, items: Array, key: Key | None) -> Array:
        """Propensities of any pairs, not clipped: of one expert drawn at random, or without a key their mean."""
        logits = self.source.model.apply(fitted["model"], users, items)
        vectors = gate_inputs(self.user_vectors, fitted["model"], users)
        if key is None:
            log_p, _ = calibrate(fitted["experts"], logits, vectors)
        else:
            noise = gumbel_noise(key, logits, fitted["experts"])
            log_p, _ = calibrate(
                fitted["experts"], logits, vectors, noise=noise, temperature=FINAL_TEMPERATURE
            )
        return jnp.exp(log_p)

    def of_rows(self, context: Context, rows: PairBatch) -> Array:
        """Clipped propensities of a batch's rows; 1 for padding."""
        key = jax.random.fold_in(context.key, 0)
        p = self.of_pairs(context.extra["propensity"], rows.users, rows.items, key)
        return clip_rows(p, context, rows)

    def of_population(self, context: Context, pairs: Pairs) -> Array:
        """Clipped propensities of a sample of all pairs."""
        key = jax.random.fold_in(context.key, 1)
        p = self.of_pairs(context.extra["propensity"], pairs.users, pairs.items, key)
        return clip_population(p, context)

    def exposure(self, state, data: TrainData, users: Array, items: Array) -> Array:
        """The ``exposure`` function of a method: the mean over the draw of the expert."""
        del data
        return self.of_pairs(state.extra["propensity"], users, items, None)


def gate_inputs(user_vectors: UserVectors, params: Params, users: Array) -> Array:
    """``[..., dim]``; a model with one number a user gives vectors of length 1."""
    vectors = user_vectors(params, users)
    return vectors[..., None] if vectors.ndim == users.ndim else vectors


def hold_out(batch: CvrBatch) -> tuple[CvrBatch, Array]:
    """The batch without the labels that are held out, and which rows those are (bool ``[B]``).

    The rows that stay count for those that are gone.
    """
    held = held_out(batch.rows.users, batch.rows.items) & batch.observed_rows
    rows = batch.rows._replace(weights=batch.rows.weights / (1.0 - HELD_OUT_SHARE))
    if batch.population is not None:
        rows = rows._replace(where=rows.where & ~held)
    return batch._replace(rows=rows, observed=batch.observed & ~held), held


def calibrated(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    user_vectors: UserVectors,
    prediction_loss: Callable[[Errors, Context], Array],
    imputation_loss: Callable[[Errors, Context], Array],
    population_propensity: bool = False,
    balance: str = "divided",
    n_experts: int = 5,
    calibration_ratio: int = 10,
    propensity_calibration: str = "cross_entropy",
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 4,
    weighting: str = "population",
    propensity: str = "estimated",
    propensity_batch_size: int | None = None,
    imputed_errors: str = "published",
    order: str = "imputation_first",
) -> Method:
    """The alternating method of prediction, imputation and the imputation's experts.

    Args:
        model: prediction model, any pairwise model.
        imputation_model: pseudo-label model.
        propensity_model: fitted to "observed or not" before training.
        user_vectors: ``(params, users) -> [..., dim]``, of the imputation and of the propensity model.
        prediction_loss: ``(errors, context) -> scalar``, of ``risks.dr``.
        imputation_loss: ``(errors, context) -> scalar``, of ``risks.imputation``.
        population_propensity: whether ``prediction_loss`` reads ``Errors.population_propensity``.
        balance: see ``methods.doubly_robust.DoublyRobust``.
        n_experts: experts of either model.
        calibration_ratio: uniform pairs for each held-out pair in the fit of the propensity experts.
        propensity_calibration: loss of that fit, see ``_calibration.fit_propensity_experts``.
        batch_size: see ``methods.doubly_robust.DoublyRobustSettings``, as for all below.
        frame: ditto.
        ratio: ditto.
        weighting: ditto.
        propensity: ditto, but fitted: ``"estimated"``, ``"additive"`` or ``"released"``.
        propensity_batch_size: ditto.
        imputed_errors: ditto.
        order: ditto.

    Returns:
        The method.

    Raises:
        ValueError: an option is unknown.
    """
    check_choice(FITTED_SOURCES, propensity=propensity)
    check_choice(FIT_LOSSES, propensity_calibration=propensity_calibration)
    check_choice(IMPUTED_ERRORS, imputed_errors=imputed_errors)
    check_choice(ORDERS, order=order)
    check_sizes(n_experts=n_experts, calibration_ratio=calibration_ratio)
    source = CalibratedPropensity(
        Propensity(propensity, propensity_model, propensity_batch_size),
        user_vectors,
        n_experts,
        calibration_ratio,
        propensity_calibration,
    )
    plain = DoublyRobust(model, imputation_model, source, imputed_errors, population_propensity, balance)
    balance_hparams = {} if balance == "none" else OBSERVED_HPARAMS

    def log_pseudo_labels(params, context: Context, users: Array, items: Array) -> tuple[Array, Array]:
        own = jax.lax.stop_gradient(params["imputation"])
        logits = imputation_model.apply(own, users, items)
        return calibrate(
            params["calibration"],
            logits,
            gate_inputs(user_vectors, own, users),
            noise=gumbel_noise(jax.random.fold_in(context.key, 2), logits, params["calibration"]),
            temperature=temperature(context.step / context.hparams["anneal_steps"]),
        )

    def prediction(params, context: Context, batch: CvrBatch):
        def pseudo_logits(_, users, items):
            log_q, log_not_q = log_pseudo_labels(params, context, users, items)
            return log_q - log_not_q

        calibrated_model = Model(imputation_model.init, pseudo_logits)
        terms = plain._replace(imputation_model=calibrated_model)
        return terms.prediction_term(prediction_loss)(params, context, hold_out(batch)[0])

    def imputation(params, context: Context, batch: CvrBatch):
        return plain.imputation_term(imputation_loss)(params, context, hold_out(batch)[0])

    def calibration(params, context: Context, batch: CvrBatch):
        rows, (_, held) = batch.rows, hold_out(batch)
        log_q, log_not_q = log_pseudo_labels(params, context, rows.users, rows.items)
        values = -(rows.labels * log_q + (1.0 - rows.labels) * log_not_q)
        return total_and_count(values / source.of_rows(context, rows), held)

    def init_calibration(key: Key) -> Params:
        one_user = jnp.zeros(1, jnp.int32)
        vectors = jax.eval_shape(lambda k: gate_inputs(user_vectors, imputation_model.init(k), one_user), key)
        return init_experts(key, n_experts=n_experts, dim=vectors.shape[-1])

    groups = {"prediction": prediction_group(model), "imputation": imputation_group(imputation_model)}
    if order == "imputation_first":
        groups = dict(reversed(groups.items()))
    groups["calibration"] = Group(
        init_calibration, adam(lr="calibration_lr", weight_decay="calibration_weight_decay")
    )
    return alternating(
        groups,
        losses={"prediction": prediction, "imputation": imputation, "calibration": calibration},
        batches=cvr_batches(frame, batch_size=batch_size, ratio=ratio, weighting=weighting),
        predict=predict_logits(model),
        hparams={**FITTED_HPARAMS, **balance_hparams, **CALIBRATION_HPARAMS},
        fit=lambda key, data, values: {"propensity": source.fit(key, data, values)},
        exposure=source.exposure,
    )
