"""What the Biif paper claims about its estimators and its bi-level step, checked one claim at a time.

Each test states the claim, its source and the verdict. True claims must hold, and false ones must fail in the
way that the corrected statement predicts. Nothing is sampled: an expectation over a click is the exact sum
over its two outcomes, one over many clicks the sum over their binomial counts.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import biif
from scipy.special import expit, logit
from scipy.stats import binom

from debias_jax import hypergrad, losses, models, optimizers

pytestmark = pytest.mark.usefixtures("x64")

LOSSES = {"relmf": losses.relmf, "umf": losses.umf}
exactly = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def grid(*axes):
    """All combinations of some values, each as a flat array."""
    return [axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")]


def of_outcome(loss, logits, click, exposure):
    """Loss of each entry at Y = ``click``."""
    return loss(logits, jnp.full(logits.shape, click), exposure=exposure, reduce_fn=None)


@partial(jax.jit, static_argnums=0)
def expectation(loss, logits, m, gamma, exposure, click_weight=1.0, zero_weight=1.0):
    """E over Y ~ Bern(m gamma) of each entry's loss, and its derivative in the logit."""

    def value(logits):
        at_click, at_zero = (of_outcome(loss, logits, y, exposure) for y in (1.0, 0.0))
        return click_weight * m * gamma * at_click + zero_weight * (1 - m * gamma) * at_zero

    return value(logits), jax.grad(lambda logits: value(logits).sum())(logits)


@partial(jax.jit, static_argnums=0)
def slopes_in_s(loss, logits, exposure):
    """d loss / d logit of each entry at Y = 1 and at Y = 0."""
    slope = jax.grad(lambda logits, y: of_outcome(loss, logits, y, exposure).sum())
    return slope(logits, 1.0), slope(logits, 0.0)


def slopes_in_p(loss, p, exposure):
    """d loss / d p of each entry at Y = 1 and at Y = 0."""
    return [np.asarray(slope) / (p * (1 - p)) for slope in slopes_in_s(loss, logit(p), exposure)]


def mean_and_variance(one, zero, probability):
    mean = probability * one + (1 - probability) * zero
    return mean, probability * (one - mean) ** 2 + (1 - probability) * (zero - mean) ** 2


def ideal(p, target):
    """The loss on relevance itself, or on another target: -target log p - (1 - target) log(1 - p)."""
    return -target * np.log(p) - (1 - target) * np.log1p(-p)


def test_t1_l1_is_unbiased_for_the_ideal_loss_given_the_true_exposure():
    """Claim: L1 is unbiased and asks for p = gamma. Source: Saito 2020; Biif eq. 4. Verdict: true, if m' = m.

    With a wrong exposure m' its expectation is the cross-entropy to gamma m / m' instead.
    """
    m, exposure, gamma, p = grid([0.02, 0.3, 0.9], [0.02, 0.3, 0.9], [0.05, 0.5], [0.01, 0.6, 0.99])
    value, slope = expectation(losses.relmf, logit(p), m, gamma, exposure)
    right = m == exposure
    exactly(value[right], ideal(p, gamma)[right], rtol=1e-12)
    exactly(slope[right], (p - gamma)[right])
    exactly(value, ideal(p, gamma * m / exposure))
    assert (abs(value - ideal(p, gamma))[~right & (p != 0.6)] > 0.01).all()


def test_t2_l2_asks_for_gamma_but_is_not_an_unbiased_loss():
    """Claim: L2 is an unbiased estimator. Source: Biif eq. 10, A.1. Verdict: false; it is Fisher-consistent.

    Entry by entry its expectation is smallest at gamma (at min(1, gamma m / m') with a wrong exposure m'),
    but the expectation is the cross-entropy of the click, CE(m gamma || m p). That is not the loss on
    relevance, nor does it differ from it by a constant or a factor.
    """
    m, gamma, p = grid([0.02, 0.3, 0.9], [0.05, 0.5, 0.9], [0.02, 0.2, 0.7, 0.95])
    value, slope = expectation(losses.umf, logit(p), m, gamma, m)
    exactly(value, ideal(m * p, m * gamma))
    assert (np.sign(slope) == np.sign(p - gamma)).all()
    exactly(expectation(losses.umf, logit(gamma), m, gamma, m)[1], 0)
    # A constant or a factor apart, the slopes would have one ratio over p. It is m (1 - p) / (1 - m p).
    ratio = (slope / (p - gamma)).reshape(3, 3, 4)
    exactly(ratio, (m * (1 - p) / (1 - m * p)).reshape(3, 3, 4))
    assert (ratio.max(axis=-1) / ratio.min(axis=-1) > 1.8).all()

    m, exposure, gamma = grid([0.3, 0.9], [0.1, 0.6], [0.05, 0.5])
    target = gamma * m / exposure
    inside = target < 1
    assert inside.any() and not inside.all()
    at_target = expectation(losses.umf, logit(np.where(inside, target, 0.5)), m, gamma, exposure)[1]
    exactly(at_target[inside], 0)
    far = expectation(losses.umf, np.full(m.shape, 8.0), m, gamma, exposure)[1]
    assert (far[~inside] < 0).all()


def test_t3_variances_of_the_gradients():
    """Claim: eq. 6 and 12 are the gradients' variances. Source: Biif 2.2. Verdict: true only where m' = m.

    In general the numerators hold the true m and the denominators the estimate m'. That eq. 12 "stays bounded
    as m becomes small" is true and empty: it vanishes there, together with the mean gradient. That the
    trouble at p -> 1 "occurs in both" is false: eq. 6 grows like (1 - p)^-2, eq. 12 stays finite.
    """
    m, exposure, gamma, p = grid([0.05, 0.6], [0.05, 0.3, 0.6], [0.3, 0.8], [0.1, 0.4, 0.9])
    click, right = m * gamma, m == exposure
    _, variance_1 = mean_and_variance(*slopes_in_p(losses.relmf, p, exposure), click)
    _, variance_2 = mean_and_variance(*slopes_in_p(losses.umf, p, exposure), click)
    exactly(variance_1, click * (1 - click) / (exposure * p * (1 - p)) ** 2)
    exactly(variance_2, click * (1 - click) / (p * (1 - exposure * p)) ** 2)
    printed_6 = gamma * (1 - exposure * gamma) / (exposure * (p * (1 - p)) ** 2)
    printed_12 = exposure * gamma * (1 - exposure * gamma) / (p * (1 - exposure * p)) ** 2
    for variance, printed in ((variance_1, printed_6), (variance_2, printed_12)):
        exactly(variance[right], printed[right])
        assert (abs(variance / printed - 1)[~right] > 0.1).all()

    rare = np.asarray([1e-3, 1e-6])
    mean, variance = mean_and_variance(*slopes_in_p(losses.umf, np.full(2, 0.4), rare), rare * 0.3)
    np.testing.assert_allclose(variance / rare, 0.3 / 0.4**2, rtol=2e-3)
    np.testing.assert_allclose(mean / rare, (0.4 - 0.3) / 0.4, rtol=2e-3)

    near_one = 1 - np.asarray([1e-2, 1e-4])
    _, variance_1 = mean_and_variance(*slopes_in_p(losses.relmf, near_one, np.full(2, 0.5)), 0.15)
    _, variance_2 = mean_and_variance(*slopes_in_p(losses.umf, near_one, np.full(2, 0.5)), 0.15)
    assert variance_1[1] / variance_1[0] == pytest.approx(1e4, rel=0.05)
    assert variance_2[1] / variance_2[0] == pytest.approx(1.0, rel=0.05)


def test_t4_both_gradients_have_one_signal_to_noise_ratio():
    """Claim: L2's low variance makes updates for rare items accurate. Source: Biif 2.2. Verdict: misleading.

    The two gradients of an entry are proportional, and the factor does not depend on the click. The variance
    falls by its square and the mean by itself: no entry gains information, rare entries only weigh less.
    """
    m, gamma, p = grid([0.01, 0.05, 0.5, 0.95], [0.05, 0.3, 0.9], [0.02, 0.4, 0.97])
    l1, l2 = slopes_in_p(losses.relmf, p, m), slopes_in_p(losses.umf, p, m)
    factor = (1 - m * p) / (m * (1 - p))
    for first, second in zip(l1, l2, strict=True):
        exactly(first, factor * second)

    (mean_1, variance_1), (mean_2, variance_2) = (mean_and_variance(*pair, m * gamma) for pair in (l1, l2))
    exactly(variance_1 / variance_2, factor**2)
    exactly(mean_1**2 / variance_1, mean_2**2 / variance_2)

    example = (m == 0.05) & (gamma == 0.3) & (p == 0.4)
    assert variance_1[example].item() == pytest.approx(0.015 * 0.985 / (0.05 * 0.4 * 0.6) ** 2)  # 102.6
    assert variance_2[example].item() == pytest.approx(0.015 * 0.985 / (0.4 * 0.98) ** 2)  # .096


def pooled_optimum(loss, m, totals, clicks):
    """The one p for several groups of entries that minimises a loss: bisection on the slope in the logit.

    Args:
        loss: ``losses.relmf`` or ``losses.umf``.
        m: exposure of each group.
        totals: entries of each group.
        clicks: clicks of each group; their expectation gives the minimum of the expected loss.
    """

    def objective(s):
        at_click, at_zero = (of_outcome(loss, jnp.full(m.shape, s), y, m) for y in (1.0, 0.0))
        return jnp.sum(clicks * at_click + (totals - clicks) * at_zero)

    def halve(_, ends):
        middle = (ends[0] + ends[1]) / 2
        rising = jax.grad(objective)(middle) > 0
        return jnp.where(rising, ends[0], middle), jnp.where(rising, middle, ends[1])

    return jax.nn.sigmoid(jax.lax.fori_loop(0, 50, halve, (-30.0, 30.0))[0])


def test_t5_a_restricted_model_makes_l2_prefer_exposed_entries():
    """Claim: both estimators are unbiased, L2 varies less. Source: Biif 2.2. Verdict: it is a trade.

    One p for two kinds of entries, (m, gamma) = (.9, .2) and (.05, .8): the mean relevance is .5. L1 finds
    it; L2 finds .226, about the relevance of what is seen. Over redraws of 200 + 200 entries (all counts
    enumerated) the standard deviation of L2 is a fifth of that of L1. Where one p is right (gamma = .5 for
    both) it has no bias.
    """
    m, n = np.asarray([0.9, 0.05]), 200
    counts = np.arange(n + 1), np.arange(60)  # of the second kind 60 clicks or more have probability < 1e-15
    clicks = np.stack(grid(*counts), axis=-1).astype(float)
    totals = np.full(2, float(n))
    optimum = {
        name: jax.jit(jax.vmap(partial(pooled_optimum, loss, m, totals))) for name, loss in LOSSES.items()
    }

    def of_expected_clicks(name, gamma):
        return optimum[name](np.tile(n * m * gamma, (len(clicks), 1)))[0].item()

    every = {name: np.asarray(optimum[name](clicks)) for name in LOSSES}

    def mean_and_sd(name, gamma):
        rows, columns = (binom.pmf(k, n, q) for k, q in zip(counts, m * gamma, strict=True))
        weights = np.outer(rows, columns).ravel()
        mean = weights @ every[name]
        return mean, np.sqrt(weights @ (every[name] - mean) ** 2)

    gamma = np.asarray([0.2, 0.8])
    assert of_expected_clicks("relmf", gamma) == pytest.approx(0.5, abs=1e-9)
    p = of_expected_clicks("umf", gamma)
    assert p == pytest.approx(0.226, abs=5e-4)
    # Its slope in p vanishes: clicks / p = sum over kinds of (1 - m gamma) m / (1 - m p).
    assert (0.18 + 0.04) / p == pytest.approx(0.82 * 0.9 / (1 - 0.9 * p) + 0.96 * 0.05 / (1 - 0.05 * p))
    (mean_1, sd_1), (mean_2, sd_2) = mean_and_sd("relmf", gamma), mean_and_sd("umf", gamma)
    assert mean_1 == pytest.approx(0.5, abs=0.005)
    # L1's p is the mean of Y / m, so its variance is the mean of the entries' variances over 2 n.
    assert sd_1 == pytest.approx(np.sqrt(np.mean(gamma * (1 - m * gamma) / m) / (2 * n)), abs=0.002)
    assert mean_2 == pytest.approx(0.226, abs=0.002)
    assert sd_2 == pytest.approx(sd_1 / 5, rel=0.15)

    gamma = np.asarray([0.5, 0.5])
    (mean_1, sd_1), (mean_2, sd_2) = mean_and_sd("relmf", gamma), mean_and_sd("umf", gamma)
    assert mean_1 == pytest.approx(0.5, abs=0.005)
    assert mean_2 == pytest.approx(0.5, abs=0.005)
    assert sd_2 < 0.4 * sd_1


def test_t6_l1_is_unbounded_below():
    """Claim: trouble at p = 0 or 1 "occurs in both". Source: Biif 2.2. Verdict: false; L1 diverges.

    On one click with m = .1, gradient descent sends L1's logit to infinity at a constant rate and the loss
    down with slope 1 - 1/m = -9. L2 stays above -log m.
    """
    m = jnp.asarray([0.1])

    def descend(s, _):
        s = s - slopes_in_s(losses.relmf, s, m)[0]
        return s, (s[0], of_outcome(losses.relmf, s, 1.0, m)[0])

    s, loss = jax.lax.scan(descend, jnp.zeros(1), length=40)[1]
    np.testing.assert_allclose(np.diff(s[20:]), 9.0, rtol=1e-9)
    np.testing.assert_allclose(np.diff(loss[20:]) / np.diff(s[20:]), -9.0, rtol=1e-9)
    far = jnp.asarray([-50.0, 0.0, 50.0])
    assert (of_outcome(losses.umf, far, 1.0, jnp.full(3, 0.1)) >= -np.log(0.1)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_t7_sub_sampled_zeros_bias_both(name):
    """Claim: the estimators are unbiased as they are trained. Source: RelMF, CJMF, Biif. Verdict: false.

    If a click weighs kappa times what a zero weighs, both optima move to
    kappa gamma / (kappa m gamma + 1 - m gamma). That exceeds 1 already for 1:1 sampling at the click density
    of Yahoo! R3 (kappa = 122): L1 then diverges and L2 saturates. Weighting a sampled zero by zeros / sampled
    zeros, which is kappa, restores gamma.
    """
    loss = LOSSES[name]
    kappa, m, gamma = grid([1.0, 5.0, 20.0, 122.0], [0.05, 0.18, 0.9], [0.002, 0.05, 0.5])
    target = kappa * gamma / (kappa * m * gamma + 1 - m * gamma)
    inside = target < 1
    assert not inside[(kappa == 122) & (m == 0.18) & (gamma == 0.05)].any()
    at_target = expectation(loss, logit(np.where(inside, target, 0.5)), m, gamma, m, kappa)[1]
    exactly(at_target[inside], 0)
    for p in (0.001, 0.4, 0.999):
        falling = expectation(loss, np.full(m.shape, logit(p)), m, gamma, m, kappa)[1]
        assert (falling[~inside] < 0).all()
        assert (np.sign(falling) == np.sign(p - target))[inside].all()
    exactly(expectation(loss, logit(gamma), m, gamma, m, kappa, kappa)[1] / kappa, 0)


N_USERS, N_ITEMS, DIM, ETA = 5, 6, 3, 0.3
RELEVANCE, EXPOSURE = models.mf(N_USERS, N_ITEMS, dim=DIM), models.biif_exposure(N_USERS, dim=DIM)
POPULARITY = np.linspace(0.2, 0.9, N_ITEMS)


@pytest.fixture
def vectors(rng):
    """Recommender and exposure parameters in float64, large enough that nothing is near zero."""
    shapes = [jax.eval_shape(model.init, jax.random.key(0)) for model in (RELEVANCE, EXPOSURE)]
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), shapes)


@pytest.fixture
def rows(rng):
    """Ten batch rows and sixteen validation rows: pairs share users and items, and some pairs are in both."""

    def draw(n):
        codes = rng.choice(N_USERS * N_ITEMS, n, replace=False)
        labels = (rng.random(n) < 0.4).astype(float)
        return jnp.asarray(codes // N_ITEMS), jnp.asarray(codes % N_ITEMS), jnp.asarray(labels)

    return draw(10), draw(16)


def free_loss(params, m, users, items, clicks):
    """Summed L2 of a batch with one free exposure for each row."""
    return losses.umf(RELEVANCE.apply(params, users, items), clicks, exposure=m, reduce_fn=jnp.sum)


def eq14_loss(params, alpha, users, items, clicks, *, detach):
    """Summed L2 of a batch with the exposure of eq. 14, item vectors held constant in it or not."""
    vectors = models.item_vectors(params, items)
    if detach:
        vectors = jax.lax.stop_gradient(vectors)
    m = EXPOSURE.apply(alpha, users, vectors, jnp.asarray(POPULARITY)[items])
    return free_loss(params, m, users, items, clicks)


def validation_loss(params, outer, users, items, labels):
    """Summed L2 with exposure 1."""
    del outer
    return free_loss(params, 1.0, users, items, labels)


def hypergradient(inner_loss, tx, params, state, outer, batch, validation):
    compute = hypergrad.hypergradient(inner_loss, validation_loss, tx)
    return compute(params, state, outer, batch, validation).grads


def test_t8_clicks_give_their_exposure_no_gradient_only_if_items_are_detached(vectors, rows):
    """Claim: a click gives its exposure no gradient. Source: Biif eq. 18, A.2. Verdict: with a stop-gradient.

    True for a free number m_ui, and for eq. 14 with the item vectors held constant inside the exposure. As
    eq. 14 is written the exposure depends on the item vectors that are being stepped, and the gradient is not
    zero.
    """
    (params, alpha), ((users, items, _), validation) = vectors, rows
    tx = optimizers.sgd(ETA)
    batch = users, items, jnp.ones(10)

    @jax.jit
    def norms(params, alpha):
        gradients = [
            hypergradient(free_loss, tx, params, tx.init(params), jnp.full(10, 0.4), batch, validation),
            *(
                hypergradient(
                    partial(eq14_loss, detach=detach), tx, params, tx.init(params), alpha, batch, validation
                )
                for detach in (True, False)
            ),
        ]
        return [optax.tree.norm(gradient) for gradient in gradients]

    free, detached, as_written = norms(params, alpha)
    assert free == 0.0
    assert detached == 0.0
    assert as_written > 0.01


def test_t9_eq_19_holds_with_residuals_after_the_step(vectors, rows, rng):
    """Claim: eq. 19, 35 are the gradient of a free exposure. Source: Biif A.3. Verdict: true with care.

    The residuals and the neighbours' vectors are those after the step; the sums run over all validation pairs
    of the user and of the item; a validation pair that is in the batch too (Biif adds D_val to the training
    set) brings its own two terms. The residual of a negative pair is sigma(+R): line 1 of eq. 35 prints
    sigma(-R), which is refuted.
    """
    (params, _), (batch, validation) = vectors, rows
    m, tx = jnp.asarray(rng.uniform(0.1, 0.9, 10)), optimizers.sgd(ETA)
    exact = jax.jit(partial(hypergradient, free_loss, tx))(params, tx.init(params), m, batch, validation)

    def listed(columns):
        return [(int(u), int(i), bool(label)) for u, i, label in zip(*map(np.asarray, columns), strict=True)]

    formula = partial(
        biif.eq19,
        np.asarray(params["user"]),
        np.asarray(params["item"]),
        listed(batch),
        np.asarray(m),
        listed(validation),
        ETA,
    )
    np.testing.assert_allclose(exact, formula(), rtol=1e-9, atol=1e-9)
    printed_sign = formula(negative_residual=lambda r: expit(-r))
    for refuted in (printed_sign, formula(residuals_after=False), formula(own=False)):
        assert abs(exact - refuted).max() > 0.02 * abs(exact).max()


def test_t10_adam_as_inner_step_blocks_the_hypergradient_at_first(vectors, rows, rng):
    """Claim: the method is "optimised with Adam". Source: Biif 3.1.4. Verdict: it matters which step.

    Almost nothing of the exposure passes through Adam's first step, g / |g|: relative to an SGD step of the
    same size less than 1e-4. Later, with filled moments, it passes, but in another direction than through
    SGD. (Where eps_root is not small against the squared gradients the step is SGD-like and this does not
    show.)
    """
    (params, _), (batch, validation) = vectors, rows
    m = jnp.asarray(rng.uniform(0.1, 0.9, 10))
    adam, sgd = optimizers.adam(1e-3, eps_root=1e-16), optimizers.sgd(1e-3)
    step = hypergrad.lookahead(free_loss, adam)

    @jax.jit
    def compare(params, state):
        through_adam = hypergradient(free_loss, adam, params, state, m, batch, validation)
        through_sgd = hypergradient(free_loss, sgd, params, sgd.init(params), m, batch, validation)
        norm_adam, norm_sgd = jnp.linalg.norm(through_adam), jnp.linalg.norm(through_sgd)
        return norm_adam / norm_sgd, through_adam @ through_sgd / (norm_adam * norm_sgd)

    @jax.jit
    def train(params, state, n_steps):
        return jax.lax.fori_loop(0, n_steps, lambda _, carry: step(*carry, m, *batch), (params, state))

    state, taken, ratios, cosines = adam.init(params), 0, {}, {}
    for t in (1, 10, 100, 1000):
        params, state = train(params, state, t - 1 - taken)
        taken = t - 1
        ratios[t], cosines[t] = map(float, compare(params, state))
    assert ratios[1] < 1e-4
    assert all(ratios[t] > 1000 * ratios[1] for t in (10, 100, 1000))
    assert max(cosines.values()) < 0.98


def test_t12_l2_alone_does_not_identify_exposure_and_relevance(rng):
    """Claim: JointOpt is worse than bi-level steps. Source: Biif 3.3. Verdict: this is a reason for it.

    L2 depends on the product m p only. Free entries can trade one for the other along a curve at no cost, so
    that minimising L2 over both decides nothing but the product.
    """
    m, p = rng.uniform(0.2, 0.4, 50), rng.uniform(0.3, 0.5, 50)
    clicks = (rng.random(50) < 0.2).astype(float)

    @jax.jit
    def value(scale):
        shared = p / scale
        logits = jnp.log(shared) - jnp.log1p(-shared)
        return [
            loss(logits, clicks, exposure=m * scale, reduce_fn=jnp.sum) for loss in (losses.umf, losses.relmf)
        ]

    l2, l1 = np.asarray([value(scale) for scale in (0.6, 1.0, 1.5, 2.4)]).T
    np.testing.assert_allclose(l2, l2[1], rtol=1e-12)
    # L1, which takes the exposure as given, does tell the splits apart.
    assert np.ptp(l1) > 1.0
    assert abs(jax.jit(jax.grad(lambda scale: value(scale)[0]))(1.0)) < 1e-9
