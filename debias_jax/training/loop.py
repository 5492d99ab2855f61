"""The one training loop: epochs scanned inside a jitted chunk, the host in between.

A chunk is ``eval_every`` epochs. Between chunks the host logs, evaluates, saves and decides; inside a chunk nothing
leaves the device. ``fit_many`` maps the very same chunk over runs (seeds and numeric hyperparameters).

Keys are never stored: epoch e draws its batches from ``fold_in(fold_in(key, 1), e)`` and step t its noise from
``fold_in(fold_in(key, 2), t)``, so 3 + 3 epochs are bit for bit 6 epochs, and a resumed run is the run that was killed
(on CPU; accelerators promise as much only with deterministic operations switched on).
"""

import contextlib
import functools
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from debias_jax.errors import CheckpointError, ConfigError, DivergedError
from debias_jax.methods.base import Method, TrainData, TrainState
from debias_jax.training import early_stop
from debias_jax.training._programs import EvaluateFn, programs_of
from debias_jax.training._settings import (
    check_key,
    check_plateau,
    check_resumable,
    check_settings,
    meshes_of,
    stacked_hparams,
    warn_of_devices,
)
from debias_jax.training.checkpoint import Checkpointer
from debias_jax.training.mesh import check_mesh, check_splits, on_every_device
from debias_jax.types import Key, PyTree

logger = logging.getLogger(__name__)


class FitResult(NamedTuple):
    """What a fit leaves. In ``fit_many`` every array has a leading axis of runs.

    Attributes:
        state: the selected state. With ``restore="best"`` its ``params`` are those of the best evaluation, all else
            is as after the last epoch.
        last_state: the state after the last epoch that the run trained.
        best_value: monitored metric of the best evaluation; infinitely bad without one.
        best_epoch: epochs done at that evaluation, -1 without one.
        diverged: whether the run was dropped because a loss, or every value of the monitor, was not finite.
        history: one dict an epoch, ``{"epoch": e, name: value(s)}``; evaluations stand in the chunk's last epoch. With
            ``eval_at_start`` the first one has epoch 0 and holds an evaluation alone.
        seconds: wall time, compilation and earlier parts of a resumed run included.
    """

    state: TrainState
    last_state: TrainState
    best_value: Any
    best_epoch: Any
    diverged: Any
    history: list[dict[str, Any]]
    seconds: float


def run_key(seed: int) -> Key:
    """The key of a run: ``jax.random.key(seed)``, with the seed's range checked.

    Args:
        seed: JAX would take a seed modulo 2^32 or 2^64, so that two of them could be one run.

    Returns:
        A typed key, a scalar.

    Raises:
        ConfigError: the seed is not in [0, 2^32).

    Example:
        >>> run_key(7) == jax.random.key(7)
        Array(True, dtype=bool)
    """
    if not 0 <= int(seed) < 2**32:
        raise ConfigError(f"seed {seed} is outside [0, 2**32)")
    return jax.random.key(int(seed))


@contextlib.contextmanager
def _deferred_signals(wanted: bool):
    """Collects SIGINT and SIGTERM, so that a chunk can end and be saved; a second one is obeyed at once."""
    received: list[int] = []
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number, frame):
        if received:
            _obey(number)
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _obey(number: int) -> None:
    """Ends the program as the signal would have."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _nonfinite(
    logs: dict[str, np.ndarray], active: np.ndarray
) -> tuple[np.ndarray, tuple[str, int, int] | None]:
    """Which runs are sound, and the first offence as (log name, run, epoch of the chunk)."""
    sound, first = np.ones(active.shape, bool), None
    for name, values in logs.items():
        bad = ~np.isfinite(values) & active[:, None]
        if bad.any() and first is None:
            run, epoch = np.argwhere(bad)[0]
            first = (name, int(run), int(epoch))
        sound &= ~bad.any(axis=1)
    return sound, first


def fit_many(
    method: Method,
    data: TrainData,
    keys: Key,
    hparams: dict[str, Any] | None = None,
    *,
    epochs: int,
    eval_every: int = 1,
    eval_at_start: bool = False,
    evaluate: EvaluateFn | None = None,
    eval_data: PyTree = None,
    monitor: str | None = None,
    mode: str = "max",
    patience: int | None = None,
    plateau: early_stop.Plateau | None = None,
    restore: str = "best",
    strategy: str = "auto",
    mesh: Mesh | None = None,
    checkpointer: Checkpointer | None = None,
    save_seconds: float = 0.0,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    on_nonfinite: str = "raise",
    keep: Callable[[list[dict[str, Any]]], Any] | None = None,
) -> FitResult:
    """Trains many runs as one compiled program.

    Args:
        method: the method.
        data: the training data, shared by all runs.
        keys: ``[runs]`` keys, one a run.
        hparams: numeric hyperparameters, each a scalar for all runs or ``[runs]`` values; the rest are defaults.
            Values do not enter the compiled program: a sweep over them compiles once.
        epochs: epochs at most.
        eval_every: epochs a chunk, and between evaluations.
        eval_at_start: whether the untrained states are evaluated too, as epoch 0. That evaluation counts like any
            other: it may stay the best, and ``patience`` starts from it.
        evaluate: ``(state, eval_data) -> named scalars``, on validation data.
        eval_data: its second argument, passed through ``jit`` rather than closed over.
        monitor: the scalar that chooses the best epoch and stops early.
        mode: ``"max"`` or ``"min"``, what is better.
        patience: evaluations without improvement after which a run rests; None to train all epochs.
        plateau: when a run rests for the sake of a training log, beside ``patience``; needs ``eval_every=1``.
        restore: ``"best"`` or ``"last"`` state as the result.
        strategy: how runs are mapped: ``"map"`` one after the other inside one program (bit-equal to single runs, and
            as fast as anything on CPU), ``"vmap"`` side by side (for accelerators); ``"auto"`` takes ``"map"`` on CPU
            and ``"vmap"`` elsewhere.
        mesh: of ``make_mesh``, to train on several devices; None for the default one.
        checkpointer: saves after a chunk, and is read at the start. With one, SIGINT and SIGTERM wait for the end of
            the chunk and its save. On CPU a resumed run is the uninterrupted one to the bit; accelerators need their
            deterministic operations switched on for that.
        save_seconds: a chunk is saved if this time has passed since the last save, and if training ends with it.
        on_epoch: called on the host with each epoch's dict, values ``[runs]``.
        on_resume: called with the number of epochs found in a checkpoint, before training goes on.
        on_nonfinite: ``"raise"``, or ``"drop"`` to rest a run whose loss is not finite and mark it ``diverged``, as a
            run whose monitor never was finite.
        keep: ``history -> [runs] booleans``, called on the host after each chunk with all rows so far; a run for
            which it is False rests from then on, as one that stopped early. It must depend on the history alone,
            so that a resumed fit rests the same runs.

    Returns:
        The result, every array with a leading axis of runs.

    Raises:
        ConfigError: a setting is unknown or does not fit, a hyperparameter is outside the method's range, a model has
            tables of another size than the data, the mesh splits nothing of the method, or the checkpoint is past
            ``epochs``.
        DivergedError: a loss is not finite and ``on_nonfinite="raise"``, or the monitor never was.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, training
        >>> log = data.synthetic.generate(seed=0, n_users=20, n_items=15)
        >>> result = training.fit_many(
        ...     methods.mean_logit(), training.train_data(log), jax.random.split(jax.random.key(0), 2), epochs=1)
        >>> result.state.params["prediction"]["item"].shape
        (2, 15)
    """
    check_mesh(mesh)
    strategy = check_settings(
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
    )
    n_runs = keys.shape[0]
    stacked = stacked_hparams(method, hparams or {}, n_runs)
    check_splits(mesh, method, data)
    started = time.perf_counter()
    programs = programs_of(*method[:4], strategy, mesh, evaluate, monitor, mode, patience)
    keys, data, stacked, eval_data = on_every_device(mesh, (keys, data, stacked, eval_data))
    if plateau is not None:
        check_plateau(plateau, eval_every, programs, keys, data, stacked)
    states = programs.init(keys, data, stacked)
    stops = _first_stops(states, mode)
    done, history, diverged, seconds_before = 0, [], np.zeros(n_runs, bool), 0.0
    meshes = meshes_of(mesh)
    if checkpointer is not None:
        restored = checkpointer.restore({"states": states, "stops": stops})
        if restored is not None:
            states, stops, done = restored.tree["states"], restored.tree["stops"], restored.step
            history, diverged = restored.meta["history"], np.asarray(restored.meta["diverged"])
            seconds_before = restored.meta["seconds"]
            check_resumable(done, restored.meta, epochs=epochs, eval_every=eval_every, strategy=strategy)
            if done < epochs and bool(np.any(stops.active)):
                meshes = meshes_of(mesh, done, restored.meta.get("meshes", ()))
                warn_of_devices(meshes, done)
    if on_resume is not None:
        on_resume(done)
    if eval_at_start and not done:
        stops, scores = programs.judge(states, stops, eval_data, jnp.asarray(0, jnp.int32))
        history = [{"epoch": 0, **{name: np.asarray(value).tolist() for name, value in scores.items()}}]
        if on_epoch is not None:
            on_epoch(history[0])
    trained, saved = False, time.perf_counter()

    with _deferred_signals(checkpointer is not None) as received:
        while done < epochs and bool(np.any(stops.active)):
            n_epochs = min(eval_every, epochs - done)
            active = np.asarray(stops.active)
            states, logs = programs.chunk(n_epochs)(
                states, keys, stops.active, data, jnp.asarray(done, jnp.int32)
            )
            logs = {name: np.asarray(values) for name, values in logs.items()}
            sound, offence = _nonfinite(logs, active)
            if offence is not None:
                if on_nonfinite == "raise":
                    name, run, epoch = offence
                    settings = ", ".join(f"{key}={float(value[run]):g}" for key, value in stacked.items())
                    raise DivergedError(
                        f"{name} is {logs[name][run, epoch]} in epoch {done + epoch + 1} of run {run} "
                        f"({settings}); {_way_out(method)}"
                    )
                diverged = diverged | ~sound
                stops = stops._replace(active=stops.active & jnp.asarray(sound))
            rows = [
                {"epoch": done + e + 1, **{name: values[:, e].tolist() for name, values in logs.items()}}
                for e in range(n_epochs)
            ]
            done, trained = done + n_epochs, True
            if programs.judge is not None:
                stops, scores = programs.judge(states, stops, eval_data, jnp.asarray(done, jnp.int32))
                rows[-1] |= {name: np.asarray(value).tolist() for name, value in scores.items()}
            history.extend(rows)
            if plateau is not None:
                stops = stops._replace(active=stops.active & ~early_stop.on_plateau(plateau, history))
            if keep is not None:
                stops = stops._replace(active=stops.active & jnp.asarray(keep(history), bool))
            if on_epoch is not None:
                for row in rows:
                    on_epoch(row)
            # Read once: a signal that comes while this chunk is put away waits for the next one, which is then saved.
            interrupted = bool(received)
            ends = done >= epochs or not bool(np.any(stops.active)) or interrupted
            if checkpointer is not None and (ends or time.perf_counter() - saved >= save_seconds):
                saved = time.perf_counter()
                meta = {
                    "history": history,
                    "diverged": diverged.tolist(),
                    "seconds": seconds_before + time.perf_counter() - started,
                    "strategy": strategy,
                    "meshes": meshes,
                }
                checkpointer.save(done, {"states": states, "stops": stops}, meta)
            if interrupted:
                logger.warning(
                    "stopped after epoch %d, which is saved; the same call resumes from there", done
                )
                _obey(received[0])
    if received:
        # It came while the last chunk was put away: all is saved, and the program was asked to end.
        _obey(received[0])

    seconds = seconds_before + (time.perf_counter() - started if trained or not done else 0.0)
    if on_nonfinite == "drop" and monitor is not None:
        # The step after the last sound loss can blow the parameters up, and patience then end the run.
        diverged = diverged | (np.asarray(stops.best_epoch) < 0)
    return _result(states, stops, history, diverged, seconds, monitor=monitor, restore=restore)


def load_many(
    method: Method,
    data: TrainData,
    n_runs: int,
    *,
    checkpointer: Checkpointer,
    monitor: str | None = None,
    mode: str = "max",
    restore: str = "best",
) -> tuple[FitResult, int, bool]:
    """The result that a checkpoint of ``fit_many`` holds; trains nothing, writes nothing, on any device.

    Args:
        method: as it was fitted.
        data: the training data, for its shapes.
        n_runs: number of runs.
        checkpointer: of the fit.
        monitor: as it was fitted.
        mode: as it was fitted.
        restore: ``"best"`` or ``"last"``.

    Returns:
        The result, the epochs it has trained, and whether any run would train on.

    Raises:
        CheckpointError: there is no checkpoint, or it belongs to another configuration.

    Example:
        >>> import tempfile
        >>> from debias_jax import data, methods, training
        >>> train = training.train_data(data.synthetic.generate(seed=0, n_users=20, n_items=15))
        >>> method = methods.mean_logit()
        >>> with Checkpointer(f"{tempfile.mkdtemp()}/run", fingerprint={}) as saver:
        ...     fitted = fit_many(method, train, jnp.stack([run_key(0), run_key(1)]), epochs=1, checkpointer=saver)
        ...     loaded, epochs, unfinished = load_many(method, train, 2, checkpointer=saver)
        >>> epochs, bool((loaded.state.params["prediction"]["item"] == fitted.state.params["prediction"]["item"]).all())
        (1, True)
    """
    keys = jnp.stack([jax.random.key(0)] * n_runs)
    shapes = jax.eval_shape(
        jax.vmap(method.init, in_axes=(0, None, 0)), keys, data, stacked_hparams(method, {}, n_runs)
    )
    states = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    restored = checkpointer.restore({"states": states, "stops": _first_stops(states, mode)})
    if restored is None:
        raise CheckpointError(f"there is no checkpoint in {checkpointer.directory}; train first")
    states, stops, meta = restored.tree["states"], restored.tree["stops"], restored.meta
    result = _result(
        states,
        stops,
        meta["history"],
        np.asarray(meta["diverged"]),
        meta["seconds"],
        monitor=monitor,
        restore=restore,
    )
    return result, restored.step, bool(np.any(stops.active))


@functools.partial(jax.jit, static_argnames="mode")
def _first_stops(states: TrainState, mode: str) -> early_stop.EarlyStop:
    return jax.vmap(lambda params: early_stop.init(params, mode=mode))(states.params)


def _result(states, stops, history, diverged, seconds, *, monitor, restore) -> FitResult:
    selected = states
    if restore == "best" and monitor is not None:
        blind = np.flatnonzero((np.asarray(stops.best_epoch) < 0) & ~diverged)
        if blind.size:
            raise DivergedError(
                f"{monitor} was not finite in any evaluation of run {blind[0]}, so there is no best epoch; look at "
                "the validation part (it may hold one class only, or no positive), or use restore='last'"
            )
        selected = states._replace(params=stops.best_params)
    return FitResult(
        state=selected,
        last_state=states,
        best_value=np.asarray(stops.best_value),
        best_epoch=np.asarray(stops.best_epoch),
        diverged=diverged,
        history=history,
        seconds=seconds,
    )


def _way_out(method: Method) -> str:
    """What to do about a loss that is not finite."""
    if any(name == "lr" or name.endswith("_lr") for name in method.hparams):
        return "lower the learning rate, or clip the propensities if it weights by them"
    return "the method has no learning rate: bring these settings nearer to their defaults"


def fit(
    method: Method, data: TrainData, key: Key, hparams: dict[str, Any] | None = None, **settings: Any
) -> FitResult:
    """Trains one run: ``fit_many`` without an axis of runs.

    Args:
        method: the method.
        data: the training data.
        key: the run's key.
        hparams: numeric hyperparameters; the rest are defaults.
        **settings: as ``fit_many``, except ``strategy``.

    Returns:
        The result; ``history`` holds scalars.

    Raises:
        ConfigError: as ``fit_many``.
        DivergedError: as ``fit_many``.

    Example:
        >>> import jax
        >>> from debias_jax import data, methods, training
        >>> log = data.synthetic.generate(seed=0, n_users=20, n_items=15)
        >>> result = training.fit(methods.mean_logit(), training.train_data(log), jax.random.key(0), epochs=1)
        >>> result.state.params["prediction"]["item"].shape
        (15,)
    """
    check_key(key)
    result = fit_many(method, data, jnp.stack([key]), hparams, strategy="single", **settings)
    return FitResult(
        state=jax.tree.map(lambda x: x[0], result.state),
        last_state=jax.tree.map(lambda x: x[0], result.last_state),
        best_value=result.best_value[0],
        best_epoch=result.best_epoch[0],
        diverged=result.diverged[0],
        history=[
            {name: value[0] if isinstance(value, list) else value for name, value in row.items()}
            for row in result.history
        ],
        seconds=result.seconds,
    )
