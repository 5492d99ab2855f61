"""How often items come by in a stream of batches, estimated without a pass over the data."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from debias_jax._checks import check_integer, check_sizes
from debias_jax.types import Array


class StreamingFrequency(NamedTuple):
    """Estimated intervals between the batches that hold an item; made by ``init_frequency``.

    Attributes:
        step: float32 scalar, number of batches seen.
        last_seen: one float32 array a table, the step at which each key was last seen (A in the paper).
        interval: likewise, the estimated number of steps between two sights (B in the paper).
    """

    step: Array
    last_seen: tuple[Array, ...]
    interval: tuple[Array, ...]


def init_frequency(sizes: Sequence[int], *, initial_interval: float) -> StreamingFrequency:
    """A fresh estimate.

    Args:
        sizes: size of each table; an item's key in a table is its id modulo the size. One table of ``n_items`` keeps
            every item apart; several of distinct primes share keys, each pair of items in few of them.
        initial_interval: the interval before an item is seen. It is forgotten at the rate of the updates: with rate
            1e-4 an item must be seen some 10^4 times before its start no longer shows, and from 1, as in the released
            program, the estimates of rare items stay near 1.

    Returns:
        The state.

    Raises:
        ValueError: a size or the interval is not positive.

    Example:
        >>> from debias_jax import sampling
        >>> state = sampling.init_frequency([3], initial_interval=10.0)
        >>> state.interval[0].tolist()
        [10.0, 10.0, 10.0]

    Source:
        Yi et al., RecSys 2019, algorithm 2.
    """
    if not sizes or not initial_interval > 0:
        raise ValueError(
            f"there must be a table and the interval must be positive, got sizes {list(sizes)} and {initial_interval}"
        )
    for number, size in enumerate(sizes):
        check_sizes(**{f"sizes[{number}]": size})
    return StreamingFrequency(
        jnp.zeros((), jnp.float32),
        tuple(jnp.zeros((size,), jnp.float32) for size in sizes),
        tuple(jnp.full((size,), initial_interval, jnp.float32) for size in sizes),
    )


def update_frequency(state: StreamingFrequency, items: Array, *, rate: float | Array) -> StreamingFrequency:
    r"""Takes in one batch.

    .. math:: B_h \leftarrow (1 - \alpha) B_h + \alpha (t - A_h), \qquad A_h \leftarrow t

    at the keys h of the batch's items, each once however often it stands in the batch.

    Args:
        state: the estimate after t - 1 batches.
        items: int ``[B]``.
        rate: :math:`\alpha` in (0, 1].

    Returns:
        The state after t batches.

    Raises:
        TypeError: ``items`` are not of an integer dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> state = sampling.init_frequency([3], initial_interval=4.0)
        >>> for batch in ([0, 1], [0], [0, 0]):
        ...     state = sampling.update_frequency(state, jnp.array(batch), rate=0.5)
        >>> state.interval[0].tolist()
        [1.375, 2.5, 4.0]

    Source:
        Yi et al., RecSys 2019, algorithm 2; several tables: its section 4.3.
    """
    check_integer(items=items)
    step = state.step + 1.0
    last_seen, interval = [], []
    for seen, old in zip(state.last_seen, state.interval, strict=True):
        keys = items % seen.shape[0]
        # Places of one key write the same number.
        interval.append(old.at[keys].set((1.0 - rate) * old[keys] + rate * (step - seen[keys])))
        last_seen.append(seen.at[keys].set(step))
    return StreamingFrequency(step, tuple(last_seen), tuple(interval))


def log_frequency(state: StreamingFrequency, items: Array) -> Array:
    """Log of the estimated share of batches that hold an item: minus the log of its largest interval.

    Two items that share a key are seen more often than either, so that every table errs towards short intervals. The
    share is 1 - (1 - p)^B for an item that is a share p of the stream: about B p for rare items, and never above 1. An
    item that stands in every other batch or more is therefore corrected by too little; with small batches none is.

    Args:
        state: the estimate.
        items: int ``[...]``.

    Returns:
        float32 ``[...]``.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> state = sampling.init_frequency([3, 5], initial_interval=10.0)
        >>> print(f"{sampling.log_frequency(state, jnp.array([7]))[0]:.4f}")  # -log 10
        -2.3026

    Source:
        Yi et al., RecSys 2019, section 4.3.
    """
    check_integer(items=items)
    intervals = [table[items % table.shape[0]] for table in state.interval]
    return -jnp.log(jnp.max(jnp.stack(intervals), axis=0))
