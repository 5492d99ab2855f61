"""Files of sequences: Beauty and MovieLens 1M as published, and small files with one fault each."""

import gzip

import numpy as np
import pytest

from debias_jax.data import beauty, ml_1m, sequences, summarise
from debias_jax.errors import DataError


@pytest.mark.parametrize(
    ("reader", "folder", "counts", "least", "most"),
    [
        (beauty.load, "beauty", (22_363, 12_101, 198_502), 5, 204),
        (ml_1m.load, "ml-1m", (6_040, 3_416, 999_611), 18, 2_277),
    ],
)
def test_published_data(data_dir, reader, folder, counts, least, most):
    dataset = reader(data_dir / folder)
    assert (dataset.n_users, dataset.n_items, len(dataset.train)) == counts
    assert not sequences.has_repeats(dataset.train)
    sizes = np.bincount(dataset.train.users)
    assert (sizes.min(), sizes.max(), np.bincount(dataset.train.items).min()) == (least, most, 5)
    split = sequences.leave_one_out(dataset)
    assert (len(split.train), len(split.validation), len(split.test)) == (
        counts[2] - 2 * counts[0],
        counts[0],
        counts[0],
    )


def test_text_and_arrays_are_one_dataset(data_dir):
    folder = data_dir / "beauty"
    text, arrays = (sequences.load(folder / f"sequences.{suffix}") for suffix in ("txt.gz", "npz"))
    assert (text.users, text.items, text.name) == (arrays.users, arrays.items, arrays.name)
    np.testing.assert_array_equal(text.train.pair_keys, arrays.train.pair_keys)


def write(folder, text, name="sequences.txt"):
    content = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize("name", ["sequences.txt", "sequences.txt.gz"])
def test_text(tmp_path, name):
    dataset = sequences.load(write(tmp_path, "007 b a b\r\n7\ta\r\nzoë  nan\r\n\r\n", name))
    assert (dataset.users.ids, dataset.items.ids) == (("007", "7", "zoë"), ("b", "a", "nan"))
    assert dataset.train.users.tolist() == [0, 0, 0, 1, 2]
    assert dataset.train.items.tolist() == [0, 1, 0, 1, 2]
    assert (dataset.train.labels == 1).all() and dataset.train.timestamps is None
    assert (dataset.validation, dataset.test, dataset.name) == (None, None, tmp_path.name)
    assert summarise(dataset).repeats == {"train": 1}
    assert sequences.load(tmp_path / name).name == "sequences"
    assert sequences.load(tmp_path, name="shop").name == "shop"


def test_an_id_may_hold_a_no_break_space(tmp_path):
    dataset = sequences.load(write(tmp_path, "u\u00a01 a\u00a0b c\n"))
    assert (dataset.users.ids, dataset.items.ids) == (("u\u00a01",), ("a\u00a0b", "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"sequences\.txt is empty"),
        ("\n\n", r"sequences\.txt is empty"),
        ("a x\nb\n", r"sequences\.txt:2 holds one id, 'b', and no items\. A line is a user"),
        ("user,item\na,x\n", r"sequences\.txt:1 holds one id, 'user,item', .*data\.frame reads tables"),
        ("a x\n\nb y\n", r"sequences\.txt:2 holds nothing"),
        ("a x\nb y\na z\n", r"sequences\.txt:3: user 'a' also stands in line 1"),
        (b"a \xff\n", r"sequences\.txt is not UTF-8 text"),
    ],
)
def test_faults_of_the_text(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        sequences.load(write(tmp_path, text))


def test_a_torn_gzip_file(tmp_path):
    content = gzip.compress(b"a x y z\n" * 50)
    (tmp_path / "sequences.txt.gz").write_bytes(content[:-12])
    with pytest.raises(DataError, match=r"sequences\.txt\.gz cannot be read"):
        sequences.load(tmp_path)


def test_a_missing_file_says_what_was_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"holds no sequences\.txt or sequences\.npz .*oldest first"):
        sequences.load(tmp_path)
    with pytest.raises(DataError, match=r"holds no sequences\.txt .*Beauty as sequences is at https"):
        beauty.load(tmp_path)


def test_other_counts_need_leave(tmp_path):
    write(tmp_path, "1 5 3\n2 5\n")
    for reader, published in ((beauty.load, "22,363, 12,101 and 198,502"), (ml_1m.load, "6,040, 3,416 and")):
        with pytest.raises(DataError, match=f"2 users, 2 items and 3 events, the published data {published}"):
            reader(tmp_path)
        assert len(reader(tmp_path, strict_counts=False).train) == 3


GOOD = {"indptr": [0, 2, 3], "items": [2, 0, 2], "user_ids": [10, 20], "item_ids": ["x", "y", "z"]}


@pytest.fixture
def load_arrays(tmp_path):
    def load(**changed):
        arrays = {name: np.asarray(value) for name, value in (GOOD | changed).items() if value is not None}
        np.savez(tmp_path / "sequences.npz", **arrays)
        return sequences.load(tmp_path)

    return load


def test_arrays(load_arrays):
    dataset = load_arrays()
    # By first appearance, and what nobody has comes last.
    assert (dataset.users.ids, dataset.items.ids) == (("10", "20"), ("z", "x", "y"))
    assert (dataset.train.users.tolist(), dataset.train.items.tolist()) == ([0, 0, 1], [0, 1, 0])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"items": None}, "not an npz file with the arrays indptr, items, user_ids, item_ids"),
        ({"indptr": [0, 2, 4]}, "indptr does not cut the 3 items into users"),
        ({"indptr": [0, 4, 3]}, "indptr does not cut the 3 items into users"),
        ({"indptr": []}, "indptr must be one row of integers, got float64"),
        ({"indptr": [0, 3]}, "indptr cuts out 1 users, user_ids has 2"),
        ({"indptr": [0, 3, 3]}, "user '20' has no items"),
        ({"indptr": [0], "items": np.zeros(0, int), "user_ids": np.zeros(0, int)}, "holds no users"),
        ({"items": [2, 0, 3]}, r"items are not all in \[0, 3\)"),
        ({"items": [2.0, 0, 1]}, "items must be one row of integers, got float64"),
        ({"item_ids": ["x", "y", "x"]}, "item_ids holds 'x' twice"),
        ({"user_ids": [0.5, 1.5]}, "user_ids must be one row of integers or strings, got float64"),
    ],
)
def test_faults_of_the_arrays(load_arrays, changed, message):
    with pytest.raises(DataError, match=message):
        load_arrays(**changed)


def test_a_torn_archive(load_arrays, tmp_path):
    load_arrays()
    file = tmp_path / "sequences.npz"
    whole = file.read_bytes()
    np.save(tmp_path / "one.npy", np.arange(3))
    one_array = (tmp_path / "one.npy").read_bytes()
    for content in (whole[: len(whole) // 2], b"PK\x03\x04", b"", one_array):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"sequences\.npz is not an npz file"):
            sequences.load(tmp_path)
