"""A log of events from a file to recommendations, as the launch scripts do it."""

import importlib.util

import numpy as np
import pytest
from reference.tables import ROOT

from debias_jax import experiment, metrics
from debias_jax._fit import make_judge
from debias_jax.data import synthetic_sequences
from debias_jax.data.sequences import histories_before, leave_one_out
from debias_jax.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    log = synthetic_sequences.generate(seed=1, n_users=30, n_items=40, timestamps=True).train
    path = tmp_path_factory.mktemp("events") / "events.csv"
    rows = [
        f"u{user},item {item},{time}"
        for user, item, time in zip(log.users, log.items, log.timestamps, strict=True)
    ]
    path.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    spec = importlib.util.spec_from_file_location("own_sequences", ROOT / "configs" / "own_sequences.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config("caser_sce")
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

    def test_what_does_not_fit_is_named(self, config, workdir):
        dataset, _ = experiment.load_dataset(config)
        item = dataset.items.ids[0]
        with pytest.raises(ConfigError, match="knows users"):
            experiment.recommend_next(workdir, [item], k=1)
        user = dataset.users.ids[0]
        with pytest.raises(DataError, match="'item x' is not among"):
            experiment.recommend_next(workdir, ["item x"], user=user, k=1)
        with pytest.raises(DataError, match="history is empty"):
            experiment.recommend_next(workdir, [], user=user, k=1)
        n_items = len(dataset.items)
        with pytest.raises(DataError, match=f"only {n_items - 1} are not in the history"):
            experiment.recommend_next(workdir, [item], user=user, k=n_items)


class TestJudge:
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
