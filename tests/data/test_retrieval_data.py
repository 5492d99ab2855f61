"""Gowalla's split and implicit feedback made of ratings, on the real files and on small ones with one fault each."""

import dataclasses
import gzip

import numpy as np
import pytest

from debias_jax import data
from debias_jax.data import gowalla, implicit, movielens
from debias_jax.errors import ConfigError, DataError


def test_gowalla(data_dir):
    dataset = gowalla.load(data_dir / "gowalla")
    assert (dataset.n_users, dataset.n_items) == (29_858, 40_981)
    assert (len(dataset.train), len(dataset.test), dataset.validation) == (810_128, 217_242, None)
    assert len(np.unique(dataset.test.users)) == 29_858
    assert len(np.unique(dataset.train.items)) == 40_981
    with gzip.open(data_dir / "gowalla" / "test.txt.gz", "rt") as file:
        lines = [line.split() for line in file]
    expected = {(int(user), int(item)) for user, *items in lines for item in items}
    assert set(zip(dataset.test.users.tolist(), dataset.test.items.tolist(), strict=True)) == expected


def write(folder, train="0 3 1\n2 0\n", test="1 2\n0 0\n", zipped=False):
    for name, text in (("train.txt", train), ("test.txt", test)):
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        else:
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("zipped", [False, True])
def test_gowalla_as_text(tmp_path, zipped):
    dataset = gowalla.load(write(tmp_path, zipped=zipped), strict_counts=False)
    assert (dataset.n_users, dataset.n_items) == (3, 4)
    assert dataset.train.users.tolist() == [0, 0, 2] and dataset.train.items.tolist() == [3, 1, 0]
    assert dataset.test.users.tolist() == [0, 1] and dataset.test.items.tolist() == [0, 2]
    assert (dataset.train.labels == 1).all()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": "0 1\n1 x\n"}, r"train\.txt:2 holds something that is no number from 0: '1 x'"),
        ({"train": "0 -1\n"}, r"train\.txt:1 holds something"),
        ({"train": "0 1 1\n"}, r"train\.txt:1: an item stands there twice"),
        ({"train": "\n"}, r"train\.txt holds no pairs"),
        ({"train": "0 1\n0 1\n"}, "a pair stands twice in the training part"),
        ({"test": "0 1\n"}, "user 0, item 1 is in the training and in the test part"),
    ],
)
def test_faults_of_the_text_files(tmp_path, parts, message):
    with pytest.raises(DataError, match=message):
        gowalla.load(write(tmp_path, **parts), strict_counts=False)


def test_other_counts_need_leave(tmp_path):
    with pytest.raises(
        DataError, match=r"3 users, 4 items, 3 training and 2 test rows, .*strict_counts=False"
    ):
        gowalla.load(write(tmp_path))
    (tmp_path / "test.txt").unlink()
    with pytest.raises(DataError, match=r"holds no test\.txt .*SNAP|holds no test\.txt .*snap"):
        gowalla.load(tmp_path)


def test_faults_of_the_arrays(tmp_path):
    good = {
        "train_indptr": [0, 2, 3],
        "train_items": [0, 1, 1],
        "test_indptr": [0, 1, 2],
        "test_items": [2, 0],
        "n_items": 3,
    }

    def load(**changed):
        arrays = {name: np.asarray(value) for name, value in (good | changed).items() if value is not None}
        np.savez(tmp_path / "gowalla.npz", **arrays)
        return gowalla.load(tmp_path, strict_counts=False)

    assert load().train.users.tolist() == [0, 0, 1]
    with pytest.raises(DataError, match="not an npz file with the arrays train_indptr, .*test_items"):
        load(test_items=None)
    with pytest.raises(DataError, match="test_indptr does not cut the 2 test_items into users"):
        load(test_indptr=[0, 1, 3])
    with pytest.raises(DataError, match=r"train_items are not all in \[0, 3\)"):
        load(train_items=[0, 3, 1])
    (tmp_path / "gowalla.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="not an npz file"):
        gowalla.load(tmp_path)


def test_movielens_becomes_the_published_pairs(data_dir):
    dataset = implicit.from_ratings(movielens.load_100k(data_dir / "ml-100k"))
    assert (dataset.n_users, dataset.n_items, len(dataset.train)) == (943, 1152, 53_473)
    assert (dataset.train.labels == 1).all()


def ratings(rows, n_users, n_items):
    users, items, values = np.array(rows).T
    log = data.synthetic.generate(seed=0, n_users=n_users, n_items=n_items, mean_exposure=0.9)
    train = dataclasses.replace(
        log.train.take(np.zeros(len(rows), int)),
        users=users.astype(np.int32),
        items=items.astype(np.int32),
        ratings=values.astype(np.float32),
    )
    return log.replace(train=train, test=None, validation=None)


def test_the_core_is_taken_until_it_stands_and_the_mean_is_over_it():
    # Item 2 has one row; without it user 1 has one, and without user 1 item 1 has two left.
    rows = [(0, 0, 1), (0, 1, 5), (1, 1, 3), (1, 2, 4), (2, 0, 2), (2, 1, 2)]
    dataset = implicit.from_ratings(ratings(rows, 3, 3), min_user_rows=2, min_item_rows=2)
    assert (dataset.users.ids, dataset.items.ids) == (("0", "2"), ("0", "1"))
    # User 0 has the mean 3, user 2 rates all alike.
    pairs = list(zip(dataset.train.users.tolist(), dataset.train.items.tolist(), strict=True))
    assert pairs == [(0, 1), (1, 0), (1, 1)]
    assert dataset.train.ratings.tolist() == [5, 2, 2]


def test_what_cannot_be_made_implicit():
    log = ratings([(0, 0, 1), (0, 1, 5)], 2, 2)
    with pytest.raises(DataError, match="no user with 3 ratings of items with 1 is left"):
        implicit.from_ratings(log, min_user_rows=3, min_item_rows=1)
    with pytest.raises(ConfigError, match="has no ratings"):
        implicit.from_ratings(log.replace(train=dataclasses.replace(log.train, ratings=None)))
    with pytest.raises(ConfigError, match="has a test part; make implicit feedback before splitting"):
        implicit.from_ratings(log.replace(test=log.train))
    with pytest.raises(ConfigError, match="min_item_rows"):
        implicit.from_ratings(log, min_item_rows=-1)
