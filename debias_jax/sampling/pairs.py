"""Sets of pairs: what is in them, and draws of what is not."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax._checks import check_integer, check_sizes
from debias_jax.errors import DataError
from debias_jax.types import Array, Key


class PairSet(NamedTuple):
    """A set of (user, item) pairs that answers "is this pair in it?" at any catalogue size; made by
    ``pair_set``.

    Attributes:
        indptr: int32 ``[n_users + 1]``, the slice of each user in ``items``.
        items: int32 ``[n]``, sorted within each user and distinct.
    """

    indptr: Array
    items: Array


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
    check_sizes(n_items=n_items)
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
