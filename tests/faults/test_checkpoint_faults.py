"""Kills, full disks, damaged files, second runs: the newest intact step is found, or the error says why."""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax.errors import CheckpointError
from debias_jax.training.checkpoint import Checkpointer
from debias_jax.training.writers import JsonlWriter, read_jsonl

# One process imports the library and forks a child for each fault: imports would take most of the time.
# Numpy leaves keep the JAX backend, and so its threads, out of the process that forks.
SERVER = """
import json, os, resource, sys, time, warnings
import numpy as np
from orbax.checkpoint import v1
from debias_jax.training.checkpoint import Checkpointer

warnings.filterwarnings("ignore", message="os.fork")

def tree(step):
    rng = np.random.default_rng(step)
    return {"w": rng.normal(size=(50, 40)), "b": rng.normal(size=300).astype(np.float32), "n": np.array(step)}

def say(**message):
    os.write(1, (json.dumps(message) + "\\n").encode())

def save_forever(folder):
    with Checkpointer(folder, fingerprint={}) as saver:
        found = saver.restore(tree(0))
        step = 0 if found is None else found.step
        while True:
            step += 1
            saver.save(step, tree(step), {"step": step})
            say(saved=step)

def fill_the_disk(folder):
    with Checkpointer(folder, fingerprint={}) as saver:
        saver.save(1, tree(1), {})
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            saver.save(2, tree(2), {})
            say(error=None)
        except Exception as error:
            say(error=type(error).__name__, text=str(error), files=sorted(os.listdir(folder)))
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        saver.save(3, tree(3), {})
        say(saved=3)

def hold(folder):
    with Checkpointer(folder, fingerprint={}):
        say(holding=True)
        time.sleep(600)

say(ready=True)
for line in sys.stdin:
    name, folder = json.loads(line)
    pid = os.fork()
    if pid == 0:
        globals()[name](folder)
        os._exit(0)
    say(pid=pid)
    os.waitpid(pid, 0)
    say(ended=pid)
"""


def tree(step):
    """The same numbers as in the server."""
    rng = np.random.default_rng(step)
    return {"w": rng.normal(size=(50, 40)), "b": rng.normal(size=300).astype(np.float32), "n": np.array(step)}


def assert_intact(restored):
    for name, expected in tree(restored.step).items():
        assert restored.tree[name].dtype == expected.dtype
        np.testing.assert_array_equal(restored.tree[name], expected)


class Server:
    """Starts faults, and hands on what the children say."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        self.listen("ready")

    def listen(self, word):
        """Everything that was said until a message holds ``word``."""
        messages = []
        while not messages or word not in messages[-1]:
            line = self.process.stdout.readline()
            assert line, f"the server ended while {word!r} was awaited, after {messages}"
            messages.append(json.loads(line))
        return messages

    def start(self, fault, folder):
        self.process.stdin.write(json.dumps([fault, str(folder)]) + "\n")
        self.process.stdin.flush()
        # The child may speak before its parent says which pid it has.
        messages = self.listen("pid")
        return messages[-1]["pid"], messages[:-1]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


def test_a_kill_at_any_moment_loses_no_step_that_was_reported(server, tmp_path):
    rng = np.random.default_rng(0)
    folder, newest, resumed = tmp_path / "checkpoints", 0, []
    for kill in range(10):
        pid, messages = server.start("save_forever", folder)
        if not any("saved" in message for message in messages):
            messages += server.listen("saved")
        time.sleep(rng.uniform(0.0, 0.25))
        os.kill(pid, signal.SIGKILL)
        messages += server.listen("ended")
        reported = max(message["saved"] for message in messages if "saved" in message)
        assert reported > newest
        # Every second kill is followed by another one before anybody looks.
        if kill % 2:
            with Checkpointer(folder, fingerprint={}) as saver:
                restored = saver.restore(tree(0))
                assert not list(folder.glob(".tmp-*"))
            assert restored.step in (reported, reported + 1)
            assert restored.meta == {"step": restored.step}
            assert_intact(restored)
            resumed.append(restored.step)
            reported = restored.step
        newest = reported
    assert resumed == sorted(set(resumed))


def test_a_full_disk_surfaces_at_once_and_spares_the_older_step(server, tmp_path):
    folder = tmp_path / "checkpoints"
    _, messages = server.start("fill_the_disk", folder)
    messages += server.listen("ended")
    failed, recovered = messages[0], messages[1]
    assert failed["error"] == "CheckpointError"
    assert "step 2 could not be saved" in failed["text"]
    assert "steps that are kept: 1" in failed["text"]
    assert "\n" not in failed["text"]
    assert failed["files"] == ["lock", "step_00000001"]
    assert recovered == {"saved": 3}
    with Checkpointer(folder, fingerprint={}) as saver:
        assert saver.steps == [1, 3]
        assert_intact(saver.restore(tree(0)))


def test_a_second_run_is_refused_until_the_first_one_dies(server, tmp_path, caplog):
    folder = tmp_path / "checkpoints"
    pid, messages = server.start("hold", folder)
    if not messages:
        server.listen("holding")
    with pytest.raises(
        CheckpointError, match=f"checkpoints is in use by pid {pid} on {socket.gethostname()}; wait"
    ):
        Checkpointer(folder, fingerprint={})
    os.kill(pid, signal.SIGKILL)
    server.listen("ended")
    with caplog.at_level(logging.WARNING), Checkpointer(folder, fingerprint={}):
        assert f"from pid {pid}, which died" in caplog.text


def flip(data, where):
    position = int(where * (len(data) - 1))
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


DAMAGES = {
    "flip the first byte": lambda data: flip(data, 0.0),
    "flip a byte in the middle": lambda data: flip(data, 0.5),
    "flip the last byte": lambda data: flip(data, 1.0),
    "cut the tail": lambda data: data[: len(data) * 2 // 3],
    "zero the tail": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "empty": lambda data: b"",
    "delete": None,
}


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine") / "checkpoints"
    with Checkpointer(folder, fingerprint={"lr": 0.1}) as saver:
        for step in (1, 2):
            saver.save(step, tree(step), {"step": step})
    return folder


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_or_harmless(two_steps, tmp_path, caplog, damage):
    newest = two_steps / "step_00000002"
    names = sorted(path.relative_to(newest) for path in newest.rglob("*") if path.is_file())
    assert len(names) >= 5
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        shutil.copytree(two_steps, folder)
        path = folder / newest.name / name
        before = path.read_bytes()
        if DAMAGES[damage] is None:
            path.unlink()
        elif before:
            path.write_bytes(DAMAGES[damage](before))
        caplog.clear()
        with caplog.at_level(logging.WARNING), Checkpointer(folder, fingerprint={"lr": 0.1}) as saver:
            restored = saver.restore(tree(0))
            changed = not path.exists() or path.read_bytes() != before
            assert restored.step == (1 if changed else 2), name
            assert restored.meta == {"step": restored.step}
            assert_intact(restored)
            if changed:
                assert f"REJECTED checkpoint step 2 in {folder}" in caplog.text
                assert name.name in caplog.text
                assert "resuming from the older step 1" in caplog.text


def test_a_rejected_step_is_replaced_by_the_run_that_goes_on(two_steps, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_steps, folder)
    (folder / "step_00000002" / "manifest.json").write_bytes(b"{}")
    with Checkpointer(folder, fingerprint={"lr": 0.1}) as saver:
        assert saver.restore(tree(0)).step == 1
        saver.save(2, tree(2), {})
        assert saver.steps == [1, 2]
        assert_intact(saver.restore(tree(0)))


def test_a_rejected_step_does_not_take_the_place_of_an_intact_one(two_steps, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_steps, folder)
    shutil.rmtree(folder / "step_00000002" / "arrays")
    with Checkpointer(folder, fingerprint={"lr": 0.1}) as saver:
        assert saver.restore(tree(0)).step == 1
        saver.save(3, tree(3), {})
        assert saver.steps == [1, 3]


def test_a_step_under_the_name_of_another_is_rejected(two_steps, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_steps, folder)
    (folder / "step_00000001").rename(folder / "step_00000007")
    with Checkpointer(folder, fingerprint={"lr": 0.1}) as saver:
        assert saver.restore(tree(0)).step == 2


def test_nothing_intact_is_an_error_and_not_a_fresh_start(two_steps, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two_steps, folder)
    for step in (1, 2):
        (folder / f"step_{step:08d}" / "manifest.json").unlink()
    with Checkpointer(folder, fingerprint={"lr": 0.1}) as saver:
        with pytest.raises(
            CheckpointError, match=r"every checkpoint in .* is damaged \(step 2: .*; step 1: .*delete"
        ):
            saver.restore(tree(0))
        assert saver.steps == [1, 2]


def test_what_orbax_reads_is_checked_too(two_steps, monkeypatch, caplog):
    """A decoder that returns other numbers than were saved is caught by the digests of the leaves."""
    from orbax.checkpoint import v1

    load = v1.load
    monkeypatch.setattr(
        v1, "load", lambda path: {name: np.roll(pack, 1) for name, pack in load(path).items()}
    )
    with (
        Checkpointer(two_steps, fingerprint={"lr": 0.1}) as saver,
        pytest.raises(CheckpointError, match="every checkpoint"),
    ):
        saver.restore(tree(0))
    assert "leaf ['b'] does not match its sha256" in caplog.text


def test_a_save_that_cannot_be_read_back_is_an_error(tmp_path, monkeypatch):
    with Checkpointer(tmp_path / "checkpoints", fingerprint={}) as saver:
        saver.save(1, {"w": jnp.zeros(2)}, {})
        monkeypatch.setattr("debias_jax.training._files.seal", lambda body: json.dumps(body).encode())
        with pytest.raises(CheckpointError, match="step 2 could not be saved .*cannot be read back"):
            saver.save(2, {"w": jnp.ones(2)}, {})
        monkeypatch.undo()
        assert saver.restore({"w": jnp.zeros(2)}).step == 1
        saver.save(2, {"w": jnp.ones(2)}, {})
        assert saver.restore({"w": jnp.zeros(2)}).step == 2


def test_a_row_torn_at_any_byte_is_dropped_and_the_next_one_stands_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with JsonlWriter(path) as writer:
        for step in (1, 2, 3):
            writer.write(step, {"loss": step / 8, "split": "train"})
    whole = path.read_bytes()
    start = whole[:-1].rindex(b"\n") + 1
    for cut in range(start, len(whole) + 1):
        path.write_bytes(whole[:cut])
        with JsonlWriter(path) as writer:
            writer.write(4, {"loss": 0.5})
        # Without its newline the third row is still whole.
        kept = [1, 2, 3, 4] if cut >= len(whole) - 1 else [1, 2, 4]
        assert [row["step"] for row in read_jsonl(path)] == kept
    path.write_bytes(whole[:-4] + bytes(4))
    with JsonlWriter(path) as writer:
        assert writer.resume(1) == 1
    assert path.read_bytes() == whole[: whole.index(b"\n") + 1]
