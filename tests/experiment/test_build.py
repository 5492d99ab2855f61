"""What a config may ask for: models by name, their features, and methods that fit the log."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, experiment, methods, training
from debias_jax.errors import ConfigError, DataError
from debias_jax.experiment import _build, _config, _datasets, _fit


def _config_of(method, *, model=None, **options):
    config = experiment.base_config()
    with config.unlocked():
        config.methods = ("it",)
        config.variants.it = _config.variant(method, options=options)
        config.baseline = "it"
        config.seeds = (0, 1)
        config.data.options = {"seed": 0, "n_users": 40, "n_items": 25, "mean_exposure": 0.3}
        config.model.update({"dim": 4, "hidden": (6,), **(model or {})})
        config.train.update({"epochs": 4, "eval_every": 4, "batch_size": 128, "lr": 0.02})
    return config


def _built(method, *, model=None, **features):
    config = _config_of(method, model=model)
    return _build.build_method(config, config.variants.it, n_users=3, n_items=5, **features)


class TestModels:
    def test_two_tower_needs_the_features_that_it_is_told_to_read(self):
        for method in ("mf", "ips"):
            _built(method, model={"name": "two_tower"})
            _built(method, model={"name": "two_tower", "features": True}, user_features=np.eye(3))
        with pytest.raises(ConfigError, match="the dataset has no features of users or items"):
            _built("mf", model={"name": "two_tower", "features": True})
        with pytest.raises(ConfigError, match="mf reads no features; take model.name='two_tower' or 'mmoe'"):
            _built("mf", model={"features": True}, user_features=np.eye(3))

    def test_two_tower_reads_bags_and_mmoe_does_not(self):
        log = training.train_data(data.synthetic.generate(seed=0, n_users=3, n_items=5, mean_exposure=0.5))
        bags = {"item_bags": {"genres": np.array([[0, 2], [1, -1], [-1, -1], [2, -1], [0, -1]])}}
        built = _built("mf", model={"name": "two_tower", "features": True}, **bags)
        tower = built.init(jax.random.key(0), log, {}).params["prediction"]["item"]
        assert tower["bags"]["genres"].shape == (3, 4)
        without = _built("mf", model={"name": "two_tower"}, **bags)
        assert "bags" not in without.init(jax.random.key(0), log, {}).params["prediction"]["item"]
        message = "the dataset has bags alone, which mmoe does not read; take model.name='two_tower'"
        with pytest.raises(ConfigError, match=message):
            _built("mf", model={"name": "mmoe", "features": True}, **bags)
        _built("mf", model={"name": "mmoe", "features": True}, user_features=np.eye(3), **bags)

    def test_features_of_an_unknown_name_are_refused(self):
        with pytest.raises(TypeError, match="'item_featurs'; did you mean 'item_features'"):
            _built("mf", item_featurs=np.eye(5))
        config = _config_of("mf")
        with pytest.raises(TypeError, match="'user_bag'; did you mean 'user_bags'"):
            _build.build_model(config, config.variants.it, n_users=3, n_items=5, user_bag={})

    def test_mmoe_is_a_model_of_pairs_and_of_tasks(self):
        log = training.train_data(data.synthetic.generate(seed=0, n_users=3, n_items=5, mean_exposure=0.5))
        users, items = jnp.arange(3)[:, None], jnp.arange(5)[None, :]
        features = {"user_features": np.eye(3), "item_features": np.ones((5, 2))}
        for method, options in (("mf", {}), ("badr_mmoe", {}), ("escm2_ips", {"towers": "shared"})):
            config = _config_of(method, model={"name": "mmoe", "features": True}, **options)
            built = _build.build_method(config, config.variants.it, n_users=3, n_items=5, **features)
            state = built.init(jax.random.key(0), log, {})
            # Embeddings of both sides, of length 4, and the features.
            assert state.params["prediction"]["gate"].shape[1] == 2 * 4 + 3 + 2
            assert built.predict(state, users, items).shape == (3, 5)

    def test_a_network_for_all_tasks_is_not_two_towers(self):
        for method, options in (("badr_mmoe", {}), ("ddpo", {"towers": "shared"})):
            config = _config_of(method, model={"name": "two_tower"}, **options)
            with pytest.raises(ConfigError, match="trains one network for all tasks; set model.name='mmoe'"):
                _build.build_method(config, config.variants.it, n_users=3, n_items=5)
        # Separate towers are models of pairs, which two towers are.
        config = _config_of("ddpo", model={"name": "two_tower"})
        _build.build_method(config, config.variants.it, n_users=3, n_items=5)

    def test_a_method_that_shares_vectors_needs_mf(self):
        with pytest.raises(ConfigError, match="biif shares the vectors of mf; set model.name='mf'"):
            _built("biif", model={"name": "two_tower"})

    def test_unknown_model_and_key(self):
        with pytest.raises(ConfigError, match="unknown model 'two_towers'; did you mean 'two_tower'"):
            _built("mf", model={"name": "two_towers"})

    def test_hyperparameters_need_no_dataset(self):
        config = _config_of("ips", model={"name": "two_tower", "features": True})
        found = _build.default_hparams(config, config.variants.it)
        assert found == _built("ips").hparams


def _refuses(method, log, **options):
    """Whether a method does not take a log, of which the message says why."""
    config = _config_of(method, **options)
    try:
        _build.check_labels(
            method, config.variants.it, _build.build_for(config, config.variants.it, log), log
        )
    except DataError as error:
        assert f"{method} needs observed pairs with both labels" in str(error)
        return True
    return False


def test_methods_that_contrast_observed_labels_refuse_a_log_of_clicks():
    log = data.splits.biif(data.synthetic.generate(seed=0, n_users=40, n_items=25), seed=0)
    clicks = log.replace(train=log.train.positives)
    draw_zeros = {*experiment.IMPLICIT} - {"ips", "snips"}
    # Those that retrieve take the other clicks of a batch, and next_item the other items.
    retrieve = {"ssl", "ssl_pop", "mns", "g_tower", "bir", "xir", "next_item"}
    assert {name for name in methods.__all__ if not _refuses(name, clicks)} == draw_zeros | retrieve
    assert _refuses("mean_logit", clicks, feedback="ratings") and _refuses("mf", clicks, frame="observed")
    assert not any(_refuses(name, log) for name in ("ips", "badr", "mf_bias"))


def test_features_travel_with_the_bundle(tmp_path, data_dir):
    """Coat with features: the recommendations of the workdir alone are those of the trained model."""
    config = _config_of("mf", frame="observed", model={"name": "two_tower", "features": True})
    with config.unlocked():
        config.data.name = "coat"
        config.data.path = str(data_dir / "coat")
        config.data.options = {"threshold": 4.0}
        config.seeds = (0,)
        config.protocol.metrics = ("auc",)
        config.protocol.headline = "auc"
    experiment.run(config, tmp_path / "run", quiet=True)
    bundle, score = experiment.load_predictor(tmp_path / "run")
    coat = data.coat.load(data_dir / "coat")
    np.testing.assert_array_equal(bundle.user_features, coat.user_features)
    np.testing.assert_array_equal(bundle.item_features, coat.item_features)
    users, items = np.arange(290)[:, None], np.arange(300)[None, :]
    before = np.asarray(score(bundle.params, users, items))
    assert before.shape == (290, 300) and np.isfinite(before).all()
    rows = experiment.recommend(tmp_path / "run", "7", k=3, exclude_seen=False)
    best = np.argsort(-before[7], kind="stable")[:3]
    assert [row.item for row in rows] == [str(item) for item in best]


def test_bags_travel_with_the_bundle(tmp_path, monkeypatch):
    """Genres beside the ratings, from a flag to recommendations of the workdir alone."""
    rng = np.random.default_rng(0)
    log = data.synthetic.generate(seed=0, n_users=40, n_items=25, mean_exposure=0.3)
    genres = np.where(rng.random((25, 3)) < 0.6, rng.integers(0, 7, (25, 3)), -1)
    monkeypatch.setitem(_datasets.DATASETS, "synthetic", lambda: log.replace(item_bags={"genres": genres}))
    config = _config_of("ssl_pop", model={"name": "two_tower", "features": True})
    with config.unlocked():
        config.data.options = {}
        config.seeds = (0,)
        config.protocol.metrics = ("auc",)
        config.protocol.headline = "auc"
    experiment.run(config, tmp_path / "run", quiet=True)
    bundle, score = experiment.load_predictor(tmp_path / "run")
    np.testing.assert_array_equal(bundle.item_bags["genres"], genres)
    assert bundle.params["item"]["bags"]["genres"].shape == (7, 4)
    scores = np.asarray(score(bundle.params, np.arange(40)[:, None], np.arange(25)[None, :]))
    rows = experiment.recommend(tmp_path / "run", log.users.ids[7], k=3, exclude_seen=False)
    best = np.argsort(-scores[7], kind="stable")[:3]
    assert [row.item for row in rows] == [log.items.ids[item] for item in best]
    # Another set of genres is another run.
    known = _fit._digest(log.replace(item_bags={"genres": genres}), features=True, histories=False)
    other = _fit._digest(log.replace(item_bags={"genres": genres[::-1]}), features=True, histories=False)
    assert known != other
