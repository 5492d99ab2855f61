"""The tables of ``docs/results.md``: published beside ours, worked out by hand."""

import json
import pathlib

import numpy as np
import pytest

from debias_jax import _reproduce
from debias_jax._results import Scored
from debias_jax.errors import ConfigError, DataError
from debias_jax.training.evaluation import Evaluation

METRICS = _reproduce.TABLES["biif_table2"]["metrics"]
COMMAND = "python launch/reproduce.py --table=biif_table2"


def scored(name, users, *, hparams=None):
    """A variant whose metrics all have the values ``users`` ``[runs, users]``."""
    users = np.asarray(users, np.float32)
    counted = np.ones(users.shape[1], bool)
    evaluations = [
        Evaluation(
            per_user=dict.fromkeys(METRICS, run),
            where=dict.fromkeys(METRICS, counted),
            pooled={},
            finite=np.asarray(True),
        )
        for run in users
    ]
    # What the tables do not read stays None.
    fields = {
        "name": name,
        "protocol": {"name": "cjmf", "metrics": list(METRICS)},
        "seeds": tuple(range(len(users))),
        "evaluations": evaluations,
        "pcc": [],
        "hparams": hparams or {},
    }
    return Scored(**dict.fromkeys(Scored._fields) | fields)


# Means over users of the two seeds: mf 0.5 and 0.7, umf 1.0 and 1.5, other 0.5 and 0.7.
MF = scored("mf", [[0.25, 0.75], [0.45, 0.95]], hparams={"weight_decay": 1e-5, "lr": 0.001})
UMF = scored("umf", [[0.75, 1.25], [1.25, 1.75]], hparams={"lr": 0.01})
OTHER = scored("other", [[0.25, 0.75], [0.45, 0.95]])
PUBLISHED = {
    **{("mf", metric): (0.55, 0.05) for metric in METRICS},
    **{("umf", metric): (1.0, 0.1) for metric in METRICS},
}


@pytest.fixture(scope="module")
def lines():
    return _reproduce.markdown("biif_table2", [MF, UMF, OTHER], PUBLISHED, COMMAND).splitlines()


def cells(lines, start):
    """The cells of the one row that starts so."""
    (line,) = [line for line in lines if line.startswith(start)]
    return [cell.strip() for cell in line.strip("|").split("|")]


class TestMarkdown:
    def test_names_table_command_and_seeds(self, lines):
        assert lines[0] == "### Coat, protocol `cjmf` (Biif, Table 2)"
        assert lines[2].startswith(f"`{COMMAND}`, seeds 0, 1.")

    def test_ours_is_mean_and_sd_over_seeds(self, lines):
        # sd of {a, b} with n - 1 = 1: |a - b| / sqrt 2; 0.2 / 1.4142 = 0.1414 and 0.5 / 1.4142 = 0.3536.
        assert cells(lines, "| **mf**")[1:7] == ["0.600 ± 0.141"] * 6
        assert cells(lines, "| **umf**")[1:7] == ["1.250 ± 0.354"] * 6

    def test_difference_is_in_published_sd_and_marked_over_two(self, lines):
        # (0.6 - 0.55) / 0.05 = 1; (1.25 - 1.0) / 0.1 = 2.5.
        assert cells(lines, "| **mf**")[7] == "+1.0"
        assert cells(lines, "| **umf**")[7] == "+2.5 **(over 2)**"
        assert cells(lines, "| **other**")[7] == "not published"

    def test_published_rows_follow_their_methods(self, lines):
        published = [number for number, line in enumerate(lines) if line.startswith("| published ")]
        assert [lines[number - 1].split("**")[1] for number in published] == ["mf", "umf"]
        assert lines[published[0]].count("0.550 ± 0.050") == 6
        assert lines[published[1]].count("1.000 ± 0.100") == 6

    def test_comparison_is_paired_with_the_baseline(self, lines):
        # umf - mf, seeds averaged: both users 1.0 - 0.35 = 0.65 and 1.5 - 0.85 = 0.65, so every resample says 0.65.
        # Over seeds: 0.5 and 0.8, mean 0.65, sd 0.2121, t = 0.65 / (0.2121 / sqrt 2) = 4.3333; with one degree of
        # freedom p = 1 - 2 arctan(t) / pi = 0.1444.
        name, difference, interval, p_users, p_seeds = cells(lines, "| umf | +")
        assert (name, difference, interval) == ("umf", "+0.650", "[+0.650, +0.650]")
        assert 0 < float(p_users) < 0.001
        assert p_seeds == "0.1444"
        assert cells(lines, "| other | +")[1:4] == ["+0.000", "[+0.000, +0.000]", "1.0000"]
        assert not any(line.startswith("| mf | +") for line in lines)

    def test_hyperparameters_are_listed_by_name(self, lines):
        assert "| mf | lr 0.001, weight_decay 1e-05 |" in lines
        assert "| umf | lr 0.01 |" in lines

    def test_every_row_of_a_table_has_the_cells_of_its_head(self, lines):
        rows = [line for line in lines if line.startswith("|")]
        assert {line.count("|") for line in rows} == {9, 6, 3}

    def test_unknown_table(self):
        with pytest.raises(ConfigError, match="unknown table 'biif_table3'; did you mean 'biif_table2'"):
            _reproduce.markdown("biif_table3", [MF], PUBLISHED, COMMAND)

    def test_a_metric_that_the_runs_lack(self):
        other = MF._replace(
            protocol={"name": "cjmf", "metrics": ["dcg@3"]},
            evaluations=[one._replace(per_user={"dcg@3": one.per_user["dcg@3"]}) for one in MF.evaluations],
        )
        with pytest.raises(
            ConfigError, match="compares dcg@1, which mf does not measure; set config.protocol"
        ):
            _reproduce.markdown("biif_table2", [other], PUBLISHED, COMMAND)

    def test_one_seed_has_no_sd(self):
        text = _reproduce.markdown("biif_table2", [scored("mf", [[0.25, 0.75]])], PUBLISHED, COMMAND)
        assert "| **mf** | 0.500 | 0.500 |" in text and "nan" not in text


class TestPublished:
    def test_rows_by_method_and_metric(self, tmp_path):
        rows = [
            {"method": "mf", "metric": "dcg", "k": 3, "value": 0.9, "sd": 0.01, "n": 5},
            {"method": "mf", "metric": "map", "k": 1, "value": 0.5, "sd": 0.02, "n": 5},
        ]
        (tmp_path / "t.json").write_text(json.dumps({"rows": rows}))
        assert _reproduce.published_values(tmp_path / "t.json") == {
            ("mf", "dcg@3"): (0.9, 0.01),
            ("mf", "map@1"): (0.5, 0.02),
        }

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match=r"not at .*t\.json; run from the root of the repository"):
            _reproduce.published_values(tmp_path / "t.json")

    @pytest.mark.parametrize("table", sorted(_reproduce.TABLES))
    def test_every_table_has_its_file_with_every_metric_of_every_method(self, table):
        spec = _reproduce.TABLES[table]
        folder = pathlib.Path(__file__).parent.parent / "docs" / "published"
        values = _reproduce.published_values(folder / spec["published"])
        methods = {method for method, _ in values}
        assert set(values) == {(method, metric) for method in methods for metric in spec["metrics"]}
        assert spec["headline"] in spec["metrics"]
        assert all(sd > 0 for _, sd in values.values())


class TestSection:
    PAGE = "before\n<!-- begin a -->\nold\nlines\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\nafter\n"

    def test_only_the_named_section_changes(self, tmp_path):
        page = tmp_path / "results.md"
        page.write_text(self.PAGE)
        _reproduce.replace_section(page, "a", r"new \1 \g<0>")
        assert page.read_text() == self.PAGE.replace("old\nlines", r"new \1 \g<0>")
        _reproduce.replace_section(page, "b", "more")
        assert page.read_text().endswith("<!-- begin b -->\nmore\n<!-- end b -->\nafter\n")

    def test_replacing_twice_is_replacing_once(self, tmp_path):
        page = tmp_path / "results.md"
        page.write_text(self.PAGE)
        _reproduce.replace_section(page, "a", "new")
        once = page.read_text()
        _reproduce.replace_section(page, "a", "new")
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
            _reproduce.replace_section(page, "a", "new")
        assert content is None or page.read_text() == content


def test_reproduce_writes_its_section_and_checks_the_page_before_it_trains(tmp_path, monkeypatch):
    docs = tmp_path / "docs"
    (docs / "published").mkdir(parents=True)
    rows = [
        {"method": "mf", "metric": metric, "k": k, "value": 0.55, "sd": 0.05}
        for metric in ("dcg", "map")
        for k in (1, 2, 3)
    ]
    (docs / "published" / "biif_table2.json").write_text(json.dumps({"rows": rows}))
    calls = []

    def run_scored(config, workdir):
        calls.append((config, workdir))
        return [MF, UMF]

    monkeypatch.setattr(_reproduce.experiment, "run_scored", run_scored)
    arguments = {"command": COMMAND, "docs": str(docs)}
    with pytest.raises(DataError, match="has no section"):
        _reproduce.reproduce("biif_table2", "config", "workdir", **arguments)
    assert calls == [], "hours of training must not be lost to a page without markers"
    page = docs / "results.md"
    page.write_text(
        "<!-- begin biif_table2 -->\n<!-- end biif_table2 -->\n<!-- begin x -->\n<!-- end x -->\n"
    )
    text = _reproduce.reproduce("biif_table2", "config", "workdir", **arguments)
    assert calls == [("config", "workdir")]
    assert text in page.read_text() and page.read_text().endswith("<!-- begin x -->\n<!-- end x -->\n")
    _reproduce.reproduce("biif_table2", "config", "workdir", section="x", **arguments)
    assert page.read_text().count(text) == 2
