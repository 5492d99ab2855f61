"""The recipes that every method is built from: supervised, alternating, bi-level, closed form, EM.

A recipe turns parameter groups and loss terms into a ``Method``. Loss terms are functions
``(params, context, batch) -> (total, count)``: the sum of the per-example losses and the number (weight) of examples,
so that a recipe can take the mean, the sum, or both. ``params`` is the dict of all groups. A term may return a third
value, a dict of scalars for the logs, and to ``supervised`` a fourth, what it counted on the way.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from debias_jax import hypergrad, optimizers
from debias_jax._checks import check_choice
from debias_jax._reduce import safe_divide
from debias_jax.methods._em import em as em
from debias_jax.methods.base import (
    BatchesFn,
    Method,
    PredictFn,
    Range,
    TrainData,
    TrainState,
    check_tables,
    resolve_hparams,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params, PyTree

ADAM_HPARAMS = {"lr": 1e-3, "weight_decay": 0.0}
"""Names and defaults that ``adam`` reads."""


class Context(NamedTuple):
    """What a loss term may read besides parameters and batch.

    Attributes:
        data: the training data.
        hparams: numeric hyperparameters.
        extra: the state's ``extra``, e.g. a fitted propensity model.
        key: the key of this step.
        step: int32 scalar, steps taken before this one.
    """

    data: TrainData
    hparams: dict[str, Array]
    extra: PyTree
    key: Key
    step: Array


LossTerm = Callable[[dict[str, Params], Context, PyTree], tuple[PyTree, ...]]


Prepare = Callable[[dict[str, Params], Context, PyTree], tuple[PyTree, PyTree]]
"""``(params, context, batch) -> (extra for the loss, extra after the step)``: what a step draws or counts by the
parameters that it starts from, without a gradient."""


class Group(NamedTuple):
    """A named group of parameters: how it starts and what optimises it.

    Attributes:
        init: ``key -> params``.
        optimizer: ``hparams -> optax.GradientTransformation``.
        fit: ``(key, data, hparams) -> params``, the start instead of ``init`` for a group that is fitted before the
            training goes on with it.
        differentiable_optimizer: what takes the place of ``optimizer`` where a gradient passes through its step
            (``inner_step="adam"`` of ``bilevel``): the same rule, with a derivative at gradients of 0.
    """

    init: Callable[[Key], Params]
    optimizer: Callable[[dict[str, Array]], optax.GradientTransformation]
    fit: Callable[[Key, TrainData, dict[str, Array]], Params] | None = None
    differentiable_optimizer: Callable[[dict[str, Array]], optax.GradientTransformation] | None = None


def _norm_and_root_mean_square(tree: PyTree) -> tuple[Array, Array]:
    """Norm, and the root mean square over the coordinates of rows (vectors of the last axis) that are not all 0.

    Row by row as products of a row with itself, which is faster on CPU than the sum of a whole table.
    """
    leaves = [jnp.atleast_1d(leaf) for leaf in jax.tree.leaves(tree)]
    squares = [jnp.einsum("...d,...d->...", leaf, leaf, precision="highest") for leaf in leaves]
    norm = jnp.sqrt(sum(jnp.sum(square) for square in squares))
    reached = sum(
        leaf.shape[-1] * jnp.sum(square > 0, dtype=jnp.float32)
        for leaf, square in zip(leaves, squares, strict=True)
    )
    return norm, norm / jnp.sqrt(jnp.maximum(reached, 1.0))


def adam(lr: str = "lr", weight_decay: str | None = "weight_decay", eps_root: float = 0.0):
    """Adam with coupled L2, reading the named hyperparameters; ``eps_root`` as in ``optimizers.adam``."""
    return lambda hparams: optimizers.adam(
        hparams[lr], weight_decay=0.0 if weight_decay is None else hparams[weight_decay], eps_root=eps_root
    )


def prediction_group(model: Model) -> Group:
    """The relevance (prediction) model with Adam on ``lr`` and ``weight_decay``."""
    # The square root of a zero second moment has no derivative; eps_root moves it off zero.
    return Group(model.init, adam(), differentiable_optimizer=adam(eps_root=1e-12))


def predict_logits(model: Model) -> PredictFn:
    """Scores pairs with the group ``"prediction"``."""

    def predict(state: TrainState, users: Array, items: Array) -> Array:
        return model.apply(state.params["prediction"], users, items)

    return predict


def total_and_count(values: Array, where: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Sum and count (or total weight) of per-example losses under a mask, as loss terms return them."""
    weights = jnp.ones(values.shape, values.dtype) if weights is None else weights
    values = jnp.where(where, weights * values, 0.0)
    return jnp.sum(values), jnp.sum(where, dtype=values.dtype)


def as_term(value: Array) -> tuple[Array, Array]:
    """A scalar risk as a loss term returns it."""
    return value, jnp.ones((), jnp.float32)


def _mean(term: LossTerm):
    """``(params, context, batch) -> (mean loss, logs)``."""
    with_counts = _mean_and_counts(term)

    def mean_loss(params, context, batch):
        value, (logs, _) = with_counts(params, context, batch)
        return value, logs

    return mean_loss


def _mean_and_counts(term: LossTerm):
    """``(params, context, batch) -> (mean loss, (logs, what the term counted))``."""

    def mean_loss(params, context, batch):
        total, count, *others = term(params, context, batch)
        logs = others[0] if others else {}
        counts = others[1] if len(others) > 1 else None
        return safe_divide(total, count), (logs, counts)

    return mean_loss


def _init_fn(groups: dict[str, Group], hparams: dict[str, float], fit):
    def init(key: Key, data: TrainData, given: dict[str, Array]) -> TrainState:
        resolved = resolve_hparams(hparams, given)
        keys = [jax.random.fold_in(key, number) for number in range(len(groups))]
        params = {
            name: group.init(group_key) if group.fit is None else group.fit(group_key, data, resolved)
            for (name, group), group_key in zip(groups.items(), keys, strict=True)
        }
        for name, own in params.items():
            check_tables(name, own, data)
        opt_state = {name: group.optimizer(resolved).init(params[name]) for name, group in groups.items()}
        extra = {} if fit is None else fit(jax.random.fold_in(key, len(groups)), data, resolved)
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, resolved, extra)

    return init


def _apply(group: Group, grads: Params, params: Params, opt_state: PyTree, hparams) -> tuple[Params, PyTree]:
    updates, opt_state = group.optimizer(hparams).update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


def supervised(
    groups: dict[str, Group],
    *,
    loss: LossTerm,
    batches: BatchesFn,
    predict: PredictFn,
    hparams: dict[str, float],
    fit: Callable[[Key, TrainData, dict[str, Array]], PyTree] | None = None,
    prepare: Prepare | None = None,
    update: Callable[[PyTree, Context], PyTree] | None = None,
    exposure=None,
    ranges: dict[str, Range] | None = None,
) -> Method:
    """Minimises the mean of one loss over all groups at once.

    Args:
        groups: parameter groups by name; each has its own optimiser, all share one gradient.
        loss: the loss term.
        batches: the frame.
        predict: scores of pairs.
        hparams: numeric hyperparameters and their defaults.
        fit: ``(key, data, hparams) -> extra``, fitted once before training (a propensity model).
        prepare: see ``Prepare``; without, ``extra`` stays as it was fitted.
        update: ``(counts, context) -> extra after the step``, from what the loss term counted on the way (its fourth
            value) and the context that it had; it takes the place of what ``prepare`` gives for after the step.
        exposure: see ``Method.exposure``.
        ranges: see ``Method.ranges``.

    Returns:
        The method.
    """
    mean_loss = _mean_and_counts(loss)

    def step(state: TrainState, data: TrainData, batch: PyTree, key: Key):
        context, extra = Context(data, state.hparams, state.extra, key, state.step), state.extra
        if prepare is not None:
            constant = jax.lax.stop_gradient(state.params)
            for_loss, extra = prepare(constant, context, batch)
            context = context._replace(extra=for_loss)
        (value, (logs, counts)), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            state.params, context, batch
        )
        if update is not None:
            extra = update(counts, context)
        updated = {
            name: _apply(group, grads[name], state.params[name], state.opt_state[name], state.hparams)
            for name, group in groups.items()
        }
        state = state._replace(
            step=state.step + 1,
            params={name: params for name, (params, _) in updated.items()},
            opt_state={name: opt_state for name, (_, opt_state) in updated.items()},
            extra=extra,
        )
        return state, {"loss": value, **logs}

    return Method(_init_fn(groups, hparams, fit), batches, step, predict, hparams, exposure, ranges=ranges)


def alternating(
    groups: dict[str, Group],
    *,
    losses: dict[str, LossTerm],
    batches: BatchesFn,
    predict: PredictFn,
    hparams: dict[str, float],
    fit: Callable[[Key, TrainData, dict[str, Array]], PyTree] | None = None,
    exposure=None,
    ranges: dict[str, Range] | None = None,
) -> Method:
    """Steps each group in turn on its own loss, the other groups held fixed at their newest values.

    Args:
        groups: parameter groups by name, in the order of their steps; ``"prediction"``, whose loss is the method's
            in the logs, is one of them.
        losses: the loss term of each group; only that group receives its gradient.
        batches: the frame; all groups see the same batch.
        predict: scores of pairs.
        hparams: numeric hyperparameters and their defaults.
        fit: see ``supervised``.
        exposure: see ``Method.exposure``.
        ranges: see ``Method.ranges``.

    Returns:
        The method.
    """
    means = {name: _mean(losses[name]) for name in groups}

    def step(state: TrainState, data: TrainData, batch: PyTree, key: Key):
        params, opt_state, logs = dict(state.params), dict(state.opt_state), {}
        for name, group in groups.items():
            context = Context(data, state.hparams, state.extra, key, state.step)

            def own_loss(own, name=name, context=context):
                return means[name]({**params, name: own}, context, batch)

            (value, own_logs), grads = jax.value_and_grad(own_loss, has_aux=True)(params[name])
            params[name], opt_state[name] = _apply(group, grads, params[name], opt_state[name], state.hparams)
            logs |= {f"loss/{name}": value, **own_logs}
        logs["loss"] = logs["loss/prediction"]
        return state._replace(step=state.step + 1, params=params, opt_state=opt_state), logs

    return Method(_init_fn(groups, hparams, fit), batches, step, predict, hparams, exposure, ranges=ranges)


def closed_form(*, fit: Callable[[TrainData, dict[str, Array]], Params], predict, hparams) -> Method:
    """A method without gradient steps: its parameters are a function of the data.

    Args:
        fit: ``(data, hparams) -> params`` of the group ``"prediction"``.
        predict: scores of pairs.
        hparams: numeric hyperparameters and their defaults.

    Returns:
        The method; an epoch is one empty step.
    """

    def init(key: Key, data: TrainData, given: dict[str, Array]) -> TrainState:
        del key
        resolved = resolve_hparams(hparams, given)
        return TrainState(jnp.zeros((), jnp.int32), {"prediction": fit(data, resolved)}, {}, resolved, {})

    def batches(data: TrainData, key: Key):
        del data, key
        return jnp.zeros((1, 1), bool)

    def step(state: TrainState, data: TrainData, batch: PyTree, key: Key):
        del data, batch, key
        return state._replace(step=state.step + 1), {"loss": jnp.zeros((), jnp.float32)}

    return Method(init, batches, step, predict, hparams)


INNER_STEPS = ("virtual_sgd", "adam", "sgd")
"""How ``bilevel`` takes the inner step; see there."""


def bilevel(
    inner: Group,
    outer: Group,
    *,
    names: tuple[str, str],
    inner_loss: LossTerm,
    outer_loss: LossTerm,
    batches: BatchesFn,
    predict: PredictFn,
    hparams: dict[str, float],
    inner_step: str = "virtual_sgd",
    reduction: str = "sum",
    inner_last: bool = False,
    exposure=None,
    ranges: dict[str, Range] | None = None,
) -> Method:
    """Steps the inner group on its loss, and the outer group through that step.

    With inner parameters w, outer parameters a, inner step w+(a) = w - u(grad_w L_in(w, a)), the outer group follows
    the gradient of L_out(w+(a), a) with respect to a, taken through the step by ``hypergrad.hypergradient``.

    Args:
        inner: the group that is stepped.
        outer: the group that is learnt through the step.
        names: names of the inner and the outer group in ``TrainState.params``.
        inner_loss: L_in.
        outer_loss: L_out, evaluated at the stepped inner parameters.
        batches: the frame of L_in; L_out sees the same batch and may ignore it.
        predict: scores of pairs.
        hparams: must hold ``inner_lr``, the step size of the virtual or real SGD step, besides what the groups read.
        inner_step: ``"virtual_sgd"``: the hypergradient goes through an SGD step that is then thrown away, and the
            inner group takes its own optimiser's step on the mean loss; ``"adam"``: it goes through a step of the
            group's ``differentiable_optimizer``, which is kept (the derivative of Adam's is near zero while the
            moments are young, since g / |g| does not depend on the size of g); ``"sgd"``: it goes through an SGD step,
            which is kept.
        reduction: ``"sum"`` or ``"mean"`` of both losses inside the hypergradient. Adam's epsilon makes this the
            decisive setting of the outer step: with means the hypergradient can fall below it, and the outer group
            then stands still.
        inner_last: whether the inner step that is kept is taken anew at the outer group's new value (AutoDebias; Ren
            et al. 2018), instead of being the one that the outer group was stepped through (Biif).
        exposure: see ``Method.exposure``.
        ranges: see ``Method.ranges``.

    Returns:
        The method. Its logs hold the inner mean ``loss``, the ``outer_loss``, the ``hypergradient_norm`` and
        ``hypergradient_over_eps``: the root mean square of the hypergradient's coordinates, in the rows that the step
        reached at all, over the epsilon 1e-8 of ``optimizers.adam``. Adam divides coordinate by coordinate: far above 1
        the outer group moves by its step size whatever the reduction, far below 1 it stands still. (The norm tells
        neither: it grows with the number of coordinates.)

    Raises:
        ValueError: unknown ``inner_step`` or ``reduction``; ``inner_step="adam"`` for an inner group without a
            ``differentiable_optimizer``.
    """
    check_choice(INNER_STEPS, inner_step=inner_step)
    check_choice(("sum", "mean"), reduction=reduction)
    if inner_step == "adam" and inner.differentiable_optimizer is None:
        raise ValueError(
            f'inner_step="adam" takes a gradient through the step of the inner group {names[0]!r}, which has no '
            "differentiable_optimizer: give it one, such as recipes.adam(eps_root=1e-12), or take "
            'inner_step="virtual_sgd"'
        )
    inner_name, outer_name = names

    def reduce(term: LossTerm):
        if reduction == "mean":
            return lambda params, context, batch: _mean(term)(params, context, batch)[0]
        return lambda params, context, batch: term(params, context, batch)[0]

    def inner_objective(own, other, context, batch):
        return reduce(inner_loss)({inner_name: own, outer_name: other}, context, batch)

    def outer_objective(own, other, context, batch):
        return reduce(outer_loss)({inner_name: own, outer_name: other}, context, batch)

    def step_rule(values: dict[str, Array]) -> optax.GradientTransformation:
        if inner_step == "adam":
            return inner.differentiable_optimizer(values)
        return optimizers.sgd(values["inner_lr"])

    virtual = inner_step == "virtual_sgd"
    inner_group = inner if virtual else inner._replace(optimizer=step_rule)

    def step(state: TrainState, data: TrainData, batch: PyTree, key: Key):
        context = Context(data, state.hparams, state.extra, key, state.step)
        own, other = state.params[inner_name], state.params[outer_name]
        own_state, other_state = state.opt_state[inner_name], state.opt_state[outer_name]
        rule = step_rule(state.hparams)
        hyper = hypergrad.hypergradient(inner_objective, outer_objective, rule)(
            own,
            rule.init(own) if virtual else own_state,
            other,
            inner_args=(context, batch),
            outer_args=(context, batch),
        )
        new_other, new_other_state = _apply(outer, hyper.grads, other, other_state, state.hparams)
        total, count, *_ = inner_loss({inner_name: own, outer_name: other}, context, batch)
        if virtual or inner_last:
            grads = hyper.inner_grads
            if inner_last:
                grads = jax.grad(inner_objective)(own, new_other, context, batch)
            scale = safe_divide(1.0, count) if virtual and reduction == "sum" else 1.0
            grads = jax.tree.map(lambda grad: scale * grad, grads)
            new_own, new_own_state = _apply(inner_group, grads, own, own_state, state.hparams)
        else:
            new_own, new_own_state = hyper.inner_params, hyper.opt_state
        state = state._replace(
            step=state.step + 1,
            params={inner_name: new_own, outer_name: new_other},
            opt_state={inner_name: new_own_state, outer_name: new_other_state},
        )
        norm, root_mean_square = _norm_and_root_mean_square(hyper.grads)
        logs = {
            "loss": safe_divide(total, count),
            "outer_loss": hyper.value,
            "hypergradient_norm": norm,
            "hypergradient_over_eps": root_mean_square / optimizers.ADAM_EPS,
        }
        return state, logs

    groups = {inner_name: inner_group, outer_name: outer}
    return Method(_init_fn(groups, hparams, None), batches, step, predict, hparams, exposure, ranges=ranges)
