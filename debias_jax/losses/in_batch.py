"""Softmax losses in which the items of a batch are each other's negatives.

A batch of pairs holds item j in proportion to its popularity, which ``log_q`` has to undo. What each form learns, as
the batch grows (``tests/statistical/test_in_batch_claims.py`` enumerates it for small batches):

| form | negatives follow |
|---|---|
| ``in_batch_softmax`` | pop(j) exp(s_j) |
| ``in_batch_softmax(log_q=log pop)`` | exp(s_j): the full softmax |
| ``in_batch_softmax(log_q=log pop, sharpness=2)`` | exp(2 s_j) |
| ``resampled_softmax`` (BIR) | exp(2 s_j) |
| ``resampled_softmax(variant="corrected")`` | pop(j) exp(s_j) |
| ``resampled_softmax(variant="mean")`` | exp(s_j): the full softmax |

with the columns of the last three drawn in proportion to exp(s_j) / pop(j).
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import (
    check_broadcastable,
    check_choice,
    check_float,
    check_integer,
    check_mask,
    check_samples,
)
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.losses.softmax import take_columns, take_target
from debias_jax.types import Array, ReduceFn

IN_BATCH_VARIANTS = ("published", "released")
RESAMPLED_VARIANTS = ("published", "released", "corrected", "mean")


def in_batch_softmax(
    scores: Array,
    *,
    log_q: Array | None = None,
    targets: Array | None = None,
    candidates: Array | None = None,
    sharpness: float | Array = 1.0,
    variant: str = "published",
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Cross-entropy of each row's own column among the columns of the batch.

    .. math::
        \ell_u = -\frac{1}{\beta} \log \frac{e^{\beta s_{uu} - \log q_u}}{\sum_j e^{\beta s_{uj} - \log q_j}}

    With :math:`\beta = 1` and q the popularity of the items the gradient is consistent for that of the softmax over all
    items as the batch grows, with a bias of O(1/B); without ``log_q`` popular items are pushed down as often as they
    are drawn, and the scores learn the preference less the log popularity. :math:`\beta = 2` is the limit of BIR's
    resampling (``resampled_softmax``), without its noise.

    Args:
        scores: ``[B, C]`` scores of each row's query against the items of the batch, C >= B; with ``targets`` any
            ``[..., C]``.
        log_q: ``[C]`` log sampling probability of each column's item, up to a constant; no gradient is taken. None for
            no correction.
        targets: int ``[...]``, the column of each row's positive; None for the diagonal. A value that is not in 0..C-1
            makes the row's loss NaN.
        candidates: boolean ``[..., C]``, False for columns to leave out, which then have probability exactly 0: see
            ``sampling.accidental_hits``. A row's own column stays.
        sharpness: :math:`\beta > 0`, a scalar.
        variant: ``"published"``, or ``"released"``: the positive stands in the denominator a second time.
        weights: factor of each row, a scalar or ``[...]``; a mean divides by the number of rows, not by the sum of the
            weights.
        where: boolean ``[...]``, False for padding among the rows. It says nothing of columns: what stands there as
            padding is a negative of all rows unless ``candidates`` leaves it out.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the rows.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``log_q`` or weights are not floating, ``targets`` no integers, ``where`` or ``candidates``
            not boolean.
        ValueError: a shape does not fit ``scores``, ``sharpness`` is not positive, or ``variant`` is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> scores = jnp.array([[1.0, 0.0], [2.0, 2.0]])
        >>> loss = losses.in_batch_softmax(scores, log_q=jnp.log(jnp.array([0.5, 0.25])), reduce_fn=None)
        >>> print(", ".join(f"{value:.4f}" for value in loss))  # log(1 + 2 / e), log(1 + 1/2)
        0.5514, 0.4055

    References:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019, eq. 4-5
        (SSL-Pop in Chen et al., "Cache-augmented inbatch importance resampling for training recommender retriever",
        NeurIPS 2022, whose program is the released variant).
    """
    check_float(scores=scores, log_q=log_q, weights=weights)
    if isinstance(sharpness, (int, float)) and not sharpness > 0:
        raise ValueError(f"sharpness must be positive, got {sharpness}")
    sharpness = jnp.asarray(sharpness, jnp.result_type(scores))
    check_choice(IN_BATCH_VARIANTS, variant=variant)
    check_integer(targets=targets)
    rows, n_columns = jnp.shape(scores)[:-1], jnp.shape(scores)[-1]
    if targets is None:
        if len(rows) != 1 or n_columns < rows[0]:
            raise ValueError(
                f"without targets scores must be of shape (B, C) with C >= B, got {jnp.shape(scores)}"
            )
        targets = jnp.arange(rows[0])
    elif jnp.shape(targets) != rows:
        raise ValueError(f"targets must be of shape {rows}, got {jnp.shape(targets)}")
    if log_q is not None and jnp.shape(log_q) != (n_columns,):
        raise ValueError(f"log_q must be of shape ({n_columns},), got {jnp.shape(log_q)}")
    check_broadcastable((), sharpness=sharpness)
    check_broadcastable(rows, weights=weights)
    check_mask(candidates, jnp.shape(scores), name="candidates")
    check_mask(where, rows)
    logits = fill_masked(scores, where) * sharpness
    if log_q is not None:
        logits = logits - jnp.broadcast_to(jax.lax.stop_gradient(log_q), logits.shape)
    own = targets[..., None]
    if candidates is not None:
        columns = jnp.broadcast_to(jnp.arange(n_columns), logits.shape)
        logits = jnp.where(candidates | (columns == own), logits, -jnp.inf)
    pos = take_target(logits, targets)
    values = against_total(pos, jax.nn.logsumexp(logits, axis=-1), variant) / sharpness
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def against_total(pos: Array, total: Array, variant: str) -> Array:
    """The loss of positives against totals over their columns, as the in-batch and the resampled losses take it.

    Args:
        pos: ``[...]`` logits of the positives.
        total: ``[...]`` log of the sum of exponentials over the columns; with ``variant="mean"`` their mean.
        variant: ``"released"`` takes the positive into the total, all others do not.

    Returns:
        ``[...]``.
    """
    return jax.nn.softplus(total - pos) if variant == "released" else total - pos


def resampled_softmax(
    pos: Array,
    scores: Array,
    indices: Array | None = None,
    *,
    counts: Array | None = None,
    log_w: Array | None = None,
    variant: str = "published",
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""BIR's loss: the positive against columns of the batch that were drawn anew in proportion to w.

    For m columns :math:`R_u` of row u, drawn with replacement by ``sampling.in_batch_resample`` in proportion to
    :math:`w_{uj} \propto e^{s_{uj}} / \mathrm{pop}(j)`,

    .. math::
        \text{published:} &\; -s^+ + \log \sum_{j \in R_u} e^{s_{uj}} \\
        \text{released:} &\; -s^+ + \log \Big( e^{s^+} + \sum_{j \in R_u} e^{s_{uj}} \Big) \\
        \text{corrected:} &\; -s^+ + \log \sum_{j \in R_u} e^{s_{uj} - \log (m w_{uj})} \\
        \text{mean:} &\; -s^+ + \frac{1}{m} \sum_{j \in R_u} s_{uj}

    The drawn columns follow the softmax already (theorem 3.1 of the paper), and the first two weigh them by
    :math:`e^s` once more: as batch and m grow, their gradient is that of the softmax of *twice* the scores, which
    ``in_batch_softmax(sharpness=2)`` has without drawing. ``"corrected"`` is the estimator of theorem 3.2; it is the
    in-batch softmax *without* popularity correction as m grows. ``"mean"`` is the one whose gradient is that of the
    softmax; its value is no log-likelihood.

    Args:
        pos: ``[...]`` scores of the positives.
        scores: ``[..., C]`` scores against the columns.
        indices: int ``[..., m]``, the drawn columns. A value that is not in 0..C-1 makes the row's loss NaN.
        counts: ``[..., C]``, how often each column was drawn, in place of ``indices``: cheaper, above all backwards.
        log_w: ``[..., C]`` log probability of drawing each column, for ``"corrected"``; no gradient is taken.
        variant: see above.
        weights: factor of each row, a scalar or ``[...]``; a mean divides by the number of rows, not by the sum of the
            weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the rows.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``log_w``, ``counts`` or weights are not floating, ``indices`` no integers, ``where`` not
            boolean.
        ValueError: a shape does not fit, ``variant`` is unknown or lacks ``log_w``, or not exactly one of ``indices``
            and ``counts`` is given.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> pos, scores = jnp.array([1.0]), jnp.array([[1.0, 0.0, 3.0]])
        >>> loss = losses.resampled_softmax(pos, scores, jnp.array([[1, 1, 0]]))
        >>> print(f"{loss:.4f}")  # log(2 + e) - 1
        0.5514

    References:
        Chen, Lian, Huang, Zheng and Chen, "Cache-augmented inbatch importance resampling for training recommender
        retriever", NeurIPS 2022, section 3.1; ``"corrected"`` after its theorem 3.2.
    """
    check_float(pos=pos, scores=scores, counts=counts, log_w=log_w, weights=weights)
    check_integer(indices=indices)
    check_choice(RESAMPLED_VARIANTS, variant=variant)
    shape = jnp.shape(pos)
    check_samples(shape, scores=scores)
    if (indices is None) == (counts is None):
        raise ValueError("give either indices or counts")
    for name, value in (("counts", counts), ("log_w", log_w)):
        if value is not None and jnp.shape(value) != jnp.shape(scores):
            raise ValueError(f"{name} must be of shape {jnp.shape(scores)}, got {jnp.shape(value)}")
    if (log_w is None) == (variant == "corrected"):
        raise ValueError(f"variant {variant!r} {'needs' if log_w is None else 'takes no'} log_w")
    check_broadcastable(shape, weights=weights)
    check_mask(where, shape)
    if indices is not None:
        check_samples(shape, indices=indices)
        drawn = jnp.ones(jnp.shape(indices))
        scores = take_columns(scores, indices)
        if log_w is not None:
            log_w = take_columns(log_w, indices)
    else:
        drawn = jax.lax.stop_gradient(fill_masked(counts, where, fill=1.0))
    pos, scores = fill_masked(pos, where), fill_masked(scores, where)
    if log_w is not None:
        log_w = fill_masked(log_w, where)
    values = against_total(pos, resampled_total(scores, drawn, log_w=log_w, variant=variant), variant)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def resampled_total(scores: Array, counts: Array, *, variant: str, log_w: Array | None = None) -> Array:
    """What ``resampled_softmax`` sets against the positive: the drawn columns' total, or their mean score.

    Args:
        scores: ``[..., C]``.
        counts: float ``[..., C]``, how often each column was drawn, at least one of them positive.
        variant: see ``resampled_softmax``.
        log_w: ``[..., C]`` for ``"corrected"``.

    Returns:
        ``[...]``.
    """
    if variant == "mean":
        share = counts / jnp.sum(counts, axis=-1, keepdims=True)
        return jnp.sum(jnp.where(counts > 0, scores, 0.0) * share, axis=-1)
    if variant == "corrected":
        log_w = jnp.where(counts > 0, jax.lax.stop_gradient(log_w), 0.0)
        scores = scores - log_w - jnp.log(jnp.sum(counts, axis=-1, keepdims=True))
    return jax.nn.logsumexp(scores, axis=-1, b=counts)
