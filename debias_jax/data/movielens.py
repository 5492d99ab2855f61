"""MovieLens 100K: 100,000 ratings with timestamps and no unbiased part.

Harper, Konstan, "The MovieLens Datasets: History and Context" (TiiS 2015).
"""

import pathlib

import numpy as np

from debias_jax.data._tables import Source, check_threshold, find_file, open_text, read_integers
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import DataError

N_USERS, N_ITEMS, N_RATINGS = 943, 1_682, 100_000
SOURCE = Source(
    "MovieLens 100K",
    "https://grouplens.org/datasets/movielens/100k/",
    "research use, no redistribution without permission",
)

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi"),
    *("Thriller", "War", "Western"),
)
"""The genres in the order of their ids, which are those of the flags in ``u.item``."""

_COLUMNS = ("user", "item", "rating", "timestamp")
_MOVIE_COLUMNS = ("id", "title", "date", "video date", "url")
_TYPED_HEADER = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")


def load_100k(path: str | pathlib.Path, *, threshold: float = 4, strict_counts: bool = True) -> Dataset:
    """Reads MovieLens 100K from any of its three common forms; everything is ``train``.

    ``label = rating >= threshold``. Raw 1-based ids are kept as strings in the vocabularies, in numeric
    order. Where ``u.item`` (or ``u.item.gz``) stands beside the ratings, the bag ``item_bags["genres"]`` holds the ids
    of each movie's ``GENRES``.

    Args:
        path: a folder with one of these, looked for in this order, or the file itself (each may be gzipped):
            ``u.data`` (tabs, no header), ``ratings.csv`` (header ``user,item,rating,timestamp``),
            ``ml-100k.inter`` (tabs, header ``user_id:token item_id:token rating:float timestamp:float``).
        threshold: on the ratings 1..5.
        strict_counts: whether there must be exactly 100,000 ratings of 943 users and 1,682 items.

    Returns:
        The dataset, rows in the file's order, with ratings and timestamps (unix seconds).

    Raises:
        DataError: no such file, or it does not hold what it should.
        ConfigError: the threshold is outside (1, 5].

    >>> from debias_jax.data import movielens
    >>> movielens.load_100k("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    debias_jax.errors.DataError: no/such/folder is not a folder; it should hold u.data or ratings.csv ...
    """
    check_threshold(threshold)
    file = find_file(path, ["u.data", "ratings.csv", "ml-100k.inter"], SOURCE)
    suffix = pathlib.Path(file.name.removesuffix(".gz")).suffix
    header = {".csv": _COLUMNS, ".inter": _TYPED_HEADER}.get(suffix)
    table = read_integers(file, _COLUMNS, separator="," if suffix == ".csv" else "\t", header=header)
    if strict_counts:
        table.check_count(N_RATINGS)
        table.check_range("user", 1, N_USERS)
        table.check_range("item", 1, N_ITEMS)
    table.check_range("rating", 1, 5)
    table.check_distinct_pairs()
    user_ids, users = np.unique(table["user"], return_inverse=True)
    item_ids, items = np.unique(table["item"], return_inverse=True)
    if strict_counts and (len(user_ids), len(item_ids)) != (N_USERS, N_ITEMS):
        raise DataError(
            f"{file} holds {len(user_ids):,} users and {len(item_ids):,} items, "
            f"the published data {N_USERS:,} and {N_ITEMS:,}; strict_counts=False reads it all the same"
        )
    train = Interactions(
        users,
        items,
        table["rating"] >= threshold,
        len(user_ids),
        len(item_ids),
        ratings=table["rating"],
        timestamps=table["timestamp"],
    )
    return Dataset(
        name="ml_100k",
        train=train,
        validation=None,
        test=None,
        users=Vocabulary(map(str, user_ids.tolist()), kind="user"),
        items=Vocabulary(map(str, item_ids.tolist()), kind="item"),
        notes=(f"label = rating >= {threshold:g}",),
        item_bags=_genres(file.parent, item_ids),
    )


def _genres(folder: pathlib.Path, item_ids: np.ndarray) -> dict[str, np.ndarray] | None:
    """The genres of movies, as many columns as the longest row has, in the order of their ids; None without the file.

    Raises:
        DataError: a line is not a movie with a flag for each genre, or a rated movie is missing.
    """
    file = next((folder / name for name in ("u.item", "u.item.gz") if (folder / name).is_file()), None)
    if file is None:
        return None
    genres = {}
    # Latin-1 titles are read over.
    with open_text(file, errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            movie, *others = line.rstrip().split("|")
            flags = others[len(_MOVIE_COLUMNS) - 1 :]
            if not movie.isdecimal() or len(flags) != len(GENRES) or not {*flags} <= {"0", "1"}:
                raise DataError(
                    f"{file}:{number}: not a movie with {', '.join(_MOVIE_COLUMNS)} and {len(GENRES)} flags of "
                    "genres, separated by '|'; restore the file, or take it away to read no genres"
                )
            genres[int(movie)] = [genre for genre, flag in enumerate(flags) if flag == "1"]
    if missing := [int(item) for item in item_ids if int(item) not in genres]:
        raise DataError(
            f"{file} has no movie {missing[0]}, which is rated; restore the file, or take it away to read no genres"
        )
    rows = [genres[int(item)] for item in item_ids]
    ids = np.full((len(rows), max([1, *map(len, rows)])), -1, np.int32)
    for row, own in enumerate(rows):
        ids[row, : len(own)] = own
    return {"genres": ids}
