"""Random orders of many rows, and the arithmetic that draws are made with: uniform, and what they claim to be."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from debias_jax import sampling
from debias_jax.sampling import _bits
from debias_jax.sampling import orders as _orders

KEY = jax.random.key(0)
LARGE = (65_537, 70_000, 100_003, 2**17)
"""Beyond 2^16 rows an order comes from a Feistel cipher: the least, two in between, one that fills no square."""
LEAST_P = 1e-5
"""Of every chi-square test here, some fifty: confidence 99.95 % for all."""


@functools.cache
def orders(n, n_keys=8):
    """Independent orders of n rows, ``[n_keys, n]``."""
    keys = jax.random.split(jax.random.key(n), n_keys)
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: _orders._random_order(key, n), keys))
    return np.asarray(draw(keys))


def p_of_counts(counts, expected):
    counts = np.asarray(counts, np.float64)
    statistic = np.sum((counts - expected) ** 2 / expected)
    return scipy.stats.chi2.sf(statistic, counts.size - 1)


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**16, *LARGE])
def test_orders_are_permutations_and_differ_by_key(n):
    drawn = orders(n, n_keys=2 if n < 1000 else 8)
    assert drawn.dtype == np.int32
    for order in drawn:
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    if n >= 1000:
        # Two random orders agree at one position on average, with a Poisson law.
        agreements = [np.sum(one == other) for one, other in zip(drawn, drawn[1:], strict=False)]
        assert max(agreements) < 12


@pytest.mark.parametrize("n", [2**16, *LARGE])
def test_rows_land_anywhere(n):
    """Where a sixteenth of the rows lands, in sixteenths: 256 cells with fixed margins, so 15^2 degrees of freedom."""
    bins = np.arange(n) * 16 // n
    size = np.bincount(bins)
    expected = np.outer(size, size) / n
    table = np.zeros((16, 16))
    for order in orders(n):
        counts = np.zeros((16, 16))
        np.add.at(counts, (bins, bins[order]), 1)
        table += (counts - expected) ** 2 / expected
        # The rank correlation of a row and its position has standard deviation 1 / sqrt(n).
        assert abs(np.corrcoef(np.arange(n), order)[0, 1]) * math.sqrt(n) < 4.5
    degrees = 15**2 * len(orders(n))
    assert LEAST_P < scipy.stats.chi2.sf(table.sum(), degrees) < 1 - LEAST_P


@pytest.mark.parametrize("n", [2**16, *LARGE])
def test_neighbours_are_parted(n):
    """Rows at close positions, also in one row or column of the cipher's square, are as far apart as any."""
    side = math.isqrt(n - 1) + 1
    for lag in (1, 2, side - 1, side, side + 1, 2 * side):
        distance = np.concatenate([(order[lag:] - order[:-lag]) % n for order in orders(n)])
        assert distance.min() > 0
        counts = np.bincount(distance * 16 // n, minlength=16)
        size = np.bincount(np.arange(1, n) * 16 // n)
        assert p_of_counts(counts, distance.size * size / (n - 1)) > LEAST_P


def test_a_row_lands_anywhere_over_keys():
    """Single positions over many keys, which no test within one order can see."""
    n, n_keys = 65_537, 160
    draw = jax.jit(lambda keys: jax.lax.map(lambda key: _orders._random_order(key, n)[picked], keys))
    picked = np.array([0, 1, 256, 257, 32_768, n - 2, n - 1])
    rows = np.asarray(draw(jax.random.split(jax.random.key(5), n_keys)))
    for drawn in rows.T:
        assert p_of_counts(np.bincount(drawn * 8 // n, minlength=8), n_keys / 8) > LEAST_P
    # Correlations between positions: standard deviation 1 / sqrt(160).
    correlations = np.corrcoef(rows.T)[np.triu_indices(len(picked), 1)]
    assert np.abs(correlations).max() * math.sqrt(n_keys) < 4.5


def test_every_order_of_four_rows_is_as_likely_on_the_cipher():
    """The cipher itself on a square of two by two; 24 orders, of which it can reach all."""
    draw = jax.jit(jax.vmap(lambda key: _orders._feistel_order(key, 4)))
    drawn = np.asarray(draw(jax.random.split(KEY, 24_000)))
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert counts.size == 24
    # Every round of so small a square swaps with probability 1/2; what the rounds leave of bias is below the noise.
    assert p_of_counts(counts, 1000) > LEAST_P


@pytest.mark.parametrize("n_rows", [12, 70_000])
def test_every_row_is_as_likely_in_every_batch(n_rows):
    """``epoch_batches`` on both sides of 2^16; the last batch is the smaller one."""
    batch_size = 5 if n_rows == 12 else 20_000
    n_epochs = 4000 if n_rows == 12 else 40

    @jax.jit
    def batch_of_rows(keys):
        def one(key):
            index, where = sampling.epoch_batches(key, n_rows, batch_size=batch_size)
            number = jnp.broadcast_to(jnp.arange(index.shape[0], dtype=jnp.int32)[:, None], index.shape)
            # Padding is dropped: it is written outside.
            return jnp.zeros(n_rows, jnp.int32).at[jnp.where(where, index, n_rows)].set(number, mode="drop")

        return jax.lax.map(one, keys)

    batches = np.asarray(batch_of_rows(jax.random.split(KEY, n_epochs)))
    sizes = np.bincount(np.arange(n_rows) // batch_size)
    for number, size in enumerate(sizes):
        inside = np.sum(batches == number, axis=0)
        share = size / n_rows
        z = (inside - n_epochs * share) / math.sqrt(n_epochs * share * (1 - share))
        # Over rows the variance of z is 1; its mean square over n rows has a standard deviation near sqrt(2 / n).
        assert abs(np.mean(z**2) - 1) < 6 * math.sqrt(2 / n_rows)
        assert np.abs(z).max() < 5.5
    # Rows 0 and 1 share a batch as often as any two.
    together = np.mean(batches[:, 0] == batches[:, 1])
    chance = sum(size * (size - 1) for size in sizes) / (n_rows * (n_rows - 1))
    assert abs(together - chance) < 4.5 * math.sqrt(chance * (1 - chance) / n_epochs)


# Draws below n


@pytest.mark.parametrize("n", [1, 2, 7, 1000, 2**16 - 1, 2**16])
def test_scale_is_the_product_of_long_integers(rng, n):
    edges = [0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 2, 2**32 - 1]
    bits = np.concatenate([edges, rng.integers(0, 2**32, 2000)])
    # The least word that gives a value, and the greatest that gives the one before.
    first = ((np.arange(1, n, max(1, n // 50)) << 32) + n - 1) // n
    bits = np.concatenate([bits, first, first - 1]).astype(np.uint64)
    scaled = jax.jit(lambda bits: _bits.scale(bits, n))(jnp.asarray(bits.astype(np.uint32)))
    np.testing.assert_array_equal(scaled, (bits * n) >> 32)


@pytest.mark.parametrize(
    ("n_users", "n_items"), [(1, 3), (7, 10), (2**16 - 1, 2**16), (2**16 + 1, 3 * 2**16)]
)
def test_uniform_pairs_have_uniform_and_independent_sides(n_users, n_items):
    n = 200_000
    draw = jax.jit(lambda key: sampling.uniform_pairs(key, (n,), n_users=n_users, n_items=n_items))
    sides = []
    for ids, size in zip(draw(KEY), (n_users, n_items), strict=True):
        ids = np.asarray(ids)
        assert ids.dtype == np.int32 and ids.min() >= 0 and ids.max() < size
        bins = min(size, 64)
        values = np.bincount(np.arange(size) * bins // size)
        side = ids.astype(np.int64) * bins // size
        sides.append(side)
        if bins > 1:
            assert p_of_counts(np.bincount(side, minlength=bins), n * values / size) > LEAST_P
            # Low bits, too: the ids within a bin.
            odd = np.sum(ids % 2)
            share = (size // 2) / size
            assert abs(odd - n * share) < 4.5 * math.sqrt(n * share * (1 - share))
    if len(np.unique(sides[0])) > 1:
        assert scipy.stats.chi2_contingency(np.histogram2d(*sides, bins=7)[0]).pvalue > LEAST_P


def test_sides_of_more_than_two_to_the_sixteen_are_jax_draws():
    n = 2**16 + 1
    users, items = sampling.uniform_pairs(KEY, (500,), n_users=n, n_items=9)
    user_key, item_key = jax.random.split(KEY)
    np.testing.assert_array_equal(users, jax.random.randint(user_key, (500,), 0, n, dtype=jnp.int32))
    bits = np.asarray(jax.random.bits(item_key, (500,), jnp.uint32)).astype(np.uint64)
    np.testing.assert_array_equal(items, (bits * 9) >> 32)


def test_hash_bits_keeps_numbers_apart_and_flips_half_of_the_bits():
    numbers = np.arange(2**16, dtype=np.uint32)
    hashed = np.asarray(sampling.hash_bits(jnp.asarray(numbers)))
    assert hashed.dtype == np.uint32 and len(np.unique(hashed)) == numbers.size
    for bit in range(32):
        changed = hashed ^ np.asarray(sampling.hash_bits(jnp.asarray(numbers ^ np.uint32(1 << bit))))
        share = np.unpackbits(changed.view(np.uint8)).mean()
        # 2^21 bits of which each flips with probability 1/2: sd 3.5e-4, if they were independent.
        assert abs(share - 0.5) < 0.01


@pytest.mark.parametrize(
    "draw",
    [
        lambda key: sampling.epoch_batches(key, 2**31 - 8, batch_size=1000),
        lambda key: sampling.stratified_batches(key, (2**30, 2**30), batch_size=1000),
    ],
)
def test_more_rows_than_int32_counts_are_refused(draw):
    with pytest.raises(ValueError, match=r"2,147,48\d,\d{3} places, and int32 counts to 2\^31 - 1"):
        jax.eval_shape(draw, jax.random.key(0))
