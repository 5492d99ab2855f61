"""The training loop: many runs as one program, early stopping, resume, refusals."""

import functools
import logging
import signal
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, metrics, models, training
from debias_jax.errors import ConfigError, DataError, DivergedError
from debias_jax.training import evaluation
from debias_jax.training.checkpoint import Checkpointer
from debias_jax.training.writers import jsonable


@pytest.fixture(scope="module")
def log():
    log = data.synthetic.generate(seed=3, n_users=24, n_items=18, mean_exposure=0.3)
    return data.splits.biif(log, seed=0)


@pytest.fixture(scope="module")
def train(log):
    return training.train_data(log)


@pytest.fixture(scope="module")
def method():
    return methods.mf(models.mf(24, 18, dim=4), batch_size=64)


@pytest.fixture(scope="module")
def validation(log, method):
    protocol = metrics.PROTOCOLS["snips"]
    eval_set = evaluation.build_eval_set(protocol, log.validation, log.train)

    def evaluate(state, eval_set):
        return evaluation.summarise(evaluation.evaluate(protocol, method.predict, state, eval_set))

    return {"evaluate": evaluate, "eval_data": eval_set, "monitor": "snips_dcg@3"}


def _keys(*seeds):
    return jnp.stack([training.run_key(seed) for seed in seeds])


def _run(tree, number):
    return jax.tree.map(lambda x: x[number], tree)


def _equal(a, b):
    chex.assert_trees_all_equal(a, b)


class TestManyRuns:
    def test_map_is_bit_equal_to_single_runs(self, method, train, validation):
        settings = {"epochs": 4, "eval_every": 2, "restore": "last", **validation}
        hparams = {"lr": np.array([0.01, 0.02]), "weight_decay": 1e-4}
        many = training.fit_many(method, train, _keys(5, 6), hparams, strategy="map", **settings)
        for number, (seed, lr) in enumerate(((5, 0.01), (6, 0.02))):
            own = {"lr": lr, "weight_decay": 1e-4}
            one = training.fit(method, train, training.run_key(seed), own, **settings)
            _equal(_run(many.state, number), one.state)
            assert many.history[-1]["snips_dcg@3"][number] == one.history[-1]["snips_dcg@3"]

    def test_vmap_agrees_to_rounding(self, method, train, validation):
        settings = {"epochs": 4, "eval_every": 2, **validation}
        by_map, by_vmap = (
            training.fit_many(method, train, _keys(5, 6), {"lr": 0.01}, strategy=strategy, **settings)
            for strategy in ("map", "vmap")
        )
        for name in ("loss", "snips_dcg@3"):
            np.testing.assert_allclose(by_map.history[-1][name], by_vmap.history[-1][name], atol=1e-4)

    def test_a_sweep_over_lr_and_weight_decay_compiles_each_program_once(self, method, train, caplog):
        grid = [(lr, decay) for lr in (1e-3, 1e-2) for decay in (0.0, 1e-4)]
        hparams = {"lr": np.array([lr for lr, _ in grid]), "weight_decay": np.array([d for _, d in grid])}
        with jax.log_compiles(True), caplog.at_level(logging.WARNING):
            training.fit_many(method, train, _keys(0, 0, 0, 0), hparams, epochs=6, eval_every=2)
        compiled = [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]
        chunks = [message for message in compiled if "by_map" in message]
        # One program for the first state and one for a chunk, whatever the number of points and chunks.
        assert len(chunks) == 2, compiled

    def test_runs_differ_by_seed_and_by_hyperparameter(self, method, train):
        result = training.fit_many(
            method, train, _keys(0, 1, 0), {"lr": np.array([0.01, 0.01, 0.02])}, epochs=1
        )
        users = np.asarray(result.state.params["prediction"]["user"])
        assert not np.allclose(users[0], users[1]) and not np.allclose(users[0], users[2])


class TestEarlyStopping:
    def test_each_run_rests_for_itself_and_keeps_its_best(self, train, log, method):
        """The monitored value is scripted: run 0 peaks at epoch 2, run 1 rises to the end."""

        def evaluate(state, eval_data):
            epoch = state.step // jnp.int32(steps)
            return {"value": jnp.where(state.hparams["lr"] < 0.015, -jnp.abs(epoch - 2.0), epoch * 1.0)}

        steps = method.batches(train, jax.random.key(0)).where.shape[0]
        result = training.fit_many(
            method,
            train,
            _keys(0, 0),
            {"lr": np.array([0.01, 0.02])},
            epochs=8,
            evaluate=evaluate,
            monitor="value",
            patience=2,
        )
        assert result.best_epoch.tolist() == [2, 8]
        steps_taken = np.asarray(result.last_state.step).tolist()
        assert steps_taken == [4 * steps, 8 * steps]
        two = training.fit(method, train, training.run_key(0), {"lr": 0.01}, epochs=2)
        _equal(_run(result.state.params, 0), two.state.params)
        assert np.isnan(result.history[-1]["loss"][0]) and np.isfinite(result.history[-1]["loss"][1])

    def test_restore_last_ignores_the_best(self, train, method):
        settings = {
            "epochs": 3,
            "evaluate": lambda state, _: {"value": -1.0 * state.step},
            "monitor": "value",
        }
        last = training.fit(method, train, training.run_key(0), restore="last", **settings)
        best = training.fit(method, train, training.run_key(0), restore="best", **settings)
        assert best.best_epoch == 1
        _equal(last.state, last.last_state)
        assert np.any(best.state.params["prediction"]["user"] != last.state.params["prediction"]["user"])


class TestEvaluationBeforeTraining:
    def test_it_is_the_first_row_and_changes_no_training(self, method, train, validation, tmp_path):
        settings = {"eval_every": 2, "patience": 3, **validation}
        fit = functools.partial(training.fit_many, method, train, _keys(0, 1), {"lr": 0.02})
        plain, whole, seen = fit(epochs=4, **settings), fit(epochs=4, eval_at_start=True, **settings), []
        for epochs in (2, 4):
            with Checkpointer(tmp_path, fingerprint={}) as saver:
                parts = fit(
                    epochs=epochs, eval_at_start=True, checkpointer=saver, on_epoch=seen.append, **settings
                )
        assert whole.history[1:] == plain.history
        assert whole.history[0].keys() == {"epoch", "snips_dcg@3"} and whole.history[0]["epoch"] == 0
        untrained = [
            method.init(jax.random.fold_in(key, 0), train, {"lr": jnp.float32(0.02)}) for key in _keys(0, 1)
        ]
        scores = [
            float(validation["evaluate"](state, validation["eval_data"])["snips_dcg@3"])
            for state in untrained
        ]
        np.testing.assert_allclose(whole.history[0]["snips_dcg@3"], scores, rtol=1e-6)
        _equal(whole.last_state, plain.last_state)
        # Once, not again by the part that resumes.
        assert parts.history == whole.history and [row["epoch"] for row in seen] == [0, 1, 2, 3, 4]

    def test_it_counts_like_any_other(self, method, train):
        """Scores fall with every step: the untrained state is the best, and two worse ones end the run."""
        result = training.fit(
            method,
            train,
            training.run_key(0),
            epochs=9,
            eval_at_start=True,
            evaluate=lambda state, _: {"value": -1.0 * state.step},
            monitor="value",
            patience=2,
        )
        assert result.best_epoch == 0 and result.best_value == 0.0
        assert [row["epoch"] for row in result.history] == [0, 1, 2]
        untrained = method.init(jax.random.fold_in(training.run_key(0), 0), train, {})
        chex.assert_trees_all_close(result.state.params, untrained.params, rtol=1e-6)


class TestResume:
    def test_a_fit_cut_in_two_is_the_whole_fit(self, method, train, validation, tmp_path):
        settings = {"eval_every": 2, "patience": 3, **validation}
        fit = functools.partial(training.fit_many, method, train, _keys(0, 1), {"lr": 0.02})
        whole = fit(epochs=6, **settings)
        seen = []
        for epochs in (2, 6):
            with Checkpointer(tmp_path, fingerprint={"run": 1}) as saver:
                parts = fit(epochs=epochs, checkpointer=saver, on_resume=seen.append, **settings)
        assert seen == [0, 2]
        _equal(parts.last_state, whole.last_state)
        _equal(parts.state, whole.state)
        assert parts.history == whole.history
        np.testing.assert_array_equal(parts.best_value, whole.best_value)

    def test_a_resting_run_is_still_resting_after_a_resume(self, method, train, tmp_path):
        """Run 0 gets worse from the first evaluation on and rests at epoch 2, before the cut; run 1 improves."""

        def evaluate(state, _):
            sign = jnp.where(state.hparams["lr"] < 0.015, -1.0, 1.0)
            return {"value": sign * state.step}

        settings = {"evaluate": evaluate, "monitor": "value", "patience": 1}
        fit = functools.partial(training.fit_many, method, train, _keys(0, 1), {"lr": np.array([0.01, 0.02])})
        whole = fit(epochs=5, **settings)
        for epochs in (3, 5):
            with Checkpointer(tmp_path, fingerprint={}) as saver:
                parts = fit(epochs=epochs, checkpointer=saver, **settings)
        assert whole.best_epoch.tolist() == parts.best_epoch.tolist() == [1, 5]
        _equal(parts.last_state, whole.last_state)
        _equal(parts.state, whole.state)
        assert jsonable(parts.history) == jsonable(whole.history)

    def test_epochs_may_grow_at_an_evaluation_and_never_shrink(self, method, train, tmp_path):
        def fit(epochs, **settings):
            with Checkpointer(tmp_path, fingerprint={}) as saver:
                return training.fit(
                    method,
                    train,
                    training.run_key(0),
                    epochs=epochs,
                    eval_every=2,
                    checkpointer=saver,
                    **settings,
                )

        fit(3)
        with pytest.raises(ConfigError, match="trained 3 epochs, more than epochs = 2"):
            fit(2)
        with pytest.raises(ConfigError, match="ended at epoch 3, between two evaluations"):
            fit(4)

    def test_another_strategy_may_read_but_not_continue(self, method, train, tmp_path):
        def fit(epochs, strategy):
            with Checkpointer(tmp_path, fingerprint={}) as saver:
                return training.fit_many(
                    method, train, _keys(0, 1), epochs=epochs, strategy=strategy, checkpointer=saver
                )

        whole = fit(1, "map")
        with pytest.raises(ConfigError, match="trained with strategy 'map'"):
            fit(2, "vmap")
        with Checkpointer(tmp_path, fingerprint={}) as saver:
            result, done, active = training.load_many(method, train, 2, checkpointer=saver)
        assert done == 1 and active
        _equal(result.state, whole.state)

    def test_a_finished_fit_trains_no_more(self, method, train, tmp_path):
        for expected in (0, 2):
            rows, seen = [], []
            with Checkpointer(tmp_path, fingerprint={}) as saver:
                training.fit(
                    method,
                    train,
                    training.run_key(0),
                    epochs=2,
                    checkpointer=saver,
                    on_epoch=rows.append,
                    on_resume=seen.append,
                )
            assert seen == [expected] and len(rows) == 2 - expected


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "ending"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)]
    )
    def test_one_that_comes_during_the_last_save_is_obeyed_after_it(
        self, method, train, tmp_path, monkeypatch, number, ending
    ):
        assert threading.current_thread() is threading.main_thread(), "signals would end the tests"
        save = Checkpointer.save

        def interrupted(self, *given):
            signal.raise_signal(number)
            save(self, *given)

        monkeypatch.setattr(Checkpointer, "save", interrupted)
        with pytest.raises(ending), Checkpointer(tmp_path / "run", fingerprint={}) as saver:
            training.fit_many(method, train, _keys(0), epochs=1, checkpointer=saver)
        monkeypatch.undo()
        with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
            _, epochs, unfinished = training.load_many(method, train, 1, checkpointer=saver)
        # All is saved: the same call reads it back.
        assert (epochs, unfinished) == (1, True)


class TestPrograms:
    def test_a_second_fit_of_the_same_method_compiles_nothing(self, train, caplog):
        method = methods.mf(models.mf(24, 18, dim=3), batch_size=64)
        training.fit(method, train, training.run_key(0), epochs=1)
        with jax.log_compiles(True), caplog.at_level(logging.WARNING):
            training.fit(method, train, training.run_key(1), {"lr": 0.1}, epochs=1)
        compiled = [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]
        assert not [message for message in compiled if "single" in message], compiled


class TestRefusals:
    def test_a_monitor_that_is_never_finite(self, method, train):
        settings = {"evaluate": lambda state, _: {"value": jnp.nan * state.step}, "monitor": "value"}
        with pytest.raises(DivergedError, match="value was not finite in any evaluation of run 0"):
            training.fit(method, train, training.run_key(0), epochs=2, **settings)
        result = training.fit(method, train, training.run_key(0), epochs=2, restore="last", **settings)
        assert result.best_epoch == -1

    def test_patience_and_monitor_need_what_they_read(self, method, train):
        with pytest.raises(ConfigError, match="no monitor"):
            training.fit(method, train, training.run_key(0), epochs=1, patience=1)
        with pytest.raises(ConfigError, match="no evaluate function"):
            training.fit(method, train, training.run_key(0), epochs=1, monitor="value")
        with pytest.raises(ConfigError, match="eval_at_start is set, but there is no evaluate function"):
            training.fit(method, train, training.run_key(0), epochs=1, eval_at_start=True)

    def test_keys_that_are_not_one_a_run(self, method, train):
        with pytest.raises(ConfigError, match=r"keys has shape \(\); give one key for each run"):
            training.fit_many(method, train, training.run_key(0), epochs=1)
        with pytest.raises(ConfigError, match=r"keys has shape \(2,\)"):
            training.fit_many(method, train, jax.random.PRNGKey(0), epochs=1)
        with pytest.raises(ConfigError, match="strategy 'single' is for one run, and there are 2 keys"):
            training.fit_many(method, train, _keys(0, 1), epochs=1, strategy="single")
        with pytest.raises(ConfigError, match=r"keys is a list; .* jnp\.stack\(keys\)"):
            training.fit_many(method, train, [training.run_key(0)], epochs=1)
        with pytest.raises(ConfigError, match=r"key has shape \(2,\); give one key, or use fit_many"):
            training.fit(method, train, _keys(0, 1), epochs=1)
        with pytest.raises(ConfigError, match="key is a int; give one key, as jax.random.key"):
            training.fit(method, train, 0, epochs=1)

    @pytest.mark.parametrize(("generator", "width"), [("threefry2x32", 2), ("rbg", 4)])
    def test_raw_keys(self, method, train, generator, width):
        with jax.default_prng_impl(generator):
            key = jax.random.PRNGKey(0)
            assert key.shape == (width,)
            result = training.fit(method, train, key, epochs=1)
            assert np.isfinite(result.history[-1]["loss"])
            with pytest.raises(ConfigError, match=rf"keys has shape \({width},\)"):
                training.fit_many(method, train, key, epochs=1)

    def test_hyperparameters_of_another_length(self, method, train):
        with pytest.raises(ConfigError, match=r"lr has shape \(3,\).*2 runs"):
            training.fit_many(method, train, _keys(0, 1), {"lr": np.ones(3)}, epochs=1)

    def test_divergence_names_run_epoch_and_settings(self, method, train):
        with pytest.raises(DivergedError, match=r"loss is (nan|inf) in epoch \d+ of run 1 \(lr=1e\+30"):
            training.fit_many(method, train, _keys(0, 1), {"lr": np.array([1e-3, 1e30])}, epochs=3)

    def test_a_diverged_run_can_rest_while_the_others_go_on(self, method, train):
        result = training.fit_many(
            method, train, _keys(0, 1), {"lr": np.array([1e-3, 1e30])}, epochs=4, on_nonfinite="drop"
        )
        assert np.isfinite(result.history[-1]["loss"][0]) and np.isnan(result.history[-1]["loss"][1])
        assert result.diverged.tolist() == [False, True]

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"strategy": "pmap"}, "pmap"),
            ({"mode": "least"}, "least"),
            ({"restore": "first"}, "first"),
            ({"epochs": 0}, "epochs is 0"),
            ({"eval_every": -1}, "eval_every is -1"),
        ],
    )
    def test_settings_out_of_range(self, method, train, settings, words):
        with pytest.raises(ConfigError, match=words):
            training.fit_many(method, train, _keys(0), **{"epochs": 1, **settings})

    def test_unknown_hyperparameter(self, method, train):
        with pytest.raises(ConfigError, match="'learning_rate'.*'lr'"):
            training.fit(method, train, training.run_key(0), {"learning_rate": 1.0}, epochs=1)

    def test_unknown_monitor(self, method, train):
        with pytest.raises(ConfigError, match=r"'ndcg@5'.*'value'"):
            training.fit(
                method,
                train,
                training.run_key(0),
                epochs=1,
                evaluate=lambda state, _: {"value": 1.0 * state.step},
                monitor="ndcg@5",
            )

    @pytest.mark.parametrize("seed", [-1, 2**32])
    def test_seed_out_of_range(self, seed):
        with pytest.raises(ConfigError, match=str(seed)):
            training.run_key(seed)


class TestTrainData:
    def test_columns(self, log, train):
        assert train.users.shape == train.labels.shape == (len(log.train),)
        assert train.clicks[0].shape == (len(log.train.positives),)
        counts = np.bincount(log.train.positives.items, minlength=18)
        np.testing.assert_allclose(train.popularity, np.sqrt(counts / counts.max()), rtol=1e-6)
        np.testing.assert_array_equal(train.exposed_labels, log.probably_exposed.labels)

    def test_no_positive_label(self, log):
        bare = log.replace(train=log.train.take(log.train.labels == 0), probably_exposed=None)
        with pytest.raises(DataError, match="positive label; check the threshold"):
            training.train_data(bare)

    def test_no_row(self, log):
        with pytest.raises(DataError, match="no row"):
            training.train_data(
                log.replace(train=log.train.take(np.zeros(0, np.int64)), probably_exposed=None)
            )
