"""The frames of the doubly robust methods: what an epoch holds, what its weights stand for, how it is drawn."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.methods import cvr_batches as module
from debias_jax.methods.cvr_batches import FRAMES, cvr_batches

N_USERS, N_ITEMS = 7, 5
BATCH_SIZE, RATIO = 4, 3
OBSERVED_FRAMES = ("pairs", "block", "tiles")
MANY = 4000
"""Independent epochs of the statistical tests."""
SIGMAS = 4.5
"""Confidence 99.97 % for fifty normal statistics."""


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Tiles of the size of these matrices."""
    monkeypatch.setattr(module, "TILE_SIDE", 2)


def make_data(n_users, n_items, pairs, *, propensities=None):
    """Rows of those pair indices ``u * n_items + i``, every third one labelled 1."""
    users, items = np.divmod(np.asarray(pairs), n_items)
    rows = Interactions(
        users, items, (np.arange(len(pairs)) % 3 == 0), n_users, n_items, propensities=propensities
    )
    ids = Vocabulary.range(n_users), Vocabulary.range(n_items)
    return training.train_data(Dataset("small", rows, None, None, *ids))


@functools.cache
def small_data():
    """18 of 35 pairs: five batches of 4, of which the last holds 2."""
    pairs = np.random.default_rng(0).permutation(N_USERS * N_ITEMS)[:18]
    return make_data(N_USERS, N_ITEMS, pairs, propensities=np.linspace(0.1, 0.9, 18))


@functools.cache
def compiled(frame, **options):
    return jax.jit(cvr_batches(frame, **{"batch_size": BATCH_SIZE, "ratio": RATIO, **options}))


def draw(frame, log, key=0, **options):
    return jax.tree.map(np.asarray, compiled(frame, **options)(log, jax.random.key(key)))


def draw_many(frame, log, pick):
    """``pick(batches)`` of many independent epochs."""
    batches = cvr_batches(frame, batch_size=BATCH_SIZE, ratio=RATIO)
    epochs = jax.jit(jax.vmap(lambda key: pick(batches(log, key))))
    return jax.tree.map(np.asarray, epochs(jax.random.split(jax.random.key(1), MANY)))


def dense(log):
    """Labels of the whole matrix, NaN where not observed."""
    matrix = np.full(log.matrix_size, np.nan, np.float32)
    matrix[np.asarray(log.users), np.asarray(log.items)] = log.labels
    return matrix


# What an epoch holds


@pytest.mark.parametrize("frame", FRAMES)
def test_shapes_and_dtypes(frame):
    batch = draw(frame, small_data())
    rows = (5, 12 if frame == "uniform" else 4)
    for leaf in (batch.rows.users, batch.rows.items):
        assert (leaf.shape, leaf.dtype) == (rows, np.int32)
    for leaf in (batch.rows.labels, batch.rows.weights):
        assert (leaf.shape, leaf.dtype) == (rows, np.float32)
    for leaf in (batch.rows.where, batch.observed):
        assert (leaf.shape, leaf.dtype) == (rows, np.bool_)
    if frame == "uniform":
        assert batch.population is None
        return
    users, items, observed, labels = batch.population
    assert observed is None and labels is None
    assert (users.dtype, items.dtype) == (np.int32, np.int32)
    if frame == "pairs":
        assert users.shape == items.shape == (5, 12)
    elif frame == "tiles":
        # 35 pairs in tiles of 12: two, of 3 users and 2 items.
        assert (users.shape, items.shape) == ((5, 2, 3, 1), (5, 2, 1, 2))
    else:
        assert (users.shape, items.shape) == ((5, 3, 1), (5, 1, 4))
    assert users.min() >= 0 and users.max() < N_USERS and items.min() >= 0 and items.max() < N_ITEMS


@pytest.mark.parametrize("frame", OBSERVED_FRAMES)
def test_every_observed_row_once_an_epoch(frame):
    log = small_data()
    batch = draw(frame, log)
    np.testing.assert_array_equal(batch.observed, batch.rows.where)
    seen = [
        leaf[batch.rows.where]
        for leaf in (batch.rows.users, batch.rows.items, batch.rows.labels, batch.rows.propensities)
    ]
    given = [np.asarray(leaf) for leaf in (log.users, log.items, log.labels, log.propensities)]
    assert sorted(zip(*seen, strict=True)) == sorted(zip(*given, strict=True))
    without = jax.eval_shape(compiled(frame), log._replace(propensities=None), jax.random.key(0))
    assert without.rows.propensities is None


def test_rows_of_the_uniform_frame_know_what_was_observed():
    log = small_data()
    matrix = dense(log)
    batch = draw("uniform", log, batch_size=64, ratio=4)
    labels = matrix[batch.rows.users, batch.rows.items]
    np.testing.assert_array_equal(batch.observed, ~np.isnan(labels))
    np.testing.assert_array_equal(batch.rows.labels, np.nan_to_num(labels))
    assert 0 < batch.observed.mean() < 1
    assert batch.rows.where.all() and (batch.rows.weights == 1).all()
    rows = (batch.rows.users, batch.rows.items, batch.observed, batch.rows.labels)
    assert all(ours is theirs for ours, theirs in zip(batch.sample, rows, strict=True))


@pytest.mark.parametrize("frame", OBSERVED_FRAMES)
def test_population_that_knows_what_was_observed(frame):
    log = small_data()
    plain, batch = draw(frame, log), draw(frame, log, with_observed=True)
    assert batch.sample is batch.population
    np.testing.assert_array_equal(batch.population.users, plain.population.users)
    np.testing.assert_array_equal(batch.population.items, plain.population.items)
    labels = dense(log)[batch.population.users, batch.population.items]
    np.testing.assert_array_equal(batch.population.observed, ~np.isnan(labels))
    np.testing.assert_array_equal(batch.population.labels, np.nan_to_num(labels))


# Weights


@pytest.mark.parametrize("frame", OBSERVED_FRAMES)
@pytest.mark.parametrize(("weighting", "expected"), [("population", 12 * 18 / 35), ("batch", 4)])
def test_rows_of_every_step_weigh_the_same_also_of_the_padded_one(frame, weighting, expected):
    """``population``: n / N of the m = 12 drawn pairs are observed; ``batch``: as many as rows in a full batch."""
    batch = draw(frame, small_data(), weighting=weighting)
    where = batch.rows.where
    np.testing.assert_allclose(np.sum(batch.rows.weights * where, axis=1), expected, rtol=1e-6)
    for weights, held in zip(batch.rows.weights, where, strict=True):
        np.testing.assert_allclose(weights[held], expected / held.sum(), rtol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_sums_of_every_step_estimate_the_matrix(frame):
    """E sum_rows w o f / m = sum_observed f / N, and the mean of f over the sample is that over all pairs."""
    log = small_data()
    values = np.random.default_rng(2).normal(size=(N_USERS, N_ITEMS)).astype(np.float32)
    table = jnp.asarray(values)

    def estimates(batch):
        rows = batch.rows
        sampled = table[batch.sample.users, batch.sample.items].reshape(5, -1)
        counted = jnp.where(batch.observed_rows, rows.weights * table[rows.users, rows.items], 0.0)
        return jnp.sum(counted, axis=1) / sampled.shape[1], jnp.mean(sampled, axis=1)

    observed, everyone = draw_many(frame, log, estimates)
    truths = np.sum(values[~np.isnan(dense(log))]) / values.size, np.mean(values)
    for drawn, truth in zip((observed, everyone), truths, strict=True):
        # One z a step, the padded last one among them.
        z = (drawn.mean(axis=0) - truth) / (drawn.std(axis=0) / math.sqrt(MANY))
        assert np.abs(z).max() < SIGMAS


# How blocks are drawn


def test_every_pair_is_as_likely_in_every_block():
    """Windows of 3 of 7 users and 4 of 5 items: an order of users lasts two steps, one of items one."""
    users, items = draw_many("block", small_data(), lambda b: (b.population.users, b.population.items))
    counts = np.zeros((5, N_USERS, N_ITEMS))
    np.add.at(counts, (np.arange(5)[:, None, None], users, items), 1)
    share = 12 / 35
    # Whether a pair is in a step's block is a coin of its own in every epoch.
    z = (counts - MANY * share) / math.sqrt(MANY * share * (1 - share))
    assert np.abs(z).max() < 5.0  # 175 statistics, confidence 99.99 %
    # Users 0 and 1 meet in a block as often as any two do.
    together = (users == 0).any((2, 3)) & (users == 1).any((2, 3))
    chance = 3 / 7 * 2 / 6
    z = (together.sum(axis=0) - MANY * chance) / math.sqrt(MANY * chance * (1 - chance))
    assert np.abs(z).max() < SIGMAS


def test_every_pair_is_as_likely_in_every_tile():
    """Two tiles of 3 of 7 users and 2 of 5 items."""
    users, items = draw_many("tiles", small_data(), lambda b: (b.population.users, b.population.items))
    counts = np.zeros((5, 2, N_USERS, N_ITEMS))
    np.add.at(counts, (np.arange(5)[:, None, None, None], np.arange(2)[:, None, None], users, items), 1)
    share = 6 / 35
    z = (counts - MANY * share) / math.sqrt(MANY * share * (1 - share))
    assert np.abs(z).max() < 5.0  # 350 statistics, confidence 99.98 %
    # No user and no item is in both tiles of a step.
    for ids in (users[..., 0], items[:, :, :, 0, :]):
        assert (np.diff(np.sort(ids.reshape(MANY, 5, -1), axis=-1)) > 0).all()


@pytest.mark.parametrize(
    ("size", "n_users", "n_items"),
    [
        (20_480, 1_411, 3_327),
        (20_480, 100_000, 5_000_000),
        (20_480, 200, 1_000),
        (20_480, 15_400, 1_000),
        (640, 290, 300),
        (20_480, 3, 100_000),
        (100, 3, 2),
    ],
)
def test_size_of_tiles(monkeypatch, size, n_users, n_items):
    """They fit the matrix, hold about the pairs that are asked for, and are many only if none is small for it."""
    monkeypatch.undo()
    n_tiles, n_tile_users, n_tile_items = module.tiles_shape(size, n_users=n_users, n_items=n_items)
    assert n_tiles * n_tile_users <= n_users and n_tiles * n_tile_items <= n_items
    asked = min(size, n_users * n_items)
    assert 0.85 * asked <= n_tiles * n_tile_users * n_tile_items <= asked
    assert n_tiles == 1 or size // n_tiles >= module.TILE_SIDE**2
    # One more tile would be too small, or there is no user or item left for it.
    whole = n_users * n_items < (n_tiles + 1) * size or n_tiles == min(n_users, n_items)
    assert whole or size // (n_tiles + 1) < module.TILE_SIDE**2


def test_users_and_items_of_a_block_are_distinct_and_an_order_is_used_up():
    log = make_data(40, 30, np.arange(0, 1200, 2))
    batch = draw("block", log, batch_size=20, ratio=5)
    users, items = batch.population.users[:, :, 0], batch.population.items[:, 0, :]
    assert users.shape == (30, 10) and items.shape == (30, 10)
    for ids, per_order in ((users, 4), (items, 3)):
        assert all(np.unique(window).size == window.size for window in ids)
        orders = [ids[start : start + per_order].ravel() for start in range(0, 30 - per_order, per_order)]
        assert all(np.unique(order).size == order.size for order in orders)
        assert any((one != other).any() for one, other in zip(orders, orders[1:], strict=False))


@pytest.mark.parametrize(
    ("size", "n_users", "n_items", "expected"),
    [
        (100, 40, 30, (10, 10)),
        (90, 40, 30, (9, 10)),
        (7, 40, 30, (2, 3)),
        (1, 40, 30, (1, 1)),
        (100, 4, 30, (4, 25)),
        (100, 40, 5, (20, 5)),
        (100, 60, 3, (33, 3)),
        (35, 7, 5, (7, 5)),
        (36, 7, 5, (7, 5)),
        (1000, 7, 5, (7, 5)),
        (200, 4, 30, (4, 30)),
    ],
)
def test_size_of_a_block(size, n_users, n_items, expected):
    """As square as the matrix allows and at most the size asked for, short of it by less than a row of items."""
    log = make_data(n_users, n_items, [0, n_items, n_users * n_items - 1])
    batches = cvr_batches("block", batch_size=1, ratio=size)
    population = jax.eval_shape(batches, log, jax.random.key(0)).population
    (_, n_block_users, _), (_, _, n_block_items) = population.users.shape, population.items.shape
    assert (n_block_users, n_block_items) == expected
    asked = min(size, n_users * n_items)
    assert asked - n_block_users < n_block_users * n_block_items <= asked


def test_block_of_a_matrix_that_is_smaller_is_the_matrix():
    batch = draw("block", small_data(), ratio=100)
    users, items = np.broadcast_arrays(batch.population.users, batch.population.items)
    for step in range(5):
        np.testing.assert_array_equal(
            np.sort((users[step] * N_ITEMS + items[step]).ravel()), np.arange(N_USERS * N_ITEMS)
        )
    # Its size is what the weights count with: all 35 pairs, 18 of them observed.
    np.testing.assert_allclose(np.sum(batch.rows.weights * batch.rows.where, axis=1), 18, rtol=1e-6)


@pytest.mark.parametrize("frame", FRAMES)
def test_epochs_are_functions_of_the_key(frame):
    log = small_data()
    one, again, other = draw(frame, log, 0), draw(frame, log, 0), draw(frame, log, 1)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert (one.rows.users != other.rows.users).any()
    assert (one.sample.users != other.sample.users).any()


def test_pairs_beyond_int32_weigh_what_they_should():
    """50,000 x 50,000 pairs are more than 2^31."""
    log = make_data(50_000, 50_000, [3, 2**31 + 7, 2_499_999_999])
    batch = draw("block", log, batch_size=3, ratio=300)
    np.testing.assert_allclose(batch.rows.weights, 900 * 3 / 2.5e9 / 3, rtol=1e-6)
    assert batch.population.users.shape == (1, 30, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame": "grid"}, "unknown frame 'grid'; there are pairs, block, tiles, uniform"),
        ({"weighting": "none"}, "unknown weighting 'none'; there are population, batch"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"ratio": 0}, "must be a whole number.*got 0"),
        ({"ratio": 1.5}, "ratio counts pairs .* so it must be a whole number of at least 1, got 1.5"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cvr_batches(**{"frame": "pairs", "batch_size": BATCH_SIZE, "ratio": RATIO, **options})
