"""What a run leaves for people to read: metric rows, JSON files, a progress bar, the environment."""

import importlib.metadata
import json
import math
import numbers
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax
import numpy as np

import debias_jax
from debias_jax.errors import DataError, require_extra
from debias_jax.training import _files

_PACKAGES = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "optax",
    "flax",
    "chex",
    "orbax-checkpoint",
    "tensorstore",
    "safetensors",
    "ml_collections",
    "optuna",
    "polars",
)


def jsonable(value: Any) -> Any:
    """A copy that ``json`` writes as standard JSON.

    Arrays become nested lists, numpy and jax scalars become Python ones, and floats that are not finite
    become None: JSON has no word for them, and readers of tables take null for a missing value.

    Args:
        value: nested dicts (string keys), lists and tuples of scalars, strings, None and arrays.

    Raises:
        TypeError: something else is in it, or a key is not a string.

    Example:
        >>> jsonable({"auc": np.float32(0.5), "values": np.array([1.0, np.nan])})
        {'auc': 0.5, 'values': [1.0, None]}
    """
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        value = np.asarray(value).tolist()
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"keys must be strings, got {key!r}")
        return {key: jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file, indented and with sorted keys, by rename: readers see the old file or the new one.

    Args:
        path: the file; its folder must exist.
        value: see ``jsonable``.

    Raises:
        TypeError: the value cannot be written as JSON.
        OSError: the disk is full or the folder cannot be written; an old file stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(f"{folder}/results.json", {"auc": {"mean": 0.7, "n": 5}})
        ...     print(pathlib.Path(f"{folder}/results.json").read_text())
        {
          "auc": {
            "mean": 0.7,
            "n": 5
          }
        }
        <BLANKLINE>
    """
    text = json.dumps(jsonable(value), indent=2, sort_keys=True, allow_nan=False)
    _files.write_atomic(pathlib.Path(path), (text + "\n").encode())


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
    r"""The rows of a file that ``JsonlWriter`` wrote; a torn last line is left out.

    Args:
        path: the file; one that does not exist has no rows.

    Returns:
        One dict a row, with its ``step``.

    Raises:
        DataError: a line other than the last is not a JSON object.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> _ = file.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
        >>> read_jsonl(file)
        [{'step': 1, 'loss': 0.5}]
    """
    path = pathlib.Path(path)
    lines = path.read_bytes().splitlines() if path.exists() else []
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                raise ValueError("not an object with an integer step")
        except ValueError as error:
            # A cut JSON object never parses, so a last line that does not parse was cut by a crash.
            if number == len(lines):
                break
            raise DataError(
                f"{path}, line {number} is not a metric row ({error}); delete the line, or the file"
            ) from error
        rows.append(row)
    return rows


class JsonlWriter:
    """Appends metric rows to a file, one JSON object a line; a kill loses at most the row being written.

    Opening repairs a torn last line, so that the next row does not grow onto it.

    Args:
        path: the file; created if missing.

    Raises:
        DataError: the file holds something other than metric rows.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with JsonlWriter(f"{folder}/metrics.jsonl") as writer:
        ...         for step in (10, 20, 30):
        ...             writer.write(step, {"split": "validation", "auc": step / 100})
        ...         dropped = writer.resume(20)
        ...     rows = read_jsonl(f"{folder}/metrics.jsonl")
        >>> dropped, rows[-1]
        (1, {'step': 20, 'split': 'validation', 'auc': 0.2})
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self._keep(read_jsonl(self.path))

    def __enter__(self) -> "JsonlWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _keep(self, rows: list[dict[str, Any]]) -> None:
        data = b"".join(_line(row) for row in rows)
        if not self.path.exists() or self.path.read_bytes() != data:
            _files.write_atomic(self.path, data)
        self._file = open(self.path, "ab")  # noqa: SIM115 - it lives as long as the writer

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Appends one row and hands it to the operating system.

        Args:
            step: the step that the row belongs to.
            row: names and JSON scalars; floats that are not finite are written as null.

        Raises:
            TypeError: a value is not a scalar, or ``row`` has a key ``step``.
        """
        if "step" in row:
            raise TypeError("row must not have the key 'step': it is an argument of its own")
        for name, value in row.items():
            if isinstance(jsonable(value), list | dict):
                raise TypeError(f"{name} must be a scalar, got {value!r}")
        self._file.write(_line({"step": int(step), **row}))
        self._file.flush()

    def resume(self, step: int) -> int:
        """Drops the rows after ``step``, which the resumed run will write again.

        Returns:
            The number of rows dropped.
        """
        self._file.close()
        rows = read_jsonl(self.path)
        kept = [row for row in rows if row["step"] <= step]
        self._keep(kept)
        return len(rows) - len(kept)

    def sync(self) -> None:
        """Flushes the rows to the disk; call it before the checkpoint that will stand for them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file; calling it twice does no harm."""
        self._file.close()


def _line(row: dict[str, Any]) -> bytes:
    return (json.dumps(jsonable(row), allow_nan=False) + "\n").encode()


class TensorboardWriter:
    """Writes the numbers of metric rows as TensorBoard scalars; needs the extra ``log``.

    Args:
        path: the log folder.
        resume_step: TensorBoard hides what an interrupted run wrote after this step; None for a new run.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    def __init__(self, path: str | os.PathLike, *, resume_step: int | None = None):
        module = require_extra("tensorboardX", "log")
        purge_step = None if resume_step is None else resume_step + 1
        self._writer = module.SummaryWriter(str(path), purge_step=purge_step)

    def __enter__(self) -> "TensorboardWriter":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Writes every number of a row; strings, booleans and None have no curve and are left out."""
        for name, value in row.items():
            if isinstance(value, jax.Array | np.ndarray | np.generic):
                value = np.asarray(value).item()
            if isinstance(value, numbers.Real) and not isinstance(value, bool):
                self._writer.add_scalar(name, float(value), int(step))

    def close(self) -> None:
        """Flushes and closes the log."""
        self._writer.close()


class ProgressBar:
    """A progress bar on stderr, which is silent where stderr is not a terminal and never ends a run.

    Args:
        total: the number of units.
        desc: the text before the bar.
        initial: units that an earlier run already did.

    Example:
        >>> with ProgressBar(100, "train") as bar:
        ...     bar.update(10, loss=0.5)
    """

    def __init__(self, total: int, desc: str = "", *, initial: int = 0):
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            desc=desc,
            initial=initial,
            file=sys.stderr,
            disable=not (sys.stderr and sys.stderr.isatty()),
            dynamic_ncols=True,
            # A delay keeps the constructor from drawing, so that every write happens under the guard.
            delay=1e-6,
        )
        self._bar.delay = 0
        self._guard(self._bar.refresh)

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def update(self, n: int = 1, **postfix: Any) -> None:
        """Advances the bar by ``n`` units and shows the latest values behind it."""
        self._guard(self._update, n, postfix)

    def _update(self, n: int, postfix: dict[str, Any]) -> None:
        if postfix:
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(n)

    def close(self) -> None:
        """Leaves the finished bar on the screen."""
        self._guard(self._bar.close)

    def _guard(self, call, *args) -> None:
        if self._bar.disable:
            return
        try:
            call(*args)
        except (OSError, ValueError):
            # A reader that left (BrokenPipeError) or a closed stream (ValueError) is no reason to lose the
            # run.
            self._bar.disable = True


def environment() -> dict[str, Any]:
    """Versions, platform, devices and commit, for ``environment.json`` beside the results.

    Holds no path, host or user name.

    Returns:
        A dict that ``write_json`` takes. ``commit`` is None where the package is not run from its repository,
        and ends in ``+changes`` where tracked files differ from it.

    Example:
        >>> sorted(environment())[:4]
        ['backend', 'commit', 'cpu_count', 'debias_jax']
    """
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "debias_jax": debias_jax.__version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "versions": versions,
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in jax.devices()],
        "jax_config": {
            name: getattr(jax.config, name)
            for name in ("jax_enable_x64", "jax_threefry_partitionable", "jax_default_matmul_precision")
        },
    }


def _commit() -> str | None:
    root = pathlib.Path(debias_jax.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()

    try:
        changes = "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return None
