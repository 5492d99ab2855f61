"""Steps whose cost does not grow with the catalogue: only the rows of items that a batch reads are read and moved."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from debias_jax.models.base import Model
from debias_jax.types import Array, Params, PyTree


class RowAdam(NamedTuple):
    """The state of Adam where rows of items move only in steps that read them: ``step``, first and second moments."""

    step: Array
    mu: Params
    nu: Params


class ItemRows(NamedTuple):
    """The distinct items of a batch.

    Attributes:
        rows: int32 ``[R]``, ascending; what is left over is filled with ``n_items``.
        n_items: size of the catalogue.
    """

    rows: Array
    n_items: int

    def local(self, ids: Array) -> Array:
        """Places of items in ``rows``; ``n_items``, the pad, becomes R, the pad of a model over R items."""
        place = jnp.searchsorted(self.rows, ids).astype(jnp.int32)
        return jnp.where(ids == self.n_items, self.rows.shape[0], place)

    def take(self, params: Params, tables: PyTree) -> Params:
        """The parameters of a model over R items: rows of the tables, special tokens behind them, the rest whole."""
        rows = jnp.minimum(self.rows, self.n_items - 1)

        def part(leaf: Array, is_table: bool) -> Array:
            if not is_table:
                return leaf
            return jnp.concatenate([leaf.at[rows].get(indices_are_sorted=True), leaf[self.n_items :]])

        return jax.tree.map(part, params, tables)

    def put(self, params: Params, parts: Params, tables: PyTree) -> Params:
        """``params`` with what ``take`` took replaced by ``parts``."""
        # Rows beyond every table are dropped: the fill must not write to the pad's row.
        rows = jnp.where(self.rows < self.n_items, self.rows, jnp.iinfo(jnp.int32).max)

        def whole(leaf: Array, part: Array, is_table: bool) -> Array:
            if not is_table:
                return part
            size = self.rows.shape[0]
            leaf = leaf.at[rows].set(part[:size], mode="drop", indices_are_sorted=True)
            return leaf.at[self.n_items :].set(part[size:])

        return jax.tree.map(whole, params, parts, tables)


def distinct_items(ids: Array, *, n_items: int) -> ItemRows:
    """The items among ids, of which pads are ``n_items``."""
    return ItemRows(jnp.unique(ids, size=ids.shape[0], fill_value=n_items).astype(jnp.int32), n_items)


def item_tables(model: Model, n_items: int) -> PyTree:
    """Which parameters of a model have a row for each item: a tree of booleans."""
    own, longer = (
        jax.eval_shape(each.init, jax.random.key(0)) for each in (model, model.resized(n_items + 1))
    )
    return jax.tree.map(lambda a, b: a.shape != b.shape, own, longer)


def row_adam() -> Callable[[dict[str, Array]], optax.GradientTransformation]:
    """The optimiser of a group whose steps ``adam_step`` takes; it starts the state and does nothing else."""

    def init(params: Params) -> RowAdam:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return RowAdam(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        raise TypeError("row_adam only starts the state; steps of single rows are taken by adam_step")

    return lambda hparams: optax.GradientTransformation(init, update)


def adam_step(
    params: Params,
    state: RowAdam,
    grads: Params,
    items: ItemRows,
    tables: PyTree,
    *,
    lr: Array,
    weight_decay: Array,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
) -> tuple[Params, RowAdam]:
    """One step of Adam on the parameters that a batch reads, rows of other items and their moments standing still.

    It is ``torch.optim.SparseAdam``'s rule with coupled weight decay, of the rows that are read. Where every item is
    read in each step it is ``optimizers.adam``.

    Args:
        params: all parameters.
        state: the optimiser's.
        grads: of ``items.take(params, tables)``.
        items: the items that the batch reads.
        tables: see ``item_tables``.
        lr: step size.
        weight_decay: factor of the parameter that is added to its gradient.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added to the root of the second moment.
    """
    step = state.step + 1
    own, mu, nu = (items.take(tree, tables) for tree in (params, state.mu, state.nu))
    grads = jax.tree.map(lambda g, p: g + weight_decay * p, grads, own)
    mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, mu, grads)
    nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, nu, grads)
    first, second = 1 - b1 ** step.astype(jnp.float32), 1 - b2 ** step.astype(jnp.float32)
    own = jax.tree.map(lambda p, m, v: p - lr * (m / first) / (jnp.sqrt(v / second) + eps), own, mu, nu)
    put = (items.put(tree, part, tables) for tree, part in ((params, own), (state.mu, mu), (state.nu, nu)))
    params, mu, nu = put
    return params, RowAdam(step, mu, nu)
