import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import CheckpointError, ConfigError, DataError
from debias_jax.serving import Bundle, bundle, load_bundle, save_bundle

USERS = Vocabulary(["007", "7", "Zoë", "nan", " a b "], kind="user")
ITEMS = Vocabulary(["x", "é", "e\u0301", "日本"], kind="item")
SEEN = (np.array([0, 2, 2, 3, 3, 4]), np.array([0, 3, 1, 2]))
FILES = ["config.json", "interactions.safetensors", "manifest.json", "vocabulary.json", "weights.safetensors"]


def parts(**changes):
    rng = np.random.default_rng(0)
    given = {
        "params": {
            "users": {"table": jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)},
            "items": {"table": jnp.asarray(rng.normal(size=(4, 3)), jnp.bfloat16)},
            "bias": jnp.asarray(0.25, jnp.float32),
            "none": jnp.zeros((0, 2)),
        },
        "users": USERS,
        "items": ITEMS,
        "config": {"model": {"dim": 3, "name": "mf"}, "seeds": [0, 1], "clip": None},
        "seen": SEEN,
        "popularity": np.array([3, 1, 0, 2]),
        "meta": {"auc": 0.75},
    }
    return given | changes


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine") / "bundle"
    save_bundle(folder, **parts())
    return folder


@pytest.fixture
def copy(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "bundle")


def test_what_is_loaded_is_what_was_saved(pristine):
    loaded = load_bundle(pristine)
    given = parts()
    assert jax.tree.structure(loaded.params) == jax.tree.structure(given["params"])
    for left, right in zip(jax.tree.leaves(loaded.params), jax.tree.leaves(given["params"]), strict=True):
        assert isinstance(left, jax.Array)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()
    assert loaded.users == USERS
    assert loaded.items == ITEMS
    assert (loaded.users.kind, loaded.items.kind) == ("user", "item")
    assert loaded.config == given["config"]
    assert loaded.meta == given["meta"]
    for left, right in zip(loaded.seen, SEEN, strict=True):
        assert left.dtype == np.int32
        np.testing.assert_array_equal(left, right)
    assert loaded.popularity.dtype == np.float32
    np.testing.assert_array_equal(loaded.popularity, [3, 1, 0, 2])


def test_the_folder_holds_plain_files_only(pristine):
    assert sorted(path.name for path in pristine.iterdir()) == FILES
    assert [path.name for path in pristine.parent.iterdir()] == ["bundle"]
    for name in FILES:
        if name.endswith(".json"):
            json.loads((pristine / name).read_text(encoding="utf-8"))
    plain = pristine.parent / "plain"
    plain.mkdir()
    assert pristine.stat().st_mode == plain.stat().st_mode
    plain.rmdir()


def test_history_and_popularity_may_be_left_out(tmp_path):
    save_bundle(tmp_path / "b", **parts(seen=None, popularity=None, params={}, meta=None))
    loaded = load_bundle(tmp_path / "b")
    assert (loaded.seen, loaded.popularity, loaded.params, loaded.meta) == (None, None, {}, {})


def test_bags_that_the_model_reads_come_along(tmp_path):
    bags = {
        "genres": np.array([[0, 2], [1, -1], [-1, -1], [2, 2]]),
        "words of titles": np.array([[5], [0], [-1], [1]]),
    }
    save_bundle(tmp_path / "b", **parts(item_bags=bags))
    bundle = load_bundle(tmp_path / "b")
    assert bundle.user_bags is None and bundle.item_features is None
    assert sorted(bundle.item_bags) == sorted(bags)
    for name, values in bundle.item_bags.items():
        assert values.dtype == np.int32
        np.testing.assert_array_equal(values, bags[name])
    with pytest.raises(
        DataError, match=r"user_bags\['it'\] must be integers of shape \(5, m\), got int64 \(4, 2\)"
    ):
        parts_of = parts(user_bags={"it": bags["genres"]})
        save_bundle(tmp_path / "c", **parts_of)
    with pytest.raises(DataError, match=r"item_bags\['it'\] must be integers .* got float64 \(4, 2\)"):
        save_bundle(tmp_path / "c", **parts(item_bags={"it": bags["genres"] / 2}))


def test_features_that_the_model_reads_come_along(tmp_path):
    features = {"user_features": np.eye(5), "item_features": np.arange(8.0).reshape(4, 2)}
    save_bundle(tmp_path / "b", **parts(**features))
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == sorted(
        [*FILES, "features.safetensors"]
    )
    loaded = load_bundle(tmp_path / "b")
    for name, table in features.items():
        assert getattr(loaded, name).dtype == np.float32
        np.testing.assert_array_equal(getattr(loaded, name), table)
    save_bundle(tmp_path / "c", **parts(item_features=features["item_features"]))
    assert load_bundle(tmp_path / "c").user_features is None
    (tmp_path / "b" / "features.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is damaged: .*features.safetensors"):
        load_bundle(tmp_path / "b")
    with pytest.raises(DataError, match=r"item_features must be finite, of shape \(4, d\), got \(5, 5\)"):
        save_bundle(tmp_path / "d", **parts(item_features=np.eye(5)))


def test_a_matrix_that_is_not_contiguous_is_saved_as_it_reads(tmp_path):
    table = np.arange(6, dtype=np.float32).reshape(2, 3).T
    save_bundle(tmp_path / "b", **parts(params={"table": table}))
    np.testing.assert_array_equal(load_bundle(tmp_path / "b").params["table"], [[0, 3], [1, 4], [2, 5]])


def test_an_older_bundle_is_replaced_and_anything_else_is_left_alone(copy):
    save_bundle(copy, **parts(config={"new": True}))
    assert load_bundle(copy).config == {"new": True}
    assert sorted(path.name for path in copy.iterdir()) == FILES
    for occupied in (copy.parent, copy / "config.json"):
        with pytest.raises(CheckpointError, match="exists and is not a bundle; it is left alone"):
            save_bundle(occupied, **parts())
    (copy.parent / "empty").mkdir()
    save_bundle(copy.parent / "empty", **parts())


def test_a_failed_save_leaves_the_old_bundle(copy, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle.safetensors, "save", fail)
    with pytest.raises(CheckpointError, match="cannot write the bundle .*: No space left on device"):
        save_bundle(copy, **parts(config={"new": True}))
    assert load_bundle(copy).config == parts()["config"]
    assert [path.name for path in copy.parent.iterdir()] == ["bundle"]
    with pytest.raises(CheckpointError, match="cannot write the bundle .*missing"):
        save_bundle(copy.parent / "missing" / "bundle", **parts())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damage_is_found_and_the_file_is_named(copy, name, damage):
    path = copy / name
    data = path.read_bytes()
    if damage == "delete":
        path.unlink()
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_bundle(copy)


def test_another_version_or_kind_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "_VERSION", 9)
    save_bundle(tmp_path / "b", **parts())
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="has version 9, and this debias_jax reads version 1; install"):
        load_bundle(tmp_path / "b")
    monkeypatch.setattr(bundle, "_KIND", "something else")
    with pytest.raises(CheckpointError, match="does not describe a something else"):
        load_bundle(tmp_path / "b")
    with pytest.raises(CheckpointError, match="is not a bundle: it has no manifest.json"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"params": {"a/b": jnp.zeros(1)}},
            TypeError,
            "keys of params must be strings without '/', got 'a/b'",
        ),
        ({"params": {"a": {3: jnp.zeros(1)}}}, TypeError, "keys of params must be strings .* got 3 in 'a/'"),
        ({"params": {"a": {}}}, TypeError, r"params\['a'\] is an empty dict"),
        ({"params": {"a": {"b": 1.0}}}, TypeError, r"params\['a/b'\] must be an array or a dict, got float"),
        (
            {"config": {"clip": float("inf")}},
            ConfigError,
            "config must hold JSON values only: Out of range float",
        ),
        ({"meta": {"f": len}}, ConfigError, "meta must hold JSON values only"),
        ({"popularity": np.ones(3)}, DataError, r"popularity must be finite, of shape \(4,\)"),
        ({"popularity": np.array([1, 2, np.nan, 3])}, DataError, "popularity must be finite"),
        (
            {"seen": (np.array([0, 1]), np.array([0]))},
            DataError,
            r"indptr must rise from 0 in shape \(6,\), got \(2,\)",
        ),
        ({"seen": (np.array([0, 2, 1, 3, 3, 4]), SEEN[1])}, DataError, "indptr must rise from 0"),
        ({"seen": (SEEN[0], np.arange(3))}, DataError, r"indptr ends at 4, but items has shape \(3,\)"),
        ({"seen": (SEEN[0], np.array([0, 1, 2, 4]))}, DataError, r"items must be in \[0, 4\), got up to 4"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        save_bundle(tmp_path / "b", **parts(**changes))
    assert not list(tmp_path.iterdir())


def test_a_bundle_can_be_made_in_memory():
    made = Bundle({}, USERS, ITEMS, {}, seen=SEEN)
    assert made.popularity is None
    assert made.seen[1].dtype == np.int32
