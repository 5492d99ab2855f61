"""Clicks and conversions of the user's own: what configs/own_data.py takes for granted, and the refusals."""

import numpy as np
import pytest
from reference.tables import config_module

from debias_jax import experiment
from debias_jax.errors import DataError
from debias_jax.experiment import _build
from debias_jax.experiment._search_space import search_space

OWN = config_module("own_data")


class TestSettings:
    @pytest.mark.parametrize("argument", ["cvr", "badr", "dr_jl,ips", "mf_rated,sndr", "badr_zeros,mf_bias"])
    def test_conversion_methods_read_the_two_columns(self, argument):
        config = OWN.get_config(argument)
        assert (config.data.options.label, config.data.options.observed) == ("converted", "clicked")
        assert (config.data.split.name, config.data.split.per_user) == ("random_where_missing", True)
        assert (config.protocol.test, config.protocol.metrics) == ("badr", ("auc", "ndcg@5"))
        assert (config.protocol.monitor, config.protocol.headline) == ("auc", "auc")
        assert (config.model.dim, config.train.batch_size) == (32, 1024)

    @pytest.mark.parametrize("argument", ["umf", "family", "ips,snips", "mf,mf_rated", "badr,umf"])
    def test_other_selections_are_those_of_a_log_of_clicks(self, argument):
        config = OWN.get_config(argument)
        assert (config.data.options.label, config.data.options.observed) == (None, None)
        assert (config.data.split.name, config.protocol.test) == ("random_test_then_biif", "xir")
        assert config.tune.space == experiment.base_config().tune.space

    def test_names_of_both_families_are_the_implicit_ones(self):
        config = OWN.get_config("mean_logit,mf,badr")
        assert not config.variants.mean_logit.options and not config.variants.mf.options
        both = set(experiment.CVR) & set(experiment.IMPLICIT)
        assert both == {"mean_logit", "mf", "ips", "snips"}
        table = experiment.cvr_variants({}, settings={"frame": "pairs", "ratio": 4})
        for name in ("ips", "snips"):
            assert table[name].to_dict() == OWN.IMPLICIT[name].to_dict()
        assert set(OWN.CONVERSION) | both >= set(experiment.CVR)

    def test_frame_and_ratio_reach_the_methods_that_have_them(self):
        config = OWN.get_config("cvr")
        for name in ("dr_jl", "sndr", "badr"):
            assert config.variants[name].options.to_dict() == {"frame": "pairs", "ratio": 4}

    def test_every_variant_has_a_search_space(self):
        config = OWN.get_config(",".join(OWN.CONVERSION))
        for name in config.methods:
            entry = config.variants[name]
            space = search_space(config, name, _build.default_hparams(config, entry))
            if "min_propensity" in space:
                assert space["min_propensity"] == ["log", 1e-4, 1e-1]
        assert experiment.CVR_SPACE["default"]["min_propensity"] == ("uniform", 0.02, 0.15)


def _impressions(path, *, n_users=60, n_items=50, shown=34, convert=True):
    """About 2,000 rows; liked items are clicked more often, and convert more often once clicked."""
    rng = np.random.default_rng(0)
    rows = ["user,item,clicked,converted"]
    for user in range(n_users):
        for item in rng.choice(n_items, shown, replace=False):
            liked = (user + item) % 2
            clicked = int(rng.random() < 0.3 + 0.4 * liked)
            converted = clicked * int(not convert or rng.random() < 0.2 + 0.6 * liked)
            rows.append(f"u-{user:03d},sku-{item:02d},{clicked},{converted}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def _small(argument, path):
    config = OWN.get_config(argument)
    config.data.path = str(path)
    config.seeds = (0,)
    config.model.dim = 4
    config.train.update({"epochs": 2, "batch_size": 256})
    return config


@pytest.mark.slow
def test_several_methods_from_a_csv_to_a_comparison(tmp_path, capsys):
    path = _impressions(tmp_path / "log.csv")
    outcome = experiment.run(_small("mean_logit_ratings,mf_bias,sndr", path), tmp_path / "run")
    assert [row["variant"] for row in outcome.results] == ["mean_logit_ratings", "mf_bias", "sndr"]
    assert "against mf_bias on auc" in outcome.text
    for row in outcome.results:
        assert set(row["metrics"]) >= {"auc", "ndcg@5"} and 0 < row["metrics"]["auc"]["mean"] < 1
    printed = capsys.readouterr().out
    cells = [line.split(",") for line in path.read_text().splitlines()[1:]]
    unclicked = sum(clicked == "0" for _, _, clicked, _ in cells)
    assert f"unobserved rows (label unknown, in no part): {unclicked:,}" in printed
    assert "as biased as it is" in printed


def test_one_label_only_is_refused(tmp_path):
    config = _small("badr", _impressions(tmp_path / "log.csv", convert=False))
    with pytest.raises(
        DataError, match=r"badr needs observed pairs with both labels, and all \d+ training rows"
    ):
        experiment.run(config, tmp_path / "run", quiet=True)
