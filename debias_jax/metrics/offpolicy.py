r"""Evaluation on biased held-out feedback, weighted back by propensities.

The estimators of a metric over users, ``ips_value``, ``snips_value`` and ``dr_value``, take one list a user:

.. math::
    M = \frac{\sum_u \sum_i g_{ui}\, \tilde r_{ui}}{\sum_u D_u}, \qquad
    D_u = 1 \ (\text{DCG, precision}), \quad \sum_i \tilde r_{ui} \ (\text{recall}), \quad
    \mathrm{IDCG}(\textstyle\sum_i \tilde r_{ui}) \ (\text{NDCG})

with g what a relevant item adds at its rank (its discount; 1 / k for precision, 1 for recall; 0 behind k; the mean of
their ranks for tied items, whose relevance is not known and so cannot break the tie) and :math:`\tilde r` an estimate
of its relevance. DCG and precision are means over users. Recall and NDCG are ratios of sums: how many relevant items a
user has is itself estimated, and a mean of such ratios would keep its bias however many users there are. IDCG is not
linear in that number. Of IPS and SNIPS its estimate is too small, and NDCG too large, for users with few relevant
items; of DR it can also be too large, for users without any.

The scores must not have been trained on the log that is evaluated on: a model knows its own clicks, and they would say
that it ranks well.

The interval is the delta method's, or a percentile bootstrap's over users where a key is given. It speaks of a fresh
sample of users with a fresh log, and of nothing else: not of propensities that are wrong.

A propensity that cannot be one is refused by its value; under ``jit`` and ``vmap``, where there are no values to look
at, what it weighs is NaN.
"""

from typing import NamedTuple

import jax.numpy as jnp

from debias_jax import _checks, _reduce
from debias_jax.metrics import _offpolicy
from debias_jax.metrics._offpolicy import Estimate
from debias_jax.types import Array, Key


class Overlap(NamedTuple):
    """How well a log covers what is evaluated on it.

    Attributes:
        n: int32, logged pairs.
        ess: effective sample size of their weights 1 / P.
        largest_weight: the largest 1 / P.
        largest_share: its share of the sum of weights.
        small_share: share of all pairs with P below the threshold: what the log can hardly know.
        small_logged: share of the logged pairs with P below it.
        small_weight: share of the sum of weights that those carry. Its expectation is near ``small_share``; far below
            it, such pairs were missed, and estimates are silent about them.
    """

    n: Array
    ess: Array
    largest_weight: Array
    largest_share: Array
    small_share: Array
    small_logged: Array
    small_weight: Array


def ips_value(
    scores: Array,
    labels: Array,
    *,
    propensity: Array,
    where: Array | None = None,
    k: int | None = None,
    metric: str = "dcg",
    discount: str = "log2",
    ties: str = "mean",
    level: float = 0.95,
    key: Key | None = None,
    n_resamples: int = 1000,
) -> Estimate:
    r"""A ranking metric from clicks, each weighted by its inverse propensity: :math:`\tilde r = y / P`.

    Unbiased for DCG and precision where P is right and nowhere 0. The variance grows with 1 / P.

    Args:
        scores: float ``[..., n]``, of all candidates; one list a user.
        labels: ``[..., n]``, relevance in [0, 1] of pairs that were seen, else 0: clicks.
        propensity: float ``[..., n]``, probability that the pair was seen, in (0, 1]; read where ``labels > 0``.
        where: boolean ``[..., n]``, False for padding and for items that cannot be recommended.
        k: ranks that count, or None for all.
        metric: ``"dcg"``, ``"ndcg"``, ``"precision"`` or ``"recall"``.
        discount: of DCG and NDCG, ``"log2"`` or ``"jarvelin"``.
        ties: ``"mean"``, the mean over the orders of tied items, or ``"by_index"``.
        level: of the interval, in (0, 1).
        key: None for the delta method, a key for a percentile bootstrap over users.
        n_resamples: resamples of the bootstrap.

    Returns:
        The estimate.

    Raises:
        TypeError: ``scores`` or ``propensity`` is not of a floating dtype, or ``where`` not boolean.
        ValueError: shapes differ, an option is unknown, or a propensity that is read, ``k``, ``level`` or
            ``n_resamples`` is out of its range.

    Example:
        >>> scores = jnp.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3]])
        >>> clicks = jnp.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> value = ips_value(scores, clicks, propensity=jnp.full((2, 3), 0.5), k=2, metric="precision")
        >>> float(value.estimate), int(value.n), float(value.ess)  # two items of two at rank 1, each counted twice
        (1.0, 2, 2.0)

    Source:
        Horvitz and Thompson, A generalization of sampling without replacement from a finite universe, JASA 1952; for
        ranking metrics Schnabel et al., ICML 2016, section 3.2.
    """
    inputs = _offpolicy.prepare(scores, labels, None, propensity, where, level=level)
    value = _offpolicy.metric_value(
        inputs, inputs.labels * inputs.weights, metric=metric, k=k, discount=discount, ties=ties
    )
    return _offpolicy.summarise(
        value, inputs.mask.any(-1), inputs.weights, level=level, key=key, n_resamples=n_resamples
    )


def snips_value(
    scores: Array,
    labels: Array,
    *,
    observed: Array,
    propensity: Array,
    where: Array | None = None,
    k: int | None = None,
    metric: str = "dcg",
    discount: str = "log2",
    ties: str = "mean",
    level: float = 0.95,
    key: Key | None = None,
    n_resamples: int = 1000,
) -> Estimate:
    r"""A ranking metric from a log, its weights scaled to sum to the number of pairs.

    .. math:: \tilde r_{ui} = \frac{o_{ui}\, r_{ui}}{P_{ui}} \cdot \frac{N}{\sum_{vj} o_{vj} / P_{vj}}

    with N the number of candidates of all users. Consistent in the number of users, not unbiased. A common factor of
    all P changes nothing, and neither does a log that by chance is larger than expected. Recall is the value of
    ``ips_value``, where the factor cancels anyway.

    The sum needs every pair that was seen, clicked or not. Where only clicks are known there is no such sum: take
    ``ips_value``, or ``user_snips``, which divides by the weights of the clicks.

    Args:
        scores: as in ``ips_value``.
        labels: ``[..., n]``, relevance in [0, 1]; read where ``observed``.
        observed: ``[..., n]``, boolean or 0.0 / 1.0, pairs whose label is in the log.
        propensity: float ``[..., n]``, above 0, P up to a common factor; read where ``observed``.
        where: as in ``ips_value``, as are all others.
        k: see there.
        metric: see there.
        discount: see there.
        ties: see there.
        level: see there.
        key: see there.
        n_resamples: see there.

    Returns:
        The estimate.

    Raises:
        TypeError: as there, or ``observed`` is neither boolean nor floating.
        ValueError: as there.

    Example:
        >>> scores = jnp.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3]])
        >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> observed = jnp.array([[True, True, False], [False, False, True]])
        >>> value = snips_value(
        ...     scores, labels, observed=observed, propensity=jnp.full((2, 3), 0.1), k=2, metric="precision")
        >>> float(value.estimate)  # two of three logged labels are positive, both at a rank within 2: 2 (2 / 3) 3 / 4
        1.0

    Source:
        Swaminathan and Joachims, The self-normalized estimator for counterfactual learning, NeurIPS 2015.
    """
    inputs = _offpolicy.prepare(scores, labels, observed, propensity, where, level=level, largest=jnp.inf)
    value = _offpolicy.metric_value(
        inputs,
        inputs.labels * inputs.weights,
        metric=metric,
        k=k,
        discount=discount,
        ties=ties,
        self_normalised=True,
    )
    return _offpolicy.summarise(
        value, inputs.mask.any(-1), inputs.weights, level=level, key=key, n_resamples=n_resamples
    )


def dr_value(
    scores: Array,
    labels: Array,
    *,
    imputed: Array,
    observed: Array,
    propensity: Array,
    where: Array | None = None,
    k: int | None = None,
    metric: str = "dcg",
    discount: str = "log2",
    ties: str = "mean",
    level: float = 0.95,
    key: Key | None = None,
    n_resamples: int = 1000,
) -> Estimate:
    r"""A ranking metric from a log and a model of relevance: :math:`\tilde r = \hat r + o\,(r - \hat r) / P`.

    Unbiased for DCG and precision where P is right or the imputed relevance is right in the mean, and of less variance
    than ``ips_value`` the better the imputation is. The imputation must not have been fitted on the log that is
    evaluated on. Where only clicks are known (o and r as their product) use ``ips_value``, and never pass clicks as
    ``observed``: the estimate is then too large by :math:`\hat r (1 - \gamma)` a pair, with gamma the probability that
    it is relevant, since no pair that was seen and not clicked takes the imputation back.

    Args:
        scores: as in ``ips_value``.
        labels: ``[..., n]``, relevance in [0, 1]; read where ``observed``.
        imputed: float ``[..., n]``, the model's relevance, for every candidate.
        observed: ``[..., n]``, boolean or 0.0 / 1.0, pairs whose label is in the log.
        propensity: float ``[..., n]``, in (0, 1]; read where ``observed``.
        where: as in ``ips_value``, as are all others.
        k: see there.
        metric: see there.
        discount: see there.
        ties: see there.
        level: see there.
        key: see there.
        n_resamples: see there.

    Returns:
        The estimate.

    Raises:
        TypeError: as there, or ``imputed`` is not of a floating dtype, or ``observed`` neither boolean nor floating.
        ValueError: as there.

    Example:
        >>> scores = jnp.array([[0.9, 0.5, 0.1], [0.2, 0.8, 0.3]])
        >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> observed = jnp.array([[True, True, False], [False, False, True]])
        >>> arguments = {"observed": observed, "propensity": jnp.full((2, 3), 0.5), "metric": "precision", "k": 1}
        >>> float(dr_value(scores, labels, imputed=jnp.full((2, 3), 0.5), **arguments).estimate)  # (1.5 + 0.5) / 2
        1.0

    Source:
        Robins, Rotnitzky and Zhao, Estimation of regression coefficients when some regressors are not always observed,
        JASA 1994; as an off-policy estimator Dudík, Langford and Li, ICML 2011.
    """
    inputs = _offpolicy.prepare(scores, labels, observed, propensity, where, level=level, imputed=imputed)
    imputed = jnp.where(inputs.mask, jnp.reshape(imputed, inputs.mask.shape), 0.0)
    value = _offpolicy.metric_value(
        inputs,
        imputed + inputs.weights * (inputs.labels - imputed),
        metric=metric,
        k=k,
        discount=discount,
        ties=ties,
    )
    return _offpolicy.summarise(
        value, inputs.mask.any(-1), inputs.weights, level=level, key=key, n_resamples=n_resamples
    )


def overlap(
    propensity: Array, *, observed: Array, where: Array | None = None, threshold: float = 0.05
) -> Overlap:
    r"""How well a log covers all pairs, by the propensities with which it saw them.

    Read it before any estimate: where few pairs carry most of the weight an interval is too short, and pairs that are
    never seen are in no estimate at all.

    Args:
        propensity: float ``[...]``, probability that each pair is seen, in (0, 1]. Where it is known for logged pairs
            alone, give those and ``observed`` of ones; ``small_share`` is then that of the log. A pair that is not in
            the log may have 0.
        observed: ``[...]``, boolean or 0.0 / 1.0, pairs of the log.
        where: boolean ``[...]``, False for padding.
        threshold: in (0, 1], below which a propensity is small.

    Returns:
        The report; shares are 0 where there is nothing to have a share of.

    Raises:
        TypeError: ``propensity`` is not of a floating dtype, ``observed`` neither boolean nor floating, or ``where``
            not boolean.
        ValueError: shapes differ, or a propensity or ``threshold`` is out of its range.

    Example:
        >>> report = overlap(jnp.array([0.5, 0.5, 0.02, 0.02]), observed=jnp.array([1.0, 1.0, 1.0, 0.0]))
        >>> float(report.largest_weight), round(float(report.largest_share), 3), float(report.small_share)
        (50.0, 0.926, 0.5)

    Source:
        Kish, Survey Sampling, 1965, section 11.7 (the effective sample size).
    """
    _checks.check_float(propensity=propensity)
    _checks.check_indicator(observed=observed)
    _checks.check_same_shape(propensity=propensity, observed=observed)
    _checks.check_mask(where, jnp.shape(propensity))
    mask = jnp.ones(jnp.shape(propensity), jnp.bool_) if where is None else jnp.asarray(where)
    logged = mask & (jnp.asarray(observed) > 0)
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    propensity = jnp.asarray(propensity)
    weights = _offpolicy.inverse(propensity, logged)
    unknown = mask & ~((propensity >= 0) & (propensity <= 1))
    _offpolicy.refuse(propensity, unknown, "[0, 1]")
    small = jnp.where(unknown, jnp.nan, (mask & (propensity < threshold)).astype(weights.dtype))
    total, largest = jnp.sum(weights), jnp.max(weights, initial=0.0)

    def share(part, whole):
        return _reduce.safe_divide(jnp.sum(part, dtype=weights.dtype), jnp.sum(whole, dtype=weights.dtype))

    return Overlap(
        n=jnp.sum(logged, dtype=jnp.int32),
        ess=_reduce.effective_sample_size(weights),
        largest_weight=largest,
        largest_share=_reduce.safe_divide(largest, total),
        small_share=share(small, mask),
        small_logged=share(jnp.where(logged, small, 0.0), logged),
        small_weight=share(small * weights, weights),
    )
