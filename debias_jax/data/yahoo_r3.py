"""Yahoo! R3: ratings of songs that users chose, and 10 songs drawn at random for each of 5,400 users.

Marlin, Zemel, "Collaborative Prediction and Ranking with Non-Random Missing Data" (RecSys 2009). The data is
lent under a signed agreement and may not be passed on, so this reads the user's own copy.
"""

import pathlib

from debias_jax.data._tables import Source, check_threshold, find_file, read_integers
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary

N_USERS, N_ITEMS = 15_400, 1_000
SOURCE = Source("Yahoo! R3", "https://webscope.sandbox.yahoo.com", "research only, by signed agreement")


def load(path: str | pathlib.Path, *, threshold: float = 4, strict_counts: bool = True) -> Dataset:
    """Reads the two rating files: the self-selected ratings are ``train``, those of random songs ``test``.

    ``label = rating >= threshold``. Raw ids are 1-based and kept as they are in the vocabularies.

    Args:
        path: the folder with ``ydata-ymusic-rating-study-v1_0-train.txt`` and ``...-test.txt``
            (user<TAB>song<TAB>rating).
        threshold: on the ratings 1..5; Biif's tables use 4, the doubly robust family 3.
        strict_counts: whether there must be exactly 311,704 and 54,000 ratings.

    Returns:
        The dataset, 15,400 users x 1,000 songs, with raw ratings beside the labels and no validation part.

    Raises:
        DataError: a file is missing or does not hold what it should.
        ConfigError: the threshold is outside (1, 5].

    >>> from debias_jax.data import yahoo_r3
    >>> yahoo_r3.load(".", threshold=6)
    Traceback (most recent call last):
    ...
    debias_jax.errors.ConfigError: threshold = 6 must be a number in (1, 5]
    """
    check_threshold(threshold)
    parts = {}
    for part, count in (("train", 311_704), ("test", 54_000)):
        file = find_file(path, [f"ydata-ymusic-rating-study-v1_0-{part}.txt"], SOURCE)
        table = read_integers(file, ("user", "item", "rating"), separator="\t")
        table.check_range("user", 1, N_USERS)
        table.check_range("item", 1, N_ITEMS)
        table.check_range("rating", 1, 5)
        table.check_distinct_pairs()
        if strict_counts:
            table.check_count(count)
        parts[part] = Interactions(
            table["user"] - 1,
            table["item"] - 1,
            table["rating"] >= threshold,
            N_USERS,
            N_ITEMS,
            ratings=table["rating"],
        )
    return Dataset(
        name="yahoo_r3",
        train=parts["train"],
        validation=None,
        test=parts["test"],
        users=Vocabulary.range(N_USERS, start=1, kind="user"),
        items=Vocabulary.range(N_ITEMS, start=1, kind="item"),
        notes=(f"label = rating >= {threshold:g}", "test: ratings of songs drawn at random (unbiased)"),
    )
