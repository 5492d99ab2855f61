"""From a config to a workdir and back: what a run leaves, and how it refuses."""

import gc
import json
import weakref

import jax
import numpy as np
import pytest
from reference.tables import load_config

from debias_jax import data, experiment
from debias_jax._reproduction.rows import run_rows
from debias_jax.errors import CheckpointError, ConfigError, DataError
from debias_jax.experiment import _build, _config, _datasets, _fit
from debias_jax.training import _files, evaluation


def _rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def _tiny(method, **train):
    config = load_config("synthetic", method)
    with config.unlocked():
        config.data.options = {"seed": 0, "n_users": 40, "n_items": 25, "mean_exposure": 0.3}
        config.model.dim = 4
        config.seeds = (0, 1)
        config.train.update({"epochs": 4, "eval_every": 2, "batch_size": 128, "lr": 0.02, **train})
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, experiment.run(_tiny("mf,umf"), folder, quiet=True)


class TestRun:
    def test_results_follow_the_public_schema(self, finished):
        folder, outcome = finished
        written = json.loads((folder / "results.json").read_text())
        assert [row["variant"] for row in written["results"]] == ["mf", "umf"]
        for row in written["results"]:
            assert {"dataset", "method", "model", "protocol", "metrics", "seconds", "seeds"} <= set(row)
            assert row["protocol"]["name"] == "strict"
            for metric in row["metrics"].values():
                assert metric["n"] == 2
                assert metric["mean"] == pytest.approx(np.mean(metric["values"]))
                assert metric["sd"] == pytest.approx(np.std(metric["values"], ddof=1))
        assert "pcc" in written["results"][1]["metrics"] and "pcc" not in written["results"][0]["metrics"]
        (comparison,) = written["comparison"]
        assert comparison["variant"] == "umf" and comparison["low"] <= comparison["high"]

    def test_variants_of_one_run_keep_their_own_schedules(self, tmp_path):
        config = _tiny("mf,umf", eval_every=1, patience=0)
        with config.unlocked():
            config.variants.umf.train = {"epochs": 1, "batch_size": 32}
            config.train.epochs = 2
            experiment.use_own_schedules(config)
        assert config.train.epochs == 0 and config.variants.mf.train.epochs == 2
        assert config.train.batch_size == 0
        before = experiment.run(config, tmp_path, quiet=True)
        for name, epochs in (("mf", 2), ("umf", 1)):
            assert max(row["step"] for row in _rows(tmp_path / name)) == epochs
        again = experiment.evaluate(tmp_path)
        assert [row["metrics"] for row in again.results] == [row["metrics"] for row in before.results]
        swept = experiment.sweep(config, tmp_path / "sweep", {"lr": [0.1]})
        assert [row["variant"] for row in swept.results] == ["mf", "umf"]
        assert max(row["step"] for row in _rows(tmp_path / "sweep" / "umf")) == 1
        (tmp_path / "tuned.json").write_text('{"umf": {"method": "umf", "hparams": {"lr": 0.5}}}')
        experiment.apply_tuned(config, tmp_path / "tuned.json")
        assert config.variants.umf.hparams.lr == 0.5
        config.train.epochs = 3
        assert experiment.only(config, "umf").train.epochs == 3

    def test_the_devices_of_the_config_are_those_of_the_fit(self, tmp_path):
        config = _tiny("mf")
        config.mesh.data = 2
        experiment.run(config, tmp_path, quiet=True)
        manifest = (tmp_path / "checkpoints" / "step_00000004" / "manifest.json").read_bytes()
        assert _files.unseal(manifest)["meta"]["meshes"] == [[0, {"data": 2, "table": 1}]]

    def test_and_those_of_the_test_part(self, tmp_path, monkeypatch):
        seen = {"evaluate": [], "exposure_matrix": []}

        def spied(name):
            function = getattr(evaluation, name)

            def spy(*args, **settings):
                seen[name].append(dict(jax.sharding.get_abstract_mesh().shape))
                return function(*args, **settings)

            return spy

        for name in seen:
            monkeypatch.setattr(evaluation, name, spied(name))
        config = _tiny("relmf", eval_every=4)
        config.mesh.data = 2
        split = experiment.run(config, tmp_path / "split", quiet=True)
        assert len(seen["evaluate"]) >= 2 and len(seen["exposure_matrix"]) >= 1
        assert all(shape == {"data": 2, "table": 1} for shapes in seen.values() for shape in shapes), seen
        config.mesh.data = 1
        alone = experiment.run(config, tmp_path / "alone", quiet=True)
        for name, values in alone.results[0]["metrics"].items():
            # No rank changes, and float32 sums of a few hundred terms are good to some 1e-6.
            np.testing.assert_allclose(
                split.results[0]["metrics"][name]["values"], values["values"], rtol=1e-5
            )

    def test_compiled_programs_keep_no_evaluation_set(self, tmp_path, monkeypatch):
        make, items = _fit.make_judge, []

        def remembered(*given, **more):
            judge = make(*given, **more)
            items.append(weakref.ref(judge.eval_set.items))
            return judge

        monkeypatch.setattr(_fit, "make_judge", remembered)
        experiment.run(_tiny("mf"), tmp_path, quiet=True)
        gc.collect()
        assert items and all(item() is None for item in items)

    def test_the_workdir_holds_what_the_docs_say(self, finished):
        folder, _ = finished
        for name in (
            "config.json",
            "environment.json",
            "table.txt",
            "plots/comparison.png",
            "plots/exposure.png",
        ):
            assert (folder / name).is_file(), name
        for name in ("config.json", "metrics.jsonl", "per_user.npz", "results.json", "bundle/manifest.json"):
            assert (folder / "umf" / name).is_file(), name
        rows = [json.loads(line) for line in (folder / "umf" / "metrics.jsonl").read_text().splitlines()]
        assert [(row["step"], row["seed"]) for row in rows] == [(e, s) for e in (1, 2, 3, 4) for s in (0, 1)]
        assert "snips_dcg@3" in rows[-1] and "snips_dcg@3" not in rows[0]

    def test_pcc_of_exposure_is_logged_with_every_evaluation_and_drawn(self, finished):
        folder, outcome = finished
        rows = _rows(folder / "umf")
        assert [row["step"] for row in rows if "pcc" in row] == [2, 2, 4, 4]
        assert not any("pcc" in row for row in _rows(folder / "mf"))
        # The exposure of UMF is the popularity prior itself, and stays so.
        dataset, _ = experiment.load_dataset(_tiny("umf"))
        theta = np.sqrt(np.bincount(dataset.train.positives.items, minlength=25))
        prior = np.mean([np.corrcoef(theta, truth)[0, 1] for truth in dataset.truth.exposure])
        logged = [row["pcc"] for row in rows if "pcc" in row]
        np.testing.assert_allclose(logged, prior, atol=1e-5)
        np.testing.assert_allclose(outcome.results[1]["metrics"]["pcc"]["values"], prior, atol=1e-5)
        assert (folder / "plots" / "pcc.png").read_bytes().startswith(b"\x89PNG")

    def test_per_user_values_average_to_the_reported_ones(self, finished):
        folder, outcome = finished
        saved = np.load(folder / "mf" / "per_user.npz", allow_pickle=False)
        means = saved["ndcg@5"][:, saved["counted/ndcg@5"]].mean(axis=1)
        np.testing.assert_allclose(outcome.results[0]["metrics"]["ndcg@5"]["values"], means, rtol=1e-5)

    def test_the_same_command_again_reads_the_result_back(self, finished):
        folder, outcome = finished
        again = experiment.run(_tiny("mf,umf"), folder, quiet=True)
        assert [row["metrics"] for row in again.results] == [row["metrics"] for row in outcome.results]

    def test_evaluate_gives_the_numbers_of_the_run(self, finished):
        folder, outcome = finished
        again = experiment.evaluate(folder)
        assert [row["metrics"] for row in again.results] == [row["metrics"] for row in outcome.results]
        other = experiment.evaluate(folder / "umf", protocol="badr")
        assert other.results[0]["protocol"]["name"] == "badr" and "auc" in other.results[0]["metrics"]

    def test_table_names_every_method_and_the_verdict(self, finished):
        _, outcome = finished
        assert "umf" in outcome.text and "against mf on ndcg@5" in outcome.text and "verdict" in outcome.text

    def test_recommend_answers_in_raw_ids_without_the_data(self, finished):
        folder, _ = finished
        generated = data.synthetic.generate(seed=0, n_users=40, n_items=25, mean_exposure=0.3)
        clicks = data.splits.biif(generated, seed=0).train.positives
        user = int(clicks.users[0])
        clicked = set(generated.items.decode(clicks.items[clicks.users == user]))
        rows = experiment.recommend(folder / "umf", generated.users.ids[user], k=3)
        assert [row.rank for row in rows] == [1, 2, 3]
        assert not clicked & {row.item for row in rows}
        with pytest.raises(DataError, match="nobody"):
            experiment.recommend(folder / "umf", "nobody")
        with pytest.raises(ConfigError, match="several variants"):
            experiment.recommend(folder, generated.users.ids[user])


class TestSweep:
    def test_rows_are_ranked_on_validation_and_match_a_plain_run(self, tmp_path):
        outcome = experiment.sweep(
            _tiny("mf", restore="last"), tmp_path / "sweep", experiment.parse_grid(["lr=0.001,0.05"])
        )
        (result,) = outcome.results
        means = [row["mean"] for row in result["rows"]]
        assert means == sorted(means, reverse=True) and len(means) == 2
        assert "test" not in json.dumps(result)
        best = result["rows"][0]
        plain = _tiny("mf", restore="last", lr=best["hparams"]["lr"])
        experiment.run(plain, tmp_path / "plain", quiet=True)
        rows = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
        assert [row["snips_dcg@3"] for row in rows if row["step"] == 4] == best["values"]

    def test_a_run_that_rests_early_keeps_its_score(self, tmp_path):
        config = _tiny("mf", patience=2, restore="best", epochs=20, eval_every=1)
        config.seeds = tuple(range(4))
        (result,) = experiment.sweep(config, tmp_path, {"lr": [0.003, 0.03, 0.1]}).results
        rested = [row["step"] for row in _rows(tmp_path) if row["loss"] is None]
        assert rested, "the setting should make a run rest, or this test shows nothing"
        assert all(row["mean"] is not None for row in result["rows"])

    @pytest.mark.parametrize("text", ["lr", "lr=", "=1", "lr=a,b"])
    def test_grid_that_cannot_be_read(self, text):
        with pytest.raises(ConfigError, match="name=value"):
            experiment.parse_grid([text])

    def test_unknown_hyperparameter(self, tmp_path):
        with pytest.raises(ConfigError, match="'weight_decai' of mf; did you mean 'weight_decay'"):
            experiment.sweep(_tiny("mf"), tmp_path, {"weight_decai": [1.0]})


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda c: c.data.update(name="caot"), "unknown dataset 'caot'; did you mean 'coat'"),
            (lambda c: c.protocol.update(test="badrr"), "unknown protocol 'badrr'; did you mean 'badr'"),
            (lambda c: c.protocol.update(monitor="snips_dcg@4"), "unknown protocol.monitor 'snips_dcg@4'"),
            (lambda c: c.data.options.update(n_user=3), "data.options.n_user; did you mean 'n_users'"),
            (lambda c: c.data.split.update(seeds=3), "data.split.seeds; did you mean 'seed'"),
            (
                lambda c: c.variants.mf.options.update(frames="x"),
                "unknown option 'frames' of mf; did you mean 'frame'",
            ),
            (lambda c: c.variants.mf.options.update(frame="x"), "mf: unknown frame 'x'"),
            (lambda c: c.variants.mf.hparams.update(learning=1.0), "unknown hyperparameter 'learning' of mf"),
            (lambda c: c.update(seeds=()), "config.seeds is empty"),
            (lambda c: c.update(seeds=("abc",)), "config.seeds holds 'abc'"),
            (lambda c: c.update(seeds=(1, 1)), "holds a seed twice"),
            (lambda c: c.train.update(strategy="pmap"), "strategy is 'pmap'"),
            (lambda c: c.train.update(batch_size=0), "train.batch_size is 0"),
            (lambda c: c.mesh.update(data=0), "mesh.data must be an integer of at least 1, got 0"),
            (lambda c: c.mesh.update(data=3, table=3), "mesh.data=3 times mesh.table=3 asks for 9 devices"),
            (
                lambda c: c.model.update(temperature=0.1),
                "model.temperature is 0.1, which mf does not read; take model.name='two_tower', or",
            ),
            (
                lambda c: c.model.options.update(n_heads=2),
                "which mf does not read; take model.name='bert4rec' or",
            ),
            (lambda c: c.train.update(patience=-1), "train.patience is -1"),
            (
                lambda c: c.protocol.update(headline="ndgc@5"),
                "unknown protocol.headline 'ndgc@5'; did you mean 'ndcg@5'",
            ),
        ],
    )
    def test_settings(self, tmp_path, change, words):
        config = _tiny("mf")
        with config.unlocked():
            change(config)
        with pytest.raises(ConfigError) as caught:
            experiment.run(config, tmp_path, quiet=True)
        assert words in str(caught.value) and "\n" not in str(caught.value)

    def test_devices_that_a_later_variant_cannot_use_before_the_first_one_trains(self, tmp_path):
        config = _tiny("mf,mean_logit")
        config.mesh.data = 2
        programs = {
            "run": lambda folder: experiment.run(config, folder, quiet=True),
            "sweep": lambda folder: experiment.sweep(config, folder, {}),
            "tune": lambda folder: experiment.tune(config, folder, quiet=True),
            "rows": lambda folder: run_rows(config, folder),
        }
        for name, program in programs.items():
            folder = tmp_path / name
            with pytest.raises(ConfigError, match="^mean_logit: mesh.data=2 .*takes all data in one step"):
                program(folder)
            assert not folder.exists() or not list(folder.iterdir())

    def test_a_rate_that_no_method_of_the_run_has(self, tmp_path):
        config = _tiny("wmf,mean_logit")
        config.train.lr = 0.1
        words = (
            r"train.lr is 0.1, .*\(wmf has alpha, regularization; mean_logit has .*\); leave train.lr unset"
        )
        with pytest.raises(ConfigError, match=words):
            experiment.run(config, tmp_path, quiet=True)

    def test_k_larger_than_the_candidates(self, tmp_path):
        config = _tiny("mf")
        config.protocol.metrics = ("recall@300",)
        with pytest.raises(ConfigError, match="300"):
            experiment.run(config, tmp_path, quiet=True)

    def test_another_run_in_the_workdir(self, finished):
        folder, _ = finished
        with pytest.raises(ConfigError, match="holds a run of mf, umf, not of bpr; give each run its own"):
            experiment.run(_tiny("bpr"), folder, quiet=True)

    def test_other_settings_in_the_workdir_are_refused_and_leave_its_records_alone(self, tmp_path):
        first = experiment.run(_tiny("mean_logit", lr=None), tmp_path, quiet=True)
        records = {name: (tmp_path / name).read_bytes() for name in ("config.json", "environment.json")}
        for change in ({"batch_size": 64}, {"epochs": 2}):
            with pytest.raises((CheckpointError, ConfigError), match="batch_size|more than epochs = 2"):
                experiment.run(_tiny("mean_logit", lr=None, **change), tmp_path, quiet=True)
        other = _tiny("mean_logit", lr=None)
        other.data.options.seed = 1
        with pytest.raises(CheckpointError, match="data"):
            experiment.run(other, tmp_path, quiet=True)
        assert {name: (tmp_path / name).read_bytes() for name in records} == records
        assert experiment.evaluate(tmp_path).results[0]["metrics"] == first.results[0]["metrics"]

    def test_evaluate_does_not_finish_a_run(self, tmp_path):
        experiment.run(_tiny("mean_logit", lr=None, patience=0, restore="last"), tmp_path, quiet=True)
        path = tmp_path / "config.json"
        path.write_text(path.read_text().replace('"epochs": 4', '"epochs": 6'))
        steps = sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir())
        with pytest.raises(ConfigError, match="at epoch 4 of 6; finish it"):
            experiment.evaluate(tmp_path)
        assert sorted(entry.name for entry in (tmp_path / "checkpoints").iterdir()) == steps

    @pytest.mark.parametrize("content", ["{}", "[1]", "not json"])
    def test_a_foreign_config_in_the_workdir(self, tmp_path, content):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ConfigError, match="config"):
            experiment.run(_tiny("mf"), tmp_path, quiet=True)

    def test_missing_files_and_unset_path(self, tmp_path, monkeypatch):
        config = load_config("coat", "mf")
        config.data.path = str(tmp_path / "nowhere")
        with pytest.raises(DataError, match="nowhere"):
            experiment.run(config, tmp_path / "run")
        config.data.path = ""
        monkeypatch.delenv("DEBIAS_DATA_DIR", raising=False)
        with pytest.raises(ConfigError, match="--config.data.path=FOLDER"):
            experiment.run(config, tmp_path / "run")

    @pytest.mark.parametrize("method", ["bif", "mf,bif", ""])
    def test_unknown_method(self, method):
        with pytest.raises(ConfigError, match="biif|name a method"):
            load_config("coat", method)


class TestEvaluationBeforeTraining:
    def test_rows_of_epoch_0_are_written_once(self, tmp_path):
        """A run that was killed before its first checkpoint leaves them behind."""
        config = _tiny("umf", epochs=2, eval_at_start=True)
        tmp_path.joinpath("metrics.jsonl").write_text(
            '{"step": 0, "run": 0, "pcc": 9.0}\n{"step": 1, "run": 0}\n'
        )
        experiment.run(config, tmp_path, quiet=True)
        rows = _rows(tmp_path)
        assert [(row["step"], row["run"]) for row in rows] == [(s, r) for s in (0, 1, 2) for r in (0, 1)]
        assert all("loss" not in row and {"pcc", "snips_dcg@3"} < row.keys() for row in rows[:2])
        # Popularity, which umf takes for the exposure, is the same before and after.
        assert rows[0]["pcc"] == rows[-1]["pcc"] != 9.0

    def test_runs_with_and_without_are_not_mixed(self, tmp_path):
        experiment.run(_tiny("mf", epochs=2), tmp_path, quiet=True)
        with pytest.raises(CheckpointError, match="eval_at_start"):
            experiment.run(_tiny("mf", epochs=2, eval_at_start=True), tmp_path, quiet=True)

    def test_an_estimate_that_is_the_same_for_all_items_has_no_correlation(self, tmp_path):
        experiment.run(_tiny("expomf", lr=None, epochs=2, eval_at_start=True), tmp_path, quiet=True)
        rows = _rows(tmp_path)
        assert rows[0]["pcc"] is None and rows[-1]["pcc"] > 0


class TestConfigs:
    @pytest.mark.parametrize("name", ["coat", "yahoo_r3", "ml_100k_exposure", "amazon_cds"])
    def test_groups_of_biifs_figures_and_ablations(self, name):
        for group, names in experiment.EXPOSURE_GROUPS.items():
            assert load_config(name, group).methods == names
        clips = load_config(name, "clips")
        levels = {each: own.hparams.min_exposure for each, own in clips.variants.items() if "clip" in each}
        assert len(levels) == 20 and levels["cjmf_clip_05"] == 0.05 and levels["biif_clip_50"] == 0.5
        assert all(clips.variants[each].fixed == ("min_exposure",) for each in levels)

    def test_table_1_has_the_whole_family(self):
        names = load_config("yahoo_r3", "table1").methods
        assert {"relmf", "expomf", "cjmf", "auto_debias", "ceb", "bpr", "umf", "biif", "ubo"} < set(names)

    @pytest.mark.parametrize("name", ["ml_100k_exposure", "amazon_cds"])
    def test_every_option_of_the_reader_of_exposure_data_can_be_set(self, name):
        config = load_config(name, "biif")
        options = set(_build.argument_names(_datasets.DATASETS[config.data.name])) - {"path"}
        assert options - set(config.data.options) <= {"strict_counts"}
        assert set(config.data.options) <= options

    def test_times_of_own_ratings_choose_among_repeated_pairs(self, tmp_path):
        lines = [f"{u},{i},{1 + (u + i) % 5},{9 - u}" for u in range(6) for i in range(5) if (u + i * i) % 3]
        # Pair (0, 4) is rated 5 at time 9, and 2 in a later row of time 3.
        path = tmp_path / "ratings.csv"
        path.write_text("\n".join(["user,item,rating,timestamp", *lines, "0,4,2,3"]) + "\n", encoding="utf-8")
        config = load_config("amazon_cds", "biif")
        config.data.path = str(path)
        config.data.options.update(min_user_rows=1, min_item_rows=1, duplicates="last")

        def relevance(timestamp):
            config.data.options.timestamp = timestamp
            return experiment.load_dataset(config)[0].truth.relevance[0, 4]

        assert relevance("timestamp") > relevance("") + 0.01
        with pytest.raises(DataError, match="clock"):
            relevance("clock")

    @pytest.mark.parametrize("name", ["coat", "yahoo_r3", "ml_100k_exposure", "amazon_cds"])
    def test_cjmf_has_the_epochs_of_the_paper_in_every_company(self, name):
        config = load_config(name, "mf,cjmf")
        alone = [experiment.only(config, each).train.epochs for each in ("mf", "cjmf")]
        assert alone == [100, 15]
        assert load_config(name, "cjmf").train.epochs == 15
        assert load_config(name, "mf").train.epochs == 100

    def test_blocks_of_yahoo_are_those_of_the_released_program(self):
        entry = load_config("yahoo_r3", "auto_debias_released").variants.auto_debias_released
        assert entry.options.block == (6000, 500)

    def test_config_survives_json(self):
        config = _tiny("mf,umf")
        assert _config.to_dict(_config.from_dict(_config.to_dict(config))) == _config.to_dict(config)
        written = _config.to_dict(config)
        del written["at_batch_size"]
        assert not _config.from_dict(written).at_batch_size

    def test_given_lr_overrides_every_variant(self):
        config = load_config("synthetic", "mf")
        method = experiment.build_method(config, config.variants.mf, n_users=5, n_items=4)
        config.train.lr = 0.5
        assert experiment.variant_hparams(config, config.variants.mf, method)["lr"] == 0.5


def test_own_csv_end_to_end(tmp_path):
    """A rated csv with raw ids, from the file to recommendations in those ids."""
    rng = np.random.default_rng(0)
    rows = ["who,what,stars"]
    for user in range(30):
        for item in rng.choice(20, size=10, replace=False):
            rows.append(f"u-{user:02d},i-{item:02d},{rng.integers(1, 6)}")
    path = tmp_path / "log.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = load_config("own_data", "umf")
    config.data.path = str(path)
    config.data.options.update({"user": "who", "item": "what", "rating": "stars", "threshold": 4.0})
    config.seeds = (0,)
    config.train.update({"epochs": 2, "eval_every": 1, "batch_size": 64})
    config.protocol.metrics = ("ndcg@5", "recall@5")
    config.protocol.headline = "ndcg@5"
    outcome = experiment.run(config, tmp_path / "run", quiet=True)
    assert outcome.results[0]["dataset"] == "log"
    path.unlink()
    recommended = experiment.recommend(tmp_path / "run", "u-07", k=4)
    assert len(recommended) == 4 and all(row.item.startswith("i-") for row in recommended)
    # Clicks that were held out for validation and test are seen as well.
    cells = [row.split(",") for row in rows[1:]]
    clicked = {item for user, item, stars in cells if user == "u-07" and int(stars) >= 4}
    everything = experiment.recommend(tmp_path / "run", "u-07", k=20 - len(clicked))
    assert clicked and not clicked & {row.item for row in everything}


def test_overlap_of_weighted_methods_is_reported(tmp_path):
    config = _tiny("ips_logged", epochs=2)
    config.seeds = (0,)
    outcome = experiment.run(config, tmp_path, quiet=True)
    log = experiment.load_dataset(config)[0].train
    weights = 1 / log.propensities.astype(np.float64)
    overlap = outcome.results[0]["overlap"]
    assert overlap["effective_sample_size"] == pytest.approx(
        weights.sum() ** 2 / (weights**2).sum(), rel=1e-4
    )
    assert overlap["largest_weight"] == pytest.approx(weights.max(), rel=1e-5)
    assert "effective sample size" in outcome.text


@pytest.mark.parametrize("method", ["biif", "mean_logit_ratings"])
def test_coat_runs(data_dir, tmp_path, method):
    config = load_config("coat", method)
    config.data.path = str(data_dir / "coat")
    config.seeds = (0,)
    config.train.update({"epochs": 2, "eval_every": 1})
    (result,) = experiment.run(config, tmp_path, quiet=True).results
    saved = np.load(tmp_path / "per_user.npz", allow_pickle=False)
    assert saved["dcg@3"].shape == (1, 237)
    assert 0 < result["metrics"]["dcg@3"]["mean"] < 2.131


def test_a_click_log_refuses_methods_that_need_ratings(tmp_path):
    path = tmp_path / "clicks.csv"
    path.write_text("user,item\n" + "".join(f"u{u},i{i}\n" for u in range(9) for i in range(u, u + 9)))
    config = load_config("own_data", "snips")
    config.data.path = str(path)
    config.protocol.metrics = ("ndcg@2",)
    config.protocol.headline = "ndcg@2"
    with pytest.raises(DataError, match="snips needs observed pairs with both labels"):
        experiment.run(config, tmp_path / "run", quiet=True)


def test_biif_without_probably_exposed_pairs_says_how_to_make_them(tmp_path):
    config = _tiny("biif", restore="last", patience=0)
    with config.unlocked():
        config.data.split = {"name": "random", "validation": 0.1, "test": 0.0, "seed": 0}
    with pytest.raises(ConfigError, match="data.split.name='biif'"):
        experiment.run(config, tmp_path, quiet=True)


def test_pcc_needs_no_validation_part_and_is_no_monitor(tmp_path):
    config = _tiny("joint_opt", restore="last", patience=0)
    config.data.split = {}
    config.seeds = (0,)
    outcome = experiment.run(config, tmp_path / "run", quiet=True)
    logged = [row["pcc"] for row in _rows(tmp_path / "run") if "pcc" in row]
    assert len(logged) == 2 and logged[0] != logged[1]
    assert outcome.results[0]["metrics"]["pcc"]["values"] == pytest.approx([logged[-1]], abs=1e-6)
    again = experiment.evaluate(tmp_path / "run")
    assert again.results[0]["metrics"] == outcome.results[0]["metrics"]
    watching = _tiny("joint_opt")
    watching.protocol.monitor = "pcc"
    with pytest.raises(ConfigError, match=r"unknown protocol\.monitor 'pcc'"):
        experiment.run(watching, tmp_path / "other", quiet=True)
