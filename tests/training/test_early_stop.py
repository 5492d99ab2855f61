import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax.training import early_stop

NAN, INF = float("nan"), float("inf")


def run(values, **settings):
    """Feeds values to a run whose parameters in epoch e are all e, and returns the states after each."""
    mode = settings.get("mode", "max")
    state = early_stop.init({"w": jnp.full(2, -1.0)}, mode=mode)
    states = []
    for epoch, value in enumerate(values):
        params = {"w": jnp.full(2, epoch, jnp.float32)}
        state = early_stop.update(state, jnp.asarray(value, jnp.float32), params, epoch, **settings)
        states.append(state)
    return states


def reference(values, *, patience, mode="max", min_delta=0.0):
    """The rule in plain Python: (best_epoch, bad_count, active) after each value."""
    best, best_epoch, bad, active, rows = None, -1, 0, True, []
    for epoch, value in enumerate(values):
        if active:
            gain = INF if best is None else (value - best if mode == "max" else best - value)
            if np.isfinite(value) and gain > min_delta:
                best, best_epoch, bad = value, epoch, 0
            else:
                bad += 1
            active = patience is None or bad < patience
        rows.append((best_epoch, bad, active))
    return rows


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        ([0.5, 0.75, 0.625, 0.75, 0.875], {"patience": 3}),
        ([0.5, 0.75, 0.625, 0.75, 0.875], {"patience": 2}),
        ([0.5, 0.4, 0.3, 0.9], {"patience": None}),
        ([3.0, 2.0, 2.5, 1.0], {"patience": 1, "mode": "min"}),
        ([0.5, 0.625, 0.75, 0.875], {"patience": 5, "min_delta": 0.1875}),
        ([2.0, 1.9375, 1.5], {"patience": 5, "min_delta": 0.25, "mode": "min"}),
        ([NAN, 0.5, NAN, 0.25, NAN], {"patience": 3}),
        ([NAN, NAN, 0.5], {"patience": 2}),
        ([-INF, 0.5], {"patience": 4}),
        ([INF, 0.5], {"patience": 4, "mode": "min"}),
    ],
)
def test_follows_the_rule_in_plain_python(values, settings):
    for state, (best_epoch, bad, active) in zip(
        run(values, **settings), reference(values, **settings), strict=True
    ):
        assert (int(state.best_epoch), int(state.bad_count), bool(state.active)) == (best_epoch, bad, active)
        np.testing.assert_array_equal(state.best_params["w"], np.full(2, best_epoch, np.float32))
        if best_epoch >= 0:
            assert float(state.best_value) == np.float32(values[best_epoch])


def test_a_run_of_nans_keeps_the_first_parameters():
    state = run([NAN, NAN], patience=None)[-1]
    assert int(state.best_epoch) == -1
    assert float(state.best_value) == -INF
    np.testing.assert_array_equal(state.best_params["w"], [-1.0, -1.0])


def test_a_stopped_run_never_changes_again():
    states = run([0.5, 0.25, 0.9, 0.95], patience=1)
    stopped = [s for s in states if not bool(s.active)]
    assert len(stopped) == 3
    for state in stopped[1:]:
        jax.tree.map(np.testing.assert_array_equal, state, stopped[0])


@pytest.mark.parametrize("mapping", ["vmap", "lax.map"])
def test_each_mapped_run_stops_for_itself(mapping):
    values = np.array([[0.5, 0.4, 0.3, 0.9], [0.1, 0.2, 0.3, 0.4], [NAN, 0.2, 0.1, 0.0]], np.float32)

    def update(state, value, params, epoch):
        return early_stop.update(state, value, params, epoch, patience=2)

    @jax.jit
    def over_runs(state, value, params, epoch):
        if mapping == "vmap":
            return jax.vmap(update, in_axes=(0, 0, 0, None))(state, value, params, epoch)
        return jax.lax.map(lambda args: update(*args, epoch), (state, value, params))

    state = jax.vmap(early_stop.init)({"w": jnp.zeros((3, 2))})
    for epoch in range(4):
        state = over_runs(state, values[:, epoch], {"w": jnp.full((3, 2), epoch, jnp.float32)}, epoch)
    for number in range(3):
        alone = run(values[number], patience=2)[-1]
        np.testing.assert_array_equal(state.best_epoch[number], alone.best_epoch)
        np.testing.assert_array_equal(state.active[number], alone.active)
        if alone.best_epoch >= 0:
            np.testing.assert_array_equal(state.best_params["w"][number], alone.best_params["w"])


def test_state_keeps_shapes_and_dtypes_and_does_not_recompile():
    traces = []

    @jax.jit
    def update(state, value, params, epoch):
        traces.append(1)
        return early_stop.update(state, value, params, epoch, patience=3)

    params = {"w": jnp.zeros(2), "n": jnp.zeros((), jnp.int32)}
    first = early_stop.init(params)
    second = update(first, jnp.asarray(0.5, jnp.float32), params, jnp.asarray(0, jnp.int32))
    update(second, jnp.asarray(0.25, jnp.float32), params, jnp.asarray(1, jnp.int32))
    assert len(traces) == 1
    for old, new in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)


@pytest.mark.parametrize("jitted", [False, True])
def test_best_parameters_survive_the_donation_of_the_live_ones(jitted):
    initialise = jax.jit(early_stop.init) if jitted else early_stop.init
    params = {"w": jnp.arange(3.0)}
    state = initialise(params)
    step = jax.jit(lambda p: jax.tree.map(lambda x: x + 1.0, p), donate_argnums=0)
    live = step(params)
    assert params["w"].is_deleted()
    np.testing.assert_array_equal(state.best_params["w"], [0.0, 1.0, 2.0])
    state = early_stop.update(state, jnp.asarray(1.0), live, 1, patience=None)
    step(live)
    np.testing.assert_array_equal(state.best_params["w"], [1.0, 2.0, 3.0])


def test_misuse_is_named():
    state = early_stop.init({"w": jnp.zeros(2)})
    good = (state, jnp.asarray(0.5), {"w": jnp.zeros(2)}, 0)
    with pytest.raises(ValueError, match="mode must be 'max' or 'min', got 'best'"):
        early_stop.init({}, mode="best")
    with pytest.raises(ValueError, match="mode must be 'max' or 'min', got 'up'"):
        early_stop.update(*good, patience=1, mode="up")
    with pytest.raises(ValueError, match="patience must be at least 1 or None, got 0"):
        early_stop.update(*good, patience=0)
    with pytest.raises(
        ValueError, match=r"value must be a scalar, got shape \(3,\); map over runs with jax.vmap"
    ):
        early_stop.update(state, jnp.zeros(3), {"w": jnp.zeros(2)}, 0, patience=1)
    with pytest.raises(TypeError, match="value must be of a floating dtype, got int32"):
        early_stop.update(state, jnp.asarray(3), {"w": jnp.zeros(2)}, 0, patience=1)
