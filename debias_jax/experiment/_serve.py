"""What a finished workdir answers: its configs, its bundle, an export of its vectors, recommendations."""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from debias_jax import data, serving, training
from debias_jax.errors import ConfigError
from debias_jax.experiment import _config, _results
from debias_jax.experiment._build import FEATURES, build_method, build_model, model_settings
from debias_jax.methods.base import Method, TrainState
from debias_jax.types import Array, Params


def workdir_configs(workdir: str | os.PathLike) -> list[tuple[str, pathlib.Path, ConfigDict]]:
    """(variant, folder, config) of every variant in a workdir, each config with the schedule of its variant."""
    folder = pathlib.Path(workdir)
    written = _results.read_json(folder / "config.json")
    if written is None:
        raise ConfigError(
            f"{folder} is no workdir: it holds no config.json; train first with launch/train.py"
        )
    config = _config.from_dict(written)
    names = list(config.methods)
    return [
        (name, folder if len(names) == 1 else folder / name, _config.only(config, name)) for name in names
    ]


def _load_bundle(workdir: str | os.PathLike) -> tuple[serving.Bundle, ConfigDict, dict[str, Any]]:
    """The bundle of a one-variant workdir, its config and the sizes and features of its data."""
    configs = workdir_configs(workdir)
    if len(configs) > 1:
        names = ", ".join(name for name, _, _ in configs)
        raise ConfigError(
            f"{workdir} holds several variants; name one: --workdir={workdir}/NAME, NAME of {names}"
        )
    folder = configs[0][1] / "bundle"
    if not folder.is_dir():
        raise ConfigError(f"{folder.parent} holds no bundle; train first with launch/train.py")
    bundle = serving.load_bundle(folder)
    sizes = {
        "n_users": len(bundle.users),
        "n_items": len(bundle.items),
        **{name: getattr(bundle, name) for name in FEATURES},
    }
    return bundle, _config.from_dict(bundle.config["experiment"]), sizes


def load_predictor(workdir: str | os.PathLike):
    """The bundle of a one-variant workdir, and ``score(params, users, items)`` for it.

    Raises:
        ConfigError: the workdir has no bundle, or several variants.
        CheckpointError: the bundle is damaged.
    """
    return _predictor(*_load_bundle(workdir))


def _predictor(bundle: serving.Bundle, config: ConfigDict, sizes: dict[str, Any]):
    """``load_predictor`` of a bundle that is loaded."""
    method = build_method(config, bundle.config["entry"], **sizes)
    if method.frame is None:
        return bundle, functools.partial(_score, method)
    histories = training.padded_histories(
        *bundle.seen, np.arange(len(bundle.users)), method.frame.max_len, fill=len(bundle.items)
    )

    def score(params, users, items):
        scores = _score(method, params["prediction"], users[:, 0], params["histories"][users[:, 0]])
        columns = jnp.broadcast_to(items, (users.shape[0], items.shape[-1]))
        return jnp.take_along_axis(scores, columns, axis=1)

    params = {"prediction": bundle.params, "histories": jnp.asarray(histories)}
    return dataclasses.replace(bundle, params=params), score


def _score(method: Method, params, users, items):
    state = TrainState(jnp.zeros((), jnp.int32), {"prediction": params}, {}, {}, {})
    return method.predict(state, users, items)


class _HistoryScorer(NamedTuple):
    """What answers for histories.

    Attributes:
        score: ``({"prediction": params, "users": codes or None}, histories) -> scores``; it compares by identity.
        length: how many items it reads.
        uses_users: whether it needs ``codes``.
    """

    score: Callable[[Params, Array], Array]
    length: int
    uses_users: bool


@functools.lru_cache(maxsize=8)
def _history_scorer(config: str, entry: str, n_users: int, n_items: int) -> _HistoryScorer | None:
    """The scorer of a bundle's config and entry (JSON), None if it reads no history; made, and so compiled, once."""
    experiment, variant = _config.from_dict(json.loads(config)), json.loads(entry)
    sizes = {"n_users": n_users, "n_items": n_items}
    method = build_method(experiment, variant, **sizes)
    if method.frame is None or method.frame.samples == "events":
        return None

    def score(params: Params, histories: Array) -> Array:
        return _score(method, params["prediction"], params["users"], histories)

    model = build_model(experiment, variant, **sizes)
    return _HistoryScorer(score, method.frame.max_len, model.uses_users)


def _has_repeats(bundle: serving.Bundle) -> bool:
    """Whether users of the log come back to an item, so that the run was measured with all items in the ranking."""
    if bundle.seen is None:
        return False
    histories = data.sequences.Histories(*bundle.seen)
    return data.sequences.has_repeats(data.sequences.events_of(histories, n_items=len(bundle.items)))


class Recommender:
    """Answers from the bundle of a workdir, which is read and checked once; questions of one kind compile once.

    A history is padded to the length that the model reads, and ``k`` to a power of two: neither another length nor
    another ``k`` up to that compiles again.

    Args:
        workdir: folder of a finished run of one variant.

    Attributes:
        bundle: what was loaded.

    Raises:
        ConfigError: the workdir has no bundle, or several variants.
        CheckpointError: the bundle is damaged.
    """

    def __init__(self, workdir: str | os.PathLike):
        self.bundle, self._config, self._sizes = _load_bundle(workdir)

    @functools.cached_property
    def _leaves_out(self) -> bool:
        return not _has_repeats(self.bundle)

    @functools.cached_property
    def _predictor(self):
        return _predictor(self.bundle, self._config, self._sizes)

    @functools.cached_property
    def _scorer(self) -> _HistoryScorer | None:
        bundle = self.bundle
        # What reads features is a model of pairs.
        if any(getattr(bundle, name) is not None for name in FEATURES):
            return None
        written = (json.dumps(bundle.config[part], sort_keys=True) for part in ("experiment", "entry"))
        return _history_scorer(*written, len(bundle.users), len(bundle.items))

    def for_user(
        self, user: str, *, k: int = 10, exclude_seen: bool | None = None, unknown_user: str = "error"
    ) -> list[serving.Recommendation]:
        """The top-k items of a user in raw ids.

        Args:
            user: raw id.
            k: number of items.
            exclude_seen: whether items that the user clicked stay out; None for as measured: they do, unless the
                method reads histories and the log has users who come back to an item.
            unknown_user: ``"error"`` or ``"popular"``.

        Raises:
            DataError: the user is unknown, or ``k`` is larger than what is left.
        """
        bundle, score = self._predictor
        excluded = self._leaves_out if exclude_seen is None else exclude_seen
        return serving.recommend(score, bundle, user, k=k, exclude_seen=excluded, unknown_user=unknown_user)

    def after(
        self,
        history: Sequence[str],
        *,
        user: str | None = None,
        k: int = 10,
        exclude_seen: bool | None = None,
    ) -> list[serving.Recommendation]:
        """The top-k next items after a history of raw item ids.

        Args:
            history: raw item ids, the newest last.
            user: raw id of whose history it is, for a model that knows users; others need none.
            k: number of items.
            exclude_seen: whether items of the history stay out; None for as measured: they do, unless the log of the
                run has users who come back to an item.

        Raises:
            ConfigError: the method reads no histories, or it knows users and none is given.
            DataError: an item or the user is unknown, the history is empty, or ``k`` is larger than what is left.
        """
        bundle, scorer = self.bundle, self._scorer
        if scorer is None:
            raise ConfigError(f"{bundle.config['entry']['method']} reads no history; name a user: --user=ID")
        codes = None
        if scorer.uses_users:
            if user is None:
                model = model_settings(self._config, bundle.config["entry"])["name"]
                raise ConfigError(f"{model} knows users; say whose history it is: --user=ID")
            codes = jnp.asarray(serving.encode_users(bundle, [user], "error", hint=False))
        return serving.recommend_next(
            scorer.score,
            dataclasses.replace(bundle, params={"prediction": bundle.params, "users": codes}),
            history,
            length=scorer.length,
            k=k,
            exclude_seen=self._leaves_out if exclude_seen is None else exclude_seen,
        )


def export(
    workdir: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    format: str = "safetensors",
    index: str = "flat",
    k: int = 100,
) -> serving.ExportReport:
    """Writes the item vectors of a run's bundle and an index of them; see ``serving.export``.

    Args:
        workdir: folder of a finished run of one variant.
        folder: the target.
        format: ``"safetensors"`` or ``"npz"``.
        index: ``"flat"``, ``"hnsw"``, ``"ivf"`` or ``"none"``.
        k: of the recall that is measured.

    Returns:
        What was written.

    Raises:
        ConfigError: the workdir has no bundle or several variants, an option is unknown, or the score of the method is
            no inner product of the model's vectors.
        CheckpointError: the bundle is damaged, or the folder cannot be written.
        MissingExtraError: an index is wanted, and faiss is not installed.
    """
    bundle, towers = _load_towers(workdir)
    return serving.export(folder, bundle, **towers, format=format, index=index, k=k)


def _load_towers(workdir: str | os.PathLike) -> tuple[serving.Bundle, dict[str, Any]]:
    """The bundle of a workdir, and the towers of its model."""
    bundle, config, sizes = _load_bundle(workdir)
    entry = bundle.config["entry"]
    # Some methods give their model biases whatever the config says.
    model = build_model(config, entry, **sizes, bias="user_bias" in bundle.params)
    fitted = jax.eval_shape(model.init, jax.random.key(0))
    if (
        model.user_tower is None
        or model.item_tower is None
        or jax.tree.structure(fitted) != jax.tree.structure(bundle.params)
    ):
        raise ConfigError(
            f"the score of {entry['method']} is no inner product of vectors of its model; mf and two_tower can be "
            "exported, with methods that train them alone"
        )
    return bundle, {"user_tower": model.user_tower, "item_tower": model.item_tower}


def recommend_next(
    workdir: str | os.PathLike,
    history: Sequence[str],
    *,
    user: str | None = None,
    k: int = 10,
    exclude_seen: bool | None = None,
) -> list[serving.Recommendation]:
    """The top-k next items after a history of raw item ids; of several questions ask a ``Recommender``.

    Args:
        workdir: folder of a finished run of one variant of ``next_item``.
        history: raw item ids, the newest last.
        user: raw id of whose history it is, for a model that knows users; others need none.
        k: number of items.
        exclude_seen: whether items of the history stay out; None for as measured: they do, unless the log of the run
            has users who come back to an item.

    Raises:
        ConfigError: the workdir has no bundle, its method reads no histories, or it knows users and none is given.
        CheckpointError: the bundle is damaged.
        DataError: an item or the user is unknown, the history is empty, or ``k`` is larger than what is left.
    """
    return Recommender(workdir).after(history, user=user, k=k, exclude_seen=exclude_seen)


def recommend(
    workdir: str | os.PathLike,
    user: str,
    *,
    k: int = 10,
    exclude_seen: bool | None = None,
    unknown_user: str = "error",
    export_folder: str | os.PathLike | None = None,
) -> list[serving.Recommendation]:
    """The top-k items of a user in raw ids; of several questions ask a ``Recommender``.

    Args:
        workdir: folder of a finished run of one variant.
        user: raw id.
        k: number of items.
        exclude_seen: whether items that the user clicked stay out; None for as measured: they do, unless the method
            reads histories and the log has users who come back to an item.
        unknown_user: ``"error"`` or ``"popular"``.
        export_folder: folder that ``export`` wrote of this workdir, whose index is searched; None scores all items.

    Raises:
        ConfigError: the workdir has no bundle, or an unknown user is to get popular items from an export.
        CheckpointError: the bundle or the export is damaged.
        DataError: the user is unknown, or ``k`` is larger than what is left or found.
    """
    if export_folder is None:
        return Recommender(workdir).for_user(user, k=k, exclude_seen=exclude_seen, unknown_user=unknown_user)
    if unknown_user != "error":
        raise ConfigError(
            "an export has no popular items for unknown users; leave out the export or unknown_user"
        )
    bundle, towers = _load_towers(workdir)
    index, excluded = serving.load_index(export_folder), exclude_seen
    if excluded is None:
        excluded = not _has_repeats(bundle)
    return serving.recommend_from(index, bundle, towers["user_tower"], user, k=k, exclude_seen=excluded)
