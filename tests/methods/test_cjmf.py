"""CJMF: its parts, one step written out, its scores and its exposure."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.steps import close, pairs_of

from debias_jax import data, methods, models, optimizers, training
from debias_jax.errors import ConfigError

N_USERS, N_ITEMS, DIM = 24, 18, 4
C = 3
HPARAMS = {
    "lr": 0.01,
    "weight_decay": 0.1,
    "exposure_weight_decay": 0.3,
    "residual_lr": 0.02,
    "residual_decay": 0.5,
}


@pytest.fixture(scope="module")
def train():
    simulated = data.synthetic.generate(seed=3, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3)
    return training.train_data(data.splits.biif(simulated, seed=0))


def make(**options):
    return methods.cjmf(
        models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7),
        models.cjmf_exposure(dim=DIM, init_scale=0.7),
        item_vectors=models.item_vectors,
        **{"n_models": C, "batch_size": 48} | options,
    )


def rows_of(state, train, batch):
    """Users, items, labels, mask and part of a batch, by plain look-ups."""
    n = train.clicks[0].shape[0]
    clicked = np.zeros((N_USERS, N_ITEMS), bool)
    clicked[np.asarray(train.clicks[0]), np.asarray(train.clicks[1])] = True
    place = np.asarray(state.extra["order"])[np.asarray(batch.slots)]
    users = np.asarray(train.clicks[0])[place]
    items = np.where(batch.is_click, np.asarray(train.clicks[1])[place], batch.items)
    where = np.asarray(batch.where) & (np.asarray(batch.is_click) | ~clicked[users, items])
    return (
        users,
        items,
        np.asarray(batch.is_click, np.float32),
        where,
        np.asarray(batch.slots) // -(-n // C),
    )


def test_an_epoch_has_each_click_once_in_its_part_and_once_for_the_residuals(train):
    method = make()
    state = method.init(jax.random.key(1), train, {})
    batches = method.batches(train, jax.random.key(5))
    clicks = sorted(zip(*(np.asarray(ids).tolist() for ids in train.clicks), strict=True))
    residual, where = np.asarray(batches.residual), np.asarray(batches.where & batches.is_click)
    for phase in (residual, ~residual):
        part = jax.tree.map(lambda x, phase=phase: x[phase], batches)
        users, items, _, _, _ = rows_of(state, train, part)
        assert sorted(pairs_of(users, items, where[phase])) == clicks
    _, _, _, mask, parts = rows_of(state, train, batches)
    of_steps = [set(parts[step][mask[step]]) for step in np.flatnonzero(~residual)]
    assert all(len(of_step) == 1 for of_step in of_steps)
    # New targets with each new part, and with the residuals.
    first = [step == 0 or of_steps[step] != of_steps[step - 1] for step in range(len(of_steps))]
    assert sum(first) == C
    np.testing.assert_array_equal(np.asarray(batches.refresh)[~residual], first)
    assert np.asarray(batches.refresh)[residual].tolist() == [True] + [False] * (residual.sum() - 1)


@pytest.mark.parametrize("variant", ["published", "released"])
@pytest.mark.parametrize("phase", ["base", "residual"])
def test_one_step_is_the_algorithm_written_out(train, phase, variant):
    method = make(variant=variant)
    clip = {"min_exposure": 0.05} if variant == "published" else {}
    state = method.init(jax.random.key(1), train, HPARAMS | clip)
    # Popularity near 0, so that exposures fall below the bound of the targets.
    extra = {**state.extra, "popularity": jnp.where(jnp.arange(N_ITEMS) < 9, 1e-4, 0.8)}
    exposure_params = state.params["exposure"]
    steep = {
        **exposure_params["base"],
        "power_bias": jnp.full(C, 4.0),
        "gate_bias": jnp.full(C, -6.0),
    }
    params = {**state.params, "exposure": {**exposure_params, "base": steep}}
    state = state._replace(params=params, extra=extra)
    batches = method.batches(train, jax.random.key(5))
    step = int(jnp.argmax(batches.residual == (phase == "residual")))
    batch = jax.tree.map(lambda x: x[step], batches)
    new, logs = method.step(state, train, batch, jax.random.key(2))
    users, items, labels, where, part = rows_of(state, train, batch)

    def relevance(params):
        return jax.nn.sigmoid(jnp.sum(params["user"][users] * params["item"][items], axis=-1))

    def exposure(params, vectors):
        def of(name):
            return jax.nn.sigmoid(vectors @ params[f"{name}_weight"] + params[f"{name}_bias"])

        popularity = extra["popularity"][items]
        return (of("gate") * of("affinity") + (1 - of("gate")) * popularity) ** of("power")

    def model(tree, k):
        return jax.tree.map(lambda x: x[k], tree)

    base = {group: params[group]["base"] for group in params}
    p = jnp.stack([relevance(model(base["prediction"], k)) for k in range(C)])
    m = jnp.stack(
        [exposure(model(base["exposure"], k), base["prediction"]["item"][k][items]) for k in range(C)]
    )
    own = np.arange(len(part))
    p, m = (jnp.where(labels > 0, table[part, own], table.mean(axis=0)) for table in (p, m))
    assert bool(jnp.any(m < 0.01))
    p, m = jnp.clip(p, 0.01, 0.99), jnp.clip(m, clip.get("min_exposure", 0.0), 0.99)

    def mean(values):
        return jnp.mean(values[where])

    def l1(q, other):
        q = jnp.clip(q, 0.01, 0.99)
        return mean(-(labels / other * jnp.log(q) + (1 - labels / other) * jnp.log(1 - q)))

    def l2(q, other):
        q = jnp.clip(q, 0.01, 0.99)
        return mean(-(labels * jnp.log(q * other) + (1 - labels) * jnp.log(1 - q * other)))

    loss, values = (l1 if phase == "base" else l2), []
    lr, factor = (0.01, 1.0) if phase == "base" else (0.02, 0.5)
    for k in range(C):
        before = {group: model(params[group][phase], k) for group in params}
        if phase == "base" and k == part[0]:
            for group in params:
                jax.tree.map(np.testing.assert_array_equal, model(new.params[group][phase], k), before[group])
            continue

        def whole(group, own, k=k):
            return own if phase == "base" else jax.tree.map(jnp.add, own, model(base[group], k))

        def of_relevance(own, whole=whole):
            return loss(relevance(whole("prediction", own)), m)

        def of_exposure(own, stepped, whole=whole):
            return loss(exposure(whole("exposure", own), whole("prediction", stepped)["item"][items]), p)

        value, grads = jax.value_and_grad(of_relevance)(before["prediction"])
        values.append(float(value))
        tx = optimizers.adam(lr, weight_decay=0.1 * factor)
        updates, _ = tx.update(grads, tx.init(before["prediction"]), before["prediction"])
        stepped = optax.apply_updates(before["prediction"], updates)
        close(model(new.params["prediction"][phase], k), stepped)
        grads = jax.grad(of_exposure)(before["exposure"], stepped)
        tx = optimizers.adam(lr, weight_decay=0.3 * factor)
        updates, _ = tx.update(grads, tx.init(before["exposure"]), before["exposure"])
        close(model(new.params["exposure"][phase], k), optax.apply_updates(before["exposure"], updates))
    assert float(logs["loss"]) == pytest.approx(np.mean(values), rel=1e-4)
    other = "residual" if phase == "base" else "base"
    for group in params:
        jax.tree.map(np.testing.assert_array_equal, new.params[group][other], params[group][other])


def test_scores_are_the_logit_of_the_mean_relevance_and_exposure_is_the_mean_of_the_bases(train):
    method = make()
    state = method.init(jax.random.key(1), train, {})
    users, items = np.meshgrid(np.arange(N_USERS), np.arange(N_ITEMS), indexing="ij")
    parts = state.params["prediction"]
    together = jax.tree.map(np.add, parts["base"], parts["residual"])
    p = 1 / (1 + np.exp(-np.einsum("cud,cid->cui", together["user"], together["item"])))
    scores = method.predict(state, jnp.asarray(users), jnp.asarray(items))
    close(scores, np.log(p.mean(axis=0)) - np.log1p(-p.mean(axis=0)), atol=1e-5)
    counts = np.bincount(np.asarray(train.clicks[1]), minlength=N_ITEMS)
    model = models.cjmf_exposure(dim=DIM)
    each = [
        model.apply(
            jax.tree.map(lambda x, k=k: x[k], state.params["exposure"]["base"]),
            parts["base"]["item"][k],
            jnp.asarray((counts + 1) / (counts.max() + 1), jnp.float32),
        )
        for k in range(C)
    ]
    close(method.exposure(state, train, users, items), np.broadcast_to(np.mean(each, axis=0), users.shape))


def test_scores_of_certain_pairs_are_finite(train):
    method = make()
    state = method.init(jax.random.key(1), train, {})
    params = jax.tree.map(lambda x: 10.0 * jnp.sign(x), state.params["prediction"])
    state = state._replace(params={**state.params, "prediction": params})
    scores = method.predict(state, jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :])
    assert bool(jnp.all(jnp.isfinite(scores)))
    assert float(jnp.max(scores)) > 17.0


def test_bad_options_are_named():
    with pytest.raises(ConfigError, match="n_models must be at least 2.*got 1"):
        make(n_models=1)
    with pytest.raises(ValueError, match="no_such.*published"):
        make(variant="no_such")
