"""Stopping on a training log: the rule, and runs that follow it."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, experiment, methods, models, training
from debias_jax.errors import CheckpointError, ConfigError
from debias_jax.training.checkpoint import Checkpointer
from debias_jax.training.early_stop import Plateau, on_plateau
from debias_jax.training.writers import jsonable


def rule(values, tolerance, patience):
    """The epoch after which a run rests, None if never: the released loop in plain Python."""
    previous, counter = math.inf, 0
    for epoch, value in enumerate(values, start=1):
        if epoch > 1 and (previous - value) / previous < tolerance:
            counter += 1
            if counter == patience:
                return epoch
        previous = value
    return None


def history_of(*runs):
    return [{"epoch": e + 1, "loss": list(row)} for e, row in enumerate(zip(*runs, strict=True))]


class TestRule:
    @pytest.mark.parametrize(
        ("values", "patience", "rests"),
        [
            ([9.0], 1, False),  # the first epoch has nothing to be compared with
            ([9.0, 9.0], 1, True),
            ([9.0, 9.1], 1, True),
            ([9.0, 8.0], 1, False),
            ([100.0, 99.995], 1, True),  # a relative decrease of 5e-5
            ([100.0, 99.98], 1, False),  # and of 2e-4
            ([9.0, 9.0, 8.0, 8.0], 2, True),  # the count is not reset by the decrease between
            ([9.0, 9.0, 8.0, 8.0], 3, False),
            ([5.0, 9.0, 8.0, 7.0], 2, False),  # compared with the epoch before, not with the best
            ([1.0, 0.0, 0.0], 1, True),  # a log at 0 cannot fall any more
            ([2.0, math.nan, 1.0, 1.0], 2, False),
        ],
    )
    def test_by_hand(self, values, patience, rests):
        assert on_plateau(Plateau("loss", 1e-4, patience), history_of(values)).tolist() == [rests]

    def test_random_walks_rest_where_the_released_loop_does(self, rng):
        walks = np.exp(np.cumsum(rng.normal(-2e-3, 1e-2, size=(50, 40)), axis=1)).tolist()
        plateau = Plateau("loss", 1e-3, 7)
        rests = np.stack([on_plateau(plateau, history_of(*walks)[:n]) for n in range(1, 41)])
        first = [int(np.argmax(column)) + 1 if column.any() else None for column in rests.T]
        assert first == [rule(walk, 1e-3, 7) for walk in walks]
        assert len(set(first)) > 5, "the walks should differ, or this test shows nothing"

    def test_the_evaluation_before_training_is_no_epoch_of_it(self):
        rows = [{"epoch": 0, "auc": [0.5]}, *history_of([9.0, 9.0])]
        assert on_plateau(Plateau("loss", patience=1), rows).tolist() == [True]
        assert on_plateau(Plateau("loss", patience=2), rows).tolist() == [False]

    def test_defaults_are_those_of_the_released_program(self):
        assert Plateau("loss") == ("loss", 1e-4, 7)


@pytest.fixture(scope="module")
def train():
    log = data.synthetic.generate(seed=3, n_users=24, n_items=18, mean_exposure=0.3)
    return training.train_data(log)


@pytest.fixture(scope="module")
def method():
    return methods.mf(models.mf(24, 18, dim=4), batch_size=64)


PLATEAU = Plateau("loss", 2e-2, 3)
EPOCHS = 12


@pytest.fixture(scope="module")
def fit(method, train):
    keys = jnp.stack([training.run_key(seed) for seed in (0, 1)])
    hparams = {"lr": np.array([1.0, 0.02])}
    return functools.partial(training.fit_many, method, train, keys, hparams)


@pytest.fixture(scope="module")
def whole(fit):
    return fit(epochs=EPOCHS, plateau=PLATEAU)


class TestFit:
    def test_each_run_rests_where_the_rule_says(self, fit, whole, method, train):
        """The same runs without the rule tell where it would have stopped them."""
        free = fit(epochs=EPOCHS)
        losses = np.array([row["loss"] for row in free.history])
        ends = [rule(losses[:, run].tolist(), PLATEAU.tolerance, PLATEAU.patience) for run in (0, 1)]
        assert None not in ends and ends[0] != ends[1], (
            "the runs should stop apart, or this test shows nothing"
        )
        steps = method.batches(train, jax.random.key(0)).where.shape[0]
        assert np.asarray(whole.last_state.step).tolist() == [end * steps for end in ends]
        for run, end in enumerate(ends):
            trained = [row["loss"][run] for row in whole.history[:end]]
            assert trained == losses[:end, run].tolist()
            assert all(math.isnan(row["loss"][run]) for row in whole.history[end:])

    def test_a_rested_run_keeps_its_last_state(self, whole, method, train):
        length = sum(math.isfinite(row["loss"][0]) for row in whole.history)
        alone = training.fit(method, train, training.run_key(0), {"lr": 1.0}, epochs=length)
        chex.assert_trees_all_equal(jax.tree.map(lambda x: x[0], whole.state), alone.state)

    @pytest.mark.parametrize("cut", [2, 5, 7])
    def test_resumed_is_uninterrupted(self, fit, whole, tmp_path, cut):
        for epochs in (cut, EPOCHS):
            with Checkpointer(tmp_path, fingerprint={}) as saver:
                parts = fit(epochs=epochs, plateau=PLATEAU, checkpointer=saver)
        chex.assert_trees_all_equal(parts.last_state, whole.last_state)
        assert jsonable(parts.history) == jsonable(whole.history)

    def test_the_monitor_is_still_read_and_sees_the_last_epoch(self, fit, whole):
        settings = {"evaluate": lambda state, _: {"value": 1.0 * state.step}, "monitor": "value"}
        result = fit(epochs=EPOCHS, plateau=PLATEAU, restore="last", **settings)
        lengths = [sum(math.isfinite(row["loss"][run]) for row in whole.history) for run in (0, 1)]
        assert result.best_epoch.tolist() == lengths
        chex.assert_trees_all_equal(result.state, whole.state)

    def test_all_at_rest_ends_the_fit(self, fit):
        result = fit(epochs=EPOCHS, plateau=Plateau("loss", 1.0, 2))
        assert len(result.history) == 3


class TestRefusals:
    def test_a_chunk_of_several_epochs(self, fit):
        with pytest.raises(
            ConfigError, match="eval_every is 2: the host would see it late; set eval_every=1"
        ):
            fit(epochs=4, eval_every=2, plateau=PLATEAU)

    def test_a_log_that_is_not_there(self, fit):
        with pytest.raises(
            ConfigError, match=r"plateau.log is 'observed_loss', which .* not log; there are \['loss'\]"
        ):
            fit(epochs=4, plateau=Plateau("observed_loss"))

    @pytest.mark.parametrize("settings", [{"tolerance": -1.0}, {"tolerance": math.nan}, {"patience": 0}])
    def test_settings_out_of_range(self, fit, settings):
        with pytest.raises(ConfigError, match="they must be at least 0 and 1"):
            fit(epochs=4, plateau=Plateau("loss", **settings))


class TestConfig:
    """The rule as a setting of an experiment."""

    @pytest.fixture
    def config(self):
        config = experiment.base_config()
        with config.unlocked():
            table = {"mf": experiment.variant("mf", lr=1.0)}
            experiment.select_variants(config, "mf", table, groups={})
            config.data.options = {"seed": 3, "n_users": 24, "n_items": 18, "mean_exposure": 0.3}
            config.model.dim = 4
            config.seeds = (0, 1)
            config.train.update({"epochs": EPOCHS, "eval_every": 1, "batch_size": 64})
            config.train.plateau.update({"log": "loss", "tolerance": 1.0, "patience": 3})
        return config

    def test_a_run_ends_by_it_and_is_read_back(self, config, tmp_path):
        first = experiment.run(config, tmp_path, quiet=True)
        rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert len(rows) == 4 * len(config.seeds), (
            "no decrease is one whole of the loss: epochs 2, 3 and 4 count"
        )
        again = experiment.run(config, tmp_path, quiet=True)
        assert again.results[0]["metrics"] == first.results[0]["metrics"]
        assert (tmp_path / "metrics.jsonl").read_text().splitlines() == rows
        config.train.plateau.patience = 4
        with pytest.raises(CheckpointError, match="train.plateau.patience is 3 there and 4 here"):
            experiment.run(config, tmp_path, quiet=True)

    def test_unknown_log(self, config, tmp_path):
        config.train.plateau.log = "observed_loss"
        with pytest.raises(
            ConfigError, match="plateau.log is 'observed_loss', which this method does not log"
        ):
            experiment.run(config, tmp_path, quiet=True)
