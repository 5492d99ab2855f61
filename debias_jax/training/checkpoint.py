"""Checkpoints that are checked before they are trusted.

Orbax writes the arrays. It restores a flipped bit without a word and reports steps that are not complete, so
around it stands a guard: a manifest with the sha256 of every file and every leaf, committed by the same
rename as the arrays, and a restore that walks back to the newest step that passes.
"""

import hashlib
import json
import logging
import operator
import os
import pathlib
import re
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax._checks import check_sizes
from debias_jax.errors import CheckpointError, ConfigError
from debias_jax.training import _files
from debias_jax.types import PyTree

logger = logging.getLogger(__name__)

_FORMAT = 1
_STEP_NAME = re.compile(r"step_(\d{8,})")
_MANIFEST = "manifest.json"
_ARRAYS = "arrays"
_PACK_BELOW = 1 << 20
_SHOWN = 10


class Restored(NamedTuple):
    """What ``Checkpointer.restore`` found.

    Attributes:
        step: the step that was saved.
        tree: the tree, in the structure of the template.
        meta: the dict given to ``save``, after a round trip through JSON.
    """

    step: int
    tree: PyTree
    meta: dict[str, Any]


class _Leaf(NamedTuple):
    """Place of one leaf: ``size`` entries from ``start`` of the stored 1-d array ``pack``."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str
    pack: str
    start: int


class _DamagedError(Exception):
    """A step whose bytes are not those that were saved."""


class Checkpointer:
    """Saves and restores the state of a run in one folder, which it locks until it is closed.

    ``save`` returns when the step is on the disk: Orbax writes into a temporary folder beside the committed
    steps, a manifest (sha256, shape and dtype of every leaf, sha256 of every file) joins it, all is flushed,
    and one rename commits both. Only then are older steps removed. A kill, a full disk or a power loss at any
    moment leaves the steps that were committed before.

    Arrays are gathered to the host, so a checkpoint does not depend on the number or kind of devices. For one
    process; typed PRNG keys are not stored, derive them from a seed and the step.

    Args:
        directory: the folder; created if missing, but its parent must exist.
        keep: committed steps that are kept, at least 1; from 2 on a damaged newest step costs one interval.
        fingerprint: what must not change between saving and restoring (the resolved configuration), JSON
            values.

    Raises:
        CheckpointError: another run holds the folder, or it cannot be created or written.
        ConfigError: ``keep`` is below 1 or ``fingerprint`` is not JSON.

    Example:
        >>> import tempfile
        >>> import jax.numpy as jnp
        >>> tree = {"weights": jnp.arange(3.0), "step": jnp.asarray(7, jnp.int32)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Checkpointer(f"{folder}/checkpoints", fingerprint={"lr": 0.1}) as checkpointer:
        ...         checkpointer.save(7, tree, {"epoch": 2})
        ...         step, restored, meta = checkpointer.restore(tree)
        >>> step, restored["weights"], meta
        (7, Array([0., 1., 2.], dtype=float32), {'epoch': 2})
    """

    def __init__(self, directory: str | os.PathLike, *, keep: int = 2, fingerprint: dict[str, Any]):
        check_sizes(keep=keep)
        try:
            self._fingerprint = json.loads(json.dumps(fingerprint))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"the fingerprint must hold JSON values only: {error}") from error
        self.directory = pathlib.Path(directory).resolve()
        self._keep = keep
        self._rejected: set[int] = set()
        if not self.directory.parent.is_dir():
            raise CheckpointError(
                f"cannot keep checkpoints in {self.directory}: {self.directory.parent} is not a folder"
            )
        try:
            self.directory.mkdir(exist_ok=True)
            self._lock = _files.FolderLock(self.directory / "lock")
        except OSError as error:
            raise CheckpointError(f"cannot write to {self.directory}: {error.strerror}") from error
        for leftover in self.directory.glob(_files.TEMPORARY + "*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Unlocks the folder. Nothing is pending: ``save`` is synchronous."""
        self._lock.release()

    @property
    def steps(self) -> list[int]:
        """The committed steps, ascending; ``restore`` may still find one of them damaged."""
        names = (_STEP_NAME.fullmatch(entry.name) for entry in self.directory.iterdir())
        return sorted(int(name[1]) for name in names if name)

    def save(self, step: int, tree: PyTree, meta: dict[str, Any]) -> None:
        """Commits a step to the disk, then removes the steps that are no longer kept.

        Saving the newest step again with the same arrays does nothing.

        Args:
            step: larger than every step saved before.
            tree: nested containers of jax or numpy arrays.
            meta: JSON values to keep beside them.

        Raises:
            CheckpointError: the step is not newer than what is there, or it could not be written (disk full);
                the older steps are then untouched.
            TypeError: a leaf is not an array, or is a typed PRNG key.
        """
        step = operator.index(step)
        arrays = _host_arrays(tree)
        packs, leaves = _pack(arrays)
        newest = max(set(self.steps) - self._rejected, default=None)
        if newest is not None and step <= newest:
            if step == newest and self._holds(step, leaves):
                return
            raise CheckpointError(
                f"{self.directory} already holds step {newest}, so step {step} cannot be saved; "
                "restore first, or use another workdir"
            )
        try:
            self._commit(step, packs, leaves, meta)
        # Orbax passes on whatever its storage layer throws, and OSError is only one of those.
        except Exception as error:
            older = ", ".join(map(str, self.steps)) or "none"
            raise CheckpointError(
                f"step {step} could not be saved to {self.directory} ({_one_line(error)}); "
                f"steps that are kept: {older}"
            ) from error
        rejected = self._rejected - {step}
        intact = [s for s in self.steps if s not in rejected]
        for old in {*intact[: -self._keep], *rejected}:
            _files.discard(self._folder(old))
        self._rejected = set()

    def restore(self, template: PyTree) -> Restored | None:
        """The newest step that passes every check, or None if nothing was ever saved.

        A damaged step is skipped with a warning that says why, and removed after the next save.

        Args:
            template: a tree of the structure, shapes and dtypes that are expected; only those are read. Where
                a leaf is a numpy array, numpy comes back, else a jax array (with the sharding of a committed
                leaf).

        Returns:
            A ``Restored``; its arrays are bit-identical to those that were saved.

        Raises:
            CheckpointError: the newest intact step was saved by another configuration or has other leaves
                (the message lists them), or every step is damaged.
        """
        steps = self.steps
        reasons = {}
        for step in reversed(steps):
            try:
                manifest = self._manifest(step)
                self._check_compatible(step, manifest, template)
                arrays = self._arrays(step, manifest)
            except _DamagedError as damage:
                reasons[step] = str(damage)
                self._rejected.add(step)
                logger.warning("REJECTED checkpoint step %d in %s: %s", step, self.directory, damage)
                continue
            if reasons:
                logger.warning("resuming from the older step %d in %s", step, self.directory)
            return Restored(step, _like(template, arrays), manifest["meta"])
        if reasons:
            raise CheckpointError(
                f"every checkpoint in {self.directory} is damaged ("
                + "; ".join(f"step {step}: {reason}" for step, reason in reasons.items())
                + "); delete the folder to start from the beginning"
            )
        return None

    def _folder(self, step: int) -> pathlib.Path:
        return self.directory / f"step_{step:08d}"

    def _commit(self, step: int, packs: dict[str, np.ndarray], leaves: dict[str, _Leaf], meta: dict) -> None:
        from orbax.checkpoint import v1 as ocp  # on use: it takes half a second to import

        with _files.staged_folder(self._folder(step)) as staging:
            if packs:
                ocp.save(staging / _ARRAYS, packs)
            manifest = {
                "format": _FORMAT,
                "step": step,
                "fingerprint": self._fingerprint,
                "meta": meta,
                "leaves": {path: leaf._asdict() for path, leaf in leaves.items()},
                "files": _files.digests(staging),
            }
            (staging / _MANIFEST).write_bytes(_files.seal(manifest))
        try:
            self._manifest(step)
        except _DamagedError as damage:
            _files.discard(self._folder(step))
            raise CheckpointError(f"what was written cannot be read back: {damage}") from damage

    def _holds(self, step: int, leaves: dict[str, _Leaf]) -> bool:
        try:
            saved = self._manifest(step)
        except _DamagedError:
            return False
        return saved["fingerprint"] == self._fingerprint and _leaves(saved) == leaves

    def _manifest(self, step: int) -> dict[str, Any]:
        try:
            manifest = _files.unseal((self._folder(step) / _MANIFEST).read_bytes())
        except OSError as error:
            raise _DamagedError(f"{_MANIFEST} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise _DamagedError(f"{_MANIFEST} is damaged: {error}") from error
        if manifest["format"] != _FORMAT:
            raise CheckpointError(
                f"step {step} in {self.directory} has format {manifest['format']}, "
                f"and this version reads {_FORMAT}; resume it with the version that wrote it"
            )
        if manifest["step"] != step:
            raise _DamagedError(f"{_MANIFEST} is that of step {manifest['step']}")
        return manifest

    def _check_compatible(self, step: int, manifest: dict[str, Any], template: PyTree) -> None:
        differences = fingerprint_differences(manifest["fingerprint"], self._fingerprint)
        if not differences:
            stored = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _leaves(manifest).items()}
            wanted = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _flat_arrays(template)}
            differences = _differences(stored, wanted)
        if differences:
            raise CheckpointError(
                f"step {step} in {self.directory} belongs to another configuration: "
                f"{'; '.join(differences)}. Use another workdir, or change these back"
            )

    def _arrays(self, step: int, manifest: dict[str, Any]) -> dict[str, np.ndarray]:
        from orbax.checkpoint import v1 as ocp

        folder = self._folder(step)
        # Before Orbax reads them: a decoder should never see bytes that nobody wrote.
        difference = _files.first_difference(folder, manifest["files"])
        if difference:
            raise _DamagedError(difference)
        leaves = _leaves(manifest)
        try:
            packs = ocp.load(folder / _ARRAYS) if (folder / _ARRAYS).exists() else {}
        except Exception as error:
            raise _DamagedError(f"Orbax cannot read it ({_one_line(error)})") from error
        arrays = {path: _unpack(packs, leaf) for path, leaf in leaves.items()}
        for path, array in arrays.items():
            if _digest(array) != leaves[path].sha256:
                raise _DamagedError(f"leaf {path} does not match its sha256")
        return arrays


def _flat_arrays(tree: PyTree) -> list[tuple[str, Any]]:
    """``(path, leaf)`` of every leaf, after checking that each is an array that can be stored."""
    flat = []
    for key_path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        path = jax.tree_util.keystr(key_path)
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct):
            raise TypeError(f"leaf {path} is of type {type(leaf).__name__}; wrap it in jnp.asarray")
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"leaf {path} is a typed PRNG key; derive keys from a seed and the step instead")
        flat.append((path, leaf))
    return flat


def _host_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    flat = _flat_arrays(tree)
    for path, leaf in flat:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            raise TypeError(f"leaf {path} is a ShapeDtypeStruct, which has no values to save")
    values = jax.device_get([leaf for _, leaf in flat])
    return {path: np.asarray(value) for (path, _), value in zip(flat, values, strict=True)}


def _pack(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, _Leaf]]:
    """Joins small leaves of one dtype: Orbax takes a millisecond an array, and refuses those of size 0."""
    parts: dict[str, list[np.ndarray]] = {}
    ends: dict[str, int] = {}
    leaves = {}
    for number, (path, array) in enumerate(arrays.items()):
        dtype = str(array.dtype)
        pack = dtype if array.nbytes < _PACK_BELOW else f"leaf_{number:05d}"
        start = ends.get(pack, 0)
        parts.setdefault(pack, []).append(array.ravel())
        ends[pack] = start + array.size
        leaves[path] = _Leaf(array.shape, dtype, _digest(array), pack, start)
    packs = {
        pack: np.concatenate(parts[pack]) if len(parts[pack]) > 1 else parts[pack][0]
        for pack in parts
        if ends[pack]
    }
    return packs, leaves


def _unpack(packs: dict[str, np.ndarray], leaf: _Leaf) -> np.ndarray:
    size = int(np.prod(leaf.shape, dtype=np.int64))
    if size == 0:
        return np.zeros(leaf.shape, jnp.dtype(leaf.dtype))
    return np.asarray(packs[leaf.pack])[leaf.start : leaf.start + size].reshape(leaf.shape)


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _leaves(manifest: dict[str, Any]) -> dict[str, _Leaf]:
    entries = manifest["leaves"].items()
    return {path: _Leaf(**(entry | {"shape": tuple(entry["shape"])})) for path, entry in entries}


def _like(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    """The arrays in the structure of the template, each copied to where the template's leaf lives."""

    def place(leaf, value: np.ndarray):
        if isinstance(leaf, np.ndarray | np.generic):
            return value.copy()
        if isinstance(leaf, jax.Array) and leaf.committed:
            return jax.device_put(value, leaf.sharding)
        return jnp.array(value)

    placed = [place(leaf, arrays[path]) for path, leaf in _flat_arrays(template)]
    return jax.tree.unflatten(jax.tree.structure(template), placed)


def fingerprint_differences(saved: dict[str, Any], own: dict[str, Any]) -> list[str]:
    """A line for each dotted name whose JSON values differ between two fingerprints."""
    return _differences(_flat(saved), _flat(own))


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    """Dotted names and JSON text of every value of a nested dict."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: json.dumps(tree)}
    names = {}
    for key, value in tree.items():
        names |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return names


def _differences(saved: dict[str, str], own: dict[str, str]) -> list[str]:
    names = [name for name in saved | own if saved.get(name) != own.get(name)]
    lines = [
        f"{name} is {saved.get(name, 'absent')} there and {own.get(name, 'absent')} here" for name in names
    ]
    return lines if len(lines) <= _SHOWN else [*lines[:_SHOWN], f"and {len(lines) - _SHOWN} more"]


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
