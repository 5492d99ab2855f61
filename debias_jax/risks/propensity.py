"""Propensities from counts and labels, and what clipping them costs."""

from typing import NamedTuple

import jax.numpy as jnp

from debias_jax import _reduce
from debias_jax._checks import check_broadcastable, check_float, check_indicator, check_mask
from debias_jax._reduce import fill_masked, safe_divide, safe_reduce
from debias_jax.types import Array


class ClipReport(NamedTuple):
    """What clipping did, and what the clipped weights 1/p are worth.

    Attributes:
        clipped_share: share of the propensities that were below the floor.
        largest_weight: largest 1/p after clipping.
        effective_sample_size: of the weights 1/p after clipping.
    """

    clipped_share: Array
    largest_weight: Array
    effective_sample_size: Array


def popularity_power(counts: Array, *, power: float | Array = 0.5) -> Array:
    r"""Exposure guessed from popularity, relative to the most popular item.

    .. math:: \theta_i = (c_i / \max_j c_j)^{\mathrm{power}}

    A convention, not an estimate: the most popular item gets 1, and nothing fixes the level.

    Args:
        counts: ``[..., n_items]`` clicks of each item in the training data, integer or floating, not
            negative.
        power: exponent; 0.5 in Saito et al. and in Biif.

    Returns:
        float32 ``[..., n_items]`` in ``[0, 1]``; 0 for an item without clicks, and everywhere if there are
        none.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> risks.popularity_power(jnp.array([4, 1, 0])).tolist()
        [1.0, 0.5, 0.0]

    References:
        Saito et al., WSDM 2020; eq. 13 of the Biif paper.
    """
    counts = jnp.asarray(counts, jnp.float32)
    return safe_divide(counts, jnp.max(counts, axis=-1, keepdims=True)) ** power


def user_item(user_counts: Array, item_counts: Array, *, total: float | Array) -> Array:
    r"""Propensity of a pair if users and items were drawn independently of each other.

    .. math:: p_{ui} = \min(n_u\, n_i / n,\ 1)

    The expected count of a cell of a table with these margins. It exceeds 1 where an active user meets a popular
    item; such a pair gets 1, and the propensities then sum to less than n. No smoothing: a user or an item that was
    never observed has 0.

    Args:
        user_counts: ``[...]`` observed pairs n_u of the pair's user, integer or floating, not negative.
        item_counts: ``[...]`` observed pairs n_i of the pair's item; the two broadcast, ``[U, 1]`` with ``[1, I]``
            gives the whole table.
        total: n, the number of observed pairs.

    Returns:
        float32 of the broadcast shape in ``[0, 1]``; 0 if nothing was observed.

    Raises:
        ValueError: the shapes do not broadcast.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> risks.user_item(jnp.array([[2], [1], [1]]), jnp.array([[3, 1]]), total=4).tolist()
        [[1.0, 0.5], [0.75, 0.25], [0.75, 0.25]]
    """
    user_counts, item_counts, total = (
        jnp.asarray(counts, jnp.float32) for counts in (user_counts, item_counts, total)
    )
    # jnp.multiply would raise a TypeError that names neither.
    jnp.broadcast_shapes(user_counts.shape, item_counts.shape, total.shape)
    return jnp.minimum(safe_divide(user_counts, total) * item_counts, 1.0)


def naive_bayes(
    labels: Array,
    *,
    label_marginal: float | Array,
    observed_rate: float | Array,
    where: Array | None = None,
) -> Array:
    r"""Propensity of each observed row from its label, by Bayes' rule.

    .. math:: p(o = 1 \mid r) = \frac{P(r \mid o = 1)\, P(o = 1)}{P(r)}

    P(r | o = 1) is the share of the label among the rows. The label's share P(r) among *all* pairs cannot be seen in
    biased data and is the caller's to give, from a uniformly collected sample that is then used for nothing else:
    never estimate it from test labels, as some released programs do.

    Nothing is clamped: the value exceeds 1 where ``label_marginal`` and ``observed_rate`` contradict the rows, and is
    infinite where ``label_marginal`` gives no chance to a label that occurs.

    Args:
        labels: ``[...]`` binary labels r of the observed rows, boolean or 0.0 / 1.0.
        label_marginal: P(r = 1) over all pairs, a scalar in (0, 1).
        observed_rate: P(o = 1), observed pairs over all pairs, a scalar in (0, 1].
        where: boolean ``[...]``, False for padding.

    Returns:
        ``[...]`` propensities; 0 where masked.

    Raises:
        TypeError: ``labels`` is neither boolean nor floating, ``where`` is not boolean.
        ValueError: ``where`` has another shape, or a probability is not a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> labels = jnp.array([1.0, 1.0, 1.0, 0.0])  # 0.75 / 8 / 0.5 for a positive, 0.25 / 8 / 0.5 for the other
        >>> risks.naive_bayes(labels, label_marginal=0.5, observed_rate=0.125).tolist()
        [0.1875, 0.1875, 0.1875, 0.0625]

    References:
        Schnabel et al., ICML 2016, section 5.
    """
    check_indicator(labels=labels)
    check_broadcastable((), label_marginal=label_marginal, observed_rate=observed_rate)
    check_mask(where, jnp.shape(labels))
    labels = jnp.asarray(labels, jnp.result_type(labels, jnp.float32))
    positive_rate = safe_reduce(labels, where=where)
    positive = positive_rate * observed_rate / label_marginal
    negative = (1.0 - positive_rate) * observed_rate / (1.0 - label_marginal)
    return fill_masked(jnp.where(labels != 0, positive, negative), where)


def clip_propensity(
    propensity: Array, *, floor: float | Array, where: Array | None = None
) -> tuple[Array, ClipReport]:
    """Propensities raised to a floor, with a report of what that did.

    Clipping bounds the weights and so the variance; in exchange every raised propensity biases the estimate.

    Args:
        propensity: ``[...]`` in ``[0, 1]``.
        floor: smallest propensity to keep, above 0.
        where: boolean ``[...]``, False for entries that the report leaves out (padding).

    Returns:
        ``max(propensity, floor)`` of the same shape, and the ``ClipReport`` over all entries.

    Raises:
        TypeError: ``propensity`` is not floating, ``where`` is not boolean.
        ValueError: ``where`` has another shape, or ``floor`` is a number that is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> clipped, report = risks.clip_propensity(jnp.array([0.5, 0.01, 0.25, 0.0]), floor=0.25)
        >>> clipped.tolist()
        [0.5, 0.25, 0.25, 0.25]
        >>> print(report.clipped_share, report.largest_weight, f"{report.effective_sample_size:.2f}")
        0.5 4.0 3.77
    """
    check_float(propensity=propensity)
    check_mask(where, jnp.shape(propensity))
    if isinstance(floor, (int, float)) and not floor > 0:
        raise ValueError(f"floor must be positive, got {floor}: a propensity of 0 has no inverse")
    clipped = jnp.maximum(propensity, floor)
    counted = jnp.ones(jnp.shape(propensity), bool) if where is None else where
    weights = fill_masked(1.0 / clipped, counted)
    share = safe_divide(
        jnp.sum((propensity < floor) & counted, dtype=clipped.dtype), jnp.sum(counted, dtype=clipped.dtype)
    )
    return clipped, ClipReport(share, jnp.max(weights, initial=0.0), effective_sample_size(weights))


def effective_sample_size(weights: Array, *, where: Array | None = None) -> Array:
    r"""How many equally weighted samples the weighted ones are worth (Kish).

    .. math:: n_\mathrm{eff} = \big(\sum w\big)^2 / \sum w^2

    Between 1 (one weight dominates) and the number of weights that are not 0 (all equal); the scale of the
    weights does not matter. A self-normalised mean of errors with variance v has variance of about v / n_eff.

    Args:
        weights: ``[...]`` not negative.
        where: boolean ``[...]``, False for padding.

    Returns:
        A scalar over all axes; 0 where no weight counts.

    Raises:
        TypeError: ``weights`` is not floating, ``where`` is not boolean.
        ValueError: ``where`` has another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import risks
        >>> print(risks.effective_sample_size(jnp.array([1.0, 1.0, 2.0, 0.0])))  # 4^2 / 6
        2.6666667

    References:
        Kish, "Survey Sampling", Wiley 1965; as a diagnostic of weights, Owen, "Monte Carlo theory, methods
        and examples", section 9.3.
    """
    check_float(weights=weights)
    check_mask(where, jnp.shape(weights))
    return _reduce.effective_sample_size(fill_masked(weights, where))
