"""A trained recommender as a folder: weights, id maps, configuration, what users have seen. No pickle."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors import flax as safetensors

from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import CheckpointError, ConfigError, DataError
from debias_jax.training import _files
from debias_jax.types import Params

_KIND = "debias_jax bundle"
_VERSION = 1
_MANIFEST = "manifest.json"
_WEIGHTS = "weights.safetensors"
_INTERACTIONS = "interactions.safetensors"
_FEATURES = "features.safetensors"
_BAG = "{}_bags/"
_VOCABULARY = "vocabulary.json"
_CONFIG = "config.json"
_SEPARATOR = "/"


@dataclasses.dataclass(frozen=True, eq=False)
class Bundle:
    """Everything that answering for a raw id needs; the training data is not among it.

    Attributes:
        params: nested dicts of jax arrays.
        users: user vocabulary.
        items: item vocabulary.
        config: the resolved configuration, from which the model is built again.
        seen: ``(indptr [n_users + 1], items [n])`` int32, the items each user has seen, or None. Of a model that reads
            histories they stand in the order of time, an item as often as it occurred.
        popularity: float32 ``[n_items]``, the fallback score for unknown users, or None.
        user_features: float32 ``[n_users, d]`` that the model reads, or None.
        item_features: float32 ``[n_items, d]`` that the model reads, or None.
        user_bags: by name int32 ``[n_users, m]`` that the model reads (see ``models.two_tower``), or None.
        item_bags: by name int32 ``[n_items, m]`` that the model reads, or None.
        meta: whatever else was saved: metrics, versions.

    Raises:
        DataError: an array does not fit the vocabularies.
    """

    params: Params
    users: Vocabulary
    items: Vocabulary
    config: dict[str, Any]
    seen: tuple[np.ndarray, np.ndarray] | None = None
    popularity: np.ndarray | None = None
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)
    user_features: np.ndarray | None = None
    item_features: np.ndarray | None = None
    user_bags: dict[str, np.ndarray] | None = None
    item_bags: dict[str, np.ndarray] | None = None

    def __post_init__(self):
        if self.seen is not None:
            indptr, items = (np.asarray(part) for part in self.seen)
            if indptr.shape != (len(self.users) + 1,) or indptr[0] != 0 or np.any(np.diff(indptr) < 0):
                raise DataError(
                    f"seen: indptr must rise from 0 in shape ({len(self.users) + 1},), got {indptr.shape}"
                )
            if items.shape != (indptr[-1],):
                raise DataError(f"seen: indptr ends at {indptr[-1]}, but items has shape {items.shape}")
            if items.size and not (items.min() >= 0 and items.max() < len(self.items)):
                raise DataError(f"seen: items must be in [0, {len(self.items)}), got up to {items.max()}")
            object.__setattr__(self, "seen", (indptr.astype(np.int32), items.astype(np.int32)))
        if self.popularity is not None:
            popularity = np.asarray(self.popularity, np.float32)
            if popularity.shape != (len(self.items),) or not np.isfinite(popularity).all():
                raise DataError(f"popularity must be finite, of shape ({len(self.items)},)")
            object.__setattr__(self, "popularity", popularity)
        for name, ids in (("user_features", self.users), ("item_features", self.items)):
            if getattr(self, name) is not None:
                features = np.asarray(getattr(self, name), np.float32)
                if features.ndim != 2 or len(features) != len(ids) or not np.isfinite(features).all():
                    raise DataError(f"{name} must be finite, of shape ({len(ids)}, d), got {features.shape}")
                object.__setattr__(self, name, features)
        for name, ids in (("user_bags", self.users), ("item_bags", self.items)):
            if getattr(self, name) is not None:
                bags = {bag: np.asarray(values) for bag, values in getattr(self, name).items()}
                for bag, values in bags.items():
                    if values.ndim != 2 or len(values) != len(ids) or values.dtype.kind not in "iu":
                        raise DataError(
                            f"{name}[{bag!r}] must be integers of shape ({len(ids)}, m), got {values.dtype} "
                            f"{values.shape}"
                        )
                object.__setattr__(self, name, {bag: values.astype(np.int32) for bag, values in bags.items()})


def save_bundle(
    folder: str | os.PathLike,
    *,
    params: Params,
    users: Vocabulary,
    items: Vocabulary,
    config: dict[str, Any],
    seen: tuple[np.ndarray, np.ndarray] | None = None,
    popularity: np.ndarray | None = None,
    meta: dict[str, Any] | None = None,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_bags: dict[str, np.ndarray] | None = None,
    item_bags: dict[str, np.ndarray] | None = None,
) -> None:
    """Writes a bundle; the folder appears whole, and an older bundle there is replaced.

    It holds ``weights.safetensors``, ``interactions.safetensors``, ``vocabulary.json``, ``config.json``, for a model
    that reads features or bags ``features.safetensors``, and ``manifest.json``, which lists the sha256 of the others.

    Args:
        folder: the target; its parent must exist.
        params: nested dicts of arrays; keys are strings without "/".
        users: user vocabulary.
        items: item vocabulary.
        config: JSON values.
        seen: see ``Bundle``.
        popularity: see ``Bundle``.
        meta: JSON values.
        user_features: see ``Bundle``.
        item_features: see ``Bundle``.
        user_bags: see ``Bundle``.
        item_bags: see ``Bundle``.

    Raises:
        CheckpointError: the folder exists and is not a bundle, or it cannot be written.
        ConfigError: ``config`` or ``meta`` holds something that JSON has no word for.
        DataError: an array does not fit the vocabularies.
        TypeError: ``params`` is not made of nested dicts with string keys and arrays.

    Example:
        >>> import tempfile
        >>> users, items = Vocabulary(["ann", "bob"], kind="user"), Vocabulary(["x", "y", "z"], kind="item")
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     folder = f"{parent}/bundle"
        ...     save_bundle(folder, params={"bias": jnp.zeros(3)}, users=users, items=items, config={})
        ...     bundle = load_bundle(folder)
        >>> bundle.items.ids, bundle.params
        (('x', 'y', 'z'), {'bias': Array([0., 0., 0.], dtype=float32)})
    """
    bundle = Bundle(
        params,
        users,
        items,
        config,
        seen,
        popularity,
        meta or {},
        user_features=user_features,
        item_features=item_features,
        user_bags=user_bags,
        item_bags=item_bags,
    )
    weights = {name: jnp.asarray(leaf) for name, leaf in _flatten(params).items()}
    interactions = {}
    if bundle.seen is not None:
        interactions |= {"seen_indptr": bundle.seen[0], "seen_items": bundle.seen[1]}
    if bundle.popularity is not None:
        interactions |= {"popularity": bundle.popularity}
    features = {"user": bundle.user_features, "item": bundle.item_features}
    features = {name: table for name, table in features.items() if table is not None}
    for side, bags in (("user", bundle.user_bags), ("item", bundle.item_bags)):
        features |= {_BAG.format(side) + bag: values for bag, values in (bags or {}).items()}
    texts = {
        _VOCABULARY: _json({"users": users.ids, "items": items.ids}, "vocabulary"),
        _CONFIG: _json(config, "config"),
    }
    manifest = {"kind": _KIND, "version": _VERSION, "meta": json.loads(_json(bundle.meta, "meta"))}

    target = pathlib.Path(folder).resolve()
    _files.check_replaceable(target, _MANIFEST, "a bundle")
    try:
        with _files.staged_folder(target) as staging:
            (staging / _WEIGHTS).write_bytes(safetensors.save(weights))
            tables = {_INTERACTIONS: interactions} | ({_FEATURES: features} if features else {})
            for name, table in tables.items():
                arrays = {key: jnp.asarray(array) for key, array in table.items()}
                (staging / name).write_bytes(safetensors.save(arrays))
            for name, text in texts.items():
                (staging / name).write_text(text, encoding="utf-8")
            manifest["files"] = _files.digests(staging)
            (staging / _MANIFEST).write_bytes(_files.seal(manifest))
    except OSError as error:
        raise CheckpointError(f"cannot write the bundle {target}: {error.strerror}") from error


def load_bundle(folder: str | os.PathLike) -> Bundle:
    """Reads a bundle after verifying the sha256 of every file.

    Args:
        folder: what ``save_bundle`` wrote.

    Returns:
        A ``Bundle``, bit-identical to what was saved.

    Raises:
        CheckpointError: it is not a bundle, of another version, or a file (named) is missing or damaged.

    Example:
        >>> import tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp()) / "bundle"
        >>> save_bundle(folder, params={}, users=Vocabulary("ab"), items=Vocabulary("xyz"), config={"dim": 4})
        >>> load_bundle(folder).config
        {'dim': 4}
    """
    folder = pathlib.Path(folder)
    manifest_path = folder / _MANIFEST
    if not manifest_path.is_file():
        raise CheckpointError(f"{folder} is not a bundle: it has no {_MANIFEST}; train a model first")
    try:
        manifest = _files.unseal(manifest_path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{manifest_path} is damaged: {error}; restore it or train again") from error
    if manifest.get("kind") != _KIND:
        raise CheckpointError(f"{manifest_path} does not describe a {_KIND}")
    if manifest["version"] != _VERSION:
        raise CheckpointError(
            f"the bundle {folder} has version {manifest['version']}, and this debias_jax reads version "
            f"{_VERSION}; install the debias_jax that wrote it, or export it again"
        )
    difference = _files.first_difference(folder, manifest["files"])
    if difference:
        raise CheckpointError(f"the bundle {folder} is damaged: {difference}; restore it or train again")
    try:
        params = _unflatten(safetensors.load_file(folder / _WEIGHTS))
        arrays = safetensors.load_file(folder / _INTERACTIONS)
        features = safetensors.load_file(folder / _FEATURES) if _FEATURES in manifest["files"] else {}
    except SafetensorError as error:
        raise CheckpointError(f"the bundle {folder} cannot be read: {error}") from error
    ids = json.loads((folder / _VOCABULARY).read_text(encoding="utf-8"))
    return Bundle(
        params=params,
        users=Vocabulary(ids["users"], kind="user"),
        items=Vocabulary(ids["items"], kind="item"),
        config=json.loads((folder / _CONFIG).read_text(encoding="utf-8")),
        seen=(arrays["seen_indptr"], arrays["seen_items"]) if "seen_indptr" in arrays else None,
        popularity=arrays.get("popularity"),
        meta=manifest["meta"],
        user_features=features.get("user"),
        item_features=features.get("item"),
        user_bags=_bags(features, "user"),
        item_bags=_bags(features, "item"),
    )


def _bags(features: dict[str, Any], side: str) -> dict[str, Any] | None:
    """The bags of one side of what ``features.safetensors`` holds, None if there are none."""
    prefix = _BAG.format(side)
    return {
        key.removeprefix(prefix): values for key, values in features.items() if key.startswith(prefix)
    } or None


def _flatten(params: Params, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in params.items():
        if not isinstance(key, str) or _SEPARATOR in key:
            raise TypeError(
                f"keys of params must be strings without {_SEPARATOR!r}, got {key!r} in {prefix!r}"
            )
        name = prefix + key
        if isinstance(value, dict):
            if not value:
                raise TypeError(f"params[{name!r}] is an empty dict, which the file format cannot hold")
            flat |= _flatten(value, name + _SEPARATOR)
        elif hasattr(value, "dtype"):
            flat[name] = value
        else:
            raise TypeError(f"params[{name!r}] must be an array or a dict, got {type(value).__name__}")
    return flat


def _unflatten(flat: dict[str, Any]) -> Params:
    params: Params = {}
    for name, value in flat.items():
        *groups, leaf = name.split(_SEPARATOR)
        node = params
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return params


def _json(value: Any, name: str) -> str:
    try:
        return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} must hold JSON values only: {error}") from error
