"""A dataset's training part as device arrays."""

import jax.numpy as jnp
import numpy as np

from debias_jax import sampling
from debias_jax.data.types import Dataset, Interactions
from debias_jax.errors import DataError
from debias_jax.methods.base import TrainData


def item_popularity(clicked_items: np.ndarray, n_items: int, *, power: float = 0.5) -> np.ndarray:
    """theta_i = (c_i / max_j c_j)^power over the clicks, float32 ``[n_items]`` (Biif eq. 13); 0 for unclicked items."""
    counts = np.bincount(clicked_items, minlength=n_items).astype(np.float64)
    return ((counts / max(counts.max(initial=0.0), 1.0)) ** power).astype(np.float32)


def _labels_of_distinct_pairs(rows: Interactions) -> np.ndarray:
    """The labels of the distinct pairs, sorted by user and item; of a repeated pair the last row's."""
    # The first occurrence in the reversed rows is the last row.
    _, last = np.unique(rows.pair_keys[::-1], return_index=True)
    return rows.labels[::-1][last]


def train_data(dataset: Dataset) -> TrainData:
    """The arrays that methods learn from.

    Args:
        dataset: its ``train`` rows, and its ``probably_exposed`` pairs where it has them.

    Returns:
        The training data on the default device.

    Raises:
        DataError: there is no training row, or no row with a positive label.

    Example:
        >>> from debias_jax import data, training
        >>> training.train_data(data.synthetic.generate(seed=0, n_users=20, n_items=15)).popularity.shape
        (15,)
    """
    train = dataset.train
    if not len(train):
        raise DataError(f"{dataset.name}: the training part has no row")
    clicks = train.positives
    if not len(clicks):
        raise DataError(
            f"{dataset.name}: none of the {len(train)} training rows has a positive label; check the threshold"
        )
    exposed = dataset.probably_exposed

    def column(name: str, dtype) -> jnp.ndarray:
        return jnp.asarray(np.zeros(0, dtype) if exposed is None else getattr(exposed, name), dtype)

    observed_set = sampling.pair_set(train.users, train.items, n_users=train.n_users)
    return TrainData(
        users=jnp.asarray(train.users, jnp.int32),
        items=jnp.asarray(train.items, jnp.int32),
        labels=jnp.asarray(train.labels, jnp.float32),
        propensities=None if train.propensities is None else jnp.asarray(train.propensities, jnp.float32),
        clicks=(jnp.asarray(clicks.users, jnp.int32), jnp.asarray(clicks.items, jnp.int32)),
        click_set=sampling.pair_set(clicks.users, clicks.items, n_users=train.n_users),
        observed_set=observed_set,
        observed_labels=jnp.asarray(_labels_of_distinct_pairs(train), jnp.float32),
        popularity=jnp.asarray(item_popularity(clicks.items, train.n_items), jnp.float32),
        exposed_users=column("users", np.int32),
        exposed_items=column("items", np.int32),
        exposed_labels=column("labels", np.float32),
    )
