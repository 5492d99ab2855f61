"""Readers of published datasets: on the real files, and on generated files with one fault each."""

import gzip

import numpy as np
import pytest

from debias_jax.data import coat, kuairec, movielens, yahoo_r3
from debias_jax.errors import ConfigError, DataError

YAHOO = "ydata-ymusic-rating-study-v1_0-{}.txt"


def write(path, lines):
    text = "".join(f"{line}\n" for line in lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def write_yahoo(folder, train=("1\t1\t5", "15400\t1000\t1"), test=("1\t2\t4",)):
    write(folder / YAHOO.format("train"), train)
    write(folder / YAHOO.format("test"), test)
    return folder


def write_coat(folder):
    for part, value in (("train", 4), ("test", 5)):
        matrix = np.zeros((290, 300), int)
        matrix[np.arange(290), np.arange(290)] = value
        write(folder / f"{part}.ascii", [" ".join(map(str, row)) for row in matrix])
    return folder


def write_split(folder, pattern, **parts):
    defaults = {"train": ["0,0,1"], "val": ["1,1,0"], "test": ["2,2,1"]}
    for part, lines in (defaults | parts).items():
        write(folder / pattern.format(part), ["user,item,label", *lines])
    return folder


def test_coat(data_dir):
    data = coat.load(data_dir / "coat")
    counts = np.bincount(data.train.ratings.astype(int), minlength=6)[1:]
    assert counts.tolist() == [1901, 1437, 1717, 1275, 630]
    assert np.bincount(data.test.ratings.astype(int), minlength=6)[1:].tolist() == [1879, 899, 1002, 641, 219]
    assert (len(data.train.positives), len(np.unique(data.train.positives.items))) == (1905, 284)
    assert len(np.unique(data.test.positives.users)) == 237
    assert (data.n_users, data.n_items, data.validation) == (290, 300, None)
    assert data.user_features.shape == (290, 14)
    assert data.item_features.shape == (300, 33)
    assert set(data.user_features.sum(1)) == {4.0}
    assert len(coat.load(data_dir / "coat", threshold=3).train.positives) == 1717 + 1275 + 630


def test_coat_fixed_split_agrees_with_the_matrices(data_dir):
    raw, split = coat.load(data_dir / "coat", threshold=3), coat.load_fixed_split(data_dir / "coat")
    assert (len(split.train), len(split.validation), len(split.test)) == (6960, 928, 3712)
    label = dict(zip(raw.test.pair_keys.tolist(), raw.test.labels.tolist(), strict=True))
    for part in (split.validation, split.test):
        assert [label[key] for key in part.pair_keys.tolist()] == part.labels.tolist()


def test_kuairec(data_dir):
    data = kuairec.load(data_dir / "kuairec")
    assert (data.n_users, data.n_items) == (1411, 3327)
    sizes = [len(part) for part in (data.train, data.validation, data.test)]
    assert sizes == [201_171, 11_711, 105_402]
    shares = [part.labels.mean() for part in (data.train, data.validation, data.test)]
    np.testing.assert_allclose(shares, [0.2614, 0.0498, 0.0495], atol=5e-5)
    assert len(np.unique(data.test.users)) == 1411
    assert len(np.unique(data.train.items)) == 3327


def test_movielens_in_its_three_forms(data_dir, tmp_path):
    data = movielens.load_100k(data_dir / "ml-100k")
    assert (len(data.train), data.n_users, data.n_items, data.test) == (100_000, 943, 1682, None)
    counts = np.bincount(data.train.ratings.astype(int), minlength=6)[1:]
    assert counts.tolist() == [6110, 11370, 27145, 34174, 21201]
    assert (data.train.timestamps.min(), data.train.timestamps.max()) == (874_724_710, 893_286_638)
    assert (data.users.ids[0], data.users.ids[-1], data.items.ids[-1]) == ("1", "943", "1682")

    with gzip.open(data_dir / "ml-100k" / "ratings.csv.gz", "rt") as file:
        rows = [line.strip().replace(",", "\t") for line in file][1:]
    plain = write(tmp_path / "u.data", rows)
    typed = write(
        tmp_path / "ml-100k.inter", ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *rows]
    )
    for other in (movielens.load_100k(plain), movielens.load_100k(typed), movielens.load_100k(tmp_path)):
        np.testing.assert_array_equal(other.train.pair_keys, data.train.pair_keys)
        np.testing.assert_array_equal(other.train.labels, data.train.labels)
        assert other.items == data.items


def movie(number, *genres, flag="1"):
    flags = [flag if name in genres else "0" for name in movielens.GENRES]
    return "|".join([str(number), "Caf\xe9 (1995)", "01-Jan-1995", "", "http://x", *flags])


@pytest.mark.parametrize("name", ["u.item", "u.item.gz"])
def test_movielens_reads_genres_where_they_are(tmp_path, name):
    path = write(tmp_path / "u.data", ["10\t300\t5\t7", "9\t20\t3\t8", "9\t7\t3\t8"])
    assert movielens.load_100k(path, strict_counts=False).item_bags is None
    movies = [movie(300, "Western", "Action"), movie(8, "War"), movie(7), movie(20, "unknown"), ""]
    text = "\n".join(movies).encode("latin-1")
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    for where in (path, tmp_path):
        log = movielens.load_100k(where, strict_counts=False)
        assert log.items.ids == ("7", "20", "300")
        assert log.item_bags["genres"].tolist() == [[-1, -1], [0, -1], [1, 18]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([movie(20), "300|a|b"], r"u\.item:2: not a movie with id, title, .* and 19 flags of genres"),
        ([movie("x"), movie(20)], r"u\.item:1: not a movie"),
        ([movie(20), movie(300, "War", flag="2")], r"u\.item:2: not a movie"),
        ([movie(20)], r"u\.item has no movie 300, which is rated; restore the file, or take it away"),
    ],
)
def test_a_movie_table_that_is_none_is_refused(tmp_path, lines, message):
    path = write(tmp_path / "u.data", ["10\t300\t5\t7", "9\t20\t3\t8"])
    (tmp_path / "u.item").write_text("\n".join(lines), encoding="latin-1")
    with pytest.raises(DataError, match=message):
        movielens.load_100k(path, strict_counts=False)


def test_movielens_genres_of_the_published_file(data_dir):
    log = movielens.load_100k(data_dir / "ml-100k")
    genres = log.item_bags["genres"]
    assert genres.shape == (1682, 6)
    # Toy Story is animation, for children, and a comedy.
    assert [movielens.GENRES[genre] for genre in genres[0] if genre >= 0] == [
        "Animation",
        "Children's",
        "Comedy",
    ]
    # The published table counts 725 dramas and two movies of an unknown genre.
    assert ((genres == movielens.GENRES.index("Drama")).sum(), (genres == 0).sum()) == (725, 2)


def test_movielens_compacts_ids_in_numeric_order(tmp_path):
    path = write(tmp_path / "u.data", ["10\t300\t5\t7", "9\t20\t3\t8"])
    data = movielens.load_100k(path, strict_counts=False)
    assert data.users.ids == ("9", "10")
    assert data.items.decode(data.train.items) == ["300", "20"]
    assert data.train.labels.tolist() == [1.0, 0.0]


def test_yahoo_from_generated_files(tmp_path):
    data = yahoo_r3.load(write_yahoo(tmp_path), strict_counts=False)
    assert (data.n_users, data.n_items) == (15_400, 1_000)
    assert data.users.decode(data.train.users) == ["1", "15400"]
    assert data.items.decode(data.train.items) == ["1", "1000"]
    assert (data.train.labels.tolist(), data.train.ratings.tolist()) == ([1.0, 0.0], [5.0, 1.0])
    assert data.test.labels.tolist() == [1.0]
    assert yahoo_r3.load(tmp_path, threshold=5, strict_counts=False).test.labels.tolist() == [0.0]


def test_yahoo_takes_crlf_and_gzip(tmp_path):
    write(tmp_path / (YAHOO.format("train") + ".gz"), ["1\t1\t5"])
    (tmp_path / YAHOO.format("test")).write_bytes(b"2\t2\t3\r\n3\t3\t4\r\n")
    assert yahoo_r3.load(tmp_path, strict_counts=False).test.ratings.tolist() == [3.0, 4.0]


def test_yahoo_counts_are_checked(tmp_path):
    with pytest.raises(
        DataError, match=r"train\.txt has 2 rows, the published data 311,704; pass strict_counts"
    ):
        yahoo_r3.load(write_yahoo(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0\t1\t5", r"train\.txt:2: user 0 is outside 1\.\.15400"),
        ("1\t1001\t5", r":2: item 1001 is outside 1\.\.1000"),
        ("1\t2\t6", r":2: rating 6 is outside 1\.\.5"),
        ("1\t1\t3", r":2: user 1, item 1 also stands in line 1"),
        ("1\t2", r":2: '1\\t2' is not 3 integers \(user, item, rating\)"),
        ("1\t2\t3\t4", r":2: .* is not 3 integers"),
        ("1 2 3", ":2: '1 2 3' is not 3 integers"),
        ("", ":2: '' is not 3 integers"),
        ("1\t2\tnan", ":2: .* is not 3 integers"),
        ("1\t2\t4.5", ":2: .* is not 3 integers"),
        ("1\t2\t99999999999999999999", ":2: .* is not 3 integers"),
    ],
)
def test_yahoo_names_the_faulty_line(tmp_path, line, message):
    folder = write_yahoo(tmp_path, train=("1\t1\t5", line, "3\t3\t3"))
    with pytest.raises(DataError, match=message):
        yahoo_r3.load(folder, strict_counts=False)


def test_coat_from_generated_files_without_features(tmp_path):
    data = coat.load(write_coat(tmp_path), strict_counts=False)
    assert (len(data.train), data.user_features) == (290, None)
    with pytest.raises(DataError, match=r"train\.ascii holds 290 ratings, the published data 6,960"):
        coat.load(tmp_path)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda lines: lines[:-1], "has 289 lines, expected 290"),
        (
            lambda lines: [*lines[:6], lines[6] + " 0", *lines[7:]],
            r"train\.ascii:7: 301 numbers, expected 300",
        ),
        (
            lambda lines: ["6" + lines[0][1:], *lines[1:]],
            r":1: column 1 holds '6', expected an integer 0\.\.5",
        ),
        (lambda lines: ["x" + lines[0][1:], *lines[1:]], ":1: column 1 holds 'x'"),
    ],
)
def test_coat_names_the_faulty_line(tmp_path, fault, message):
    file = write_coat(tmp_path) / "train.ascii"
    write(file, fault(file.read_text().splitlines()))
    with pytest.raises(DataError, match=message):
        coat.load(tmp_path, strict_counts=False)


def test_fixed_splits_from_generated_files(tmp_path):
    data = kuairec.load(write_split(tmp_path, "split_thres2_{}.csv"), strict_counts=False)
    assert [part.labels.tolist() for part in (data.train, data.validation, data.test)] == [
        [1.0],
        [0.0],
        [1.0],
    ]
    with pytest.raises(DataError, match="has 1 rows, the published data 201,171"):
        kuairec.load(tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (dict(train=["290,0,1"]), r"train\.csv\.gz:2: user 290 is outside 0\.\.289"),
        (dict(train=["0,0,1", "0,0,0"]), r":3: user 0, item 0 also stands in line 2"),
        (dict(val=["0,0,2"]), r"val\.csv\.gz:2: label 2 is outside 0\.\.1"),
        (dict(test=["1,1,0"]), r"test\.csv\.gz:2: this pair is in .*val\.csv\.gz too"),
        (dict(test=[]), "holds a header and no rows"),
    ],
)
def test_fixed_splits_name_the_faulty_line(tmp_path, parts, message):
    folder = write_split(tmp_path, "split_thres3_{}.csv.gz", **parts)
    with pytest.raises(DataError, match=message):
        coat.load_fixed_split(folder, strict_counts=False)


def test_wrong_header(tmp_path):
    path = write(tmp_path / "ratings.csv", ["userId,movieId,rating,timestamp", "1,1,5,1"])
    with pytest.raises(
        DataError, match=r"ratings\.csv:1: the header is .*, expected 'user,item,rating,timestamp'"
    ):
        movielens.load_100k(path)


@pytest.mark.parametrize(
    ("load", "wanted", "source"),
    [
        (coat.load, r"train\.ascii", "CC BY-NC"),
        (coat.load_fixed_split, r"split_thres3_train\.csv", "schnabts/mnar"),
        (kuairec.load, r"split_thres2_train\.csv", "CC BY-SA 4.0"),
        (yahoo_r3.load, r"ydata-ymusic-rating-study-v1_0-train\.txt", "signed agreement"),
        (movielens.load_100k, r"u\.data or ratings\.csv or ml-100k\.inter", "grouplens.org"),
    ],
)
def test_a_missing_file_is_named_with_its_source(tmp_path, load, wanted, source):
    with pytest.raises(DataError, match=f"holds no {wanted} .*{source}"):
        load(tmp_path)
    with pytest.raises(DataError, match=f"is not a folder; it should hold {wanted}"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe1\t1\t5\n", "is not UTF-8"),
        (gzip.compress(b"1\t1\t5\t9\n" * 99, mtime=0)[:30], "cannot be read"),
    ],
    ids=["empty", "utf-16", "truncated gzip"],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "u.data").write_bytes(content)
    with pytest.raises(DataError, match=message):
        movielens.load_100k(tmp_path)


@pytest.mark.parametrize("threshold", [1, 6, float("nan"), "4", True])
def test_threshold_must_part_the_ratings(threshold):
    for load in (coat.load, yahoo_r3.load, movielens.load_100k):
        with pytest.raises(ConfigError, match="threshold = "):
            load("anywhere", threshold=threshold)
