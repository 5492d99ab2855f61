"""Everything that draws at random, but for parameter initialisation and dropout.

Every function takes its key first and is a pure function of it: the same key gives the same bits, eager or
under ``jit``. ``alias_table`` and ``pair_set`` draw nothing; they build the tables that the samplers read, on
the host. Integer ids are int32 and are not range-checked inside ``jit``: map raw ids through a vocabulary
first.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax._checks import check_integer
from debias_jax.errors import DataError
from debias_jax.types import Array, Key

__all__ = [
    "AliasTable",
    "PairSet",
    "alias_table",
    "contains",
    "epoch_batches",
    "find",
    "hash_bits",
    "pair_set",
    "popularity_items",
    "uniform_items",
    "uniform_pairs",
    "uniform_unseen_items",
]


class AliasTable(NamedTuple):
    """A discrete distribution that is drawn from in constant time; made by ``alias_table``.

    Attributes:
        threshold: float32 ``[n]``, the probability of keeping column i once it is hit.
        alias: int32 ``[n]``, what is drawn instead.
    """

    threshold: Array
    alias: Array


class PairSet(NamedTuple):
    """A set of (user, item) pairs that answers "is this pair in it?" at any catalogue size; made by
    ``pair_set``.

    Attributes:
        indptr: int32 ``[n_users + 1]``, the slice of each user in ``items``.
        items: int32 ``[n]``, sorted within each user and distinct.
    """

    indptr: Array
    items: Array


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
        ValueError: ``n_rows`` or ``batch_size`` is not positive.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> index, where = sampling.epoch_batches(jax.random.key(0), 5, batch_size=2)
        >>> index.shape, sorted(index[where].tolist())
        ((3, 2), [0, 1, 2, 3, 4])
    """
    _check_positive(n_rows=n_rows, batch_size=batch_size)
    steps = -(-n_rows // batch_size)
    order = _random_order(key, n_rows)
    slots = jnp.arange(steps * batch_size, dtype=jnp.int32)
    shape = (steps, batch_size)
    return order[slots % n_rows].reshape(shape), (slots < n_rows).reshape(shape)


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
            shifted = moved + _scale(hash_bits(other ^ keys[number]), side)
            moved, other = other, jnp.where(shifted >= side, shifted - side, shifted)
        return moved * side + other

    def outside(cells: Array) -> Array:
        return jnp.any(cells >= n)

    cells = encipher(jnp.arange(n, dtype=jnp.uint32))
    cells = jax.lax.while_loop(outside, lambda cells: jnp.where(cells >= n, encipher(cells), cells), cells)
    return cells.astype(jnp.int32)


def hash_bits(bits: Array) -> Array:
    """A bijection of uint32 in which each bit depends on all: pseudo-random, and the same for the same number.

    Args:
        bits: uint32 ``[...]``.

    Returns:
        uint32 ``[...]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> ids = sampling.hash_bits(jnp.arange(100_000, dtype=jnp.uint32))
        >>> print(f"{(ids < 2**32 // 10).mean():.2f}")  # a tenth of the ids, always the same ones
        0.10
    """
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def _scale(bits: Array, n: int) -> Array:
    """floor(bits n / 2^32) for n <= 2^16, in 32-bit arithmetic."""
    n = jnp.uint32(n)
    return ((bits >> 16) * n + (((bits & 0xFFFF) * n) >> 16)) >> 16


def _uniform_below(key: Key, shape: tuple[int, ...], n: int) -> Array:
    """int32 below n; each value's probability is within 2^-32 of 1/n. Half the time of ``jax.random.randint``."""
    if n > 2**16:
        return jax.random.randint(key, shape, 0, n, dtype=jnp.int32)
    return _scale(jax.random.bits(key, shape, jnp.uint32), n).astype(jnp.int32)


def uniform_items(key: Key, shape: tuple[int, ...], *, n_items: int) -> Array:
    """Items drawn uniformly with replacement.

    Args:
        key: PRNG key.
        shape: shape of the draw.
        n_items: size of the catalogue.

    Returns:
        int32 ``shape`` in ``[0, n_items)``.

    Raises:
        ValueError: ``n_items`` is not positive.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> sampling.uniform_items(jax.random.key(0), (2, 3), n_items=1).tolist()
        [[0, 0, 0], [0, 0, 0]]
    """
    _check_positive(n_items=n_items)
    return jax.random.randint(key, shape, 0, n_items, dtype=jnp.int32)


def alias_table(weights: np.ndarray) -> AliasTable:
    """The alias table of a distribution given by non-negative weights. Runs on the host, in linear time.

    Column i of a uniform draw is kept with probability ``threshold[i]``, else replaced by ``alias[i]``; so
    item i has probability ``(threshold[i] + sum over j with alias[j] = i of (1 - threshold[j])) / n = w_i /
    sum w``.

    Args:
        weights: ``[n]`` finite, not negative, not all 0; e.g. counts, or counts to the power 0.75.

    Returns:
        The table. An item of weight 0 is never drawn.

    Raises:
        DataError: ``weights`` is not such an array.

    Example:
        >>> from debias_jax import sampling
        >>> table = sampling.alias_table([1.0, 3.0])
        >>> table.threshold.tolist(), table.alias.tolist()  # P(0) = 0.5 / 2, P(1) = (1 + 0.5) / 2
        ([0.5, 1.0], [1, 1])

    References:
        Walker, ACM TOMS 3(3), 1977; the construction is Vose's, IEEE TSE 17(9), 1991.
    """
    weights = np.asarray(weights, np.float64)
    if weights.ndim != 1 or weights.size == 0:
        raise DataError(f"weights must be a vector that is not empty, got shape {weights.shape}")
    bad = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if bad.size:
        raise DataError(
            f"weights[{bad[0]}] = {weights[bad[0]]}; every weight must be finite and not negative"
        )
    if not weights.any():
        raise DataError(f"all {weights.size} weights are 0; there is nothing to draw")
    weights = weights / weights.max()
    mass = weights * (weights.size / weights.sum())
    threshold = np.ones(weights.size)
    alias = np.arange(weights.size)
    small = np.flatnonzero(mass < 1).tolist()
    large = np.flatnonzero(mass >= 1).tolist()
    while small and large:
        column, donor = small.pop(), large[-1]
        threshold[column], alias[column] = mass[column], donor
        mass[donor] -= 1.0 - mass[column]
        if mass[donor] < 1:
            small.append(large.pop())
    # Rounding can leave columns in either list; their mass is 1 up to it, unless they have no weight at all.
    for column in small:
        if weights[column] == 0:
            threshold[column], alias[column] = 0.0, int(weights.argmax())
    return AliasTable(jnp.asarray(threshold, jnp.float32), jnp.asarray(alias, jnp.int32))


def popularity_items(key: Key, shape: tuple[int, ...], *, table: AliasTable) -> Array:
    """Items drawn with replacement from the distribution of an alias table.

    Args:
        key: PRNG key.
        shape: shape of the draw.
        table: made by ``alias_table``.

    Returns:
        int32 ``shape`` in ``[0, n)``. Each probability is exact to ``2^-23 / n``.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> table = sampling.alias_table([0.0, 1.0, 0.0])
        >>> sampling.popularity_items(jax.random.key(0), (4,), table=table).tolist()
        [1, 1, 1, 1]
    """
    column_key, keep_key = jax.random.split(key)
    column = jax.random.randint(column_key, shape, 0, table.alias.shape[0], dtype=jnp.int32)
    kept = jax.random.uniform(keep_key, shape, jnp.float32) < table.threshold[column]
    return jnp.where(kept, column, table.alias[column])


def uniform_pairs(key: Key, shape: tuple[int, ...], *, n_users: int, n_items: int) -> tuple[Array, Array]:
    """(user, item) pairs drawn uniformly with replacement from all pairs.

    Users and items are drawn under two keys: a single index ``u * n_items + i`` would overflow int32 from
    2^31 pairs.

    Args:
        key: PRNG key.
        shape: shape of the draw.
        n_users: number of users.
        n_items: number of items.

    Returns:
        Users and items, int32 ``shape`` each.

    Raises:
        ValueError: a size is not positive.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> users, items = sampling.uniform_pairs(jax.random.key(0), (3,), n_users=1, n_items=1)
        >>> users.tolist(), items.tolist()
        ([0, 0, 0], [0, 0, 0])
    """
    _check_positive(n_users=n_users, n_items=n_items)
    user_key, item_key = jax.random.split(key)
    return _uniform_below(user_key, shape, n_users), _uniform_below(item_key, shape, n_items)


def pair_set(users: np.ndarray, items: np.ndarray, *, n_users: int) -> PairSet:
    """Builds the set of the given pairs. Runs on the host; repeated pairs count once.

    Args:
        users: integer ``[n]`` in ``[0, n_users)``; ``n`` may be 0.
        items: integer ``[n]`` in ``[0, 2^31)``.
        n_users: number of users; those without pairs are allowed.

    Returns:
        The set.

    Raises:
        DataError: the arrays are not two integer vectors of one length, or an id is out of range.

    Example:
        >>> from debias_jax import sampling
        >>> pairs = sampling.pair_set([2, 0, 2, 2], [5, 1, 3, 5], n_users=3)
        >>> pairs.indptr.tolist(), pairs.items.tolist()
        ([0, 1, 1, 3], [1, 3, 5])
    """
    users = _host_ids("users", users, n_users)
    items = _host_ids("items", items, 2**31)
    if users.shape != items.shape:
        raise DataError(f"users and items must have one length, got {users.size} and {items.size}")
    order = np.lexsort((items, users))
    users, items = users[order], items[order]
    first = np.ones(users.size, bool)
    first[1:] = (users[1:] != users[:-1]) | (items[1:] != items[:-1])
    indptr = np.searchsorted(users[first], np.arange(n_users + 1))
    return PairSet(jnp.asarray(indptr, jnp.int32), jnp.asarray(items[first], jnp.int32))


def contains(pairs: PairSet, users: Array, items: Array) -> Array:
    """Whether each (user, item) pair is in the set: a binary search in the user's slice, ``O(log n)``.

    Args:
        pairs: made by ``pair_set``.
        users: int ``[...]`` in ``[0, n_users)``.
        items: int ``[...]``; same shape, or of the same rank with axes of size 1, or a scalar.

    Returns:
        bool, of the broadcast shape.

    Raises:
        TypeError: ids are not integers.
        ValueError: the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> pairs = sampling.pair_set([0, 1], [7, 8], n_users=2)
        >>> sampling.contains(pairs, jnp.array([0, 0, 1]), jnp.array([7, 8, 8])).tolist()
        [True, False, True]
    """
    return find(pairs, users, items) >= 0


def find(pairs: PairSet, users: Array, items: Array) -> Array:
    """Where each (user, item) pair stands in the set: a binary search in the user's slice, ``O(log n)``.

    With values kept in the order of the set (sorted by user, then item), such as labels, it reads the value of any
    pair without a dense matrix.

    Args:
        pairs: made by ``pair_set``.
        users: int ``[...]`` in ``[0, n_users)``.
        items: int ``[...]``; same shape, or of the same rank with axes of size 1, or a scalar.

    Returns:
        int32 of the broadcast shape: the position in ``pairs.items``, -1 for a pair that is not in the set.

    Raises:
        TypeError: ids are not integers.
        ValueError: the shapes do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> pairs = sampling.pair_set([0, 1, 1], [7, 8, 3], n_users=2)
        >>> sampling.find(pairs, jnp.array([1, 0, 1]), jnp.array([8, 8, 3])).tolist()
        [2, -1, 1]
    """
    check_integer(users=users, items=items)
    users, items = jnp.asarray(users), jnp.asarray(items)
    if users.ndim and items.ndim and users.ndim != items.ndim:
        raise ValueError(f"users {users.shape} and items {items.shape} must be of one rank, or one a scalar")
    users, items = jnp.broadcast_arrays(users, items)
    n = pairs.items.shape[0]
    if n == 0:
        return jnp.full(users.shape, -1, jnp.int32)
    start, stop = pairs.indptr[users], pairs.indptr[users + 1]
    found = _first_where(lambda at: pairs.items[at] >= items, start, stop, longest=n)
    hit = (found < stop) & (pairs.items[jnp.minimum(found, n - 1)] == items)
    return jnp.where(hit, found, -1)


def uniform_unseen_items(key: Key, users: Array, pairs: PairSet, *, n_items: int) -> tuple[Array, Array]:
    """For each user one item drawn uniformly from those the user does not have in ``pairs``.

    Exact and without rejection: a rank is drawn among the user's ``n_items - seen`` unseen items and turned
    into an item. With the seen items sorted, ``x_j - j`` unseen items precede the j-th of them, so the item
    of rank r is ``r + j`` for the first j with ``x_j - j > r``.

    Args:
        key: PRNG key.
        users: int ``[...]`` in ``[0, n_users)``; repeat a user to draw several items (with replacement).
        pairs: made by ``pair_set``, items in ``[0, n_items)``.
        n_items: size of the catalogue.

    Returns:
        ``items`` int32 and ``where`` bool, both of the shape of ``users``. ``where`` is False for a user who
        has everything; the item that stands there means nothing, but is in range.

    Raises:
        TypeError: ``users`` is not of an integer dtype.
        ValueError: ``n_items`` is not positive.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> pairs = sampling.pair_set([0, 0, 1, 1, 1], [0, 2, 0, 1, 2], n_users=2)
        >>> users = jnp.array([0, 1])
        >>> items, where = sampling.uniform_unseen_items(jax.random.key(0), users, pairs, n_items=3)
        >>> int(items[0]), where.tolist()
        (1, [True, False])
    """
    check_integer(users=users)
    _check_positive(n_items=n_items)
    users = jnp.asarray(users)
    unseen = n_items - (pairs.indptr[users + 1] - pairs.indptr[users])
    rank = jax.random.randint(key, users.shape, 0, jnp.maximum(unseen, 1), dtype=jnp.int32)
    return jnp.minimum(_unseen_item(pairs, users, rank), n_items - 1), unseen > 0


def _unseen_item(pairs: PairSet, users: Array, rank: Array) -> Array:
    """The item of each rank (from 0) among those that are not in the user's slice."""
    if pairs.items.shape[0] == 0:
        return rank
    start, stop = pairs.indptr[users], pairs.indptr[users + 1]
    found = _first_where(
        lambda at: pairs.items[at] - (at - start) > rank, start, stop, longest=pairs.items.shape[0]
    )
    return rank + (found - start)


def _first_where(predicate: Callable[[Array], Array], start: Array, stop: Array, *, longest: int) -> Array:
    """The first position in ``[start, stop)`` where a monotone predicate holds, else ``stop``.

    The number of halvings is fixed by ``longest``, so that the loop has a static length under ``jit`` and
    ``vmap``.
    """

    def halve(_, bounds):
        low, high = bounds
        middle = low + (high - low) // 2
        holds = predicate(jnp.minimum(middle, longest - 1))
        is_open = low < high
        return jnp.where(is_open & ~holds, middle + 1, low), jnp.where(is_open & holds, middle, high)

    return jax.lax.fori_loop(0, longest.bit_length(), halve, (start, stop))[0]


def _check_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def _host_ids(name: str, ids: np.ndarray, bound: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.size == 0:
        ids = ids.astype(np.int64)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"{name} must be an integer vector, got {ids.dtype} of shape {ids.shape}")
    bad = np.flatnonzero((ids < 0) | (ids >= bound))
    if bad.size:
        raise DataError(f"{name}[{bad[0]}] = {ids[bad[0]]} is outside [0, {bound})")
    return ids
