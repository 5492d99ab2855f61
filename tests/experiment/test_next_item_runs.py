"""A log of events from a file to recommendations, as the launch scripts do it."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest
from reference.tables import load_config

from debias_jax import experiment, metrics
from debias_jax.data import synthetic_sequences
from debias_jax.data.sequences import histories_before, leave_one_out
from debias_jax.errors import CheckpointError, ConfigError, DataError
from debias_jax.experiment import _serve
from debias_jax.experiment._build import build_for
from debias_jax.experiment._fit import fingerprint, make_judge
from debias_jax.serving import load_bundle


def write_events(path, log):
    rows = [
        f"u{user},item {item},{time}"
        for user, item, time in zip(log.users, log.items, log.timestamps, strict=True)
    ]
    path.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    log = synthetic_sequences.generate(seed=1, n_users=30, n_items=40, timestamps=True).train
    path = write_events(tmp_path_factory.mktemp("events") / "events.csv", log)
    config = load_config("own_sequences", "caser_sce")
    config.data.path = str(path)
    config.data.options.min_user_rows = config.data.options.min_item_rows = 0
    config.train.update({"epochs": 2, "eval_every": 1, "batch_size": 64})
    config.model.dim = 4
    return config


@pytest.fixture(scope="module")
def workdir(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    experiment.run(config, folder, quiet=True)
    return folder


class TestRun:
    def test_it_is_scored_and_scored_again(self, workdir):
        again = experiment.evaluate(workdir).results[0]["metrics"]["ndcg@10"]
        assert 0 < again["mean"] <= 1 and (workdir / "results.json").exists()

    def test_a_user_and_its_history_give_the_same(self, config, workdir):
        dataset, _ = experiment.load_dataset(config)
        known = dataset.log("validation", "test")
        rows = known.users == 0
        order = np.argsort(known.timestamps[rows], kind="stable")
        history = dataset.items.decode(known.items[rows][order])
        user = dataset.users.ids[0]
        by_user = experiment.recommend(workdir, user, k=3)
        by_history = experiment.recommend_next(workdir, history, user=user, k=3)
        assert [row.item for row in by_user] == [row.item for row in by_history]
        np.testing.assert_allclose([r.score for r in by_user], [r.score for r in by_history], rtol=1e-5)
        assert not set(history) & {row.item for row in by_user}

    def test_the_predictor_scores_the_items_that_are_asked_for(self, workdir):
        bundle, score = experiment.load_predictor(workdir)
        n_items = len(bundle.items)
        users = np.arange(3)[:, None]
        whole = np.asarray(score(bundle.params, users, np.arange(n_items)[None, :]))
        assert whole.shape == (3, n_items)
        for columns in ([[5, 2, 7]], [np.arange(n_items)[::-1]], [[0, 1], [2, 3], [1, 0]]):
            columns = np.asarray(columns)
            wanted = np.stack(
                [
                    row[each]
                    for row, each in zip(whole, np.broadcast_to(columns, (3, columns.shape[1])), strict=True)
                ]
            )
            np.testing.assert_array_equal(score(bundle.params, users, columns), wanted)

    def test_two_questions_compile_once(self, config, workdir, monkeypatch):
        traces = []

        def traced(*arguments):
            traces.append(1)
            return score(*arguments)

        score = _serve._score
        monkeypatch.setattr(_serve, "_score", traced)
        _serve._history_scorer.cache_clear()
        dataset, _ = experiment.load_dataset(config)
        for item in dataset.items.ids[:2]:
            experiment.recommend_next(workdir, [item], user=dataset.users.ids[0], k=2)
        assert len(traces) == 1

    def test_a_recommender_reads_and_compiles_once(self, config, workdir, monkeypatch):
        traces, reads = [], []
        score, read = _serve._score, _serve.serving.load_bundle
        monkeypatch.setattr(_serve, "_score", lambda *given: (traces.append(1), score(*given))[1])
        monkeypatch.setattr(_serve.serving, "load_bundle", lambda *given: (reads.append(1), read(*given))[1])
        _serve._history_scorer.cache_clear()
        recommender = experiment.Recommender(workdir)
        users, items = recommender.bundle.users.ids, recommender.bundle.items.ids
        # Shorter and longer than the five items that the model reads, and other numbers of answers.
        asked = [(items[:1], 2), (items[:4], 2), (items[3:12], 10), (items[:2], 16)]
        answers = [recommender.after(history, user=users[0], k=k) for history, k in asked]
        assert len(traces) == 1
        of_users = [recommender.for_user(user, k=k) for user, k in ((users[0], 3), (users[1], 5))]
        assert len(traces) == 2 and len(reads) == 1
        for (history, k), rows in zip(asked, answers, strict=True):
            assert rows == experiment.recommend_next(workdir, history, user=users[0], k=k)
            assert len(rows) == k and not set(history) & {row.item for row in rows}
        assert of_users[1] == experiment.recommend(workdir, users[1], k=5)

    def test_what_does_not_fit_is_named(self, config, workdir):
        dataset, _ = experiment.load_dataset(config)
        item = dataset.items.ids[0]
        with pytest.raises(ConfigError, match="caser knows users"):
            experiment.recommend_next(workdir, [item], k=1)
        user = dataset.users.ids[0]
        with pytest.raises(DataError, match="'item x' is not among"):
            experiment.recommend_next(workdir, ["item x"], user=user, k=1)
        with pytest.raises(DataError, match="history is empty"):
            experiment.recommend_next(workdir, [], user=user, k=1)
        n_items = len(dataset.items)
        with pytest.raises(DataError, match=f"only {n_items - 1} are not in the history"):
            experiment.recommend_next(workdir, [item], user=user, k=n_items)

    @pytest.mark.parametrize("part", ["metrics", "validation_metrics"])
    def test_ranks_that_a_small_catalogue_does_not_have_name_what_to_set(self, config, tmp_path, part):
        config = config.copy_and_resolve_references()
        config.protocol[part] = ("ndcg@10", "hr@50")
        with pytest.raises(
            ConfigError, match=rf"hr@50 asks for k = 50 .*lower k \(.*config\.protocol\.{part}"
        ):
            experiment.run(config, tmp_path, quiet=True)


@pytest.fixture(scope="module")
def split_by_time(config, tmp_path_factory):
    """A run on a log with repeats, whose last events are held out for all users alike."""
    folder = tmp_path_factory.mktemp("by_time")
    log = synthetic_sequences.generate(seed=1, n_users=30, n_items=40, timestamps=True, repeats=True).train
    config = config.copy_and_resolve_references()
    config.data.path = str(write_events(folder / "events.csv", log))
    with config.data.unlocked():
        config.data.split = {"name": "global_time", "validation": 0.2, "test": 0.2}
    config.train.epochs = 1
    with config.variants.unlocked():
        # Arrays of one length compile in half the time.
        config.variants.caser_sce.options.lengths = (5,)
    results = experiment.run(config, folder / "run", quiet=True).results
    return config, folder / "run", log, results[0]


class TestSplitByTime:
    def test_the_bundle_knows_every_event_of_the_known_in_the_order_of_time(self, split_by_time):
        config, folder, log, _ = split_by_time
        dataset, _ = experiment.load_dataset(config)
        bundle = load_bundle(folder / "bundle")
        indptr, items = bundle.seen
        assert dataset.context is not None and len(dataset.context) > 0
        for code, raw in enumerate(bundle.users.ids):
            rows = np.flatnonzero(log.users == int(raw.removeprefix("u")))
            rows = rows[np.argsort(log.timestamps[rows], kind="stable")]
            known = [f"item {item}" for item in log.items[rows] if f"item {item}" in bundle.items]
            assert bundle.items.decode(items[indptr[code] : indptr[code + 1]]) == known

    def test_it_is_scored_again_and_served_as_it_was_measured(self, split_by_time):
        _, folder, _, measured = split_by_time
        again = experiment.evaluate(folder).results[0]
        assert again["metrics"] == measured["metrics"]
        assert measured["protocol"]["mask_seen"] == "none"
        bundle = load_bundle(folder / "bundle")
        user, n_items = bundle.users.ids[0], len(bundle.items)
        history = bundle.items.decode(bundle.seen[1][: bundle.seen[0][1]])
        by_user = experiment.recommend(folder, user, k=n_items)
        by_history = experiment.recommend_next(folder, history, user=user, k=n_items)
        assert {row.item for row in by_user} == {row.item for row in by_history} == set(bundle.items.ids)
        fresh = n_items - len(set(history))
        rows = experiment.recommend_next(folder, history, user=user, k=fresh, exclude_seen=True)
        assert {row.item for row in rows} == set(bundle.items.ids) - set(history)
        with pytest.raises(DataError, match="unseen ones"):
            experiment.recommend(folder, user, k=fresh + 1, exclude_seen=True)


def later(dataset):
    """The dataset with its first event of all a second later."""
    times = dataset.train.timestamps.copy()
    times[0] += 1
    return dataset.replace(train=dataclasses.replace(dataset.train, timestamps=times))


class TestFingerprint:
    def test_times_count_where_a_method_reads_histories(self, config):
        dataset, _ = experiment.load_dataset(config)
        entry, runs = config.variants.caser_sce, [{"seed": 0}]
        method = build_for(config, entry, dataset)
        own, other = (fingerprint(config, entry, each, runs, method) for each in (dataset, later(dataset)))
        assert own["data"] != other["data"] and own | {"data": ""} == other | {"data": ""}
        pairs = experiment.variant("mf", model={"name": "mf", "options": {}})
        method = build_for(config, pairs, dataset)
        own, other = (fingerprint(config, pairs, each, runs, method) for each in (dataset, later(dataset)))
        assert own == other

    def test_a_checkpoint_of_other_times_is_refused(self, config, workdir, tmp_path):
        shutil.copytree(workdir, tmp_path / "run")
        rows = pathlib.Path(config.data.path).read_text().splitlines()
        user, item, time = rows[1].split(",")
        rows[1] = f"{user},{item},{int(time) - 1}"
        (tmp_path / "events.csv").write_text("\n".join(rows) + "\n")
        with pytest.raises(CheckpointError, match="data"):
            experiment.evaluate(tmp_path / "run", data_path=str(tmp_path / "events.csv"))


class TestJudge:
    def test_a_protocol_of_ones_own_is_taken_as_it_is(self):
        dataset = leave_one_out(synthetic_sequences.generate(seed=0, n_users=20, n_items=60, repeats=True))
        own = dataclasses.replace(metrics.PROTOCOLS["leave_one_out"], name="mine")
        judge = make_judge(experiment.base_config(), dataset, "test", own, history=3)
        assert judge.protocol == own and own.mask_seen == "rows"

    def test_histories_are_what_is_known_before_the_target(self):
        dataset = leave_one_out(synthetic_sequences.generate(seed=0, n_users=6, n_items=60))
        config = experiment.base_config()
        config.protocol.test = config.protocol.validation = "leave_one_out"
        for part in ("validation", "test"):
            judge = make_judge(config, dataset, part, history=3)
            indptr, items = histories_before(dataset, part)
            for row, user in enumerate(np.asarray(judge.eval_set.users)):
                known = items[indptr[user] : indptr[user + 1]][-3:].tolist()
                assert judge.eval_set.histories[row].tolist() == [60] * (3 - len(known)) + known

    @pytest.mark.parametrize(("repeats", "mask"), [(False, "rows"), (True, "none")])
    def test_items_of_the_history_stay_where_users_come_back_to_them(self, repeats, mask):
        dataset = leave_one_out(synthetic_sequences.generate(seed=0, n_users=20, n_items=60, repeats=repeats))
        config = experiment.base_config()
        judge = make_judge(config, dataset, "test", "leave_one_out", history=3)
        assert judge.protocol.mask_seen == mask
        assert metrics.PROTOCOLS["leave_one_out"].mask_seen == "rows"

    def test_a_protocol_of_listed_candidates_is_refused(self):
        dataset = leave_one_out(synthetic_sequences.generate(seed=0, n_users=6, n_items=60))
        with pytest.raises(ConfigError, match="scores the whole catalogue"):
            make_judge(experiment.base_config(), dataset, "test", "badr", history=3)
