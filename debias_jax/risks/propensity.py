"""Propensities from popularity, and what clipping them costs."""

from typing import NamedTuple

import jax.numpy as jnp

from debias_jax._checks import check_float, check_mask
from debias_jax._reduce import fill_masked, safe_divide
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
        ValueError: ``where`` has another shape.

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
    weights = fill_masked(weights, where)
    # Squares of weights above 1e19 overflow float32; relative to the largest they cannot.
    relative = safe_divide(weights, jnp.max(weights, initial=0.0))
    return safe_divide(jnp.sum(relative) ** 2, jnp.sum(relative**2))
