"""Tables in Markdown, worked out by hand; the published figures that they read, and the sections they go to."""

import json

import pytest
from reference.tables import METRICS, ROOT, cells, scored

from debias_jax import metrics
from debias_jax._reproduction import markdown, tables
from debias_jax._reproduction.published import Figure, methods_of, metrics_of, published_values
from debias_jax.errors import DataError

# Means over users of the two seeds: mf 0.5 and 0.7, umf 1.0 and 1.5, other 0.5 and 0.7.
MF = scored("mf", [[0.25, 0.75], [0.45, 0.95]], hparams={"weight_decay": 1e-5, "lr": 0.001})
UMF = scored("umf", [[0.75, 1.25], [1.25, 1.75]], hparams={"lr": 0.01})
OTHER = scored("other", [[0.25, 0.75], [0.45, 0.95]])
PUBLISHED = {
    **{("mf", metric): Figure(0.55, 0.05) for metric in METRICS},
    **{("umf", metric): Figure(1.0, 0.1) for metric in METRICS},
}


def widths(lines):
    return {line.count("|") for line in lines if line.startswith("|")}


class TestTwoLines:
    @pytest.fixture
    def lines(self):
        return markdown.two_lines([MF, UMF, OTHER], PUBLISHED, headline="dcg@3", limit=2, digits=3)

    def test_ours_is_mean_and_sd_over_seeds(self, lines):
        # sd of {a, b} with n - 1 = 1: |a - b| / sqrt 2; 0.2 / 1.4142 = 0.1414 and 0.5 / 1.4142 = 0.3536.
        assert cells(lines, "| **mf**")[1:4] == ["0.600 ± 0.141"] * 3
        assert cells(lines, "| **umf**")[1:4] == ["1.250 ± 0.354"] * 3

    def test_difference_is_in_published_sd_and_marked_over_two(self, lines):
        # (0.6 - 0.55) / 0.05 = 1; (1.25 - 1.0) / 0.1 = 2.5.
        assert cells(lines, "| **mf**")[4] == "+1.0"
        assert cells(lines, "| **umf**")[4] == "+2.5 **(over 2)**"
        assert cells(lines, "| **other**")[4] == "not published"

    def test_published_rows_follow_their_methods(self, lines):
        published = [number for number, line in enumerate(lines) if line.startswith("| published ")]
        assert [lines[number - 1].split("**")[1] for number in published] == ["mf", "umf"]
        assert lines[published[0]].count("0.550 ± 0.050") == 3
        assert lines[published[1]].count("1.000 ± 0.100") == 3

    def test_every_row_has_the_cells_of_the_head(self, lines):
        assert widths(lines) == {6}

    def test_one_seed_has_no_sd(self):
        one = scored("mf", [[0.25, 0.75]])
        text = "\n".join(markdown.two_lines([one], PUBLISHED, headline="dcg@3", limit=2, digits=3))
        assert "| **mf** | 0.500 | 0.500 |" in text and "nan" not in text


class TestSideBySide:
    PUBLISHED = {
        ("mf", "dcg@1"): Figure(0.5, 0.02),
        ("mf", "dcg@3"): Figure(0.5, None, "printed twice"),
        ("mf", "map@1"): Figure(0.7, 0.0),
        ("umf", "dcg@1"): Figure(1.0, 0.1),
        ("umf", "dcg@3"): Figure(1.0, 0.1),
        ("umf", "map@1"): Figure(1.0, 0.1, "printed twice"),
    }

    @pytest.fixture
    def lines(self):
        return markdown.side_by_side([MF, UMF, OTHER], self.PUBLISHED, limit=3, digits=4)

    def test_published_ours_and_difference_of_every_metric(self, lines):
        # (0.6 - 0.5) / 0.02 = 5; (1.25 - 1) / 0.1 = 2.5; where no sd is printed, 0.6 - 0.5 and 0.6 - 0.7.
        assert cells(lines, "| mf ")[1:4] == ["0.5000 ± 0.0200", "0.6000 ± 0.1414", "+5.0 **(over 3)**"]
        assert cells(lines, "| mf ")[4:] == ["0.5000", "0.6000 ± 0.1414", "(+0.1000)"] + [
            "0.7000 ± 0.0000",
            "0.6000 ± 0.1414",
            "(-0.1000)",
        ]
        assert cells(lines, "| umf ")[1:4] == ["1.0000 ± 0.1000", "1.2500 ± 0.3536", "+2.5"]
        assert cells(lines, "| other ")[1:4] == ["-", "0.6000 ± 0.1414", "-"]
        assert widths(lines) == {11}

    def test_doubts_stand_once_below_and_are_marked_in_their_rows(self, lines):
        assert cells(lines, "| mf ")[0] == "mf [1] [2]" and cells(lines, "| umf ")[0] == "umf [1]"
        assert lines[-2:] == ["- [1] printed twice", f"- [2] {markdown.NO_SD}"]

    @pytest.mark.parametrize(("n_metrics", "sizes"), [(3, [3]), (4, [4]), (7, [4, 3]), (6, [3, 3])])
    def test_many_metrics_make_several_tables(self, n_metrics, sizes):
        names = tuple(f"dcg@{k}" for k in range(1, n_metrics + 1))
        one = scored("mf", [[0.5, 0.5]], names=names)
        lines = markdown.side_by_side(
            [one], {("mf", name): Figure(0.5, 0.1) for name in names}, limit=3, digits=4
        )
        heads = [line for line in lines if line.startswith("| method")]
        assert [head.count("difference") for head in heads] == sizes


class TestComparison:
    def test_paired_with_the_baseline(self):
        # umf - mf, seeds averaged: both users 1.0 - 0.35 = 0.65 and 1.5 - 0.85 = 0.65, so every resample says 0.65.
        # Over seeds: 0.5 and 0.8, mean 0.65, sd 0.2121, t = 0.65 / (0.2121 / sqrt 2) = 4.3333; with one degree of
        # freedom p = 1 - 2 arctan(t) / pi = 0.1444.
        lines = markdown.comparison([MF, UMF, OTHER], baseline="mf", metric="dcg@3", digits=3)
        name, difference, interval, p_users, p_seeds = cells(lines, "| umf ")
        assert (name, difference, interval) == ("umf", "+0.650", "[+0.650, +0.650]")
        assert 0 < float(p_users) < 0.001
        assert p_seeds == "0.1444"
        assert cells(lines, "| other ")[1:4] == ["+0.000", "[+0.000, +0.000]", "1.0000"]
        assert not any(line.startswith("| mf ") for line in lines)

    def test_without_the_baseline_there_is_none(self):
        assert markdown.comparison([UMF, OTHER], baseline="mf", metric="dcg@3", digits=3) == []


def test_hyperparameters_are_listed_by_name():
    lines = markdown.hyperparameters({one.name: one.hparams for one in (MF, UMF)})
    assert "| mf | lr 0.001, weight_decay 1e-05 |" in lines
    assert "| umf | lr 0.01 |" in lines


class TestPublished:
    ROWS = (
        {"method": "mf", "metric": "dcg", "k": 3, "value": 0.9, "sd": 0.01, "n": 5},
        {
            "dataset": "coat",
            "method": "mf",
            "metric": "auc",
            "k": None,
            "value": 0.5,
            "sd": None,
            "note": "blurred",
        },
        {"dataset": "yahoo_r3", "method": "mf", "metric": "auc", "k": None, "value": 0.6, "sd": 0.1},
        {
            "dataset": "coat",
            "method": "mf",
            "metric": "auc",
            "k": None,
            "value": 0.4,
            "sd": 0.1,
            "settings": {"a": 0.2},
        },
    )

    @pytest.fixture
    def path(self, tmp_path):
        (tmp_path / "t.json").write_text(json.dumps({"rows": self.ROWS}))
        return tmp_path / "t.json"

    def test_rows_by_method_and_metric(self, path):
        assert published_values(path, dataset="yahoo_r3") == {
            ("mf", "dcg@3"): Figure(0.9, 0.01),
            ("mf", "auc"): Figure(0.6, 0.1),
        }

    def test_settings_choose_rows(self, path):
        assert published_values(path, dataset="coat", settings={"a": 0.2}) == {
            ("mf", "auc"): Figure(0.4, 0.1)
        }

    def test_no_such_row(self, path):
        with pytest.raises(DataError, match=r"no row of dataset coat with settings \{'a': 0.3\}"):
            published_values(path, dataset="coat", settings={"a": 0.3})

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"not at .*t\.json; run from the root of the repository"):
            published_values(tmp_path / "t.json")

    @pytest.mark.parametrize("table", sorted(tables.TABLES))
    def test_every_block_of_every_table_has_every_metric_of_every_method(self, table):
        spec = tables.TABLES[table]
        for dataset in spec.datasets.values():
            for setting in spec.settings:
                values = published_values(
                    ROOT / "docs" / "published" / spec.published, dataset=dataset, settings=setting.published
                )
                assert set(values) == {
                    (method, name) for method in methods_of(values) for name in metrics_of(values)
                }
                metrics.PROTOCOLS["badr"].with_metrics(*metrics_of(values))
                assert "mf" in methods_of(values) or not spec.bounds
        assert len({setting.folder for setting in spec.settings}) == len(spec.settings)

    def test_badr_table3_has_a_row_for_every_published_variant(self):
        values = published_values(ROOT / "docs" / "published" / "badr_table3.json", dataset="coat")
        assert len(methods_of(values)) == 21 and values["badr", "auc"] == Figure(0.7694, 0.003)
        assert "copy error likely" in values["escm2_dr", "auc"].note
        assert set(tables.VARIANTS_OF.values()) <= set(methods_of(values))


class TestSection:
    PAGE = "before\n<!-- begin a -->\nold\nlines\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\nafter\n"

    def test_only_the_named_section_changes(self, tmp_path):
        page = tmp_path / "results.md"
        page.write_text(self.PAGE)
        markdown.replace_section(page, "a", r"new \1 \g<0>")
        assert page.read_text() == self.PAGE.replace("old\nlines", r"new \1 \g<0>")
        markdown.replace_section(page, "b", "more")
        assert page.read_text().endswith("<!-- begin b -->\nmore\n<!-- end b -->\nafter\n")

    def test_replacing_twice_is_replacing_once(self, tmp_path):
        page = tmp_path / "results.md"
        page.write_text(self.PAGE)
        markdown.replace_section(page, "a", "new")
        once = page.read_text()
        markdown.replace_section(page, "a", "new")
        assert page.read_text() == once

    @pytest.mark.parametrize(
        "content",
        [
            None,
            "",
            "<!-- begin a -->",
            "<!-- end a -->",
            "<!-- end a -->\n<!-- begin a -->",
            "<!-- begin b --><!-- end b -->",
        ],
    )
    def test_missing_markers(self, tmp_path, content):
        page = tmp_path / "results.md"
        if content is not None:
            page.write_text(content)
        with pytest.raises(
            DataError, match=r"results\.md has no section <!-- begin a --> \.\.\. <!-- end a -->"
        ):
            markdown.replace_section(page, "a", "new")
        assert content is None or page.read_text() == content
