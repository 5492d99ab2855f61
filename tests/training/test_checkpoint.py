import json
import logging
import os
import socket
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from debias_jax.errors import CheckpointError, ConfigError
from debias_jax.methods.base import TrainState
from debias_jax.training import early_stop
from debias_jax.training.checkpoint import Checkpointer

FINGERPRINT = {"data": {"name": "synthetic", "seeds": [0, 1]}, "train": {"lr": 0.1, "patience": None}}


def runs(seed):
    """A TrainState of two runs with its optimiser and early stopping, as the loop saves it."""
    rng = np.random.default_rng(seed)
    params = {
        "prediction": {
            "users": jnp.asarray(rng.normal(size=(2, 7, 4)), jnp.float32),
            "a/b.c['d']": jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
        },
        "exposure": {"bias": jnp.asarray(rng.normal(size=2), jnp.float32)},
    }
    opt_state = {name: optax.adam(0.1).init(group) for name, group in params.items()}
    state = TrainState(jnp.full(2, seed, jnp.int32), params, opt_state, {"lr": jnp.full(2, 0.1)}, {})
    return {"state": state, "stop": jax.vmap(early_stop.init)(params)}


def assert_same(restored, saved):
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for left, right in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert type(left) is type(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert np.asarray(left).tobytes() == np.asarray(right).tobytes()


@pytest.fixture
def saver(tmp_path):
    with Checkpointer(tmp_path / "checkpoints", fingerprint=FINGERPRINT) as saver:
        yield saver


def reopen(saver, fingerprint=FINGERPRINT, **settings):
    saver.close()
    return Checkpointer(saver.directory, fingerprint=fingerprint, **settings)


def test_an_empty_folder_restores_nothing(saver):
    assert saver.restore(runs(0)) is None
    assert saver.steps == []


def test_what_is_restored_is_what_was_saved(saver):
    meta = {"epoch": 3, "history": [{"zeta": 0.1, "alpha": float("inf")}], "lr": 1 / 3}
    saver.save(3, runs(3), meta)
    with reopen(saver) as again:
        step, tree, restored_meta = again.restore(runs(0))
    assert step == 3
    assert_same(tree, runs(3))
    assert restored_meta == meta
    assert list(restored_meta["history"][0]) == ["zeta", "alpha"]


def test_every_kind_of_leaf_survives(saver):
    class Pair(NamedTuple):
        left: jax.Array
        right: tuple

    rng = np.random.default_rng(0)
    tree = Pair(
        left=jnp.asarray(rng.normal(size=(600, 512)), jnp.float32),
        right=(
            jnp.asarray([1.5, -0.0, jnp.inf, jnp.nan], jnp.bfloat16),
            jnp.asarray([True, False]),
            jnp.zeros((0, 3)),
            jnp.zeros((0,), jnp.int32),
            {"scalar": jnp.asarray(-7, jnp.int32), "host": rng.normal(size=(3, 2)), "key": np.uint32([1, 2])},
            None,
            {},
        ),
    )
    assert tree.left.nbytes > 1 << 20
    saver.save(1, tree, {})
    restored = saver.restore(jax.tree.map(lambda x: x * 0 if x.dtype != bool else x, tree)).tree
    assert_same(restored, tree)
    assert restored.right[0].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("tree", [{}, {"empty": jnp.zeros((0, 2))}])
def test_a_tree_without_a_number_is_fine(saver, tree):
    saver.save(1, tree, {})
    assert_same(saver.restore(tree).tree, tree)


def test_a_template_of_shapes_is_enough(saver):
    saver.save(1, runs(1), {})
    shapes = jax.eval_shape(lambda: runs(0))
    assert_same(saver.restore(shapes).tree, runs(1))
    with pytest.raises(TypeError, match="ShapeDtypeStruct, which has no values to save"):
        saver.save(2, shapes, {})


def test_restored_arrays_can_be_donated_and_trained_on_without_a_new_compilation(saver):
    traces = []

    @jax.jit
    def step(tree):
        traces.append(1)
        return jax.tree.map(lambda x: x + jnp.ones((), x.dtype), tree)

    tree = jax.jit(lambda: {"w": jnp.zeros(3), "n": jnp.zeros((), jnp.int32)})()
    expected = step(tree)
    saver.save(1, tree, {})
    assert_same(step(saver.restore(tree).tree), expected)
    assert len(traces) == 1
    donating = jax.jit(lambda tree: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), tree), donate_argnums=0)
    assert_same(donating(saver.restore(tree).tree), expected)


def test_older_steps_go_once_newer_ones_are_there(tmp_path):
    tree = {"w": jnp.zeros(2)}
    with Checkpointer(tmp_path / "c", keep=3, fingerprint={}) as saver:
        for step in (1, 5, 9, 10):
            saver.save(step, tree, {})
        assert saver.steps == [5, 9, 10]
    with Checkpointer(tmp_path / "c", keep=1, fingerprint={}) as saver:
        saver.save(11, tree, {})
        assert saver.steps == [11]
    assert sorted(entry.name for entry in (tmp_path / "c").iterdir()) == ["lock", "step_00000011"]


def test_steps_must_grow(saver):
    saver.save(5, runs(5), {})
    saver.save(5, runs(5), {})
    for step, tree in ((4, runs(4)), (5, runs(6))):
        with pytest.raises(CheckpointError, match=f"already holds step 5, so step {step} cannot be saved"):
            saver.save(step, tree, {})
    assert_same(saver.restore(runs(0)).tree, runs(5))


def test_another_configuration_is_refused_with_the_keys_that_differ(saver):
    saver.save(1, runs(1), {})
    other = {"data": {"name": "coat", "seeds": [0, 1]}, "train": {"lr": 0.1, "clip": 5}}
    with (
        reopen(saver, other) as again,
        pytest.raises(CheckpointError, match="step 1 in .* belongs to another configuration") as error,
    ):
        again.restore(runs(0))
    text = str(error.value)
    assert 'data.name is "synthetic" there and "coat" here' in text
    assert "train.patience is null there and absent here" in text
    assert "train.clip is absent there and 5 here" in text
    assert "train.lr" not in text
    assert "seeds" not in text


def test_other_leaves_are_refused_with_their_paths(saver):
    saver.save(1, {"w": jnp.zeros((2, 3)), "old": jnp.zeros(1), "same": jnp.zeros(4)}, {})
    template = {"w": jnp.zeros((2, 3), jnp.int32), "new": jnp.zeros((5,)), "same": jnp.zeros(4)}
    with pytest.raises(CheckpointError) as error:
        saver.restore(template)
    assert "['w'] is float32[2, 3] there and int32[2, 3] here" in str(error.value)
    assert "['old'] is float32[1] there and absent here" in str(error.value)
    assert "['new'] is absent there and float32[5] here" in str(error.value)
    assert "same" not in str(error.value)
    many = {f"leaf{number}": jnp.zeros(1) for number in range(20)}
    with pytest.raises(CheckpointError, match="and 13 more"):
        saver.restore(many)


def test_a_checkpoint_of_another_format_is_refused(saver, monkeypatch):
    monkeypatch.setattr("debias_jax.training.checkpoint._FORMAT", 2)
    saver.save(1, runs(1), {})
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="step 1 in .* has format 2, and this version reads 1"):
        saver.restore(runs(0))


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (3, "leaf \\['w'\\]\\['x'\\] is of type int; wrap it in jnp.asarray"),
        (jax.random.key(0), "leaf \\['w'\\]\\['x'\\] is a typed PRNG key"),
    ],
)
def test_leaves_that_cannot_be_stored_are_named(saver, leaf, message):
    with pytest.raises(TypeError, match=message):
        saver.save(1, {"w": {"x": leaf}}, {})
    assert saver.steps == []


def test_settings_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="keep must be an integer of at least 1, got 0"):
        Checkpointer(tmp_path, keep=0, fingerprint={})
    with pytest.raises(ConfigError, match="the fingerprint must hold JSON values only"):
        Checkpointer(tmp_path, fingerprint={"f": len})


def test_a_folder_that_cannot_be_written_fails_at_once(tmp_path):
    with pytest.raises(CheckpointError, match="missing is not a folder"):
        Checkpointer(tmp_path / "missing" / "checkpoints", fingerprint={})
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write to .*file: File exists"):
        Checkpointer(tmp_path / "file", fingerprint={})
    (tmp_path / "taken" / "lock").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="cannot write to .*taken: Is a directory"):
        Checkpointer(tmp_path / "taken", fingerprint={})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_fails_at_once(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="cannot write to .*: Permission denied"):
            Checkpointer(tmp_path / "checkpoints", fingerprint={})
    finally:
        tmp_path.chmod(0o700)


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with Checkpointer(tmp_path / "link", fingerprint={}) as saver:
        saver.save(1, {"w": jnp.zeros(2)}, {})
        with pytest.raises(
            CheckpointError, match=f"is in use by pid {os.getpid()} on {socket.gethostname()}"
        ):
            Checkpointer(tmp_path / "real", fingerprint={})
    assert (tmp_path / "real" / "step_00000001").is_dir()


def test_a_lock_is_free_after_closing_and_after_an_error(tmp_path):
    with pytest.raises(KeyError), Checkpointer(tmp_path, fingerprint={}):
        raise KeyError
    saver = Checkpointer(tmp_path, fingerprint={})
    saver.close()
    saver.close()
    Checkpointer(tmp_path, fingerprint={}).close()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, caplog):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    pid = int(child.stdout)
    (tmp_path / "lock").write_text(json.dumps({"pid": pid, "host": socket.gethostname()}))
    with caplog.at_level(logging.WARNING), Checkpointer(tmp_path, fingerprint={}):
        assert f"from pid {pid}, which died" in caplog.text


def test_the_lock_of_another_host_is_believed(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"pid": 12, "host": "elsewhere"}))
    with pytest.raises(CheckpointError, match=r"was locked by pid 12 on elsewhere, .* delete .*lock"):
        Checkpointer(tmp_path, fingerprint={})
    (tmp_path / "lock").write_text('{"pid": 1')
    Checkpointer(tmp_path, fingerprint={}).close()


def test_leftovers_of_a_killed_save_are_swept_on_opening(tmp_path):
    (tmp_path / ".tmp-step_00000003-99" / "arrays").mkdir(parents=True)
    (tmp_path / "step_notes").mkdir()
    with Checkpointer(tmp_path, fingerprint={}) as saver:
        assert saver.steps == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lock", "step_notes"]
