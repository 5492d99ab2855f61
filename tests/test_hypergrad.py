"""The hypergradient is exact: finite differences, Biif's closed form, and what its docstring states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import biif

from debias_jax import hypergrad, optimizers

ETA = 0.3


def click_likelihood(params, exposure, users, items, clicks, where=True):
    """Biif's L2, summed, with one free exposure for each row."""
    p = jax.nn.sigmoid(jnp.sum(params["user"][users] * params["item"][items], axis=-1))
    values = -clicks * jnp.log(exposure * p) - (1 - clicks) * jnp.log1p(-exposure * p)
    return jnp.sum(jnp.where(where, values, 0.0))


def cross_entropy(params, exposure, users, items, labels):
    del exposure
    return click_likelihood(params, jnp.ones_like(labels), users, items, labels)


def problem(rng, *, n_users=5, n_items=6, dim=3, n_batch=10, n_validation=14):
    """Random vectors, distinct batch pairs, and several validation pairs for each user and item."""
    params = {
        "user": jnp.asarray(rng.normal(size=(n_users, dim))),
        "item": jnp.asarray(rng.normal(size=(n_items, dim))),
    }

    def rows(n):
        pairs = rng.choice(n_users * n_items, n, replace=False)
        labels = (rng.random(n) < 0.4).astype(float)
        return jnp.asarray(pairs // n_items), jnp.asarray(pairs % n_items), jnp.asarray(labels)

    return params, jnp.asarray(rng.uniform(0.1, 0.9, n_batch)), rows(n_batch), rows(n_validation)


def warm(tx, params, rng, steps=3):
    """Optimiser state after a few random gradients."""
    state = tx.init(params)
    for _ in range(steps):
        grads = jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape)), params)
        _, state = tx.update(grads, state, params)
    return state


def finite_differences(f, x, h=1e-5):
    steps = h * np.eye(x.size)
    return np.asarray([(f(x + step) - f(x - step)) / (2 * h) for step in steps])


def dependent_outer(params, exposure, users, items, labels):
    """Depends on the exposure directly too, as BiOpt2's outer loss does."""
    return cross_entropy(params, exposure, users, items, labels) + jnp.sum(exposure**3)


TRANSFORMATIONS = {
    "sgd": optimizers.sgd(ETA, weight_decay=0.1),
    "momentum": optax.sgd(ETA, momentum=0.9, nesterov=True),
    "adam": optimizers.adam(ETA, weight_decay=0.1, eps_root=1e-6),
    "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(ETA)),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_equals_finite_differences(x64, rng, name):
    tx = TRANSFORMATIONS[name]
    params, exposure, batch, validation = problem(rng)
    state = warm(tx, params, rng)
    step = hypergrad.lookahead(click_likelihood, tx)

    @jax.jit
    def outer_value(exposure):
        return dependent_outer(step(params, state, exposure, *batch)[0], exposure, *validation)

    compute = jax.jit(hypergrad.hypergradient(click_likelihood, dependent_outer, tx))
    out = compute(params, state, exposure, batch, validation)
    expected = finite_differences(outer_value, exposure)
    # Central differences at h = 1e-5 err by h^2 f'''/6 + 1e-16 |f| / h, some 1e-10 here.
    np.testing.assert_allclose(out.grads, expected, rtol=1e-6, atol=1e-8)
    assert out.value == pytest.approx(float(outer_value(exposure)), rel=1e-12)


def test_returns_the_step_it_differentiates(x64, rng):
    tx = TRANSFORMATIONS["momentum"]
    params, exposure, batch, validation = problem(rng)
    state = warm(tx, params, rng)
    compute = jax.jit(hypergrad.hypergradient(click_likelihood, cross_entropy, tx))
    out = compute(params, state, exposure, batch, validation)

    value, grads = jax.jit(jax.value_and_grad(click_likelihood))(params, exposure, *batch)
    updates, new_state = tx.update(grads, state, params)
    taken = out.inner_value, out.inner_grads, out.inner_params, out.opt_state
    expected = value, grads, optax.apply_updates(params, updates), new_state
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12), taken, expected)


@pytest.mark.parametrize("overlap", [False, True], ids=["disjoint", "batch_in_validation"])
def test_equals_closed_form_of_eq_19(x64, rng, overlap):
    params, exposure, batch, validation = problem(rng)
    in_batch = set(zip(*map(np.asarray, batch[:2]), strict=True))
    in_validation = [pair in in_batch for pair in zip(*map(np.asarray, validation[:2]), strict=True)]
    if not overlap:
        validation = tuple(column[~np.asarray(in_validation)] for column in validation)
    else:
        assert any(in_validation)
    tx = optimizers.sgd(ETA)
    compute = jax.jit(hypergrad.hypergradient(click_likelihood, cross_entropy, tx))
    out = compute(params, tx.init(params), exposure, batch, validation)

    def listed(columns):
        return [(int(u), int(i), bool(label)) for u, i, label in zip(*columns, strict=True)]

    expected = biif.eq19(
        np.asarray(params["user"]),
        np.asarray(params["item"]),
        listed(batch),
        np.asarray(exposure),
        listed(validation),
        ETA,
    )
    assert np.count_nonzero(expected) == np.count_nonzero(batch[2] == 0)
    np.testing.assert_allclose(out.grads, expected, rtol=1e-9, atol=1e-9)


def test_first_order_truncation_gives_zero(x64, rng):
    params, exposure, batch, validation = problem(rng)
    held = optax.stateless(lambda updates, params: jax.lax.stop_gradient(updates))
    tx = optax.chain(held, optax.sgd(ETA))
    compute = jax.jit(hypergrad.hypergradient(click_likelihood, cross_entropy, tx))
    out = compute(params, tx.init(params), exposure, batch, validation)
    np.testing.assert_array_equal(out.grads, 0.0)


def test_adam_needs_eps_root_where_a_gradient_is_zero(x64, rng):
    params, exposure, batch, validation = problem(rng)
    # A padded row points at an item that no other row has: gathered, then masked, its gradient is 0.
    params["item"] = jnp.concatenate([params["item"], jnp.ones((1, 3))])
    users, items, clicks = batch
    batch = users, items.at[0].set(6), clicks, jnp.arange(10) > 0
    for eps_root, finite in ((0.0, False), (1e-8, True)):
        tx = optimizers.adam(ETA, eps_root=eps_root)
        compute = jax.jit(hypergrad.hypergradient(click_likelihood, cross_entropy, tx))
        out = compute(params, tx.init(params), exposure, batch, validation)
        assert bool(jnp.isfinite(out.grads).all()) is finite
        # The step itself is sound either way, which is why the fault goes unseen.
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(out.inner_params))


def test_jit_equals_eager(rng):
    tx = optimizers.sgd(ETA)
    params, exposure, batch, validation = jax.tree.map(_narrow, problem(rng))
    compute = hypergrad.hypergradient(click_likelihood, cross_entropy, tx)
    args = (params, tx.init(params), exposure, batch, validation)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, compute(*args), jax.jit(compute)(*args))


def test_vmap_over_runs_equals_single_runs(rng):
    tx = optimizers.sgd(ETA)
    runs = [jax.tree.map(_narrow, problem(rng)) for _ in range(3)]

    def run(params, exposure, batch, validation):
        compute = hypergrad.hypergradient(click_likelihood, cross_entropy, tx)
        return compute(params, tx.init(params), exposure, batch, validation)

    together = jax.jit(jax.vmap(run))(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *runs))
    alone = jax.jit(run)
    for number, args in enumerate(runs):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], together)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), own, alone(*args))


def test_traced_step_size_does_not_recompile(rng):
    params, exposure, batch, validation = jax.tree.map(_narrow, problem(rng))
    traces = []

    @jax.jit
    def run(params, exposure, step_size):
        traces.append(1)
        tx = optimizers.sgd(step_size)
        compute = hypergrad.hypergradient(click_likelihood, cross_entropy, tx)
        out = compute(params, tx.init(params), exposure, batch, validation)
        return out.inner_params, exposure - step_size * out.grads

    for step_size in (0.1, 0.2, 0.3):
        params, exposure = run(params, exposure, jnp.float32(step_size))
    assert len(traces) == 1


def _narrow(leaf):
    return leaf.astype(jnp.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.astype(jnp.int32)
