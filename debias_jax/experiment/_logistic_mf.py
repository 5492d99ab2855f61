"""Logistic factorisation of a log, and the semi-synthetic exposure data of Biif made from it."""

import functools
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax import _checks, data, metrics, training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.errors import ConfigError, DataError, nearest

LEVELS = {
    "easy": {"dim": 0, "l2": 0.1},
    "medium": {"dim": 1, "l2": 13.0},
    "hard": {"dim": 20, "l2": 1.0},
}
"""How far popularity explains the exposure of MovieLens 100K: the PCC of theta with m is near .95, .8 and .5."""


def logistic_mf(
    log: Interactions,
    *,
    dim: int = 16,
    l2: float = 1.0,
    confidence: float = 1.0,
    likelihood: str = "bernoulli",
    lr: float = 1.0,
    iterations: int = 100,
    init_scale: float = 0.1,
    seed: int = 0,
) -> np.ndarray:
    r"""Probability of a row for every pair of a log, by logistic matrix factorisation.

    .. math::
        \max \sum_{u,i} \alpha r_{ui} s_{ui} - (1 + \alpha r_{ui}) \log(1 + e^{s_{ui}}) - \tfrac{\lambda}{2}
        (\|\omega_u\|^2 + \|\omega_i\|^2 + b_u^2 + b_i^2), \qquad s_{ui} = \omega_u^\top \omega_i + b_u + b_i

    over all pairs, r = 1 for the positive rows of the log; by AdaGrad, users and items in turn, whole tables at a time.
    This is the paper's objective (``likelihood="johnson"``) but for the penalty, which here holds for biases too:
    without it that of a user or item without a row runs away. In it a positive pair counts as a zero as well, so that
    the maximum is not at the probability p of a row but at odds of :math:`\alpha p`; with :math:`\alpha = 1` that is
    .47 for a p of .9. ``"bernoulli"`` puts :math:`1 - r + \alpha r` in place of :math:`1 + \alpha r`; with
    :math:`\alpha = 1` that is the log-likelihood, and the maximum is at p.

    Args:
        log: rows; those with a positive label are fitted, all other pairs are zeros.
        dim: length of the vectors; 0 for biases alone.
        l2: :math:`\lambda`.
        confidence: :math:`\alpha`, weight of a positive pair.
        likelihood: see above.
        lr: step of AdaGrad.
        iterations: steps of each side.
        init_scale: standard deviation of the vectors' initialisation; biases start at 0.
        seed: of the initialisation.

    Returns:
        float32 ``[n_users, n_items]``, :math:`\sigma(s)`, in (0, 1).

    Raises:
        ValueError: ``likelihood`` is unknown.
        ConfigError: ``dim`` is not an integer of at least 0.
        DataError: the fit is not finite, or a probability rounds to 0.

    Source:
        Johnson, "Logistic Matrix Factorization for Implicit Feedback Data" (NeurIPS 2014 workshop), eq. 3-5.
    """
    _checks.check_choice(("bernoulli", "johnson"), likelihood=likelihood)
    if not isinstance(dim, int) or dim < 0:
        raise ConfigError(f"dim must be an integer of at least 0, the biases alone, got {dim!r}")
    clicked = np.zeros((log.n_users, log.n_items), np.float32)
    clicks = log.positives
    clicked[clicks.users, clicks.items] = 1.0
    probability = np.asarray(
        _fit(
            jax.random.key(seed),
            jnp.asarray(clicked),
            *(jnp.float32(value) for value in (l2, confidence, likelihood == "johnson", lr, init_scale)),
            dim=dim,
            iterations=iterations,
        )
    )
    if not (np.isfinite(probability).all() and (probability > 0).all()):
        raise DataError("the logistic factorisation ran away; lower lr, or raise l2")
    return probability


@functools.partial(jax.jit, static_argnames=("dim", "iterations"))
def _fit(key, clicked, l2, confidence, as_zero_too, lr, init_scale, *, dim: int, iterations: int):
    def start(key, n):
        return jnp.pad(init_scale * jax.random.normal(key, (n, dim)), ((0, 0), (0, 1)))

    def scores(own, other):
        # The last column is the bias: the other side's multiplies 1, the own one is multiplied by 1.
        return own[:, :-1] @ other[:, :-1].T + own[:, -1:] + other[:, -1:].T

    def half(own, other, squares, clicked):
        weights = 1.0 + (confidence - 1.0 + as_zero_too) * clicked
        residual = confidence * clicked - weights * jax.nn.sigmoid(scores(own, other))
        ones = jnp.ones((other.shape[0], 1))
        gradient = residual @ jnp.concatenate([other[:, :-1], ones], axis=1) - l2 * own
        squares = squares + jnp.square(gradient)
        # An entry whose gradient has always been 0 stays.
        return own + lr * gradient / jnp.sqrt(jnp.where(squares > 0, squares, 1.0)), squares

    def step(carry, _):
        users, items, user_squares, item_squares = carry
        users, user_squares = half(users, items, user_squares, clicked)
        items, item_squares = half(items, users, item_squares, clicked.T)
        return (users, items, user_squares, item_squares), None

    users, items = map(start, jax.random.split(key), clicked.shape)
    first = (users, items, jnp.zeros_like(users), jnp.zeros_like(items))
    (users, items, *_), _ = jax.lax.scan(step, first, None, length=iterations)
    return jax.nn.sigmoid(scores(users, items))


def exposure_truth(
    ratings: Dataset, *, threshold: float = 4, seed: int = 0, **options
) -> tuple[np.ndarray, np.ndarray]:
    """Exposure m and relevance gamma for simulation, each a logistic factorisation of a rated log.

    m is fitted to which pairs were rated, gamma to which were rated at least ``threshold``; not rated is 0. So gamma
    holds that a pair was rated, too: it grows with m, and what is liked is overstated for what was seen.

    Args:
        ratings: with ratings, all in ``train``.
        threshold: a pair is relevant from this rating on; Biif has "> 3".
        seed: of the two initialisations.
        **options: of ``logistic_mf``.

    Returns:
        Two float32 matrices ``[n_users, n_items]``.

    Raises:
        DataError: there are no ratings.
    """
    log = ratings.train
    if log.ratings is None:
        raise DataError(f"{ratings.name} has no ratings, from which exposure and relevance could be fitted")

    def fit(labels, seed):
        rows = Interactions(log.users, log.items, labels, log.n_users, log.n_items)
        return logistic_mf(rows, seed=seed, **options)

    return fit(np.ones(len(log)), 2 * seed), fit(log.ratings >= threshold, 2 * seed + 1)


def popularity_pcc(dataset: Dataset) -> float:
    """PCC of the popularity prior theta (Biif eq. 13), the same for every user, with the true exposure."""
    theta = training.item_popularity(dataset.train.positives.items, dataset.n_items)
    truth = jnp.asarray(dataset.truth.exposure)
    return float(metrics.pearson(jnp.broadcast_to(jnp.asarray(theta), truth.shape), truth))


def _simulate(ratings: Dataset, truth: tuple[np.ndarray, np.ndarray], *, seed: int, name: str) -> Dataset:
    dataset = data.semi_synthetic.simulate_clicks(
        *truth, seed=seed, users=ratings.users, items=ratings.items, name=name
    )
    note = f"PCC of popularity (theta of the clicks) with the true exposure {popularity_pcc(dataset):.3f}"
    return dataset.replace(notes=(*dataset.notes, note))


@functools.lru_cache(maxsize=3)
def _truth_of_100k(path: str, level: str, likelihood: str, strict_counts: bool):
    # A run loads its dataset several times, and the fits take seconds.
    ratings = data.movielens.load_100k(path, strict_counts=strict_counts)
    return ratings, exposure_truth(ratings, likelihood=likelihood, **LEVELS[level])


def load_ml_100k_exposure(
    path: str | os.PathLike,
    *,
    level: str = "medium",
    likelihood: str = "bernoulli",
    seed: int = 0,
    strict_counts: bool = True,
) -> Dataset:
    """The semi-synthetic MovieLens 100K of Biif's section 4, at one of three levels of difficulty.

    The factorisation that the paper used is not known beyond its name. ``LEVELS`` therefore sets three, by how far
    popularity alone explains the exposure; only on the last can a method show that it learnt more. The matrices are
    fitted anew in each process; on another device or version of the compiler they round differently.

    Args:
        path: as in ``data.movielens.load_100k``.
        level: ``"easy"``, ``"medium"`` or ``"hard"``.
        likelihood: see ``logistic_mf``; with ``"johnson"`` exposure is smaller, and the PCC of the levels another.
        seed: of the simulated log; the matrices are always the same.
        strict_counts: as in ``data.movielens.load_100k``.

    Returns:
        The dataset, named after its level, with the raw ids of MovieLens, without the paper's empty user 944 and item
        1683.

    Raises:
        DataError, ConfigError: as in the functions named, or the level is unknown.
    """
    if level not in LEVELS:
        raise DataError(f"unknown level {level!r}; {nearest(level, LEVELS)}")
    ratings, truth = _truth_of_100k(os.fspath(path), level, likelihood, strict_counts)
    return _simulate(ratings, truth, seed=seed, name=f"ml_100k_exposure_{level}")


@functools.lru_cache(maxsize=1)
def _truth_of_own(path: str, written: int, reading: tuple, filters: tuple, fitting: tuple):
    # ``written``, when the file was, is there for the cache.
    ratings, _ = data.frame.read(pathlib.Path(path), **dict(reading))
    ratings = data.implicit.first_block(ratings, **dict(filters))
    return ratings, exposure_truth(ratings, **dict(fitting))


def load_own_exposure(
    path: str | os.PathLike,
    *,
    user: str = "user",
    item: str = "item",
    rating: str = "rating",
    timestamp: str | None = None,
    separator: str | None = None,
    duplicates: str = "error",
    threshold: float = 4,
    min_user_rows: int = 10,
    min_item_rows: int = 8,
    n_users: int = 3000,
    n_items: int = 3000,
    dim: int = 1,
    l2: float = 13.0,
    likelihood: str = "bernoulli",
    seed: int = 0,
) -> Dataset:
    """Semi-synthetic exposure data from a file of ratings of one's own, with the filters that Biif had for Amazon CDs.

    The ratings-only files of Amazon have no header; put ``user,item,rating,timestamp`` on their first line. ``dim`` and
    ``l2`` decide how far popularity explains the exposure; the report says how far it does.

    Args:
        path: of the file, as in ``data.frame.read``.
        user: column, as there, as are the next five.
        item: see there.
        rating: see there.
        timestamp: see there.
        separator: see there.
        duplicates: see there.
        threshold: see ``exposure_truth``.
        min_user_rows: see ``data.implicit.first_block``, as are the next three.
        min_item_rows: see there.
        n_users: see there.
        n_items: see there.
        dim: see ``logistic_mf``, as are the next two.
        l2: see there.
        likelihood: see there.
        seed: of the simulated log.

    Returns:
        The dataset, with the file's ids.

    Raises:
        DataError, ConfigError: as in the functions named.
    """
    reading = {"user": user, "item": item, "rating": rating, "timestamp": timestamp, "separator": separator}
    reading |= {"duplicates": duplicates, "threshold": threshold}
    filters = {"min_user_rows": min_user_rows, "min_item_rows": min_item_rows}
    filters |= {"n_users": n_users, "n_items": n_items}
    fitting = {"threshold": threshold, "dim": dim, "l2": l2, "likelihood": likelihood}
    path = pathlib.Path(path)
    written = path.stat().st_mtime_ns if path.exists() else 0
    settings = (tuple(each.items()) for each in (reading, filters, fitting))
    ratings, truth = _truth_of_own(str(path), written, *settings)
    return _simulate(ratings, truth, seed=seed, name=f"{ratings.name}_exposure")
