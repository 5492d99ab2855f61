"""The study of single batches, and a small full matrix: its ideal loss is known, its logs train imputation models."""

import pathlib
import runpy
from functools import partial
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import brentq
from scipy.special import expit, logit

from debias_jax import risks

ROOT = pathlib.Path(__file__).parents[2]
study = SimpleNamespace(**runpy.run_path(str(ROOT / "benchmarks" / "dr_estimators.py")))

N_USERS, N_ITEMS, N_BATCHES = 60, 100, 4
ESTIMATORS = {"badr": risks.badr, "sndr": risks.sndr, "dr": risks.dr}
IMPUTATION_LOSSES = {
    "published": partial(risks.badr_imputation, variant="published"),
    "detached": partial(risks.badr_imputation, variant="detached"),
    "corrected": partial(risks.badr_imputation, variant="corrected"),
    "released": partial(risks.badr_imputation, variant="released"),
    "dr_jl": risks.dr_jl,
    "mrdr": risks.mrdr,
}


class Matrix(NamedTuple):
    """Labels, probabilities of being observed, and the logits of a fixed prediction, each ``[users, items]``."""

    labels: np.ndarray
    probability: np.ndarray
    logits: np.ndarray

    @property
    def errors(self):
        return cross_entropy(self.logits, self.labels)


def cross_entropy(logits, targets):
    """CE(sigmoid(logits); targets), in numpy."""
    return np.logaddexp(0.0, logits) - targets * logits


def matrix(seed):
    """Labels with a mean of 1/4; likely ones are observed more often, in all 5 % and each with at least 1 %."""
    rng = np.random.default_rng(seed)
    shape = N_USERS, N_ITEMS

    def user_and_item(scale):
        return rng.normal(0.0, scale, (N_USERS, 1)) + rng.normal(0.0, scale, (1, N_ITEMS))

    taste = rng.normal(size=(N_USERS, 3)) @ rng.normal(size=(3, N_ITEMS)) / np.sqrt(3) + user_and_item(0.7)
    relevance = expit(taste + brentq(lambda c: expit(taste + c).mean() - 0.25, -20, 20))
    exposure = 2.0 * relevance + user_and_item(0.4)
    level = brentq(lambda c: np.clip(np.exp(exposure + c), 0.01, 0.5).mean() - 0.05, -20, 20)
    return Matrix(
        labels=(rng.random(shape) < relevance).astype(float),
        probability=np.clip(np.exp(exposure + level), 0.01, 0.5),
        logits=logit(relevance) + rng.normal(size=shape),
    )


def _partition(seed):
    """Indices of all pairs in random batches, ``[N_BATCHES, pairs]``."""
    return np.random.default_rng(seed).permutation(N_USERS * N_ITEMS).reshape(N_BATCHES, -1)


def train_imputation(name, matrix, propensity, *, steps, seed):
    """The pseudo-labels' logits after training with a loss of ``IMPUTATION_LOSSES``, from logits of 0.

    Every step has a fresh batch of the matrix with fresh observations, so that what is learnt is the loss and not one
    log. The imputed error is CE(prediction; pseudo-label), and for the released loss CE(pseudo-label; prediction).
    """
    arrays = (matrix.labels, matrix.logits, matrix.probability, propensity)
    flat = [jnp.asarray(np.ravel(x), jnp.float32) for x in arrays]
    users, items = (index.ravel() for index in np.indices((N_USERS, N_ITEMS)))
    params = _train(name, steps, jax.random.key(seed), users, items, *flat)
    return np.asarray(_pseudo_logits(params, users, items), float).reshape(N_USERS, N_ITEMS)


def _pseudo_logits(params, users, items):
    return params["user"][users] + params["item"][items] + params["bias"]


@partial(jax.jit, static_argnums=(0, 1))
def _train(name, steps, key, users, items, labels, logits, probability, propensity):
    tx, bce = optax.adam(0.05), optax.losses.sigmoid_binary_cross_entropy
    params = {"user": jnp.zeros(N_USERS), "item": jnp.zeros(N_ITEMS), "bias": jnp.zeros(())}
    size = labels.size // N_BATCHES

    def step(carry, key):
        params, opt_state = carry
        batch_key, observation_key = jax.random.split(key)
        rows = jax.random.randint(batch_key, (size,), 0, labels.size)
        observed = jax.random.uniform(observation_key, (size,)) < probability[rows]

        def loss(params):
            scores = _pseudo_logits(params, users[rows], items[rows])
            pair = (scores, logits[rows]) if name == "released" else (logits[rows], scores)
            imputed = bce(pair[0], jax.nn.sigmoid(pair[1]))
            errors = bce(logits[rows], labels[rows])
            return IMPUTATION_LOSSES[name](errors, imputed, observed=observed, propensity=propensity[rows])

        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(key, steps))
    return params


def of_matrix(matrix, imputed, propensity):
    """Moments of the estimators over fresh logs: means over the batches of a partition of all pairs."""
    total = 0.0
    for batch, pairs in enumerate(_partition(seed=0)):
        parts = (np.ravel(x)[pairs] for x in (matrix.errors, imputed, matrix.probability, propensity))
        total += np.array(study.simulate(study.Batch(*parts), ESTIMATORS.values(), draws=800, seed=batch))
    values = total / N_BATCHES
    ideal = matrix.errors.mean()
    return {name: study.moments(x, ideal) for name, x in zip(ESTIMATORS, values, strict=True)}
