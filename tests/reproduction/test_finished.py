"""Finished runs below a folder: what is read of them, and which are parts of one cell."""

import json
import re

import pytest
from reference.runs import finish
from reference.tables import small_config

from debias_jax import experiment
from debias_jax._reproduction import finished
from debias_jax.errors import ConfigError


def cells(folder, dataset="beauty"):
    return finished.cells_by_variant(finished.runs_below(folder, dataset))


def test_seeds_of_several_runs_are_in_their_order_each_with_its_own(tmp_path):
    finish(tmp_path, "sasrec_ce", [0.5], name="b", seeds=(3,))
    finish(tmp_path, "sasrec_ce", [0.3, 0.4], name="a", seeds=(4, 1), epochs=(10, 15))
    finish(tmp_path, "sasrec_sce", [0.1], seeds=(0,))
    found = cells(tmp_path)
    assert sorted(found) == ["sasrec_ce", "sasrec_sce"]
    cell = found["sasrec_ce"]
    assert cell.seeds == [1, 3, 4]
    assert cell.values["ndcg@10"] == [0.4, 0.5, 0.3]
    assert cell.epochs == [15, 15, 10] and cell.best_epochs() == [15, 10, 10]
    assert cell.curves[2] == [(5, 0.1), (10, 0.3)]
    assert (cell.seeds_text(), cell.epochs_text()) == ("1, 3, 4", "15 (15), 15 (10), 10 (10)")


def test_a_seed_that_is_there_twice(tmp_path):
    one, two = (finish(tmp_path, "sasrec_ce", [0.5, 0.6], name=name, seeds=(0, 1)) for name in ("x", "y"))
    with pytest.raises(ConfigError, match=re.escape(f"{one} and {two} both hold seed 0 of sasrec_ce")):
        cells(tmp_path)


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        ({"train": {"epochs": 300}}, "train.epochs (200 and 300)"),
        ({"settings": {"hparams": {"lr": 1e-3}}}, "hparams.lr (0.0005 and 0.001)"),
        ({"settings": {"options": {"loss": "cross_entropy"}}}, "options.samples (windows and None)"),
        (
            {"settings": {"model": {"name": "sasrec", "dim": 64, "options": {"max_len": 20}}}},
            "model.options.max_len (50 and 20)",
        ),
    ],
)
def test_settings_that_differ_are_named_with_both_folders(tmp_path, difference, shown):
    one = finish(tmp_path, "sasrec_ce", [0.5], name="one", seeds=(0,))
    two = finish(tmp_path, "sasrec_ce", [0.5], name="two", seeds=(1,), **difference)
    with pytest.raises(ConfigError, match=re.escape(f"{one} and {two} are runs")) as error:
        cells(tmp_path)
    assert f"differ in {shown}" in str(error.value)


def test_where_the_data_lies_and_how_often_it_is_saved_makes_no_other_run(tmp_path):
    finish(tmp_path, "sasrec_ce", [0.5], name="one", seeds=(0,), train={"save_seconds": 0.0})
    finish(tmp_path, "sasrec_ce", [0.7], name="two", seeds=(1,), train={"save_seconds": 60.0})
    assert cells(tmp_path)["sasrec_ce"].values["ndcg@10"] == [0.5, 0.7]


def test_other_datasets_and_folders_of_several_variants_are_passed_over(tmp_path):
    finish(tmp_path, "sasrec_ce", [0.5], dataset="ml_1m", seeds=(0,))
    (tmp_path / "results.json").write_text('{"results": [], "comparison": []}')
    assert cells(tmp_path) == {}
    (tmp_path / "sasrec_ce" / "config.json").unlink()
    with pytest.raises(ConfigError, match="results.json and no config.json"):
        cells(tmp_path, "ml_1m")


def test_real_runs_of_one_variant_alone_and_beside_another(tmp_path):
    """What a config says differently about one run (its baseline, whose model it is) makes no other run."""
    both, alone = small_config("mf,relmf"), small_config("mf")
    both.seeds, alone.seeds = (0,), (1,)
    experiment.run(both, tmp_path / "both", quiet=True)
    experiment.run(alone, tmp_path / "alone", quiet=True)
    cell = cells(tmp_path, "synthetic")["mf"]
    assert cell.seeds == [0, 1] and cell.epochs == [2, 2]
    assert len(cell.values["ndcg@5"]) == 2


class TestRecords:
    def test_a_record_says_of_a_seed_all_that_its_run_said(self, tmp_path):
        runs, records = tmp_path / "runs", tmp_path / "records"
        late = finish(runs / "K_10", "sasrec_ce", [0.3, 0.4], name="late", seeds=(4, 1), epochs=(10, 15))
        machine = {"backend": "cpu", "devices": ["cpu"], "jax_config": {}}
        (late / "environment.json").write_text(json.dumps({**machine, "commit": "abc"}))
        finish(runs, "sasrec_sce", [0.1], seeds=(0,))
        finish(runs, "caser_ce", [0.1], seeds=(0,), dataset="ml_1m")
        recorded = finished.gather(runs, "beauty", records)
        files = sorted(str(path.relative_to(records)) for path in records.rglob("*.json"))
        assert files == ["K_10/sasrec_ce_1.json", "K_10/sasrec_ce_4.json", "sasrec_sce_0.json"]
        assert [run.folder for run in recorded] == [records / name for name in files]
        assert recorded[0].environment == machine and recorded[2].environment == {}
        assert finished.cells_by_variant(recorded) == cells(runs)

    def test_runs_of_several_machines_are_one_cell(self, tmp_path):
        records = tmp_path / "records"
        for seeds, values in (((1,), [0.5]), ((0, 1), [0.3, 0.6])):
            finish(tmp_path / f"machine_{len(seeds)}", "sasrec_ce", values, seeds=seeds)
            runs = finished.gather(tmp_path / f"machine_{len(seeds)}", "beauty", records)
        # The seed that was trained again took the place of its record.
        assert finished.cells_by_variant(runs)["sasrec_ce"].values["ndcg@10"] == [0.3, 0.6]
        assert finished.gather(tmp_path / "no_such_folder", "beauty", records) == runs
        assert finished.gather(tmp_path / "no_such_folder", "ml_1m", records) == []

    def test_a_record_of_other_settings_is_not_replaced_and_nothing_else_is_written(self, tmp_path):
        finish(tmp_path / "first", "sasrec_ce", [0.5], seeds=(1,))
        finished.gather(tmp_path / "first", "beauty", tmp_path / "records")
        path = tmp_path / "records" / "sasrec_ce_1.json"
        before = path.read_bytes()
        second = finish(tmp_path / "second", "sasrec_ce", [0.6, 0.7], train={"epochs": 300})
        said = f"{path} records a run that differs from {second} in train.epochs (200 and 300)"
        with pytest.raises(ConfigError, match=re.escape(said)):
            finished.gather(tmp_path / "second", "beauty", tmp_path / "records")
        assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]

    def test_a_seed_that_is_there_twice_is_not_recorded(self, tmp_path):
        one, two = (finish(tmp_path / "runs", "sasrec_ce", [0.5, 0.6], name=name) for name in ("x", "y"))
        with pytest.raises(ConfigError, match=re.escape(f"{one} and {two} both hold seed 0 of sasrec_ce")):
            finished.gather(tmp_path / "runs", "beauty", tmp_path / "records")
        assert not (tmp_path / "records").exists()

    @pytest.mark.parametrize("text", ["[]", "{}", '{"variant": "sasrec_ce", "seeds": [0]}'])
    def test_another_file_among_the_records(self, tmp_path, text):
        (tmp_path / "other.json").write_text(text)
        with pytest.raises(ConfigError, match="other.json is no record of a run"):
            finished.gather(tmp_path / "runs", "beauty", tmp_path)
