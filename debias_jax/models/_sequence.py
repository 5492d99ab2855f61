"""What the sequence models share: layers, starts, checks, and how a network becomes a ``Model``.

Items are 0 .. n_items - 1 and special tokens stand behind them: the pad is ``n_items``, a mask token ``n_items + 1``.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_integer
from debias_jax._devices import split_rows
from debias_jax._hash import hash_bits
from debias_jax.errors import ConfigError
from debias_jax.models.base import Model, lookup, pure_methods
from debias_jax.types import Array, Key, Params

# Added to the logit of a key that is not seen. Finite, so that a query that sees none has an output and a gradient.
HIDDEN = -1e30


def sequence_model(
    make: Callable[[nnx.Rngs], nnx.Module],
    *,
    n_items: int,
    max_len: int,
    mask_id: int | None = None,
    uses_users: bool = False,
    last_slot_only: bool = False,
    fills_up: bool = False,
    resized: Callable[[int], Model] | None = None,
) -> Model:
    """The model of a network with the methods ``encode(history, users, rngs=None)`` and ``output_table()``.

    Args:
        make: ``rngs -> network``.
        n_items: number of items.
        max_len: the longest history.
        mask_id: the mask token of a model that guesses items in their own slots.
        uses_users: whether the network reads users.
        last_slot_only: whether it encodes the last slot alone.
        fills_up: whether it computes on ``max_len`` slots always.
        resized: see ``Model``.

    Returns:
        The model.
    """
    # Tracing a network takes tenths of a second, and many a model is made for its settings' sake alone.
    parts = functools.cache(lambda: pure_methods(make, "encode", "output_table"))

    def init(key: Key) -> Params:
        return parts()[0](key)

    def output_table(params: Params) -> Array:
        return parts()[1][1](params)

    def encode(
        params: Params, history: Array, users: Array | None = None, *, key: Key | None = None
    ) -> Array:
        check_history(history, max_len)
        if uses_users:
            check_users(users, history)
        return parts()[1][0](params, history, users, key=key)

    def apply(params: Params, history: Array, users: Array | None = None, *, key: Key | None = None) -> Array:
        check_history(history, max_len)
        if mask_id is not None:
            # The token takes the last slot, which leaves room for one item less.
            token = jnp.full_like(history[:, :1], mask_id)
            newest = history[:, max(0, history.shape[1] + 1 - max_len) :]
            history = jnp.concatenate([newest, token], axis=1)
        return encode(params, history, users, key=key)[:, -1] @ output_table(params).T

    def item_tower(params: Params, items: Array) -> Array:
        return lookup(output_table(params), items)

    return Model(
        init,
        apply,
        item_tower=item_tower,
        encode=encode,
        output_table=output_table,
        max_len=max_len,
        mask_id=mask_id,
        uses_users=uses_users,
        last_slot_only=last_slot_only,
        fills_up=fills_up,
        resized=resized,
    )


def check_history(history: Array, max_len: int) -> None:
    """Raises unless histories are integers of shape ``[B, l]`` with ``1 <= l <= max_len``."""
    check_integer(history=history)
    shape = jnp.shape(history)
    if len(shape) != 2:
        raise ValueError(f"history must be of shape (B, l), got {shape}")
    if not 1 <= shape[1] <= max_len:
        raise ValueError(
            f"history has {shape[1]} slots and the model takes 1 to max_len = {max_len}: "
            "give the newest items, history[:, -max_len:]"
        )


def check_users(users: Array | None, history: Array) -> None:
    """Raises unless there is one integer user for each history."""
    if users is None:
        raise ValueError("the model reads users: give users of shape (B,) beside history")
    check_integer(users=users)
    if jnp.shape(users) != jnp.shape(history)[:1]:
        raise ValueError(f"users must be of shape {jnp.shape(history)[:1]}, got {jnp.shape(users)}")


def check_rate(**rates: float) -> None:
    """Raises unless every rate is a number in [0, 1)."""
    for name, rate in rates.items():
        if not isinstance(rate, int | float) or not 0 <= rate < 1:
            raise ConfigError(f"{name} must be a number in [0, 1), got {rate!r}")


def check_heads(dim: int, n_heads: int) -> None:
    """Raises unless the heads share the dimensions equally."""
    if dim % n_heads:
        raise ConfigError(f"dim = {dim} is not a multiple of n_heads = {n_heads}")


def xavier_normal(key: Key, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """N(0, 2 / (rows + columns)), not truncated."""
    return (2.0 / sum(shape)) ** 0.5 * jax.random.normal(key, shape, dtype)


def xavier_uniform(key: Key, shape: tuple[int, int], dtype=jnp.float32) -> Array:
    """U(-b, b) with b^2 = 6 / (rows + columns)."""
    bound = (6.0 / sum(shape)) ** 0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def uniform_start(fan_in: int) -> Callable:
    """``(key, shape, dtype) -> U(-b, b)`` with b^2 = 1 / fan-in, the usual start of a layer and its bias."""
    bound = fan_in**-0.5

    def initial(key: Key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return initial


def embed(table: Array, ids: Array, *, pad: int, pad_row: Array) -> Array:
    """Rows of a table, with ``pad_row`` at pads, so that no look-up gives the pad's row a gradient.

    Args:
        table: ``[n, dim]``.
        ids: int ``[B, l]``; an id out of range gives NaN.
        pad: the pad's id.
        pad_row: ``[dim]``: zeros, or the table's own row, which is taken as a constant.

    Returns:
        ``[B, l, dim]``.
    """
    rows = lookup(table, ids)
    constant = jnp.broadcast_to(jax.lax.stop_gradient(pad_row), rows.shape)
    return jnp.where((ids == pad)[..., None], constant, rows)


def dropout(x: Array, rate: float, rngs: nnx.Rngs | None) -> Array:
    """Inverted dropout.

    An entry is kept if a hash of its number under two words of the generator's key falls below the share. Bits of the
    generator itself take three times as long on CPU, and would be stored for the way back.

    Args:
        x: any shape.
        rate: share that is dropped, in [0, 1).
        rngs: generator; None keeps everything.

    Returns:
        An array like ``x``.
    """
    if rngs is None or rate == 0:
        return x
    words = jax.random.bits(rngs(), (2,), jnp.uint32)
    number = jax.lax.iota(jnp.uint32, x.size).reshape(x.shape)
    bits = hash_bits(hash_bits(number ^ words[0]) ^ words[1])
    kept = min(round((1.0 - rate) * 2**32), 2**32 - 1)
    return jnp.where(bits < jnp.uint32(kept), x / (1.0 - rate), 0.0)


def product(x: Array, kernel: Array) -> Array:
    """``x @ kernel`` ``[..., m]`` for ``x`` ``[..., n]``, as one product of rows.

    On CPU the kernel's gradient takes up to three times as long where the rows lie along two axes.
    """
    # Of rows from two axes the compiler does not know how they are split.
    rows = split_rows(x.reshape(-1, kernel.shape[0]))
    return (rows @ kernel).reshape(*x.shape[:-1], kernel.shape[1])


class Linear(nnx.Linear):
    """``nnx.Linear`` on rows, see ``product``."""

    def __call__(self, x):
        y = product(x, self.kernel[...])
        return y + jnp.broadcast_to(self.bias[...], y.shape)


class LayerNorm(nnx.Module):
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the last axis, with the biased variance."""

    def __init__(self, dim, epsilon):
        self.scale = nnx.Param(jnp.ones(dim, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(dim, jnp.float32))
        self.epsilon = epsilon

    def __call__(self, x):
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + self.epsilon)
        scale, bias = (jnp.broadcast_to(each[...], x.shape) for each in (self.scale, self.bias))
        return normal * scale + bias


class SelfAttention(nnx.Module):
    """Multi-head attention; each head owns a contiguous group of columns.

    The packed in-projection ``[dim, 3 dim]`` (query, key, value) starts Xavier uniform as a whole, the out-projection
    as ``out_start`` says, biases at 0.
    """

    def __init__(self, dim, n_heads, dropout, *, out_start=xavier_normal, rngs):
        self.in_projection = Linear(dim, 3 * dim, kernel_init=xavier_uniform, rngs=rngs)
        self.out_projection = Linear(dim, dim, kernel_init=out_start, rngs=rngs)
        self.dim, self.n_heads, self.dropout = dim, n_heads, dropout

    def project(self, x, first, last):
        """Blocks ``first`` to ``last - 1`` of the in-projection: 0 query, 1 key, 2 value."""
        columns = slice(first * self.dim, last * self.dim)
        y = product(x, self.in_projection.kernel[...][:, columns])
        return y + jnp.broadcast_to(self.in_projection.bias[...][columns], y.shape)

    def __call__(self, queries, memory, bias, rngs, *, before=None):
        """Attends.

        Args:
            queries: ``[B, l, dim]``.
            memory: ``[B, m, dim]``, read as keys and values.
            bias: ``[1 or B, l or 1, m]``, added to the logits; one column more with ``before``.
            rngs: generator of the dropout of attention weights, or None.
            before: ``[dim]``, one more slot that stands before the memory of every row.

        Returns:
            ``[B, l, dim]``.
        """
        if queries is memory:
            query, key, value = jnp.split(self.project(memory, 0, 3), 3, axis=-1)
        else:
            query = self.project(queries, 0, 1)
            key, value = jnp.split(self.project(memory, 1, 3), 2, axis=-1)
        if before is not None:
            first = jnp.split(self.project(before, 1, 3), 2)
            key, value = (
                jnp.concatenate([jnp.broadcast_to(row, (*x.shape[:-2], 1, self.dim)), x], axis=-2)
                for row, x in zip(first, (key, value), strict=True)
            )
        query, key, value = (self.split_heads(x) for x in (query, key, value))
        if bias.shape[0] > 1:
            bias = jnp.repeat(bias, self.n_heads, axis=0)
        # Scaling the queries, not the logits, is the same with fewer numbers.
        logits = (query * (self.dim // self.n_heads) ** -0.5) @ key.mT + bias
        weights = dropout(jax.nn.softmax(logits, axis=-1), self.dropout, rngs)
        return self.out_projection(self.join_heads(weights @ value))

    def split_heads(self, x):
        """``[B h, l, dim / h]``: products over one batch axis take two thirds of the time of those over two."""
        if self.n_heads == 1:
            return x
        return (
            x.reshape(*x.shape[:2], self.n_heads, -1)
            .swapaxes(1, 2)
            .reshape(-1, x.shape[1], self.dim // self.n_heads)
        )

    def join_heads(self, x):
        if self.n_heads == 1:
            return x
        return x.reshape(-1, self.n_heads, *x.shape[1:]).swapaxes(1, 2).reshape(-1, x.shape[1], self.dim)


def gelu(x: Array) -> Array:
    """Gaussian error linear units x Phi(x), with the exact Phi."""
    return jax.nn.gelu(x, approximate=False)
