"""Durable and atomic files: what stands under its final name is whole, also after a power loss."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator
from typing import Any

from debias_jax.errors import CheckpointError

logger = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
"""Prefix of everything that is not committed yet; readers skip it."""


def sha256(path: pathlib.Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: pathlib.Path) -> None:
    """Flushes a file or a folder's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary(target: pathlib.Path) -> pathlib.Path:
    # Not tempfile: its 0700 and 0600 modes would survive the rename and lock out the rest of a group.
    return target.with_name(f"{TEMPORARY}{target.name}-{os.getpid()}")


def write_atomic(path: pathlib.Path, data: bytes) -> None:
    """Replaces a file by rename, after its bytes reached the disk."""
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def discard(folder: pathlib.Path) -> None:
    """Removes a folder; a kill in the middle leaves nothing half-deleted under the old name."""
    doomed = folder.with_name(f"{TEMPORARY}old-{folder.name}-{os.getpid()}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def staged_folder(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to fill, which becomes ``target`` when the block ends and vanishes when it fails.

    An old ``target`` is replaced.
    """
    staging = _temporary(target)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        yield staging
        for path in [*staging.rglob("*"), staging]:
            sync(path)
        if target.exists():
            discard(target)
        os.rename(staging, target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    sync(target.parent)


def check_replaceable(target: pathlib.Path, manifest: str, what: str) -> None:
    """Raises unless there is nothing at ``target``, an empty folder, or one that holds the manifest of ``what``."""
    if target.exists() and not (target / manifest).is_file() and (target.is_file() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists and is not {what}; it is left alone, choose another folder")


def seal(body: dict[str, Any]) -> bytes:
    """JSON bytes that carry their own digest, so that a flipped bit in a manifest does not go unseen."""
    return json.dumps({"body": body, "sha256": _body_digest(body)}).encode()


def unseal(data: bytes) -> dict[str, Any]:
    """The body written by ``seal``.

    Raises:
        ValueError: the bytes are not what ``seal`` wrote.
    """
    try:
        outer = json.loads(data)
        body, digest = outer["body"], outer["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError("it is not a sealed manifest") from error
    if _body_digest(body) != digest:
        raise ValueError("its content does not match its own sha256")
    return body


def _body_digest(body: Any) -> str:
    # Of the text and not of the bytes on the disk: json reads back what it wrote, in the same order.
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def digests(folder: pathlib.Path) -> dict[str, str]:
    """sha256 of every file below a folder, by its path relative to the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def first_difference(folder: pathlib.Path, expected: dict[str, str]) -> str | None:
    """Says which of the expected files is missing or changed, or None if all are as they were written."""
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if sha256(path) != digest:
            return f"{name} does not match its sha256"
    return None


class FolderLock:
    """Exclusive use of a folder by one process, through ``flock`` on a file that names the holder.

    The kernel drops a ``flock`` when its process dies, so a lock of a dead process on this host is taken
    over. A holder on another host cannot be asked, and is believed until somebody deletes the file.

    Args:
        path: the lock file; created if missing and left behind empty.

    Raises:
        CheckpointError: another process holds the lock.
        OSError: the file cannot be written.
    """

    def __init__(self, path: pathlib.Path):
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._acquire(path)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _acquire(self, path: pathlib.Path) -> None:
        host = socket.gethostname()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
        try:
            holder = json.loads(os.pread(self._descriptor, 4096, 0))
            pid, where = holder["pid"], holder["host"]
        except (ValueError, KeyError, TypeError):
            pid, where = "unknown", host
            holder = None
        if alive:
            raise CheckpointError(
                f"{path.parent} is in use by pid {pid} on {where}; "
                "wait for that run, stop it, or use another workdir"
            )
        if where != host:
            raise CheckpointError(
                f"{path.parent} was locked by pid {pid} on {where}, and this is {host}; "
                f"if that run is dead, delete {path} and start again"
            )
        if holder is not None:
            logger.warning("taking over the lock of %s from pid %s, which died", path.parent, pid)
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps({"pid": os.getpid(), "host": host}).encode(), 0)

    def release(self) -> None:
        """Gives the folder back; calling it twice does no harm."""
        if self._descriptor >= 0:
            # The file stays: after an unlink a second process may hold the old file and a third a new one.
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1
