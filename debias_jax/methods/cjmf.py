"""CJMF: relevance and exposure of an item learnt jointly by several sub-models that hold out parts for each other."""

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from debias_jax import losses, optimizers, sampling
from debias_jax._checks import check_choice
from debias_jax.errors import ConfigError
from debias_jax.methods._terms import ItemVectors
from debias_jax.methods.base import Method, TrainData, TrainState, check_tables, resolve_hparams
from debias_jax.methods.batching import PartBatch, clicks_in_parts, part_size
from debias_jax.models.base import Model
from debias_jax.types import Array, Key

VARIANTS = ("published", "released")

HPARAMS = {
    "lr": 1e-3,
    "weight_decay": 5e-5,
    "exposure_weight_decay": 11.0,
    "residual_lr": 1e-3 / 13,
    "residual_decay": 0.5,
    "min_exposure": 0.01,
}
"""As released: decay of relevance, of exposure (220,000 times that), and the factor of both for the residuals;
``min_exposure``: the least exposure that a target of relevance has."""

_FLOOR = 0.01
_RESIDUAL_SCALE = 0.01


def cjmf(
    model: Model,
    item_exposure_model: Model,
    *,
    item_vectors: ItemVectors,
    n_models: int = 8,
    batch_size: int = 1024,
    n_negatives: int = 5,
    variant: str = "published",
) -> Method:
    """Trains C sub-models of relevance p_k and item exposure m_k, each on the parts of the clicks that others predict.

    The clicks are cut into C random parts. In an epoch each part, in random order, trains every sub-model but its
    own: relevance on L1 with the exposure of the ensemble, ``losses.relmf(p_k, Y, exposure=m)``, and exposure on L1
    with the roles swapped, ``losses.relmf(m_k, Y, exposure=p)``. The ensemble is the mean of the sub-models, but a
    click is judged by the sub-model of its part, which alone was not trained on it. A pass over all clicks then
    trains residuals, one for every parameter, on L2 (``losses.umf``) with the same targets. Scores are the mean
    relevance over the C sums of sub-model and residual, as a logit; ``exposure`` is the mean over the sub-models.

    The targets are those of the parameters at the beginning of a part. They are computed for the rows of a batch from
    a copy of these parameters: no table of users x items is ever held.

    Freedom: which sub-models start where. The released program draws P and Q from N(0, .03^2), cut off at two standard
    deviations; here the model's own ``init_scale`` decides. Its parts are the same in all runs with one seed; here
    each run draws its own.

    Args:
        model: the relevance model.
        item_exposure_model: e.g. ``models.cjmf_exposure``.
        item_vectors: ``(params, items) -> [..., dim]`` of ``model``, e.g. ``models.item_vectors``; constants inside
            the exposure.
        n_models: C, the number of sub-models and of parts.
        batch_size: a step has this times (C - 1) / C rows, as C - 1 sub-models are trained on each.
        n_negatives: uniform zeros drawn per click, anew in each part and for the residuals.
        variant: ``"published"`` keeps the targets of relevance within [.01, .99], those of exposure within
            [``min_exposure``, .99]. ``"released"``: the program's lower bound of the exposure tests the relevance,
            which is bounded by then, so that exposure targets have no lower bound.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``exposure_weight_decay``, ``residual_lr``,
        ``residual_decay``, ``min_exposure`` (of ``"published"`` only). In the logs, ``loss`` is that of the relevance:
        L1, in the last pass of an epoch L2.

    Raises:
        ConfigError: ``n_models`` is below 2.
        ValueError: unknown ``variant``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic.generate(seed=0, n_users=8, n_items=6)
        >>> method = methods.cjmf(
        ...     models.mf(8, 6, dim=2), models.cjmf_exposure(dim=2), item_vectors=models.item_vectors, n_models=3)
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

    Source:
        Zhu, He, Zhang, Caverlee, "Unbiased implicit recommendation and propensity estimation via combinational joint
        learning", RecSys 2020; released program Zziwei/Unbiased-Propensity-and-Recommendation.
    """
    check_choice(VARIANTS, variant=variant)
    if n_models < 2:
        raise ConfigError(f"n_models must be at least 2, so that a part has others to train, got {n_models}")
    rows_of_step = max(1, batch_size * (n_models - 1) // n_models)
    batches = clicks_in_parts(batch_size=rows_of_step, n_parts=n_models, n_negatives=n_negatives)
    own_hparams = dict(HPARAMS)
    if variant == "released":
        del own_hparams["min_exposure"]

    def transformations(hparams):
        """Of ``[group][part of the parameters]``."""
        decays = {"prediction": hparams["weight_decay"], "exposure": hparams["exposure_weight_decay"]}
        return {
            group: {
                "base": optimizers.adam(hparams["lr"], weight_decay=decay),
                "residual": optimizers.adam(
                    hparams["residual_lr"], weight_decay=hparams["residual_decay"] * decay
                ),
            }
            for group, decay in decays.items()
        }

    def init(key: Key, data: TrainData, given: dict[str, Array]) -> TrainState:
        hparams = resolve_hparams(own_hparams, given)
        keys = jax.random.split(key, 5)
        inits = {"prediction": model.init, "exposure": item_exposure_model.init}
        params = {}
        for (group, start), (base_key, residual_key) in zip(
            inits.items(), (keys[:2], keys[2:4]), strict=True
        ):
            check_tables(group, jax.eval_shape(start, base_key), data)
            base = jax.vmap(start)(jax.random.split(base_key, n_models))
            # One draw for all leaves: each call of a generator takes its time to compile.
            flat, unflatten = ravel_pytree(base)
            noise = _RESIDUAL_SCALE * jax.random.normal(residual_key, flat.shape, flat.dtype)
            params[group] = {"base": base, "residual": unflatten(noise)}
        # Each sub-model has moments and a count of its own: it rests while its part is trained on.
        opt_state = {
            group: {part: jax.vmap(tx.init)(params[group][part]) for part, tx in parts.items()}
            for group, parts in transformations(hparams).items()
        }
        counts = jnp.zeros(data.popularity.shape, jnp.float32).at[data.clicks[1]].add(1.0)
        extra = {
            "order": jax.random.permutation(keys[4], jnp.arange(data.clicks[0].shape[0], dtype=jnp.int32)),
            "popularity": (counts + 1.0) / (jnp.max(counts) + 1.0),
            "targets": {group: parts["base"] for group, parts in params.items()},
        }
        return TrainState(jnp.zeros((), jnp.int32), params, opt_state, hparams, extra)

    def targets(
        params, floor: Array, popularity: Array, users: Array, items: Array, labels: Array, part: Array
    ):
        """Relevance and exposure by the ensemble; of a click by the sub-model of its part."""
        logits = jax.vmap(lambda own: model.apply(own, users, items))(params["prediction"])
        exposure = _exposures(params, popularity, items)
        tables = jax.nn.sigmoid(logits), exposure
        relevance, exposure = (
            jnp.where(labels > 0, jnp.take_along_axis(table, part[None], axis=0)[0], jnp.mean(table, axis=0))
            for table in tables
        )
        return jnp.clip(relevance, _FLOOR, 1 - _FLOOR), jnp.clip(exposure, floor, 1 - _FLOOR)

    def _exposures(params, popularity: Array, items: Array) -> Array:
        """``[C, ...]`` exposure of items by each sub-model."""

        def one(relevance, exposure):
            return item_exposure_model.apply(exposure, item_vectors(relevance, items), popularity[items])

        return jax.vmap(one)(params["prediction"], params["exposure"])

    def step(state: TrainState, data: TrainData, batch: PartBatch, key: Key):
        del key
        params, hparams, extra = state.params, state.hparams, state.extra
        newest = {group: parts["base"] for group, parts in params.items()}
        kept = jax.tree.map(lambda new, old: jnp.where(batch.refresh, new, old), newest, extra["targets"])
        click = extra["order"][batch.slots]
        users = data.clicks[0][click]
        items = jnp.where(batch.is_click, data.clicks[1][click], batch.items)
        where = batch.where & (batch.is_click | ~sampling.contains(data.click_set, users, items))
        labels = batch.is_click.astype(jnp.float32)
        part = batch.slots // part_size(data, n_models)
        popularity = extra["popularity"]
        floor = hparams.get("min_exposure", 0.0)
        relevance, exposure = targets(kept, floor, popularity, users, items, labels, part)
        tx = transformations(hparams)

        def learn(which: str, loss, active: Array):
            """One step of every active sub-model (or residual): relevance, then exposure at the new item vectors."""
            groups, states, values = dict(params), dict(state.opt_state), {}

            def whole(group, own, base):
                return own if which == "base" else jax.tree.map(jnp.add, base, own)

            def of_relevance(own, base):
                logits = model.apply(whole("prediction", own, base), users, items)
                return loss(_clip_logits(logits), labels, exposure=exposure, where=where)

            def of_exposure(own, base, vectors):
                m = item_exposure_model.apply(whole("exposure", own, base), vectors, popularity[items])
                m = jnp.clip(m, _FLOOR, 1 - _FLOOR)
                if which == "residual":
                    return loss(_logit(relevance), labels, exposure=m, where=where)
                return loss(_logit(m), labels, exposure=relevance, where=where)

            for group, objective in (("prediction", of_relevance), ("exposure", of_exposure)):
                own, base, more = groups[group][which], groups[group]["base"], ()
                if group == "exposure":
                    stepped = whole("prediction", groups["prediction"][which], groups["prediction"]["base"])
                    more = (jax.vmap(lambda one: item_vectors(one, items))(stepped),)
                values[group], grads = jax.vmap(jax.value_and_grad(objective))(own, base, *more)
                updates, moments = jax.vmap(tx[group][which].update)(grads, states[group][which], own)
                new = optax.apply_updates(own, updates), moments
                old = own, states[group][which]
                own, moments = jax.tree.map(
                    lambda new, old: jnp.where(_along(active, new), new, old), new, old
                )
                groups[group] = {**groups[group], which: own}
                states[group] = {**states[group], which: moments}
            logs = {name: jnp.sum(active * value) / jnp.sum(active) for name, value in values.items()}
            return groups, states, logs

        everyone = jnp.ones(n_models, bool)
        groups, states, values = jax.lax.cond(
            batch.residual,
            lambda: learn("residual", losses.umf, everyone),
            # All rows of such a batch are of one part.
            lambda: learn("base", losses.relmf, everyone.at[part[0]].set(False)),
        )
        state = state._replace(
            step=state.step + 1, params=groups, opt_state=states, extra={**extra, "targets": kept}
        )
        return state, {"loss": values["prediction"], "loss/exposure": values["exposure"]}

    def predict(state: TrainState, users: Array, items: Array) -> Array:
        parts = state.params["prediction"]
        together = jax.tree.map(jnp.add, parts["base"], parts["residual"])

        def add(sums, own):
            logits = model.apply(own, users, items)
            return tuple(
                jnp.logaddexp(total, jax.nn.log_sigmoid(sign * logits))
                for total, sign in zip(sums, (1.0, -1.0), strict=True)
            ), None

        # One sub-model after the other: their scores need not be held together.
        none = jnp.full(jnp.broadcast_shapes(jnp.shape(users), jnp.shape(items)), -jnp.inf, jnp.float32)
        (relevant, irrelevant), _ = jax.lax.scan(add, (none, none), together)
        return relevant - irrelevant

    def exposure(state: TrainState, data: TrainData, users: Array, items: Array) -> Array:
        _, items = jnp.broadcast_arrays(users, items)
        base = {group: parts["base"] for group, parts in state.params.items()}
        every = jnp.arange(data.matrix_size[1], dtype=jnp.int32)
        return jnp.mean(_exposures(base, state.extra["popularity"], every), axis=0)[items]

    return Method(init, batches, step, predict, own_hparams, exposure)


def _clip_logits(logits: Array) -> Array:
    """Logits of probabilities within [.01, .99]; no gradient outside."""
    bound = jnp.log1p(-_FLOOR) - jnp.log(_FLOOR)
    return jnp.clip(logits, -bound, bound)


def _logit(p: Array) -> Array:
    return jnp.log(p) - jnp.log1p(-p)


def _along(active: Array, leaf: Array) -> Array:
    """``active [C]`` with the axes of a leaf ``[C, ...]``."""
    return active.reshape(active.shape + (1,) * (leaf.ndim - 1))
