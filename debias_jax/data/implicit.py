"""Implicit feedback made of ratings: who and what is kept, and which ratings are positives."""

import dataclasses

import numpy as np

from debias_jax.data._settings import check_integer, check_number
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


def first_block(
    dataset: Dataset,
    *,
    min_user_rows: int = 10,
    min_item_rows: int = 8,
    until_stable: bool = False,
    n_users: int = 3000,
    n_items: int = 3000,
) -> Dataset:
    """The first users and items of a log among those with enough rows: a block small enough for dense matrices.

    First users, then items with too few rows are dropped; once, so that a user may be left with fewer, or until all
    that are left have enough. Then the first of each in the order of their codes (for ``data.frame.read`` the order of
    appearance in the file) are kept, and the rows between them. Users and items without such a row are dropped at the
    end. The paper names the numbers; order, repetition and what "first" means are ours.

    Args:
        dataset: all in ``train``.
        min_user_rows: rows that a user must have.
        min_item_rows: rows that an item must have, counted after users were dropped.
        until_stable: whether to drop again and again.
        n_users: users to keep at most.
        n_items: items to keep at most.

    Returns:
        The dataset, labels and ratings as they were, with users and items encoded anew.

    Raises:
        ConfigError: there are other parts, or a number is out of range.
        DataError: nothing is left.

    >>> import numpy as np
    >>> from debias_jax.data import synthetic
    >>> log = synthetic.generate(seed=0, n_users=40, n_items=30).replace(test=None)
    >>> block = first_block(log, min_user_rows=3, min_item_rows=3, n_users=10, n_items=20)
    >>> block.n_users <= 10, block.n_items <= 20, int(block.users.ids[0])
    (True, True, 1)

    Source:
        Biif, section 4: users with fewer than 10 and items with fewer than 8 interactions removed from Amazon CDs, the
        first 3,000 of each kept.
    """
    check_unsplit(dataset, "choose users and items")
    check_number("min_user_rows", min_user_rows, "[0, inf)")
    check_number("min_item_rows", min_item_rows, "[0, inf)")
    check_integer("n_users", n_users, 1)
    check_integer("n_items", n_items, 1)
    rows = dataset.train
    if until_stable:
        rows = rows.take(core_rows(rows, min_user_rows=min_user_rows, min_item_rows=min_item_rows))
    else:
        rows = rows.take(np.bincount(rows.users, minlength=rows.n_users)[rows.users] >= min_user_rows)
        rows = rows.take(np.bincount(rows.items, minlength=rows.n_items)[rows.items] >= min_item_rows)
    users, items = np.unique(rows.users)[:n_users], np.unique(rows.items)[:n_items]
    rows = rows.take(np.isin(rows.users, users) & np.isin(rows.items, items))
    if not len(rows):
        raise DataError(
            f"{dataset.name}: the first {n_users} users with {min_user_rows} rows and the first {n_items} items with "
            f"{min_item_rows} have no row in common"
        )
    times = "until all had enough" if until_stable else "once"
    note = (
        f"users with {min_user_rows} and items with {min_item_rows} rows at least, others dropped {times}; of "
        f"these the first {n_users} and {n_items}"
    )
    kept = keep_ids(dataset.replace(train=rows), np.unique(rows.users), np.unique(rows.items))
    return kept.replace(notes=(*dataset.notes, note))
