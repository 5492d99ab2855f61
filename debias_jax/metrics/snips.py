"""Self-normalised inverse-propensity metrics of held-out clicks, normalised within each user."""

import jax.numpy as jnp

from debias_jax import _checks, _reduce
from debias_jax.metrics import _offpolicy, _rank
from debias_jax.metrics._offpolicy import Estimate
from debias_jax.types import Array, Key, ReduceFn


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


def user_snips(
    scores: Array,
    labels: Array,
    *,
    propensity: Array,
    where: Array | None = None,
    k: int | None = None,
    metric: str = "dcg",
    variant: str = "published",
    ties: str | None = None,
    level: float = 0.95,
    key: Key | None = None,
    n_resamples: int = 1000,
) -> Estimate:
    r"""The mean over users of a metric of their clicks, each user's weights normalised by themselves.

    - ``"published"``, Yang et al. 2018: :math:`\sum_{i \in S_u} c(z_i) / P_i \,/\, \sum_{i \in S_u} 1 / P_i` with
      :math:`S_u` the clicks of the user. ``"dcg"`` and ``"recall"`` have the gains of ``ips_value``; ``"auc"`` has
      :math:`c = 1 - (z - 1) / n` and no cut. It is the metric averaged over relevant items, so that P is needed up to a
      factor only. Their P is :math:`n_i^{(\gamma + 1) / 2}` of the training counts, ``risks.popularity_power``.
    - ``"cjmf"``, the program released with Zhu et al. 2020: recall as above, by which it selects (k = 30); DCG is not
      normalised, :math:`\sum c / P`; ``"map"`` sums the clicks' weights up to each hit over its rank, and divides by
      the number of hits within k. Its P is the model's own exposure estimate, clipped to [.01, .99]: a model that calls
      its hits rare scores high, so compare no two models by it.

    A ratio within one user has a bias of order one over the user's clicks, which more users do not remove.

    Args:
        scores: float ``[..., n]``, of all candidates; one list a user.
        labels: ``[..., n]``, 1 for held-out clicks, else 0.
        propensity: float ``[..., n]``, up to a factor, read where ``labels > 0``. A click with P = 0 (on an item
            that training never saw) weighs nothing: it is no click, and stays a candidate. Of one below 0, infinite or
            NaN the value is NaN under ``jit``, where it cannot be refused.
        where: boolean ``[..., n]``, False for padding and for items that cannot be recommended.
        k: ranks that count, or None for all.
        metric: ``"auc"``, ``"dcg"`` or ``"recall"``; of ``"cjmf"`` ``"dcg"``, ``"map"`` or ``"recall"``.
        variant: ``"published"`` or ``"cjmf"``.
        ties: ``"mean"`` or ``"by_index"``; None for ``"mean"``, of ``"map"``, which knows no other, ``"by_index"``.
        level: of the interval, in (0, 1).
        key: None for the normal interval, a key for a percentile bootstrap over users.
        n_resamples: resamples of the bootstrap.

    Returns:
        The estimate; users without a click of P > 0 do not count.

    Raises:
        TypeError: ``scores`` or ``propensity`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, an option is unknown, two do not fit, or a number is out of its range, P included.

    Example:
        >>> scores, clicks = jnp.array([[0.9, 0.5, 0.1]]), jnp.array([[1.0, 0.0, 1.0]])
        >>> propensity = jnp.array([[0.5, 0.5, 0.25]])
        >>> value = user_snips(scores, clicks, propensity=propensity, k=2, metric="recall")
        >>> round(float(value.estimate), 4)  # 2 / (2 + 4)
        0.3333

    Source:
        Yang, Cui, Xuan, Wang, Belongie and Estrin, Unbiased offline recommender evaluation for
        missing-not-at-random implicit feedback, RecSys 2018; Zhu, He, Zhang and Caverlee, Unbiased implicit
        recommendation and propensity estimation via combinational joint learning, RecSys 2020.
    """
    allowed = {"published": ("auc", "dcg", "recall"), "cjmf": ("dcg", "map", "recall")}
    _checks.check_choice(tuple(allowed), variant=variant)
    _rank.check_option(metric, allowed[variant], f"metric of variant {variant!r}")
    of_ties = ("by_index",) if metric == "map" else ("mean", "by_index")
    ties = of_ties[0] if ties is None else ties
    _rank.check_option(ties, of_ties, f"ties of metric {metric!r}")
    _checks.check_same_shape(scores=scores, labels=labels, propensity=propensity)
    weighed = (jnp.asarray(labels) > 0) & (jnp.asarray(propensity) != 0)
    inputs = _offpolicy.prepare(scores, labels, weighed, propensity, where, level=level, largest=jnp.inf)
    if metric == "map":
        of_user = _weighted_map(inputs, k)
    else:
        gains = _offpolicy.item_gains(
            inputs.scores, inputs.mask, metric=metric, k=k, discount="log2", ties=ties
        )
        of_user = jnp.sum(gains * inputs.weights, axis=-1)
        if variant == "published" or metric == "recall":
            of_user = _reduce.safe_divide(of_user, jnp.sum(inputs.weights, axis=-1))

    def value(users):
        return _reduce.safe_divide(jnp.sum(users * of_user), jnp.sum(users))

    counted = (inputs.weights != 0).any(-1)
    return _offpolicy.summarise(value, counted, inputs.weights, level=level, key=key, n_resamples=n_resamples)


def _weighted_map(inputs: _offpolicy.Inputs, k: int | None) -> Array:
    """The released program's average precision, its 1e-7 a rank in the denominator included."""
    clicks = (inputs.weights != 0).astype(inputs.weights.dtype)
    ranking = _rank.rank(inputs.scores, clicks, k=k, where=inputs.mask, ties="by_index")
    weights = jnp.take_along_axis(inputs.weights, ranking.order, axis=-1) * ranking.labels
    ranks = (_rank.positions(weights.shape) + 1).astype(weights.dtype)
    total = jnp.sum(ranking.labels * jnp.cumsum(weights, axis=-1) / ranks, axis=-1)
    return total / jnp.sum(ranking.labels + 1e-7, axis=-1)
