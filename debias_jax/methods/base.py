"""The protocol of a method, its state, and the arrays it learns from."""

import math
from typing import NamedTuple, Protocol

import jax.numpy as jnp

from debias_jax.errors import ConfigError
from debias_jax.methods.sequences import SequenceFrame
from debias_jax.sampling import PairSet
from debias_jax.types import Array, Key, Params, PyTree


class TrainData(NamedTuple):
    """Everything a method may learn from, on the device. An argument of every jitted function, never closed over.

    Attributes:
        users: int32 ``[n]``, observed rows (rated pairs; for a click log the clicks).
        items: int32 ``[n]``.
        labels: float32 ``[n]``.
        propensities: float32 ``[n]``, logged propensities, or None.
        clicks: rows of ``users`` whose label is 1, as ``(users [c], items [c])``.
        click_set: the same pairs for membership tests.
        observed_set: all observed rows for membership tests.
        observed_labels: float32 ``[len(observed_set)]``, the labels in the order of ``observed_set``; of a pair that
            was logged several times the last.
        popularity: float32 ``[n_items]``, theta_i = (c_i / max_j c_j)^(1/2) over the clicks (Biif eq. 13).
        exposed_users: int32 ``[v]``, Biif's "probably exposed" pairs; ``v`` may be 0.
        exposed_items: int32 ``[v]``.
        exposed_labels: float32 ``[v]``; a pair whose label is below 0 counts nowhere.
    """

    users: Array
    items: Array
    labels: Array
    propensities: Array | None
    clicks: tuple[Array, Array]
    click_set: PairSet
    observed_set: PairSet
    observed_labels: Array
    popularity: Array
    exposed_users: Array
    exposed_items: Array
    exposed_labels: Array

    @property
    def matrix_size(self) -> tuple[int, int]:
        """``(n_users, n_items)``, static."""
        return self.click_set.indptr.shape[0] - 1, self.popularity.shape[0]


class TrainState(NamedTuple):
    """The whole state of a run: a pytree of arrays, checkpointed and mapped over seeds as it is.

    Attributes:
        step: int32 scalar, optimiser steps taken.
        params: named parameter groups, e.g. ``{"prediction": ..., "exposure": ...}``.
        opt_state: optimiser state of each group.
        hparams: numeric hyperparameters (float32 scalars), so that a sweep over them does not recompile.
        extra: whatever else a method keeps (a fitted propensity model, caches); ``{}`` if nothing.
    """

    step: Array
    params: dict[str, Params]
    opt_state: dict[str, PyTree]
    hparams: dict[str, Array]
    extra: PyTree


class InitFn(Protocol):
    """``(key, data, hparams) -> TrainState``; may itself fit a propensity model."""

    def __call__(self, key: Key, data: TrainData, hparams: dict[str, Array]) -> TrainState:
        """Builds the first state."""


class BatchesFn(Protocol):
    """``(data, key) -> batches``: a pytree with leading axes ``[steps, B]``, drawn anew each epoch."""

    def __call__(self, data: TrainData, key: Key) -> PyTree:
        """Draws one epoch."""


class StepFn(Protocol):
    """``(state, data, batch, key) -> (state, logs)``: one optimiser step; ``logs`` are scalars.

    ``data`` is passed beside the batch because bi-level and EM methods read all of it in each step; carrying it in
    the state would copy it into every checkpoint and once for each seed of a mapped run.
    """

    def __call__(
        self, state: TrainState, data: TrainData, batch: PyTree, key: Key
    ) -> tuple[TrainState, dict[str, Array]]:
        """Takes one step."""


class PredictFn(Protocol):
    """``(state, users, items) -> scores``: logits of relevance, broadcasting users against items.

    Of a method with ``frame`` the last argument is histories ``[B, l]``, users are ``[B]``, scores ``[B, n_items]``.
    """

    def __call__(self, state: TrainState, users: Array, items: Array) -> Array:
        """Scores pairs."""


class ExposureFn(Protocol):
    """``(state, data, users, items) -> probabilities``: the estimated exposure of pairs.

    Indices broadcast against each other, as in ``PredictFn``; the estimate broadcasts to their common shape.
    """

    def __call__(self, state: TrainState, data: TrainData, users: Array, items: Array) -> Array:
        """Estimates exposure."""


class Range(NamedTuple):
    """The values that a hyperparameter may take.

    Attributes:
        low: the least value.
        high: the greatest value.
        without_ends: whether ``low`` and ``high`` themselves are left out.
    """

    low: float
    high: float = math.inf
    without_ends: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is one of them; NaN never is."""
        return self.low < value < self.high if self.without_ends else self.low <= value <= self.high

    def __str__(self) -> str:
        """As in mathematics."""
        left = "(" if self.without_ends else "["
        right = ")" if self.without_ends or self.high == math.inf else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


class Method(NamedTuple):
    """A method: four pure functions, and the hyperparameters they read.

    Attributes:
        init: see ``InitFn``.
        batches: see ``BatchesFn``.
        step: see ``StepFn``.
        predict: see ``PredictFn``.
        hparams: name and default of every numeric hyperparameter.
        exposure: see ``ExposureFn``; None of methods that estimate none.
        frame: of a method that reads histories, which samples it learns from; None for methods of pairs.
        ranges: of hyperparameters that not every number is sense for, besides those of ``range_of``; ``training.fit``
            refuses others.
    """

    init: InitFn
    batches: BatchesFn
    step: StepFn
    predict: PredictFn
    hparams: dict[str, float]
    exposure: ExposureFn | None = None
    frame: SequenceFrame | None = None
    ranges: dict[str, Range] | None = None


_SHARE = Range(0.0, 1.0)
_POSITIVE = Range(0.0, without_ends=True)
_NOT_NEGATIVE = Range(0.0)

_RANGES = {
    **dict.fromkeys(("min_propensity", "min_exposure"), _SHARE),
    # Shares of two parts, of which the other has what is left.
    **dict.fromkeys(("bias_weight", "propensity_bias_weight", "combined_weight", "cache_weight"), _SHARE),
    **dict.fromkeys(("occurrence_decay", "frequency_rate", "variance_weight", "t"), _SHARE),
    **dict.fromkeys(("observed_weight", "pseudo_count"), _POSITIVE),
    **dict.fromkeys(("stabilization", "regularization", "residual_decay", "l2"), _NOT_NEGATIVE),
    **dict.fromkeys(("eta", "beta", "popularity_power"), _NOT_NEGATIVE),
    # Steps.
    **dict.fromkeys(("anneal_steps", "cache_warmup", "weight_delay"), _NOT_NEGATIVE),
}
"""Of hyperparameters that mean the same in every method that has them."""


def range_of(method: Method, name: str) -> Range | None:
    """The values that a hyperparameter of a method may take, or None if all of them are.

    Its ``ranges`` come first; then names that mean the same everywhere: step sizes (``lr``, ``outer_lr``), weight
    decays and weights of losses are not negative, clips are probabilities.
    """
    own = (method.ranges or {}).get(name) or _RANGES.get(name)
    if own is None and name.endswith(("lr", "_weight", "weight_decay")):
        return _NOT_NEGATIVE
    return own


class PairBatch(NamedTuple):
    """Pairs with labels.

    Attributes:
        users: int32 ``[B]``.
        items: int32 ``[B]``.
        labels: float32 ``[B]``.
        weights: float32 ``[B]``, sampling weight of each pair (1 unless the sampler re-weights).
        where: bool ``[B]``, False for padding and dropped pairs.
        propensities: float32 ``[B]``, logged propensities, or None.
    """

    users: Array
    items: Array
    labels: Array
    weights: Array
    where: Array
    propensities: Array | None = None


class Pairs(NamedTuple):
    """A uniform sample of all pairs, as a list or as a block.

    Attributes:
        users: int32 ``[m]``, or ``[a, 1]`` for a block of a users x b items.
        items: int32 ``[m]``, or ``[1, b]``.
        observed: bool ``[m]`` or ``[a, b]``; None where the method does not ask for it.
        labels: float32 of the same shape, 0 where not observed; None where the method does not ask for it.
    """

    users: Array
    items: Array
    observed: Array | None = None
    labels: Array | None = None


class CvrBatch(NamedTuple):
    """Rows with labels where they were observed, and a sample of all pairs.

    Attributes:
        rows: pairs with labels; ``weights`` is what one row counts against one pair of the population.
        observed: bool ``[B]``, whether the label of a row is known; True everywhere if only observed rows are drawn.
        population: a uniform sample of all pairs; None if the rows themselves are one.
    """

    rows: PairBatch
    observed: Array
    population: Pairs | None

    @property
    def sample(self) -> Pairs:
        """The uniform sample of all pairs: ``population``, or the rows themselves, of which then none is padding."""
        if self.population is not None:
            return self.population
        return Pairs(self.rows.users, self.rows.items, self.observed, self.rows.labels)

    @property
    def observed_rows(self) -> Array:
        """Which rows have a known label: bool ``[B]``."""
        return self.rows.where & self.observed


class TripletBatch(NamedTuple):
    """A user with a clicked and an unclicked item: ``users, positives, negatives`` int32 ``[B]``, ``where`` bool."""

    users: Array
    positives: Array
    negatives: Array
    where: Array


def resolve_hparams(defaults: dict[str, float], given: dict[str, Array]) -> dict[str, Array]:
    """Defaults overridden by what is given, as float32 scalars.

    Raises:
        ConfigError: a given name is not a hyperparameter of the method.
    """
    unknown = sorted(set(given) - set(defaults))
    if unknown:
        raise ConfigError(f"unknown hyperparameters {unknown}; this method has {sorted(defaults)}")
    return {name: jnp.asarray(given.get(name, value), jnp.float32) for name, value in defaults.items()}


_TABLES = {"user": 0, "user_bias": 0, "item": 1, "item_bias": 1}
"""Names of parameters with a row for each user or item, and the axis of the matrix of pairs that they belong to."""


def check_tables(group: str, params: Params, data: TrainData) -> None:
    """Raises unless the tables of users and items have a row for each of the data's.

    A table that is too short gives NaN (``models.base.lookup``), which looks like too large a step size.
    Tables are known by their names, ``user``, ``user_bias``, ``item`` and ``item_bias``, or an ``embedding`` in these;
    others are not looked at, nor is data other than ``TrainData``. Shapes alone are read, so that it costs nothing
    under ``jit``.

    Args:
        group: name of the parameter group, for the message.
        params: its parameters, or their shapes.
        data: what they are trained on.

    Raises:
        ConfigError: a table has another number of rows.
    """
    if not isinstance(data, TrainData) or not isinstance(params, dict):
        return
    for name, axis in _TABLES.items():
        table = params.get(name)
        if isinstance(table, dict):
            table = table.get("embedding")
        if not getattr(table, "ndim", 0) or table.shape[0] == data.matrix_size[axis]:
            continue
        what = ("users", "items")[axis]
        raise ConfigError(
            f"table {name!r} of the {group} model has {table.shape[0]} rows, and the training data {what[:-1]} ids "
            f"for {data.matrix_size[axis]}; make the model with n_{what}={data.matrix_size[axis]}"
        )
