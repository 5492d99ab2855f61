"""Implicit feedback made of ratings: what a user rates above the own mean, among users and items with enough rows."""

import dataclasses

import numpy as np

from debias_jax.data.core import check_unsplit, core_rows, keep_ids
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DataError


def from_ratings(dataset: Dataset, *, min_user_rows: int = 10, min_item_rows: int = 10) -> Dataset:
    """The rows that a user rated at least as high as the own mean, all of them positives.

    First users and items with too few ratings are dropped, again and again until all that are left have enough (the
    k-core); the means are taken over what is left. A user keeps at least one row, an item may be left without any.

    Args:
        dataset: ratings, all in ``train``.
        min_user_rows: ratings that a user must have.
        min_item_rows: ratings that an item must have.

    Returns:
        The dataset, with users and items encoded anew; features are those of who is left.

    Raises:
        ConfigError: there are other parts, no ratings, or a bound is below 0.
        DataError: nothing is left.

    >>> import dataclasses
    >>> import numpy as np
    >>> from debias_jax.data import synthetic
    >>> log = synthetic.generate(seed=0, n_users=4, n_items=6, mean_exposure=0.9).replace(test=None)
    >>> log = log.replace(train=dataclasses.replace(log.train, ratings=np.arange(len(log.train)) % 5 + 1.0))
    >>> implicit = from_ratings(log, min_user_rows=2, min_item_rows=2)
    >>> bool((implicit.train.labels == 1).all()), len(implicit.train) < len(log.train)
    (True, True)

    Source:
        Preparation of explicit ratings in Chen et al., NeurIPS 2022; MovieLens 100K becomes 53,473 pairs of 943 users
        and 1,152 items.
    """
    check_unsplit(dataset, "make implicit feedback")
    if dataset.train.ratings is None:
        raise ConfigError(f"{dataset.name} has no ratings, of which users could have a mean")
    kept = core_rows(dataset.train, min_user_rows=min_user_rows, min_item_rows=min_item_rows)
    if not kept.size:
        raise DataError(
            f"{dataset.name}: no user with {min_user_rows} ratings of items with {min_item_rows} is left"
        )
    rows = dataset.train.take(kept)
    dataset = keep_ids(dataset.replace(train=rows), np.unique(rows.users), np.unique(rows.items))
    core = dataset.train
    ratings = core.ratings.astype(np.float64)
    means = np.bincount(core.users, ratings) / np.bincount(core.users)
    # A mean of n equal ratings may come out a rounding above them.
    liked = core.take(ratings >= means[core.users] - 1e-9)
    return dataset.replace(
        train=dataclasses.replace(liked, labels=np.ones(len(liked))),
        notes=(
            f"users with {min_user_rows} and items with {min_item_rows} ratings at least; a row is a rating of at "
            "least the user's own mean",
        ),
    )
