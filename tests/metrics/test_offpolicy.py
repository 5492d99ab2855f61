"""Off-policy estimates: their definitions, their intervals on simulated logs, and the report of overlap."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import offpolicy as reference

from debias_jax import metrics

METRICS = ("dcg", "ndcg", "precision", "recall")
VALUES = {"ips": metrics.ips_value, "snips": metrics.snips_value, "dr": metrics.dr_value}


def estimate(estimator, log, **options):
    """Calls an estimator with the parts of a log that it reads."""
    log = dict(log)
    if estimator == "ips":
        observed = log.pop("observed")
        log["labels"] = jnp.where(observed, log["labels"], 0.0)
    if estimator != "dr":
        log.pop("imputed")
    return VALUES[estimator](**log, **options)


def small_log(rng, n_users=7, n=5):
    observed = rng.random((n_users, n)) < 0.6
    observed[:, 0] = True
    where = rng.random((n_users, n)) < 0.8
    where[:, 0] = True
    log = {
        "scores": rng.integers(3, size=(n_users, n)).astype(np.float32),
        "labels": (rng.random((n_users, n)) < 0.5).astype(np.float32),
        "observed": observed,
        "propensity": rng.uniform(0.2, 0.9, (n_users, n)).astype(np.float32),
        "imputed": rng.uniform(0.1, 0.9, (n_users, n)).astype(np.float32),
    }
    log["scores"][1, 0] = np.nan
    for name in ("labels", "propensity"):
        log[name][~observed] = np.nan
    lists = [{name: log[name][u][where[u]].tolist() for name in log} for u in range(n_users)]
    return log, where, lists


@pytest.mark.parametrize("estimator", VALUES)
@pytest.mark.parametrize("options", [{"k": 2}, {"k": 3, "discount": "jarvelin", "ties": "by_index"}, {}])
def test_agrees_with_the_definition_and_its_slopes(rng, estimator, options):
    log, where, lists = small_log(rng)

    @jax.jit
    def ours(log):
        return {name: estimate(estimator, log, where=where, metric=name, **options) for name in METRICS}

    for name, found in ours(log).items():
        asked = {"estimator": estimator, "metric": name, **options}
        expected, error = reference.value(lists, **asked), reference.standard_error(lists, **asked)
        assert float(found.estimate) == pytest.approx(expected, rel=1e-5)
        # 1.96 standard errors either way; the slopes by differences are good to five digits.
        assert float(found.high - found.estimate) == pytest.approx(1.959964 * error, rel=1e-3, abs=1e-6)
        assert float(found.estimate - found.low) == pytest.approx(1.959964 * error, rel=1e-3, abs=1e-6)
        assert int(found.n) == len(lists)


def test_written_out():
    scores = jnp.array([[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]])
    labels = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    observed = jnp.array([[True, True, False], [False, True, True]])
    propensity = jnp.array([[0.5, 0.5, 0.1], [0.1, 0.25, 0.5]])
    log = {"scores": scores, "labels": labels, "observed": observed, "propensity": propensity}
    log["imputed"] = jnp.full((2, 3), 0.5)
    second, third = 1 / math.log2(3), 0.5
    found = estimate("ips", log)
    # Clicks weigh 2 at rank 1 and 4 at rank 2.
    assert float(found.estimate) == pytest.approx((2 + 4 * second) / 2)
    assert float(found.ess) == pytest.approx((2 + 4) ** 2 / (4 + 16))
    # Two users: their values differ by d, the standard error of the mean is d / 2.
    half = 1.959964 * abs(2 - 4 * second) / 2
    assert float(found.high) == pytest.approx((2 + 4 * second) / 2 + half, rel=1e-5)
    # The log's weights 2, 2, 4, 2 sum to 10, for 6 pairs.
    assert float(estimate("snips", log).estimate) == pytest.approx((2 + 4 * second) / 2 * 0.6)
    # Residuals of half a click, of weight 2, -2 and 4, -2, on top of a half everywhere.
    everywhere = 0.5 * (1 + second + third)
    expected = (2 * everywhere + 0.5 * (2 - 2 * second) + 0.5 * (4 * second - 2 * 1)) / 2
    assert float(estimate("dr", log).estimate) == pytest.approx(expected)
    # Recall at 1: a click of weight 2 of all clicks, of weight 2 + 4.
    assert float(estimate("ips", log, metric="recall", k=1).estimate) == pytest.approx(2 / 6)


def test_full_information_gives_the_plain_metrics(rng):
    scores = rng.permuted(np.tile(np.arange(8.0, dtype=np.float32), (20, 1)), axis=1)
    labels = (rng.random((20, 8)) < 0.5).astype(np.float32)
    labels[:, 0] = 1.0
    ones = np.ones_like(labels)
    log = {
        "scores": scores,
        "labels": labels,
        "observed": ones > 0,
        "propensity": ones,
        "imputed": 0.3 * ones,
    }

    @jax.jit
    def compare():
        ours = {
            (estimator, name): estimate(estimator, log, metric=name, k=3).estimate
            for estimator in VALUES
            for name in METRICS
        }
        dcg = metrics.dcg(scores, labels, k=3)
        ideal = metrics.dcg(labels, labels, k=3)
        precision = metrics.precision(scores, labels, k=3)
        plain = {"dcg": dcg, "ndcg": dcg / ideal, "precision": precision}
        plain["recall"] = 3 * precision / jnp.mean(jnp.sum(labels, axis=-1))
        return ours, plain

    ours, plain = compare()
    for (estimator, name), found in ours.items():
        assert float(found) == pytest.approx(float(plain[name]), rel=1e-5), (estimator, name)


def test_a_constant_scorer_is_at_chance(rng):
    labels = (rng.random((5, 6)) < 0.5).astype(np.float32)
    value = metrics.ips_value(jnp.zeros((5, 6)), labels, propensity=jnp.ones((5, 6)), k=2, metric="precision")
    assert float(value.estimate) == pytest.approx(labels.mean(), rel=1e-6)


def test_scale_of_propensities_moves_ips_and_not_snips(rng):
    log, where, _ = small_log(rng)
    halved = log | {"propensity": 0.5 * log["propensity"]}
    first, second = (
        jax.jit(functools.partial(estimate, "snips", where=where))(each) for each in (log, halved)
    )
    np.testing.assert_allclose(first, second, rtol=1e-6)
    first, second = (estimate("ips", each, where=where).estimate for each in (log, halved))
    assert float(second) == pytest.approx(2 * float(first))


N_USERS, N_ITEMS, K, REPEATS = 200, 12, 3, 600


def simulate(key, n_users):
    """Users of a population: relevance by taste, scores that know some of it, exposure that follows the scores."""
    taste_key, score_key, relevance_key, exposure_key = jax.random.split(key, 4)
    shape = (n_users, N_ITEMS)
    taste = 1.5 * jax.random.normal(taste_key, shape)
    chance = jax.nn.sigmoid(taste)
    scores = taste + jax.random.normal(score_key, shape)
    propensity = jnp.clip(jax.nn.sigmoid(scores - 0.5), 0.15, 0.9)
    return {
        "scores": scores,
        "labels": (jax.random.uniform(relevance_key, shape) < chance).astype(jnp.float32),
        "observed": jax.random.uniform(exposure_key, shape) < propensity,
        "propensity": propensity,
        # Right for the taste, shrunk: better than nothing, and biased.
        "imputed": 0.25 + 0.5 * chance,
    }


@pytest.fixture(scope="module")
def truth():
    """The population's metrics, from 200,000 users of whom everything is known."""

    @jax.jit
    def of_population(key):
        log = simulate(key, 200_000)
        dcg = metrics.dcg(log["scores"], log["labels"], k=K)
        ideal = metrics.dcg(log["labels"], log["labels"], k=K)
        precision = metrics.precision(log["scores"], log["labels"], k=K)
        recall = K * precision / jnp.mean(jnp.sum(log["labels"], axis=-1))
        return {"dcg": dcg, "ndcg": dcg / ideal, "precision": precision, "recall": recall}

    return {name: float(value) for name, value in of_population(jax.random.key(99)).items()}


def repeated(seed, function, repeats=REPEATS):
    """What ``function`` makes of fresh logs."""
    keys = jax.random.split(jax.random.key(seed), repeats)
    return jax.jit(lambda keys: jax.lax.map(lambda key: function(key, simulate(key, N_USERS)), keys))(keys)


def test_intervals_cover_the_truth_as_often_as_they_say(truth):
    """With known propensities, the cut and discount of this file, and 200 users.

    NDCG is left out: its ideal is biased, see below, so that its intervals lie around another number. Not tested: few
    users, propensities that are estimated, ``user_snips`` with its bias within a user, other levels but .8 of recall.
    """
    estimates = repeated(
        0,
        lambda _, log: {
            (estimator, name): estimate(estimator, log, k=K, metric=name)
            for estimator in VALUES
            for name in ("dcg", "precision", "recall")
        },
    )
    # Three standard deviations of the share of 600 intervals.
    bound = 3 * math.sqrt(0.95 * 0.05 / REPEATS)
    for (estimator, name), found in estimates.items():
        covered = np.mean((found.low <= truth[name]) & (truth[name] <= found.high))
        assert abs(covered - 0.95) < bound, (estimator, name, covered)
    width = {each: float(np.mean(found.high - found.low)) for each, found in estimates.items()}
    assert width["dr", "dcg"] < width["ips", "dcg"]


def test_ideal_of_an_estimated_number_is_too_small_and_ndcg_too_large(truth):
    """IDCG is concave in the number of relevant items, if that is not below 0: E f(X) < f(E X) of an unbiased X."""

    def each(_, log):
        found = {name: estimate(name, log, k=K, metric="ndcg").estimate for name in VALUES}
        # DCG is the numerator of NDCG, over users: what is left of it is the mean of the ideals.
        ideal = {name: estimate(name, log, k=K).estimate / found[name] for name in VALUES}
        return found, ideal

    ndcg, ideal = repeated(4, each, 100)
    of_population = truth["dcg"] / truth["ndcg"]
    for name in VALUES:
        assert np.mean(ndcg[name]) - truth["ndcg"] > 4 * np.std(ndcg[name]) / 10, name
        assert np.mean(ideal[name]) - of_population < -4 * np.std(ideal[name]) / 10, name


def test_level_and_bootstrap_cover_too(truth):
    def both(key, log):
        options = {"k": K, "metric": "recall"}
        normal = estimate("snips", log, level=0.8, **options)
        return normal, estimate("snips", log, level=0.8, key=key, n_resamples=100, **options)

    bound = 3 * math.sqrt(0.8 * 0.2 / 300)
    normal, bootstrap = repeated(1, both, 300)
    for found in (normal, bootstrap):
        covered = np.mean((found.low <= truth["recall"]) & (truth["recall"] <= found.high))
        assert abs(covered - 0.8) < bound
    np.testing.assert_array_equal(normal.estimate, bootstrap.estimate)
    ratio = np.mean(bootstrap.high - bootstrap.low) / np.mean(normal.high - normal.low)
    assert ratio == pytest.approx(1.0, abs=0.05)


def test_doubly_robust_needs_one_of_two_right_and_the_naive_mean_neither(truth):
    def both(key, log):
        wrong = log | {"propensity": jnp.full_like(log["propensity"], 0.5)}
        # Relevance by a coin of its own key, of which the imputation is right.
        coin = jax.random.uniform(jax.random.fold_in(key, 99), log["labels"].shape) < 0.5
        right = wrong | {"imputed": jnp.full_like(log["scores"], 0.5), "labels": coin.astype(jnp.float32)}
        return estimate("dr", right, k=K), estimate("ips", right, k=K), estimate("ips", wrong, k=K)

    dr, ips, wrong = repeated(2, both, 200)
    discounts = 1 + 1 / math.log2(3) + 0.5

    def distance(found, expected):
        return (np.mean(found.estimate) - expected) / (np.std(found.estimate) / math.sqrt(200))

    assert abs(distance(dr, 0.5 * discounts)) < 4
    assert distance(ips, 0.5 * discounts) > 20
    assert distance(wrong, truth["dcg"]) > 20


def test_clicks_are_no_record_of_what_was_observed():
    """By enumeration: two items with m = gamma = .5, both relevant with .5, so that precision at 2 is .5.

    With clicks as ``observed`` each pair's estimate is too large by r (1 - gamma) = .25.
    """
    clicks = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    # A click has probability m gamma = 1/4.
    chance = np.array([9, 3, 3, 1]) / 16
    half = jnp.full((1, 2), 0.5)

    def expected(value):
        return chance @ np.array([float(value(each[None]).estimate) for each in clicks])

    options = {"propensity": half, "k": 2, "metric": "precision"}
    scores = jnp.array([[0.9, 0.1]])
    of_clicks = expected(lambda y: metrics.ips_value(scores, y, **options))
    misused = expected(lambda y: metrics.dr_value(scores, y, observed=y, imputed=half, **options))
    assert of_clicks == pytest.approx(0.5)
    assert misused == pytest.approx(0.75)


def test_users_without_candidates_do_not_count_and_one_user_has_no_interval(rng):
    log, _, _ = small_log(rng, n_users=2)
    where = np.ones((2, 5), bool)
    where[1] = False
    for key in (None, jax.random.key(0)):
        found = estimate("dr", log, where=where, key=key, n_resamples=20)
        assert int(found.n) == 1 and np.isfinite(found.estimate)
        assert np.isnan(found.low) and np.isnan(found.high)


def test_bootstrap_draws_only_users_that_count_and_by_its_key(rng):
    log, _, _ = small_log(rng, n_users=6)
    where = np.ones((6, 5), bool)
    where[[1, 4]] = False
    for name in ("scores", "labels", "propensity", "imputed"):
        log[name][~where] = np.nan
    compiled = jax.jit(lambda log, key: estimate("dr", log, where=where, key=key, n_resamples=400))
    kept = {name: value[[0, 2, 3, 5]] for name, value in log.items()}
    first, again, other = (compiled(log, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert float(first.low) != float(other.low)
    expected = estimate("dr", kept)
    assert float(first.estimate) == pytest.approx(float(expected.estimate), rel=1e-6)
    lowest, highest = (
        pick(
            float(estimate("ips", {name: value[[u]] for name, value in kept.items()}).estimate)
            for u in range(4)
        )
        for pick in (min, max)
    )
    found = jax.jit(lambda log, key: estimate("ips", log, where=where, key=key, n_resamples=400))(
        log, jax.random.key(0)
    )
    assert lowest - 1e-6 <= float(found.low) < float(found.high) <= highest + 1e-6


def test_weights_whose_squares_overflow_are_worth_what_they_are():
    propensity = jnp.array([1e-20, 1e-20, 1.0])
    report = metrics.overlap(propensity, observed=jnp.ones(3))
    assert float(report.ess) == pytest.approx(2.0)


def test_overlap_written_out():
    propensity = jnp.array([0.5, 0.25, 0.02, 0.04, 0.5, jnp.nan])
    observed = jnp.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    where = jnp.array([True] * 5 + [False])
    report = metrics.overlap(propensity, observed=observed, where=where)
    assert (int(report.n), float(report.largest_weight)) == (3, 50.0)
    assert float(report.ess) == pytest.approx(56**2 / (4 + 16 + 2500))
    assert float(report.largest_share) == pytest.approx(50 / 56)
    assert float(report.small_share) == pytest.approx(2 / 5)
    assert float(report.small_logged) == pytest.approx(1 / 3)
    assert float(report.small_weight) == pytest.approx(50 / 56)
    assert float(metrics.overlap(propensity, observed=observed, where=where, threshold=0.03).small_share) == (
        pytest.approx(1 / 5)
    )


def test_weights_of_small_propensities_sum_to_their_share():
    def report(_, log):
        found = metrics.overlap(log["propensity"], observed=log["observed"], threshold=0.3)
        return found.small_share, found.small_weight

    share, weight = repeated(3, report, 100)
    difference = np.asarray(weight - share)
    # A ratio of sums over 2,400 pairs: unbiased to the order of 1 / 2,400.
    assert abs(difference.mean()) < 4 * difference.std() / 10 + 1 / 2400


def test_errors_name_the_offence():
    lists, observed = jnp.ones((2, 3)), jnp.ones((2, 3), bool)
    with pytest.raises(ValueError, match=r"metric must be one of 'dcg', .*got 'map'"):
        metrics.ips_value(lists, lists, propensity=lists, metric="map")
    with pytest.raises(ValueError, match=r"ties must be one of 'mean', 'by_index', got 'pessimistic'"):
        metrics.ips_value(lists, lists, propensity=lists, ties="pessimistic")
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got 95"):
        metrics.ips_value(lists, lists, propensity=lists, level=95)
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        metrics.snips_value(lists, lists, observed=observed, propensity=lists, k=0)
    with pytest.raises(ValueError, match="n_resamples must be an integer of at least 1, got 0"):
        metrics.ips_value(lists, lists, propensity=lists, n_resamples=0)
    with pytest.raises(TypeError, match="imputed must be of a floating dtype"):
        metrics.dr_value(lists, lists, imputed=observed, observed=observed, propensity=lists)
    with pytest.raises(TypeError, match="observed must be boolean or of a floating dtype, got int32"):
        metrics.snips_value(lists, lists, observed=observed.astype(jnp.int32), propensity=lists)
    with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\], got 5"):
        metrics.overlap(lists, observed=observed, threshold=5)
    with pytest.raises(ValueError, match="last axis"):
        metrics.ips_value(jnp.float32(1.0), jnp.float32(1.0), propensity=jnp.float32(1.0))


def one_bad(value):
    """A log of which one logged propensity, and one that nobody reads, is no probability."""
    lists, propensity = np.ones((2, 3), np.float32), np.full((2, 3), 0.5, np.float32)
    observed = np.ones((2, 3), bool)
    labels = lists.copy()
    labels[0, 0] = observed[0, 0] = 0
    propensity[0, 0], propensity[1, 2] = -7.0, value
    return {"scores": lists, "labels": labels, "observed": observed, "propensity": propensity}


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, np.inf, np.nan])
@pytest.mark.parametrize("estimator", VALUES)
def test_propensities_that_cannot_be_are_refused_and_nan_under_jit(estimator, value):
    log = one_bad(value) | {"imputed": np.full((2, 3), 0.5, np.float32)}
    if estimator == "snips" and value == 1.5:
        assert np.isfinite(estimate(estimator, log).estimate)  # up to a factor
        return
    end = r"inf\)" if estimator == "snips" else r"1\]"
    with pytest.raises(ValueError, match=rf"propensity\[1, 2\] is {value:g}; it must be in \(0, {end}"):
        estimate(estimator, log)
    assert np.isnan(jax.jit(lambda log: estimate(estimator, log))(log).estimate)
    log["propensity"][1, 2] = 0.5
    assert np.isfinite(estimate(estimator, log).estimate)


@pytest.mark.parametrize("value", [0.0, -0.5, 1.5, np.nan])
def test_overlap_of_propensities_that_cannot_be(value):
    log = one_bad(value)
    propensity, observed = jnp.asarray(log["propensity"][1]), jnp.asarray(log["observed"][1])
    with pytest.raises(
        ValueError, match=rf"propensity\[2\] is {value:g}; it must be in \(0, 1\] where logged"
    ):
        metrics.overlap(propensity, observed=observed)
    report = jax.jit(metrics.overlap)(propensity, observed=observed)
    assert np.isnan([report.ess, report.largest_weight, report.largest_share, report.small_weight]).all()
    # What was never seen may have a propensity of 0.
    observed = observed.at[2].set(False)
    if value == 0.0:
        report = metrics.overlap(propensity, observed=observed)
        assert float(report.small_share) == pytest.approx(1 / 3)
    else:
        with pytest.raises(ValueError, match=rf"propensity\[2\] is {value:g}; it must be in \[0, 1\]"):
            metrics.overlap(propensity, observed=observed)
        assert np.isnan(jax.jit(metrics.overlap)(propensity, observed=observed).small_share)
