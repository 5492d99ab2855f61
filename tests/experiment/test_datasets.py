"""What a config may ask of data: readers by name, their options, splits and what these take from the log."""

import numpy as np
import pytest

from debias_jax import data, experiment
from debias_jax.errors import ConfigError, DataError
from debias_jax.experiment import _datasets
from debias_jax.experiment._fit import make_judge
from debias_jax.metrics import PROTOCOLS

SIMULATED = {"seed": 0, "n_users": 40, "n_items": 25, "mean_exposure": 0.3}


def _config_of(name="synthetic", *, path="", options=None, split=None):
    config = experiment.base_config()
    with config.unlocked():
        config.data.name, config.data.path = name, path
        config.data.options = SIMULATED if name == "synthetic" else options or {}
        config.data.split = split or {}
    return config


class TestReaders:
    def test_sequences_of_the_user(self, tmp_path):
        (tmp_path / "sequences.txt").write_text("ann tea jam tea ham\nbob jam ham\n", encoding="utf-8")
        config = _config_of(
            "sequences", path=str(tmp_path), options={"name": "shop"}, split={"name": "leave_one_out"}
        )
        dataset, report = experiment.load_dataset(config)
        assert dataset.items.decode(dataset.test.items) == ["ham"]
        assert (report.name, report.part("train").rows, report.overlaps) == (
            "shop",
            4,
            {"train and validation": 1},
        )

    @pytest.mark.parametrize(("name", "n_users"), [("beauty", 22_363), ("ml_1m", 6_040)])
    def test_published_sequences_are_found_by_name(self, data_dir, name, n_users):
        assert experiment.load_dataset(_config_of(name))[0].n_users == n_users


class TestSplits:
    def test_subsample_thins_training_and_leaves_the_other_parts(self):
        whole, _ = experiment.load_dataset(_config_of())
        part, _ = experiment.load_dataset(_config_of(split={"name": "subsample", "fraction": 0.4}))
        assert len(part.train) == int(0.4 * len(whole.train))
        assert np.isin(part.train.pair_keys, whole.train.pair_keys).all()
        np.testing.assert_array_equal(part.test.pair_keys, whole.test.pair_keys)
        again, _ = experiment.load_dataset(
            _config_of(split={"name": "subsample", "fraction": 0.4, "seed": 2024})
        )
        np.testing.assert_array_equal(part.train.pair_keys, again.train.pair_keys)
        with pytest.raises(ConfigError, match=r"unknown key data.split.rate"):
            experiment.load_dataset(_config_of(split={"name": "subsample", "rate": 0.4}))

    def test_random_where_missing_draws_what_the_log_lacks(self):
        log = data.synthetic.generate(seed=0, n_users=40, n_items=25, mean_exposure=0.3)
        given = log.test
        both = _datasets.random_where_missing(log.replace(test=None), seed=1)
        assert len(both.train) + len(both.validation) + len(both.test) == len(log.train)
        assert "test and validation drawn from the log, and as biased as it is" in both.notes
        one = _datasets.random_where_missing(log, seed=1)
        assert one.test is given and len(one.train) + len(one.validation) == len(log.train)
        assert _datasets.random_where_missing(both) is both

    def test_random_where_missing_says_how_to_draw_from_short_histories(self):
        log = data.synthetic.generate(seed=0, n_users=40, n_items=25, mean_exposure=0.3)
        first = np.unique(log.train.users, return_index=True)[1]
        short = log.replace(train=log.train.take(first))
        with pytest.raises(DataError, match=r"for a validation share of 0.1; .*data.split.per_user=False"):
            _datasets.random_where_missing(short)
        assert len(_datasets.random_where_missing(short, per_user=False).validation) == round(len(first) / 10)

    @pytest.mark.parametrize(
        ("split", "parts"),
        [
            ({"name": "leave_one_out"}, ("validation", "test")),
            ({"name": "leave_one_out", "validation": 0}, ("test",)),
            ({"name": "global_time", "targets": "last"}, ("validation", "test")),
        ],
    )
    def test_event_logs_are_split_by_time(self, split, parts):
        options = {"seed": 0, "n_users": 40, "n_items": 25, "timestamps": True}
        dataset, report = experiment.load_dataset(
            _config_of("synthetic_sequences", options=options, split=split)
        )
        assert dataset.held_out == parts and report.part("test").rows == report.part("test").users
        assert (dataset.context is None) == (split["name"] == "leave_one_out")
        with pytest.raises(ConfigError, match=r"data.options.repeat; did you mean 'repeats'"):
            experiment.load_dataset(_config_of("synthetic_sequences", options={"repeat": True}))

    @pytest.mark.parametrize(
        ("split", "parts"),
        [
            ({}, ()),
            ({"name": "biif"}, ("validation",)),
            ({"name": "random", "seed": 0}, ("validation", "test")),
            ({"name": "subsample", "fraction": 0.5}, ()),
        ],
    )
    def test_which_parts_are_of_the_log(self, split, parts):
        dataset = data.synthetic.generate(seed=0, n_users=40, n_items=25, mean_exposure=0.3)
        if "test" in parts:
            dataset = dataset.replace(test=None)
        if split:
            options = {name: value for name, value in split.items() if name != "name"}
            dataset = _datasets.SPLITS[split["name"]](dataset, **options)
        assert dataset.held_out == parts
        assert len(dataset.log("test", "validation")) == sum(
            len(getattr(dataset, part)) for part in ("train", *parts)
        )

    def test_validation_of_the_dataset_is_no_part_of_the_log(self):
        """A judge that masks what was logged masks the held-out log rows of a split of ours, and only those."""

        def masked(dataset):
            judge = make_judge(_config_of(), dataset, "test", PROTOCOLS["xir"].with_metrics("ndcg@5"))
            return int((judge.eval_set.seen < dataset.n_items).sum())

        dataset, _ = experiment.load_dataset(_config_of(split={"name": "biif"}))
        assert masked(dataset) == len(dataset.train) + len(dataset.validation)
        assert masked(dataset.replace(held_out=())) == len(dataset.train)


def test_an_empty_option_takes_a_column_back(tmp_path):
    config = _config_of("own", path=str(tmp_path / "log.csv"), options={"label": "liked", "observed": ""})
    (tmp_path / "log.csv").write_text("user,item,liked\na,x,1\na,y,0\n")
    assert len(experiment.load_dataset(config)[0].train) == 2
