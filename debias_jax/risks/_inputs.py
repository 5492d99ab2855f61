"""What every risk does to its inputs first: shapes, dtypes, and hiding what may not be read."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp

from debias_jax._checks import check_broadcastable, check_float, check_indicator, check_mask, check_same_shape
from debias_jax._reduce import fill_masked
from debias_jax.errors import nearest
from debias_jax.types import Array


class DrInputs(NamedTuple):
    """The inputs of a doubly robust estimator. Rows that are not observed hold harmless values.

    Attributes:
        errors: ``[...]`` e, 0 where not observed.
        imputed: ``[...]`` e_hat, 0 where not observed.
        observed: ``[...]`` o times the sampling weight of the row.
        propensity: ``[...]`` p', 1 where not observed.
        total: sum of the imputed errors over the sample of all pairs.
        n_pairs: size m of that sample.
    """

    errors: Array
    imputed: Array
    observed: Array
    propensity: Array
    total: Array
    n_pairs: Array


def observed_rows(errors, observed, propensity, where) -> tuple[Array, Array, Array]:
    """Checks, and returns errors (0 where not observed), o, and propensity (1 where not observed)."""
    check_float(errors=errors, propensity=propensity)
    check_indicator(observed=observed)
    check_same_shape(errors=errors, observed=observed)
    check_broadcastable(jnp.shape(errors), propensity=propensity)
    check_mask(where, jnp.shape(errors))
    errors = jnp.asarray(errors)
    propensity = jnp.broadcast_to(jnp.asarray(propensity, errors.dtype), errors.shape)
    observed = fill_masked(jnp.asarray(observed, errors.dtype), where)
    counts = observed != 0
    return fill_masked(errors, counts), observed, fill_masked(propensity, counts, fill=1.0)


def count_pairs(values: Array, where: Array | None) -> Array:
    """How many entries count, observed or not, in the dtype of ``values``."""
    pairs = values.size if where is None else jnp.sum(where, dtype=values.dtype)
    return jnp.asarray(pairs, values.dtype)


def dr_inputs(errors, imputed, observed, propensity, population, weights, where) -> DrInputs:
    """Checks, and brings both sampling frames (``risks.dr``) into one form."""
    check_float(errors=errors, imputed=imputed, population=population, weights=weights)
    check_same_shape(errors=errors, imputed=imputed)
    check_broadcastable(jnp.shape(errors), weights=weights)
    errors, observed, propensity = observed_rows(errors, observed, propensity, where)
    imputed, counts = jnp.asarray(imputed, errors.dtype), observed != 0
    if population is None:
        total, n_pairs = jnp.sum(fill_masked(imputed, where)), count_pairs(errors, where)
    else:
        population = jnp.asarray(population, errors.dtype)
        if population.size == 0:
            raise ValueError(
                f"population must hold the imputed error of at least one pair, got shape {population.shape}; "
                "population=None takes the batch itself as the sample of all pairs"
            )
        total, n_pairs = jnp.sum(population), count_pairs(population, None)
    if weights is not None:
        weights = jnp.broadcast_to(jnp.asarray(weights, errors.dtype), errors.shape)
        observed = observed * fill_masked(weights, counts)
    return DrInputs(errors, fill_masked(imputed, counts), observed, propensity, total, n_pairs)


def odds_against(propensity: Array) -> Array:
    """1/p - 1, without the cancellation near p = 1."""
    return (1.0 - propensity) / propensity


def check_variant(variant: str, known: Iterable[str]) -> None:
    """Raises unless the variant is known."""
    if variant not in known:
        raise ValueError(f"unknown variant {variant!r}; {nearest(variant, known)}")
