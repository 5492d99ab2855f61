"""From a config to a dataset: readers and splits by their names."""

import functools
import os
import pathlib

from ml_collections import ConfigDict

from debias_jax import data
from debias_jax.data.types import Dataset
from debias_jax.errors import ConfigError, DataError
from debias_jax.experiment import _complete, _logistic_mf
from debias_jax.experiment._config import call_with_options, choose


def ml_100k_implicit(path: str, *, min_user_rows: int = 10, min_item_rows: int = 10) -> Dataset:
    """MovieLens 100K as implicit feedback, see ``data.implicit.from_ratings``."""
    ratings = data.movielens.load_100k(path)
    return data.implicit.from_ratings(ratings, min_user_rows=min_user_rows, min_item_rows=min_item_rows)


DATASETS = {
    "beauty": data.beauty.load,
    "coat": data.coat.load,
    "coat_fixed_split": data.coat.load_fixed_split,
    "gowalla": data.gowalla.load,
    "kuairec": data.kuairec.load,
    "ml_100k": data.movielens.load_100k,
    "ml_100k_exposure": _logistic_mf.load_ml_100k_exposure,
    "ml_100k_implicit": ml_100k_implicit,
    "ml_100k_sim": _complete.load_ml_100k_sim,
    "ml_1m": data.ml_1m.load,
    "own": data.frame.read,
    "own_exposure": _logistic_mf.load_own_exposure,
    "sequences": data.sequences.load,
    "synthetic": data.synthetic.generate,
    "synthetic_sequences": data.synthetic_sequences.generate,
    "yahoo_r3": data.yahoo_r3.load,
}
"""Readers by ``config.data.name``, and the generators of ``GENERATED``."""

GENERATED = ("synthetic", "synthetic_sequences")
"""Datasets that are made from ``config.data.options`` and have no path."""

FOLDERS = {
    "beauty": "beauty",
    "coat": "coat",
    "coat_fixed_split": "coat",
    "gowalla": "gowalla",
    "kuairec": "kuairec",
    "ml_100k": "ml-100k",
    "ml_100k_exposure": "ml-100k",
    "ml_100k_implicit": "ml-100k",
    "ml_100k_sim": "ml-100k",
    "ml_1m": "ml-1m",
    "yahoo_r3": "yahoo-r3",
}
"""Where each dataset lies below ``DEBIAS_DATA_DIR``."""


def random_test_then_biif(
    dataset: Dataset, *, test: float = 0.1, validation: float = 0.1, seed: int = 0
) -> Dataset:
    """A random test part where the log has none, then Biif's preparation where it has no validation part.

    Args:
        dataset: a log.
        test: share of each user's rows for the test part; it is as biased as the log.
        validation: share of the remaining rows for validation.
        seed: of both draws.
    """
    if dataset.test is None:
        dataset = data.splits.random_split(dataset, validation=0.0, test=test, seed=seed, per_user=True)
    if dataset.validation is None:
        return data.splits.biif(dataset, hyper_fraction=validation, seed=seed)
    return dataset.replace(probably_exposed=data.splits.probably_exposed(dataset.train))


def random_where_missing(
    dataset: Dataset, *, test: float = 0.1, validation: float = 0.1, seed: int = 0, per_user: bool = True
) -> Dataset:
    """Random test and validation parts of the log, each only where the log has none.

    Args:
        dataset: a log.
        test: share of the rows for the test part; it is as biased as the log, as is validation.
        validation: share of the rows for validation.
        seed: of the draw.
        per_user: True gives each user these shares, rounded to the nearest count: at 0.1 a user of fewer than five
            rows keeps them all; False draws from all rows together.

    Raises:
        DataError: a part would be empty.
    """
    shares = {"test": test, "validation": validation}
    missing = {part: share for part, share in shares.items() if getattr(dataset, part) is None and share}
    if not missing:
        return dataset
    drawn = data.splits.random_split(
        dataset, **{part: missing.get(part, 0.0) for part in shares}, seed=seed, per_user=per_user
    )
    for part, share in missing.items():
        if not len(getattr(drawn, part)):
            raise DataError(
                f"{dataset.name}: no user has enough of the {len(dataset.train):,} rows for a {part} share of "
                f"{share:g}; draw from all rows together with data.split.per_user=False, or raise data.split.{part}"
            )
    note = f"{' and '.join(missing)} drawn from the log, and as biased as it is"
    return drawn.replace(notes=(*drawn.notes, note))


def subsample(dataset: Dataset, *, fraction: float, seed: int = 2024) -> Dataset:
    """A random part of the training rows, for studies of sparsity; validation and test stay.

    What is dropped counts as not observed, also for propensities that are fitted.

    Args:
        dataset: with the parts that it came with.
        fraction: share of the training rows to keep, in (0, 1]; the count is rounded down.
        seed: of the draw, the same for all runs; the parts of one seed are nested.

    Source:
        BADR, its study of sparsity: fractions .8, .6, .4 and .2, one draw (seed 2024) for all training seeds.
    """
    train = data.splits.subsample(dataset.train, fraction=fraction, seed=seed)
    note = f"training rows: {fraction:.0%} of {len(dataset.train):,}, drawn at random with seed {seed}"
    return dataset.replace(train=train, notes=(*dataset.notes, note))


SPLITS = {
    "biif": data.splits.biif,
    "global_time": data.sequences.global_time_split,
    "leave_one_out": data.sequences.leave_one_out,
    "random": data.splits.random_split,
    "random_test_then_biif": random_test_then_biif,
    "random_where_missing": random_where_missing,
    "subsample": subsample,
}
"""Splits by ``config.data.split.name``: ``(dataset, **options) -> dataset``."""


def load_dataset(config: ConfigDict) -> tuple[Dataset, data.Report]:
    """Reads (or generates) the dataset of ``config.data`` and splits it.

    Returns:
        The dataset, and the report of what is in it.

    Raises:
        ConfigError: an option is unknown, or no path is known.
        DataError: the files are missing or wrong.
    """
    settings = config.data
    reader = choose("dataset", settings.name, DATASETS)
    # A flag cannot say None: --config.data.options.label= takes back a column that the config names.
    options = {name: None if value == "" else value for name, value in settings.options.items()}
    if settings.name in GENERATED:
        dataset = call_with_options(reader, options, "data.options")
    else:
        path = settings.path
        if not path and settings.name in FOLDERS and os.environ.get("DEBIAS_DATA_DIR"):
            path = str(pathlib.Path(os.environ["DEBIAS_DATA_DIR"]) / FOLDERS[settings.name])
        if not path:
            raise ConfigError(
                f"where is the dataset {settings.name}? pass --config.data.path=FOLDER, or set DEBIAS_DATA_DIR to "
                "the folder that holds it"
            )
        dataset = call_with_options(functools.partial(reader, path), options, "data.options")
    dropped = {}
    if isinstance(dataset, tuple):
        dataset, read = dataset
        dropped = {
            name: getattr(read, name)
            for name in ("unobserved_rows", "duplicates_dropped", "bad_rows_skipped", "bad_row_examples")
        }
    split = dict(settings.split)
    if split:
        chosen = choose("split", split.pop("name", ""), SPLITS)
        dataset = call_with_options(functools.partial(chosen, dataset), split, "data.split")
    return dataset, data.summarise(dataset, **dropped)
