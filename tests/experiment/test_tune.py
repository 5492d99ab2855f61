"""The search of hyperparameters: what it proposes, what it keeps, and how it goes on after a kill."""

import ast
import json
import logging
import os
import signal
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference.tables import ROOT, load_config

from debias_jax import data, experiment, methods, models, training
from debias_jax.errors import CheckpointError, ConfigError, MissingExtraError
from debias_jax.experiment import _config, _run, _tune
from debias_jax.experiment._search_space import distributions, search_space

optuna = pytest.importorskip("optuna")


def make_config(method, *, seeds=(0,), train=None, **tune):
    """A tiny search: two epochs, batches of two trials, AUC on validation."""
    config = load_config("synthetic", method)
    with config.unlocked():
        config.data.options = {"seed": 0, "n_users": 40, "n_items": 25, "mean_exposure": 0.3}
        config.model.dim = 4
        config.seeds = seeds
        config.protocol.validation, config.protocol.monitor = "badr", "auc"
        config.train.update({"epochs": 2, "eval_every": 1, "batch_size": 128, **(train or {})})
        config.tune.update({"trials": 5, "batch": 2})
        for name, value in tune.items():
            config.tune[name] = value
    return config


FIRST = {"mf": [{"lr": 0.05, "weight_decay": 1e-5}], "relmf": [{"lr": 0.02}]}


def tune(config, folder):
    return experiment.tune(config, folder, quiet=True)


def rows(folder):
    """``trials.jsonl`` without wall times."""
    found = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in found]


@pytest.fixture(scope="module", autouse=True)
def shared_tasks():
    """Searches of one variant, data and training share a task, and so what was compiled for it."""
    tasks, make = {}, _tune.make_task

    def shared(config, entry, dataset):
        parts = (config.data, config.model, config.protocol, config.train, entry)
        key = json.dumps([_config.to_dict(part) for part in parts])
        if key not in tasks:
            tasks[key] = make(config, entry, dataset)
        return tasks[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tune, "make_task", shared)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    return folder, tune(make_config("mf,relmf", first=FIRST), folder)


class TestSearch:
    def test_every_method_has_equally_many_trials(self, finished):
        folder, outcome = finished
        assert [one["variant"] for one in outcome.results] == ["mf", "relmf"]
        for one in outcome.results:
            assert one["trials"] == 5 and one["pruned"] + one["diverged"] == 0
            assert [row["trial"] for row in rows(folder / one["variant"])] == [0, 1, 2, 3, 4]

    def test_the_best_trial_is_what_is_written(self, finished):
        folder, outcome = finished
        tuned = json.loads((folder / "tuned.json").read_text())
        assert list(tuned.values()) == outcome.results
        for name, one in tuned.items():
            best = max(rows(folder / name), key=lambda row: row["value"])
            assert (one["value"], one["hparams"], one["trial"]) == (
                best["value"],
                best["hparams"],
                best["trial"],
            )
        assert tuned["relmf"]["fixed"] == {"min_exposure": 1e-3}

    def test_the_given_settings_come_first_and_the_rest_lies_in_the_space(self, finished):
        folder, _ = finished
        first, *rest = rows(folder / "mf")
        assert first["hparams"] == FIRST["mf"][0]
        assert rows(folder / "relmf")[0]["hparams"]["lr"] == 0.02
        for row in rest:
            assert 3e-4 <= row["hparams"]["lr"] <= 0.1 and 1e-7 <= row["hparams"]["weight_decay"] <= 0.1
        assert len({row["hparams"]["lr"] for row in rest}) == 4

    def test_the_text_ends_in_python_to_paste(self, finished):
        _, outcome = finished
        tuned = ast.literal_eval(outcome.text.partition("TUNED = ")[2])
        assert set(tuned) == {"mf", "relmf"}
        best = outcome.results[0]["hparams"]
        assert tuned["mf"]["lr"] == pytest.approx(best["lr"], rel=1e-3)
        assert "validation only" in outcome.text

    def test_the_workdir_holds_what_the_docs_say(self, finished):
        folder, _ = finished
        assert {path.name for path in folder.iterdir()} == {
            *("lock", "study.db", "tuned.json", "plots", "mf", "relmf")
        }
        for name in ("mf", "relmf"):
            kept = {path.name for path in (folder / name).iterdir()}
            assert kept == {"config.json", "environment.json", "trials.jsonl"}
        assert (folder / "plots" / "search.png").stat().st_size > 1000

    def test_a_plain_run_of_the_tuned_setting_scores_what_the_trial_did(self, finished, tmp_path):
        folder, outcome = finished
        config = make_config("mf")
        experiment.apply_tuned(config, folder / "tuned.json")
        assert dict(config.variants.mf.hparams) == outcome.results[0]["hparams"]
        experiment.run(config, tmp_path, quiet=True)
        lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["auc"] == outcome.results[0]["value"]

    def test_the_mean_over_seeds_counts(self, tmp_path):
        tune(make_config("mf", seeds=(0, 3), trials=2, batch=1), tmp_path)
        for row in rows(tmp_path / "mf"):
            assert len(set(row["values"])) == 2
            assert row["value"] == pytest.approx(np.mean(row["values"]))

    def test_the_test_part_is_not_read(self, finished, tmp_path, monkeypatch):
        folder, _ = finished
        load = experiment.load_dataset

        def without_test(config):
            dataset, report = load(config)
            return dataset.replace(test=None), report

        monkeypatch.setattr(_run, "load_dataset", without_test)
        tune(make_config("mf", first=FIRST, trials=2), tmp_path)
        assert rows(tmp_path / "mf") == rows(folder / "mf")[:2]

    def test_batches_share_one_program(self, tmp_path, caplog):
        config = make_config("mf", trials=7, batch=3)
        config.model.dim = 3  # a task of its own
        with jax.log_compiles(True), caplog.at_level(logging.WARNING):
            tune(config, tmp_path)
        compiled = [r.getMessage() for r in caplog.records if "Finished XLA compilation" in r.getMessage()]
        mapped = [message for message in compiled if "by_map" in message]
        assert len(mapped) == 3, mapped  # the first states, a chunk, an evaluation

    def test_a_value_given_for_the_whole_run_is_not_searched(self):
        config = make_config("mf", train={"lr": 0.01})
        dataset, _ = experiment.load_dataset(config)
        plan = _tune._plan(config, "mf", dataset)
        assert set(plan.space) == {"weight_decay"} and plan.fixed == {"lr": 0.01}

    @pytest.mark.parametrize(("startup", "random"), [(2, [True, True, False]), (4, [True, True, True])])
    def test_the_sampler_models_once_the_random_trials_are_done(self, startup, random):
        config = make_config("mf", startup=startup)
        dataset, _ = experiment.load_dataset(config)
        plan = _tune._plan(config, "mf", dataset)
        space = distributions(plan.space)
        finished, drawn = [], []
        for number in range(3):
            (trial,) = _tune._ask(config, plan, finished, number + 1)
            seed = int(np.random.SeedSequence([0, number]).generate_state(1)[0])
            alone = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=99))
            drawn.append(trial.params == alone.ask(space).params)
            finished.append(
                optuna.trial.create_trial(params=trial.params, distributions=space, value=number / 10)
            )
        assert drawn == random

    def test_kinds_of_ranges(self, tmp_path):
        space = {"mf": {"lr": ("uniform", 0.01, 0.02), "weight_decay": ("choice", (0.0, 0.5))}}
        tune(make_config("mf", trials=4, space=space), tmp_path)
        for row in rows(tmp_path / "mf"):
            assert 0.01 <= row["hparams"]["lr"] <= 0.02 and row["hparams"]["weight_decay"] in (0.0, 0.5)


class TestWeakTrials:
    def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(self, tmp_path):
        space, first = {"mf": {"lr": ("choice", (0.01, 1e30))}}, {"mf": [{"lr": 1e30}, {"lr": 0.01}]}
        (one,) = tune(make_config("mf", trials=2, space=space, first=first), tmp_path).results
        assert (one["trials"], one["diverged"], one["hparams"]["lr"]) == (2, 1, 0.01)
        outcomes = [(row["outcome"], row["value"] is None) for row in rows(tmp_path / "mf")]
        assert outcomes == [("diverged", True), ("complete", False)]

    def test_where_all_diverge_nothing_is_tuned(self, tmp_path):
        outcome = tune(make_config("mf", trials=2, space={"mf": {"lr": ("choice", (1e30,))}}), tmp_path)
        assert outcome.results[0]["diverged"] == 2 and outcome.results[0]["value"] is None
        assert "none finished" in outcome.text
        assert not (tmp_path / "tuned.json").exists()

    def weak(self, **tune):
        """Six sound trials, then two of which the first is worse by .12 after an epoch."""
        sound, weak = {"lr": 0.5}, {"lr": 0.05}
        first = {"mf": [sound] * 6 + [weak, sound]}
        return make_config("mf", trials=8, space={"mf": {"lr": ("log", 0.01, 1.0)}}, first=first, **tune)

    def test_a_trial_below_the_median_rests(self, tmp_path, monkeypatch):
        histories, fit = [], _tune.fit
        monkeypatch.setattr(
            _tune, "fit", lambda *args, **kw: histories.append(fit(*args, **kw)) or histories[-1]
        )
        (one,) = tune(self.weak(), tmp_path).results
        assert [row["outcome"] for row in rows(tmp_path / "mf")] == ["complete"] * 6 + ["pruned", "complete"]
        assert one["pruned"] == 1
        losses = [row["loss"] for row in histories[-1][1].history]
        assert np.isfinite(losses[0]).all()
        assert np.isfinite(losses[1]).tolist() == [False, True]

    def test_pruning_can_be_switched_off(self, tmp_path):
        (one,) = tune(self.weak(prune=False), tmp_path).results
        assert one["pruned"] == 0


def test_keep_rests_runs_for_good():
    log = data.synthetic.generate(seed=0, n_users=12, n_items=8)
    method = methods.mf(models.mf(12, 8, dim=2), batch_size=32)
    seen = []

    def keep(history):
        seen.append(len(history))
        return [True, len(history) != 2]

    keys = jnp.stack([training.run_key(seed) for seed in (0, 1)])
    result = training.fit_many(
        method, training.train_data(log), keys, {"lr": 0.1}, epochs=6, eval_every=2, keep=keep
    )
    losses = np.asarray([row["loss"] for row in result.history])
    assert seen == [2, 4, 6]
    assert np.isfinite(losses[:, 0]).all()
    assert np.isfinite(losses[:, 1]).tolist() == [True, True, False, False, False, False]


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/experiment"]
import jax, optuna
import test_tune

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_threefry_partitionable", True)
jax.config.update("jax_disable_most_optimizations", True)
add_trial = optuna.study.Study.add_trial

def add_or_die(study, trial):
    if len(study.get_trials(deepcopy=False)) == 3 and "fingerprint" in study.user_attrs:
        os.kill(os.getpid(), signal.SIGKILL)
    add_trial(study, trial)

optuna.study.Study.add_trial = add_or_die
test_tune.tune(test_tune.make_config("mf", first=test_tune.FIRST), sys.argv[2])
"""


class TestResume:
    def test_the_same_command_again_trains_nothing(self, finished, monkeypatch):
        folder, outcome = finished
        before = rows(folder / "mf")
        monkeypatch.setattr(_tune, "fit", lambda *args, **kw: pytest.fail("it trains"))
        assert tune(make_config("mf,relmf", first=FIRST), folder) == outcome
        assert rows(folder / "mf") == before

    def test_more_trials_go_on_from_there(self, finished, tmp_path):
        folder, _ = finished
        tune(make_config("mf", first=FIRST, trials=2), tmp_path)
        (one,) = tune(make_config("mf", first=FIRST, trials=5), tmp_path).results
        assert one["trials"] == 5
        assert rows(tmp_path / "mf") == rows(folder / "mf")

    def test_an_interruption_between_two_trials_of_a_batch(self, finished, tmp_path, monkeypatch):
        folder, _ = finished
        add_trial = optuna.study.Study.add_trial

        def add_or_stop(study, trial):
            if len(study.get_trials(deepcopy=False)) == 3:
                raise KeyboardInterrupt
            add_trial(study, trial)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(optuna.study.Study, "add_trial", add_or_stop)
            tune(make_config("mf", first=FIRST), tmp_path)
        assert len(rows(tmp_path / "mf")) == 2
        tune(make_config("mf", first=FIRST), tmp_path)
        assert rows(tmp_path / "mf") == rows(folder / "mf")

    @pytest.mark.slow
    def test_a_kill_between_two_trials_of_a_batch(self, finished, tmp_path):
        folder, _ = finished
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(ROOT / "tests"), str(tmp_path)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # The trials of the batch that was cut are in part in the database, and its checkpoint is on the disk.
        assert len(rows(tmp_path / "mf")) == 2
        assert (tmp_path / "mf" / "batch_00002").is_dir()
        tune(make_config("mf", first=FIRST), tmp_path)
        assert rows(tmp_path / "mf") == rows(folder / "mf")
        assert not list((tmp_path / "mf").glob("batch_*"))

    @pytest.mark.parametrize("epoch", [1, 2])
    def test_an_interruption_in_the_middle_of_a_batch(self, finished, tmp_path, monkeypatch, epoch):
        folder, _ = finished
        fit = _tune.fit

        def interrupted(*args, keep, **kw):
            saved = training.checkpoint.Checkpointer.save

            def save_and_stop(self, step, *rest):
                saved(self, step, *rest)
                if step == epoch and args[3].name == "batch_00002":
                    raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(training.checkpoint.Checkpointer, "save", save_and_stop)
                return fit(*args, keep=keep, **kw)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(_tune, "fit", interrupted)
            tune(make_config("mf", first=FIRST), tmp_path)
        assert len(rows(tmp_path / "mf")) == 2
        tune(make_config("mf", first=FIRST), tmp_path)
        assert rows(tmp_path / "mf") == rows(folder / "mf")

    def test_variants_can_be_searched_one_by_one_into_one_workdir(self, finished, tmp_path):
        folder, _ = finished
        for name in ("relmf", "mf"):
            tune(make_config(name, first=FIRST), tmp_path)
            assert rows(tmp_path / name) == rows(folder / name)
        assert set(json.loads((tmp_path / "tuned.json").read_text())) == {"mf", "relmf"}

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.tune.space.default.update({"lr": ("log", 1e-3, 0.1)}), "tune.space.lr is"),
            (lambda c: c.data.options.update({"seed": 1}), "data is"),
            (lambda c: c.train.update({"epochs": 3}), "train.epochs is 2 there and 3 here"),
            (lambda c: c.update({"seeds": (1,)}), "runs is"),
            (lambda c: c.train.update({"strategy": "vmap"}), "train.strategy is .map. there and .vmap. here"),
            (lambda c: c.tune.update({"startup": 3}), "tune.startup is 10 there and 3 here"),
        ],
    )
    def test_another_configuration_is_refused(self, finished, change, words):
        folder, _ = finished
        config = make_config("mf", first=FIRST)
        with config.unlocked():
            change(config)
        before = (folder / "mf" / "config.json").read_text()
        with pytest.raises(CheckpointError, match=f"another configuration: .*{words}"):
            tune(config, folder)
        assert (folder / "mf" / "config.json").read_text() == before

    @pytest.mark.parametrize(
        ("place", "name", "value", "words"),
        [
            (_tune, "_PRUNER", {"after_trials": 1, "after_epochs": 0.25}, "tune.pruner.after_trials is 5"),
            (
                _tune,
                "_SAMPLER",
                {**_tune._SAMPLER, "n_ei_candidates": 1},
                "tune.sampler.n_ei_candidates is 24",
            ),
            (optuna, "__version__", "0", "optuna is .* and .0. here"),
        ],
    )
    def test_another_program_is_refused(self, finished, monkeypatch, place, name, value, words):
        folder, _ = finished
        monkeypatch.setattr(place, name, value)
        with pytest.raises(CheckpointError, match=f"another configuration: .*{words}"):
            tune(make_config("mf", first=FIRST), folder)

    def test_behind_a_batch_that_was_not_full_the_grid_shifts(self):
        def done(*batches):
            return [types.SimpleNamespace(user_attrs={"batch": b}) for b in batches for _ in range(*b)]

        assert _tune._next_batch(done([0, 2]), 5, 2) == (2, 4)
        assert _tune._next_batch(done([0, 2], [2, 3]), 5, 2) == (3, 5)

    def test_a_torn_database_is_named(self, finished, tmp_path):
        folder, _ = finished
        path = tmp_path / "study.db"
        path.write_bytes((folder / "study.db").read_bytes()[:9000])
        with pytest.raises(CheckpointError, match=r"study.db cannot be used .*move it away"):
            tune(make_config("mf", first=FIRST), tmp_path)

    def test_two_searches_in_one_workdir(self, finished):
        folder, _ = finished
        with _tune._locked(folder), pytest.raises(CheckpointError, match="in use by pid"):
            tune(make_config("mf", first=FIRST), folder)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (
                {"space": {"mf": {"learning_rat": ("log", 1e-3, 1.0)}}},
                "tune.space.mf.learning_rat; there are",
            ),
            ({"space": {"mf": {"lr": ("log", 0.0, 1.0)}}}, "cannot read tune.space.mf.lr = .*0 < low < high"),
            ({"space": {"mf": {"lr": ("uniform", 2.0, 1.0)}}}, "cannot read tune.space.mf.lr"),
            ({"space": {"mf": {"lr": ("choice", ())}}}, "cannot read tune.space.mf.lr"),
            ({"space": {"mf": {"lr": 0.1}}}, "cannot read tune.space.mf.lr = 0.1"),
            ({"space": {}}, "nothing is searched for mf: it has the hyperparameters lr, weight_decay"),
            ({"first": {"mf": [{"lr": 0.5}]}}, "tune.first.mf sets lr to 0.5, outside its range"),
            ({"first": {"mf": [{"dim": 4.0}]}}, "tune.first.mf sets 'dim', which is not searched"),
            ({"trials": 0}, "tune.trials is 0"),
            ({"batch": 0}, "tune.batch is 0"),
            ({"startup": 0}, "tune.startup is 0"),
        ],
    )
    def test_settings(self, tmp_path, change, words):
        config = make_config("mf", **change)
        with pytest.raises(ConfigError, match=words):
            tune(config, tmp_path)
        assert not (tmp_path / "study.db").exists()

    def test_no_validation_part(self, tmp_path):
        config = make_config("mf")
        with config.unlocked():
            config.data.split = {}
        with pytest.raises(ConfigError, match="this dataset has none; set data.split"):
            tune(config, tmp_path)

    def test_the_workdir_of_a_run(self, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(_config.to_dict(make_config("mf"))))
        with pytest.raises(ConfigError, match="holds a run; give the search its own --workdir"):
            tune(make_config("mf"), tmp_path)

    def test_without_optuna(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "optuna", None)
        with pytest.raises(MissingExtraError, match=r"debias_jax\[tune\]"):
            tune(make_config("mf"), tmp_path)


class TestConfig:
    def test_the_section_survives_json(self):
        config = make_config("mf", first=FIRST, space={"mf": {"lr": ("choice", (0.1, 0.2))}})
        again = _config.from_dict(json.loads(json.dumps(_config.to_dict(config))))
        assert _config.to_dict(again) == _config.to_dict(config)
        known = {"lr": 0.0, "weight_decay": 0.0}
        assert search_space(again, "mf", known) == search_space(config, "mf", known)

    def test_a_config_of_before_there_were_fixed_hyperparameters_loads(self):
        values = _config.to_dict(make_config("biif_frozen"))
        again = _config.from_dict(json.loads(json.dumps(values)))
        assert _config.fixed_names(again.variants.biif_frozen) == ("outer_lr",)
        del values["variants"]["biif_frozen"]["fixed"], values["tune"]["startup"]
        old = _config.from_dict(values)
        assert _config.fixed_names(old.variants.biif_frozen) == () and old.tune.startup == 10

    def test_a_config_of_before_there_was_a_search_loads(self):
        values = _config.to_dict(make_config("mf"))
        del values["tune"]
        assert _config.from_dict(values).tune.trials == 30
