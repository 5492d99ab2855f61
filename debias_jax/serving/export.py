"""Vectors of a model with towers for nearest-neighbour search elsewhere: files, a faiss index, and exact search.

The score of a pair is the inner product of the user's and the item's vector; biases and temperature are in them. So an
index of inner products answers as the model does, exactly or with the recall that ``export`` measures.
"""

import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors

from debias_jax._checks import check_sizes
from debias_jax.errors import CheckpointError, ConfigError, DataError, DivergedError, require_extra
from debias_jax.serving.bundle import Bundle
from debias_jax.serving.recommend import Recommendation, encode_users
from debias_jax.training import _files
from debias_jax.types import Array, Params

FORMATS = ("safetensors", "npz")
INDEXES = ("none", "flat", "hnsw", "ivf")

Tower = Callable[[Params, Array], Array]
"""``(params, ids) -> vectors [n, dim]``, see ``models.Model``."""

_KIND = "debias_jax.export"
_MANIFEST, _IDS, _INDEX = "export.json", "ids.json", "index.faiss"


class ExportReport(NamedTuple):
    """What was exported.

    Attributes:
        n_items: number of vectors.
        dim: their length.
        index: kind of the index, ``"none"`` if there is none.
        recall: share of the exact top k that the index finds, a mean over the users asked; None without an index.
        k: that k.
        n_users: users asked.
    """

    n_items: int
    dim: int
    index: str
    recall: float | None
    k: int
    n_users: int


class VectorIndex(NamedTuple):
    """An export, loaded.

    Attributes:
        vectors: float32 ``[n_items, dim]``.
        ids: raw item ids in the order of the vectors.
        weights: digest of the parameters that they were made of.
        search: ``(queries [n, dim], k) -> (scores, positions) [n, k]``, best first: by the index, exactly where there
            is none.
    """

    vectors: np.ndarray
    ids: tuple[str, ...]
    weights: str
    search: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


def tower_vectors(tower: Tower, params: Params, n: int, *, chunk: int = 65_536) -> np.ndarray:
    """Vectors of the ids 0 .. n - 1, ``chunk`` at a time.

    Args:
        tower: ``Model.user_tower`` or ``Model.item_tower``.
        params: the model's parameters.
        n: number of ids.
        chunk: ids evaluated together.

    Returns:
        float32 ``[n, dim]``.

    Raises:
        ConfigError: ``chunk`` is below 1.
        DivergedError: a vector is not finite.

    Example:
        >>> import jax
        >>> from debias_jax import models
        >>> model = models.mf(3, 5, dim=2)
        >>> tower_vectors(model.item_tower, model.init(jax.random.key(0)), 5, chunk=2).shape
        (5, 2)
    """
    check_sizes(chunk=chunk)
    evaluate = jax.jit(tower)
    parts = []
    for start in range(0, n, chunk):
        # The last chunk is filled up, for another shape would be compiled again.
        ids = np.minimum(np.arange(start, start + min(chunk, n)), n - 1).astype(np.int32)
        parts.append(np.asarray(evaluate(params, jnp.asarray(ids)), np.float32)[: n - start])
    vectors = np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)
    return _finite(vectors, lambda row: f"id {row}")


def _finite(vectors: np.ndarray, name: Callable[[int], str]) -> np.ndarray:
    """The vectors, unless one is not finite, of which the message gives the ``name``."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise DivergedError(
            f"the vector of {name(int(bad[0]))} is not finite; the model diverged, train it again"
        )
    return vectors


def top_k(
    queries: np.ndarray, vectors: np.ndarray, *, k: int, chunk: int = 65_536
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest inner products of each query, exactly; memory is that of n x ``chunk`` scores.

    Args:
        queries: float ``[n, dim]``.
        vectors: float ``[n_items, dim]``.
        k: in ``[1, n_items]``.
        chunk: vectors scored together.

    Returns:
        Scores float32 and positions int32, ``[n, k]`` each, best first; equal scores in the order of the vectors.

    Raises:
        ConfigError: ``chunk`` or ``k`` is below 1.
        DataError: ``k`` is larger than the number of vectors.

    Example:
        >>> import numpy as np
        >>> values, positions = top_k(np.ones((1, 2)), np.array([[1.0, 0], [2, 2], [0, 3]]), k=2, chunk=2)
        >>> values.tolist(), positions.tolist()
        ([[4.0, 3.0]], [[1, 2]])
    """
    n_items = len(vectors)
    check_sizes(k=k, chunk=chunk)
    if k > n_items:
        raise DataError(f"k = {k} items were asked for, and there are only {n_items} vectors")
    queries = jnp.asarray(queries, jnp.float32)
    width = min(chunk, n_items)
    best = (jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), n_items, jnp.int32))
    for start in range(0, n_items, width):
        part = np.zeros((width, vectors.shape[1]), np.float32)
        part[: n_items - start] = vectors[start : start + width]
        best = _merge(best, queries, jnp.asarray(part), start, n_items)
    return np.asarray(best[0]), np.asarray(best[1])


@functools.partial(jax.jit, donate_argnums=0)
def _merge(best: tuple[Array, Array], queries: Array, part: Array, start: Array, n_items: Array):
    """The best of the best so far and of the vectors of one part, which begins at ``start``."""
    values, positions = best
    at = start + jnp.arange(part.shape[0], dtype=jnp.int32)
    # Accelerators multiply in fewer bits unless told otherwise.
    scores = jnp.matmul(queries, part.T, precision=jax.lax.Precision.HIGHEST)
    # top_k takes the lower position of equal values, but orders -0.0 behind 0.0.
    scores = jnp.where((at < n_items)[None, :], jnp.where(scores == 0, 0.0, scores), -jnp.inf)
    values = jnp.concatenate([values, scores], axis=1)
    positions = jnp.concatenate([positions, jnp.broadcast_to(at, scores.shape)], axis=1)
    values, chosen = jax.lax.top_k(values, best[0].shape[1])
    return values, jnp.take_along_axis(positions, chosen, axis=1)


def recall(found: np.ndarray, exact: np.ndarray) -> float:
    """Share of the exact neighbours that were found, a mean over rows.

    Args:
        found: int ``[n, k]``; -1 for nothing.
        exact: int ``[n, k]``.

    Returns:
        The share, in [0, 1].

    Example:
        >>> import numpy as np
        >>> recall(np.array([[1, 2], [3, -1]]), np.array([[2, 1], [4, 3]]))
        0.75
    """
    return float(np.mean([np.isin(right, left).mean() for left, right in zip(found, exact, strict=True)]))


def export(
    folder: str | os.PathLike,
    bundle: Bundle,
    *,
    user_tower: Tower,
    item_tower: Tower,
    format: str = "safetensors",
    index: str = "flat",
    k: int = 100,
    n_queries: int = 1000,
) -> ExportReport:
    """Writes the item vectors of a bundle, their raw ids and, if wanted, a faiss index of inner products.

    The folder appears whole: ``vectors.safetensors`` (or ``vectors.npz``) with the array ``vectors``, ``ids.json`` with
    the raw id of each row, ``index.faiss`` and ``export.json``, which lists the sha256 of the others.

    Args:
        folder: the target; its parent must exist. An older export there is replaced.
        bundle: a loaded bundle.
        user_tower: ``Model.user_tower`` of its model.
        item_tower: ``Model.item_tower``.
        format: ``"safetensors"`` or ``"npz"``.
        index: ``"flat"`` (exact), ``"hnsw"`` (a graph of 32 neighbours an item), ``"ivf"`` (about the root of n_items
            cells, of which a sixteenth is searched), or ``"none"``; all but the last need the extra ``serve``.
        k: of the recall, which is measured against ``top_k``; at most the number of items.
        n_queries: users that are asked for it, spread evenly over the vocabulary.

    Returns:
        What was written, and the recall of the index.

    Raises:
        ConfigError: an option is unknown.
        CheckpointError: the folder exists and is not an export, or it cannot be written.
        DivergedError: a vector is not finite.
        MissingExtraError: an index is wanted, and faiss is not installed.

    Example:
        >>> import tempfile
        >>> from debias_jax import models
        >>> from debias_jax.data.vocab import Vocabulary
        >>> model = models.mf(2, 3, dim=4)
        >>> users, items = Vocabulary(["ann", "bob"], kind="user"), Vocabulary(["x", "y", "z"], kind="item")
        >>> bundle = Bundle(model.init(jax.random.key(0)), users, items, config={})
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     towers = {"user_tower": model.user_tower, "item_tower": model.item_tower}
        ...     report = export(f"{parent}/items", bundle, **towers, index="none")
        ...     loaded = load_index(f"{parent}/items")
        >>> report.n_items, report.dim, loaded.ids
        (3, 4, ('x', 'y', 'z'))
    """
    for name, value, allowed in (("format", format, FORMATS), ("index", index, INDEXES)):
        if value not in allowed:
            raise ConfigError(f"unknown {name} {value!r}; there are {', '.join(allowed)}")
    target = pathlib.Path(folder).resolve()
    _files.check_replaceable(target, _MANIFEST, "an export")
    faiss = None if index == "none" else require_extra("faiss", "serve")
    n_items = len(bundle.items)
    vectors = tower_vectors(item_tower, bundle.params, n_items)
    built = None if faiss is None else _build_index(faiss, vectors, index)
    report = ExportReport(n_items, vectors.shape[1], index, None, min(k, n_items), 0)
    if built is not None:
        asked = np.unique(
            np.linspace(0, len(bundle.users) - 1, min(n_queries, len(bundle.users))).astype(int)
        )
        queries = _queries(user_tower, bundle, asked)
        _, exact = top_k(queries, vectors, k=report.k)
        _, found = built.search(queries, report.k)
        report = report._replace(recall=recall(found, exact), n_users=len(asked))
    _write(target, vectors, bundle, format, faiss, built, report)
    return report


def _queries(user_tower: Tower, bundle: Bundle, codes: np.ndarray) -> np.ndarray:
    vectors = np.asarray(user_tower(bundle.params, jnp.asarray(codes, jnp.int32)), np.float32)
    return _finite(vectors, lambda row: f"user {bundle.users.ids[int(codes[row])]!r}")


def _digest(params: Params) -> str:
    """What tells the weights of one run from those of another."""
    digest = hashlib.sha256()
    for path, leaf in sorted(
        (jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree.leaves_with_path(params)
    ):
        digest.update(path.encode() + np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _build_index(faiss: Any, vectors: np.ndarray, kind: str) -> Any:
    dim = vectors.shape[1]
    if kind == "flat":
        built = faiss.IndexFlatIP(dim)
    elif kind == "hnsw":
        built = faiss.IndexHNSWFlat(dim, 32, faiss.METRIC_INNER_PRODUCT)
    else:
        n_cells = max(1, int(len(vectors) ** 0.5))
        built = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, n_cells, faiss.METRIC_INNER_PRODUCT)
        built.train(vectors)
        built.nprobe = max(1, n_cells // 16)
    built.add(vectors)
    return built


def _write(target: pathlib.Path, vectors, bundle, format, faiss, built, report: ExportReport) -> None:
    try:
        with _files.staged_folder(target) as staging:
            if format == "npz":
                np.savez(staging / "vectors.npz", vectors=vectors)
            else:
                (staging / "vectors.safetensors").write_bytes(safetensors.save({"vectors": vectors}))
            (staging / _IDS).write_text(
                json.dumps(list(bundle.items.ids), ensure_ascii=False), encoding="utf-8"
            )
            if built is not None:
                faiss.write_index(built, str(staging / _INDEX))
            own = {"kind": _KIND, "weights": _digest(bundle.params)}
            manifest = {**own, **report._asdict(), "files": _files.digests(staging)}
            (staging / _MANIFEST).write_bytes(_files.seal(manifest))
    except OSError as error:
        raise CheckpointError(f"cannot write the export {target}: {error.strerror}") from error


def load_index(folder: str | os.PathLike) -> VectorIndex:
    """Reads an export after verifying the sha256 of every file.

    Args:
        folder: what ``export`` wrote.

    Returns:
        The vectors, their ids and the search.

    Raises:
        CheckpointError: it is not an export, or a file (named) is missing or damaged.
        MissingExtraError: it has an index, and faiss is not installed.

    Example:
        See ``export``.
    """
    folder = pathlib.Path(folder)
    if not (folder / _MANIFEST).is_file():
        raise CheckpointError(
            f"{folder} is not an export: it has no {_MANIFEST}; make one with launch/export.py"
        )
    try:
        manifest = _files.unseal((folder / _MANIFEST).read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{folder / _MANIFEST} is damaged: {error}; export again") from error
    if manifest.get("kind") != _KIND:
        raise CheckpointError(f"{folder / _MANIFEST} does not describe a {_KIND}")
    difference = _files.first_difference(folder, manifest["files"])
    if difference:
        raise CheckpointError(f"the export {folder} is damaged: {difference}; export again")
    if "vectors.npz" in manifest["files"]:
        with np.load(folder / "vectors.npz", allow_pickle=False) as arrays:
            vectors = arrays["vectors"]
    else:
        vectors = safetensors.load_file(folder / "vectors.safetensors")["vectors"]
    ids = tuple(json.loads((folder / _IDS).read_text(encoding="utf-8")))
    if _INDEX not in manifest["files"]:
        return VectorIndex(vectors, ids, manifest["weights"], lambda queries, k: top_k(queries, vectors, k=k))
    built = require_extra("faiss", "serve").read_index(str(folder / _INDEX))
    return VectorIndex(
        vectors, ids, manifest["weights"], lambda queries, k: built.search(np.asarray(queries, np.float32), k)
    )


def recommend_from(
    index: VectorIndex,
    bundle: Bundle,
    user_tower: Tower,
    user: str,
    *,
    k: int = 10,
    exclude_seen: bool = True,
) -> list[Recommendation]:
    """The ``k`` items of largest score for one user that an index finds.

    As many more are asked for as the user has seen; where an index that is not exact finds too few, all vectors are
    searched.

    Args:
        index: a loaded export.
        bundle: the bundle that was exported.
        user_tower: ``Model.user_tower`` of its model.
        user: raw user id.
        k: number of items, at least 1.
        exclude_seen: leaves out the items of ``bundle.seen``.

    Returns:
        ``k`` recommendations, best first.

    Raises:
        ConfigError: ``k`` is below 1.
        DataError: the user is unknown, the export is of another run, or fewer than ``k`` unseen items are left.
        DivergedError: the user's vector is not finite.

    Example:
        >>> import tempfile
        >>> from debias_jax import models
        >>> from debias_jax.data.vocab import Vocabulary
        >>> model = models.mf(2, 3, dim=4)
        >>> users, items = Vocabulary(["ann", "bob"], kind="user"), Vocabulary(["x", "y", "z"], kind="item")
        >>> bundle = Bundle(model.init(jax.random.key(0)), users, items, config={})
        >>> towers = {"user_tower": model.user_tower, "item_tower": model.item_tower}
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     report = export(f"{parent}/items", bundle, **towers, index="none")
        ...     index = load_index(f"{parent}/items")
        >>> len(recommend_from(index, bundle, model.user_tower, "ann", k=2, exclude_seen=False))
        2
    """
    check_sizes(k=k)
    if index.ids != bundle.items.ids or index.weights != _digest(bundle.params):
        raise DataError("the export was made of another run than the bundle; export this bundle again")
    if exclude_seen and bundle.seen is None:
        raise DataError("the bundle does not say what users have seen; pass exclude_seen=False")
    code = int(encode_users(bundle, [user], "error", hint=False)[0])
    seen = np.zeros(0, np.int32)
    if exclude_seen:
        indptr, items = bundle.seen
        seen = items[indptr[code] : indptr[code + 1]]
    query = _queries(user_tower, bundle, np.asarray([code]))
    wanted = min(k + len(seen), len(index.ids))

    def unseen(values: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        kept = (positions[0] >= 0) & ~np.isin(positions[0], seen)
        return values[0][kept][:k], positions[0][kept][:k]

    values, positions = unseen(*index.search(query, wanted))
    if len(positions) < k:
        # An index that looks into a few cells may find too few for a user who has seen much.
        values, positions = unseen(*top_k(query, index.vectors, k=wanted))
    if len(positions) < k:
        raise DataError(
            f"k = {k} items were asked for, and user {str(user)!r} has only {len(positions)} unseen ones; "
            f"ask for at most {len(positions)}, or pass exclude_seen=False"
        )
    return [
        Recommendation(index.ids[position], float(value), rank)
        for rank, (position, value) in enumerate(zip(positions, values, strict=True), start=1)
    ]
