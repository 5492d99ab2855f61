"""The report, and that the data package needs neither jax nor polars to be imported."""

import subprocess
import sys

import numpy as np
import pytest

from debias_jax.data import Dataset, Interactions, Vocabulary, summarise


def part(pairs, labels):
    users, items = np.array(pairs).T
    return Interactions(users, items, np.array(labels), 4, 5)


@pytest.fixture
def dataset():
    train = part([(0, 0), (0, 1), (1, 0)], [1, 0, 1])
    return Dataset(
        "tiny",
        train,
        part([(0, 2)], [0]),
        part([(0, 0), (2, 3), (3, 3)], [0, 1, 1]),
        Vocabulary.range(4),
        Vocabulary.range(5),
        probably_exposed=train.take([0]),
        notes=("a note",),
    )


def test_counts(dataset):
    report = summarise(dataset)
    assert [p.name for p in report.parts] == ["train", "validation", "test", "probably exposed"]
    train = report.part("train")
    assert (train.rows, train.users, train.items, train.positives) == (3, 2, 2, 2)
    assert train.density == 3 / (4 * 5)
    assert report.overlaps == {"train and test": 1}
    assert report.cold == {"validation items": 1, "test users": 2, "test items": 1}
    with pytest.raises(KeyError, match="no part 'valid'"):
        report.part("valid")


def test_text_is_one_screen(dataset):
    dropped = dict(unobserved_rows=1200, duplicates_dropped=7, bad_rows_skipped=2)
    text = str(summarise(dataset, **dropped, bad_row_examples=("f.csv:3: x",)))
    for piece in (
        "tiny: 4 users x 5 items",
        "pairs in both train and test: 1",
        "test users without a training row: 2",
        "unobserved rows (label unknown, in no part): 1,200",
        "duplicates dropped: 7",
        "bad rows skipped: 2, e.g.",
        "f.csv:3: x",
        "a note",
        "2 (66.7%)",
    ):
        assert piece in text
    assert len(text.splitlines()) < 24
    assert max(map(len, text.splitlines())) <= 100


def test_repeats_and_context_are_counted(dataset):
    train = part([(0, 0), (0, 1), (0, 0), (0, 0)], [1, 1, 1, 1])
    report = summarise(dataset.replace(train=train, context=part([(1, 1), (1, 1), (1, 2)], [1, 1, 1])))
    assert report.repeats == {"train": 2, "context": 1}
    assert [p.name for p in report.parts] == ["train", "validation", "test", "context", "probably exposed"]
    assert "rows of train whose pair occurs before: 2 (50.0%)" in str(report)
    assert "rows of context whose pair occurs before: 1 (33.3%)" in str(report)
    assert summarise(dataset).repeats == {} and "occurs before" not in str(summarise(dataset))


def test_import_loads_neither_jax_nor_polars():
    code = "import sys, debias_jax.data; sys.exit(bool({'jax', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
