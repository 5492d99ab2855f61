"""What the doubly robust methods share: predicted and imputed errors, propensities, frames, and the two loss terms.

The imputation model gives a pseudo-label y in (0, 1) for any pair; the imputed error of a pair is the cross-entropy of
the prediction against it. In the prediction's step the pseudo-labels are constants, in the imputation's step the
predictions are.
"""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import optax

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods._propensity import PROPENSITY_HPARAMS, Propensity
from debias_jax.methods.base import CvrBatch, Method
from debias_jax.methods.cvr_batches import cvr_batches
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    Group,
    LossTerm,
    adam,
    alternating,
    as_term,
    predict_logits,
    prediction_group,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Params

IMPUTATION_HPARAMS = {"imputation_lr": 1e-2, "imputation_weight_decay": 1e-4}

OBSERVED_HPARAMS = {"observed_weight": 1.0}
"""``observed_weight`` multiplies the weight of the observed rows against the population in the prediction's step: 1 for
the weighting of the frame; with ``weighting="population"`` the value N / (n G) gives that of a released program with
ratio G. A loss that is linear in the weights is divided by it (``DoublyRobust.balance``), so that the observed rows
count as before and weight decay keeps its meaning. It must be positive."""

FITTED_HPARAMS = {**ADAM_HPARAMS, **IMPUTATION_HPARAMS, **PROPENSITY_HPARAMS}
"""Of a prediction and an imputation model with propensities that are fitted before."""

IMPUTED_ERRORS = ("published", "released")
ORDERS = ("imputation_first", "prediction_first")
BALANCES = ("divided", "kept", "none")


class Errors(NamedTuple):
    """Errors of one batch, as ``risks`` takes them.

    Attributes:
        errors: ``[B]`` cross-entropy of the predictions against the labels.
        imputed: ``[B]`` imputed errors of the rows.
        observed: bool ``[B]``.
        propensity: ``[B]``, clipped.
        weights: ``[B]`` what one observed row counts against one pair of the population.
        population: imputed errors of the population sample; None where the rows are the sample.
        where: bool ``[B]``.
        population_propensity: like ``population``, clipped; None where the method does not ask for it.
    """

    errors: Array
    imputed: Array
    observed: Array
    propensity: Array
    weights: Array
    population: Array | None
    where: Array
    population_propensity: Array | None = None

    def risk(self, function: Callable[..., Array], **settings) -> Array:
        """``function(errors, imputed, observed=..., propensity=..., ...)`` of ``risks``."""
        return self.row_risk(function, population=self.population, **settings)

    def row_risk(self, function: Callable[..., Array], **settings) -> Array:
        """``risk`` for functions that know no population."""
        return function(
            self.errors,
            self.imputed,
            observed=self.observed,
            propensity=self.propensity,
            weights=self.weights,
            where=self.where,
            **settings,
        )


def cross_entropy(logits: Array, targets: Array) -> Array:
    """CE(sigmoid(logits); targets) a pair."""
    return optax.losses.sigmoid_binary_cross_entropy(logits, targets)


class DoublyRobust(NamedTuple):
    """The models and settings of one doubly robust method.

    Attributes:
        model: prediction model.
        imputation_model: pseudo-label model.
        propensity: source of propensities; None for a method without any, for which all are 1.
        imputed_errors: see ``DoublyRobustSettings``.
        population_propensity: whether the errors tell the propensities of the population sample.
        balance: what becomes of a prediction loss when ``observed_weight`` has multiplied the weights: ``"divided"`` by
            it, as a loss linear in the weights must be to keep its scale; ``"kept"``, for one that divides by their sum
            itself; ``"none"`` for a method without that hyperparameter, of which no part would change.
    """

    model: Model
    imputation_model: Model
    propensity: Propensity | None
    imputed_errors: str = "published"
    population_propensity: bool = False
    balance: str = "divided"

    def prediction_errors(self, params: dict[str, Params], context: Context, batch: CvrBatch) -> Errors:
        """Errors whose gradient is the prediction's: the pseudo-labels are constants."""

        def imputed(logits, users, items):
            pseudo = jax.nn.sigmoid(self.imputation_model.apply(params["imputation"], users, items))
            return cross_entropy(logits, jax.lax.stop_gradient(pseudo))

        return self._errors(
            lambda *pair: self.model.apply(params["prediction"], *pair), imputed, context, batch
        )

    def imputation_errors(self, params: dict[str, Params], context: Context, batch: CvrBatch) -> Errors:
        """Errors whose gradient is the imputation's: the predictions are constants."""

        def predict(users, items):
            return jax.lax.stop_gradient(self.model.apply(params["prediction"], users, items))

        def imputed(logits, users, items):
            pseudo_logits = self.imputation_model.apply(params["imputation"], users, items)
            if self.imputed_errors == "released":
                return saturating_cross_entropy(pseudo_logits, jax.nn.sigmoid(logits))
            return cross_entropy(logits, jax.nn.sigmoid(pseudo_logits))

        return self._errors(predict, imputed, context, batch)

    def _errors(self, predict, imputed, context: Context, batch: CvrBatch) -> Errors:
        rows = batch.rows
        logits = predict(rows.users, rows.items)
        if self.propensity is None:
            propensity = jnp.ones_like(logits)
        else:
            propensity = self.propensity.of_rows(context, rows)
        population = population_propensity = None
        if batch.population is not None:
            pairs = (batch.population.users, batch.population.items)
            population = imputed(predict(*pairs), *pairs)
            if self.population_propensity:
                population_propensity = self.propensity.of_population(context, batch.population)
        return Errors(
            errors=cross_entropy(logits, rows.labels),
            imputed=imputed(logits, rows.users, rows.items),
            observed=batch.observed,
            propensity=propensity,
            weights=rows.weights,
            population=population,
            where=rows.where,
            population_propensity=population_propensity,
        )

    def prediction_term(self, loss: Callable[[Errors, Context], Array]) -> LossTerm:
        """The loss term of the prediction; it logs ``observed_loss``, see ``doubly_robust``."""

        def term(params, context: Context, batch: CvrBatch):
            errors = self.prediction_errors(params, context, batch)
            observed_loss = risks.ips(
                errors.errors, observed=errors.observed, propensity=errors.propensity, where=errors.where
            )
            if self.balance == "none":
                return *as_term(loss(errors, context)), {"observed_loss": observed_loss}
            factor = context.hparams["observed_weight"]
            value = loss(errors._replace(weights=errors.weights * factor), context)
            value = value / factor if self.balance == "divided" else value
            return *as_term(value), {"observed_loss": observed_loss}

        return term

    def imputation_term(self, loss: Callable[[Errors, Context], Array]) -> LossTerm:
        """The loss term of the imputation."""

        def term(params, context: Context, batch: CvrBatch):
            return as_term(loss(self.imputation_errors(params, context, batch), context))

        return term


@jax.custom_vjp
def saturating_cross_entropy(logits: Array, targets: Array) -> Array:
    """CE(sigmoid(logits); targets) as programs compute it that hold probabilities in float32.

    Equal to ``cross_entropy`` for ordinary logits. Beyond about 17 (-27 on the other side) the probability has reached
    its bound: the logarithm is cut at -100, and the logit has no gradient. Training that drives pseudo-labels away from
    the predictions is stopped by that bound alone: with the exact cross-entropy BADR's released imputation loss sends
    the logits to infinity.

    Args:
        logits: float ``[...]``.
        targets: float ``[...]`` in ``[0, 1]``; no gradient.

    Returns:
        ``[...]``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> logits = jnp.asarray([1.0, 30.0])
        >>> slopes = jax.grad(lambda x: saturating_cross_entropy(x, jnp.zeros(2)).sum())(logits)
        >>> [round(float(slope), 2) for slope in slopes]
        [0.73, 0.0]
    """
    probabilities = jax.nn.sigmoid(logits.astype(jnp.float32))
    log_1, log_0 = (jnp.maximum(jnp.log(p), -100.0) for p in (probabilities, 1.0 - probabilities))
    return -(targets * log_1 + (1.0 - targets) * log_0)


def _saturating_forward(logits: Array, targets: Array):
    return saturating_cross_entropy(logits, targets), (logits, targets)


def _saturating_backward(residuals, cotangents: Array):
    logits, targets = residuals
    probabilities = jax.nn.sigmoid(logits.astype(jnp.float32))
    # d CE / d p has the divisor max(p (1 - p), 1e-12), and d p / d logit the factor p (1 - p).
    slope = jnp.minimum(probabilities * (1.0 - probabilities) / 1e-12, 1.0)
    return cotangents * (probabilities - targets) * slope, None


saturating_cross_entropy.defvjp(_saturating_forward, _saturating_backward)


def imputation_group(model: Model) -> Group:
    """The imputation model with Adam on ``imputation_lr`` and ``imputation_weight_decay``."""
    return Group(model.init, adam(lr="imputation_lr", weight_decay="imputation_weight_decay"))


class DoublyRobustSettings(TypedDict, total=False):
    """Keyword arguments that every doubly robust method takes.

    Attributes:
        batch_size: B, observed rows a step; default 1024.
        frame: how a step samples all pairs: ``"pairs"`` (default), ``"block"``, ``"tiles"`` or ``"uniform"``; see
            ``methods.cvr_batches``.
        ratio: G, pairs of the population for each observed row; default 4.
        weighting: what an observed row counts against a pair of the population: ``"population"`` (default) or
            ``"batch"``, as in the released programs; see ``methods.cvr_batches``.
        propensity: where propensities come from: ``"estimated"`` (default: ``propensity_model`` by cross-entropy),
            ``"additive"`` (logistic on ids, fitted exactly, without ``propensity_model``), ``"released"`` (by squared
            error with BADR's stopping rule), ``"logged"``, ``"popularity"``,
            ``"user_item"`` or ``"constant"``.
        propensity_batch_size: pairs a step of the propensity fit; default None, the fitting function's own.
        imputed_errors: the imputed error in the imputation's step: ``"published"`` (default), CE(prediction;
            pseudo-label), the same function as in the prediction's step; or ``"released"``, as in the released
            programs: the arguments exchanged, and computed from float32 probabilities, so that a pseudo-label that has
            reached 0 or 1 stands still (``saturating_cross_entropy``).
        order: ``"imputation_first"`` (default; BADR, Algorithm 1) or ``"prediction_first"`` (the released programs);
            the second step sees the result of the first.
    """

    batch_size: int
    frame: str
    ratio: int
    weighting: str
    propensity: str
    propensity_batch_size: int | None
    imputed_errors: str
    order: str


def doubly_robust(
    model: Model,
    imputation_model: Model,
    propensity_model: Model | None,
    *,
    prediction_loss: Callable[[Errors, Context], Array],
    imputation_loss: Callable[[Errors, Context], Array],
    hparams: dict[str, float] | None = None,
    population_propensity: bool = False,
    balance: str = "divided",
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 4,
    weighting: str = "population",
    propensity: str = "estimated",
    propensity_batch_size: int | None = None,
    imputed_errors: str = "published",
    order: str = "imputation_first",
) -> Method:
    """The alternating method of a prediction risk and an imputation loss.

    Args:
        model: prediction model, any pairwise model.
        imputation_model: pseudo-label model, any pairwise model.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``; None for a
            method that reads no propensities.
        prediction_loss: ``(errors, context) -> scalar``, of ``risks.dr``.
        imputation_loss: ``(errors, context) -> scalar``, of ``risks.imputation``.
        hparams: hyperparameters besides those of the two models, the propensities and the balance.
        population_propensity: whether ``prediction_loss`` reads ``Errors.population_propensity``.
        balance: see ``DoublyRobust``.
        batch_size: see ``DoublyRobustSettings``, as for all below.
        frame: ditto.
        ratio: ditto.
        weighting: ditto.
        propensity: ditto.
        propensity_batch_size: ditto.
        imputed_errors: ditto.
        order: ditto.

    Returns:
        The method; ``observed_loss`` in its logs is the weighted mean error of the observed rows before the step,
        which the released programs watch to stop.

    Raises:
        ValueError: an option is unknown.
    """
    check_choice(IMPUTED_ERRORS, imputed_errors=imputed_errors)
    check_choice(ORDERS, order=order)
    check_choice(BALANCES, balance=balance)
    defaults = {**ADAM_HPARAMS, **IMPUTATION_HPARAMS}
    if propensity_model is None:
        source = None
    else:
        source = Propensity(propensity, propensity_model, propensity_batch_size)
        defaults |= PROPENSITY_HPARAMS
    if balance != "none":
        defaults |= OBSERVED_HPARAMS
    terms = DoublyRobust(model, imputation_model, source, imputed_errors, population_propensity, balance)
    groups = {"prediction": prediction_group(model), "imputation": imputation_group(imputation_model)}
    if order == "imputation_first":
        groups = dict(reversed(groups.items()))
    return alternating(
        groups,
        losses={
            "prediction": terms.prediction_term(prediction_loss),
            "imputation": terms.imputation_term(imputation_loss),
        },
        batches=cvr_batches(frame, batch_size=batch_size, ratio=ratio, weighting=weighting),
        predict=predict_logits(model),
        hparams={**defaults, **(hparams or {})},
        fit=None if source is None else lambda *args: {"propensity": source.fit(*args)},
        exposure=None if source is None else source.exposure,
    )
