"""Cross-entropy over all items, and the two truncations of its sum that stay above -log NDCG.

| loss | items in the sum |
|---|---|
| ``cross_entropy`` | all |
| ``top_cross_entropy`` (CE-n) | those in the first n places |
| ``truncated_cross_entropy`` (CE-eta) | those not more than eta abs(s+) below the target |

Whatever keeps every item that scores at least as high as the target bounds -log NDCG and -log RR from above
(``tests/statistical/test_cross_entropy_claims.py``). Where ``[N, V]`` scores do not fit into memory:
``chunked_cross_entropy``.
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_integer, check_mask
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.types import Array, ReduceFn


def cross_entropy(
    scores: Array,
    target: Array,
    *,
    candidates: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross-entropy of the target among all items.

    .. math:: \ell = -s_+ + \log \sum_v e^{s_v}

    Args:
        scores: ``[..., V]`` scores of all items.
        target: int ``[...]``, the target's column. A value that is not in 0..V-1 makes the example's loss NaN; it is
            not clamped.
        candidates: boolean ``[..., V]`` or ``[V]``, False for items to leave out of the sum, of which nothing is read.
            The target stays.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding, whose targets may hold anything.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores or weights are not floating, ``target`` no integers, ``where`` or ``candidates`` not boolean.
        ValueError: ``target`` is not of the shape of ``scores`` without its last axis, or another shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.cross_entropy(jnp.array([[1.0, 0.0, 0.0]]), jnp.array([0]))
        >>> print(f"{loss:.4f}")  # log(1 + 2 / e)
        0.5514

    References:
        Xu et al., "Understanding the role of cross-entropy loss in fairly evaluating large language model-based
        recommendation", 2024, eq. 1.
    """
    scores, pos = _checked(scores, target, candidates, weights, where)
    values = _less_target(scores, pos)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def top_cross_entropy(
    scores: Array,
    target: Array,
    *,
    n: int,
    candidates: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross-entropy whose sum runs over the first n places of the ranking alone (CE-n).

    .. math:: \ell = -s_+ + \log \sum_{v :\, r(v) \le n} e^{s_v}

    For a target among the first n it lies between -log NDCG and the cross-entropy. One that is further down is not in
    the sum. Items that tie with the n-th place are kept, so that the sum is never empty: the paper's rank counts all
    that tie as the last of them, and leaves them out where they do not fit.

    Args:
        scores: ``[..., V]`` scores of all items.
        target: int ``[...]``, the target's column; out of range makes the example's loss NaN.
        n: how many places, from 1 to V; with V it is ``cross_entropy``.
        candidates: as in ``cross_entropy``; places are counted without what it leaves out.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding, whose targets may hold anything.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: as ``cross_entropy``, or ``n`` is no Python integer.
        ValueError: as ``cross_entropy``, or ``n`` is not in 1..V.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.top_cross_entropy(jnp.array([[1.0, 2.0, 0.0]]), jnp.array([0]), n=2)
        >>> print(f"{loss:.4f}")  # log(1 + e)
        1.3133

    References:
        Xu et al., "Understanding the role of cross-entropy loss in fairly evaluating large language model-based
        recommendation", 2024, eq. 2, with -s_+ where it prints +s_+.
    """
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n must be a Python integer (it sets a shape), got {n!r}")
    scores, pos = _checked(scores, target, candidates, weights, where)
    if not 1 <= n <= scores.shape[-1]:
        raise ValueError(f"n must be between 1 and the {scores.shape[-1]} items, got {n}")
    last = jax.lax.top_k(jax.lax.stop_gradient(scores), n)[0][..., -1:]
    # A NaN is not below the last place: it is kept, and seen in the loss.
    values = _less_target(jnp.where(scores < last, -jnp.inf, scores), pos)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def truncated_cross_entropy(
    scores: Array,
    target: Array,
    *,
    eta: float | Array,
    candidates: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross-entropy whose sum leaves out items far below the target (CE-eta).

    .. math:: \ell = -s_+ + \log \sum_{v :\, s_v - s_+ \ge -\eta |s_+|} e^{s_v}

    It lies between -log NDCG and the cross-entropy, and rises with :math:`\eta`; :math:`\eta = 0` is CE-n with n the
    target's rank. It does not approach the cross-entropy where :math:`s_+ = 0`: the threshold is then 0 for every
    :math:`\eta`. What is left out is decided by the values; no gradient is taken of the threshold.

    Args:
        scores: ``[..., V]`` scores of all items.
        target: int ``[...]``, the target's column; out of range makes the example's loss NaN.
        eta: :math:`\eta \ge 0`, a scalar; it may be traced.
        candidates: as in ``cross_entropy``.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding, whose targets may hold anything.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: as ``cross_entropy``.
        ValueError: as ``cross_entropy``, ``eta`` is negative or no scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.truncated_cross_entropy(jnp.array([[1.0, 2.0, 0.0]]), jnp.array([0]), eta=0.5)
        >>> print(f"{loss:.4f}")  # log(1 + e): 0 is more than half of 1 below it
        1.3133

    References:
        Xu et al., "Understanding the role of cross-entropy loss in fairly evaluating large language model-based
        recommendation", 2024, eq. 3, with -s_+ where it prints +s_+. The released program lowers the threshold by
        another 1e-8, which is less than the rounding of scores in float32.
    """
    if isinstance(eta, (int, float)) and not eta >= 0:
        raise ValueError(f"eta must not be negative, got {eta}")
    check_broadcastable((), eta=eta)
    scores, pos = _checked(scores, target, candidates, weights, where)
    fixed = jax.lax.stop_gradient(pos)[..., None]
    # The difference, as the program has it: s+ - eta |s+| rounds, and would drop items that tie with the target.
    gap = jax.lax.stop_gradient(scores) - fixed
    kept = jnp.where(gap < -jnp.asarray(eta, gap.dtype) * jnp.abs(fixed), -jnp.inf, scores)
    values = _less_target(kept, pos)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def _less_target(scores: Array, pos: Array) -> Array:
    """Log of the sum of exponentials less the target's score, to the digits of the difference and not of the scores."""
    fixed = jax.lax.stop_gradient(pos)
    return jax.nn.logsumexp(scores - fixed[..., None], axis=-1) + (fixed - pos)


def _checked(
    scores: Array, target: Array, candidates: Array | None, weights: Array | None, where: Array | None
) -> tuple[Array, Array]:
    """Scores without what is masked or left out, ``[..., V]``, and the target's, ``[...]``."""
    check_float(scores=scores, weights=weights)
    check_integer(target=target)
    if jnp.ndim(scores) == 0 or jnp.shape(scores)[-1] == 0:
        raise ValueError(f"scores must be of shape (..., V) with V >= 1, got {jnp.shape(scores)}")
    shape, n_items = jnp.shape(scores)[:-1], jnp.shape(scores)[-1]
    if jnp.shape(target) != shape:
        raise ValueError(f"target must be of shape {shape}, got {jnp.shape(target)}")
    check_broadcastable(shape, weights=weights)
    per_item = jnp.ndim(candidates) == 1 if candidates is not None else False
    check_mask(candidates, (n_items,) if per_item else jnp.shape(scores), name="candidates")
    check_mask(where, shape)
    scores, target = fill_masked(jnp.asarray(scores), where), fill_masked(jnp.asarray(target), where, fill=0)
    if candidates is not None:
        columns = jnp.broadcast_to(jnp.arange(n_items, dtype=target.dtype), scores.shape)
        stays = jnp.broadcast_to(candidates, scores.shape) | (columns == target[..., None])
        scores = jnp.where(stays, scores, -jnp.inf)
    return scores, take_target(scores, target)


def take_target(scores: Array, target: Array) -> Array:
    """The target's scores, ``[...]`` of ``[..., V]``; NaN for a target that is not in 0..V-1."""
    return take_columns(scores, target[..., None])[..., 0]


def take_columns(scores: Array, columns: Array) -> Array:
    """Scores ``[..., m]`` of the columns ``[..., m]``; NaN for a column that is not in 0..V-1.

    Indexing alone would take another one's, as JAX clamps an index and counts a negative one from the end.
    """
    valid = (columns >= 0) & (columns < scores.shape[-1])
    return jnp.where(valid, jnp.take_along_axis(scores, jnp.where(valid, columns, 0), axis=-1), jnp.nan)
