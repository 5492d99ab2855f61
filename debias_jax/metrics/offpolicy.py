"""Evaluation on biased held-out feedback, weighted back by propensities."""

import jax.numpy as jnp

from debias_jax import _checks, _reduce
from debias_jax.metrics import _rank
from debias_jax.types import Array, ReduceFn


def snips_dcg(
    scores: Array,
    labels: Array,
    *,
    propensity: Array,
    where: Array | None = None,
    k: int | None = None,
    discount: str = "log2",
    ties: str = "pessimistic",
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Self-normalised inverse-propensity DCG of held-out positives that were observed with a bias.

    :math:`\hat R_u = \sum_{i \in S_u} \frac{c(z_i)}{P_i} \,/\, \sum_{i \in S_u} \frac{1}{P_i}`, with
    :math:`S_u` the held-out positives of the user, :math:`z_i` the rank of i among the candidates and c the
    discount within ``k``.

    The ratio removes the unknown scale of P. It is consistent, not unbiased, and its variance grows with the
    spread of 1/P over the few positives of one user: compare settings by the mean over users, never by single
    users.

    Args:
        scores: float ``[..., n]``, of all candidates.
        labels: ``[..., n]``, 1 for held-out positives, else 0.
        propensity: float ``[..., n]``, P up to a common factor. Entries with P = 0 (items that training never
            saw) are skipped as positives and stay candidates.
        where: boolean ``[..., n]``, False for padding and for items that cannot be recommended.
        k: ranks that count, or None for all.
        discount: ``"log2"`` or ``"jarvelin"``, see ``dcg``.
        ties: ``"pessimistic"`` or ``"by_index"``.
        reduce_fn: reduction over users, or None. Users without a positive of P > 0 do not enter it, and have
            value 0 where it is None.

    Returns:
        The reduced value, or ``[...]``.

    Raises:
        TypeError: ``scores`` or ``propensity`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, ``k < 1``, or an option is unknown.

    Example:
        >>> scores, labels = jnp.array([0.9, 0.5, 0.1]), jnp.array([1.0, 0.0, 1.0])
        >>> propensity = jnp.array([0.5, 0.5, 0.25])
        >>> round(float(snips_dcg(scores, labels, propensity=propensity)), 4)  # (2 * 1 + 4 / 2) / (2 + 4)
        0.6667

    Source:
        Yang, Cui, Xuan, Wang, Belongie and Estrin, Unbiased offline recommender evaluation for
        missing-not-at-random implicit feedback, RecSys 2018.
    """
    _checks.check_float(propensity=propensity)
    _checks.check_same_shape(scores=scores, labels=labels, propensity=propensity)
    ranking = _rank.rank(scores, labels, k=k, where=where, ties=ties)
    values, usable = _rank.ranked_snips_dcg(ranking, k, discount=discount, propensity=propensity)
    return _reduce.safe_reduce(values, where=usable, reduce_fn=reduce_fn)
