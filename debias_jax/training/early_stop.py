"""Early stopping: on a validation metric, or on a training log.

The first is a pure update of a pytree, so that each run of a mapped sweep stops for itself; the second is decided on
the host, from the history.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import _checks
from debias_jax.types import Array, PyTree


class EarlyStop(NamedTuple):
    """The best epoch so far of one run; a leading axis for each run of a mapped sweep.

    Attributes:
        best_value: float32 ``[]``, infinitely bad before the first finite value.
        best_epoch: int32 ``[]``, -1 before the first finite value.
        bad_count: int32 ``[]``, updates since the last improvement.
        active: bool ``[]``, False once ``patience`` updates brought no improvement; it never comes back.
        best_params: the parameters of ``best_epoch``; those given to ``init`` before the first finite value.
    """

    best_value: Array
    best_epoch: Array
    bad_count: Array
    active: Array
    best_params: PyTree


def init(params: PyTree, *, mode: str = "max") -> EarlyStop:
    """The state before the first evaluation.

    Args:
        params: the parameters to keep the best of, a pytree of arrays. They are copied, so that a jitted step
            may donate its own.
        mode: "max" if larger values are better (AUC, NDCG), "min" if smaller ones are (a loss).

    Returns:
        An ``EarlyStop``.

    Raises:
        ValueError: ``mode`` is neither.

    Example:
        >>> int(init({"w": jnp.zeros(2)}).best_epoch)
        -1
    """
    return EarlyStop(
        best_value=jnp.asarray(-jnp.inf if _larger_is_better(mode) else jnp.inf, jnp.float32),
        best_epoch=jnp.asarray(-1, jnp.int32),
        bad_count=jnp.asarray(0, jnp.int32),
        active=jnp.asarray(True),
        best_params=jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params),
    )


def update(
    state: EarlyStop,
    value: Array,
    params: PyTree,
    epoch: Array | int,
    *,
    patience: int | None,
    mode: str = "max",
    min_delta: float = 0.0,
) -> EarlyStop:
    """Takes in one evaluation.

    With ``mode="max"`` an epoch improves if ``value > best_value + min_delta`` (``value < best_value -
    min_delta`` with ``"min"``); the comparison is false for a NaN, which therefore never becomes the best.
    ``patience`` updates in a row without improvement end the run, and from then on the state does not change,
    so a mapped loop may go on until ``active`` holds for none. Whether a run ends with ``best_params`` or
    with its last ones is the caller's choice.

    Args:
        state: what ``init`` or an earlier ``update`` returned.
        value: floating scalar ``[]``, the validation metric; map over runs with ``jax.vmap`` or
            ``jax.lax.map``.
        params: the parameters that were evaluated, of the structure, shapes and dtypes given to ``init``.
        epoch: integer scalar, recorded as ``best_epoch``.
        patience: at least 1, or None to never stop and only keep the best.
        mode: as given to ``init``.
        min_delta: the least change that counts, at least 0, in the unit of ``value``.

    Returns:
        The new ``EarlyStop``.

    Raises:
        TypeError: ``value`` is not floating.
        ValueError: ``value`` is not a scalar, or ``patience`` or ``mode`` is out of its range.

    Example:
        >>> state = init({"w": jnp.zeros(2)})
        >>> for epoch, auc in enumerate([0.6, 0.7, 0.65, float("nan"), 0.9]):
        ...     params = {"w": jnp.full(2, epoch, jnp.float32)}
        ...     state = update(state, jnp.asarray(auc, jnp.float32), params, epoch, patience=2)
        >>> int(state.best_epoch), bool(state.active), state.best_params["w"]
        (1, False, Array([1., 1.], dtype=float32))
    """
    _checks.check_float(value=value)
    if jnp.shape(value) != ():
        raise ValueError(f"value must be a scalar, got shape {jnp.shape(value)}; map over runs with jax.vmap")
    if patience is not None and patience < 1:
        raise ValueError(f"patience must be at least 1 or None, got {patience}")
    value = jnp.asarray(value, state.best_value.dtype)
    if _larger_is_better(mode):
        better = value > state.best_value + min_delta
    else:
        better = value < state.best_value - min_delta
    improved = state.active & better
    bad_count = jnp.where(improved, 0, state.bad_count + state.active.astype(jnp.int32))
    return EarlyStop(
        best_value=jnp.where(improved, value, state.best_value),
        best_epoch=jnp.where(improved, jnp.asarray(epoch, jnp.int32), state.best_epoch),
        bad_count=bad_count,
        active=state.active if patience is None else state.active & (bad_count < patience),
        best_params=jax.tree.map(lambda new, best: jnp.where(improved, new, best), params, state.best_params),
    )


class Plateau(NamedTuple):
    r"""Rest after ``patience`` epochs that hardly lowered a training log; the rule of the released BADR program.

    Epoch t counts where :math:`(E_{t-1} - E_t) / E_{t-1} < \text{tolerance}`, with :math:`E_0 = \infty`. The count is
    over the whole run: epochs that lower the log do not reset it.

    Attributes:
        log: name of a log of the method's step, e.g. ``"observed_loss"`` of the doubly robust methods.
        tolerance: least relative decrease that is one, at least 0.
        patience: epochs without it after which the run rests, at least 1.

    Source:
        The program released with BADR (HungPaan/DR-ALR): 7 epochs, 1e-4. The paper stops when the loss "increases over
        five epochs".
    """

    log: str
    tolerance: float = 1e-4
    patience: int = 7


def on_plateau(plateau: Plateau, history: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Which runs of a fit have come to rest.

    Args:
        plateau: the rule.
        history: one row an epoch, ``plateau.log`` with a value for each run, as in ``FitResult.history``; a row
            without it, of the evaluation before training, is passed over.

    Returns:
        bool ``[runs]``. An epoch whose log is NaN does not count: the run rested, or its loss was not finite.

    Example:
        >>> history = [{"loss": [value, 1.0]} for value in (1.0, 0.5, 0.6, 0.4, 0.4)]
        >>> on_plateau(Plateau("loss", patience=2), history).tolist(), on_plateau(Plateau("loss"), history).tolist()
        ([True, True], [False, False])
    """
    logs = zip(*(row[plateau.log] for row in history if plateau.log in row), strict=True)
    return np.array([_stalls(values, plateau.tolerance) >= plateau.patience for values in logs])


def _stalls(values: Sequence[float], tolerance: float) -> int:
    """Epochs that lowered the log by less than ``tolerance`` of its value before."""
    count, previous = 0, math.inf
    for value in values:
        # Multiplied out, since the log may reach 0; of equal values the second never is a decrease.
        count += value >= previous or previous - value < tolerance * abs(previous)
        previous = value
    return count


def _larger_is_better(mode: str) -> bool:
    if mode not in ("max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
    return mode == "max"
