"""Labels of distinct pairs, in the order in which the set of observed pairs is searched."""

import jax.numpy as jnp
import numpy as np

from debias_jax import sampling, training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary


def train_data(users, items, labels, n_users, n_items):
    rows = Interactions(np.asarray(users), np.asarray(items), np.asarray(labels), n_users, n_items)
    vocabularies = Vocabulary.range(n_users), Vocabulary.range(n_items)
    return training.train_data(Dataset("small", rows, None, None, *vocabularies))


def labels_of(train, users, items):
    at = sampling.find(train.observed_set, users, items)
    return np.where(at >= 0, train.observed_labels[at], np.nan)


def test_labels_stand_in_the_order_of_the_observed_set(rng):
    pairs = rng.permutation(9 * 7)[:30]
    users, items = np.divmod(pairs, 7)
    labels = rng.random(30).astype(np.float32)
    train = train_data(users, items, labels, 9, 7)
    assert train.observed_labels.dtype == jnp.float32
    assert train.observed_labels.shape == train.observed_set.items.shape == (30,)
    dense = np.full((9, 7), np.nan, np.float32)
    dense[users, items] = labels
    np.testing.assert_array_equal(labels_of(train, np.arange(9)[:, None], np.arange(7)[None, :]), dense)


def test_a_pair_logged_several_times_has_its_last_label():
    users, items = [1, 0, 1, 1, 0, 1], [2, 0, 2, 1, 0, 2]
    train = train_data(users, items, [0.25, 1.0, 0.5, 0.0, 0.0, 0.75], 2, 3)
    # Rows stay as they are; the set has three pairs: (0, 0), (1, 1), (1, 2).
    assert train.labels.tolist() == [0.25, 1.0, 0.5, 0.0, 0.0, 0.75]
    assert train.observed_set.items.tolist() == [0, 1, 2]
    assert train.observed_labels.tolist() == [0.0, 0.0, 0.75]
    np.testing.assert_array_equal(
        labels_of(train, jnp.array([[0], [1]]), jnp.array([[0, 1, 2]])),
        [[0.0, np.nan, np.nan], [np.nan, 0.0, 0.75]],
    )


def test_repeated_pairs_agree_with_a_python_dict(rng):
    users, items = rng.integers(0, 6, 200), rng.integers(0, 5, 200)
    labels = rng.random(200).astype(np.float32)
    train = train_data(users, items, labels, 6, 5)
    last = {}
    for user, item, label in zip(users.tolist(), items.tolist(), labels.tolist(), strict=True):
        last[user, item] = label
    assert train.observed_labels.tolist() == [last[pair] for pair in sorted(last)]


def test_keys_of_pairs_beyond_int32():
    """70,000 x 40,000 pairs do not fit an int32 key; pairs that agree modulo 2^32 stay apart."""
    users, items = np.array([69_999, 0, 53_687]), np.array([39_999, 7, 3_648])
    train = train_data(users, items, [0.5, 1.0, 0.25], 70_000, 40_000)
    np.testing.assert_array_equal(labels_of(train, users, items), [0.5, 1.0, 0.25])
    assert train.observed_labels.tolist() == [1.0, 0.25, 0.5]
