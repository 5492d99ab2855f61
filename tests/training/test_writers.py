import io
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax.errors import DataError, MissingExtraError
from debias_jax.training import writers


def test_jsonable_converts_arrays_and_numbers_and_nothing_else():
    value = {
        "a": np.float32(0.5),
        "b": jnp.asarray(3, jnp.int32),
        "c": (True, None, "x", np.bool_(False)),
        "d": np.array([[1.0, np.inf], [-np.inf, np.nan]]),
        "e": float("nan"),
    }
    expected = {
        "a": 0.5,
        "b": 3,
        "c": [True, None, "x", False],
        "d": [[1.0, None], [None, None]],
        "e": None,
    }
    assert writers.jsonable(value) == expected
    with pytest.raises(TypeError, match="set cannot be written as JSON"):
        writers.jsonable({"a": {1}})
    with pytest.raises(TypeError, match="keys must be strings, got 3"):
        writers.jsonable({3: 1})


def test_write_json_is_sorted_and_replaces_in_one_go(tmp_path):
    path = tmp_path / "results.json"
    writers.write_json(path, {"b": 1, "a": [np.nan]})
    assert path.read_text() == '{\n  "a": [\n    null\n  ],\n  "b": 1\n}\n'
    with pytest.raises(TypeError):
        writers.write_json(path, {"b": object()})
    assert json.loads(path.read_text())["b"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_write_json_keeps_the_old_file_when_the_rename_fails(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    writers.write_json(path, {"a": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        writers.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]


def test_rows_can_be_read_before_the_writer_is_closed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with writers.JsonlWriter(path) as writer:
        writer.write(1, {"split": "train", "loss": np.float32(0.25), "ok": True})
        writer.write(2, {"loss": jnp.asarray(jnp.inf)})
        writer.sync()
        assert writers.read_jsonl(path) == [
            {"step": 1, "split": "train", "loss": 0.25, "ok": True},
            {"step": 2, "loss": None},
        ]
    assert path.read_bytes().count(b"\n") == 2


def test_opening_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        with writers.JsonlWriter(path) as writer:
            writer.write(step, {})
    assert [row["step"] for row in writers.read_jsonl(path)] == [1, 2]


def test_resume_drops_what_the_checkpoint_does_not_stand_for(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with writers.JsonlWriter(path) as writer:
        for step in (1, 1, 2, 3, 3):
            writer.write(step, {})
        assert writer.resume(2) == 2
        writer.write(3, {"again": True})
    assert writers.read_jsonl(path) == [{"step": 1}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    with writers.JsonlWriter(path) as writer:
        assert writer.resume(0) == 4
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": [1]}, "a must be a scalar"),
        ({"a": np.zeros(2)}, "a must be a scalar"),
        ({"step": 3}, "row must not have the key 'step'"),
        ({"a": object()}, "object cannot be written as JSON"),
    ],
)
def test_rows_hold_scalars_only(tmp_path, row, message):
    with writers.JsonlWriter(tmp_path / "metrics.jsonl") as writer:
        with pytest.raises(TypeError, match=message):
            writer.write(1, row)
        assert writers.read_jsonl(writer.path) == []


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": \n{"step": 3}\n')
    with pytest.raises(DataError, match=r"metrics.jsonl, line 2 is not a metric row"):
        writers.JsonlWriter(path)
    assert path.read_text().count("\n") == 3


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboardX")
    with writers.TensorboardWriter(tmp_path / "board", resume_step=3) as board:
        board.write(4, {"loss": np.float32(0.5), "split": "train", "ok": True, "none": None})
    data = next((tmp_path / "board").iterdir()).read_bytes()
    assert b"loss" in data
    for absent in (b"split", b"ok", b"none"):
        assert absent not in data


def test_tensorboard_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'debias_jax\[log\]'"):
        writers.TensorboardWriter(tmp_path)


class Terminal(io.StringIO):
    """A stderr that says it is a terminal, and breaks after some writes."""

    def __init__(self, breaks_after=None, error=None):
        super().__init__()
        self.left = breaks_after
        self.error = error

    def isatty(self):
        return True

    def write(self, text):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise self.error
        return super().write(text)


def drive(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    with writers.ProgressBar(3, "train") as bar:
        for loss in (0.5, 0.25, 0.125):
            bar.update(1, loss=loss)


def test_the_bar_shows_on_a_terminal_only(monkeypatch):
    terminal, pipe = Terminal(), io.StringIO()
    drive(monkeypatch, terminal)
    assert "train" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
    assert "loss=0.125" in terminal.getvalue()
    drive(monkeypatch, pipe)
    assert pipe.getvalue() == ""
    drive(monkeypatch, None)


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("breaks_after", [0, 1, 3])
def test_a_reader_that_leaves_does_not_end_the_run(monkeypatch, error, breaks_after):
    drive(monkeypatch, Terminal(breaks_after, error))


def test_environment_is_json_without_paths(tmp_path):
    found = writers.environment()
    writers.write_json(tmp_path / "environment.json", found)
    text = (tmp_path / "environment.json").read_text()
    assert json.loads(text) == found
    assert set(found["versions"]) >= {"jax", "jaxlib", "numpy", "optax", "flax", "orbax-checkpoint"}
    assert all(found["versions"][name] for name in ("jax", "numpy", "orbax-checkpoint"))
    assert "/" not in text
    assert found["commit"] is None or len(found["commit"].removesuffix("+changes")) == 40
