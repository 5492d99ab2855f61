"""Items and pairs drawn uniformly or from given weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax._checks import check_sizes
from debias_jax.errors import DataError
from debias_jax.sampling._bits import uniform_below
from debias_jax.types import Array, Key


class AliasTable(NamedTuple):
    """A discrete distribution that is drawn from in constant time; made by ``alias_table``.

    Attributes:
        threshold: float32 ``[n]``, the probability of keeping column i once it is hit.
        alias: int32 ``[n]``, what is drawn instead.
    """

    threshold: Array
    alias: Array


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
    check_sizes(n_items=n_items)
    return jax.random.randint(key, shape, 0, n_items, dtype=jnp.int32)


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
    check_sizes(n_users=n_users, n_items=n_items)
    user_key, item_key = jax.random.split(key)
    return uniform_below(user_key, shape, n_users), uniform_below(item_key, shape, n_items)


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
