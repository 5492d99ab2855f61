"""The figures over eta, K and alpha: which run is which point, what is run, what is drawn and written."""

import shutil

import numpy as np
import pytest
from reference.runs import finish
from reference.tables import ROOT, cells, load_config

from debias_jax._reproduction import sequence_figures, tables
from debias_jax._reproduction.finished import runs_below
from debias_jax._reproduction.sequence_figures import Point
from debias_jax.data import synthetic_sequences
from debias_jax.errors import ConfigError

pytest.importorskip("matplotlib")

SCE = {"loss": "scaled_cross_entropy", "samples": "windows"}
NCE = {"loss": "noise_contrastive", "samples": "windows"}
NEG = {"loss": "negative_sampling", "samples": "windows"}
ETA = {"loss": "truncated_cross_entropy", "samples": "windows"}


def put(folder, name, values, options=None, hparams=None, **more):
    settings = {} if options is None else {"options": options}
    settings |= {"hparams": {"lr": 5e-4, **(hparams or {})}}
    return finish(folder, name, values, name=name, settings=settings, **more)


def put_all(folder):
    put(folder, "ce", [0.05, 0.07])
    put(folder, "eta_a", [0.04, 0.05], ETA, {"eta": 0.1})
    put(folder, "eta_b", [0.06, 0.08], ETA, {"eta": 0.7})
    for k in (10, 500):
        put(folder, f"nce_{k}", [0.03, 0.03], {**NCE, "n_negatives": k}, {"c": 1.0})
        put(folder, f"neg_{k}", [0.02, 0.04], {**NEG, "n_negatives": k})
        for alpha in (1.0, 100.0):
            put(folder, f"sce_{k}_{alpha}", [0.05, 0.06], {**SCE, "n_negatives": k}, {"alpha": alpha})


@pytest.fixture
def calls(monkeypatch):
    calls = []

    def run_rows(config, workdir):
        calls.append((str(workdir.name), tuple(config.methods), config.train.patience, config.train.epochs))

    monkeypatch.setattr(sequence_figures, "run_rows", run_rows)
    return calls


def draw(config, tmp_path, **more):
    dataset = synthetic_sequences.generate(seed=0, n_users=5, n_items=40).replace(name="beauty")
    return sequence_figures.draw(config, tmp_path / "runs", dataset, "COMMAND", tmp_path / "figures", **more)


class TestWhatIsDrawn:
    def test_every_figure_with_its_points_and_the_level_of_cross_entropy(
        self, tmp_path, calls, drawn_figures
    ):
        put_all(tmp_path / "runs")
        text = draw(load_config("beauty", "sasrec_ce"), tmp_path)
        links = [line.split("(")[-1].rstrip(")") for line in text.splitlines() if line.startswith("![")]
        assert links == [f"figures/sce_figure{number}_beauty.png" for number in (2, 3, 4)]
        assert all((tmp_path / link).read_bytes().startswith(b"\x89PNG") for link in links)
        (_, (two,)), (_, three), (_, (four,)) = drawn_figures
        lines = {line.get_label(): line for line in two.get_lines()}
        assert lines["CE"].get_ydata() == pytest.approx([0.06, 0.06])
        points = two.containers[0].lines[0]
        np.testing.assert_allclose(points.get_xydata(), [[0.1, 0.045], [0.7, 0.07]])
        assert [label.get_text() for label in two.get_xticklabels()] == ["0.1", "0.7"]
        assert [axis.get_title() for axis in three] == ["NCE, c = 1", "NEG"]
        for axis in three:
            curves = {line.get_label(): line.get_xydata() for line in axis.get_lines()}
            assert list(curves) == ["K = 10", "K = 500"]
            # The mean of the two seeds' validation: .1, .3, .2 and .05, .1, .15.
            np.testing.assert_allclose(curves["K = 10"], [[5, 0.075], [10, 0.2], [15, 0.175]])
        assert [line.get_label() for line in four.containers] == ["K = 10", "K = 500"]
        np.testing.assert_allclose(four.containers[1].lines[0].get_xydata()[:, 0], [1, 100])

    def test_numbers_stand_below(self, tmp_path, calls):
        put_all(tmp_path / "runs")
        lines = draw(load_config("beauty", "sasrec_ce"), tmp_path).splitlines()
        assert cells(lines, "| CE-eta | eta 0.7")[3:] == [
            "0.0700 ± 0.0141",
            # Half of .3 is reached at the second evaluation; half of .15 at the second too.
            "10, 10",
            "0, 1",
            "15 (10), 15 (15)",
        ]
        assert cells(lines, "| SCE | alpha 100 | 500")[3] == "0.0550 ± 0.0071"
        assert len([line for line in lines if line.startswith("| ")]) == 1 + 1 + 2 + 4 + 4

    def test_only_what_is_there(self, tmp_path, calls):
        put(tmp_path / "runs", "a", [0.05], {**SCE, "n_negatives": 10}, {"alpha": 5.0}, seeds=(0,))
        put(tmp_path / "runs", "b", [0.07], {**SCE, "n_negatives": 10}, {"alpha": 5.0}, seeds=(1,))
        text = draw(load_config("beauty", "sasrec_sce"), tmp_path)
        assert [line for line in text.splitlines() if line.startswith("![")] == [
            "![Figure 4: scaled cross-entropy over alpha, dashed: all items, beauty](figures/sce_figure4_beauty.png)"
        ]
        assert cells(text.splitlines(), "| SCE |")[3] == "0.0600 ± 0.0141"

    def test_recorded_points_without_training(self, tmp_path, calls):
        # A variant that is no point: nothing of the config is asked for.
        config, records = load_config("beauty", "caser_ce"), tmp_path / "records"
        for k in (10, 500):
            put(tmp_path / "runs", f"K_{k}", [0.05, 0.07], {**SCE, "n_negatives": k}, {"alpha": 5.0})
            text = draw(config, tmp_path, records=records, train=False)
            shutil.rmtree(tmp_path / "runs")
        assert calls == []
        rows = [row for row in text.splitlines() if row.startswith("| SCE |")]
        assert [row.split(" | ")[2] for row in rows] == ["10", "500"]

    @pytest.mark.parametrize(
        ("settings", "options"),
        [
            ({}, {**SCE, "n_negatives": 10, "shared": True}),
            ({}, {**SCE, "n_negatives": 10, "negatives": "popularity"}),
            ({}, {**SCE, "n_negatives": 10, "samples": "prefixes"}),
            ({}, {"loss": "bce", "samples": "windows", "n_negatives": 1}),
            ({"model": {"name": "gru4rec", "options": {}}}, {**SCE, "n_negatives": 10}),
        ],
    )
    def test_other_runs_are_no_points(self, tmp_path, settings, options):
        settings = {"hparams": {"alpha": 5.0}, "options": options, **settings}
        finish(tmp_path, "other", [0.5, 0.6], settings=settings)
        assert sequence_figures.points_of(runs_below(tmp_path, "beauty")) == {}


class TestWhatIsRun:
    def test_a_variant_is_run_at_the_setting_that_the_config_has(self, tmp_path, calls):
        config = load_config("ml_1m", "sasrec_ce,sasrec_ce_eta,sasrec_nce,sasrec_neg,sasrec_sce,sasrec_ssm")
        config.variants.sasrec_ce_eta.hparams.eta = 0.3
        config.variants.sasrec_nce.hparams.c = 1.0
        config.variants.sasrec_neg.options.n_negatives = 500
        draw(config, tmp_path)
        assert calls == [
            ("runs", ("sasrec_ce",), 10, 200),
            ("eta_0.3", ("sasrec_ce_eta",), 10, 200),
            # What stands still would be stopped.
            ("c_1_K_100", ("sasrec_nce",), 0, 500),
            ("K_500", ("sasrec_neg",), 0, 500),
            ("alpha_100_K_100", ("sasrec_sce",), 10, 300),
            ("alpha_1_K_100", ("sasrec_ssm",), 10, 300),
        ]

    def test_what_is_in_none_of_the_figures_is_refused_before_training(self, tmp_path, calls):
        for name in ("sasrec_bpr", "gru4rec_sce", "sasrec_plus_ce", "sasrec_sce_shared"):
            with pytest.raises(ConfigError, match=f"{name} is in none of these figures"):
                draw(load_config("beauty", f"sasrec_ce,{name}"), tmp_path)
        config = load_config("beauty", "sasrec_ce")
        config.protocol.metrics = ("hr@10",)
        with pytest.raises(ConfigError, match="the figures show ndcg@10"):
            draw(config, tmp_path)
        assert calls == []

    @pytest.mark.slow
    def test_one_point_trained_drawn_and_read_back(self, tmp_path):
        config = load_config("own_sequences", "sasrec_sce")
        with config.unlocked():
            config.data.name = "synthetic_sequences"
            config.data.options = {"seed": 0, "n_users": 30, "n_items": 40}
        config.model.dim = 4
        config.variants.sasrec_sce.options.n_negatives = 3
        config.train.update({"epochs": 2, "eval_every": 1, "batch_size": 16})
        name = "synthetic_sequences"
        (tmp_path / "results.md").write_text(
            f"<!-- begin sce_figures_{name} -->\n<!-- end sce_figures_{name} -->\n"
        )
        sections = [
            tables.reproduce("sce_figures", config, str(tmp_path / "runs"), command="C", docs=str(tmp_path))
            for _ in range(2)
        ]
        assert sections[0] == sections[1] and sections[0] in (tmp_path / "results.md").read_text()
        (point,) = sequence_figures.points_of(runs_below(tmp_path / "runs", name))
        assert point == Point("SCE", 100.0, 3)
        assert (tmp_path / "runs" / "alpha_100_K_3" / "sasrec_sce" / "results.json").exists()


def test_the_page_has_a_place_for_the_figures_of_both_datasets():
    page = (ROOT / "docs" / "results.md").read_text()
    for dataset in ("beauty", "ml_1m"):
        assert page.index(f"<!-- begin sce_figures_{dataset} -->") < page.index(
            f"<!-- end sce_figures_{dataset} -->"
        )
