"""Splits of a log, each with its own seed: never the training seed, so that all runs share one split."""

import numpy as np

from debias_jax.data._settings import check_choice, check_integer, check_number
from debias_jax.data.types import Dataset, Interactions
from debias_jax.errors import ConfigError


def _generator(seed: int) -> np.random.Generator:
    check_integer("seed", seed, 0)
    return np.random.Generator(np.random.PCG64(seed))


def _check_no_part(dataset: Dataset, part: str) -> None:
    if getattr(dataset, part) is not None:
        raise ConfigError(
            f"{dataset.name} has a {part} part of {len(getattr(dataset, part)):,} rows already; "
            f"drop it on purpose with dataset.replace({part}=None)"
        )


def probably_exposed(
    train: Interactions,
    *,
    active_fraction: float = 0.2,
    activity: str = "ratings",
    popularity: str = "clicks",
    labels: str = "both",
) -> Interactions:
    """Biif's validation pairs: the most popular positive and negative item of each of the most active users.

    A popular item that an active user did rate was probably exposed whatever the label, so its exposure is
    taken as 1. Ties go to the lower id (user or item code). The paper leaves open what "active" and "popular"
    count; both readings are options. The negatives are explicit low ratings, which a log of clicks alone does
    not have: ``labels="positives"`` is the ablation without them.

    Args:
        train: rated pairs; label > 0 is positive.
        active_fraction: share of all ``n_users`` that counts as active, in (0, 1]; rounded to the nearest
            count.
        activity: "ratings" counts a user's rows, "positives" the positive ones.
        popularity: "clicks" counts an item's positive rows (the order of theta, eq. 13), "ratings" all rows.
        labels: "both", or "positives" for the positive items only.

    Returns:
        Rows of ``train``, by user, the positive before the negative: at most ``2 * active_fraction *
        n_users``.

    Raises:
        ConfigError: an option has no such value.

    Source: Biif, section 3.1 ("most popular negative item and most popular positive item for the most active
    20 % users").

    >>> log = Interactions(np.array([0, 0, 0, 1]), np.array([0, 1, 2, 1]), np.array([1.0, 1, 0, 1]), 2, 3)
    >>> pairs = probably_exposed(log, active_fraction=0.5)
    >>> list(zip(pairs.users.tolist(), pairs.items.tolist(), pairs.labels.tolist()))
    [(0, 1, 1.0), (0, 2, 0.0)]
    """
    check_number("active_fraction", active_fraction, "(0, 1]")
    check_choice("activity", activity, ("ratings", "positives"))
    check_choice("popularity", popularity, ("clicks", "ratings"))
    check_choice("labels", labels, ("both", "positives"))
    positive = train.labels > 0
    active_rows = train.users if activity == "ratings" else train.users[positive]
    popular_rows = train.items if popularity == "ratings" else train.items[positive]
    counts = np.bincount(active_rows, minlength=train.n_users)
    popular = np.bincount(popular_rows, minlength=train.n_items)

    n_active = max(1, round(active_fraction * train.n_users))
    is_active = np.zeros(train.n_users, bool)
    is_active[np.argsort(-counts, kind="stable")[:n_active]] = True

    rows = np.flatnonzero(is_active[train.users] & (positive | (labels == "both")))
    order = rows[
        np.lexsort((train.items[rows], -popular[train.items[rows]], ~positive[rows], train.users[rows]))
    ]
    group = train.users[order].astype(np.int64) * 2 + ~positive[order]
    best = np.flatnonzero(np.diff(group, prepend=-1))
    return train.take(order[best])


def holdout(
    train: Interactions, *, fraction: float = 0.1, seed: int, keep: Interactions | None = None
) -> tuple[Interactions, Interactions]:
    """Moves a random part of the rows out of the training log.

    Args:
        train: the log.
        fraction: of the rows that may move, in (0, 1]; rounded to the nearest count.
        seed: of this split.
        keep: pairs that must stay in training, or None.

    Returns:
        ``(train, held_out)``, each in the log's order; together they are exactly the log.

    Raises:
        ConfigError: the fraction or the seed is out of range.

    >>> log = Interactions(np.zeros(10, int), np.arange(10), np.ones(10), 1, 10)
    >>> rest, held = holdout(log, fraction=0.2, seed=0, keep=log.take(np.arange(5)))
    >>> len(rest), len(held), held.items.min() >= 5
    (9, 1, np.True_)
    """
    check_number("fraction", fraction, "(0, 1]")
    rng = _generator(seed)
    if keep is None:
        eligible = np.arange(len(train))
    else:
        eligible = np.flatnonzero(~np.isin(train.pair_keys, keep.pair_keys))
    held = np.zeros(len(train), bool)
    held[rng.permutation(eligible)[: round(fraction * len(eligible))]] = True
    return train.take(~held), train.take(held)


def biif(
    dataset: Dataset,
    *,
    hyper_fraction: float = 0.1,
    seed: int = 0,
    active_fraction: float = 0.2,
    activity: str = "ratings",
    popularity: str = "clicks",
    labels: str = "both",
) -> Dataset:
    """Biif's preparation of a log: probably exposed pairs first, then a hyper-validation part of the rest.

    The probably exposed pairs stay in ``train``, as the paper has it; ``hyper_fraction`` of the other rows
    becomes ``validation`` (biased like the log: score it with SNIPS).

    Args:
        dataset: with all of its log in ``train`` and no validation part.
        hyper_fraction: share of the remaining rows for validation, in (0, 1].
        seed: of the hyper-validation draw.
        active_fraction: see ``probably_exposed``.
        activity: see ``probably_exposed``.
        popularity: see ``probably_exposed``.
        labels: see ``probably_exposed``.

    Returns:
        The dataset with ``train``, ``validation`` and ``probably_exposed`` set.

    Raises:
        ConfigError: there is a validation part already, or an option is out of range.

    Source: Biif, section 3.1.

    >>> from debias_jax.data import synthetic
    >>> data = biif(synthetic.generate(n_users=20, n_items=30, seed=1), seed=7)
    >>> bool(np.isin(data.probably_exposed.pair_keys, data.train.pair_keys).all())
    True
    """
    _check_no_part(dataset, "validation")
    exposed = probably_exposed(
        dataset.train,
        active_fraction=active_fraction,
        activity=activity,
        popularity=popularity,
        labels=labels,
    )
    train, validation = holdout(dataset.train, fraction=hyper_fraction, seed=seed, keep=exposed)
    note = (
        f"validation: {hyper_fraction:.0%} of the log outside the probably exposed pairs, split seed {seed}"
    )
    return dataset.replace(
        train=train,
        validation=validation,
        probably_exposed=exposed,
        notes=(*dataset.notes, note),
        held_out=(*dataset.held_out, "validation"),
    )


def random_split(
    dataset: Dataset,
    *,
    validation: float = 0.1,
    test: float = 0.1,
    seed: int,
    per_user: bool = False,
) -> Dataset:
    """Makes the parts that own data lacks, by drawing rows of the training log at random.

    Args:
        dataset: its log is in ``train``.
        validation: share of the rows for validation, in [0, 1]; 0 leaves that part as it is.
        test: share of the rows for test, in [0, 1]; 0 leaves that part as it is.
        seed: of this split.
        per_user: False draws from all rows together; True gives each user these shares, rounded to the
            nearest count, and always leaves a user a training row.

    Returns:
        The dataset with the new parts, rows in the log's order. They are biased as the log is.

    Raises:
        ConfigError: the shares reach 1 together, or a part that would be drawn exists already.

    >>> from debias_jax.data import synthetic
    >>> data = synthetic.generate(n_users=20, n_items=30, seed=1).replace(test=None)
    >>> n = len(data.train)
    >>> data = random_split(data, validation=0.25, test=0.25, seed=0)
    >>> len(data.test) == round(n / 4), len(data.train) + len(data.validation) + len(data.test) == n
    (True, True)
    """
    check_number("validation", validation, "[0, 1]")
    check_number("test", test, "[0, 1]")
    if validation + test >= 1:
        raise ConfigError(f"validation + test = {validation + test:g} leaves nothing to train on")
    for part, share in (("validation", validation), ("test", test)):
        if share:
            _check_no_part(dataset, part)
    log = dataset.train
    draw = _generator(seed).permutation(len(log))
    if per_user:
        order = np.lexsort((draw, log.users))
        sizes = np.bincount(log.users, minlength=log.n_users)
        starts = np.cumsum(sizes) - sizes
        rank = np.empty(len(log), np.int64)
        rank[order] = np.arange(len(log)) - np.repeat(starts, sizes)
        size = sizes[log.users]
    else:
        rank, size = draw, np.full(len(log), len(log))
    n_test = np.minimum(np.rint(test * size), size - 1)
    n_validation = np.minimum(np.rint(validation * size), size - 1 - n_test)
    in_test = rank < n_test
    in_validation = ~in_test & (rank < n_test + n_validation)
    changes = {"train": log.take(~in_test & ~in_validation)}
    if validation:
        changes["validation"] = log.take(in_validation)
    if test:
        changes["test"] = log.take(in_test)
    how = "of each user's rows" if per_user else "of the rows"
    note = f"random split: validation {validation:g}, test {test:g} {how}, split seed {seed}"
    held_out = tuple(part for part in ("validation", "test") if part in changes)
    return dataset.replace(**changes, notes=(*dataset.notes, note), held_out=(*dataset.held_out, *held_out))


def subsample(train: Interactions, *, fraction: float, seed: int) -> Interactions:
    """A random part of the rows, for studies of sparsity.

    With one seed the parts are nested: the rows at 0.2 are among those at 0.4, so that a curve over the
    fraction is not jagged by the draw.

    Args:
        train: the log.
        fraction: share to keep, in (0, 1]; the count is rounded down.
        seed: of this draw.

    Returns:
        The rows that stay, in the log's order.

    Raises:
        ConfigError: the fraction or the seed is out of range.

    >>> log = Interactions(np.zeros(10, int), np.arange(10), np.ones(10), 1, 10)
    >>> half = subsample(log, fraction=0.5, seed=3)
    >>> len(half), set(subsample(log, fraction=0.25, seed=3).items) <= set(half.items)
    (5, True)
    """
    check_number("fraction", fraction, "(0, 1]")
    kept = _generator(seed).permutation(len(train))[: int(fraction * len(train))]
    return train.take(np.sort(kept))
