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


class TestFirstBlock:
    def log(self):
        # Users 0-3 in the file's order; b is rare, and without user 2 it is rarer.
        names = ["a", "b", "c", "d"]
        rows = [(0, "c"), (0, "a"), (1, "a"), (1, "c"), (1, "d"), (2, "b"), (3, "a"), (3, "b"), (3, "c")]
        users, items = np.array([u for u, _ in rows]), np.array([names.index(i) for _, i in rows])
        train = data.Interactions(users, items, np.ones(9), 4, 4, ratings=np.arange(9) % 5 + 1.0)
        vocabularies = (
            data.Vocabulary(["u0", "u1", "u2", "u3"], kind="user"),
            data.Vocabulary(names, kind="item"),
        )
        return data.Dataset("log", train, None, None, *vocabularies, notes=("label = rated",))

    def test_users_are_dropped_then_items_once_or_until_stable(self):
        once = implicit.first_block(self.log(), min_user_rows=2, min_item_rows=3)
        # u2 has one row and goes; b then has one and d one, and both go.
        assert (once.users.ids, once.items.ids) == (("u0", "u1", "u3"), ("a", "c"))
        assert len(once.train) == 6
        three = implicit.first_block(self.log(), min_user_rows=3, min_item_rows=2)
        # u0 and u2 have fewer than three; a and c have two left, so u1 and u3 are left with two.
        assert (three.users.ids, three.items.ids) == (("u1", "u3"), ("a", "c"))
        with pytest.raises(DataError, match="log: the first 3000 users with 3 rows .* no row in common"):
            implicit.first_block(self.log(), min_user_rows=3, min_item_rows=2, until_stable=True)

    def test_the_first_of_what_is_left_with_its_rows(self):
        block = implicit.first_block(self.log(), min_user_rows=0, min_item_rows=0, n_users=2, n_items=3)
        # d is the fourth item; b is within the first three and has no row of u0 or u1.
        assert (block.users.ids, block.items.ids) == (("u0", "u1"), ("a", "c"))
        pairs = list(zip(block.train.users.tolist(), block.train.items.tolist(), strict=True))
        assert pairs == [(0, 1), (0, 0), (1, 0), (1, 1)]
        assert block.train.ratings.tolist() == [1, 2, 3, 4]
        assert (
            block.notes[0] == "label = rated" and "dropped once; of these the first 2 and 3" in block.notes[1]
        )

    def test_generated_log_agrees_with_a_plain_loop(self, rng):
        users, items = np.divmod(rng.permutation(60 * 50)[:700], 50)
        log = data.Interactions(users, items, np.ones(700), 60, 50)
        dataset = data.Dataset(
            "log",
            log,
            None,
            None,
            data.Vocabulary.range(60, kind="user"),
            data.Vocabulary.range(50, kind="item"),
        )
        block = implicit.first_block(dataset, min_user_rows=10, min_item_rows=8, n_users=20, n_items=15)
        pairs = list(zip(users.tolist(), items.tolist(), strict=True))
        pairs = [(u, i) for u, i in pairs if sum(u == v for v, _ in pairs) >= 10]
        pairs = [(u, i) for u, i in pairs if sum(i == j for _, j in pairs) >= 8]
        first_users, first_items = sorted({u for u, _ in pairs})[:20], sorted({i for _, i in pairs})[:15]
        expected = [(u, i) for u, i in pairs if u in first_users and i in first_items]
        found = zip(block.users.decode(block.train.users), block.items.decode(block.train.items), strict=True)
        assert [(int(u), int(i)) for u, i in found] == expected

    def test_messages(self):
        for change, message in (
            ({"n_users": 0}, "n_users = 0 must be an integer >= 1"),
            ({"min_item_rows": -1}, r"min_item_rows = -1 must be"),
        ):
            with pytest.raises(ConfigError, match=message):
                implicit.first_block(self.log(), **change)
        tested = self.log().replace(test=self.log().train)
        with pytest.raises(ConfigError, match="log has a test part; choose users and items before splitting"):
            implicit.first_block(tested)
