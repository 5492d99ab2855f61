"""The tables of next-item models: what is read of finished runs, what stands beside it, what is missing."""

import sys

import pytest
from reference.runs import finish
from reference.tables import ROOT, cells
from reference.tables import load_config as config_of

from debias_jax import experiment
from debias_jax._reproduction import sequence_tables
from debias_jax.data import synthetic_sequences
from debias_jax.errors import ConfigError, DataError, MissingExtraError


@pytest.fixture
def nothing_trains(monkeypatch):
    asked = []

    def run_rows(config, workdir):
        asked.append((config, workdir))
        return []

    monkeypatch.setattr(sequence_tables, "run_rows", run_rows)
    return asked


def dataset_named(name):
    return synthetic_sequences.generate(seed=0, n_users=5, n_items=40).replace(name=name)


def section(name, config, tmp_path, dataset="beauty", **more):
    """The section, its images in ``tmp_path / "docs" / "figures"``."""
    docs = tmp_path / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    if not (docs / "published").exists():
        (docs / "published").symlink_to(ROOT / "docs" / "published")
    return sequence_tables.write(name, config, tmp_path, dataset_named(dataset), "COMMAND", docs, **more)


def test_a_row_has_the_paper_the_logs_ours_and_the_epochs(tmp_path, nothing_trains):
    finish(tmp_path, "sasrec_ce", [0.058, 0.060])
    finish(tmp_path, "sasrec_gbce", [0.03, 0.05])
    lines = section("sce_table5", config_of("beauty", "sasrec_ce"), tmp_path).splitlines()
    row = cells(lines, "| sasrec_ce |")
    # NDCG@10 comes last: printed, mean and sd of the logs, ours.
    assert row[-2:] == ["0, 1", "15 (10), 15 (15)"]
    assert row[-5:-2] == ["0.0597", "0.0597 ± 0.0004", "0.0590 ± 0.0014"]
    assert cells(lines, "| sasrec_gbce |")[1:4] == ["-", "-", "0.0400 ± 0.0141"]
    assert cells(lines, "| llamarec |")[3] == "not run"
    missing = next(line for line in lines if line.startswith("Not run yet"))
    assert "gru4rec_ce" in missing and "sasrec_ce" not in missing.split(";")[0].split(", ")
    assert "--config=configs/beauty.py:VARIANT" in missing


def test_blocks_of_lengths_change_what_the_models_read(tmp_path, nothing_trains):
    text = section("sce_table8", config_of("beauty", "sasrec_ce,sasrec_plus_sce"), tmp_path)
    assert [folder.name for _, folder in nothing_trains] == [
        "length_10",
        "length_20",
        "length_50",
        "length_100",
    ]
    for (config, _), length in zip(nothing_trains, (10, 20, 50, 100), strict=True):
        assert {entry.model.options.max_len for entry in config.variants.values()} == {length}
    assert "#### histories of 100 items" in text and "p5_cid_iid" in text


def test_the_length_of_one_variant_is_changed_too(tmp_path, nothing_trains):
    section("sce_table8", config_of("beauty", "sasrec_ce"), tmp_path)
    assert [config.model.options.max_len for config, _ in nothing_trains] == [10, 20, 50, 100]


def test_blocks_of_shifts_change_nce(tmp_path, nothing_trains):
    section("sce_table2", config_of("ml_1m", "sasrec_nce"), tmp_path, dataset="ml_1m")
    found = [
        (c.variants.sasrec_nce.hparams.c, c.variants.sasrec_nce.options.n_negatives)
        for c, _ in nothing_trains
    ]
    assert found == [(c, 500) for c in (1.0, 5.0, 10.0, 50.0, 100.0)]
    # An early stop would hide when the run converges.
    assert {(c.train.epochs, c.train.patience) for c, _ in nothing_trains} == {(500, 0)}


def test_the_published_epochs_of_convergence_stand_beside_ours(tmp_path, nothing_trains):
    finish(tmp_path / "c_10", "sasrec_nce", [0.056, 0.058])
    lines = section("sce_table2", config_of("beauty", "sasrec_nce"), tmp_path).splitlines()
    assert cells(lines, "| sasrec_nce |") == [
        "sasrec_nce",
        "0.0571",
        "0.0570 ± 0.0014",
        "95-115",
        "0, 1",
        "15 (10), 15 (15)",
    ]


def test_runs_of_another_dataset_and_metrics_that_were_not_measured_are_left_out(tmp_path, nothing_trains):
    finish(tmp_path, "gru4rec_ce", [0.2, 0.3], dataset="ml_1m")
    finish(tmp_path, "sasrec_ce", [0.058, 0.060], ks=(10,))
    lines = section("sce_table5", config_of("beauty", "sasrec_ce"), tmp_path).splitlines()
    row = cells(lines, "| sasrec_ce |")
    assert row[3] == "-" and row[6] == "0.0590 ± 0.0014"
    assert not any(line.startswith("| gru4rec_ce |") for line in lines)


def test_seeds_of_one_variant_are_one_row_in_whatever_folders_they_lie(tmp_path, nothing_trains):
    finish(tmp_path, "sasrec_ce", [0.058], seeds=(0,), epochs=(15,))
    finish(tmp_path / "later" / "two", "sasrec_ce", [0.060, 0.062], seeds=(2, 1), epochs=(10, 15))
    lines = section("sce_table5", config_of("beauty", "sasrec_ce"), tmp_path).splitlines()
    row = cells(lines, "| sasrec_ce |")
    # By hand: mean .060, sd .002.
    assert row[-3:] == ["0.0600 ± 0.0020", "0, 1, 2", "15 (10), 15 (15), 10 (10)"]


def test_runs_of_other_machines_stand_in_their_blocks_and_nothing_is_trained(tmp_path, nothing_trains):
    records = tmp_path / "records"
    config = config_of("beauty", "sasrec_ce")
    for seed, value in ((0, 0.058), (1, 0.060)):
        finish(tmp_path / f"machine_{seed}" / "length_20", "sasrec_ce", [value], seeds=(seed,))
        text = section("sce_table8", config, tmp_path / f"machine_{seed}", records=records, train=False)
    assert nothing_trains == []
    (row,) = (line for line in text.splitlines() if line.startswith("| sasrec_ce |"))
    assert "0.0590 ± 0.0014" in row and "every run below DIR and all that are recorded." in text
    assert text.index("histories of 20 items") < text.index(row) < text.index("histories of 50 items")


def test_what_does_not_fit_is_said(tmp_path, nothing_trains):
    config = config_of("beauty", "sasrec_ce")
    with pytest.raises(ConfigError, match="dataset of sce_table5"):
        section("sce_table5", config, tmp_path, dataset="coat")
    with pytest.raises(DataError, match="published figures are not at"):
        sequence_tables.write("sce_table5", config, tmp_path, dataset_named("beauty"), "", tmp_path)
    assert nothing_trains == []
    config.protocol.metrics = ("ndcg@10",)
    with pytest.raises(ConfigError, match="compares hr@5"):
        section("sce_table5", config, tmp_path)


# (lr, weight decay, dropout, batch) of the published runs with the full softmax, BCE and BPR.
PUBLISHED = {
    "beauty": {
        "gru4rec": ((5e-4, 1e-6, 0.5, 512), (1e-3, 1e-8, 0.3, 512), (5e-3, 1e-6, 0.3, 512)),
        "caser": ((5e-3, 5e-4, 0.7, 512), (1e-3, 1e-8, 0.7, 512), (1e-3, 1e-8, 0.7, 512)),
        "sasrec": ((5e-4, 1e-8, 0.6, 512), (5e-4, 1e-8, 0.4, 512), (5e-4, 1e-8, 0.3, 512)),
        "bert4rec": ((5e-3, 1e-4, 0.1, 256), (1e-3, 1e-4, 0.0, 256), (5e-4, 1e-4, 0.1, 256)),
        "fmlp_rec": ((1e-4, 5e-4, 0.5, 512), (1e-4, 1e-8, 0.5, 512), (1e-4, 1e-6, 0.1, 512)),
    },
    "ml_1m": {
        "gru4rec": ((1e-3, 1e-6, 0.3, 512), (1e-3, 0.0, 0.4, 512), (1e-3, 1e-6, 0.2, 512)),
        "caser": ((1e-4, 1e-6, 0.4, 512), (5e-4, 1e-6, 0.2, 512), (5e-4, 1e-6, 0.6, 512)),
        "sasrec": ((1e-3, 1e-6, 0.1, 128), (5e-4, 1e-8, 0.1, 256), (5e-3, 1e-8, 0.1, 256)),
        "bert4rec": ((5e-3, 1e-4, 0.0, 256), (1e-3, 1e-4, 0.0, 256), (1e-3, 1e-8, 0.0, 256)),
        "fmlp_rec": ((1e-4, 1e-6, 0.3, 512), (1e-4, 1e-8, 0.2, 512), (1e-4, 1e-8, 0.2, 512)),
    },
    "yelp": {
        "gru4rec": ((1e-3, 5e-4, 0.2, 512), (5e-4, 1e-4, 0.7, 512), (1e-3, 1e-8, 0.6, 512)),
        "caser": ((5e-3, 1e-8, 0.7, 512), (1e-3, 1e-8, 0.7, 512), (1e-3, 1e-8, 0.7, 512)),
        "sasrec": ((1e-3, 1e-6, 0.7, 512), (5e-4, 1e-4, 0.4, 512), (5e-4, 1e-4, 0.1, 512)),
        "bert4rec": ((1e-3, 1e-8, 0.1, 256), (1e-3, 1e-4, 0.0, 256), (5e-4, 1e-8, 0.0, 256)),
        "fmlp_rec": ((1e-4, 1e-6, 0.7, 512), (5e-4, 1e-8, 0.5, 512), (1e-3, 1e-8, 0.4, 512)),
    },
}

MASK_RATES = {"beauty": (0.2, 0.4, 0.5), "ml_1m": (0.2, 0.3, 0.3), "yelp": (0.5, 0.4, 0.4)}

LENGTHS_AND_NEGATIVES = {"beauty": (50, 500), "ml_1m": (200, 100), "yelp": (50, 100)}

MODEL_OPTIONS = {
    "gru4rec": {"n_layers": 1},
    "caser": {"n_vertical": 4, "n_horizontal": 16},
    "sasrec": {"n_heads": 1, "n_blocks": 2},
    "bert4rec": {"n_heads": 4, "n_blocks": 2},
    "fmlp_rec": {"n_blocks": 4},
}


class TestVariants:
    @pytest.mark.parametrize("dataset", PUBLISHED)
    def test_settings_are_those_of_the_published_runs(self, dataset):
        max_len, k = LENGTHS_AND_NEGATIVES[dataset]
        losses = {
            "ce": (0, {"loss": "cross_entropy"}, {}),
            "bce": (1, {"loss": "bce", "negatives": "unseen", "n_negatives": 1}, {}),
            "bpr": (2, {"loss": "bpr", "negatives": "unseen", "n_negatives": 1}, {}),
            "nce": (0, {"loss": "noise_contrastive", "n_negatives": k}, {"c": 10.0}),
            "sce": (0, {"loss": "scaled_cross_entropy", "n_negatives": k}, {"alpha": 100.0}),
        }
        for model, settings in PUBLISHED[dataset].items():
            for loss, (column, options, hparams) in losses.items():
                lr, weight_decay, dropout, batch = settings[column]
                hparams = hparams | {"lr": lr, "weight_decay": weight_decay}
                if model == "bert4rec":
                    hparams["mask_rate"] = MASK_RATES[dataset][column]
                config = config_of(dataset, f"{model}_{loss}")
                entry = config.variants[f"{model}_{loss}"]
                assert entry.hparams.to_dict() == hparams
                assert options.items() <= entry.options.to_dict().items()
                assert (config.model.name, config.model.dim) == (model, 64)
                length = 5 if model == "caser" else max_len
                assert config.model.options.to_dict() == {
                    "max_len": length,
                    "dropout": dropout,
                    **MODEL_OPTIONS[model],
                }
                schedule = (batch, 200 if loss == "ce" else 300, 5)
                if (dataset, model) == ("yelp", "caser") and column == 0:
                    schedule = (batch, 50, 1)
                assert (config.train.batch_size, config.train.epochs, config.train.eval_every) == schedule

    @pytest.mark.parametrize(("dataset", "lr", "dropout"), [("beauty", 5e-4, 0.5), ("ml_1m", 1e-3, 0.1)])
    def test_sasrec_plus_reads_twenty_items(self, dataset, lr, dropout):
        config = config_of(dataset, "sasrec_plus_sce")
        entry = config.variants.sasrec_plus_sce
        assert entry.options.samples == "prefixes" and entry.hparams.alpha == 100.0
        assert (entry.hparams.lr, entry.hparams.weight_decay) == (lr, 1e-6)
        options = {"max_len": 20, "dropout": dropout, "n_heads": 1, "n_blocks": 2}
        assert config.model.options.to_dict() == options and config.model.name == "sasrec"
        assert (config.train.batch_size, config.train.epochs) == (512, 300)

    def test_importance_sampling_is_the_papers_and_by_popularity_the_usual_one(self):
        config = config_of("beauty", "sasrec_is,sasrec_is_popularity,sasrec_ssm")
        options = {name: entry.options.to_dict() for name, entry in config.variants.items()}
        assert options["sasrec_is"]["loss"] == "importance_sampling"
        assert options["sasrec_is_popularity"] == options["sasrec_is"] | {
            "loss": "importance_sampled_softmax",
            "negatives": "popularity",
        }
        assert options["sasrec_ssm"]["loss"] == "scaled_cross_entropy"

    def test_several_variants_keep_their_own_schedule(self):
        config = config_of("yelp", "caser_ce,sasrec_ce")
        # They agree on the batch, and on it alone.
        assert (config.train.epochs, config.train.eval_every, config.train.batch_size) == (0, 0, 512)
        alone = experiment.only(config, "caser_ce")
        assert (alone.train.epochs, alone.train.eval_every, alone.train.batch_size) == (50, 1, 512)
        config.train.epochs = 7
        assert experiment.only(config, "sasrec_ce").train.epochs == 7

    def test_negative_sampling_alone_does_not_stop_early(self):
        config = config_of("beauty", "sasrec_neg,sasrec_ce")
        assert [experiment.only(config, name).train.patience for name in config.methods] == [0, 10]

    def test_variants_of_one_model_share_it(self):
        config = config_of("own_sequences", "sasrec_ce,sasrec_sce")
        # Flags change it for both.
        assert config.model.name == "sasrec" and config.model.options.max_len == 50
        assert all(not entry.model for entry in config.variants.values())
        several = config_of("own_sequences", "sasrec_ce,gru4rec_ce")
        assert several.variants.gru4rec_ce.model.name == "gru4rec"


def test_validation_over_epochs_is_drawn_with_a_panel_for_each_model(tmp_path, nothing_trains, drawn_figures):
    finish(tmp_path, "sasrec_ce", [0.058, 0.060], monitor=((5, 0.1), (10, 0.3), (15, 0.2)))
    finish(tmp_path, "sasrec_plus_sce", [0.05], seeds=(0,))
    caser = {"model": {"name": "caser", "dim": 64, "options": {"max_len": 5}}}
    finish(tmp_path, "caser_ce", [0.03], seeds=(0,), settings=caser)
    text = section("sce_table5", config_of("beauty", "sasrec_ce"), tmp_path)
    assert (
        "![Validation ndcg@10 over epochs, mean and sd over seeds, beauty](figures/sce_table5_beauty.png)"
        in text
    )
    assert (tmp_path / "docs" / "figures" / "sce_table5_beauty.png").read_bytes()[:4] == b"\x89PNG"
    ((_, axes),) = drawn_figures
    lines = {axis.get_title(): {line.get_label(): line for line in axis.get_lines()} for axis in axes}
    assert {name: set(curves) for name, curves in lines.items()} == {
        "caser": {"ce"},
        "sasrec": {"ce", "plus_sce"},
    }
    # The second seed's validation is .05, .1, .15.
    assert lines["sasrec"]["ce"].get_ydata() == pytest.approx([0.075, 0.2, 0.175])
    assert list(lines["sasrec"]["ce"].get_xdata()) == [5, 10, 15]


def test_other_tables_and_a_page_without_runs_have_no_figure(tmp_path, nothing_trains, drawn_figures):
    config = config_of("beauty", "sasrec_ce")
    section("sce_table5", config, tmp_path)
    finish(tmp_path, "sasrec_ce", [0.058, 0.060])
    text = section("sce_table7", config, tmp_path)
    assert "![" not in text and drawn_figures == [] and not (tmp_path / "docs" / "figures").exists()


def test_without_matplotlib_a_table_with_a_figure_trains_nothing(tmp_path, nothing_trains, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    config = config_of("beauty", "sasrec_ce")
    with pytest.raises(MissingExtraError, match="plot"):
        section("sce_table5", config, tmp_path)
    assert nothing_trains == []
    assert "sasrec_ce" in section("sce_table7", config, tmp_path)
