"""The one training loop: epochs scanned inside a jitted chunk, the host in between.

A chunk is ``eval_every`` epochs. Between chunks the host logs, evaluates, saves and decides; inside a chunk nothing
leaves the device. ``fit_many`` maps the very same chunk over runs (seeds and numeric hyperparameters).

Keys are never stored: epoch e draws its batches from ``fold_in(fold_in(key, 1), e)`` and step t its noise from
``fold_in(fold_in(key, 2), t)``, so 3 + 3 epochs are bit for bit 6 epochs, and a resumed run is the run that was killed.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax.errors import ConfigError, DivergedError
from debias_jax.methods.base import Method, TrainData, TrainState
from debias_jax.training import early_stop
from debias_jax.training.checkpoint import Checkpointer
from debias_jax.types import Array, Key, PyTree

_INIT, _BATCHES, _STEPS = 0, 1, 2

STRATEGIES = ("auto", "map", "vmap")
"""How runs are mapped: ``map`` one after the other inside one program (bit-equal to single runs, and as fast as
anything on CPU), ``vmap`` side by side (for accelerators); ``auto`` takes ``map`` on CPU and ``vmap`` elsewhere."""

EvaluateFn = Callable[[TrainState, PyTree], dict[str, Array]]
"""``(state, evaluation data) -> named scalars``; pure."""


class FitResult(NamedTuple):
    """What a fit leaves. In ``fit_many`` every array has a leading axis of runs.

    Attributes:
        state: the selected state: best on the monitored metric, or last.
        last_state: the state after the last epoch that the run trained.
        best_value: monitored metric of the best evaluation (NaN without one).
        best_epoch: epochs done at that evaluation (0 without one).
        history: one dict an epoch, ``{"epoch": e, name: value(s)}``; evaluations stand in the chunk's last epoch.
        seconds: wall time of this call, compilation included.
    """

    state: TrainState
    last_state: TrainState
    best_value: Any
    best_epoch: Any
    history: list[dict[str, Any]]
    seconds: float


def run_key(seed: int) -> Key:
    """The key of a run: ``jax.random.key(seed)``, with the seed's range checked.

    Raises:
        ConfigError: the seed is not in [0, 2^32).
    """
    if not 0 <= int(seed) < 2**32:
        raise ConfigError(f"seed {seed} is outside [0, 2**32)")
    return jax.random.key(int(seed))


def train_epochs(
    method: Method, state: TrainState, data: TrainData, key: Key, first_epoch: Array, *, n_epochs: int
) -> tuple[TrainState, dict[str, Array]]:
    """Trains ``n_epochs`` epochs; pure, for ``jit``, ``vmap`` and ``lax.map``.

    Args:
        method: the method.
        state: the state after ``first_epoch`` epochs.
        data: the training data.
        key: the run's key, the same in every call of the run.
        first_epoch: int32, epochs done before.
        n_epochs: epochs to train.

    Returns:
        The new state, and logs ``[n_epochs]``, each the mean over the epoch's steps.
    """
    batches_key = jax.random.fold_in(key, _BATCHES)
    steps_key = jax.random.fold_in(key, _STEPS)

    def one_step(state, batch):
        return method.step(state, data, batch, jax.random.fold_in(steps_key, state.step))

    def one_epoch(state, epoch):
        batches = method.batches(data, jax.random.fold_in(batches_key, epoch))
        state, logs = jax.lax.scan(one_step, state, batches)
        return state, jax.tree.map(lambda log: jnp.mean(log, axis=0), logs)

    return jax.lax.scan(one_epoch, state, first_epoch + jnp.arange(n_epochs, dtype=jnp.int32))


class _Programs:
    """The jitted functions of a fit, mapped over runs."""

    def __init__(self, method: Method, strategy: str, evaluate: EvaluateFn | None, monitor, mode, patience):
        self._method, self._strategy = method, strategy
        self._chunks: dict[int, Callable] = {}
        self.init = jax.jit(self._mapped(self._init, (True, False, True)))
        self.judge = None
        if evaluate is not None:

            def judge(state, stop, eval_data, epoch):
                scores = evaluate(state, eval_data)
                if monitor is not None:
                    if monitor not in scores:
                        raise ConfigError(f"monitor {monitor!r} is not evaluated; there are {sorted(scores)}")
                    stop = early_stop.update(
                        stop, scores[monitor], state.params, epoch, patience=patience, mode=mode
                    )
                return stop, scores

            self.judge = jax.jit(self._mapped(judge, (True, True, False, False)))

    def _mapped(self, function, over: tuple[bool, ...]):
        """Maps ``function`` over the leading axis of those arguments for which ``over`` holds."""
        if self._strategy == "single":

            def single(*args):
                args = [
                    jax.tree.map(lambda x: x[0], arg) if mapped else arg
                    for arg, mapped in zip(args, over, strict=True)
                ]
                return jax.tree.map(lambda x: x[None], function(*args))

            return single
        if self._strategy == "vmap":
            return jax.vmap(function, in_axes=tuple(0 if mapped else None for mapped in over))

        def by_map(*args):
            mapped_args = tuple(arg for arg, mapped in zip(args, over, strict=True) if mapped)

            def one(own):
                own = iter(own)
                return function(
                    *(next(own) if mapped else arg for arg, mapped in zip(args, over, strict=True))
                )

            return jax.lax.map(one, mapped_args)

        return by_map

    def _init(self, key, data, hparams):
        return self._method.init(jax.random.fold_in(key, _INIT), data, hparams)

    def chunk(self, n_epochs: int):
        """``(states, keys, active, data, first_epoch) -> (states, logs [runs, n_epochs])``; states are donated."""
        if n_epochs not in self._chunks:

            def run(state, key, active, data, first_epoch):
                def train(state):
                    return train_epochs(self._method, state, data, key, first_epoch, n_epochs=n_epochs)

                def rest(state):
                    logs = jax.eval_shape(train, state)[1]
                    return state, jax.tree.map(lambda log: jnp.full(log.shape, jnp.nan, log.dtype), logs)

                return jax.lax.cond(active, train, rest, state)

            mapped = self._mapped(run, (True, True, True, False, False))
            self._chunks[n_epochs] = jax.jit(mapped, donate_argnums=0)
        return self._chunks[n_epochs]


@contextlib.contextmanager
def _deferred_signals():
    """Collects SIGINT and SIGTERM, so that a chunk can end and be saved; a second one is obeyed at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number, frame):
        if received:
            raise SystemExit(128 + number)
        received.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
    evaluate: EvaluateFn | None = None,
    eval_data: PyTree = None,
    monitor: str | None = None,
    mode: str = "max",
    patience: int | None = None,
    restore: str = "best",
    strategy: str = "auto",
    checkpointer: Checkpointer | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    on_resume: Callable[[int], None] | None = None,
    on_nonfinite: str = "raise",
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
        evaluate: ``(state, eval_data) -> named scalars``, on validation data.
        eval_data: its second argument, passed through ``jit`` rather than closed over.
        monitor: the scalar that chooses the best epoch and stops early.
        mode: ``"max"`` or ``"min"``, what is better.
        patience: evaluations without improvement after which a run rests; None to train all epochs.
        restore: ``"best"`` or ``"last"`` state as the result.
        strategy: one of ``STRATEGIES``.
        checkpointer: saves after every chunk, and is read at the start.
        on_epoch: called on the host with each epoch's dict, values ``[runs]``.
        on_resume: called with the number of epochs found in a checkpoint, before training goes on.
        on_nonfinite: ``"raise"``, or ``"drop"`` to rest a run whose loss is not finite (its best value stays NaN
            unless it was evaluated before).

    Returns:
        The result, every array with a leading axis of runs.

    Raises:
        ConfigError: a setting is unknown or does not fit.
        DivergedError: a loss is not finite and ``on_nonfinite="raise"``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, training
        >>> log = data.synthetic.generate(seed=0, n_users=20, n_items=15)
        >>> result = training.fit_many(
        ...     methods.mean_logit(), training.train_data(log), jax.random.split(jax.random.key(0), 2), epochs=1)
        >>> result.state.params["prediction"]["item"].shape
        (2, 15)
    """
    strategies = (*STRATEGIES, "single")
    for value, allowed, what in (
        (strategy, strategies, "strategy"),
        (mode, ("max", "min"), "mode"),
        (restore, ("best", "last"), "restore"),
        (on_nonfinite, ("raise", "drop"), "on_nonfinite"),
    ):
        if value not in allowed:
            raise ConfigError(f"{what} is {value!r}; there are {', '.join(allowed)}")
    for value, what in ((epochs, "epochs"), (eval_every, "eval_every")):
        if value < 1:
            raise ConfigError(f"{what} is {value}; it must be at least 1")
    if strategy == "auto":
        strategy = "map" if jax.default_backend() == "cpu" else "vmap"
    n_runs = keys.shape[0]
    unknown = sorted(set(hparams or {}) - set(method.hparams))
    if unknown:
        raise ConfigError(f"unknown hyperparameters {unknown}; this method has {sorted(method.hparams)}")
    stacked = {
        name: jnp.broadcast_to(jnp.asarray((hparams or {}).get(name, default), jnp.float32), (n_runs,))
        for name, default in method.hparams.items()
    }
    started = time.perf_counter()
    programs = _Programs(method, strategy, evaluate, monitor, mode, patience)
    states = programs.init(keys, data, stacked)
    stops = jax.jit(jax.vmap(lambda params: early_stop.init(params, mode=mode)))(states.params)
    done, history = 0, []
    if checkpointer is not None:
        restored = checkpointer.restore({"states": states, "stops": stops})
        if restored is not None:
            states, stops, done = restored.tree["states"], restored.tree["stops"], restored.step
            history = restored.meta["history"]
    if on_resume is not None:
        on_resume(done)

    with _deferred_signals() as received:
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
                        f"({settings}); lower the learning rate"
                    )
                stops = stops._replace(active=stops.active & jnp.asarray(sound))
            rows = [
                {"epoch": done + e + 1, **{name: values[:, e].tolist() for name, values in logs.items()}}
                for e in range(n_epochs)
            ]
            done += n_epochs
            if programs.judge is not None:
                stops, scores = programs.judge(states, stops, eval_data, jnp.asarray(done, jnp.int32))
                rows[-1] |= {name: np.asarray(value).tolist() for name, value in scores.items()}
            history.extend(rows)
            if on_epoch is not None:
                for row in rows:
                    on_epoch(row)
            if checkpointer is not None:
                checkpointer.save(done, {"states": states, "stops": stops}, {"history": history})
            if received:
                raise SystemExit(128 + received[0])

    selected = states
    if restore == "best" and monitor is not None and evaluate is not None:
        selected = states._replace(params=stops.best_params)
    return FitResult(
        state=selected,
        last_state=states,
        best_value=np.asarray(stops.best_value),
        best_epoch=np.asarray(stops.best_epoch),
        history=history,
        seconds=time.perf_counter() - started,
    )


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

    Example:
        >>> import jax
        >>> from debias_jax import data, methods, training
        >>> log = data.synthetic.generate(seed=0, n_users=20, n_items=15)
        >>> result = training.fit(methods.mean_logit(), training.train_data(log), jax.random.key(0), epochs=1)
        >>> result.state.params["prediction"]["item"].shape
        (15,)
    """
    result = fit_many(method, data, jnp.stack([key]), hparams, strategy="single", **settings)
    return FitResult(
        state=jax.tree.map(lambda x: x[0], result.state),
        last_state=jax.tree.map(lambda x: x[0], result.last_state),
        best_value=result.best_value[0],
        best_epoch=result.best_epoch[0],
        history=[
            {name: value[0] if isinstance(value, list) else value for name, value in row.items()}
            for row in result.history
        ],
        seconds=result.seconds,
    )
