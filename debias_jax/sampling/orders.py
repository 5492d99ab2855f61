"""Random orders, and an epoch cut into batches."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from debias_jax._checks import check_sizes
from debias_jax._hash import hash_bits
from debias_jax.errors import ConfigError
from debias_jax.sampling._bits import scale
from debias_jax.types import Array, Key


def epoch_batches(key: Key, n_rows: int, *, batch_size: int) -> tuple[Array, Array]:
    """A random order of all rows, cut into batches; the last one is padded, not dropped.

    Args:
        key: PRNG key; use ``fold_in(run_key, epoch)``.
        n_rows: number of rows, at least 1.
        batch_size: rows a batch; may exceed ``n_rows``.

    Returns:
        ``index`` int32 ``[steps, batch_size]`` and ``where`` bool of the same shape, ``steps = ceil(n_rows /
        batch_size)``. Over the entries where ``where`` holds each row occurs exactly once. Padding repeats
        rows from the start of the order, so that it may be gathered safely.

    Raises:
        ValueError: ``n_rows`` or ``batch_size`` is not positive, or there are more rows than int32 counts to.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> index, where = sampling.epoch_batches(jax.random.key(0), 5, batch_size=2)
        >>> index.shape, sorted(index[where].tolist())
        ((3, 2), [0, 1, 2, 3, 4])
    """
    check_sizes(n_rows=n_rows, batch_size=batch_size)
    steps = -(-n_rows // batch_size)
    _check_countable(n_rows, steps * batch_size)
    order = _random_order(key, n_rows)
    slots = jnp.arange(steps * batch_size, dtype=jnp.int32)
    shape = (steps, batch_size)
    return order[slots % n_rows].reshape(shape), (slots < n_rows).reshape(shape)


def stratified_batches(key: Key, sizes: Sequence[int], *, batch_size: int) -> tuple[tuple[Array, Array], ...]:
    """A random order of the rows of several strata, cut into batches that all hold the strata in the same shares.

    Rows whose work differs (short and long sequences) may then be held in arrays of their own shape, while every batch
    is still a sample of all rows. Each stratum is shuffled by itself and dealt out like cards, one stratum behind the
    other, so that the sizes of two batches differ by one row at most.

    Args:
        key: PRNG key; use ``fold_in(run_key, epoch)``.
        sizes: number of rows of each stratum; 0 is allowed, but not in all of them.
        batch_size: rows a batch at most.

    Returns:
        For each stratum of s rows ``index`` int32 ``[steps, ceil(s / steps)]`` and ``where`` bool of the same shape,
        ``steps = ceil(sum(sizes) / batch_size)``. Over the entries where ``where`` holds each row of the stratum occurs
        exactly once; the other entries are in range too.

    Raises:
        ValueError: ``batch_size`` is not positive, a size is negative, there is no row, or there are more rows than
            int32 counts to.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> (short, _), (long, where) = sampling.stratified_batches(jax.random.key(0), (6, 3), batch_size=3)
        >>> short.shape, long.shape, sorted(long[where].tolist())
        ((3, 2), (3, 1), [0, 1, 2])
    """
    if any(size < 0 for size in sizes):
        raise ValueError(f"sizes must not be negative, got {tuple(sizes)}")
    check_sizes(n_rows=sum(sizes), batch_size=batch_size)
    steps = -(-sum(sizes) // batch_size)
    _check_countable(sum(sizes), steps * batch_size)
    strata, dealt = [], 0
    for number, size in enumerate(sizes):
        width = -(-size // steps)
        step = jnp.arange(steps, dtype=jnp.int32)[:, None]
        rank = (step - dealt) % steps + steps * jnp.arange(width, dtype=jnp.int32)[None, :]
        order = _random_order(jax.random.fold_in(key, number), size) if size else jnp.zeros(0, jnp.int32)
        strata.append((order[rank % max(size, 1)], rank < size))
        dealt += size
    return tuple(strata)


def _check_countable(n_rows: int, n_slots: int) -> None:
    if n_slots >= 2**31:
        raise ConfigError(
            f"{n_rows:,} rows in whole batches are {n_slots:,} places, and int32 counts to 2^31 - 1; take some of the "
            "rows, and of all pairs a sample (sampling.uniform_pairs)"
        )


def _random_order(key: Key, n: int) -> Array:
    """A random permutation of ``0 .. n - 1``, int32, far cheaper on CPU than ``jax.random.permutation``."""
    return _sorted_order(key, n) if n <= _LARGEST_SORT else _feistel_order(key, n)


_LARGEST_SORT = 2**16


def _sorted_order(key: Key, n: int) -> Array:
    """A permutation by sorting: ``jax.random.permutation`` at a quarter of its time.

    A sort that carries values along is some four times as slow there as a sort of one array, so the values travel
    in the keys: random bits above, the position below. Each pass is a pass of a stable radix sort; together the
    rows have random keys of at least 32 bits, and the chance that two given rows tie is 2^-32 or less.
    """
    position_bits = max(1, (n - 1).bit_length())
    random_bits = 32 - position_bits
    positions = jnp.arange(n, dtype=jnp.uint32)
    order = positions
    for number in range(-(-32 // random_bits)):
        bits = jax.random.bits(jax.random.fold_in(key, number), (n,), jnp.uint32)
        packed = jnp.sort((bits << position_bits) | positions)
        order = order[packed & jnp.uint32(2**position_bits - 1)]
    return order.astype(jnp.int32)


_FEISTEL_ROUNDS = 8


def _feistel_order(key: Key, n: int) -> Array:
    """A permutation by arithmetic alone, for many rows: position i goes to a keyed Feistel cipher of i.

    The cipher permutes ``side^2`` >= n cells, a row and a column each moved in turn by a hash of the other and of that
    round's key; a cell beyond n is enciphered again until it falls below. Not every permutation can occur, as with
    any that is drawn from one key.
    """
    side = math.isqrt(n - 1) + 1
    keys = jax.random.bits(key, (_FEISTEL_ROUNDS,), jnp.uint32)

    def encipher(cells: Array) -> Array:
        moved, other = cells // side, cells % side
        for number in range(_FEISTEL_ROUNDS):
            shifted = moved + scale(hash_bits(other ^ keys[number]), side)
            moved, other = other, jnp.where(shifted >= side, shifted - side, shifted)
        return moved * side + other

    def outside(cells: Array) -> Array:
        return jnp.any(cells >= n)

    cells = encipher(jnp.arange(n, dtype=jnp.uint32))
    cells = jax.lax.while_loop(outside, lambda cells: jnp.where(cells >= n, encipher(cells), cells), cells)
    return cells.astype(jnp.int32)
