"""A simulator of event logs with a known law of the next item: a Markov chain over a catalogue with popularity.

    p(first item = j) = pi_j,   p(next = j | last = i) = T_ij = (1 - s) pi_j + s A_ij

``pi`` is the popularity, Zipf's law over items in random order; ``A_ij`` gives each item a few successors; ``s`` says
how much the last item tells. What the best ranking can reach is known, see ``best_hit_rate``.
"""

import numpy as np

from debias_jax.data._settings import check_integer, check_number
from debias_jax.data.sequences._histories import Histories
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError

# Users times items, where no item may come twice, and items times items are held dense, the latter in float64.
_MAX_CELLS = 100_000_000

# Timestamps, in days and seconds: when users start, and the mean of the gaps before they are rounded down.
_STARTS_WITHIN = 90
_GAP = 7.0
_DAY = 86_400


def generate(
    *,
    seed: int = 0,
    n_users: int = 300,
    n_items: int = 100,
    mean_length: float = 12.0,
    length_sd: float = 0.5,
    min_length: int = 4,
    predictability: float = 0.8,
    n_successors: int = 3,
    popularity_skew: float = 1.0,
    repeats: bool = False,
    timestamps: bool = False,
    name: str = "synthetic_sequences",
) -> Dataset:
    r"""Draws a history for each user.

    Lengths are log-normal and independent of the items. With ``repeats`` a history is the Markov chain itself; without,
    each item is drawn from the law of the chain given that the user has not had it,

    .. math:: p(j \mid i_1 .. i_t) = \frac{T_{i_t j} [j \notin i_1 .. i_t]}{\sum_v T_{i_t v} [v \notin i_1 .. i_t]}

    Args:
        seed: of everything drawn; the law, the lengths, the items and the times have streams of their own.
        n_users: at least 1.
        n_items: at least 2.
        mean_length: mean of the lengths before they are rounded and held between the bounds.
        length_sd: standard deviation of the logarithm of the lengths, in [0, 3].
        min_length: least length; the most is 10 times ``mean_length``, without ``repeats`` half of the items.
        predictability: s, in [0, 1); 0 draws each item by popularity alone.
        n_successors: items that are likely after an item.
        popularity_skew: exponent of Zipf's law, in [0, 5]; 0 makes all items alike.
        repeats: whether a user may have an item again.
        timestamps: whether rows have times, in seconds: users start within 90 days of each other, the gaps are
            exponential with a mean of a week, and all is rounded down to days, so that equal times are common.
        name: of the dataset.

    Returns:
        The dataset, all in ``train``, rows by user and in time order, ids the codes themselves. Items that nobody has
        are in the vocabulary.

    Raises:
        ConfigError: a knob is out of range.

    >>> data = generate(seed=1, n_users=50, n_items=40)
    >>> data.n_items, int(np.bincount(data.train.users).min()) >= 4
    (40, True)
    """
    start, transition = transition_law(
        seed=seed,
        n_items=n_items,
        predictability=predictability,
        n_successors=n_successors,
        popularity_skew=popularity_skew,
    )
    check_integer("n_users", n_users, 1)
    check_integer("min_length", min_length, 1)
    longest = int(10 * mean_length) if repeats else n_items // 2
    check_number("mean_length", mean_length, "[1, inf)")
    check_number("length_sd", length_sd, "[0, 3]")
    if min_length > longest:
        raise ConfigError(
            f"min_length = {min_length} is more than {longest}, the longest history"
            + ("" if repeats else f" of {n_items} items without repeats; raise n_items")
        )
    if not repeats and n_users * n_items > _MAX_CELLS:
        raise ConfigError(f"n_users * n_items = {n_users * n_items:,} must be at most {_MAX_CELLS:,}")
    _, _, length_rng, item_rng, time_rng = _streams(seed)

    # The mean of exp(N(mu, sd^2)) is exp(mu + sd^2 / 2).
    drawn = mean_length * np.exp(length_sd * length_rng.standard_normal(n_users) - length_sd**2 / 2)
    lengths = np.clip(np.rint(drawn), min_length, longest).astype(np.int64)
    items = np.zeros((n_users, lengths.max()), np.int64)
    seen = np.zeros((n_users, n_items if not repeats else 0), bool)
    for slot in range(lengths.max()):
        active = np.flatnonzero(lengths > slot)
        law = transition[items[active, slot - 1]] if slot else np.tile(start, (len(active), 1))
        if not repeats:
            law = law * ~seen[active]
        cumulative = np.cumsum(law, axis=1)
        # Strictly above a point below the total: an item of probability 0 is never the first to be.
        points = item_rng.random(n_users)[active] * cumulative[:, -1]
        items[active, slot] = np.argmax(cumulative > points[:, None], axis=1)
        if not repeats:
            seen[active, items[active, slot]] = True
    inside = np.arange(items.shape[1]) < lengths[:, None]
    times = None
    if timestamps:
        gaps = np.floor(time_rng.exponential(_GAP, items.shape)).astype(np.int64)
        gaps[:, 0] = time_rng.integers(0, _STARTS_WITHIN, n_users)
        times = _DAY * np.cumsum(gaps, axis=1)[inside]
    users = np.repeat(np.arange(n_users), lengths)
    return Dataset(
        name=name,
        train=Interactions(users, items[inside], np.ones(len(users)), n_users, n_items, timestamps=times),
        validation=None,
        test=None,
        users=Vocabulary.range(n_users, kind="user"),
        items=Vocabulary.range(n_items, kind="item"),
        notes=(
            f"a Markov chain of predictability {predictability:g} over {n_items} items, "
            f"{'with' if repeats else 'without'} repeats",
        ),
    )


def transition_law(
    *,
    seed: int = 0,
    n_items: int = 100,
    predictability: float = 0.8,
    n_successors: int = 3,
    popularity_skew: float = 1.0,
) -> tuple[np.ndarray, np.ndarray]:
    """The law that ``generate`` draws from with the same arguments.

    The successors of an item are drawn by popularity without repeats, itself excluded; the k-th has a weight
    proportional to 1 / k.

    Args:
        seed: of the order of popularity and of the successors.
        n_items: at least 2.
        predictability: weight of the successors, in [0, 1).
        n_successors: of an item, at most ``n_items - 1``.
        popularity_skew: exponent of Zipf's law, in [0, 5].

    Returns:
        ``(start, transition)``, float64 ``[n_items]`` and ``[n_items, n_items]``: the law of the first item, and row
        by row that of the item after each item. Rows sum to 1.

    Raises:
        ConfigError: a knob is out of range.

    >>> start, transition = transition_law(seed=0, n_items=20)
    >>> transition.shape, bool(np.allclose(transition.sum(1), 1)), bool((transition > 0).all())
    ((20, 20), True, True)
    """
    check_integer("seed", seed, 0)
    check_integer("n_items", n_items, 2)
    check_integer("n_successors", n_successors, 1)
    check_number("predictability", predictability, "[0, 1)")
    check_number("popularity_skew", popularity_skew, "[0, 5]")
    if n_items**2 > _MAX_CELLS:
        raise ConfigError(f"n_items = {n_items:,} must be at most {int(_MAX_CELLS**0.5):,}")
    if n_successors >= n_items:
        raise ConfigError(f"n_successors = {n_successors} must be less than n_items = {n_items}")
    rank_rng, successor_rng, *_ = _streams(seed)
    start = (1.0 + rank_rng.permutation(n_items)) ** -popularity_skew
    start /= start.sum()
    # The items of the largest log p + Gumbel noise are a draw without repeats by p.
    scores = np.log(start) + successor_rng.gumbel(size=(n_items, n_items))
    np.fill_diagonal(scores, -np.inf)
    successors = np.argsort(-scores, axis=1)[:, :n_successors]
    weights = 1.0 / np.arange(1, n_successors + 1)
    transition = np.tile((1 - predictability) * start, (n_items, 1))
    transition[np.arange(n_items)[:, None], successors] += predictability * weights / weights.sum()
    return start, transition


def best_hit_rate(
    start: np.ndarray, transition: np.ndarray, histories: Histories, *, k: int, repeats: bool
) -> float:
    r"""The expected hit rate of the best ranking of the next item after each history.

    .. math:: \frac{1}{|U|} \sum_u \max_{|S| = k} \sum_{j \in S} p(j \mid \text{history of } u)

    No scores can do better in expectation; those of the law itself (items of the history left out where there are no
    repeats) reach it. It is the hit rate at ``k`` of one target a user with the whole catalogue as candidates.

    Args:
        start: law of the first item, of ``transition_law``.
        transition: law of the next item.
        histories: before the targets, from ``sequences.histories_before``; one that is empty is followed by ``start``.
        k: length of the list, at least 1.
        repeats: whether an item of the history may come again; as in ``generate``.

    Raises:
        ConfigError: ``k`` is no positive integer.
        DataError: the histories have items that the law does not have.

    >>> chain = np.array([[0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.5, 0.5, 0.0]])
    >>> log = Histories(np.array([0, 1, 3]), np.array([0, 0, 1], np.int32))
    >>> best_hit_rate(chain[0], chain, log, k=1, repeats=True)  # (.6 + .6) / 2
    0.6
    >>> round(best_hit_rate(chain[0], chain, log, k=1, repeats=False), 4)  # (.6 / .9 + .6 / .6) / 2
    0.8333
    """
    check_integer("k", k, 1)
    if len(histories.items) and histories.items.max() >= len(start):
        raise DataError(f"item {histories.items.max()} is not among the {len(start)} items of the law")
    best = []
    for first, end in zip(histories.indptr[:-1], histories.indptr[1:], strict=True):
        seen = histories.items[first:end]
        law = (transition[seen[-1]] if len(seen) else start).copy()
        if not repeats:
            law[seen] = 0.0
            law /= law.sum()
        best.append(np.sort(law)[-k:].sum())
    return float(np.mean(best))


def _streams(seed: int) -> list[np.random.Generator]:
    return [np.random.Generator(np.random.PCG64(each)) for each in np.random.SeedSequence(seed).spawn(5)]
