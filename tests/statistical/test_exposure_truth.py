"""What methods that learn exposure or weights find where the truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from debias_jax import data, methods, metrics, models, training


def simulate(rng, exposure, relevance, *, share):
    """A log of all exposed pairs, and a random ``share`` of all pairs with labels as a trial would give them."""
    sizes = exposure.shape

    def rows(shown):
        users, items = np.nonzero(shown)
        labels = (rng.random(sizes) < relevance).astype(np.float32)
        return data.Interactions(users, items, labels[users, items], *sizes)

    vocabularies = data.Vocabulary.range(sizes[0]), data.Vocabulary.range(sizes[1])
    log, trial = rows(rng.random(sizes) < exposure), rows(rng.random(sizes) < share)
    return training.train_data(
        data.Dataset("simulated", log, None, None, *vocabularies, probably_exposed=trial)
    )


def grid(sizes):
    return jnp.meshgrid(*(jnp.arange(n) for n in sizes), indexing="ij")


def pcc(estimate, exposure):
    return float(
        metrics.pearson(jnp.broadcast_to(estimate, exposure.shape), jnp.asarray(exposure, jnp.float32))
    )


def test_biif_finds_exposure_that_differs_by_user(rng):
    """Exposure and relevance follow the same item factors, each with its own user factors: what eq. 14 can express.

    Popularity then says next to nothing of a user's exposure. With a trial for the outer loss Biif finds much of it.

    """
    sizes, dim = (200, 60), 2
    item = rng.normal(size=(dim, sizes[1]))
    relevance = expit(2 * rng.normal(size=(sizes[0], dim)) @ item)
    exposure = expit(2 * rng.normal(size=(sizes[0], dim)) @ item - 0.5)
    train = simulate(rng, exposure, relevance, share=0.3)
    method = methods.biif(
        models.mf(*sizes, dim=dim, init_scale=0.3),
        models.biif_exposure(sizes[0], dim=dim, init_scale=0.3),
        item_vectors=models.item_vectors,
        batch_size=2048,
        frame="clicks_and_uniform_pairs",
    )
    state = training.fit(method, train, jax.random.key(0), {"lr": 0.03, "outer_lr": 0.01}, epochs=100).state
    popularity = pcc(train.popularity, exposure)
    assert abs(popularity) < 0.25
    assert pcc(method.exposure(state, train, *grid(sizes)), exposure) > popularity + 0.25


def test_cjmf_is_nearer_to_exposure_than_theta_as_it_takes_no_square_root():
    """(w sigma + (1 - w) pop)^power is near to linear in the popularity c_i / max c, before any training.

    So is the exposure here, of which theta = (c_i / max c)^.5 is the square root: the plain popularity, which has no
    parameter, is as near. The published decay of its parameters, 11, keeps the form where it starts.
    """
    sizes = 120, 80
    log = data.synthetic.generate(seed=0, n_users=sizes[0], n_items=sizes[1], mean_exposure=0.3)
    train, exposure = training.train_data(log), log.truth.exposure
    method = methods.cjmf(
        models.mf(*sizes, dim=8),
        models.cjmf_exposure(dim=8),
        item_vectors=models.item_vectors,
        n_models=4,
        batch_size=512,
    )
    result = training.fit(method, train, jax.random.key(0), {"lr": 0.01}, epochs=15)
    start = method.init(jax.random.key(0), train, {})
    at_start, at_end = (
        pcc(method.exposure(state, train, *grid(sizes)), exposure) for state in (start, result.state)
    )
    theta, popularity = (pcc(train.popularity**power, exposure) for power in (1, 2))
    assert at_start > theta + 0.02
    assert at_end == pytest.approx(at_start, abs=0.02)
    assert max(at_start, at_end) < popularity + 0.005


def test_weights_of_auto_debias_move_towards_the_inverse_propensity(rng):
    """Half of the items are liked and shown (m = .8, gamma = .8), half neither (.1, .2); the model is one number.

    Labels of -1 and 1 have mean 0, those that are shown (.8 * .6 - .1 * .6) / .9 = .467. What brings the shown ones
    back to 0 is a weight of rare items 8 times that of the others, the ratio of the propensities. Weights of single
    items may also lean on their draws, so that less than 8 will do.
    """
    sizes = 40, 30
    rare = np.arange(sizes[1]) >= 15
    exposure, relevance = (np.broadcast_to(np.where(rare, low, 0.8), sizes) for low in (0.1, 0.2))
    train = simulate(rng, exposure, relevance, share=0.5)

    def init(key):
        del key
        return {"level": jnp.zeros((), jnp.float32)}

    def apply(params, users, items, key=None):
        del key
        return jnp.broadcast_to(params["level"], jnp.broadcast_shapes(users.shape, items.shape))

    def no_vectors(params, ids):
        del params
        return jnp.zeros((*ids.shape, 1))

    method = methods.auto_debias(
        models.Model(init, apply),
        user_vectors=no_vectors,
        item_vectors=no_vectors,
        feedback="ratings",
        block=sizes,
    )
    fixed = {"lr": 0.01, "inner_lr": 0.1, "imputation_weight": 0.0, "observed_weight_decay": 0.0}

    def fit(observed_lr):
        hparams = {**method.hparams, **fixed, "observed_lr": observed_lr}
        return training.fit(method, train, jax.random.key(0), hparams, epochs=500).state.params

    def log_ratio(params):
        weights = np.asarray(params["debias"]["observed"]["item"])
        return weights[rare].mean() - weights[~rare].mean()

    naive, learnt = fit(0.0), fit(0.02)
    assert float(naive["prediction"]["level"]) == pytest.approx(0.467, abs=0.1)
    assert log_ratio(naive) == 0.0
    assert abs(float(learnt["prediction"]["level"])) < 0.1
    assert 0.5 * np.log(8) < log_ratio(learnt) < 1.2 * np.log(8)
