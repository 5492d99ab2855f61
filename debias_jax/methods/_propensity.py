"""Where a method takes its propensities from, and how a propensity model is fitted."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from debias_jax import optimizers, risks, sampling
from debias_jax._checks import check_choice
from debias_jax.errors import ConfigError
from debias_jax.methods.base import Method, PairBatch, Pairs, TrainData
from debias_jax.methods.batching import observed_pairs
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    as_term,
    predict_logits,
    prediction_group,
    supervised,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params, PyTree

PROPENSITY_HPARAMS = {"min_propensity": 0.0, "propensity_lr": 0.05, "propensity_weight_decay": 1e-6}
"""``min_propensity``: lower clip, 0 for none; ``propensity_lr``, ``propensity_weight_decay``: of the propensity fit."""

SOURCES = {
    "estimated": "the propensity model, fitted by cross-entropy",
    "additive": "logistic regression on user and item ids, fitted exactly; for matrices of 2^26 pairs at most",
    "released": "the propensity model, fitted as the program released with BADR does: squared error, early stop",
    "logged": "the propensities of the data",
    "popularity": "(n_i / max_j n_j)^(1/2), n_i the observed rows of item i",
    "user_item": "n_u n_i / n, user and item independent",
    "constant": "n / (n_users n_items) for every pair: no propensity information",
}
"""Where propensities may come from."""

RELEASED_EPOCHS, RELEASED_TOLERANCE, RELEASED_PATIENCE = 200, 1e-4, 7


_LARGEST_TABLE = 2**26


def _observed_look_up(data: TrainData):
    """``(users, items) -> bool``: a table of all pairs where it takes 64 MiB at most, else a search in the rows."""
    n_users, n_items = data.matrix_size
    if n_users * n_items > _LARGEST_TABLE:
        return lambda users, items: sampling.contains(data.observed_set, users, items)
    table = jnp.zeros((n_users, n_items), bool).at[data.users, data.items].set(True)
    return lambda users, items: table[users, items]


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

    A uniform pair is an unbiased sample of the risk over all pairs; whether it was observed is looked up.

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
    n_users, n_items = data.matrix_size
    if batch_size is None:
        batch_size = min(32768, max(1024, n_users * n_items // 8))

    is_observed = _observed_look_up(data)

    def loss(params, users, items, observed):
        logits = model.apply(params, users, items)
        return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(logits, observed))

    def step(carry, number):
        params, opt_state = carry
        users, items = sampling.uniform_pairs(
            jax.random.fold_in(key, number), (batch_size,), n_users=n_users, n_items=n_items
        )
        observed = is_observed(users, items).astype(jnp.float32)
        decay = 0.5 * (1.0 + jnp.cos(jnp.pi * number.astype(jnp.float32) / n_steps))
        tx = optimizers.adam(learning_rate * decay, weight_decay=weight_decay)
        updates, opt_state = tx.update(jax.grad(loss)(params, users, items, observed), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    # Steps take the keys 0 .. n_steps - 1.
    params = model.init(jax.random.fold_in(key, n_steps))
    start = (params, optimizers.adam(learning_rate, weight_decay=weight_decay).init(params))
    (params, _), _ = jax.lax.scan(step, start, jnp.arange(n_steps, dtype=jnp.int32))
    return params


def fit_additive(data: TrainData, *, weight_decay: Array, n_sweeps: int = 25) -> Params:
    """Fits logit p(observed) = a_u + b_i + c by cross-entropy over all pairs, exactly.

    Minimises the mean cross-entropy plus ``weight_decay`` / 2 times the sum of squares of a and b, by Newton steps for
    all a, all b and c in turn; the observed counts of users and items are all it needs. It has no learning rate and no
    seed. A sweep evaluates all pairs three times.

    Args:
        data: its observed pairs are the positives.
        weight_decay: L2 on a and b; c is free, so that the propensities sum to the number of observed pairs.
        n_sweeps: sweeps; a step moves a logit by 2 at most.

    Returns:
        Parameters of ``models.additive_logistic``.

    Raises:
        ConfigError: the matrix has more than 2^26 pairs.
    """
    n_users, n_items = data.matrix_size
    size = n_users * n_items
    if size > _LARGEST_TABLE:
        raise ConfigError(
            f"propensity='additive' evaluates all pairs, and {n_users} users x {n_items} items are more than 2^26; "
            "take propensity='estimated'"
        )
    user_counts = jnp.diff(data.observed_set.indptr).astype(jnp.float32)
    item_counts = jnp.zeros(n_items, jnp.float32).at[data.observed_set.items].add(1.0)
    total = jnp.sum(item_counts)
    penalty = size * weight_decay

    def newton(values: Array, logits: Array, counts: Array, axis: int | None, penalty: Array) -> Array:
        p = jax.nn.sigmoid(logits)
        slopes = jnp.sum(p, axis=axis) - counts + penalty * values
        curvatures = jnp.sum(p * (1.0 - p), axis=axis) + penalty
        return values - jnp.clip(slopes / jnp.maximum(curvatures, 1e-6), -2.0, 2.0)

    def logits(user: Array, item: Array, bias: Array) -> Array:
        return user[:, None] + item[None, :] + bias

    def sweep(_, params):
        user, item, bias = params
        user = newton(user, logits(user, item, bias), user_counts, 1, penalty)
        item = newton(item, logits(user, item, bias), item_counts, 0, penalty)
        bias = newton(bias, logits(user, item, bias), total, None, 0.0)
        # With c free, a and b sum to 0 at the optimum.
        user_level, item_level = jnp.mean(user), jnp.mean(item)
        return user - user_level, item - item_level, bias + user_level + item_level

    start = (jnp.zeros(n_users, jnp.float32), jnp.zeros(n_items, jnp.float32), jnp.zeros((), jnp.float32))
    user, item, bias = jax.lax.fori_loop(0, n_sweeps, sweep, start)
    return {"user": user, "item": item, "bias": bias}


def fit_propensity_released(
    model: Model,
    key: Key,
    data: TrainData,
    *,
    learning_rate: Array,
    weight_decay: Array,
    batch_size: int | None = None,
) -> Params:
    """Fits p(observed) by squared error with the stopping rule of the program released with BADR.

    Epochs of n_users n_items / ``batch_size`` steps, 200 at most; training ends with the 7th epoch (counted over all
    epochs) whose summed loss is not at least 1e-4 below the last one's, relatively. With the published weight decays
    of Coat and KuaiRec the result is one constant: the decay outweighs the gradient of the embeddings.

    An epoch goes through a random order of all pairs; the last, partial batch is left out.

    Args:
        model: ``apply(params, users, items) -> logits``; ``models.additive_logistic`` with ``dim`` is the released one.
        key: for the start and the draws.
        data: its observed rows are the positives.
        learning_rate: of Adam.
        weight_decay: coupled L2.
        batch_size: pairs a step; None for 32,768. All pairs at most.

    Returns:
        The fitted parameters.
    """
    n_users, n_items = data.matrix_size
    batch_size = min(batch_size or 32768, n_users * n_items)
    n_steps = n_users * n_items // batch_size
    tx = optimizers.adam(learning_rate, weight_decay=weight_decay)
    is_observed = _observed_look_up(data)

    def loss(params, users, items, observed):
        return jnp.mean((jax.nn.sigmoid(model.apply(params, users, items)) - observed) ** 2)

    def step(carry, cells):
        params, opt_state = carry
        users, items = cells // n_items, cells % n_items
        observed = is_observed(users, items).astype(jnp.float32)
        value, grads = jax.value_and_grad(loss)(params, users, items, observed)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    def epoch(carry):
        params, opt_state, number, stalls, last = carry
        cells, _ = sampling.epoch_batches(
            jax.random.fold_in(key, number), n_users * n_items, batch_size=batch_size
        )
        (params, opt_state), values = jax.lax.scan(step, (params, opt_state), cells[:n_steps])
        total = jnp.sum(values)
        stalls += ((last - total) / last < RELEASED_TOLERANCE).astype(jnp.int32)
        return params, opt_state, number + 1, stalls, total

    def goes_on(carry):
        _, _, number, stalls, _ = carry
        return (number < RELEASED_EPOCHS) & (stalls < RELEASED_PATIENCE)

    params = model.init(jax.random.fold_in(key, RELEASED_EPOCHS))
    zero = jnp.zeros((), jnp.int32)
    start = (params, tx.init(params), zero, zero, jnp.asarray(1e9, jnp.float32))
    return jax.lax.while_loop(goes_on, epoch, start)[0]


def clip_rows(propensity: Array, context: Context, rows: PairBatch) -> Array:
    """At least ``min_propensity``; 1 for padding, whose masked weight must be finite."""
    return jnp.where(rows.where, jnp.maximum(propensity, context.hparams["min_propensity"]), 1.0)


def clip_population(propensity: Array, context: Context) -> Array:
    """At least ``min_propensity``, and at least 1 / (number of all pairs).

    An item or a user without any row can be estimated at 0, whose inverse a sample of *all* pairs must be spared.
    """
    n_users, n_items = context.data.matrix_size
    return jnp.maximum(
        propensity, jnp.maximum(context.hparams["min_propensity"], 1.0 / (float(n_users) * n_items))
    )


@dataclasses.dataclass(frozen=True)
class Propensity:
    """A source of propensities: fitted once before training, read at each step.

    Attributes:
        source: a key of ``SOURCES``.
        model: the propensity model, for the sources that fit one.
        batch_size: pairs a step of the fit; None for the default of the fitting function.

    Raises:
        ValueError: unknown ``source``.
    """

    source: str
    model: Model
    batch_size: int | None = None

    def __post_init__(self):
        check_choice(SOURCES, propensity=self.source)

    def fit(self, key: Key, data: TrainData, hparams: dict[str, Array]) -> PyTree:
        """What the other functions read, as a method's ``extra["propensity"]``."""
        settings = {
            "learning_rate": hparams["propensity_lr"],
            "weight_decay": hparams["propensity_weight_decay"],
            "batch_size": self.batch_size,
        }
        if self.source == "estimated":
            return fit_propensity(self.model, key, data, **settings)
        if self.source == "additive":
            return fit_additive(data, weight_decay=hparams["propensity_weight_decay"])
        if self.source == "released":
            return fit_propensity_released(self.model, key, data, **settings)
        # Rows, not clicks: an item that was shown and never clicked has a propensity too.
        n_users, n_items = data.matrix_size
        item_counts = jnp.zeros(n_items, jnp.float32).at[data.items].add(1.0)
        if self.source == "popularity":
            return risks.popularity_power(item_counts)
        if self.source == "user_item":
            return {"user": jnp.zeros(n_users, jnp.float32).at[data.users].add(1.0), "item": item_counts}
        if self.source == "constant":
            return jnp.asarray(data.users.shape[0] / (float(n_users) * float(n_items)), jnp.float32)
        return {}

    def of_pairs(self, fitted: PyTree, users: Array, items: Array) -> Array:
        """Propensities of any pairs, not clipped; of the broadcast shape.

        Raises:
            ConfigError: logged propensities are known for the logged rows only.
        """
        if self.source == "logged":
            raise ConfigError(
                "propensity='logged' is known for observed rows only, and this method needs it for other pairs too; "
                "take propensity='estimated'"
            )
        if self.source == "constant":
            return jnp.broadcast_to(fitted, jnp.broadcast_shapes(users.shape, items.shape))
        if self.source == "popularity":
            return jnp.broadcast_to(fitted[items], jnp.broadcast_shapes(users.shape, items.shape))
        if self.source == "user_item":
            return risks.user_item(
                fitted["user"][users], fitted["item"][items], total=jnp.sum(fitted["item"])
            )
        if self.source == "additive":
            return jax.nn.sigmoid(fitted["user"][users] + fitted["item"][items] + fitted["bias"])
        return jax.nn.sigmoid(self.model.apply(fitted, users, items))

    def of_rows(self, context: Context, rows: PairBatch) -> Array:
        """Clipped propensities of a batch's rows; 1 for padding, whose masked weight must be finite.

        Raises:
            ConfigError: ``"logged"``, and the data has no propensities.
        """
        if self.source == "logged":
            if rows.propensities is None:
                raise ConfigError(
                    "propensity='logged' needs a propensity column in the training data; name one, or take "
                    "propensity='estimated'"
                )
            p = rows.propensities
        else:
            p = self.of_pairs(context.extra["propensity"], rows.users, rows.items)
        return clip_rows(p, context, rows)

    def of_population(self, context: Context, pairs: Pairs) -> Array:
        """Clipped propensities of a sample of all pairs, of the broadcast shape; see ``clip_population``.

        Raises:
            ConfigError: logged propensities are known for the logged rows only.
        """
        return clip_population(self.of_pairs(context.extra["propensity"], pairs.users, pairs.items), context)

    @property
    def exposure(self):
        """The ``exposure`` function of a method; None where only logged rows have a propensity."""
        if self.source == "logged":
            return None

        def exposure(state, data: TrainData, users: Array, items: Array) -> Array:
            del data
            return self.of_pairs(state.extra["propensity"], users, items)

        return exposure


def propensity_risk(
    model: Model, propensity_model: Model, *, risk, batch_size: int, propensity: str
) -> Method:
    """A supervised method that minimises ``risk`` (``risks.ips``, ``risks.snips``) over observed rows.

    Raises:
        ValueError: unknown ``propensity``.
    """
    source = Propensity(propensity, propensity_model)

    def term(params, context: Context, batch):
        logits = model.apply(params["prediction"], batch.users, batch.items)
        errors = optax.losses.sigmoid_binary_cross_entropy(logits, batch.labels)
        p = source.of_rows(context, batch)
        return as_term(risk(errors, observed=jnp.ones_like(errors), propensity=p, where=batch.where))

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=observed_pairs(batch_size=batch_size),
        predict=predict_logits(model),
        hparams={**ADAM_HPARAMS, **PROPENSITY_HPARAMS},
        fit=lambda key, data, hparams: {"propensity": source.fit(key, data, hparams)},
        exposure=source.exposure,
    )
