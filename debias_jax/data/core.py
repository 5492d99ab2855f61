"""Users and items with enough rows (the k-core), and a dataset encoded anew over those that stay."""

import numpy as np

from debias_jax.data._settings import check_number
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError


def k_core(dataset: Dataset, *, min_user_rows: int = 5, min_item_rows: int = 5) -> Dataset:
    """Drops users and items with too few rows, again and again until all that are left have enough.

    The result does not depend on the order of dropping. A pair that occurs again counts as often as it occurs.

    Args:
        dataset: with all of its rows in ``train``.
        min_user_rows: rows that a user must have.
        min_item_rows: rows that an item must have.

    Returns:
        The dataset, rows in the log's order, users and items encoded anew in the order that they had; features are
        those of who is left. ``notes`` says what was dropped.

    Raises:
        ConfigError: there are other parts, or a bound is below 0.
        DataError: nothing is left.

    >>> from debias_jax.data import Dataset, Interactions, Vocabulary
    >>> log = Interactions(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 2]), np.ones(5), 3, 3)
    >>> dataset = Dataset("x", log, None, None, Vocabulary("abc"), Vocabulary("rst"))
    >>> core = k_core(dataset, min_user_rows=2, min_item_rows=2)
    >>> core.users.ids, core.items.ids, len(core.train)
    (('a', 'b'), ('r', 's'), 4)
    """
    check_unsplit(dataset, "take the core")
    train = dataset.train
    kept = core_rows(train, min_user_rows=min_user_rows, min_item_rows=min_item_rows)
    if not kept.size:
        raise DataError(
            f"{dataset.name}: no user with {min_user_rows} rows of items with {min_item_rows} is left"
        )
    core = keep_ids(
        dataset.replace(train=train.take(kept)), np.unique(train.users[kept]), np.unique(train.items[kept])
    )
    note = (
        f"users with {min_user_rows} and items with {min_item_rows} rows at least: dropped "
        f"{len(train) - len(kept):,} of {len(train):,} rows, {dataset.n_users - core.n_users:,} of "
        f"{dataset.n_users:,} users and {dataset.n_items - core.n_items:,} of {dataset.n_items:,} items"
    )
    return core.replace(notes=(*dataset.notes, note))


def check_unsplit(dataset: Dataset, what: str) -> None:
    """Raises where a dataset has parts besides its log."""
    for part in ("validation", "test"):
        if getattr(dataset, part) is not None:
            raise ConfigError(f"{dataset.name} has a {part} part; {what} before splitting")


def core_rows(interactions: Interactions, *, min_user_rows: int, min_item_rows: int) -> np.ndarray:
    """Positions of the rows of the k-core, int64, ascending; none may be left.

    Raises:
        ConfigError: a bound is below 0.
    """
    check_number("min_user_rows", min_user_rows, "[0, inf)")
    check_number("min_item_rows", min_item_rows, "[0, inf)")
    kept = np.arange(len(interactions))
    while True:
        users, items = interactions.users[kept], interactions.items[kept]
        of_user = np.bincount(users, minlength=interactions.n_users)[users]
        of_item = np.bincount(items, minlength=interactions.n_items)[items]
        enough = (of_user >= min_user_rows) & (of_item >= min_item_rows)
        if enough.all():
            return kept
        kept = kept[enough]


def keep_ids(dataset: Dataset, users: np.ndarray, items: np.ndarray) -> Dataset:
    """The dataset of some users and items: theirs alone are the rows, the ids, the features and the bags.

    Args:
        dataset: any; what is known of all its pairs (``truth``) is dropped.
        users: codes of the users that stay, ascending.
        items: codes of the items that stay, ascending.
    """
    user_codes = np.full(dataset.n_users, -1)
    user_codes[users] = np.arange(len(users))
    item_codes = np.full(dataset.n_items, -1)
    item_codes[items] = np.arange(len(items))

    def encode(rows: Interactions | None) -> Interactions | None:
        if rows is None:
            return None
        rows = rows.take((user_codes[rows.users] >= 0) & (item_codes[rows.items] >= 0))
        columns = {name: getattr(rows, name) for name in ("labels", "ratings", "timestamps", "propensities")}
        return Interactions(
            user_codes[rows.users],
            item_codes[rows.items],
            n_users=len(users),
            n_items=len(items),
            **columns,
        )

    return dataset.replace(
        train=encode(dataset.train),
        validation=encode(dataset.validation),
        test=encode(dataset.test),
        probably_exposed=encode(dataset.probably_exposed),
        context=encode(dataset.context),
        users=Vocabulary(dataset.users.decode(users), kind="user"),
        items=Vocabulary(dataset.items.decode(items), kind="item"),
        user_features=None if dataset.user_features is None else dataset.user_features[users],
        item_features=None if dataset.item_features is None else dataset.item_features[items],
        user_bags=_rows(dataset.user_bags, users),
        item_bags=_rows(dataset.item_bags, items),
        truth=None,
    )


def _rows(bags: dict[str, np.ndarray] | None, codes: np.ndarray) -> dict[str, np.ndarray] | None:
    """Some rows of every bag, if there are bags."""
    return None if bags is None else {name: values[codes] for name, values in bags.items()}
