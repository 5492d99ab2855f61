"""The tables of ``docs/results.md``: published beside ours, worked out by hand; and small ones run to the end."""

import importlib.util
import json
import math
import pathlib

import numpy as np
import pytest

from debias_jax import _figures, _markdown, _reproduce, _rows, data, experiment, metrics
from debias_jax._fit import Judge, make_judge
from debias_jax._published import Figure, methods_of, metrics_of, published_values
from debias_jax._results import Scored
from debias_jax.data.types import Interactions
from debias_jax.errors import ConfigError, DataError
from debias_jax.training.evaluation import Evaluation, build_eval_set

ROOT = pathlib.Path(__file__).parent.parent

METRICS = ("dcg@1", "dcg@3", "map@1")
COMMAND = (
    "python launch/reproduce.py --table=small --config=configs/x.py:a,b --config.train.lr=0.1 --workdir=DIR"
)


def scored(name, users, *, hparams=None, names=METRICS):
    """A variant whose metrics all have the values ``users`` ``[runs, users]``."""
    users = np.asarray(users, np.float32)
    counted = np.ones(users.shape[1], bool)
    evaluations = [
        Evaluation(
            per_user=dict.fromkeys(names, run),
            where=dict.fromkeys(names, counted),
            pooled={},
            finite=np.asarray(True),
        )
        for run in users
    ]
    # What the tables do not read stays None.
    fields = {
        "name": name,
        "protocol": {"name": "cjmf", "metrics": list(names)},
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
    **{("mf", metric): Figure(0.55, 0.05) for metric in METRICS},
    **{("umf", metric): Figure(1.0, 0.1) for metric in METRICS},
}


def cells(lines, start):
    """The cells of the first row that starts so."""
    line = next(line for line in lines if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def widths(lines):
    return {line.count("|") for line in lines if line.startswith("|")}


class TestTwoLines:
    @pytest.fixture
    def lines(self):
        return _markdown.two_lines([MF, UMF, OTHER], PUBLISHED, headline="dcg@3", limit=2, digits=3)

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
        text = "\n".join(_markdown.two_lines([one], PUBLISHED, headline="dcg@3", limit=2, digits=3))
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
        return _markdown.side_by_side([MF, UMF, OTHER], self.PUBLISHED, limit=3, digits=4)

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
        assert lines[-2:] == ["- [1] printed twice", f"- [2] {_markdown.NO_SD}"]

    @pytest.mark.parametrize(("n_metrics", "sizes"), [(3, [3]), (4, [4]), (7, [4, 3]), (6, [3, 3])])
    def test_many_metrics_make_several_tables(self, n_metrics, sizes):
        names = tuple(f"dcg@{k}" for k in range(1, n_metrics + 1))
        one = scored("mf", [[0.5, 0.5]], names=names)
        lines = _markdown.side_by_side(
            [one], {("mf", name): Figure(0.5, 0.1) for name in names}, limit=3, digits=4
        )
        heads = [line for line in lines if line.startswith("| method")]
        assert [head.count("difference") for head in heads] == sizes


class TestComparison:
    def test_paired_with_the_baseline(self):
        # umf - mf, seeds averaged: both users 1.0 - 0.35 = 0.65 and 1.5 - 0.85 = 0.65, so every resample says 0.65.
        # Over seeds: 0.5 and 0.8, mean 0.65, sd 0.2121, t = 0.65 / (0.2121 / sqrt 2) = 4.3333; with one degree of
        # freedom p = 1 - 2 arctan(t) / pi = 0.1444.
        lines = _markdown.comparison([MF, UMF, OTHER], baseline="mf", metric="dcg@3", digits=3)
        name, difference, interval, p_users, p_seeds = cells(lines, "| umf ")
        assert (name, difference, interval) == ("umf", "+0.650", "[+0.650, +0.650]")
        assert 0 < float(p_users) < 0.001
        assert p_seeds == "0.1444"
        assert cells(lines, "| other ")[1:4] == ["+0.000", "[+0.000, +0.000]", "1.0000"]
        assert not any(line.startswith("| mf ") for line in lines)

    def test_without_the_baseline_there_is_none(self):
        assert _markdown.comparison([UMF, OTHER], baseline="mf", metric="dcg@3", digits=3) == []


def test_hyperparameters_are_listed_by_name():
    lines = _markdown.hyperparameters({one.name: one.hparams for one in (MF, UMF)})
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

    @pytest.mark.parametrize("table", sorted(_reproduce.TABLES))
    def test_every_block_of_every_table_has_every_metric_of_every_method(self, table):
        spec = _reproduce.TABLES[table]
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
        assert set(_reproduce.VARIANTS_OF.values()) <= set(methods_of(values))


class TestSection:
    PAGE = "before\n<!-- begin a -->\nold\nlines\n<!-- end a -->\nbetween\n<!-- begin b -->\n<!-- end b -->\nafter\n"

    def test_only_the_named_section_changes(self, tmp_path):
        page = tmp_path / "results.md"
        page.write_text(self.PAGE)
        _markdown.replace_section(page, "a", r"new \1 \g<0>")
        assert page.read_text() == self.PAGE.replace("old\nlines", r"new \1 \g<0>")
        _markdown.replace_section(page, "b", "more")
        assert page.read_text().endswith("<!-- begin b -->\nmore\n<!-- end b -->\nafter\n")

    def test_replacing_twice_is_replacing_once(self, tmp_path):
        page = tmp_path / "results.md"
        page.write_text(self.PAGE)
        _markdown.replace_section(page, "a", "new")
        once = page.read_text()
        _markdown.replace_section(page, "a", "new")
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
            _markdown.replace_section(page, "a", "new")
        assert content is None or page.read_text() == content


def _config(method, **train):
    spec = importlib.util.spec_from_file_location("synthetic", ROOT / "configs" / "synthetic.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(method)
    with config.unlocked():
        config.data.options = {"seed": 0, "n_users": 30, "n_items": 20, "mean_exposure": 0.3}
        config.model.dim = 4
        config.seeds = (0, 1)
        config.protocol.test = "badr"
        config.protocol.metrics = ("auc", "ndcg@5", "recall@5")
        config.train.update({"epochs": 2, "eval_every": 1, "batch_size": 128, "patience": 0, **train})
    return config


TABLE = _reproduce.Table(
    source="A paper, Table 1",
    published="small.json",
    datasets={"synthetic": "coat", "other": "kuairec"},
    settings=tuple(
        _reproduce.Setting(
            f"decay_{decay}", f"decay {decay}", {"decay": decay}, {"train": {"weight_decay": decay}}
        )
        for decay in (0.1, 0.2)
    ),
)


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """A folder of docs with one small table, over two settings."""
    monkeypatch.setitem(_reproduce.TABLES, "small", TABLE)
    rows = [
        {
            "dataset": "coat",
            "method": method,
            "metric": metric,
            "k": k,
            "value": 0.5,
            "sd": 0.1,
            "settings": settings,
        }
        for settings in ({"decay": 0.1}, {"decay": 0.2})
        for method in ("mf", "badr")
        for metric, k in (("auc", None), ("ndcg", 5), ("recall", 5))
    ]
    docs = tmp_path / "docs"
    (docs / "published").mkdir(parents=True)
    (docs / "published" / "small.json").write_text(json.dumps({"rows": rows}))
    (docs / "results.md").write_text("<!-- begin small_coat -->\n<!-- end small_coat -->\n")
    return docs


def _checkpoints(workdir):
    return {path: path.stat().st_mtime_ns for path in workdir.glob("*/*/checkpoints/step_*")}


class TestReproduce:
    def test_a_table_of_two_settings_grows_by_a_method(self, docs, tmp_path):
        workdir = tmp_path / "runs"

        def reproduce(methods):
            return _reproduce.reproduce(
                "small", _config(methods), str(workdir), command=COMMAND, docs=str(docs)
            )

        reproduce("mean_logit")
        first = _checkpoints(workdir)
        assert {path.parts[-4:-2] for path in first} == {
            ("decay_0.1", "mean_logit"),
            ("decay_0.2", "mean_logit"),
        }
        text = reproduce("mf,mean_logit")
        assert {path: time for path, time in _checkpoints(workdir).items() if path in first} == first
        assert text in (docs / "results.md").read_text()
        lines = text.splitlines()
        assert lines[0] == "### Coat, protocol `badr` (A paper, Table 1)"
        assert lines[2].startswith(f"`{COMMAND}`, seeds 0, 1. Mean ± sd over seeds")
        blocks = text.split("#### ")[1:]
        assert [block.splitlines()[0] for block in blocks] == ["decay 0.1", "decay 0.2"]
        for block, setting in zip(blocks, TABLE.settings, strict=True):
            official, strict = block.split("under protocol `strict`")
            rows = official.splitlines()
            written = json.loads((workdir / setting.folder / "mf" / "results.json").read_text())
            mean = written["metrics"]["auc"]["mean"]
            assert written["hparams"]["weight_decay"] == setting.config["train"]["weight_decay"]
            assert cells(rows, "| mf ")[1:3] == [
                "0.5000 ± 0.1000",
                f"{mean:.4f} ± {written['metrics']['auc']['sd']:.4f}",
            ]
            assert cells(rows, "| mean_logit ")[1] == "-"
            assert cells(rows, "| oracle ")[2] == cells(rows, "| oracle ")[5] == "1.0000"
            assert abs(float(cells(rows, "| random ")[2].split()[0]) - 0.5) < 0.1
            assert [cells(strict.splitlines(), f"| {name} ")[0] for name in ("random", "mf", "mean_logit")]
            # All positives can be among the first five, since recall divides by min(5, positives).
            assert cells(strict.splitlines(), "| oracle ")[3] == "1.0000"
            assert "Published, not run here: badr." in strict
            assert "Against `mf` on ndcg@5" in strict
        assert blocks[-1].splitlines()[-1].startswith("| mean_logit | pseudo_count")

    def test_what_is_missing_is_said_before_training(self, docs, tmp_path):
        def reproduce(table="small", config=None, **settings):
            config = config or _config("mf")
            _reproduce.reproduce(
                table, config, str(tmp_path / "runs"), command=COMMAND, docs=str(docs), **settings
            )

        with pytest.raises(ConfigError, match="unknown table 'smal'; did you mean 'small'"):
            reproduce("smal")
        with pytest.raises(DataError, match="has no section <!-- begin x -->"):
            reproduce(section="x")
        with pytest.raises(ConfigError, match="unknown dataset of badr_table5 'synthetic'"):
            reproduce("badr_table5")
        bare = _config("mf")
        bare.protocol.metrics = ("ndcg@5",)
        with pytest.raises(
            ConfigError, match="compares auc, recall@5, which the runs do not measure; set config"
        ):
            reproduce(config=bare)
        (docs / "published" / "small.json").unlink()
        with pytest.raises(DataError, match="published figures are not at"):
            reproduce()
        assert not (tmp_path / "runs").exists(), (
            "hours of training must not be lost to a page without markers"
        )

    def test_a_variant_of_badr_stands_beside_badr(self, docs, tmp_path, monkeypatch):
        monkeypatch.setitem(_reproduce.VARIANTS_OF, "mean_logit", "badr")
        text = _reproduce.reproduce(
            "small", _config("mean_logit"), str(tmp_path / "runs"), command=COMMAND, docs=str(docs)
        )
        assert cells(text.split("####")[1].splitlines(), "| mean_logit ")[1] == "0.5000 ± 0.1000"
        assert "not run here: mf." in text


def test_the_command_of_one_row_is_that_of_the_table_with_its_name_alone():
    (train, again) = (
        _reproduce._one_row(COMMAND + " --section=x", _reproduce.TABLES[t])
        for t in ("badr_table3", "badr_table5")
    )
    assert (
        "`python launch/train.py --config=configs/x.py:METHOD --config.train.lr=0.1 --workdir=DIR/METHOD`"
        in train
    )
    assert (
        "launch/reproduce.py --table=small --config=configs/x.py:METHOD --config.train.lr=0.1 --workdir=DIR"
        in again
    )


class TestBounds:
    def test_floor_and_ceiling_of_a_hand_made_test_part(self):
        # User 0: one positive of two; user 1: none; user 2: both. AUC of the labels 1; NDCG@1 1, also without positive;
        # recall@1 1, 0 and 1/2.
        rows = Interactions(
            np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 2, 0, 2]), np.array([1.0, 0, 0, 0, 1, 1]), 3, 3
        )
        log = data.synthetic.generate(seed=0, n_users=3, n_items=3).replace(
            train=rows, test=rows, validation=None
        )
        protocol = metrics.PROTOCOLS["badr"].with_metrics("auc", "ndcg@1", "recall@1")
        judge = Judge(protocol, build_eval_set(protocol, rows, rows))
        floor, ceiling = _rows.bounds(log, judge, range(200))
        assert ceiling.values() == {"auc": [1.0], "ndcg@1": [1.0], "recall@1": [pytest.approx(0.5)]}
        # Of random scores: NDCG@1 (1/2 + 1 + 1) / 3, recall@1 (1/2 + 0 + 1/2) / 3; means of 200 draws.
        means = {name: float(np.mean(values)) for name, values in floor.values().items()}
        errors = {name: np.std(values) / math.sqrt(200) for name, values in floor.values().items()}
        for name, expected in (("auc", 0.5), ("ndcg@1", 5 / 6), ("recall@1", 1 / 3)):
            assert abs(means[name] - expected) < 4 * errors[name]
        assert floor.seeds == tuple(range(200))

    def test_coat_under_the_badr_protocol(self, data_dir):
        """Oracle recall .7951 as another program computed it; random recall by arithmetic."""
        dataset = data.coat.load_fixed_split(data_dir / "coat")
        floor, ceiling = _rows.bounds(dataset, make_judge(_config("mf"), dataset, "test"), range(10))
        assert np.mean(ceiling.values()["recall@5"]) == pytest.approx(0.7951, abs=1e-4)
        n = np.bincount(dataset.test.users, minlength=290)
        positives = np.bincount(dataset.test.users, dataset.test.labels, minlength=290)
        # Each positive is among the first five of n with probability 5 / n.
        expected = np.mean(np.where(positives > 0, np.minimum(5, n) / n, 0.0))
        recall = floor.values()["recall@5"]
        assert abs(np.mean(recall) - expected) < 4 * np.std(recall) / math.sqrt(10)


class TestFigures:
    """The runs are made up; what is drawn of which, and where the section shows it, is real."""

    @pytest.fixture
    def calls(self, monkeypatch):
        calls = []

        def run_rows(config, workdir):
            calls.append((workdir.name, config.train.batch_size, tuple(config.methods)))
            return [self.one(name, config.variants[name], config.train.batch_size) for name in config.methods]

        monkeypatch.setattr(_figures, "run_rows", run_rows)
        monkeypatch.setitem(_figures.BATCH_SIZES, "synthetic", (16, 64))
        return calls

    @staticmethod
    def one(name, entry, batch_size):
        logs = {"loss/prediction": [0.5, 0.4], "loss/imputation": [0.2, 0.3], "observed_loss": [0.6, 0.5]}
        history = [{"epoch": epoch, "log_loss": [0.7, 0.6], **logs} for epoch in (1, 2, 3)]
        user_values = [[batch_size / 1000, 0.5], [batch_size / 1000, 0.7]]
        return scored(name, user_values, names=("auc", "ndcg@5"))._replace(
            dataset="synthetic", method=entry["method"], options=dict(entry["options"]), history=history
        )

    @pytest.fixture
    def config(self):
        config = _config("mf")
        names = {"badr": "badr", "badr_plain": "dr_jl", "badr_v": "mrdr"}
        variants = {
            name: experiment.variant("badr", options={} if loss == "badr" else {"imputation": loss})
            for name, loss in names.items()
        }
        variants |= {name: experiment.variant(name) for name in ("dr_jl", "mrdr", "ips")}
        with config.unlocked():
            config.methods, config.variants = tuple(variants), variants
            config.protocol.update(
                {"validation": "badr", "validation_metrics": ("auc", "log_loss"), "monitor": "auc"}
            )
        return config

    @pytest.fixture
    def reproduce(self, tmp_path):
        def reproduce(config):
            text = "<!-- begin badr_figures_synthetic -->\n<!-- end badr_figures_synthetic -->\n"
            (tmp_path / "results.md").write_text(text)
            return _reproduce.reproduce(
                _reproduce.FIGURES, config, str(tmp_path / "runs"), command=COMMAND, docs=str(tmp_path)
            )

        return reproduce

    def test_ablation_loss_batch_sizes_and_training_losses(
        self, calls, config, reproduce, tmp_path, monkeypatch
    ):
        compared = []
        draw = _figures._plots.compare
        monkeypatch.setattr(
            _figures._plots,
            "compare",
            lambda path, shown: (compared.append([s.name for s in shown]), draw(path, shown)),
        )
        text = reproduce(config)
        assert compared == [["badr", "badr_plain", "dr_jl"], ["badr", "badr_v", "mrdr"]]
        links = [line.split("(")[-1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
        assert [link.split("_")[1] for link in links] == [
            "figure1a",
            "figure1b",
            "figure2",
            "figure3",
            "figure4",
        ]
        assert all((tmp_path / link).read_bytes().startswith(b"\x89PNG") for link in links)
        n = len(experiment.load_dataset(config)[0].train)
        assert [call[0] for call in calls] == ["runs", "batch_16", "batch_64", f"batch_{n}"]
        assert calls[1] == ("batch_16", 16, ("badr",)), "only BADR itself is trained at other batch sizes"
        lines = text.split("AUC by batch size:")[1].splitlines()
        # Users score b / 1000 and 0.5 or 0.7: the mean over users and runs is b / 2000 + 0.3, the sd 0.1 / sqrt 2.
        expected = ["badr", *(f"{size / 2000 + 0.3:.4f} ± 0.0707" for size in (16, 64, n))]
        assert cells(lines, "| badr ") == expected
        assert text in (tmp_path / "results.md").read_text()

    def test_what_the_figures_need_is_said_before_training(self, calls, config, reproduce):
        without = config.copy_and_resolve_references()
        without.methods = ("dr_jl", "badr_v")
        with pytest.raises(ConfigError, match="no variant of badr with its own imputation loss"):
            reproduce(without)
        config.protocol.validation_metrics = ("auc",)
        with pytest.raises(ConfigError, match="add 'log_loss' to config.protocol.validation_metrics"):
            reproduce(config)
        assert calls == []

    def test_runs_of_before_the_loss_was_measured(self, calls, config, reproduce, monkeypatch):
        made = self.one

        def bare(name, entry, batch_size):
            return made(name, entry, batch_size)._replace(history=[{"epoch": 1, "auc": [0.5, 0.5]}])

        monkeypatch.setattr(TestFigures, "one", staticmethod(bare))
        with pytest.raises(ConfigError, match="trained before it was among .*; use another --workdir"):
            reproduce(config)

    def test_other_datasets_have_no_figures(self, config, reproduce):
        with pytest.raises(ConfigError, match="unknown dataset of these figures 'synthetic'"):
            reproduce(config)
