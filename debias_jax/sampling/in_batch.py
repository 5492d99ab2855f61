"""Draws among the items of a batch, and the cache of items that XIR keeps between batches."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax._checks import check_choice, check_float, check_integer, check_sizes
from debias_jax.types import Array, Key


class ItemCache(NamedTuple):
    """Items that stand by as negatives; made by ``init_cache``, changed by ``update_cache``.

    Attributes:
        items: int32 ``[C]``.
        occurrences: float32 ``[n_items]``, how often each item has been resampled so far.
    """

    items: Array
    occurrences: Array


def accidental_hits(items: Array, targets: Array | None = None) -> Array:
    """Which columns of a batch hold the same item as a row's positive, and are no negatives of it.

    Args:
        items: int ``[C]``, the item of each column.
        targets: int ``[B]`` in 0..C-1, the column of each row's positive; None for row b in column b.

    Returns:
        bool ``[B, C]``, True at another column with the positive's item; leave them out of a softmax by
        ``candidates=~accidental_hits(items)``.

    Raises:
        TypeError: an array is not of an integer dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> sampling.accidental_hits(jnp.array([7, 5, 7])).astype(int).tolist()
        [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """
    check_integer(items=items, targets=targets)
    columns = jnp.arange(items.shape[0])
    own = columns if targets is None else targets
    return (items[own][:, None] == items[None, :]) & (own[:, None] != columns[None, :])


def in_batch_resample(key: Key, logits: Array, *, n: int) -> Array:
    """For each row n columns, drawn with replacement in proportion to exp(logits), all rows at once.

    By inverse distribution function: a cumulative sum a row and a binary search a draw, so that the memory is that of
    the logits and of the draws, where Gumbel noise would need their product. BIR's logits are ``scores - log pop``.

    Args:
        key: PRNG key.
        logits: float ``[..., C]``; a column of minus infinity is never drawn, but in a row that has no other: such a
            row gives column 0.
        n: number of draws a row.

    Returns:
        int32 ``[..., n]``; no gradient passes. Draws lie on a grid of 2^-23 of a row's total: probabilities far below
        that are rounded to it or to 0.

    Raises:
        TypeError: ``logits`` are not floating.
        ValueError: ``n`` is not positive.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> logits = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 3.0]])
        >>> sampling.in_batch_resample(jax.random.key(0), logits, n=3).tolist()
        [[0, 0, 0], [1, 1, 1]]

    Source:
        Chen et al., NeurIPS 2022, section 3.1 (importance resampling after Rubin, 1987).
    """
    check_float(logits=logits)
    check_sizes(n=n)
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    weights = jnp.exp(logits - jnp.where(jnp.isfinite(largest), largest, 0.0))
    uniform = jax.random.uniform(key, (*logits.shape[:-1], n), jnp.float32)
    return _inverse(weights, uniform)


@functools.partial(jax.jit, static_argnames="n")
def in_batch_counts(key: Key, logits: Array, *, n: int, rows: Array | None = None) -> Array:
    """How often each column is among n columns of a row, drawn with replacement in proportion to exp(logits).

    What ``in_batch_resample`` draws, counted: for many draws a row it costs a look-up a column in place of a search a
    draw. All rows share n uniform numbers, which each row turns by an offset of its own. So each draw is uniform, and
    the draws of one row are independent of each other up to a grid of 1 / (64 n); those of two rows are not, which no
    mean over rows feels but in its variance.

    Args:
        key: PRNG key.
        logits: float ``[b, C]``; a column of minus infinity is never drawn, but in a row that has no other: such a row
            gives column 0. The counts of a row with NaN or plus infinity are NaN.
        n: number of draws a row; more than 2^15 are drawn in parts of at most so many.
        rows: int ``[b]``, a number for each row by which it takes its offset, so that parts of a batch draw what the
            whole would; None for 0, 1, ...

    Returns:
        float32 ``[b, C]``, whole numbers that add up to n in each row; no gradient passes. Probabilities are rounded to
        multiples of 2^-23 of a row's total.

    Raises:
        TypeError: ``logits`` are not floating, or ``rows`` no integers.
        ValueError: ``n`` is not positive, or a shape does not fit.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> logits = jnp.array([[0.0, -jnp.inf], [-jnp.inf, 3.0]])
        >>> sampling.in_batch_counts(jax.random.key(0), logits, n=3).tolist()
        [[3.0, 0.0], [0.0, 3.0]]

    Source:
        Chen et al., NeurIPS 2022, section 3.1; the turned uniform numbers are Cranley and Patterson's (SIAM J. Numer.
        Anal. 13(6), 1976).
    """
    check_float(logits=logits)
    check_integer(rows=rows)
    if jnp.ndim(logits) != 2:
        raise ValueError(f"logits must be of shape (b, C), got {jnp.shape(logits)}")
    n_rows = logits.shape[0]
    if rows is None:
        rows = jnp.arange(n_rows)
    elif jnp.shape(rows) != (n_rows,):
        raise ValueError(f"rows must be of shape ({n_rows},), got {jnp.shape(rows)}")
    check_sizes(n=n)
    cumulative, finite = _cumulative(jax.lax.stop_gradient(logits))
    sizes = [min(_MOST_DRAWS, n - start) for start in range(0, n, _MOST_DRAWS)]
    counts = sum(
        _turned_counts(key if part == 0 else jax.random.fold_in(key, part), cumulative, rows, n=size)
        for part, size in enumerate(sizes)
    )
    # Added, not chosen by ``where``: for that the compiler would hold a whole matrix of NaN.
    return counts.reshape(n_rows, -1)[:, : logits.shape[1]] + jnp.where(finite, 0.0, jnp.nan)


_MOST_DRAWS = 2**15
"""Draws of one part, for which the grid of their numbers is coarser than that of the cumulative probabilities."""

_UNIT_BITS = 23
"""Cumulative probabilities are whole multiples of 2^-23, of which float32 sums are exact in any order."""

_PART = 32
"""Sums and differences along a row are products with a matrix of this size, on CPU far cheaper than slices of it."""


def _turned_counts(key: Key, cumulative: Array, rows: Array, *, n: int) -> Array:
    """Counts of n draws, in the parts of ``cumulative``."""
    grid_bits = max(10, (64 * n - 1).bit_length())
    shift = _UNIT_BITS - grid_bits
    draw_key, offset_key = jax.random.split(key)
    # below[g] is how many of the n numbers lie in the first g cells of two turns around the unit interval.
    cells = 1 + (jax.random.bits(draw_key, (n,), jnp.uint32) >> (32 - grid_bits)).astype(jnp.int32)
    turn = 2**grid_bits
    held = jnp.zeros((1, 2 * turn + 1), jnp.float32).at[0, jnp.concatenate([cells, cells + turn])].add(1.0)
    below = _running_sum(_in_parts(held)).reshape(-1)

    def reached(units: Array) -> Array:
        return below.at[(units + offsets) >> shift].get(mode="promise_in_bounds", wrap_negative_indices=False)

    # The sum of two words is as uniform as one, and sums are not computed again for each column, as words would be.
    words = jax.vmap(lambda row: jax.random.bits(jax.random.fold_in(offset_key, row), (2,), jnp.uint32))(rows)
    bits = jnp.sum(words, axis=1, dtype=jnp.uint32)
    offsets = (bits >> (32 - _UNIT_BITS)).astype(jnp.int32)[:, None, None]
    return _differences(reached(cumulative), reached(0)[:, 0])


def _cumulative(logits: Array) -> tuple[Array, Array]:
    """Cumulative probabilities of each row in units of 2^-23, int32 up to 2^23, in parts; and which rows ``[b, 1]`` are
    a distribution.
    """
    logits = logits.astype(jnp.float32)
    largest = jnp.max(logits, axis=-1, keepdims=True)
    some = jnp.isfinite(largest)
    weights = jnp.exp(logits - jnp.where(some, largest, 0.0))
    weights = jnp.where(some, weights, (jnp.arange(logits.shape[-1]) == 0).astype(jnp.float32))
    whole = jnp.round(weights * (2.0**_UNIT_BITS / jnp.sum(weights, axis=-1, keepdims=True)))
    sums = _running_sum(_in_parts(whole))
    units = jnp.floor(sums * (2.0**_UNIT_BITS / sums[:, -1:, -1:]) + 0.5).astype(jnp.int32)
    # The total comes to 2^23, or to one more where the compiler fuses the product and the sum.
    return jnp.minimum(units, 2**_UNIT_BITS), some | (largest == -jnp.inf)


def _in_parts(values: Array) -> Array:
    """``[b, n]`` as ``[b, parts, _PART]``, filled up with 0."""
    n_rows, n = values.shape
    return jnp.pad(values, ((0, 0), (0, -n % _PART))).reshape(n_rows, -1, _PART)


def _running_sum(parts: Array) -> Array:
    """Cumulative sums over the last two axes, exact for whole numbers with sums up to 2^24."""
    n_rows, n_parts, width = parts.shape
    ones = jnp.ones((width, width), jnp.float32)
    before = jnp.zeros((n_rows, 1), jnp.float32)
    if n_parts > 1:
        sums = _running_sum(_in_parts(jnp.sum(parts, axis=-1))).reshape(n_rows, -1)
        before = jnp.concatenate([before, sums[:, : n_parts - 1]], axis=1)
    # What precedes a part enters the product: added to it, the compiler would add it anew wherever a sum is read.
    terms = jnp.concatenate([before[..., None], parts], axis=-1)
    summed = jnp.concatenate([ones[:1], jnp.triu(ones)])
    return jnp.einsum("bpk,kj->bpj", terms, summed, precision="highest")


def _differences(parts: Array, start: Array) -> Array:
    """Differences along the last two axes, the first of each row from ``start [b, 1]``; exact for whole numbers."""
    width = parts.shape[-1]
    steps = jnp.eye(width, dtype=jnp.float32) - jnp.eye(width, k=1, dtype=jnp.float32)
    inner = jnp.einsum("bpk,kj->bpj", parts, steps, precision="highest")
    before = jnp.concatenate([start, parts[:, :-1, -1]], axis=1)
    return inner - jnp.where(jnp.arange(width) == 0, before[..., None], 0.0)


def _inverse(weights: Array, uniform: Array) -> Array:
    """The first column whose cumulative weight exceeds ``uniform`` times the total; never one of weight 0."""
    axis = weights.ndim - 1
    # A parallel sum need not rise: its terms are added in another order at each column.
    cumulative = jax.lax.cummax(jnp.cumsum(weights, axis=-1), axis=axis)
    total = cumulative[..., -1:]
    # Rounding may carry a draw to the total, which no column exceeds.
    draws = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))
    search = jnp.vectorize(lambda a, x: jnp.searchsorted(a, x, side="right"), signature="(c),(n)->(n)")
    found = jnp.minimum(search(cumulative, draws), weights.shape[-1] - 1)
    # By the same rounding a sum may rise at a column of weight 0, which stands for the last one before it that has any.
    positive = weights > 0
    columns = jnp.broadcast_to(jnp.arange(weights.shape[-1], dtype=jnp.int32), weights.shape)
    last = jax.lax.cummax(jnp.where(positive, columns, -1), axis=axis)
    first = jnp.argmax(positive, axis=-1).astype(jnp.int32)
    owner = jnp.where(last >= 0, last, first[..., None])
    return jnp.take_along_axis(owner, found, axis=-1)


def init_cache(key: Key, *, n_items: int, size: int, variant: str = "published") -> ItemCache:
    """A cache of items drawn uniformly, with replacement.

    Args:
        key: PRNG key.
        n_items: size of the catalogue.
        size: items in the cache.
        variant: ``"published"``: no item has occurred; ``"released"``: each has once.

    Returns:
        The cache.

    Raises:
        ValueError: a size is not positive, or ``variant`` is unknown.

    Example:
        >>> import jax
        >>> from debias_jax import sampling
        >>> cache = sampling.init_cache(jax.random.key(0), n_items=5, size=3)
        >>> cache.items.shape, cache.occurrences.tolist()
        ((3,), [0.0, 0.0, 0.0, 0.0, 0.0])

    Source:
        Chen et al., NeurIPS 2022, algorithm 2.
    """
    check_sizes(n_items=n_items, size=size)
    check_choice(("published", "released"), variant=variant)
    items = jax.random.randint(key, (size,), 0, n_items, dtype=jnp.int32)
    return ItemCache(items, jnp.full((n_items,), float(variant == "released"), jnp.float32))


def update_cache(
    key: Key,
    cache: ItemCache,
    items: Array,
    counts: Array,
    *,
    decay: float | Array = 1.0,
    variant: str = "published",
) -> ItemCache:
    """Counts what a step has resampled, and draws a new cache in proportion to the counts.

    Counts are kept for ever: an item that was resampled early stays likely, and with frozen scores the cache follows
    the items that most users score high. ``decay`` below 1 forgets.

    Args:
        key: PRNG key.
        cache: the state.
        items: int ``[M]`` items of a step, those of the batch and of the cache; an item may stand in several places.
        counts: ``[M]`` how often each place was resampled in this step, summed over rows.
        decay: factor of the old counts.
        variant: ``"published"``: all items that ever occurred may be drawn; ``"released"``: those resampled in this
            step, in proportion to all their counts.

    Returns:
        The new cache; the old items where nothing was counted.

    Raises:
        TypeError: ``items`` are not of an integer dtype.
        ValueError: ``variant`` is unknown.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import sampling
        >>> cache = sampling.init_cache(jax.random.key(0), n_items=5, size=3)
        >>> cache = sampling.update_cache(jax.random.key(1), cache, jnp.array([4, 4]), jnp.array([1.0, 2.0]))
        >>> cache.items.tolist(), cache.occurrences.tolist()
        ([4, 4, 4], [0.0, 0.0, 0.0, 0.0, 3.0])

    Source:
        Chen et al., NeurIPS 2022, algorithm 2.
    """
    check_integer(items=items)
    weights, occurrences = refill_weights(cache, items, counts, decay=decay, variant=variant)
    uniform = jax.random.uniform(key, cache.items.shape, jnp.float32)
    drawn = _inverse(weights / jnp.maximum(jnp.sum(weights), 1.0), uniform)
    return ItemCache(jnp.where(jnp.any(weights > 0), drawn, cache.items), occurrences)


def refill_weights(
    cache: ItemCache, items: Array, counts: Array, *, decay: float | Array = 1.0, variant: str = "published"
) -> tuple[Array, Array]:
    """The weights by which ``update_cache`` draws, and the new occurrences, float32 ``[n_items]`` each."""
    check_choice(("published", "released"), variant=variant)
    step = jnp.zeros_like(cache.occurrences).at[items].add(counts.astype(jnp.float32))
    occurrences = cache.occurrences * decay + step
    return (occurrences if variant == "published" else jnp.where(step > 0, occurrences, 0.0)), occurrences
