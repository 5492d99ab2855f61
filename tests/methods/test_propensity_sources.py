"""Every source of propensities against numpy, what clips them, and the two fits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit

from debias_jax import data, models, sampling, training
from debias_jax.errors import ConfigError
from debias_jax.methods._propensity import (
    PROPENSITY_HPARAMS,
    RELEASED_EPOCHS,
    SOURCES,
    Propensity,
    fit_propensity_released,
)
from debias_jax.methods.base import PairBatch, Pairs, TrainState
from debias_jax.methods.recipes import Context

N_USERS, N_ITEMS = 8, 6
MODEL = models.additive_logistic(N_USERS, N_ITEMS)
USERS, ITEMS = np.arange(N_USERS)[:, None], np.arange(N_ITEMS)[None, :]


@functools.cache
def log(n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.4):
    return training.train_data(
        data.synthetic.generate(seed=3, n_users=n_users, n_items=n_items, mean_exposure=mean_exposure)
    )


def observed_matrix(train):
    matrix = np.zeros(train.matrix_size)
    matrix[np.asarray(train.users), np.asarray(train.items)] = 1
    return matrix


def hyperparameters(**given):
    return {name: jnp.asarray(value, jnp.float32) for name, value in {**PROPENSITY_HPARAMS, **given}.items()}


def context_of(source, train, **hparams):
    hparams = hyperparameters(**hparams)
    fitted = source.fit(jax.random.key(0), train, hparams)
    return Context(train, hparams, {"propensity": fitted}, jax.random.key(1), jnp.int32(0))


def popularity(observed):
    counts = observed.sum(axis=0)
    return np.broadcast_to(np.sqrt(counts / counts.max()), observed.shape)


def user_item(observed):
    product = observed.sum(axis=1)[:, None] * observed.sum(axis=0)[None, :]
    return np.minimum(product / observed.sum(), 1.0)


CLOSED_FORM = {
    "popularity": popularity,
    "user_item": user_item,
    "constant": lambda observed: np.full(observed.shape, observed.mean()),
}


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_values_of_any_shape(name):
    train = log()
    expected = CLOSED_FORM[name](observed_matrix(train))
    source = Propensity(name, MODEL)
    context = context_of(source, train)
    fitted = context.extra["propensity"]
    for users, items in ((USERS, ITEMS), (np.array([3, 0, 3]), np.array([1, 1, 5])), (USERS, ITEMS[:, :1])):
        ours = source.of_pairs(fitted, jnp.asarray(users), jnp.asarray(items))
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, expected[users, items], rtol=1e-6)
    state = TrainState(jnp.int32(0), {}, {}, {}, context.extra)
    np.testing.assert_allclose(source.exposure(state, train, USERS, ITEMS), expected, rtol=1e-6)


def test_repeated_rows_count_as_often_as_they_were_logged():
    """Counts are of rows: a pair that was logged twice counts twice."""
    train = log()
    doubled = train._replace(
        users=jnp.concatenate([train.users, train.users[:5]]),
        items=jnp.concatenate([train.items, train.items[:5]]),
    )
    context = context_of(Propensity("user_item", MODEL), doubled)
    np.testing.assert_array_equal(context.extra["propensity"]["user"], np.bincount(doubled.users))
    np.testing.assert_array_equal(context.extra["propensity"]["item"], np.bincount(doubled.items))


@pytest.mark.parametrize("source", ["estimated", "released"])
def test_fitted_sources_read_the_model(source):
    params = MODEL.init(jax.random.key(0)) | {
        "user": jnp.linspace(-2.0, 2.0, N_USERS),
        "bias": jnp.float32(0.5),
    }
    ours = Propensity(source, MODEL).of_pairs(params, jnp.asarray(USERS), jnp.asarray(ITEMS))
    expected = expit(np.linspace(-2, 2, N_USERS) + 0.5)
    np.testing.assert_allclose(ours, np.broadcast_to(expected[:, None], ours.shape), rtol=1e-6)


# Clipping, padding, logged propensities


def rows_of(users, items, where, propensities=None):
    ones = jnp.ones(len(users), jnp.float32)
    users, items, where = jnp.asarray(users), jnp.asarray(items), jnp.asarray(where)
    return PairBatch(users, items, ones, ones, where, propensities)


def test_propensities_are_clipped_from_below_and_one_for_padding():
    train = log()
    source = Propensity("user_item", MODEL)
    expected = user_item(observed_matrix(train))
    floor = float(np.median(expected))
    context = context_of(source, train, min_propensity=floor)
    users, items = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    where = users > 0
    clipped = source.of_rows(context, rows_of(users, items, where))
    wanted = np.where(where, np.maximum(expected[users, items], floor), 1.0)
    np.testing.assert_allclose(clipped, wanted, rtol=1e-6)
    population = source.of_population(context, Pairs(jnp.asarray(USERS), jnp.asarray(ITEMS)))
    np.testing.assert_allclose(population, np.maximum(expected, floor), rtol=1e-6)
    # What other functions read is not clipped.
    every = source.of_pairs(context.extra["propensity"], jnp.asarray(USERS), jnp.asarray(ITEMS))
    np.testing.assert_allclose(every, expected, rtol=1e-6)


def test_logged_propensities_are_those_of_the_rows():
    source = Propensity("logged", MODEL)
    context = context_of(source, log(), min_propensity=0.3)
    given = jnp.asarray([0.2, 0.4, 0.0], jnp.float32)
    rows = rows_of([0, 1, 2], [0, 1, 2], [True, True, False], given)
    np.testing.assert_allclose(source.of_rows(context, rows), [0.3, 0.4, 1.0], rtol=1e-7)
    assert context.extra["propensity"] == {}


def test_logged_propensities_that_nobody_has():
    source = Propensity("logged", MODEL)
    context = context_of(source, log())
    with pytest.raises(ConfigError, match="needs a propensity column in the training data; .*'estimated'"):
        source.of_rows(context, rows_of([0], [0], [True]))
    known_for_rows = "known for observed rows only, .* take propensity='estimated'"
    with pytest.raises(ConfigError, match=known_for_rows):
        source.of_pairs({}, jnp.asarray([0]), jnp.asarray([0]))
    with pytest.raises(ConfigError, match=known_for_rows):
        source.of_population(context, Pairs(jnp.asarray([0]), jnp.asarray([0])))
    assert source.exposure is None


def test_unknown_source():
    with pytest.raises(ValueError, match=f"unknown propensity 'guess'; there are {', '.join(SOURCES)}"):
        Propensity("guess", MODEL)


# Fits


def test_estimated_propensities_reproduce_the_margins():
    """Stationary points of the cross-entropy of an additive logistic model have the observed counts; without decay."""
    train = log()
    source = Propensity("estimated", MODEL, batch_size=4096)
    context = jax.jit(lambda: context_of(source, train, propensity_weight_decay=0.0))()
    fitted = source.of_pairs(context.extra["propensity"], jnp.asarray(USERS), jnp.asarray(ITEMS))
    observed = observed_matrix(train)
    # A user's mean over the 4096 / 8 pairs of a step has a standard deviation of .02, which the decaying steps average.
    np.testing.assert_allclose(np.mean(fitted, axis=1), observed.mean(axis=1), atol=0.02)
    np.testing.assert_allclose(np.mean(fitted, axis=0), observed.mean(axis=0), atol=0.02)


def released_loop(key, train, start, *, learning_rate, weight_decay, batch_size):
    """The released fit as a plain loop in float64, on the same pairs; the parameters and the number of epochs."""
    observed = observed_matrix(train)
    n_users, n_items = observed.shape
    params = {name: np.asarray(leaf, np.float64) for name, leaf in start.items()}
    first = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    second = {name: np.zeros_like(leaf) for name, leaf in params.items()}
    order_of = jax.jit(lambda key: sampling.epoch_batches(key, n_users * n_items, batch_size=batch_size)[0])
    last, patience_left, steps = 1e9, 6, 0
    for epoch in range(RELEASED_EPOCHS):
        epoch_loss = 0.0
        for cells in np.asarray(order_of(jax.random.fold_in(key, epoch)))[: observed.size // batch_size]:
            users, items = np.divmod(cells, n_items)
            p = expit(params["user"][users] + params["item"][items] + params["bias"])
            residual = p - observed[users, items]
            epoch_loss += np.mean(residual**2)
            slope = 2 * residual * p * (1 - p) / batch_size
            grads = {name: np.zeros_like(leaf) for name, leaf in params.items()}
            np.add.at(grads["user"], users, slope)
            np.add.at(grads["item"], items, slope)
            grads["bias"] = np.sum(slope)
            steps += 1
            for name in params:
                g = grads[name] + weight_decay * params[name]
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                m, v = first[name] / (1 - 0.9**steps), second[name] / (1 - 0.999**steps)
                params[name] = params[name] - learning_rate * m / (np.sqrt(v) + 1e-8)
        if (last - epoch_loss) / last < 1e-4:
            if patience_left == 0:
                return params, epoch + 1
            patience_left -= 1
        last = epoch_loss
    return params, RELEASED_EPOCHS


def check_released_fit(train, model, seeds, **settings):
    """The fit ends where the loop ends, and with its parameters; how many epochs each seed took."""
    fit = jax.jit(lambda key: fit_propensity_released(model, key, train, **settings))
    lengths = []
    for key in map(jax.random.key, seeds):
        start = model.init(jax.random.fold_in(key, RELEASED_EPOCHS))
        expected, n_epochs = released_loop(key, train, start, **settings)
        fitted = fit(key)
        for name, leaf in expected.items():
            # Adam divides by the size of the gradient, so that float32 rounding is not damped.
            np.testing.assert_allclose(fitted[name], leaf, atol=1e-4)
        lengths.append(n_epochs)
    return lengths


def test_released_fit_stops_where_the_written_loop_does():
    """Seven epochs that did not lower the loss by 1e-4, not in a row; 48 pairs are 4 batches of 11, the rest unused."""
    model = models.additive_logistic(N_USERS, N_ITEMS, init_scale=0.5)
    settings = {"learning_rate": 0.1, "weight_decay": 1e-3, "batch_size": 11}
    lengths = check_released_fit(log(), model, (0, 1, 2), **settings)
    assert len(set(lengths)) > 1 and max(lengths) < RELEASED_EPOCHS


@pytest.mark.parametrize(("learning_rate", "n_epochs"), [(0.004, RELEASED_EPOCHS), (1e-5, 8)])
def test_released_fit_of_a_loss_that_falls_with_every_epoch(learning_rate, n_epochs):
    """Where all pairs are observed probabilities go to 1: for 200 epochs, or at less than 1e-4 each.

    At p = 1/2 a step of 1e-5 in each of three terms moves p by .75e-5, and the loss (1 - p)^2 by a share of 3e-5.
    """
    users, items = np.divmod(np.arange(N_USERS * N_ITEMS), N_ITEMS)
    full = log()._replace(
        users=jnp.asarray(users),
        items=jnp.asarray(items),
        observed_set=sampling.pair_set(users, items, n_users=N_USERS),
    )
    settings = {"learning_rate": learning_rate, "weight_decay": 0.0, "batch_size": N_USERS * N_ITEMS}
    assert check_released_fit(full, MODEL, (0,), **settings) == [n_epochs]


def test_published_weight_decay_of_coat_makes_propensities_constant():
    """The decay outweighs the gradients of the embeddings; one number is left, and it is not the observed share."""
    train = log(n_users=40, n_items=40, mean_exposure=0.08)
    model = models.additive_logistic(40, 40, dim=16)
    users, items = jnp.arange(40)[:, None], jnp.arange(40)[None, :]

    @jax.jit
    def propensities(weight_decay):
        # As many steps an epoch as a fifth of Coat's.
        fitted = fit_propensity_released(
            model, jax.random.key(0), train, learning_rate=0.0318, weight_decay=weight_decay, batch_size=100
        )
        return jax.nn.sigmoid(model.apply(fitted, users, items))

    published, weak = (np.asarray(propensities(jnp.float32(decay))) for decay in (0.00655, 1e-6))
    share = observed_matrix(train).mean()

    def slope(bias):
        """Of the squared error of one constant, with the decay of the bias."""
        p = expit(bias)
        return 2 * (p - share) * p * (1 - p) + 0.00655 * bias

    assert np.median(published) == pytest.approx(expit(brentq(slope, -10, 0)), rel=0.05)
    assert np.median(published) > 1.5 * share
    assert published.std() < 0.05 * weak.std()
    assert published.max() - published.min() < 0.03
