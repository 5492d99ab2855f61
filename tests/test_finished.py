"""Finished runs below a folder: what is read of them, and which are parts of one cell."""

import re

import pytest
from reference.runs import finish
from reference.tables import small_config

from debias_jax import _finished, experiment
from debias_jax.errors import ConfigError


def cells(folder, dataset="beauty"):
    return _finished.cells_by_variant(folder, dataset)


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
