"""The tables of next-item models: what is read of finished runs, what stands beside it, what is missing."""

import importlib.util
import json
import pathlib

import pytest
from reference.tables import ROOT, cells

from debias_jax import _sequence_tables, experiment
from debias_jax.data import synthetic_sequences
from debias_jax.errors import ConfigError, DataError


def config_of(dataset, method):
    spec = importlib.util.spec_from_file_location(dataset, ROOT / "configs" / f"{dataset}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(method)


def finish(folder, variant, values, monitor=((5, 0.1), (10, 0.3), (15, 0.2))):
    """A folder as a finished run of two seeds leaves it."""
    own = pathlib.Path(folder) / variant
    own.mkdir(parents=True)
    metrics = {
        f"{kind}@{k}": {"mean": sum(values) / 2, "sd": 0.0, "n": 2, "values": values}
        for kind in ("hr", "ndcg", "mrr")
        for k in (5, 10)
    }
    (own / "results.json").write_text(json.dumps({"variant": variant, "metrics": metrics}))
    (own / "config.json").write_text(json.dumps({"protocol": {"monitor": "ndcg@10"}}))
    rows = [
        {"step": step, "run": run, "ndcg@10": value if run == 0 else step / 100}
        for step, value in monitor
        for run in (0, 1)
    ]
    (own / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def nothing_trains(monkeypatch):
    asked = []

    def run_rows(config, workdir):
        asked.append((config, workdir))
        return []

    monkeypatch.setattr(_sequence_tables, "run_rows", run_rows)
    return asked


def dataset_named(name):
    return synthetic_sequences.generate(seed=0, n_users=5, n_items=40).replace(name=name)


def section(name, config, tmp_path, dataset="beauty"):
    return _sequence_tables.write(name, config, tmp_path, dataset_named(dataset), "COMMAND", ROOT / "docs")


def test_a_row_has_the_paper_the_logs_ours_and_the_epochs(tmp_path, nothing_trains):
    finish(tmp_path, "sasrec_ce", [0.058, 0.060])
    finish(tmp_path, "sasrec_gbce", [0.03, 0.05])
    lines = section("sce_table5", config_of("beauty", "sasrec_ce"), tmp_path).splitlines()
    row = cells(lines, "| sasrec_ce |")
    # NDCG@10 comes last: printed, mean and sd of the logs, ours.
    assert row[-4:] == ["0.0597", "0.0597 ± 0.0004", "0.0590 ± 0.0014", "15 (10, 15)"]
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


def test_what_does_not_fit_is_said(tmp_path, nothing_trains):
    config = config_of("beauty", "sasrec_ce")
    with pytest.raises(ConfigError, match="dataset of sce_table5"):
        section("sce_table5", config, tmp_path, dataset="coat")
    with pytest.raises(DataError, match="published figures are not at"):
        _sequence_tables.write("sce_table5", config, tmp_path, dataset_named("beauty"), "", tmp_path)
    config.protocol.metrics = ("ndcg@10",)
    with pytest.raises(ConfigError, match="compares hr@5"):
        section("sce_table5", config, tmp_path)


class TestVariants:
    def test_settings_are_those_of_the_published_runs(self):
        config = config_of("ml_1m", "bert4rec_bpr")
        entry = config.variants.bert4rec_bpr
        assert config.model.name == "bert4rec" and config.model.dim == 64
        assert config.model.options.to_dict() == {"max_len": 200, "dropout": 0.0, "n_heads": 4, "n_blocks": 2}
        assert entry.hparams.to_dict() == {"lr": 1e-3, "weight_decay": 1e-8, "mask_rate": 0.3}
        assert entry.options.to_dict() == {
            "loss": "bpr",
            "samples": "cloze",
            "negatives": "unseen",
            "n_negatives": 1,
        }
        assert (config.train.batch_size, config.train.epochs, config.train.eval_every) == (256, 300, 5)

    def test_sampled_losses_take_those_of_the_full_softmax(self):
        config = config_of("beauty", "caser_sce")
        assert config.variants.caser_sce.hparams.to_dict() == {
            "lr": 5e-3,
            "weight_decay": 5e-4,
            "alpha": 100.0,
        }
        assert config.variants.caser_sce.options.n_negatives == 500
        assert config.model.options.max_len == 5 and config.train.epochs == 300

    def test_several_variants_keep_their_own_schedule(self):
        config = config_of("yelp", "caser_ce,sasrec_ce")
        assert config.train.epochs == config.train.eval_every == 0
        # Both have this one.
        assert config.train.batch_size == 512
        alone = experiment.only(config, "caser_ce")
        assert (alone.train.epochs, alone.train.eval_every, alone.train.batch_size) == (50, 1, 512)
        config.train.epochs = 7
        assert experiment.only(config, "sasrec_ce").train.epochs == 7
