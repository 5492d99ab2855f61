"""What the doubly robust methods share whose propensity model goes on learning beside the other two.

It starts from the fit by cross-entropy that the other methods freeze. From then on each step of the method gives it one
step on

    mean over the population of CE(p; observed) + a penalty of the method

so that the penalty bends the propensities, and the cross-entropy keeps them propensities.
"""

from collections.abc import Callable
from typing import TypedDict

import jax
import jax.numpy as jnp

from debias_jax._checks import check_choice
from debias_jax.methods._propensity import Propensity
from debias_jax.methods.base import CvrBatch, Method, TrainData, TrainState
from debias_jax.methods.cvr_batches import cvr_batches
from debias_jax.methods.doubly_robust import (
    FITTED_HPARAMS,
    IMPUTED_ERRORS,
    OBSERVED_HPARAMS,
    DoublyRobust,
    Errors,
    cross_entropy,
    imputation_group,
)
from debias_jax.methods.recipes import (
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
from debias_jax.types import Array

JOINT_HPARAMS = {**FITTED_HPARAMS, "joint_propensity_lr": 1e-3}
"""``propensity_lr`` is the step size of the fit before training, ``joint_propensity_lr`` that of the steps beside the
other models; ``propensity_weight_decay`` is of both."""

Penalty = Callable[[Errors, CvrBatch, Context], Array]
"""``(errors, batch, context) -> scalar``. The gradient taken is that of the propensities of the errors."""


class JointPropensitySettings(TypedDict, total=False):
    """Keyword arguments of the methods that train their propensity model along.

    Attributes:
        batch_size: B, observed rows a step; default 1024.
        frame: ``"pairs"`` (default), ``"block"``, ``"tiles"`` or ``"uniform"``; see ``methods.cvr_batches``.
        ratio: G, pairs of the population for each observed row; default 4.
        weighting: ``"population"`` (default) or ``"batch"``; see ``methods.cvr_batches``.
        propensity_batch_size: pairs a step of the fit before training; default None, the fitting function's own.
        imputed_errors: ``"published"`` (default) or ``"released"``; see
            ``methods.doubly_robust.DoublyRobustSettings``.
    """

    batch_size: int
    frame: str
    ratio: int
    weighting: str
    propensity_batch_size: int | None
    imputed_errors: str


def joint_propensity(
    model: Model,
    imputation_model: Model,
    propensity_model: Model,
    *,
    prediction_loss: Callable[[Errors, Context], Array],
    imputation_loss: Callable[[Errors, Context], Array],
    propensity_penalty: Penalty,
    order: tuple[str, str, str],
    hparams: dict[str, float],
    balance: str = "divided",
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 4,
    weighting: str = "population",
    propensity_batch_size: int | None = None,
    imputed_errors: str = "published",
) -> Method:
    """The alternating method of three losses.

    Args:
        model: prediction model, any pairwise model.
        imputation_model: pseudo-label model, any pairwise model.
        propensity_model: ``apply(params, users, items) -> logits`` of "observed".
        prediction_loss: ``(errors, context) -> scalar``.
        imputation_loss: ``(errors, context) -> scalar``.
        propensity_penalty: see ``Penalty``.
        order: the groups ``"prediction"``, ``"imputation"`` and ``"propensity"`` in the order of their steps.
        hparams: hyperparameters besides ``JOINT_HPARAMS``.
        balance: see ``methods.doubly_robust.DoublyRobust``.
        batch_size: see ``JointPropensitySettings``, as for all below.
        frame: ditto.
        ratio: ditto.
        weighting: ditto.
        propensity_batch_size: ditto.
        imputed_errors: ditto.

    Returns:
        The method; its logs hold ``observed_loss`` as in ``methods.doubly_robust`` and ``propensity_penalty``.

    Raises:
        ValueError: an option is unknown.
    """
    check_choice(IMPUTED_ERRORS, imputed_errors=imputed_errors)
    source = Propensity("estimated", propensity_model, propensity_batch_size)
    terms = DoublyRobust(
        model, imputation_model, source, imputed_errors, population_propensity=True, balance=balance
    )
    balance_hparams = {} if balance == "none" else OBSERVED_HPARAMS

    def with_newest_propensity(term: LossTerm) -> LossTerm:
        def newest(params, context: Context, batch: CvrBatch):
            return term(params, context._replace(extra={"propensity": params["propensity"]}), batch)

        return newest

    def propensity(params, context: Context, batch: CvrBatch):
        pairs = batch.sample
        logits = propensity_model.apply(params["propensity"], pairs.users, pairs.items)
        fit = jnp.mean(cross_entropy(logits, pairs.observed.astype(jnp.float32)))
        penalty = propensity_penalty(terms.prediction_errors(params, context, batch), batch, context)
        return *as_term(fit + penalty), {"propensity_penalty": penalty}

    def exposure(state: TrainState, data: TrainData, users: Array, items: Array) -> Array:
        del data
        return jax.nn.sigmoid(propensity_model.apply(state.params["propensity"], users, items))

    groups = {
        "prediction": prediction_group(model),
        "imputation": imputation_group(imputation_model),
        "propensity": Group(
            propensity_model.init,
            adam(lr="joint_propensity_lr", weight_decay="propensity_weight_decay"),
            fit=source.fit,
        ),
    }
    losses = {
        "prediction": terms.prediction_term(prediction_loss),
        "imputation": terms.imputation_term(imputation_loss),
        "propensity": propensity,
    }
    return alternating(
        {name: groups[name] for name in order},
        losses={name: with_newest_propensity(losses[name]) for name in order},
        batches=cvr_batches(
            frame, batch_size=batch_size, ratio=ratio, weighting=weighting, with_observed=True
        ),
        predict=predict_logits(model),
        hparams={**JOINT_HPARAMS, **balance_hparams, **hparams},
        exposure=exposure,
    )
