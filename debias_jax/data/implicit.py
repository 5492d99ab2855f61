"""Implicit feedback made of ratings: what a user rates above the own mean, among users and items with enough rows."""

import numpy as np

from debias_jax.data._settings import check_number
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
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
    for part in ("validation", "test"):
        if getattr(dataset, part) is not None:
            raise ConfigError(f"{dataset.name} has a {part} part; make implicit feedback before splitting")
    train = dataset.train
    if train.ratings is None:
        raise ConfigError(f"{dataset.name} has no ratings, of which users could have a mean")
    check_number("min_user_rows", min_user_rows, "[0, inf)")
    check_number("min_item_rows", min_item_rows, "[0, inf)")
    kept = np.arange(len(train))
    while True:
        of_user = np.bincount(train.users[kept], minlength=train.n_users)[train.users[kept]]
        of_item = np.bincount(train.items[kept], minlength=train.n_items)[train.items[kept]]
        enough = (of_user >= min_user_rows) & (of_item >= min_item_rows)
        if enough.all():
            break
        kept = kept[enough]
    if not kept.size:
        raise DataError(
            f"{dataset.name}: no user with {min_user_rows} ratings of items with {min_item_rows} is left"
        )
    core = train.take(kept)
    users, user_codes = np.unique(core.users, return_inverse=True)
    items, item_codes = np.unique(core.items, return_inverse=True)
    ratings = core.ratings.astype(np.float64)
    means = np.bincount(user_codes, ratings) / np.bincount(user_codes)
    # A mean of n equal ratings may come out a rounding above them.
    liked = ratings >= means[user_codes] - 1e-9
    columns = {
        name: None if getattr(core, name) is None else getattr(core, name)[liked]
        for name in ("ratings", "timestamps", "propensities")
    }
    n_liked = int(liked.sum())
    return dataset.replace(
        train=Interactions(
            user_codes[liked], item_codes[liked], np.ones(n_liked), len(users), len(items), **columns
        ),
        users=Vocabulary(dataset.users.decode(users), kind="user"),
        items=Vocabulary(dataset.items.decode(items), kind="item"),
        user_features=None if dataset.user_features is None else dataset.user_features[users],
        item_features=None if dataset.item_features is None else dataset.item_features[items],
        truth=None,
        notes=(
            f"users with {min_user_rows} and items with {min_item_rows} ratings at least; a row is a rating of at "
            "least the user's own mean",
        ),
    )
