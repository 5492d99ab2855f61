import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import sampling
from debias_jax.errors import DataError
from debias_jax.sampling import pairs as _pairs

KEY = jax.random.key(0)


# epoch_batches


@pytest.mark.parametrize(("n_rows", "batch_size", "steps"), [(1, 1, 1), (7, 3, 3), (6, 3, 2), (2, 9, 1)])
def test_every_row_once_and_padding_in_range(n_rows, batch_size, steps):
    index, where = sampling.epoch_batches(KEY, n_rows, batch_size=batch_size)
    assert index.shape == where.shape == (steps, batch_size)
    assert index.dtype == jnp.int32 and where.dtype == jnp.bool_
    assert sorted(np.asarray(index)[np.asarray(where)].tolist()) == list(range(n_rows))
    assert int(index.min()) >= 0 and int(index.max()) < n_rows
    # Padding stands at the end of the last batch and nowhere else.
    np.testing.assert_array_equal(np.asarray(where).ravel(), np.arange(steps * batch_size) < n_rows)


def test_epochs_differ_by_key_and_every_order_of_three_rows_occurs():
    @jax.jit
    @jax.vmap
    def order_of_epoch(epoch):
        return sampling.epoch_batches(jax.random.fold_in(KEY, epoch), 3, batch_size=3)[0][0]

    orders = order_of_epoch(jnp.arange(300))
    counts = {order: 0 for order in itertools.permutations(range(3))}
    for order in orders.tolist():
        counts[tuple(order)] += 1
    # 300 draws of 6 equally likely orders: 50 each, standard deviation 6.5; 4 of them, confidence 99.96 %.
    assert max(abs(count - 50) for count in counts.values()) < 26


@pytest.mark.parametrize(("n_rows", "batch_size"), [(0, 4), (4, 0)])
def test_empty_epochs_are_refused(n_rows, batch_size):
    with pytest.raises(ValueError, match="must be an integer of at least 1, got 0"):
        sampling.epoch_batches(KEY, n_rows, batch_size=batch_size)


# uniform_items, uniform_pairs


def test_uniform_items_cover_the_catalogue_evenly():
    counts = np.bincount(sampling.uniform_items(KEY, (30, 1000), n_items=10).ravel(), minlength=10)
    # Binomial(30000, 0.1): standard deviation 52; 4 of them, confidence 99.9 % for ten counts.
    assert counts.size == 10 and np.abs(counts - 3000).max() < 208


def test_uniform_pairs_beyond_int32_pair_indices():
    """70000 x 40000 pairs do not fit an int32 index; both coordinates must be uniform and independent."""
    users, items = sampling.uniform_pairs(KEY, (20000,), n_users=70000, n_items=40000)
    u, i = np.asarray(users) / 70000, np.asarray(items) / 40000
    assert u.min() >= 0 and u.max() < 1 and i.min() >= 0 and i.max() < 1
    # Standard errors with 20000 draws: 0.0020 of a mean, 0.0071 of the correlation. 4 of each: 99.98 %.
    assert abs(u.mean() - 0.5) < 0.0082 and abs(i.mean() - 0.5) < 0.0082
    assert abs(np.corrcoef(u, i)[0, 1]) < 0.0284


# alias tables


@pytest.mark.parametrize(
    "weights",
    [
        [1.0],
        [2.0, 2.0, 2.0],
        [1.0, 3.0],
        [0.0, 1.0, 0.0, 5.0, 0.25],
        [1e-300, 1.0],
        [1e300, 1e300, 2e300],
        (np.arange(1, 400) ** -1.5).tolist(),
    ],
)
def test_the_table_stands_for_exactly_these_probabilities(weights):
    table = sampling.alias_table(weights)
    threshold, alias = np.asarray(table.threshold, np.float64), np.asarray(table.alias)
    weights = np.asarray(weights)
    probability = threshold.copy()
    np.add.at(probability, alias, 1.0 - threshold)
    relative = weights / weights.max()
    # float32 thresholds, each off by 6e-8 at most; a donor may collect one such error from every column.
    np.testing.assert_allclose(probability / weights.size, relative / relative.sum(), atol=1.2e-7)
    assert threshold.min() >= 0 and threshold.max() <= 1
    never = weights == 0
    assert (threshold[never] == 0).all() and not np.isin(alias, np.flatnonzero(never)).any()


def test_popularity_items_follow_the_table():
    weights = np.array([5.0, 0.0, 1.0, 3.0, 1.0])
    draws = sampling.popularity_items(KEY, (40000,), table=sampling.alias_table(weights))
    counts = np.bincount(draws, minlength=5)
    expected = 40000 * weights / weights.sum()
    # 4 standard deviations of each binomial count, confidence 99.97 % for five.
    assert (np.abs(counts - expected) <= 4 * np.sqrt(expected * (1 - expected / 40000))).all()
    assert counts[1] == 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], r"vector that is not empty, got shape \(0,\)"),
        ([[1.0]], r"vector that is not empty, got shape \(1, 1\)"),
        ([1.0, -2.0], r"weights\[1\] = -2.0; every weight must be finite and not negative"),
        ([np.nan, 1.0], r"weights\[0\] = nan"),
        ([0.0, 0.0], "all 2 weights are 0"),
    ],
)
def test_bad_weights_are_refused(weights, message):
    with pytest.raises(DataError, match=message):
        sampling.alias_table(weights)


# pair sets


def _random_pairs(rng, n_users, n_items, n):
    return rng.integers(0, n_users, n), rng.integers(0, n_items, n)


@pytest.mark.parametrize(("n_users", "n_items", "n"), [(1, 1, 1), (4, 6, 0), (30, 20, 300)])
def test_contains_agrees_with_a_python_set_on_every_pair(rng, n_users, n_items, n):
    users, items = _random_pairs(rng, n_users, n_items, n)
    pairs = sampling.pair_set(users, items, n_users=n_users)
    known = set(zip(users.tolist(), items.tolist(), strict=True))
    assert pairs.items.shape[0] == len(known)
    every_user, every_item = (a.ravel() for a in np.indices((n_users, n_items)))
    found = jax.jit(sampling.contains)(pairs, every_user, every_item)
    assert set(zip(every_user[found].tolist(), every_item[found].tolist(), strict=True)) == known
    mapped = jax.jit(jax.vmap(sampling.contains, (None, 0, 0)))(pairs, every_user, every_item)
    np.testing.assert_array_equal(found, mapped)


@pytest.mark.parametrize(("n_users", "n_items", "n"), [(1, 1, 1), (4, 6, 0), (30, 20, 300)])
def test_find_agrees_with_a_python_dict_on_every_pair(rng, n_users, n_items, n):
    """It gives the place in the order by user, then item; with the labels in that order it is a sparse matrix."""
    users, items = _random_pairs(rng, n_users, n_items, n)
    pairs = sampling.pair_set(users, items, n_users=n_users)
    distinct = sorted(set(zip(users.tolist(), items.tolist(), strict=True)))
    place = {pair: at for at, pair in enumerate(distinct)}
    every_user, every_item = np.arange(n_users)[:, None], np.arange(n_items)[None, :]
    found = jax.jit(sampling.find)(pairs, every_user, every_item)
    assert found.dtype == jnp.int32
    expected = [[place.get((user, item), -1) for item in range(n_items)] for user in range(n_users)]
    np.testing.assert_array_equal(found, expected)


def test_contains_at_a_size_where_pair_indices_overflow():
    users, items = np.array([69999, 69999, 0, 53687]), np.array([39999, 5, 7, 3647])
    pairs = sampling.pair_set(users, items, n_users=70000)
    assert sampling.contains(pairs, jnp.asarray(users), jnp.asarray(items)).all()
    # 53687 * 40000 + 3648 is 2^31: as an int32 index it would be negative.
    assert not sampling.contains(pairs, jnp.array([53687, 69999, 1]), jnp.array([3648, 6, 7])).any()


def test_contains_broadcasts_axes_of_size_one_only():
    pairs = sampling.pair_set([0, 1], [2, 3], n_users=2)
    users = jnp.array([[0], [1]])
    np.testing.assert_array_equal(
        sampling.contains(pairs, users, jnp.array([[2, 3], [2, 3]])), [[True, False], [False, True]]
    )
    assert sampling.contains(pairs, 1, jnp.array([2, 3])).tolist() == [False, True]
    with pytest.raises(ValueError, match=r"users \(2,\) and items \(2, 1\) must be of one rank"):
        sampling.contains(pairs, jnp.zeros(2, jnp.int32), jnp.zeros((2, 1), jnp.int32))
    with pytest.raises(TypeError, match="items must be of an integer dtype"):
        sampling.contains(pairs, jnp.zeros(2, jnp.int32), jnp.zeros(2))


def test_pair_set_sorts_and_drops_repeats():
    pairs = sampling.pair_set(np.array([2, 0, 2, 2, 2]), np.array([9, 4, 1, 9, 5]), n_users=4)
    assert pairs.indptr.tolist() == [0, 1, 1, 4, 4]
    assert pairs.items.tolist() == [4, 1, 5, 9]
    assert pairs.indptr.dtype == pairs.items.dtype == jnp.int32


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        ([0, 1], [0], "one length, got 2 and 1"),
        ([0.0], [0], "users must be an integer vector, got float64"),
        ([[0]], [0], r"users must be an integer vector, got int64 of shape \(1, 1\)"),
        ([0, 3], [0, 0], r"users\[1\] = 3 is outside \[0, 3\)"),
        ([0], [-1], r"items\[0\] = -1 is outside"),
        ([0], [2**31], r"items\[0\] = 2147483648 is outside \[0, 2147483648\)"),
    ],
)
def test_bad_pairs_are_refused(users, items, message):
    with pytest.raises(DataError, match=message):
        sampling.pair_set(users, items, n_users=3)


# uniform_unseen_items


@pytest.mark.parametrize(("n_users", "n_items", "n"), [(4, 6, 0), (12, 9, 70)])
def test_ranks_enumerate_exactly_the_unseen_items(rng, n_users, n_items, n):
    """A uniform rank gives a uniform unseen item if ranks map one to one onto them: here all, in order."""
    users, items = _random_pairs(rng, n_users, n_items, n)
    pairs = sampling.pair_set(users, items, n_users=n_users)
    every_user, every_rank = (a.ravel() for a in np.indices((n_users, n_items)))
    drawn = jax.jit(_pairs._unseen_item)(pairs, every_user, every_rank).reshape(n_users, n_items)
    for user in range(n_users):
        unseen = sorted(set(range(n_items)) - set(items[users == user].tolist()))
        assert drawn[user, : len(unseen)].tolist() == unseen


def test_drawn_items_are_unseen_and_every_unseen_item_is_drawn():
    pairs = sampling.pair_set([0, 0, 1, 2, 2, 2, 2], [0, 3, 2, 0, 1, 2, 3], n_users=4)
    users = jnp.tile(jnp.arange(4), 500)
    draw = jax.jit(functools.partial(sampling.uniform_unseen_items, n_items=4))
    items, where = (np.asarray(a) for a in draw(KEY, users, pairs))
    users = np.asarray(users)
    np.testing.assert_array_equal(where, users != 2)
    drawn = {user: np.unique(items[users == user]).tolist() for user in (0, 1, 3)}
    assert drawn == {0: [1, 2], 1: [0, 1, 3], 3: [0, 1, 2, 3]}
    assert int(items.min()) >= 0 and int(items.max()) < 4
    assert not (jax.jit(sampling.contains)(pairs, users, items) & where).any()
    # User 0 has two unseen items: Binomial(500, 1/2) has standard deviation 11.2; 4 of them.
    assert abs(int((items[users == 0] == 1).sum()) - 250) < 45


def test_unseen_items_keep_the_shape_of_the_users():
    pairs = sampling.pair_set([0], [1], n_users=2)
    items, where = sampling.uniform_unseen_items(KEY, jnp.zeros((3, 2), jnp.int32), pairs, n_items=2)
    assert items.tolist() == [[0, 0]] * 3 and where.all()
    with pytest.raises(TypeError, match="users must be of an integer dtype"):
        sampling.uniform_unseen_items(KEY, jnp.zeros(2), pairs, n_items=2)
    with pytest.raises(ValueError, match="n_items must be an integer of at least 1, got 0"):
        sampling.uniform_unseen_items(KEY, jnp.zeros(2, jnp.int32), pairs, n_items=0)


def test_in_batch_resample_follows_its_weights_and_never_draws_an_excluded_column(rng):
    # 20,000 draws of ten columns; a standard error is at most .0035.
    logits = np.log(np.arange(1.0, 11.0))
    drawn = sampling.in_batch_resample(KEY, jnp.asarray(logits, jnp.float32), n=20_000)
    shares = np.bincount(drawn, minlength=10) / 20_000
    np.testing.assert_allclose(shares, np.arange(1, 11) / 55, atol=4.5 * 0.0035)
    # Many columns, a tenth of them excluded: sums that are added in parallel need not rise there.
    logits = rng.normal(0.0, 3.0, (16, 8192)).astype(np.float32)
    excluded = rng.random(logits.shape) < 0.1
    excluded[0, :100], excluded[1, -100:] = True, True
    logits[excluded] = -np.inf
    drawn = jax.jit(functools.partial(sampling.in_batch_resample, n=100_000))(KEY, jnp.asarray(logits))
    assert not np.take_along_axis(excluded, np.asarray(drawn), axis=1).any()


def test_a_row_that_excludes_all_gives_the_first_column():
    logits = jnp.full((2, 5), -jnp.inf).at[1, 3].set(100.0)
    assert sampling.in_batch_resample(KEY, logits, n=2).tolist() == [[0, 0], [3, 3]]


def test_frequencies_need_a_table_and_a_positive_start():
    for sizes, interval in (([], 1.0), ([3], 0.0)):
        with pytest.raises(ValueError, match="must be a table and the interval must be positive"):
            sampling.init_frequency(sizes, initial_interval=interval)


def test_in_batch_counts_follow_their_weights_as_independent_draws_do(rng):
    """Mean and variance of the counts are those of n independent draws; an excluded column has none."""
    logits = rng.normal(0.0, 1.5, (3, 70)).astype(np.float32)
    logits[:, [4, 69]] = -np.inf
    n, n_keys = 50, 4000
    law = np.exp(logits.astype(np.float64))
    law /= law.sum(axis=1, keepdims=True)
    draw = jax.jit(jax.vmap(lambda key: sampling.in_batch_counts(key, jnp.asarray(logits), n=n)))
    counts = np.asarray(draw(jax.random.split(KEY, n_keys)), np.float64)
    assert (counts.sum(axis=-1) == n).all() and (counts >= 0).all() and (counts == counts.round()).all()
    assert not counts[..., [4, 69]].any()
    expected = n * law * (1 - law)
    with np.errstate(invalid="ignore"):
        z = (counts.mean(axis=0) - n * law) / np.sqrt(expected / n_keys)
    assert np.nanmax(np.abs(z)) < 4.5  # 204 statistics, confidence 99.86 %
    # The variance of a sample variance is about (2 + excess kurtosis) / n_keys, at most 1 / expected + 2.
    spread = counts.var(axis=0) / np.where(expected > 0, expected, 1.0)
    allowed = 4.5 * np.sqrt((2 + 1 / np.maximum(expected, 1e-9)) / n_keys)
    assert (np.abs(spread - 1) < allowed)[expected > 0].all()


def test_in_batch_counts_of_rows_do_not_follow_each_other():
    """Two rows of one law: their counts of a column correlate no more than independent ones do."""
    n_keys = 3000
    draw = jax.jit(jax.vmap(lambda key: sampling.in_batch_counts(key, jnp.zeros((2, 40)), n=30)))
    counts = np.asarray(draw(jax.random.split(KEY, n_keys)), np.float64)
    own = np.array([np.corrcoef(counts[:, 0, j], counts[:, 1, j])[0, 1] for j in range(40)])
    assert np.abs(own).max() * math.sqrt(n_keys) < 4.5


def test_in_batch_counts_are_float32_with_float64_at_hand(x64):
    counts = sampling.in_batch_counts(KEY, jnp.zeros((2, 40), jnp.float64), n=30)
    assert counts.dtype == jnp.float32


def test_in_batch_counts_of_what_is_no_distribution_are_nan():
    logits = jnp.array([[0.0, jnp.nan, 1.0], [0.0, jnp.inf, 1.0], [0.0, 0.0, 0.0]])
    counts = np.asarray(sampling.in_batch_counts(KEY, logits, n=7))
    assert np.isnan(counts[:2]).all() and counts[2].sum() == 7


def test_in_batch_counts_of_tied_columns_and_of_many_draws_add_up():
    """The total of 12,291 equal shares, each rounded, is farther from 2^23 than a product with its inverse is exact."""
    tied = sampling.in_batch_counts(KEY, jnp.zeros((256, 12_291)), n=2**15)
    assert (np.asarray(tied).sum(axis=1) == 2**15).all()
    many = np.asarray(sampling.in_batch_counts(KEY, jnp.array([[0.0, -jnp.inf, 1.0]]), n=2**16 + 5))
    assert many.sum() == 2**16 + 5 and many[0, 1] == 0
    share = 1 / (1 + math.e)
    assert abs(many[0, 0] - share * many.sum()) < 5 * math.sqrt(share * (1 - share) * many.sum())


def test_in_batch_counts_of_parts_are_those_of_the_whole(rng):
    logits = jnp.asarray(rng.normal(size=(6, 40)), jnp.float32)
    whole = sampling.in_batch_counts(KEY, logits, n=30)
    part = sampling.in_batch_counts(KEY, logits[2:5], n=30, rows=jnp.arange(2, 5))
    np.testing.assert_array_equal(part, whole[2:5])


@pytest.mark.parametrize(("n_columns", "n"), [(1, 1), (31, 7), (32, 100), (33, 2**15), (5000, 3)])
def test_in_batch_counts_add_up_for_all_sizes(rng, n_columns, n):
    logits = rng.normal(0.0, 20.0, (4, n_columns)).astype(np.float32)
    logits[3] = -np.inf
    counts = np.asarray(sampling.in_batch_counts(KEY, jnp.asarray(logits), n=n))
    assert counts.shape == logits.shape and (counts >= 0).all() and (counts.sum(axis=1) == n).all()
    assert counts[3, 0] == n


def test_in_batch_counts_refuse_misuse():
    with pytest.raises(TypeError, match="logits must be of a floating dtype, got int32"):
        sampling.in_batch_counts(KEY, jnp.zeros((2, 3), jnp.int32), n=1)
    with pytest.raises(ValueError, match=r"logits must be of shape \(b, C\), got \(3,\)"):
        sampling.in_batch_counts(KEY, jnp.zeros(3), n=1)
    with pytest.raises(ValueError, match="n must be an integer of at least 1, got 0"):
        sampling.in_batch_counts(KEY, jnp.zeros((2, 3)), n=0)
    with pytest.raises(TypeError, match="rows must be of an integer dtype, got float32"):
        sampling.in_batch_counts(KEY, jnp.zeros((2, 3)), n=1, rows=jnp.zeros(2))
    with pytest.raises(ValueError, match=r"rows must be of shape \(2,\), got \(3,\)"):
        sampling.in_batch_counts(KEY, jnp.zeros((2, 3)), n=1, rows=jnp.arange(3))
