"""Top-k recommendations in raw ids from a bundle."""

import dataclasses
import difflib
import functools
import heapq
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax._checks import check_sizes
from debias_jax.errors import ConfigError, DataError, DivergedError
from debias_jax.serving.bundle import Bundle
from debias_jax.types import Array, Params

_UNKNOWN = -1
_COMPARED = 5000


class ScoreFn(Protocol):
    """``(params, users [B, 1], items [1, n]) -> scores [B, n]``, by broadcasting."""

    def __call__(self, params: Params, users: Array, items: Array) -> Array:
        """Scores pairs; larger is better."""


class Recommendation(NamedTuple):
    """One recommended item.

    Attributes:
        item: raw item id.
        score: the model's score (its popularity, for an unknown user).
        rank: 1 for the best.
    """

    item: str
    score: float
    rank: int


class Recommendations(NamedTuple):
    """The top of many users.

    Attributes:
        items: int32 ``[n, k]`` item codes, best first (``bundle.items.decode`` gives raw ids); -1 where
            ``where`` is False.
        scores: float32 ``[n, k]``; -inf where ``where`` is False.
        where: bool ``[n, k]``, False beyond the items that a user has not seen.
    """

    items: np.ndarray
    scores: np.ndarray
    where: np.ndarray


def recommend(
    score: ScoreFn,
    bundle: Bundle,
    user: str,
    *,
    k: int = 10,
    exclude_seen: bool = True,
    unknown_user: str = "error",
) -> list[Recommendation]:
    """The ``k`` items of largest score for one user; equal scores are ordered by item code.

    Args:
        score: the model, see ``ScoreFn``. Pass the same function each time: it is compiled once.
        bundle: a loaded bundle.
        user: raw user id.
        k: number of items, at least 1.
        exclude_seen: leaves out the items of ``bundle.seen``.
        unknown_user: for an id that is not in the vocabulary, ``"error"`` or ``"popular"`` (the most popular
            items).

    Returns:
        ``k`` recommendations, best first.

    Raises:
        ConfigError: ``k`` or ``unknown_user`` is out of its range.
        DataError: the user is unknown, fewer than ``k`` items are left, or the bundle lacks what was asked
        for. DivergedError: a score is not finite.

    Example:
        >>> from debias_jax.data.vocab import Vocabulary
        >>> bundle = Bundle(
        ...     params={"bias": jnp.array([0.5, 2.0, 1.0])},
        ...     users=Vocabulary(["ann", "bob"], kind="user"),
        ...     items=Vocabulary(["x", "y", "z"], kind="item"),
        ...     config={},
        ...     seen=(np.array([0, 1, 1]), np.array([1])),
        ... )
        >>> def score(params, users, items):
        ...     return jnp.broadcast_to(params["bias"][items], (users.shape[0], items.shape[1]))
        >>> recommend(score, bundle, "ann", k=2)
        [Recommendation(item='z', score=1.0, rank=1), Recommendation(item='x', score=0.5, rank=2)]
    """
    top = recommend_many(score, bundle, [user], k=k, exclude_seen=exclude_seen, unknown_user=unknown_user)
    left = int(top.where.sum())
    if left < k:
        raise DataError(
            f"k = {k} items were asked for, and user {str(user)!r} has only {left} unseen ones; "
            f"ask for at most {left}, or pass exclude_seen=False"
        )
    items = bundle.items.decode(top.items[0])
    return [
        Recommendation(item, float(value), rank)
        for rank, (item, value) in enumerate(zip(items, top.scores[0], strict=True), start=1)
    ]


def recommend_many(
    score: ScoreFn,
    bundle: Bundle,
    users: Sequence[str],
    *,
    k: int = 10,
    exclude_seen: bool = True,
    unknown_user: str = "error",
    chunk: int = 128,
) -> Recommendations:
    """The top ``k`` of many users, ``chunk`` of them at a time: memory is that of ``chunk * n_items`` scores.

    A user with fewer than ``k`` unseen items gets those, and ``where`` is False behind them.

    Args:
        score: as in ``recommend``.
        bundle: a loaded bundle.
        users: raw user ids.
        k: number of items, in ``[1, n_items]``.
        exclude_seen: as in ``recommend``.
        unknown_user: as in ``recommend``.
        chunk: users scored together.

    Returns:
        ``Recommendations`` with one row a user, in the order of ``users``.

    Raises:
        ConfigError, DataError, DivergedError: as in ``recommend``.
        ValueError: ``score`` does not return ``[B, n_items]``.

    Example:
        >>> from debias_jax.data.vocab import Vocabulary
        >>> bundle = Bundle(
        ...     params={"bias": jnp.array([0.5, 2.0])},
        ...     users=Vocabulary(["ann", "bob"], kind="user"),
        ...     items=Vocabulary(["x", "y"], kind="item"),
        ...     config={},
        ...     seen=(np.array([0, 1, 1]), np.array([1])),
        ... )
        >>> def score(params, users, items):
        ...     return jnp.broadcast_to(params["bias"][items], (users.shape[0], items.shape[1]))
        >>> recommend_many(score, bundle, ["bob", "ann"], k=2).items
        array([[ 1,  0],
               [ 0, -1]], dtype=int32)
    """
    n_items = len(bundle.items)
    check_sizes(k=k, chunk=chunk)
    if k > n_items:
        raise DataError(f"k = {k} items were asked for, and the catalogue has only {n_items}")
    if exclude_seen and bundle.seen is None:
        raise DataError("the bundle does not say what users have seen; pass exclude_seen=False")
    codes = encode_users(bundle, users, unknown_user)
    items = np.full((len(codes), k), -1, np.int32)
    scores = np.full((len(codes), k), -np.inf, np.float32)

    unknown = codes == _UNKNOWN
    if unknown.any():
        popular = np.argsort(-bundle.popularity, kind="stable")[:k]
        items[unknown], scores[unknown] = popular, bundle.popularity[popular]
    known = np.flatnonzero(~unknown)
    width = min(chunk, len(known))
    for start in range(0, len(known), chunk):
        rows = known[start : start + chunk]
        # A short last chunk is filled up with its first user, as another shape would be compiled again.
        batch = np.concatenate([codes[rows], np.full(width - len(rows), codes[rows[0]], np.int32)])
        hidden = _seen_mask(bundle, batch) if exclude_seen else np.zeros((width, n_items), bool)
        # A slice of a device array compiles for each k.
        values, indices, bad_item = jax.device_get(
            _top(score, bundle.params, batch, hidden, _rounded(k, n_items))
        )
        bad = np.flatnonzero(bad_item < n_items)
        if bad.size:
            user, item = bundle.users.ids[batch[bad[0]]], bundle.items.ids[int(bad_item[bad[0]])]
            raise DivergedError(
                f"the score of item {item!r} for user {user!r} is not finite; "
                "the model diverged, train it again"
            )
        scores[rows], items[rows] = values[: len(rows), :k], indices[: len(rows), :k]
    where = np.isfinite(scores)
    return Recommendations(np.where(where, items, -1).astype(np.int32), scores, where)


def recommend_next(
    score: Callable[[Params, Array], Array],
    bundle: Bundle,
    history: Sequence[str],
    *,
    length: int,
    k: int = 10,
    exclude_seen: bool = True,
) -> list[Recommendation]:
    """The ``k`` likeliest next items after a history, for whoever has it.

    Args:
        score: ``(params, histories [1, l]) -> scores [1, n_items]``. Pass the same function each time: it is compiled
            once for all histories and all ``k`` up to a power of two.
        bundle: a loaded bundle.
        history: raw item ids, the newest last; older ones than the last ``length`` only count as seen.
        length: l, what the model reads; a shorter history is padded on the left with ``n_items``.
        k: number of items, at least 1.
        exclude_seen: leaves out the items of the history.

    Returns:
        ``k`` recommendations, best first.

    Raises:
        ConfigError: ``k`` is below 1.
        DataError: an item is not in the vocabulary, the history is empty, or fewer than ``k`` items are left.
        DivergedError: a score is not finite.

    Example:
        >>> from debias_jax.data.vocab import Vocabulary
        >>> items = Vocabulary(["x", "y", "z"], kind="item")
        >>> bundle = Bundle(params={}, users=Vocabulary(["ann"], kind="user"), items=items, config={})
        >>> score = lambda params, histories: jax.nn.one_hot((histories[:, -1] + 1) % 3, 3)
        >>> recommend_next(score, bundle, ["z", "x"], length=4, k=1)
        [Recommendation(item='y', score=1.0, rank=1)]
    """
    n_items = len(bundle.items)
    check_sizes(k=k)
    if not len(history):
        raise DataError("the history is empty; name at least one item")
    unknown = [str(item) for item in history if item not in bundle.items]
    if unknown:
        near = ", ".join(map(repr, _nearest(unknown[0], bundle.items.ids)))
        raise DataError(
            f"item {unknown[0]!r} is not among the {n_items} known items"
            + (f"; the nearest are {near}" if near else "")
        )
    codes = np.asarray(bundle.items.encode(history), np.int32)
    hidden = np.zeros((1, n_items), bool)
    if exclude_seen:
        hidden[0, codes] = True
    left = int(n_items - hidden.sum())
    if k > left:
        raise DataError(f"k = {k} items were asked for, and only {left} are not in the history")
    newest = np.full((1, length), n_items, np.int32)
    newest[0, max(0, length - len(codes)) :] = codes[-length:]

    values, indices, bad_item = jax.device_get(
        _top(_OfHistories(score), bundle.params, newest, hidden, _rounded(k, n_items))
    )
    if int(bad_item[0]) < n_items:
        raise DivergedError(
            f"the score of item {bundle.items.ids[int(bad_item[0])]!r} is not finite; the model diverged, train it "
            "again"
        )
    found = bundle.items.decode(indices[0, :k])
    return [
        Recommendation(item, float(value), rank)
        for rank, (item, value) in enumerate(zip(found, values[0, :k], strict=True), start=1)
    ]


@dataclasses.dataclass(frozen=True)
class _OfHistories:
    """A score of histories as ``_top`` calls it; equal for one function, so that it is compiled once."""

    score: Callable[[Params, Array], Array]

    def __call__(self, params: Params, histories: Array, items: Array) -> Array:
        del items
        return self.score(params, histories[:, 0])


def _rounded(k: int, n_items: int) -> int:
    """The power of two, 16 at least, that holds ``k``: how many are looked for, so that few values of k compile."""
    return min(n_items, max(16, 1 << (k - 1).bit_length()))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _top(score: ScoreFn, params: Params, users: Array, hidden: Array, k: int) -> tuple[Array, Array, Array]:
    """Top values and item codes of each row, and its first item whose score is not finite (else n_items)."""
    n_items = hidden.shape[1]
    scores = score(params, users[:, None], jnp.arange(n_items, dtype=jnp.int32)[None, :])
    if scores.shape != hidden.shape:
        raise ValueError(
            f"score must broadcast users {users[:, None].shape} and items {(1, n_items)} "
            f"to {hidden.shape}, got {scores.shape}"
        )
    scores = scores.astype(jnp.float32)
    finite = jnp.isfinite(scores)
    bad_item = jnp.where(finite.all(axis=-1), n_items, jnp.argmin(finite, axis=-1))
    # top_k takes the lower index of equal values, but orders -0.0 behind 0.0.
    scores = jnp.where(hidden, -jnp.inf, jnp.where(scores == 0, 0.0, scores))
    values, indices = jax.lax.top_k(scores, k)
    return values, indices, bad_item


def _seen_mask(bundle: Bundle, codes: np.ndarray) -> np.ndarray:
    indptr, items = bundle.seen
    mask = np.zeros((len(codes), len(bundle.items)), bool)
    for row, code in enumerate(codes):
        mask[row, items[indptr[code] : indptr[code + 1]]] = True
    return mask


def encode_users(bundle: Bundle, users: Sequence[str], unknown_user: str, *, hint: bool = True) -> np.ndarray:
    """User codes, with -1 for ids that get the popular items.

    Args:
        bundle: its vocabulary of users is read.
        users: raw ids.
        unknown_user: what to do with an id that is not in it, ``"error"`` or ``"popular"``.
        hint: whether the error tells of ``"popular"``.

    Returns:
        int32 ``[len(users)]``.

    Raises:
        ConfigError: ``unknown_user`` is neither.
        DataError: an id is unknown and that is an error, or the bundle has no popularity for it.

    Example:
        >>> from debias_jax.data.vocab import Vocabulary
        >>> users, items = Vocabulary(["ann", "bob"], kind="user"), Vocabulary(["x", "y", "z"], kind="item")
        >>> bundle = Bundle(params={}, users=users, items=items, config={}, popularity=np.ones(3))
        >>> encode_users(bundle, ["bob", "eve"], "popular").tolist()
        [1, -1]
    """
    if unknown_user not in ("error", "popular"):
        raise ConfigError(f"unknown_user must be 'error' or 'popular', got {unknown_user!r}")
    missing = [str(user) for user in users if user not in bundle.users]
    if missing and unknown_user == "error":
        near = ", ".join(map(repr, _nearest(missing[0], bundle.users.ids)))
        raise DataError(
            f"user {missing[0]!r} is not among the {len(bundle.users)} known users"
            + (f"; the nearest are {near}" if near else "")
            + ("; unknown_user='popular' answers with the most popular items" if hint else "")
        )
    if missing and bundle.popularity is None:
        raise DataError(
            f"user {missing[0]!r} is unknown and the bundle holds no popularity to fall back on; "
            "save it with popularity=, or drop the user"
        )
    codes = np.full(len(users), _UNKNOWN, np.int32)
    known = [row for row, user in enumerate(users) if user in bundle.users]
    codes[known] = bundle.users.encode([users[row] for row in known])
    return codes


def _nearest(raw: str, ids: Sequence[str]) -> list[str]:
    # difflib takes up to 0.1 ms an id: of a large vocabulary it sees those that begin alike.
    if len(ids) > _COMPARED:
        ids = heapq.nlargest(_COMPARED, ids, key=lambda known: len(os.path.commonprefix([known, raw])))
    return difflib.get_close_matches(raw, ids, n=3, cutoff=0.5)
