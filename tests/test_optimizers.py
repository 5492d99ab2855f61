"""Coupled Adam and SGD: against torch's recorded steps, slow numpy, and under traced hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import optimizers


def slow_adam(start, grads, *, lr, weight_decay, b1, b2, eps, eps_root=0.0):
    """Algorithm 1 of the paper with L2 in the gradient, in float64."""
    x, m, v = start.astype(np.float64), np.zeros(start.shape), np.zeros(start.shape)
    history = []
    for t, grad in enumerate(grads, start=1):
        g = grad + weight_decay * x
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        x = x - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t) + eps_root) + eps)
        history.append((x, m, v))
    return [np.stack(column) for column in zip(*history, strict=True)]


def run(tx, start, grads):
    """Parameters, first and second moment after each step."""
    params = jnp.asarray(start, jnp.float32)
    state = tx.init(params)
    history = []
    for grad in grads:
        updates, state = tx.update(jnp.asarray(grad, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
        history.append((params, optax.tree.get(state, "mu"), optax.tree.get(state, "nu")))
    return [np.stack(column) for column in zip(*history, strict=True)]


def assert_close_to_scale(actual, expected, tolerance=1e-5):
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("decay", [True, False], ids=["coupled", "no_decay"])
def test_adam_equals_torch(fixtures_dir, decay):
    with np.load(fixtures_dir / "adam_coupled.npz", allow_pickle=False) as file:
        recorded = dict(file)
    # Settings are stored as float32; their decimal value is meant.
    hp = {name[3:]: float(f"{value:.6g}") for name, value in recorded.items() if name.startswith("hp/")}
    tx = optimizers.adam(
        hp["lr"],
        weight_decay=hp["weight_decay"] if decay else 0.0,
        b1=hp["beta1"],
        b2=hp["beta2"],
        eps=hp["eps"],
    )
    actual = run(tx, recorded["param_0"], recorded["grads"])
    prefix = "" if decay else "no_decay/"
    for values, name in zip(actual, ("params", "exp_avg", "exp_avg_sq"), strict=True):
        assert_close_to_scale(values, recorded[prefix + name])


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_decay": 0.0},
        {"weight_decay": 0.05},
        {"weight_decay": 0.05, "b1": 0.8, "b2": 0.95, "eps": 1e-3, "eps_root": 1e-2},
    ],
    ids=["plain", "decay", "all_settings"],
)
def test_adam_equals_slow_numpy(rng, settings):
    start, grads = rng.normal(size=9), rng.normal(size=(6, 9))
    expected = slow_adam(start, grads, **{"lr": 0.01, "b1": 0.9, "b2": 0.999, "eps": 1e-8, **settings})
    for actual, column in zip(run(optimizers.adam(0.01, **settings), start, grads), expected, strict=True):
        assert_close_to_scale(actual, column)


def test_decay_is_coupled_and_not_decoupled():
    params = jnp.asarray([1.0, -4.0], jnp.float32)
    tx = optimizers.adam(0.1, weight_decay=0.01)
    updates, _ = tx.update(jnp.zeros(2, jnp.float32), tx.init(params), params)
    # Through the moments only the sign of the decay is left at step 1; AdamW would give -0.1 * 0.01 * params.
    np.testing.assert_allclose(updates, [-0.1, 0.1], rtol=2e-5)


def test_sgd_is_written_out():
    params = {"w": jnp.asarray([1.0, -2.0], jnp.float32)}
    tx = optimizers.sgd(0.5, weight_decay=0.1)
    updates, _ = tx.update({"w": jnp.asarray([3.0, 0.0], jnp.float32)}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], [-0.5 * (3.0 + 0.1 * 1.0), -0.5 * (0.1 * -2.0)], rtol=1e-6)


FACTORIES = {"adam": optimizers.adam, "sgd": optimizers.sgd}


def trajectory(factory, learning_rate, weight_decay, dtype=jnp.float32, steps=4):
    """Final parameters on a fixed quadratic."""
    params = {"table": jnp.ones((3, 2), dtype), "bias": jnp.zeros((), dtype)}
    tx = factory(learning_rate, weight_decay=weight_decay)

    def loss(params):
        return jnp.sum((params["table"] - 2) ** 2) + (params["bias"] - 1) ** 2

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), loss(params)

    (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), length=steps)
    return params, losses


@pytest.mark.parametrize("name", FACTORIES)
def test_sweep_compiles_once_and_vmap_equals_single_runs(name):
    factory, traces = FACTORIES[name], []

    @jax.jit
    def single(learning_rate, weight_decay):
        traces.append(1)
        return trajectory(factory, learning_rate, weight_decay)[0]

    rates = jnp.asarray([0.01, 0.1, 0.1], jnp.float32)
    decays = jnp.asarray([0.0, 0.0, 0.5], jnp.float32)
    runs = [single(rate, decay) for rate, decay in zip(rates, decays, strict=True)]
    assert len(traces) == 1
    together = jax.vmap(lambda rate, decay: trajectory(factory, rate, decay)[0])(rates, decays)
    for number, run_alone in enumerate(runs):
        jax.tree.map(
            lambda a, b, number=number: np.testing.assert_allclose(a[number], b, rtol=1e-6),
            together,
            run_alone,
        )
    assert abs(runs[1]["table"] - runs[2]["table"]).max() > 1e-3


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_state_keeps_dtype_under_array_hyperparameters(name, dtype):
    # A scan refuses a carry whose dtype changes; a float32 scalar would widen bfloat16 moments.
    params, losses = trajectory(FACTORIES[name], jnp.float32(0.1), jnp.float32(0.01), dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", FACTORIES)
def test_second_step_does_not_recompile(name):
    traces = []

    @jax.jit
    def step(params, state, learning_rate, weight_decay):
        traces.append(1)
        tx = FACTORIES[name](learning_rate, weight_decay=weight_decay)
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, updates), state

    params = {"w": jnp.zeros((2, 2), jnp.float32)}
    state = FACTORIES[name](0.1).init(params)
    for learning_rate in (0.1, 0.2, 0.3):
        params, state = step(params, state, jnp.float32(learning_rate), jnp.float32(0.0))
    assert len(traces) == 1


def test_all_settings_of_adam_may_be_traced(rng):
    start, grads = rng.normal(size=5), rng.normal(size=(3, 5))
    names = ("weight_decay", "b1", "b2", "eps", "eps_root")
    values = dict(zip(names, (0.1, 0.8, 0.9, 1e-3, 1e-2), strict=True))

    @jax.jit
    def last(learning_rate, settings):
        tx = optimizers.adam(learning_rate, **settings)
        params = jnp.asarray(start, jnp.float32)
        state = tx.init(params)
        for grad in jnp.asarray(grads, jnp.float32):
            updates, state = tx.update(grad, state, params)
            params = optax.apply_updates(params, updates)
        return params

    expected = slow_adam(start, grads, lr=0.05, **values)[0][-1]
    assert_close_to_scale(last(jnp.float32(0.05), jax.tree.map(jnp.float32, values)), expected)
