"""Tables of ``docs/results.md`` run to the end, and what bounds their rows."""

import json
import math
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict
from reference.tables import ROOT, cells, load_config, small_config

from debias_jax import data, experiment, metrics
from debias_jax._reproduction import tables
from debias_jax._reproduction.rows import bounds
from debias_jax.data.types import Interactions
from debias_jax.errors import ConfigError, DataError
from debias_jax.experiment._fit import Judge, make_judge
from debias_jax.training.evaluation import build_eval_set

# The script with no table behind it.
PRINT_COMMAND = """
import runpy, sys
from debias_jax._reproduction import tables

tables.reproduce = lambda *arguments, command, **settings: command
runpy.run_path("launch/reproduce.py", run_name="__main__")
"""

COMMAND = (
    "python launch/reproduce.py --table=small --config=configs/x.py:a,b --config.train.lr=0.1 --workdir=DIR"
)

TABLE = tables.Table(
    source="A paper, Table 1",
    published="small.json",
    datasets={"synthetic": "coat", "other": "kuairec"},
    settings=tuple(
        tables.Setting(
            f"decay_{decay}", f"decay {decay}", {"decay": decay}, {"train": {"weight_decay": decay}}
        )
        for decay in (0.1, 0.2)
    ),
)


@pytest.fixture
def docs(tmp_path, monkeypatch):
    """A folder of docs with one small table, over two settings."""
    monkeypatch.setitem(tables.TABLES, "small", TABLE)
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
            return tables.reproduce(
                "small", small_config(methods), str(workdir), command=COMMAND, docs=str(docs)
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
            config = config or small_config("mf")
            tables.reproduce(
                table, config, str(tmp_path / "runs"), command=COMMAND, docs=str(docs), **settings
            )

        with pytest.raises(ConfigError, match="unknown table 'smal'; did you mean 'small'"):
            reproduce("smal")
        with pytest.raises(DataError, match="has no section <!-- begin x -->"):
            reproduce(section="x")
        with pytest.raises(ConfigError, match="unknown dataset of badr_table5 'synthetic'"):
            reproduce("badr_table5")
        bare = small_config("mf")
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
        monkeypatch.setitem(tables.VARIANTS_OF, "mean_logit", "badr")
        text = tables.reproduce(
            "small", small_config("mean_logit"), str(tmp_path / "runs"), command=COMMAND, docs=str(docs)
        )
        assert cells(text.split("####")[1].splitlines(), "| mean_logit ")[1] == "0.5000 ± 0.1000"
        assert "not run here: mf." in text


class TestYahoo:
    """The licensed files made up in their format, with 40 users for 15,400 and 20 songs for 1,000."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.setattr(data.yahoo_r3, "N_USERS", 40)
        monkeypatch.setattr(data.yahoo_r3, "N_ITEMS", 20)
        rng = np.random.default_rng(0)
        for part, n in (("train", 12), ("test", 10)):
            lines = [
                f"{user}\t{item + 1}\t{rng.integers(1, 6)}"
                for user in range(1, 41)
                for item in rng.choice(20, size=n, replace=False)
            ]
            (tmp_path / f"ydata-ymusic-rating-study-v1_0-{part}.txt").write_text("\n".join(lines) + "\n")
        return tmp_path

    def test_table_1_beside_the_published_rows(self, folder, docs):
        published = (ROOT / "docs" / "published" / "biif_table1.json").read_text()
        (docs / "published" / "biif_table1.json").write_text(published)
        (docs / "results.md").write_text("<!-- begin biif_table1 -->\n<!-- end biif_table1 -->\n")
        config = load_config("yahoo_r3", "mf,biif")
        with config.unlocked():
            config.data.path, config.data.options.strict_counts = str(folder), False
            config.model.dim, config.seeds = 2, (0, 1)
            config.train.update({"epochs": 1, "eval_every": 1})
        text = tables.reproduce("biif_table1", config, str(folder / "runs"), command=COMMAND, docs=str(docs))
        lines = text.splitlines()
        assert lines[0] == "### Yahoo! R3, protocol `cjmf` (Biif, Table 1)"
        row = next(number for number, line in enumerate(lines) if line.startswith("| **biif**"))
        ours = json.loads((folder / "runs" / "biif" / "results.json").read_text())["metrics"]["dcg@3"]
        assert cells(lines[row:], "| **")[3] == f"{ours['mean']:.3f} ± {ours['sd']:.3f}"
        assert cells(lines[row + 1 :], "| published")[3] == "0.888 ± 0.002"
        assert cells(lines, "| **mf**")[-1] == "not published"
        assert "Against `mf` on dcg@3" in text and text in (docs / "results.md").read_text()


def test_a_block_of_few_rows_has_as_many_steps():
    config = experiment.base_config()
    config.train.epochs, config.train.patience = 40, 6
    setting = tables.TABLES["badr_table5"].settings[-1]
    own = setting.of(config)
    assert own.data.split.fraction == setting.share == 0.2
    assert (own.train.epochs, own.train.patience) == (200, 30)
    assert (config.train.epochs, config.train.patience) == (40, 6)


def test_a_table_of_our_own_runs(docs, tmp_path):
    page = docs / "results.md"
    page.write_text("<!-- begin retrieval_synthetic -->\n<!-- end retrieval_synthetic -->\n")
    config = small_config("mf,mean_logit")
    with config.unlocked():
        config.methods, config.variants.ssl_pop = ("ssl_pop", "mean_logit"), config.variants.mf
    text = tables.reproduce("retrieval", config, str(tmp_path / "runs"), command=COMMAND, docs=str(docs))
    assert text in page.read_text()
    lines = text.splitlines()
    assert lines[0] == "### synthetic, protocol `badr`"
    for name in config.methods:
        written = json.loads((tmp_path / "runs" / name / "results.json").read_text())["metrics"]["auc"]
        assert cells(lines, f"| {name} ")[1] == f"{written['mean']:.4f} ± {written['sd']:.4f}"
    assert "Against `ssl_pop` on ndcg@5" in text
    assert "launch/train.py" in text and lines[-1].startswith("| mean_logit | pseudo_count")


def test_the_command_of_one_row_is_that_of_the_table_with_its_name_alone():
    (train, again) = (
        tables._one_row(COMMAND + " --section=x", len(tables.TABLES[t].settings))
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


@pytest.mark.parametrize("more", [{"train": False}, {"records": "records"}])
@pytest.mark.parametrize("table", ["biif_table2", "retrieval", "bir_figure7"])
def test_tables_that_are_run_as_a_whole_have_no_records(tmp_path, table, more):
    with pytest.raises(ConfigError, match=f"{table} is none; leave them out"):
        tables.reproduce(table, small_config("mf"), str(tmp_path), command="", **more)


class TestCommand:
    def test_paths_of_the_machine_are_words(self, tmp_path):
        command = tables.command_of(
            "badr_table3",
            f"{tmp_path}/mine.py:a,b",
            {"seeds": (0, 1), "data.path": f"{tmp_path}/coat", "data.split": ConfigDict({"name": "biif"})},
            section="x",
            tuned=f"{tmp_path}/tuned.json",
        )
        assert shlex.split(command) == [
            *("python", "launch/reproduce.py", "--table=badr_table3", "--config=CONFIG.py:a,b"),
            *("--config.seeds=(0, 1)", "--config.data.path=DATA", "--config.data.split={'name': 'biif'}"),
            *("--section=x", "--tuned=TUNED.json", "--workdir=DIR"),
        ]

    def test_what_shows_finished_runs_alone(self, tmp_path):
        for records, shown in (("docs/runs", "docs/runs"), (f"{tmp_path}/records", "RECORDS")):
            command = tables.command_of("t", "configs/x.py:a", {}, records=records, train=False)
            assert command.endswith(f"--config=configs/x.py:a --records={shown} --notrain --workdir=DIR")

    def test_paths_below_the_repository_stay(self):
        command = tables.command_of("t", "configs/x.py:a", {"data.path": "log.csv"}, tuned="runs/tuned.json")
        assert "--config.data.path=log.csv --tuned=runs/tuned.json --workdir=DIR" in command

    def test_the_script_gives_what_was_parsed_whichever_way_it_was_written(self, tmp_path):
        (tmp_path / "tuned.json").write_text('{"biif": {"method": "biif", "hparams": {"lr": 0.5}}}')
        arguments = [
            "--workdir",
            str(tmp_path),
            "--table",
            "biif_table2",
            "--config",
            "configs/coat.py:mf,biif",
        ]
        arguments += ["--config.train.lr", "1e-3", "--noconfig.model.bias", "--config.train.lr=2e-3"]
        arguments += [f"--tuned={tmp_path}/tuned.json", "--config.seeds=(0,)"]
        done = subprocess.run(
            [sys.executable, "-c", PRINT_COMMAND, *arguments],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        untuned, command = done.stdout.splitlines()
        assert untuned == f"{tmp_path}/tuned.json has nothing for mf: settings of the config"
        assert command == (
            "python launch/reproduce.py --table=biif_table2 --config=configs/coat.py:mf,biif --config.train.lr=0.002 "
            "--config.model.bias=False '--config.seeds=(0,)' --tuned=TUNED.json --workdir=DIR"
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
        floor, ceiling = bounds(log, judge, range(200))
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
        floor, ceiling = bounds(dataset, make_judge(small_config("mf"), dataset, "test"), range(10))
        assert np.mean(ceiling.values()["recall@5"]) == pytest.approx(0.7951, abs=1e-4)
        n = np.bincount(dataset.test.users, minlength=290)
        positives = np.bincount(dataset.test.users, dataset.test.labels, minlength=290)
        # Each positive is among the first five of n with probability 5 / n.
        expected = np.mean(np.where(positives > 0, np.minimum(5, n) / n, 0.0))
        recall = floor.values()["recall@5"]
        assert abs(np.mean(recall) - expected) < 4 * np.std(recall) / math.sqrt(10)
