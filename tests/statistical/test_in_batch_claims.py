"""Which distribution the negatives of each in-batch loss follow, by enumeration of all batches.

Six items with given popularity and scores of one query. A batch is B items drawn by popularity; the gradient of a loss
in the scores is (what the negatives weigh) minus (one at the positive), and its expectation is summed over every batch
and, where columns are resampled, over every resample.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import data, losses, methods, models, sampling, training
from debias_jax.methods._score_matrix import ClickBatch

POPULARITY = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
SCORES = np.array([-0.5, 0.8, 0.0, 1.2, -1.0, 0.4])
N_ITEMS = len(POPULARITY)


def share(weights):
    return weights / weights.sum(axis=-1, keepdims=True)


TARGETS = {
    "popularity x softmax": share(POPULARITY * np.exp(SCORES)),
    "softmax": share(np.exp(SCORES)),
    "softmax of twice the scores": share(np.exp(2 * SCORES)),
}

IN_BATCH = {
    "uncorrected": (lambda c: c * np.exp(SCORES), "popularity x softmax"),
    "log_q": (lambda c: c * np.exp(SCORES) / POPULARITY, "softmax"),
    "sharpness 2": (lambda c: c * np.exp(2 * SCORES) / POPULARITY, "softmax of twice the scores"),
}
"""What the columns weigh, c times each item, and the limit."""

RESAMPLED = {
    "published": (lambda d: d * np.exp(SCORES), "softmax of twice the scores"),
    "corrected": (lambda d: d * POPULARITY, "popularity x softmax"),
    "mean": (lambda d: d * np.ones(N_ITEMS), "softmax"),
}
"""The same for columns drawn anew, d times each item; "corrected" divides e^s by a slot's share, e^s / popularity."""


def counts_of(total, parts=N_ITEMS):
    """Every way to draw ``total`` items, as counts ``[ways, parts]``."""
    if parts == 1:
        return np.array([[total]])
    blocks = []
    for first in range(total + 1):
        rest = counts_of(total - first, parts - 1)
        blocks.append(np.hstack([np.full((len(rest), 1), first), rest]))
    return np.vstack(blocks)


def probability(counts, shares):
    """Multinomial probability of every row of counts under every row of shares, ``[shares, counts]``."""
    log_factorial = np.array([math.lgamma(n + 1) for n in range(counts.sum(axis=1).max() + 1)])
    ways = log_factorial[counts.sum(axis=1)] - log_factorial[counts].sum(axis=1)
    with np.errstate(divide="ignore"):
        logs = np.log(np.atleast_2d(shares))
    terms = np.where(counts[None] > 0, counts[None] * np.maximum(logs, -1e9)[:, None], 0.0).sum(axis=-1)
    return np.exp(ways + terms)


def expected_in_batch(name, size):
    batches = counts_of(size)
    return probability(batches, POPULARITY)[0] @ share(IN_BATCH[name][0](batches))


def expected_resampled(name, size):
    """All batches of a size, all resamples of the same size."""
    batches, draws = counts_of(size), counts_of(size)
    weights = share(RESAMPLED[name][0](draws))
    law = share(batches * np.exp(SCORES) / POPULARITY)
    total = np.zeros(N_ITEMS)
    of_batch = probability(batches, POPULARITY)[0]
    for part in np.array_split(np.arange(len(batches)), max(1, len(batches) // 100)):
        total += of_batch[part] @ (probability(draws, law[part]) @ weights)
    return total


def distance(weights, target):
    return np.abs(weights - TARGETS[target]).sum()


@pytest.mark.parametrize(
    ("expected", "forms", "sizes"),
    [(expected_in_batch, IN_BATCH, (8, 16)), (expected_resampled, RESAMPLED, (4, 8))],
    ids=["in_batch", "resampled"],
)
def test_what_the_negatives_follow_as_the_batch_grows(expected, forms, sizes):
    for name, (_, own) in forms.items():
        small, large = (expected(name, size) for size in sizes)
        # The bias towards its own target falls as 1/B. Twice the larger batch's less the smaller's takes it off: the
        # sharpest target is still far away at B = 8, and the nearest without that bias.
        assert 1.6 < distance(small, own) / distance(large, own) < 2.6, name
        limit = 2 * large - small
        others = [distance(limit, target) for target in TARGETS if target != own]
        assert distance(limit, own) < 0.5 * min(others), name


def test_resampling_is_its_deterministic_limit_with_noise():
    """Many draws of a given batch weigh the columns as sharpness 2 does: BIR is not an estimate of the softmax."""
    batch = np.array([3, 2, 1, 1, 0, 1])
    law = share(batch * np.exp(SCORES) / POPULARITY)
    assert np.abs(share(law * np.exp(SCORES)) - share(IN_BATCH["sharpness 2"][0](batch))).max() < 1e-12
    # Theorem 3.2's correction gives back the loss without any correction of popularity.
    assert (
        np.abs(
            share(law * np.exp(SCORES) / (np.exp(SCORES) / POPULARITY))
            - share(IN_BATCH["uncorrected"][0](batch))
        ).max()
        < 1e-12
    )


def test_the_resampled_items_of_a_query_follow_the_softmax_with_an_error_of_one_over_the_batch():
    """Theorem 3.1, with its rate."""
    sizes = np.array([8, 12, 16, 24])
    errors = [distance(expected_in_batch("log_q", size), "softmax") / 2 for size in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert -1.15 < slope < -0.9


def _every_draw(n, size):
    return np.stack(np.meshgrid(*[np.arange(n)] * size, indexing="ij"), axis=-1).reshape(-1, size)


def test_the_losses_have_the_enumerated_gradients():
    """Batches of four by the library: 6^4 batches for the in-batch losses, and every resample for the others."""
    batches = _every_draw(N_ITEMS, 4)
    chance = np.prod(POPULARITY[batches], axis=1)
    scores = jnp.asarray(SCORES[batches], jnp.float32)[:, None, :]
    log_pop = jnp.asarray(np.log(POPULARITY)[batches], jnp.float32)
    settings = {
        "uncorrected": lambda log_pop: {},
        "log_q": lambda log_pop: {"log_q": log_pop},
        "sharpness 2": lambda log_pop: {"log_q": log_pop, "sharpness": 2.0},
    }

    def items_of(gradients):
        """Weights of columns, by item, of which the positive (column 0) has had one taken off."""
        weights = np.asarray(gradients, np.float64).reshape(len(gradients), -1)
        weights[:, 0] += 1
        return sum(
            np.bincount(batches[:, slot], chance * weights[:, slot], minlength=N_ITEMS) for slot in range(4)
        )

    for name, options in settings.items():

        def loss(scores, log_pop, options=options):
            return losses.in_batch_softmax(scores, targets=jnp.zeros(1, jnp.int32), **options(log_pop))

        gradients = jax.jit(jax.vmap(jax.grad(loss)))(scores, log_pop)
        np.testing.assert_allclose(items_of(gradients), expected_in_batch(name, 4), atol=2e-6)

    draws = _every_draw(4, 4)
    for name in RESAMPLED:

        def loss(scores, log_pop, indices, name=name):
            log_w = jax.nn.log_softmax(scores - log_pop[None, :], axis=1)
            return losses.resampled_softmax(
                jax.lax.stop_gradient(scores[:, 0]),
                scores,
                indices[None, :],
                variant=name,
                **({"log_w": log_w} if name == "corrected" else {}),
            )

        def expected(scores, log_pop, loss=loss):
            law = jax.nn.softmax(scores[0] - log_pop)
            gradients = jax.vmap(jax.grad(loss), in_axes=(None, None, 0))(scores, log_pop, draws)
            return jnp.tensordot(jnp.prod(law[draws], axis=1), gradients, axes=1)

        gradients = np.array(
            jax.jit(lambda *args, f=expected: jax.lax.map(lambda x: f(*x), args))(scores, log_pop)
        )
        gradients[:, 0, 0] -= 1
        np.testing.assert_allclose(items_of(gradients), expected_resampled(name, 4), atol=5e-6)


def expected_mixed(size, n_uniform, *, exchanged):
    """Mixed negatives: all batches by popularity, all uniform draws beside them."""
    shares = (n_uniform, size) if exchanged else (size, n_uniform)
    q = (shares[0] * POPULARITY + shares[1] / N_ITEMS) / (size + n_uniform)
    batches, uniform = counts_of(size), counts_of(n_uniform)
    weights = share((batches[:, None] + uniform[None]) * np.exp(SCORES) / q)
    of_batch = probability(batches, POPULARITY)[0]
    of_uniform = probability(uniform, np.full(N_ITEMS, 1 / N_ITEMS))[0]
    return np.einsum("b,u,bui->i", of_batch, of_uniform, weights)


def test_exchanged_shares_of_mixed_negatives_aim_at_another_distribution():
    """Two in-batch negatives for each uniform one: by the released correction popular items are pushed down more."""
    sizes = ((4, 2), (8, 4))
    own = [np.abs(expected_mixed(*size, exchanged=False) - TARGETS["softmax"]).sum() for size in sizes]
    assert 1.6 < own[0] / own[1] < 2.6
    law, divisor = ((first * POPULARITY + second / N_ITEMS) / 3 for first, second in ((2, 1), (1, 2)))
    limit = share(np.exp(SCORES) * law / divisor)
    released = [expected_mixed(*size, exchanged=True) for size in sizes]
    gaps = [np.abs(weights - limit).sum() for weights in released]
    assert 1.6 < gaps[0] / gaps[1] < 2.6
    assert np.abs(limit - TARGETS["softmax"]).sum() > 2 * own[1]
    # The ratio of the two laws rises with popularity.
    assert (np.diff((limit / TARGETS["softmax"])[np.argsort(POPULARITY)]) > 0).all()


def expected_of_positives(size, *, twice):
    """What the columns weigh, by item, and what of it lies on a row's own item; the positive is one of the batch."""
    batches = counts_of(size)
    chance = probability(batches, POPULARITY)[0]
    total, own = np.zeros(N_ITEMS), 0.0
    for item in range(N_ITEMS):
        weights = share((batches + twice * np.eye(N_ITEMS)[item]) * np.exp(SCORES) / POPULARITY)
        joint = chance * batches[:, item] / size
        total += joint @ weights
        own += joint @ weights[:, item]
    return total, own


def test_a_positive_that_stands_twice_is_pulled_less():
    """The released losses: the same limit, a bias of O(1/B) more, and a weaker pull on the positive at any size."""
    distances = {}
    for size in (4, 8, 16):
        once, own_once = expected_of_positives(size, twice=False)
        twice, own_twice = expected_of_positives(size, twice=True)
        np.testing.assert_allclose(once, expected_in_batch("log_q", size), atol=1e-12)
        assert 1 - own_twice < 1 - own_once
        distances[size] = distance(twice, "softmax")
        # Every item is its own positive as often as it is clicked: what is counted twice follows popularity.
        assert distances[size] > distance(once, "softmax")
    assert 1.5 < distances[8] / distances[16] < 2.6

    def loss(scores, log_pop):
        return losses.in_batch_softmax(
            scores[None], targets=jnp.zeros(1, jnp.int32), log_q=log_pop, variant="released"
        )

    batch = np.array([1, 0, 0, 3])
    gradient = np.array(jax.grad(loss)(jnp.asarray(SCORES[batch]), jnp.asarray(np.log(POPULARITY)[batch])))
    gradient[0] += 1
    counts = np.bincount(batch, minlength=N_ITEMS) + np.eye(N_ITEMS)[1]
    expected = share(counts * np.exp(SCORES) / POPULARITY)
    np.testing.assert_allclose(np.bincount(batch, gradient, minlength=N_ITEMS), expected, atol=1e-6)


def test_resampling_only_adds_variance():
    """At equal batches the gradient of the resampled mean varies more than that of the loss whose target it shares."""
    batches = counts_of(8)
    of_batch = probability(batches, POPULARITY)[0]

    def spread(mean, second):
        return (second - mean**2).sum()

    deterministic = share(IN_BATCH["log_q"][0](batches))
    law = deterministic
    own = spread(of_batch @ deterministic, of_batch @ deterministic**2)
    # The share of an item among m draws by ``law`` has the second moment law^2 + law (1 - law) / m.
    second = law**2 + law * (1 - law) / 8
    resampled = spread(of_batch @ law, of_batch @ second)
    assert np.abs(of_batch @ law - expected_resampled("mean", 8)).max() < 1e-9
    assert resampled > 1.3 * own


@pytest.mark.parametrize("cache", ["recomputed", "stale"])
def test_a_cache_of_the_last_items_is_a_larger_batch(cache):
    """The gradient of ``ssl_pop`` with a full cache, all batches of two clicks and all caches of K items enumerated.

    A user's vector is its scores and the items' are unit vectors, so that the user's gradient is by item. It is that of
    a larger batch with both caches, the items' own with the recomputed one.
    """
    n_batch, gaps = 2, []
    log = training.train_data(data.synthetic.generate(seed=0, n_users=2, n_items=N_ITEMS, mean_exposure=0.9))
    log = log._replace(popularity=jnp.asarray(np.sqrt(POPULARITY / POPULARITY.max()), jnp.float32))
    for size in (2, 6):
        method = methods.ssl_pop(
            models.mf(2, N_ITEMS, dim=N_ITEMS), batch_size=n_batch, cache_size=size, cache=cache
        )
        state = method.init(jax.random.key(0), log, {"weight_decay": 0.0})
        towers = {"user": jnp.asarray(np.stack([SCORES, SCORES]), jnp.float32), "item": jnp.eye(N_ITEMS)}
        state = state._replace(params={"prediction": towers})

        def gradient(batch, cached, method=method, state=state, size=size):
            kept = state.extra._replace(items=cached, n_filled=jnp.int32(size))
            if cache == "stale":
                kept = kept._replace(vectors=jnp.eye(N_ITEMS)[cached])
            clicks = ClickBatch(jnp.zeros(n_batch, jnp.int32), batch, jnp.ones(n_batch, bool))
            after, _ = method.step(state._replace(extra=kept), log, clicks, jax.random.key(0))
            first = optax.tree.get(after.opt_state["prediction"], "mu")
            # An item's gradient is a multiple of the user's vector.
            of_items = first["item"] @ jnp.asarray(SCORES / (SCORES @ SCORES), jnp.float32)
            return jnp.stack([first["user"][0], of_items]) / 0.1

        batches, caches = counts_of(n_batch), counts_of(size)
        slots = [
            jnp.asarray([np.repeat(np.arange(N_ITEMS), row) for row in counts], jnp.int32)
            for counts in (batches, caches)
        ]
        every = jax.jit(jax.vmap(jax.vmap(gradient, in_axes=(None, 0)), in_axes=(0, None)))(*slots)
        chances = [probability(counts, POPULARITY)[0] for counts in (batches, caches)]
        weights, of_items = np.einsum("b,c,bcki->ki", *chances, np.asarray(every, np.float64)) + POPULARITY
        np.testing.assert_allclose(weights, expected_in_batch("log_q", n_batch + size), atol=2e-6)
        # Vectors that were kept push no item: of what pushes them the columns of the batch have their share alone.
        reached = n_batch / (n_batch + size) if cache == "stale" else 1.0
        np.testing.assert_allclose(of_items, reached * weights, atol=2e-6)
        gaps.append(distance(weights, "softmax"))
    # As 1 / (B + K): 4 and 8 columns.
    assert 1.6 < gaps[0] / gaps[1] < 2.6
    assert gaps[0] < distance(expected_in_batch("log_q", n_batch), "softmax")


def _cache_of(variant, decay, *, size=64, n_steps=150, n_items=200):
    """The cache after many steps with frozen scores, and how the items' scores rank."""
    rng = np.random.default_rng(0)
    scores = jnp.asarray(
        rng.normal(0.0, 1.0, (32, n_items)) + np.linspace(2.0, -2.0, n_items)[None], jnp.float32
    )
    popularity = share(1.0 / np.arange(1, n_items + 1)[rng.permutation(n_items)])
    log_pop = jnp.asarray(np.log(popularity), jnp.float32)

    def step(cache, key):
        batch_key, draw_key, cache_key = jax.random.split(key, 3)
        batch = jax.random.choice(batch_key, n_items, (size,), p=jnp.asarray(popularity, jnp.float32))
        items = jnp.concatenate([batch, cache.items])
        logits = scores[:, items] - log_pop[items][None, :]
        indices = jnp.concatenate(
            [
                sampling.in_batch_resample(draw_key, logits[:, :size], n=size // 2),
                size
                + sampling.in_batch_resample(jax.random.fold_in(draw_key, 1), logits[:, size:], n=size // 2),
            ],
            axis=1,
        )
        counts = jnp.zeros(2 * size).at[indices.ravel()].add(1.0)
        cache = sampling.update_cache(cache_key, cache, items, counts, decay=decay, variant=variant)
        return cache, cache.items

    start = sampling.init_cache(jax.random.key(0), n_items=n_items, size=size, variant=variant)
    _, items = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), n_steps))
    return (
        np.bincount(np.asarray(items[n_steps // 2 :]).ravel(), minlength=n_items) / items[n_steps // 2 :].size
    )


@pytest.mark.parametrize("variant", ["published", "released"])
def test_the_cache_gathers_the_items_that_all_score_high(variant):
    """B-T4: with frozen scores the cache holds few distinct items, those at the head of the common ranking."""
    law = _cache_of(variant, 1.0)
    # The first tenth of 200 items, which lie .4 apart from the next tenth in mean score.
    assert law[:20].sum() > 0.25
    effective = 1.0 / (law**2).sum()
    assert effective < 100
