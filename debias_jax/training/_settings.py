"""What ``fit_many`` is asked for: refused where it does not fit, before anything is trained."""

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from debias_jax.errors import ConfigError
from debias_jax.methods.base import Method, range_of
from debias_jax.training import early_stop
from debias_jax.types import Array

logger = logging.getLogger(__name__)

STRATEGIES = ("auto", "map", "vmap")
"""How runs are mapped: ``map`` one after the other inside one program (bit-equal to single runs, and as fast as
anything on CPU), ``vmap`` side by side (for accelerators); ``auto`` takes ``map`` on CPU and ``vmap`` elsewhere."""


def stacked_hparams(method: Method, given: dict[str, Any], n_runs: int) -> dict[str, Array]:
    unknown = sorted(set(given) - set(method.hparams))
    if unknown:
        raise ConfigError(f"unknown hyperparameters {unknown}; this method has {sorted(method.hparams)}")
    stacked = {}
    for name, default in method.hparams.items():
        values = jnp.asarray(given.get(name, default), jnp.float32)
        if values.shape not in ((), (n_runs,)):
            raise ConfigError(
                f"{name} has shape {values.shape}; give a scalar, or one value for each of {n_runs} runs"
            )
        allowed = range_of(method, name)
        # Under a caller's own transformation there are no values to look at.
        if allowed is not None and not isinstance(values, jax.core.Tracer):
            for value in np.ravel(values).tolist():
                if not allowed.holds(value):
                    raise ConfigError(f"hyperparameter {name} is {value:g}; it must be in {allowed}")
        stacked[name] = jnp.broadcast_to(values, (n_runs,))
    return stacked


def check_settings(
    keys,
    epochs,
    eval_every,
    eval_at_start,
    evaluate,
    monitor,
    mode,
    patience,
    restore,
    strategy,
    on_nonfinite,
) -> str:
    """Refuses settings that do not fit; returns the strategy with ``auto`` resolved."""
    if not isinstance(keys, jax.Array | np.ndarray):
        raise ConfigError(
            f"keys is a {type(keys).__name__}; give an array with a key for each run, jnp.stack(keys)"
        )
    if not keys.shape or keys.shape[1:] != _shape_of_key(keys):
        raise ConfigError(
            f"keys has shape {keys.shape}; give one key for each run, [runs], or use fit for a single one"
        )
    if strategy == "single" and keys.shape[0] != 1:
        raise ConfigError(
            f"strategy 'single' is for one run, and there are {keys.shape[0]} keys; there are {', '.join(STRATEGIES)}"
        )
    for value, allowed, what in (
        (strategy, (*STRATEGIES, "single"), "strategy"),
        (mode, ("max", "min"), "mode"),
        (restore, ("best", "last"), "restore"),
        (on_nonfinite, ("raise", "drop"), "on_nonfinite"),
    ):
        if value not in allowed:
            raise ConfigError(f"{what} is {value!r}; there are {', '.join(allowed)}")
    for value, what in ((epochs, "epochs"), (eval_every, "eval_every"), (patience, "patience")):
        if value is not None and value < 1:
            raise ConfigError(f"{what} is {value}; it must be at least 1")
    if monitor is not None and evaluate is None:
        raise ConfigError(f"monitor is {monitor!r}, but there is no evaluate function that would compute it")
    if eval_at_start and evaluate is None:
        raise ConfigError("eval_at_start is set, but there is no evaluate function that could be called")
    if patience is not None and monitor is None:
        raise ConfigError(f"patience is {patience}, but no monitor says what should improve")
    return resolve_strategy(strategy)


def check_key(key) -> None:
    """Refuses what is not one key."""
    if not isinstance(key, jax.Array | np.ndarray):
        raise ConfigError(
            f"key is a {type(key).__name__}; give one key, as jax.random.key or training.run_key makes it"
        )
    if key.shape != _shape_of_key(key):
        raise ConfigError(f"key has shape {key.shape}; give one key, or use fit_many for several runs")


def _shape_of_key(keys) -> tuple[int, ...]:
    """The shape of one key of an array of keys, typed or raw."""
    if jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        return ()
    return jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0))).shape


def check_plateau(plateau: early_stop.Plateau, eval_every: int, programs, keys, data, stacked) -> None:
    """Refuses a rule that cannot be followed, before anything is trained."""
    if not (plateau.tolerance >= 0 and plateau.patience >= 1):
        raise ConfigError(
            f"plateau has tolerance {plateau.tolerance} and patience {plateau.patience}; they must be at least 0 and 1"
        )
    if eval_every != 1:
        raise ConfigError(
            f"plateau stops a run after any epoch, and eval_every is {eval_every}: the host would see it late; set "
            "eval_every=1"
        )
    states = jax.eval_shape(programs.init, keys, data, stacked)
    active = jnp.ones(keys.shape[0], bool)
    logs = jax.eval_shape(programs.chunk(1), states, keys, active, data, jnp.asarray(0, jnp.int32))[1]
    if plateau.log not in logs:
        raise ConfigError(
            f"plateau.log is {plateau.log!r}, which this method does not log; there are {sorted(logs)}"
        )


def resolve_strategy(strategy: str) -> str:
    """``"auto"`` as what it stands for on this backend.

    Args:
        strategy: of ``fit_many``.

    Returns:
        ``"map"`` for ``"auto"`` on CPU, ``"vmap"`` for it elsewhere; any other name as it is.

    Example:
        >>> resolve_strategy("vmap")
        'vmap'
    """
    if strategy != "auto":
        return strategy
    return "map" if jax.default_backend() == "cpu" else "vmap"


Meshes = list[tuple[int, dict[str, int]]]
"""The devices of a run, as a checkpoint keeps them: from how many epochs on, on a mesh of which sizes."""


def meshes_of(mesh: Mesh | None, done: int = 0, before: Meshes = ()) -> Meshes:
    """The devices of a run whose next epochs are trained on ``mesh``, after ``done`` epochs on those ``before``."""
    sizes = {} if mesh is None or mesh.size == 1 else dict(mesh.shape)
    before = [(first, dict(mesh)) for first, mesh in before]
    return before if before and before[-1][1] == sizes else [*before, (done, sizes)]


def check_resumable(done: int, meta: dict[str, Any], *, epochs: int, eval_every: int, strategy: str) -> None:
    """Refuses to continue a checkpoint of ``meta`` otherwise than it was begun."""
    if done > epochs:
        raise ConfigError(
            f"the checkpoint has trained {done} epochs, more than epochs = {epochs}; raise it, or use another workdir"
        )
    if done == epochs:
        return
    if done % eval_every:
        raise ConfigError(
            f"the checkpoint ended at epoch {done}, between two evaluations (eval_every = {eval_every}); training on "
            "would shift them: use another workdir"
        )
    if meta["strategy"] != strategy:
        raise ConfigError(
            f"the checkpoint was trained with strategy {meta['strategy']!r}, and {strategy!r} would not continue it to "
            f"the bit; set strategy={meta['strategy']!r}, or use another workdir"
        )


def warn_of_devices(meshes: Meshes, done: int) -> None:
    """Warns where the epochs of a resumed run are not all trained on the same devices."""
    if len(meshes) > 1 and meshes[-1][0] == done:
        # No refusal: who lost the devices could not go on at all.
        names = [_mesh_name(sizes) for _, sizes in meshes]
        ends = [first for first, _ in meshes[1:]]
        trained = [
            f"epochs {first + 1} to {end} were trained on {name}"
            for (first, _), end, name in zip(meshes, ends, names, strict=False)
        ]
        logger.warning(
            "%s, the others will be on %s: the same run up to the order of sums, not to the bit",
            ", ".join(trained),
            names[-1],
        )


def _mesh_name(sizes: dict[str, int]) -> str:
    return (
        f"a mesh of {', '.join(f'{axis}={size}' for axis, size in sizes.items())}" if sizes else "one device"
    )
