"""What a fit compiles: the epochs of one run, mapped over many, and their evaluation."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from debias_jax.errors import ConfigError
from debias_jax.methods.base import Method, TrainData, TrainState
from debias_jax.training import early_stop
from debias_jax.training.mesh import inside, split_batches, split_tables
from debias_jax.types import Array, Key, PyTree

_INIT, _BATCHES, _STEPS = 0, 1, 2

EvaluateFn = Callable[[TrainState, PyTree], dict[str, Array]]
"""``(state, evaluation data) -> named scalars``; pure."""


def train_epochs(
    method: Method,
    state: TrainState,
    data: TrainData,
    key: Key,
    first_epoch: Array,
    *,
    n_epochs: int,
    mesh: Mesh | None = None,
) -> tuple[TrainState, dict[str, Array]]:
    """Trains ``n_epochs`` epochs; pure, for ``jit``, ``vmap`` and ``lax.map``.

    Args:
        method: the method.
        state: the state after ``first_epoch`` epochs.
        data: the training data.
        key: the run's key, the same in every call of the run.
        first_epoch: int32, epochs done before.
        n_epochs: epochs to train.
        mesh: of ``make_mesh``, to split the batches over devices.

    Returns:
        The new state, and logs ``[n_epochs]``, each the mean over the epoch's steps.

    Example:
        >>> from debias_jax import data, methods, models, training
        >>> train = training.train_data(data.synthetic.generate(seed=0, n_users=20, n_items=15))
        >>> method, key = methods.mf(models.mf(20, 15, dim=2)), jax.random.key(0)
        >>> state = method.init(key, train, {"lr": 0.01})
        >>> state, logs = train_epochs(method, state, train, key, jnp.int32(0), n_epochs=3)
        >>> logs["loss"].shape
        (3,)
    """
    batches_key = jax.random.fold_in(key, _BATCHES)
    steps_key = jax.random.fold_in(key, _STEPS)

    def one_step(state, batch):
        return method.step(state, data, batch, jax.random.fold_in(steps_key, state.step))

    def one_epoch(state, epoch):
        batches = split_batches(mesh, method.batches(data, jax.random.fold_in(batches_key, epoch)))
        state, logs = jax.lax.scan(one_step, state, batches)
        return state, jax.tree.map(lambda log: jnp.mean(log, axis=0), logs)

    with inside(mesh):
        return jax.lax.scan(one_epoch, state, first_epoch + jnp.arange(n_epochs, dtype=jnp.int32))


class Programs:
    """The jitted functions of a fit, mapped over runs."""

    def __init__(self, init, batches, step, predict, strategy, mesh, evaluate, monitor, mode, patience):
        self._method = Method(init, batches, step, predict, {})
        self._strategy = strategy
        self._mesh = mesh
        self._chunks: dict[int, Callable] = {}
        init = self._mapped(self._init, (True, False, True))
        self.init = jax.jit(functools.wraps(init)(lambda *args: split_tables(mesh, init(*args))))
        self.judge = None
        if evaluate is not None:

            def judge(state, stop, eval_data, epoch):
                with inside(mesh):
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
                    return train_epochs(
                        self._method, state, data, key, first_epoch, n_epochs=n_epochs, mesh=self._mesh
                    )

                def rest(state):
                    logs = jax.eval_shape(train, state)[1]
                    return state, jax.tree.map(lambda log: jnp.full(log.shape, jnp.nan, log.dtype), logs)

                return jax.lax.cond(active, train, rest, state)

            mapped = self._mapped(run, (True, True, True, False, False))

            @functools.wraps(mapped)
            def placed(*args):
                states, logs = mapped(*args)
                return split_tables(self._mesh, states), logs

            self._chunks[n_epochs] = jax.jit(placed, donate_argnums=0)
        return self._chunks[n_epochs]


@functools.lru_cache(maxsize=16)
def programs_of(*key) -> Programs:
    """Programs of earlier fits of the same method and settings, so that a Python loop over ``fit`` compiles once."""
    return Programs(*key)
