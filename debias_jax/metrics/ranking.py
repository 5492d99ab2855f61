"""Ranking metrics over padded lists.

A list lies on the last axis: scores, labels and a boolean ``where`` that is False for padding; leading axes
are batch. All are pure, run under jit and vmap, and share these conventions:

- Higher scores rank first. NaN ranks last, so that it cannot win; ``training.evaluate`` reports it.
- ``ties="pessimistic"`` (the default) ranks the lower label first among equal scores: the value does not
  depend on the order of the list, and a constant scorer cannot profit from it. ``"by_index"`` ranks the lower
  position first.
- Labels lie in [0, 1] (``dcg`` and ``ndcg`` take any grades >= 0). Sums of labels count hits when they are
  binary; where a yes or no is needed, relevant means a label of at least 0.5.
- A list without a relevant entry has value 0. Whether such a user counts, and as what, is the protocol's
  choice.
- ``k`` larger than a list means the whole list.
- ``reduce_fn`` reduces over lists; those with every entry masked do not count. ``reduce_fn=None`` returns
  ``[...]``.
"""

import jax.numpy as jnp

from debias_jax import _checks
from debias_jax.metrics import _rank
from debias_jax.types import Array, ReduceFn


def dcg(
    scores: Array,
    labels: Array,
    *,
    weights: Array | None = None,
    where: Array | None = None,
    k: int | None = None,
    gain: str = "linear",
    discount: str = "log2",
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Discounted cumulative gain, :math:`\sum_{r \le k} w_{(r)}\, g(y_{(r)})\, d(r)`.

    Args:
        scores: float ``[..., n]``.
        labels: grades ``[..., n]``, at least 0.
        weights: float ``[..., n]``, factor of each gain (an inverse propensity), or None for 1.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        gain: ``"linear"`` g(y) = y, or ``"exponential"`` g(y) = 2^y - 1; equal for binary labels.
        discount: ``"log2"`` d(r) = 1 / log2(r + 1), or ``"jarvelin"`` d(r) = 1 / max(1, log2 r), which leaves
            rank 2 undiscounted (Saito et al. 2020 use it).
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``scores`` or ``weights`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> float(dcg(jnp.array([0.9, 0.5, 0.1]), jnp.array([1.0, 0.0, 1.0])))  # 1 + 1/2
        1.5

    Source:
        Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    _checks.check_float(weights=weights)
    _checks.check_same_shape(scores=scores, weights=weights)
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    values = _rank.ranked_dcg(ranking, k, gain=gain, discount=discount, weights=weights)
    return _rank.reduce_lists(values, where, reduce_fn)


def ndcg(
    scores: Array,
    labels: Array,
    *,
    where: Array | None = None,
    k: int | None = None,
    gain: str = "linear",
    discount: str = "log2",
    ideal: str = "top_k",
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""DCG over the DCG of the best order, :math:`\mathrm{DCG@}k / \mathrm{IDCG}`.

    Args:
        scores: float ``[..., n]``.
        labels: grades ``[..., n]``, at least 0.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        gain: ``"linear"`` or ``"exponential"``, see ``dcg``.
        discount: ``"log2"`` or ``"jarvelin"``, see ``dcg``.
        ideal: ``"top_k"`` cuts the best order at ``k`` too; ``"full"`` does not, so that 1 may be out of
            reach.
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``; 0 for a list without positive labels.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> scores, labels = jnp.array([0.9, 0.5, 0.1]), jnp.array([0.0, 0.0, 1.0])
        >>> float(ndcg(scores, labels))  # 1 / log2(3 + 1)
        0.5

    Source:
        Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002.
    """
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    values = _rank.ranked_ndcg(ranking, k, gain=gain, discount=discount, ideal=ideal)
    return _rank.reduce_lists(values, where, reduce_fn)


def average_precision(
    scores: Array,
    labels: Array,
    *,
    where: Array | None = None,
    k: int | None = None,
    normaliser: str = "positives",
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Average precision, :math:`Z^{-1} \sum_{r \le k:\, y_{(r)} = 1} \frac{1}{r} \sum_{s \le r} y_{(s)}`.

    The mean over users is MAP. Four normalisers Z are in use under that one name, and they are not
    comparable.

    Args:
        scores: float ``[..., n]``.
        labels: labels in [0, 1], ``[..., n]``.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        normaliser: ``"positives"``, relevant entries of the list (scikit-learn's, with ``k=None``);
            ``"min_k"``, the smaller of that and ``k`` (the textbook's MAP@k);
            ``"hits"``, relevant entries on the first ``k`` ranks (CJMF, Zhu et al. 2020; their 1e-7 is left
            out); ``"none"``, 1 (Saito et al. 2020), which may exceed 1.
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``; 0 for a list without relevant entries.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> scores, labels = jnp.array([0.9, 0.5, 0.1]), jnp.array([0.0, 1.0, 1.0])
        >>> [round(float(average_precision(scores, labels, k=2, normaliser=z)), 2) for z in ("hits", "min_k")]
        [0.5, 0.25]

    Source:
        Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.4.
    """
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    values = _rank.ranked_average_precision(ranking, k, normaliser=normaliser)
    return _rank.reduce_lists(values, where, reduce_fn)


def recall(
    scores: Array,
    labels: Array,
    *,
    where: Array | None = None,
    k: int | None = None,
    denominator: str = "positives",
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Recall, :math:`\sum_{r \le k} y_{(r)} \,/\, \sum_j y_j`.

    Args:
        scores: float ``[..., n]``.
        labels: labels in [0, 1], ``[..., n]``.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        denominator: ``"positives"``, the sum of labels; ``"min_k"``, at most ``k``, so that 1 can be reached.
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``; 0 for a list whose labels are all 0.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> float(recall(jnp.array([0.9, 0.5, 0.1]), jnp.array([1.0, 0.0, 1.0]), k=1))
        0.5

    Source:
        Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.3.
    """
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    values = _rank.ranked_recall(ranking, k, denominator=denominator)
    return _rank.reduce_lists(values, where, reduce_fn)


def precision(
    scores: Array,
    labels: Array,
    *,
    where: Array | None = None,
    k: int | None = None,
    denominator: str = "k",
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Precision, :math:`\frac{1}{K} \sum_{r \le k} y_{(r)}`.

    Args:
        scores: float ``[..., n]``.
        labels: labels in [0, 1], ``[..., n]``.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        denominator: ``"k"``; or ``"candidates"``, the smaller of ``k`` and the entries of the list that are
            not masked (what the released BADR divides by).
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> float(precision(jnp.array([0.9, 0.5, 0.1]), jnp.array([1.0, 0.0, 1.0]), k=2))
        0.5

    Source:
        Manning, Raghavan and Schütze, Introduction to Information Retrieval, 2008, section 8.3.
    """
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    values = _rank.ranked_precision(ranking, k, denominator=denominator)
    return _rank.reduce_lists(values, where, reduce_fn)


def hit_rate(
    scores: Array,
    labels: Array,
    *,
    where: Array | None = None,
    k: int | None = None,
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Hit rate, :math:`\mathbb{1}[\text{a relevant entry is on the first } k \text{ ranks}]`.

    Args:
        scores: float ``[..., n]``.
        labels: labels in [0, 1], ``[..., n]``.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> float(hit_rate(jnp.array([0.9, 0.5, 0.1]), jnp.array([0.0, 1.0, 0.0]), k=2))
        1.0

    Source:
        Deshpande and Karypis, Item-based top-N recommendation algorithms, TOIS 2004.
    """
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    return _rank.reduce_lists(_rank.ranked_hit_rate(ranking, k), where, reduce_fn)


def mrr(
    scores: Array,
    labels: Array,
    *,
    where: Array | None = None,
    k: int | None = None,
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Reciprocal rank of the first relevant entry, :math:`1 / \min\{r \le k : y_{(r)} = 1\}`; 0 without one.

    Args:
        scores: float ``[..., n]``.
        labels: labels in [0, 1], ``[..., n]``.
        where: boolean ``[..., n]``, False for padding.
        k: ranks that count, or None for all.
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over lists, or None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``scores`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> float(mrr(jnp.array([0.9, 0.5, 0.1]), jnp.array([0.0, 1.0, 1.0])))
        0.5

    Source:
        Voorhees, The TREC-8 question answering track report, 1999.
    """
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    return _rank.reduce_lists(_rank.ranked_mrr(ranking, k), where, reduce_fn)
