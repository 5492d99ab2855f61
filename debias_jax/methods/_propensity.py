"""Fitting a propensity model, and the methods that weight observed rows by it."""

import jax
import jax.numpy as jnp
import optax

from debias_jax import optimizers, risks, sampling
from debias_jax.errors import ConfigError
from debias_jax.methods._terms import predict_logits, prediction_group
from debias_jax.methods.base import Method, TrainData
from debias_jax.methods.batching import observed_pairs
from debias_jax.methods.recipes import ADAM_HPARAMS, Context, supervised
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params

PROPENSITY_HPARAMS = {
    **ADAM_HPARAMS,
    "min_propensity": 0.0,
    "propensity_lr": 0.05,
    "propensity_weight_decay": 1e-6,
}
"""``min_propensity``: lower clip, 0 for none; ``propensity_lr``, ``propensity_weight_decay``: of the propensity fit."""

SOURCES = ("estimated", "logged", "popularity")


def fit_propensity(
    model: Model,
    key: Key,
    data: TrainData,
    *,
    learning_rate: Array,
    weight_decay: Array,
    n_steps: int = 500,
    batch_size: int | None = None,
) -> Params:
    """Fits p(observed) by cross-entropy over all pairs, on uniform pairs, with a cosine-decayed Adam.

    A uniform pair is an unbiased sample of the risk over all pairs; whether it was observed is looked up, so no dense
    matrix is made.

    Args:
        model: ``apply(params, users, items) -> logits``.
        key: for the start and the draws.
        data: its observed rows are the positives.
        learning_rate: of Adam, at the start.
        weight_decay: coupled L2.
        n_steps: optimiser steps.
        batch_size: uniform pairs a step; None for an eighth of all pairs, 32,768 at most. On matrices much larger
            than ``n_steps`` such batches a pair is seen once or never, and the fit rests on the margins it has seen.

    Returns:
        The fitted parameters.
    """
    n_users, n_items = data.click_set.indptr.shape[0] - 1, data.popularity.shape[0]
    if batch_size is None:
        batch_size = min(32768, max(1024, n_users * n_items // 8))

    def loss(params, users, items, observed):
        logits = model.apply(params, users, items)
        return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, observed))

    def step(carry, number):
        params, opt_state = carry
        users, items = sampling.uniform_pairs(
            jax.random.fold_in(key, number), (batch_size,), n_users=n_users, n_items=n_items
        )
        observed = sampling.contains(data.observed_set, users, items).astype(jnp.float32)
        decay = 0.5 * (1.0 + jnp.cos(jnp.pi * number.astype(jnp.float32) / n_steps))
        tx = optimizers.adam(learning_rate * decay, weight_decay=weight_decay)
        updates, opt_state = tx.update(jax.grad(loss)(params, users, items, observed), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    # Steps take the keys 0 .. n_steps - 1.
    params = model.init(jax.random.fold_in(key, n_steps))
    start = (params, optimizers.adam(learning_rate, weight_decay=weight_decay).init(params))
    (params, _), _ = jax.lax.scan(step, start, jnp.arange(n_steps, dtype=jnp.int32))
    return params


def propensity_risk(
    model: Model, propensity_model: Model, *, risk, batch_size: int, propensity: str
) -> Method:
    """A supervised method that minimises ``risk`` (``risks.ips``, ``risks.snips``) over observed rows.

    Raises:
        ValueError: unknown ``propensity``, or ``"logged"`` where the data has none.
    """
    if propensity not in SOURCES:
        raise ValueError(f"unknown propensity {propensity!r}; there are {', '.join(SOURCES)}")

    def of_pairs(extra, data: TrainData, users: Array, items: Array) -> Array:
        if propensity == "popularity":
            return extra["propensity"][items]
        return jax.nn.sigmoid(propensity_model.apply(extra["propensity"], users, items))

    def fit(key: Key, data: TrainData, hparams):
        if propensity == "logged":
            return {}
        if propensity == "popularity":
            # Rows, not clicks: an item that was shown and never clicked has a propensity too.
            rows = jnp.zeros(data.popularity.shape, jnp.float32).at[data.items].add(1.0)
            return {"propensity": risks.popularity_power(rows)}
        fitted = fit_propensity(
            propensity_model,
            key,
            data,
            learning_rate=hparams["propensity_lr"],
            weight_decay=hparams["propensity_weight_decay"],
        )
        return {"propensity": fitted}

    def term(params, context: Context, batch):
        logits = model.apply(params["prediction"], batch.users, batch.items)
        errors = optax.losses.sigmoid_binary_cross_entropy(logits, batch.labels)
        if propensity == "logged":
            if batch.propensities is None:
                raise ConfigError(
                    "propensity='logged' needs a propensity column in the training data; name one, or take "
                    "propensity='estimated'"
                )
            p = batch.propensities
        else:
            p = of_pairs(context.extra, context.data, batch.users, batch.items)
        p = jnp.maximum(p, context.hparams["min_propensity"])
        observed = jnp.ones_like(errors)
        # A padded row has an undefined propensity; 1 keeps its masked weight finite.
        value = risk(errors, observed=observed, propensity=jnp.where(batch.where, p, 1.0), where=batch.where)
        return value, jnp.ones((), jnp.float32)

    def exposure(state, data: TrainData, users: Array, items: Array) -> Array:
        return of_pairs(state.extra, data, users, items)

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=observed_pairs(batch_size=batch_size),
        predict=predict_logits(model),
        hparams=PROPENSITY_HPARAMS,
        fit=fit,
        exposure=None if propensity == "logged" else exposure,
    )
