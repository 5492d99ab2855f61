"""A run that is killed, stopped or left alone by its reader ends in the very bits of a run that was not."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from debias_jax.training import _files

ROOT = pathlib.Path(__file__).parents[2]
EPOCHS, SEEDS = 40, 2
LAST_STEP = f"checkpoints/step_{EPOCHS:08d}"
# Biif carries the most state: two parameter groups, two optimisers, the best parameters so far. Every epoch is
# evaluated and saved, so that a kill seldom finds the run in plain arithmetic.
SETTINGS = {
    "data.options.n_users": 40,
    "data.options.n_items": 25,
    "model.dim": 4,
    "seeds": tuple(range(SEEDS)),
    "train.epochs": EPOCHS,
    "train.eval_every": 1,
    "train.patience": 0,
    "train.restore": "best",
    "train.batch_size": 64,
    "protocol.metrics": ("ndcg@5",),
}


class Launcher:
    """Starts the one command of this file in a workdir; what it says goes to files beside the workdir."""

    def __init__(self, folder, quick_flags):
        self.folder = folder
        # Of these tests alone: a kill may cut an entry that is being written.
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        # All runs compile alike, and lightly: the bits of one are compared with those of another.
        quick = {"XLA_FLAGS": quick_flags}
        # Buffered as for any user, so that the report leaves in one piece.
        self.environment = os.environ | cache | quick | {"JAX_PLATFORMS": "cpu", "PYTHONUNBUFFERED": ""}

    @contextlib.contextmanager
    def start(self, workdir, **options):
        """The running process, killed at the end of the block if it still runs."""
        overrides = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
        command = [sys.executable, "launch/train.py", "--config=configs/synthetic.py:biif", *overrides]
        with (
            open(self.folder / f"{workdir}.out", "ab") as out,
            open(self.folder / f"{workdir}.err", "wb") as err,
            subprocess.Popen(
                [*command, f"--workdir={self.folder / workdir}"],
                cwd=ROOT,
                env=self.environment,
                **{"stdout": out, "stderr": err, **options},
            ) as process,
        ):
            try:
                yield process
            finally:
                process.kill()

    def finish(self, workdir, **options) -> int:
        """Runs to the end; the exit code."""
        with self.start(workdir, **options) as process:
            return process.wait(timeout=120)

    def errors(self, workdir) -> str:
        """What the latest run in a workdir wrote to stderr."""
        return (self.folder / f"{workdir}.err").read_text()


@pytest.fixture(scope="module")
def launcher(tmp_path_factory, quick_flags):
    return Launcher(tmp_path_factory.mktemp("kill"), quick_flags)


@pytest.fixture(scope="module")
def uninterrupted(launcher):
    assert launcher.finish("uninterrupted") == 0, launcher.errors("uninterrupted")
    return launcher.folder / "uninterrupted"


def wait_until(process, condition, timeout=60.0) -> bool:
    """Whether the condition came true before the process ended."""
    deadline = time.monotonic() + timeout
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the run makes no progress"
        time.sleep(0.001)
    return True


def epochs_logged(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") // SEEDS if path.exists() else 0


def results(folder):
    content = json.loads((folder / "results.json").read_text())
    del content["seconds"]
    return content


def assert_same_bits(folder, expected):
    """Final parameters, optimiser state, bundle, metrics and logs: all equal, bit for bit."""
    manifests = (
        _files.unseal((run / LAST_STEP / "manifest.json").read_bytes()) for run in (folder, expected)
    )
    found, wanted = manifests
    assert found["leaves"] == wanted["leaves"]
    assert found["meta"]["history"] == wanted["meta"]["history"]
    assert len(found["meta"]["history"]) == EPOCHS
    arrays, others = (ocp.load(run / LAST_STEP / "arrays") for run in (folder, expected))
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        assert array.dtype == others[name].dtype
        assert array.tobytes() == others[name].tobytes(), name
    assert results(folder) == results(expected)
    assert (folder / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    assert (folder / "table.txt").read_bytes() == (expected / "table.txt").read_bytes()
    with np.load(folder / "per_user.npz") as users, np.load(expected / "per_user.npz") as others:
        assert sorted(users) == sorted(others)
        for name in users:
            assert users[name].tobytes() == others[name].tobytes(), name
    names = sorted(path.name for path in (expected / "bundle").iterdir())
    assert names == sorted(path.name for path in (folder / "bundle").iterdir())
    for name in names:
        assert (folder / "bundle" / name).read_bytes() == (expected / "bundle" / name).read_bytes(), name


def test_kills_at_any_moment_change_no_bit(launcher, uninterrupted):
    rng = np.random.default_rng(0)
    folder = launcher.folder / "killed"
    killed_at = []
    # Once before training, twice in it, and once in what follows it: test, bundle, plots.
    for moment in ("start", "training", "training", "end"):
        with launcher.start("killed") as process:
            if moment == "training":
                before = epochs_logged(folder)
                target = before + int(rng.integers(2, 9))
                assert wait_until(process, lambda target=target: epochs_logged(folder) >= target)
            elif moment == "end":
                assert wait_until(process, (folder / LAST_STEP).is_dir)
            time.sleep(rng.uniform(0.0, {"start": 2.0, "training": 0.03, "end": 1.0}[moment]))
            process.kill()
            assert process.wait(timeout=30) in (-signal.SIGKILL, 0)
            killed_at.append(epochs_logged(folder))
    assert all(0 < epochs < EPOCHS for epochs in killed_at[1:3]), killed_at
    assert launcher.finish("killed") == 0, launcher.errors("killed")
    assert_same_bits(folder, uninterrupted)


def test_a_second_run_is_refused_and_a_stopped_one_goes_on(launcher, uninterrupted):
    """One story: a rival, SIGTERM, and a resumed run whose reader leaves after one line (``| head -1``)."""
    folder = launcher.folder / "stopped"
    with launcher.start("stopped") as process:
        assert wait_until(process, lambda: epochs_logged(folder) >= 3)
        # Held in the middle, so that it cannot end before its rival has started.
        process.send_signal(signal.SIGSTOP)
        refusal = launcher.folder / "rival.err"
        with open(refusal, "wb") as err:
            assert launcher.finish("stopped", stderr=err) == 2
        (line,) = refusal.read_text().splitlines()
        assert f"checkpoints is in use by pid {process.pid}" in line and "another workdir" in line
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert "Traceback" not in launcher.errors("stopped")
    done = epochs_logged(folder)
    assert 3 <= done < EPOCHS and not (folder / "results.json").exists()
    assert (folder / f"checkpoints/step_{done:08d}").is_dir(), "what was trained is saved before it stops"

    with launcher.start("stopped", stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"synthetic: 40 users x 25 items")
        process.stdout.close()
        assert process.wait(timeout=120) == 128 + signal.SIGPIPE
    assert launcher.errors("stopped") == ""
    assert_same_bits(folder, uninterrupted)
