"""Losses over large score matrices, some examples at a time: ``[N, V]`` scores are never held.

A mean or a sum is made in one pass: while a chunk's scores are there, its part of the gradient is taken as well, so
that the backward pass only scales what it finds. Examples that ``where`` leaves out are packed away first, and the
number of chunks follows from how many are left: padding costs nothing.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from debias_jax._checks import check_broadcastable, check_float, check_integer, check_mask
from debias_jax._devices import split_rows
from debias_jax._reduce import safe_divide, safe_reduce
from debias_jax.losses.softmax import take_target
from debias_jax.types import Array, PyTree, ReduceFn

ChunkLoss = Callable[[PyTree, PyTree], Array]
"""``(params, inputs) -> values``: the values ``[C]`` of C examples, whose inputs have C as their first axis."""

SCORES_PER_CHUNK = 2**22
"""How many scores a chunk holds if it is not said otherwise: 16 MiB in float32."""


def chunked_cross_entropy(
    hidden: Array,
    table: Array,
    target: Array,
    *,
    bias: Array | None = None,
    chunk: int | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""``cross_entropy(hidden @ table.T + bias, target)`` without holding its scores.

    .. math:: \ell = -s_+ + \log \sum_v e^{s_v}, \quad s_v = \langle h, E_v \rangle + b_v

    Value and gradients are those of the plain form up to rounding. Memory and time: see ``in_chunks``.

    Args:
        hidden: ``[..., d]``, what the model gives for each example.
        table: ``[V, d]``, one row for each item.
        target: int ``[...]``, the target's row of the table. A value that is not in 0..V-1 makes the example's loss
            NaN; it is not clamped.
        bias: ``[V]``, added to the scores of every example.
        chunk: how many examples at a time, at most; None for about ``2**22 / V``, but at least d, as each chunk also
            passes over the table.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding, of which nothing is read.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: ``hidden``, ``table``, ``bias`` or weights are not floating, ``target`` no integers, ``where`` not
            boolean, or ``chunk`` no Python integer.
        ValueError: the last axes of ``hidden`` and ``table`` differ, another shape does not fit, or ``chunk`` is not
            positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> hidden, table = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.eye(2)
        >>> loss = losses.chunked_cross_entropy(hidden, table, jnp.array([0, 0]), chunk=1, reduce_fn=None)
        >>> print(", ".join(f"{value:.4f}" for value in loss))  # log(1 + 1 / e), log(1 + e^2)
        0.3133, 2.1269
    """
    check_float(hidden=hidden, table=table, bias=bias, weights=weights)
    check_integer(target=target)
    if jnp.ndim(table) != 2 or 0 in jnp.shape(table):
        raise ValueError(f"table must be of shape (V, d) with V, d >= 1, got {jnp.shape(table)}")
    n_items, dim = jnp.shape(table)
    if jnp.ndim(hidden) == 0 or jnp.shape(hidden)[-1] != dim:
        raise ValueError(f"hidden must be of shape (..., {dim}) as the table, got {jnp.shape(hidden)}")
    shape = jnp.shape(hidden)[:-1]
    if jnp.shape(target) != shape:
        raise ValueError(f"target must be of shape {shape}, got {jnp.shape(target)}")
    if bias is not None and jnp.shape(bias) != (n_items,):
        raise ValueError(f"bias must be of shape ({n_items},), got {jnp.shape(bias)}")
    if chunk is None:
        chunk = max(SCORES_PER_CHUNK // n_items, dim)
    hidden, target = jnp.asarray(hidden), jnp.asarray(target)
    return in_chunks(
        _cross_entropy_of_chunk,
        (jnp.asarray(table), None if bias is None else jnp.asarray(bias)),
        (hidden.reshape(-1, dim), target.reshape(-1)),
        chunk=chunk,
        weights=weights,
        where=where,
        reduce_fn=reduce_fn,
        shape=shape,
    )


def in_chunks(
    loss: ChunkLoss,
    params: PyTree,
    inputs: PyTree,
    *,
    chunk: int,
    shape: tuple[int, ...] | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    """Any loss of single examples, ``chunk`` of them at a time.

    With ``jnp.mean`` and ``jnp.sum`` each chunk's value and gradients are taken together, and its intermediate results
    then dropped: the memory is that of one chunk, the result, and the gradients. Examples that ``where`` leaves out are
    not computed. Any other ``reduce_fn`` gets the values of all examples, each chunk of which is computed a second time
    on the way back.

    It works under ``jit``, ``scan`` and ``vmap`` (which takes as many chunks for all as the longest needs). The mean
    and the sum have derivatives in forward and reverse mode, and forward-over-reverse second ones; reverse over reverse
    is refused by JAX, since the number of chunks is not known before.

    Under a mesh of ``training.make_mesh`` (``training.fit(mesh=...)``, or ``jax.set_mesh`` around the jitted function)
    each chunk's rows, and with them its scores, are split over its axis ``data``. Meshes of other axes are left alone.

    Args:
        loss: ``(params, inputs) -> [C]``, the values of C examples, each a function of ``params`` and of its own row of
            ``inputs`` alone. A module-level function is compiled once outside ``jit``; a lambda every time. What is
            differentiated has to come in by its arguments, not by closure.
        params: pytree of arrays that all examples share, such as an item table.
        inputs: pytree of arrays ``[N, ...]``, one row for each example.
        chunk: C, how many examples at a time, at most.
        shape: ``(...)`` with N entries, the shape of ``weights``, ``where`` and the result; None for ``(N,)``.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding, of which nothing is read.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: ``chunk`` is no Python integer, weights are not floating, ``where`` is not boolean.
        ValueError: ``chunk`` is not positive, the arrays of ``inputs`` do not have one first axis, a shape does not
            fit, or ``loss`` does not return one floating value for each example.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> def against_all(table, inputs):  # every item but the target is a negative, drawn once
        ...     hidden, target, counts = inputs
        ...     scores = hidden @ table.T
        ...     pos = jnp.take_along_axis(scores, target[:, None], axis=1)[:, 0]
        ...     return losses.negative_sampling(pos, scores, counts=counts, reduce_fn=None)
        >>> inputs = (jnp.eye(2), jnp.array([0, 1]), jnp.array([[0.0, 1.0], [1.0, 0.0]]))
        >>> print(f"{losses.in_chunks(against_all, jnp.eye(2), inputs, chunk=1):.4f}")  # log(1 + 1 / e) + log 2
        1.0064
    """
    check_float(weights=weights)
    if isinstance(chunk, bool) or not isinstance(chunk, int):
        raise TypeError(f"chunk must be a Python integer (it sets a shape), got {chunk!r}")
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    inputs = jax.tree.map(jnp.asarray, inputs)
    lengths = {leaf.shape[:1] for leaf in jax.tree.leaves(inputs)}
    if len(lengths) != 1 or () in lengths:
        shapes = [leaf.shape for leaf in jax.tree.leaves(inputs)]
        raise ValueError(f"the arrays of inputs must have one first axis, got the shapes {shapes}")
    ((length,),) = lengths
    shape = (length,) if shape is None else tuple(shape)
    if math.prod(shape) != length:
        raise ValueError(f"shape must have {length} entries, as inputs has rows, got {shape}")
    check_broadcastable(shape, weights=weights)
    check_mask(where, shape)
    params = jax.tree.map(jnp.asarray, params)
    found = jax.eval_shape(loss, params, inputs)
    if getattr(found, "shape", None) != (length,) or not jnp.issubdtype(found.dtype, jnp.floating):
        raise ValueError(f"loss must return floating values of shape ({length},) here, got {found}")
    if length == 0:
        return safe_reduce(jnp.zeros(shape, found.dtype), weights=weights, where=where, reduce_fn=reduce_fn)
    # As many chunks as asked for, of equal size.
    chunk = -(-length // -(-length // chunk))
    flat_where = None if where is None else jnp.reshape(where, -1)
    if reduce_fn not in (jnp.mean, jnp.sum):
        values = _values(loss, chunk, params, inputs, flat_where).reshape(shape)
        return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)
    factor = None
    if weights is not None and jnp.ndim(weights):
        factor = jnp.reshape(weights, -1)
    total = _total(loss, chunk, params, (inputs, factor), flat_where)
    if weights is not None and factor is None:
        total = total * weights
    if reduce_fn is jnp.sum:
        return total
    count = length if flat_where is None else jnp.sum(flat_where, dtype=total.dtype)
    return safe_divide(total, jnp.asarray(count, total.dtype))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _total(loss: ChunkLoss, chunk: int, params: PyTree, examples: PyTree, where: Array | None) -> Array:
    """Sum of the weighted values; ``examples`` are the inputs, and the weights or None."""
    leaves, treedef = jax.tree.flatten((params, examples))
    return _accumulate(loss, chunk, treedef, (), leaves, where)[0]


@functools.partial(_total.defjvp, symbolic_zeros=True)
def _total_jvp(loss, chunk, primals, tangents):
    """The value with all gradients that are asked for, and their products with the tangents."""
    params, examples, where = primals
    leaves, treedef = jax.tree.flatten((params, examples))
    tangents = treedef.flatten_up_to(tangents[:2])
    moved = tuple(number for number, tangent in enumerate(tangents) if type(tangent) is not SymbolicZero)
    total, gradients = _accumulate(loss, chunk, treedef, moved, leaves, where)
    products = [
        jnp.sum(gradient * tangents[number]) for number, gradient in zip(moved, gradients, strict=True)
    ]
    return total, sum(products, jnp.zeros_like(total)).astype(total.dtype)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _accumulate(
    loss: ChunkLoss,
    chunk: int,
    treedef: jax.tree_util.PyTreeDef,
    moved: tuple[int, ...],
    leaves: list[Array],
    where: Array | None,
) -> tuple[Array, list[Array]]:
    """The sum of all examples, and its gradients in the leaves whose numbers are ``moved``."""
    params, examples = treedef.unflatten(leaves)
    n_params = len(jax.tree.leaves(params))
    length = jax.tree.leaves(examples)[0].shape[0]
    order, slot, n_valid = _pack(length, chunk, where)
    dtype = jax.eval_shape(loss, params, examples[0]).dtype

    def total_of_chunk(values: list[Array], fixed: list[Array], valid: Array) -> Array:
        """Sum over a chunk; ``values`` are those to differentiate, the rest of the leaves is ``fixed``."""
        merged = list(fixed)
        for number, value in zip(moved, values, strict=True):
            merged[number] = value
        params, (inputs, weights) = treedef.unflatten(merged)
        found = loss(params, inputs)
        return jnp.sum(jnp.where(valid, found if weights is None else found * weights, 0.0), dtype=dtype)

    def step(number: Array, carry: tuple[Array, list[Array]]) -> tuple[Array, list[Array]]:
        total, gradients = carry
        rows = jax.lax.dynamic_slice_in_dim(order, number * chunk, chunk)
        valid = number * chunk + jnp.arange(chunk) < n_valid
        of_chunk = [*leaves[:n_params], *split_rows([leaf[rows] for leaf in leaves[n_params:]])]
        part, parts = jax.value_and_grad(total_of_chunk)([of_chunk[k] for k in moved], of_chunk, valid)
        summed = []
        for k, gradient, own in zip(moved, gradients, parts, strict=True):
            if k < n_params:
                summed.append(gradient + own)
            else:
                own = own.astype(gradient.dtype)
                summed.append(jax.lax.dynamic_update_slice_in_dim(gradient, own, number * chunk, axis=0))
        return total + part, summed

    def start_of(k: int) -> Array:
        rows = () if k < n_params else (order.shape[0],)
        leaf = leaves[k]
        # Sums over many chunks are kept in at least float32.
        return jnp.zeros(
            rows + leaf.shape[len(rows) :],
            jnp.promote_types(leaf.dtype, jnp.float32) if not rows else leaf.dtype,
        )

    start = (jnp.zeros((), dtype), [start_of(k) for k in moved])
    n_chunks = -(-n_valid // chunk)
    total, gradients = jax.lax.fori_loop(0, n_chunks, step, start)
    return total, [
        gradient.astype(leaves[k].dtype) if k < n_params else _unpack(gradient, slot, where, length)
        for k, gradient in zip(moved, gradients, strict=True)
    ]


def _values(loss: ChunkLoss, chunk: int, params: PyTree, inputs: PyTree, where: Array | None) -> Array:
    """``[N]`` values, zero where masked; what a chunk computes is not kept for the backward pass."""
    length = jax.tree.leaves(inputs)[0].shape[0]
    order, slot, n_valid = _pack(length, chunk, where)
    dtype = jax.eval_shape(loss, params, inputs).dtype

    # The whole step, not the loss alone: what a branch of a cond reads would be kept for every chunk, the table too.
    @jax.checkpoint
    def step(params: PyTree, number: Array, rows: PyTree) -> Array:
        return jax.lax.cond(number * chunk < n_valid, loss, lambda *_: jnp.zeros(chunk, dtype), params, rows)

    def of_chunk(number: Array, rows: PyTree) -> tuple[Array, Array]:
        return number + 1, step(params, number, split_rows(rows))

    packed = jax.tree.map(lambda leaf: leaf[order].reshape(-1, chunk, *leaf.shape[1:]), inputs)
    _, values = jax.lax.scan(of_chunk, jnp.asarray(0, order.dtype), packed)
    return _unpack(values.reshape(-1), slot, where, length)


def _pack(length: int, chunk: int, where: Array | None) -> tuple[Array, Array | None, Array | int]:
    """Where the examples go: valid ones to the front, in their order.

    Args:
        length: N.
        chunk: C.
        where: boolean ``[N]``, or None.

    Returns:
        The row of each slot, N of them rounded up to whole chunks (the slots that are over hold the first valid row
        again, which is safe to compute); the slot of each row; and how many slots hold rows.
    """
    n_slots = -(-length // chunk) * chunk
    if where is None:
        slots = jnp.arange(n_slots, dtype=jnp.int32)
        return jnp.where(slots < length, slots, 0), None, length
    slot = jnp.cumsum(where, dtype=jnp.int32) - 1
    first = jnp.argmax(where).astype(jnp.int32)
    rows = jnp.arange(length, dtype=jnp.int32)
    order = jnp.full(n_slots, first).at[jnp.where(where, slot, n_slots)].set(rows, mode="drop")
    return order, slot, slot[-1] + 1


def _unpack(packed: Array, slot: Array | None, where: Array | None, length: int) -> Array:
    """Rows in their own places again, zero where masked."""
    if where is None:
        return packed[:length]
    mask = where.reshape(-1, *[1] * (packed.ndim - 1))
    return jnp.where(mask, packed[jnp.maximum(slot, 0)], 0)


def _cross_entropy_of_chunk(params: PyTree, inputs: PyTree) -> Array:
    """Cross-entropy of C examples over all items."""
    (table, bias), (hidden, target) = params, inputs
    return _cross_entropy(hidden, table, bias, target)


@jax.custom_vjp
def _cross_entropy(hidden: Array, table: Array, bias: Array | None, target: Array) -> Array:
    return _cross_entropy_forward(hidden, table, bias, target)[0]


def _cross_entropy_forward(hidden, table, bias, target):
    scores = hidden @ table.T
    if bias is not None:
        scores = scores + bias[None, :]
    pos = take_target(scores, target)
    largest = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
    weight = jnp.exp(scores - largest[:, None])
    total = jnp.sum(weight, axis=-1)
    values = jnp.log(total) + (largest - pos)
    return values, (weight, total, hidden, table, bias, target)


def _cross_entropy_backward(residuals, cotangent):
    """Of probabilities less one at the target: the first is left unnormalised, the second one row of the table.

    Both factors go to the ``[C, d]`` sides of the products, so that the ``[C, V]`` side is written once.
    """
    weight, total, hidden, table, bias, target = residuals
    # As in ``take_target``: a target that is no item makes all that it touches NaN, in place of another item's row.
    cotangent = jnp.where((target >= 0) & (target < table.shape[0]), cotangent, jnp.nan)
    share, own = cotangent / total, -cotangent
    of_hidden = share[:, None] * (weight @ table) + own[:, None] * table[target]
    # Without the barrier XLA writes this product with the [C, V] side transposed, which is slower on CPU.
    of_table = jax.lax.optimization_barrier((share[:, None] * hidden).T @ weight).T
    of_table = of_table.at[target].add(own[:, None] * hidden)
    of_bias = None if bias is None else (share @ weight).at[target].add(own)
    return of_hidden, of_table, of_bias, None


_cross_entropy.defvjp(_cross_entropy_forward, _cross_entropy_backward)
