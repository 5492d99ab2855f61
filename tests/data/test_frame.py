"""The user's own files: what is read, and that every fault is named with its line."""

import csv
import gzip
import io
import pathlib
import sys
import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from debias_jax.data import sequences
from debias_jax.data.frame import read
from debias_jax.errors import ConfigError, DataError, MissingExtraError

pl = pytest.importorskip("polars")


@pytest.fixture
def file(tmp_path):
    def write(content, name="log.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def triples(data, part="train"):
    rows = getattr(data, part)
    return list(
        zip(data.users.decode(rows.users), data.items.decode(rows.items), rows.labels.tolist(), strict=True)
    )


def test_clicks(file):
    data, report = read(file("user,item\nb,x\na,x\nb,y\n"))
    assert triples(data) == [("b", "x", 1.0), ("a", "x", 1.0), ("b", "y", 1.0)]
    assert (data.users.ids, data.items.ids, data.name) == (("b", "a"), ("x", "y"), "log")
    assert report.part("train").rows == 3
    assert data.notes == ("each row is a click (label 1)",)


def test_all_columns_and_parts(file):
    text = (
        "when,who,what,stars,p,part,unused\n"
        "100,u1,i1,5,0.5,train,\n"
        "200,u1,i2,2.5,1,train,\n"
        "300,u2,i1,4,1e-3,validation,x\n"
        "400,u2,i3,3,0.25,test,\n"
    )
    data, report = read(
        file(text),
        user="who",
        item="what",
        rating="stars",
        threshold=4,
        timestamp="when",
        propensity="p",
        split="part",
        name="mine",
    )
    assert triples(data) == [("u1", "i1", 1.0), ("u1", "i2", 0.0)]
    assert triples(data, "validation") == [("u2", "i1", 1.0)]
    assert triples(data, "test") == [("u2", "i3", 0.0)]
    assert data.train.ratings.tolist() == [5.0, 2.5]
    assert data.train.timestamps.tolist() == [100, 200]
    np.testing.assert_array_equal(data.validation.propensities, np.float32([1e-3]))
    assert report.cold == {"validation users": 1, "test users": 1, "test items": 1}
    assert data.name == "mine"
    assert data.notes == ("label = stars >= 4", "columns that are not read: unused")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.tsv", "log.tsv.gz", "log.parquet"])
def test_formats_agree(tmp_path, name):
    frame = pl.DataFrame({"user": ["007", "7"], "item": ["nan", "é"], "label": [1, 0]})
    path = tmp_path / name
    if name == "log.parquet":
        frame.write_parquet(path)
    else:
        text = frame.write_csv(separator="\t" if ".tsv" in name else ",").encode()
        path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    data, _ = read(path, label="label")
    assert triples(data) == [("007", "nan", 1.0), ("7", "é", 0.0)]
    assert data.name == "log"


def test_separator_where_the_suffix_does_not_tell(file):
    assert len(read(file("user;item\na;b\n", "log.dat"), separator=";")[0].train) == 1
    with pytest.raises(DataError, match=r"cannot tell the format of \.dat"):
        read(file("user;item\na;b\n", "log.dat"))


IDS = [
    "7",
    "007",
    "7.0",
    " 7",
    "7 ",
    "nan",
    "NaN",
    "null",
    "None",
    "-1",
    "9" * 30,
    "é",
    "e\u0301",
    "\u05d0",
    "🙂",
    "=1+1",
]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_ids_are_kept_exactly(file, quoting):
    buffer = io.StringIO()
    writer = csv.writer(buffer, quoting=quoting)
    writer.writerows([("user", "item"), *((raw, f'a,"{raw}"') for raw in IDS)])
    data, _ = read(file(buffer.getvalue()))
    assert list(data.users.ids) == IDS
    assert list(data.items.ids) == [f'a,"{raw}"' for raw in IDS]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
        min_size=1,
        max_size=20,
        unique=True,
    )
)
def test_any_text_round_trips(ids):
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("user", "item"), *((raw, "x") for raw in ids)])
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "log.csv"
        path.write_bytes(buffer.getvalue().encode())
        assert list(read(path)[0].users.ids) == ids


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_dataset_or_a_data_error(content):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "log.csv"
        path.write_bytes(b"user,item,label\na,b,1\n" + content)
        for on_bad_rows in ("error", "skip"):
            try:
                data, _ = read(path, label="label", on_bad_rows=on_bad_rows, duplicates="first")
            except DataError:
                continue
            assert triples(data)[0] == ("a", "b", 1.0)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_newlines_and_byte_order_mark(file, newline, mark):
    data, _ = read(file(mark + newline.join(["user,item", "a,x", "b,y"])))
    assert triples(data) == [("a", "x", 1.0), ("b", "y", 1.0)]


BAD_ROWS = {
    "short": (b"c,x", "2 cells, the header has 4"),
    "long": (b"c,x,1,0.5,9", "5 cells, the header has 4"),
    "blank": (b"", "blank line"),
    "latin-1": (b"\xe9,x,1,0.5", "not UTF-8 text"),
    "quotes": (b'"c"x,x,1,0.5', "malformed row"),
    "empty user": (b",x,1,0.5", "column 'user' is empty"),
    "quoted empty item": (b'c,"",1,0.5', "column 'item' is empty"),
    "NUL": (b"c\x00,x,1,0.5", "column 'user' holds .* with a NUL byte or a line break"),
    "empty label": (b"c,x,,0.5", "column 'label' is empty"),
    "text label": (b"c,x,yes,0.5", "column 'label' holds 'yes', which is not a finite number"),
    "nan label": (b"c,x,nan,0.5", "column 'label' holds 'nan', which is not a finite number"),
    "inf label": (b"c,x,inf,0.5", "column 'label' holds 'inf'"),
    "huge label": (b"c,x,1e39,0.5", "column 'label' holds '1e39'"),
    "zero propensity": (b"c,x,1,0", r"column 'p' holds '0', which is outside \(0, 1\]"),
    "tiny propensity": (b"c,x,1,1e-60", "column 'p' holds '1e-60', which is outside"),
    "negative propensity": (b"c,x,1,-0.1", "column 'p' holds '-0.1', which is outside"),
    "large propensity": (b"c,x,1,1.01", "column 'p' holds '1.01', which is outside"),
    "nan propensity": (b"c,x,1,nan", "column 'p' holds 'nan', which is not a finite number"),
}


@pytest.mark.parametrize("row", BAD_ROWS)
def test_a_bad_row_is_named_or_skipped(file, row):
    line, message = BAD_ROWS[row]
    path = file(b"user,item,label,p\na,x,1,0.5\n" + line + b"\nb,y,0,0.5\n")
    with pytest.raises(DataError, match=rf"log\.csv:3: {message}.*on_bad_rows='skip'"):
        read(path, label="label", propensity="p")
    data, report = read(path, label="label", propensity="p", on_bad_rows="skip")
    assert triples(data) == [("a", "x", 1.0), ("b", "y", 0.0)]
    assert report.bad_rows_skipped == 1
    assert report.bad_row_examples[0].startswith(f"{path}:3: ")
    assert "bad rows skipped: 1" in str(report)


def test_the_line_is_right_after_quoted_line_breaks_and_blank_lines(file):
    path = file('user,item,text,label\na,x,"two\nlines",1\n\nb,y,"",oops\n')
    with pytest.raises(DataError, match=r":4: blank line \(1 more bad rows\)"):
        read(path, label="label")
    _, report = read(path, label="label", on_bad_rows="skip")
    assert [example.split("log.csv:")[1][:2] for example in report.bad_row_examples] == ["4:", "5:"]


def test_an_open_quote_is_an_error_even_when_skipping(file):
    path = file('user,item,label\na,x,1\nb,"y,1\nc,z,1\n')
    with pytest.raises(DataError, match=r"log\.csv:3: a quoted field begins here and does not end"):
        read(path, on_bad_rows="skip")


def test_nothing_usable(file):
    with pytest.raises(DataError, match="holds no rows but 2 bad ones, the first: column 'user' is empty"):
        read(file("user,item\n,x\n,y\n"), on_bad_rows="skip")
    with pytest.raises(DataError, match="holds no rows$"):
        read(file("user,item\n"))


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "log.csv", "is empty; its first line should name the columns"),
        (b"", "log.csv.gz", "is empty"),
        (gzip.compress(b"", mtime=0), "log.csv.gz", "is empty"),
        (gzip.compress(b"user,item\n" + b"a,b\n" * 99, mtime=0)[:-12], "log.csv.gz", "cannot be read"),
        (b"\xff\xfeu\x00s\x00", "log.csv", "is not UTF-8"),
        (
            b"users,item\na,b\n",
            "log.csv",
            "no column 'user'; did you mean 'users'.*the columns are 'users', 'item'",
        ),
        (b"user;item\na;b\n", "log.csv", "the columns are 'user;item'"),
        (b"user,item,user\na,b,c\n", "log.csv", "the column 'user' occurs 2 times"),
        (b"PAR1", "log.parquet", "cannot be read as parquet"),
        (b"x", "log.xlsx", r"cannot tell the format of \.xlsx"),
    ],
)
def test_bad_files(file, content, name, message):
    with pytest.raises(DataError, match=message):
        read(file(content, name))


@pytest.mark.parametrize(
    ("role", "hint"),
    [("user", r"options\.user=COLUMN\)"), ("timestamp", r"options\.timestamp=COLUMN, empty for none\)")],
)
def test_a_missing_column_names_the_argument_of_its_role(file, role, hint):
    with pytest.raises(DataError, match=f"no column 'when'.*the argument {role} names the column .*{hint}"):
        read(file("user,item\na,b\n"), **{role: "when"})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("2023-01-01", "2023-01-01T00:00:00"),
        ("2023-01-01 10:00", "2023-01-01T10:00:00"),
        (" 2023-01-01 10:00:05 ", "2023-01-01T10:00:05"),
        ("2023-01-01T10:00:05Z", "2023-01-01T10:00:05"),
        ("2023-01-01t10:00:05.999z", "2023-01-01T10:00:05"),
        ("2023-01-01T10:00+02:00", "2023-01-01T08:00:00"),
        ("2023-01-01 10:00:05.123456789-0530", "2023-01-01T15:30:05"),
        ("2023-01-01T00:30:00+01", "2022-12-31T23:30:00"),
        ("1969-12-31T23:59:58.5", "1969-12-31T23:59:58"),
    ],
)
def test_dates_in_a_csv(file, written, meant):
    data, report = read(file(f"user,item,t\na,x,{written}\na,y,1970-01-02\n"), timestamp="t")
    seconds = int(np.datetime64(meant).astype(np.int64))
    assert data.train.timestamps.tolist() == [seconds, 86_400]
    assert report.times == (min(seconds, 86_400), max(seconds, 86_400))
    assert f"times from {min(meant, '1970-01-02T00:00:00').replace('T', ' ')} to " in str(report)


@pytest.mark.parametrize(
    "wrong",
    [
        "2023-02-30",
        "2023-01-01 25:00",
        "01/02/2023",
        "2023-1-1",
        "2023-01-01T10",
        "12023-01-01",
        "2023-01-01 10:00:00 UTC",
        "noon",
        "nan",
    ],
)
def test_what_is_no_date(file, wrong):
    with pytest.raises(
        DataError, match=r"csv:3: column 't' holds '.*', which is not a number of seconds"
    ) as error:
        read(file(f"user,item,t\na,x,2023-01-01\na,y,{wrong}\n"), timestamp="t")
    assert f"'{wrong}'" in str(error.value) and "ISO 8601" in str(error.value)


def test_a_column_of_dates_and_numbers(file):
    path = file("user,item,t\na,x,20230101\na,y,2023-01-01\n")
    with pytest.raises(
        DataError, match=r"csv:2: column 't' holds '20230101', and dates in other rows; on_bad_rows"
    ):
        read(path, timestamp="t")
    assert len(read(path, timestamp="t", on_bad_rows="skip")[0].train) == 1


def test_bad_rows_alone_leave_nothing(file):
    with pytest.raises(DataError, match="csv:2: column 't' holds 'x'") as error:
        read(file("user,item,t\n" + "a,x,x\n" * 3), timestamp="t")
    assert "(2 more bad rows)" in str(error.value) and "skip" not in str(error.value)
    with pytest.raises(DataError, match="on_bad_rows='skip' leaves such rows out"):
        read(file("user,item,t\na,x,x\na,y,1672567200\n"), timestamp="t")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"log\.csv is not a file"):
        read(tmp_path / "log.csv")


def test_labels_that_are_no_labels_are_never_skipped(file):
    path = file("user,item,label\na,x,1\nb,x,3\n")
    with pytest.raises(
        DataError, match=r"log\.csv:3: column 'label' holds 3, which is not 0 or 1; pass threshold="
    ):
        read(path, label="label", on_bad_rows="skip")
    assert read(path, label="label", threshold=2)[0].train.labels.tolist() == [0.0, 1.0]


def test_label_beside_rating(file):
    data, _ = read(file("user,item,label,stars\na,x,1,3\nb,x,0,5\n"), label="label", rating="stars")
    assert (data.train.labels.tolist(), data.train.ratings.tolist()) == ([1.0, 0.0], [3.0, 5.0])


class TestObserved:
    """Impressions: the label is known where ``observed`` is 1."""

    IMPRESSIONS = "user,item,clicked,converted\na,x,1,1\nb,y,0,0\nb,x,1,0\nc,z,0,\n"

    def test_unobserved_rows_are_no_rows_but_their_ids_stay(self, file):
        data, report = read(file(self.IMPRESSIONS), label="converted", observed="clicked")
        assert triples(data) == [("a", "x", 1.0), ("b", "x", 0.0)]
        assert (data.users.ids, data.items.ids) == (("a", "b", "c"), ("x", "y", "z"))
        assert data.notes == ("label = converted, known where clicked = 1",)
        assert (report.unobserved_rows, report.part("train").rows, report.bad_rows_skipped) == (2, 2, 0)
        assert "unobserved rows (label unknown, in no part): 2" in str(report)

    def test_words_and_parquet_booleans(self, file, tmp_path):
        text = self.IMPRESSIONS.replace(",1,", ",True,").replace(",0,", ",FALSE,")
        data, _ = read(file(text), label="converted", observed="clicked")
        assert triples(data) == [("a", "x", 1.0), ("b", "x", 0.0)]
        frame = pl.DataFrame(
            {
                "user": ["a", "b", "c"],
                "item": ["x"] * 3,
                "seen": [True, False, True],
                "liked": [True, None, False],
            }
        )
        frame.write_parquet(tmp_path / "log.parquet")
        data, _ = read(tmp_path / "log.parquet", label="liked", observed="seen")
        assert triples(data) == [("a", "x", 1.0), ("c", "x", 0.0)]

    def test_a_positive_label_of_an_unobserved_row(self, file):
        path = file(self.IMPRESSIONS + "c,x,0,1\nd,x,0,1\n")
        with pytest.raises(
            DataError,
            match=r":6: column 'converted' holds '1' where 'clicked' is 0 \(1 more bad rows\); on_bad",
        ):
            read(path, label="converted", observed="clicked")
        data, report = read(path, label="converted", observed="clicked", on_bad_rows="skip")
        assert (report.bad_rows_skipped, report.unobserved_rows, len(data.train)) == (2, 2, 2)
        assert data.users.ids == ("a", "b", "c")

    def test_ratings_with_a_threshold(self, file):
        path = file("user,item,seen,stars\na,x,1,5\nb,x,0,\nb,y,0,2\nc,x,1,1\n")
        data, _ = read(path, rating="stars", threshold=4, observed="seen")
        assert triples(data) == [("a", "x", 1.0), ("c", "x", 0.0)]
        assert data.train.ratings.tolist() == [5.0, 1.0]
        with pytest.raises(DataError, match=":4: column 'stars' holds '2' where 'seen' is 0"):
            read(path, rating="stars", threshold=2, observed="seen")

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("d,x,2,0", "column 'clicked' holds 2, which is not 0 or 1; it says whether the label"),
            ("d,x,often,0", "column 'clicked' holds 'often', which is not a finite number"),
            ("d,x,,0", "column 'clicked' is empty"),
            ("d,x,1,", "column 'converted' is empty"),
            ("d,x,0,3", "column 'converted' holds 3, which is not 0 or 1; pass threshold="),
        ],
    )
    def test_other_values_are_named_with_their_line(self, file, row, message):
        with pytest.raises(DataError, match=f":6: {message}"):
            read(file(f"{self.IMPRESSIONS}{row}\n"), label="converted", observed="clicked")

    def test_duplicates_are_those_of_observed_rows(self, file):
        path = file(self.IMPRESSIONS + "a,x,0,0\nc,z,0,0\n")
        assert len(read(path, label="converted", observed="clicked")[0].train) == 2
        with pytest.raises(DataError, match=r"csv:6: user 'b', item 'x' also stands in .*csv:4"):
            read(file(self.IMPRESSIONS + "b,x,1,1\n"), label="converted", observed="clicked")

    def test_nothing_observed(self, file):
        with pytest.raises(DataError, match=r"no row has 'clicked' = 1, so no label is known"):
            read(file("user,item,clicked,y\na,x,0,0\n"), label="y", observed="clicked")


def test_timestamps(file):
    path = file("user,item,t\na,x,-5\nb,x,3.0\nc,x,1.5\n")
    with pytest.raises(DataError, match=":4: column 't' holds '1.5', which is no whole number of seconds"):
        read(path, timestamp="t")
    assert read(path, timestamp="t", on_bad_rows="skip")[0].train.timestamps.tolist() == [-5, 3]


def test_unknown_split(file):
    path = file("user,item,part\na,x,train\nb,x,valid\n")
    with pytest.raises(DataError, match=":3: column 'part' holds 'valid', .* one of train, validation, test"):
        read(path, split="part")
    with pytest.raises(DataError, match="no row has 'part' = 'train'"):
        read(file("user,item,part\na,x,test\n"), split="part")


REPEATED = "user,item,stars,t\na,x,2,30\nb,x,5,0\na,x,5,10\na,x,3,20\na,y,1,0\n"


@pytest.mark.parametrize(
    ("policy", "by_row", "by_time"),
    [("first", 2.0, 5.0), ("last", 3.0, 2.0), ("max", 5.0, 5.0), ("mean", 10 / 3, 10 / 3)],
)
def test_duplicates(file, policy, by_row, by_time):
    path = file(REPEATED)
    for timestamp, expected in ((None, by_row), ("t", by_time)):
        data, report = read(path, rating="stars", threshold=4, timestamp=timestamp, duplicates=policy)
        kept = {
            key: rating for key, rating in zip(data.train.pair_keys.tolist(), data.train.ratings, strict=True)
        }
        assert kept == {0: np.float32(expected), 2: 5.0, 1: 1.0}
        assert data.train.labels.tolist() == (data.train.ratings >= 4).astype(float).tolist()
        assert report.duplicates_dropped == 2


def test_duplicates_keep_the_order_of_the_file(file):
    data, _ = read(file("user,item\na,x\nb,x\na,x\nc,x\n"), duplicates="last")
    assert data.users.decode(data.train.users) == ["b", "a", "c"]


def test_duplicates_can_be_events_of_their_own(file):
    path = file(REPEATED)
    for columns in ({}, {"timestamp": "t"}, {"rating": "stars", "threshold": 3, "timestamp": "t"}):
        data, report = read(path, duplicates="keep", **columns)
        # Every row, in the file's order, also where rows are equal in all that is read.
        assert [(user, item) for user, item, _ in triples(data)] == [
            ("a", "x"),
            ("b", "x"),
            ("a", "x"),
            ("a", "x"),
            ("a", "y"),
        ]
        assert (report.duplicates_dropped, report.repeats) == (0, {"train": 2})
    assert data.train.timestamps.tolist() == [30, 0, 10, 20, 0]
    assert data.train.labels.tolist() == [0, 1, 1, 1, 0]
    # By time, rows of equal time in the file's order: (10, x), (20, x), (30, x) and before them (0, y).
    histories = sequences.histories(data.train)
    assert data.items.decode(histories.items[: histories.indptr[1]]) == ["y", "x", "x", "x"]


def test_events_of_equal_time_stay_in_the_order_of_the_file(file):
    path = file("user,item,t\na,late,9\na,one,5\nb,one,5\na, two ,5\na,one,5\n")
    data, _ = read(path, timestamp="t", duplicates="keep")
    histories = sequences.histories(data.train)
    assert data.items.decode(histories.items) == ["one", " two ", "one", "late", "one"]


def test_the_core_of_a_file(file):
    rows = "user,item\na,x\na,y\nb,x\nb,y\nc,z\nd,x\nd,x\n"
    options = {"duplicates": "keep", "min_user_rows": 2, "min_item_rows": 2}
    data, report = read(file(rows), **options)
    assert (data.users.ids, data.items.ids) == (("a", "b", "d"), ("x", "y"))
    assert (report.users, report.items, report.part("train").rows) == (3, 2, 6)
    assert "dropped 1 of 7 rows, 1 of 4 users and 1 of 3 items" in data.notes[-1]
    assert len(read(file(rows), duplicates="keep", min_item_rows=2)[0].train) == 6
    with pytest.raises(DataError, match="log: no user with 3 rows of items with 3 is left"):
        read(file(rows), duplicates="keep", min_user_rows=3, min_item_rows=3)
    with pytest.raises(ConfigError, match="log has a test part; take the core before splitting"):
        read(file("user,item,part\na,x,train\na,y,test\n"), split="part", min_user_rows=1)
    with pytest.raises(ConfigError, match="min_item_rows = -1"):
        read(file(rows), duplicates="keep", min_item_rows=-1)


def test_a_duplicate_is_named_with_both_lines(file):
    with pytest.raises(
        DataError, match=r"csv:4: user 'a', item 'x' also stands in .*csv:2; duplicates='first', .*'keep'"
    ):
        read(file(REPEATED))


def test_a_pair_in_two_parts_is_no_duplicate_but_reported(file):
    data, report = read(file("user,item,part\na,x,train\na,x,test\nb,x,train\n"), split="part")
    assert report.overlaps == {"train and test": 1}
    assert report.duplicates_dropped == 0
    assert len(data.test) == 1


def test_parquet_types_and_places(tmp_path):
    path = tmp_path / "log.parquet"
    frame = pl.DataFrame(
        {
            "user": pl.Series([2**62, -1, 7]),
            "item": pl.Series(["x", "y", "x"], dtype=pl.Categorical),
            "label": [True, False, None],
            "when": pl.Series(["1970-01-02", "1970-01-03", "1970-01-01"]).str.to_datetime(),
        }
    )
    frame.write_parquet(path)
    with pytest.raises(DataError, match=r"log\.parquet, row 3: column 'label' is empty"):
        read(path, label="label")
    data, _ = read(path, label="label", timestamp="when", on_bad_rows="skip")
    assert data.users.ids == (str(2**62), "-1")
    assert data.train.timestamps.tolist() == [86_400, 172_800]
    assert data.train.labels.tolist() == [1.0, 0.0]
    frame.with_columns(pl.lit(1.5).alias("user")).write_parquet(path)
    with pytest.raises(
        DataError, match="column 'user' is Float64; ids and splits must be strings or integers"
    ):
        read(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(rating="stars"), "rating= needs threshold="),
        (dict(threshold=3), "threshold = 3 needs label= or rating="),
        (dict(label="a", rating="b", threshold=3), "ambiguous"),
        (dict(label="a", duplicates="mean"), "'mean' of 0/1 labels is no label"),
        (dict(observed="clicked"), "observed= needs label= or rating=.* give label='clicked'"),
        (dict(duplicates="frist"), "did you mean 'first'"),
        (dict(on_bad_rows="ignore"), "on_bad_rows = 'ignore' is unknown; there are error, skip"),
        (dict(user="id", item="id"), "user and item both name the column 'id'"),
        (dict(rating="stars", threshold=float("nan")), "threshold = nan"),
    ],
)
def test_settings_that_do_not_fit(file, arguments, message):
    with pytest.raises(ConfigError, match=message):
        read(file("user,item\na,b\n"), **arguments)


def test_missing_polars_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'debias_jax\[data\]'"):
        read(file("user,item\na,b\n"))
