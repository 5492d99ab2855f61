"""ExpoMF against the model written out pair by pair, and what EM promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import expomf as reference

from debias_jax import data, methods, metrics, models, training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError

N_USERS, N_ITEMS, DIM = 6, 5, 2
# The last item has no click; a pair is logged twice, and a shown pair without a click says nothing more than others.
USERS = np.array([0, 0, 1, 2, 3, 3, 4, 5, 5, 5])
ITEMS = np.array([0, 1, 0, 1, 0, 2, 2, 3, 3, 0])
LABELS = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], np.float32)
CLICKS = np.zeros((N_USERS, N_ITEMS))
CLICKS[USERS[LABELS > 0], ITEMS[LABELS > 0]] = 1
HPARAMS = {
    "regularization": 0.25,
    "precision": 2.0,
    "initial_exposure": 0.125,
    "prior_exposed": 1.5,
    "prior_unexposed": 3.0,
}
VARIANTS = ("corrected", "released")


def _train():
    rows = Interactions(USERS, ITEMS, LABELS, N_USERS, N_ITEMS)
    log = Dataset("tiny", rows, None, None, Vocabulary.range(N_USERS), Vocabulary.range(N_ITEMS))
    return training.train_data(log)


def _method(variant="corrected", **options):
    # Four users a chunk: the second chunk is half padding.
    options = {"chunk_size": 4, **options}
    return methods.expomf(models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.5), variant=variant, **options)


def _start(method, train):
    """The first state, in float64."""
    state = method.init(jax.random.key(0), train, HPARAMS)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (state.params, state.hparams))
    return state._replace(params=wide[0], hparams=wide[1])


def _arrays(state):
    vectors = state.params["prediction"]
    return tuple(np.asarray(x) for x in (vectors["user"], vectors["item"], state.params["exposure"]["prior"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_iterations_are_those_of_the_model_written_out(x64, variant):
    method, train = _method(variant), _train()
    state, step = _start(method, train), jax.jit(method.step)
    expected = _arrays(state)
    for _ in range(3):
        before = reference.log_posterior(CLICKS, *expected, HPARAMS, variant)
        state, logs = step(state, train, None, jax.random.key(1))
        expected = reference.iterate(CLICKS, *expected, HPARAMS, variant)
        assert float(logs["loss"]) == pytest.approx(-before / CLICKS.size, rel=1e-10)
        for ours, theirs in zip(_arrays(state), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-12)
    assert int(state.step) == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_iteration_lowers_the_log_posterior(x64, variant):
    log = training.train_data(data.synthetic.generate(seed=2, n_users=30, n_items=20, mean_exposure=0.4))
    method = methods.expomf(models.mf(30, 20, dim=3), variant=variant, chunk_size=16)
    state = _start(method, log)
    step, values = jax.jit(method.step), []
    for _ in range(40):
        state, logs = step(state, log, None, jax.random.key(1))
        values.append(float(logs["loss"]))
    falls = -np.diff(values)
    # A few units in the last place of a float64 sum over 600 pairs.
    assert falls.min() > -1e-14 and falls[0] > 1e-3


def test_the_size_of_a_chunk_changes_nothing_but_rounding():
    log = training.train_data(data.synthetic.generate(seed=2, n_users=30, n_items=20, mean_exposure=0.4))
    results = []
    for size in (7, 1000):
        method = methods.expomf(models.mf(30, 20, dim=3), chunk_size=size)
        results.append(training.fit(method, log, jax.random.key(0), {"regularization": 0.1}, epochs=3))
    one, other = (result.state.params for result in results)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), one, other)


def test_the_released_constant_multiplies_the_odds_of_exposure_by_pi(x64):
    train, users, items = _train(), jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]
    odds = {}
    for variant in VARIANTS:
        method = _method(variant, exposure="posterior")
        q = np.asarray(method.exposure(_start(method, train), train, users, items))
        np.testing.assert_array_equal(q[CLICKS > 0], 1.0)
        odds[variant] = q[CLICKS == 0] / (1 - q[CLICKS == 0])
    np.testing.assert_allclose(odds["released"], np.pi * odds["corrected"], rtol=1e-10)


def test_exposure_is_the_posterior_or_the_prior(x64):
    train, users, items = _train(), jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]
    method = _method(exposure="posterior")
    state = method.step(_start(method, train), train, None, jax.random.key(1))[0]
    user, item, prior = _arrays(state)
    expected = reference.posterior(CLICKS, user, item, prior, HPARAMS["precision"], "corrected")
    np.testing.assert_allclose(method.exposure(state, train, users, items), expected, rtol=1e-10)
    of_prior = _method().exposure(state, train, users, items)
    np.testing.assert_array_equal(of_prior, np.broadcast_to(prior, CLICKS.shape))


def test_an_item_that_everybody_clicked_and_one_that_nobody_did():
    """Both ends of the prior: mu is 1 and goes to 0, and nothing becomes NaN on the way."""
    users, items = np.repeat(np.arange(4), 2), np.tile([0, 1], 4)
    labels = np.array([1, 1, 1, 0, 1, 0, 1, 1], np.float32)
    rows = Interactions(users, items, labels, 4, 3)
    log = training.train_data(Dataset("ends", rows, None, None, Vocabulary.range(4), Vocabulary.range(3)))
    result = training.fit(methods.expomf(models.mf(4, 3, dim=2)), log, jax.random.key(0), epochs=200)
    prior = np.asarray(result.state.params["exposure"]["prior"])
    assert prior[0] == 1.0 and 0.0 <= prior[2] < 1e-30
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    assert np.isfinite([row["loss"] for row in result.history]).all()


def test_it_recovers_exposure_better_than_chance():
    """The mean over users of the correlation with the true exposure, against that of shuffled items.

    Biif does not say whether its curve of ExpoMF is of the posterior or of the prior: it matters.
    """
    log = data.synthetic.generate(
        seed=0, n_users=200, n_items=100, mean_exposure=0.2, exposure_relevance_correlation=0.0
    )
    train, truth = training.train_data(log), jnp.asarray(log.truth.exposure, jnp.float32)
    prior, posterior = (
        methods.expomf(models.mf(200, 100, dim=8), exposure=exposure) for exposure in ("prior", "posterior")
    )
    state = training.fit(prior, train, jax.random.key(0), epochs=10).state
    users, items = jnp.arange(200)[:, None], jnp.arange(100)[None, :]
    rng, correlations = np.random.default_rng(0), []
    for method in (prior, posterior):
        estimate = method.exposure(state, train, users, items)
        correlations.append(float(metrics.pearson(estimate, truth)))
        chance = [float(metrics.pearson(estimate[:, rng.permutation(100)], truth)) for _ in range(99)]
        assert correlations[-1] > max(chance)
    assert correlations[0] > 0.8 and correlations[0] > correlations[1] + 0.2


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="unknown variant 'fixed'; there are corrected, released"):
        _method("fixed")
    with pytest.raises(ValueError, match="unknown exposure 'mean'; there are prior, posterior"):
        _method(exposure="mean")
    with pytest.raises(ConfigError, match="chunk_size must be an integer of at least 1, got 0"):
        _method(chunk_size=0)
    biased = models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True)
    with pytest.raises(ConfigError, match=r"expomf solves for the vectors.*global_bias.*bias=False"):
        methods.expomf(biased)
