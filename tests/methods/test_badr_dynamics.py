"""Where the released program of BADR takes its pseudo-labels, and what stops them.

Its imputation loss has one gradient, that of the mean imputed error m_U over uniform pairs, and raises it: each
pseudo-label is driven away from the prediction of its pair. Nothing in the loss ends that. The program holds
probabilities in float32, and that does: a pseudo-label of 1 stands still from a logit of 16.6 on, while one of 0 only
begins to fade at -28. The ones stand still first, the rest drifts to 0, and uniform pairs act as negatives.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, risks, training
from debias_jax.methods import doubly_robust

# A matrix with Coat's density and share of positives, a quarter of its pairs; batches to match; Coat's dimension and
# the program's published hyperparameters for Coat, whose propensities are one constant.
N, DIM, BATCH_SIZE, RATIO = 150, 16, 32, 5
PUBLISHED = {
    "lr": 0.0023816388518405167,
    "weight_decay": 0.0004625855484434969,
    "imputation_lr": 0.09988215027329404,
    "imputation_weight_decay": 3.394376569365401e-07,
    "min_propensity": 0.08849835812057934,
}
SEEDS = (0,)


def pseudo_logits(epochs):
    """The pseudo-labels' logits over the whole matrix after some epochs, ``[seeds, N, N]``."""
    log = data.synthetic.generate(
        seed=0, n_users=N, n_items=N, mean_exposure=0.08, mean_relevance=0.5, name="coat-like"
    )
    model = models.mf(N, N, dim=DIM, init_scale=1.0)
    method = methods.badr(
        model,
        model,
        models.additive_logistic(N, N),
        variant="released",
        imputed_errors="released",
        weighting="batch",
        order="prediction_first",
        propensity="constant",
        batch_size=BATCH_SIZE,
        ratio=RATIO,
    )
    hparams = {name: jnp.asarray(value, jnp.float32) for name, value in PUBLISHED.items()}
    users, items = jnp.arange(N)[:, None], jnp.arange(N)[None, :]

    @jax.jit
    def train(log, keys):
        def one(key):
            start = method.init(key, log, hparams)
            state = training.train_epochs(method, start, log, key, jnp.int32(0), n_epochs=epochs)[0]
            return model.apply(state.params["imputation"], users, items)

        return jax.lax.map(one, keys)

    keys = jnp.stack([training.run_key(seed) for seed in SEEDS])
    return np.asarray(train(training.train_data(log), keys))


def test_only_saturation_stops_the_pseudo_labels_and_it_stops_them_at_zero(monkeypatch):
    saturating = pseudo_logits(epochs=100)
    monkeypatch.setattr(doubly_robust, "saturating_cross_entropy", doubly_robust.cross_entropy)
    exact = pseudo_logits(epochs=20)
    # Logits start with a standard deviation of 4, as 16 products of normals have. The exact loss has sent them a
    # hundred times as far in a fifth of the epochs, and its steps grow.
    typical, without = (np.median(np.abs(logits), axis=(1, 2)) for logits in (saturating, exact))
    assert (abs(saturating) < 5_000).all()
    assert (without > 100 * typical).all()
    # Both sets of pseudo-labels are 0 or 1. Saturation leaves few ones; without it there are as many as at first.
    ones, ones_without = (np.mean(logits > 0, axis=(1, 2)) for logits in (saturating, exact))
    assert (ones < 0.25).all()
    assert (abs(ones_without - 0.5) < 0.05).all()


def test_saturation_is_asymmetric():
    """No gradient above 24 log 2, where 1 - p is 0 in float32; a share p / 1e-12 of it below log 1e-12."""
    logits = jnp.asarray([-60.0, -30.0, -27.0, 0.0, 16.0, 17.0, 60.0])
    gradient = jax.vmap(jax.grad(doubly_robust.saturating_cross_entropy), (0, None))
    for target in (0.25, 0.75):
        full = np.asarray([0, 0, 0, 0.5, 1, 1, 1]) - target
        share = np.asarray([np.exp(-60.0) / 1e-12, np.exp(-30.0) / 1e-12, 1, 1, 1, 0, 0])
        np.testing.assert_allclose(gradient(logits, target), full * share, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("level", [0.1, 0.5, 2.0])
def test_the_released_loss_raises_the_imputed_errors_of_uniform_pairs(rng, level):
    """With one weight w for all rows the slope in m_U is (2 w^2 / G) [(1 - G / w) m_U - (1 - 1 / w) m_O].

    The true errors are not in it. It is negative as long as m_U < m_O (w - 1) / (w - G), so that descent raises m_U.
    """
    ratio, weight, rows = 5, 7.55, 64
    errors, imputed = (rng.gamma(2.0, level, rows).astype(np.float32) for _ in range(2))
    population = rng.gamma(2.0, level, ratio * rows).astype(np.float32)

    def loss(shift):
        return risks.badr_imputation(
            jnp.asarray(errors),
            jnp.asarray(imputed),
            observed=jnp.ones(rows),
            propensity=jnp.asarray(1 / weight, jnp.float32),
            population=population + shift,
            variant="released",
        )

    mean_u, mean_o = population.mean(), imputed.mean()
    expected = 2 * weight**2 / ratio * ((1 - ratio / weight) * mean_u - (1 - 1 / weight) * mean_o)
    slope = float(jax.grad(loss)(0.0))
    assert slope == pytest.approx(expected, rel=1e-4)
    assert mean_u < mean_o * (weight - 1) / (weight - ratio)
    assert slope < 0
