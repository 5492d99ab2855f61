"""The retrieval methods: one step against written-out losses, chunks, accidental hits, padding, states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import data, methods, models, sampling, training
from debias_jax.errors import ConfigError
from debias_jax.methods import _retrieval

N_USERS, N_ITEMS, DIM, BATCH = 14, 9, 3, 8
MF = models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7)


@pytest.fixture(scope="module")
def log():
    return training.train_data(
        data.synthetic.generate(seed=11, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.6)
    )


def one_step(method, log, number=-1, **hparams):
    """The state before, the batch (by default the last, which is padded), and the state and the logs after."""
    before = method.init(jax.random.key(1), log, {"weight_decay": 0.0, **hparams})
    batches = method.batches(log, jax.random.key(2))
    batch = jax.tree.map(lambda x: x[number], batches)
    return before, batch, *method.step(before, log, batch, jax.random.key(3))


def gradient(after):
    """Adam's first moment after one step is a tenth of the gradient."""
    return jax.tree.map(lambda mu: np.asarray(mu) / 0.1, optax.tree.get(after.opt_state["prediction"], "mu"))


def popularity(log):
    counts = np.bincount(np.asarray(log.clicks[1]), minlength=N_ITEMS)
    return np.maximum(counts, 1) / counts.sum()


def softmax_loss(scores, log_q, own, candidates, beta=1.0, twice=False):
    """Mean over rows, each written out."""
    values = []
    for row in range(len(own)):
        logits = [beta * scores[row, j] - log_q[j] for j in range(scores.shape[1]) if candidates[row, j]]
        pos = beta * scores[row, own[row]] - log_q[own[row]]
        total = np.sum(np.exp(logits)) + (np.exp(pos) if twice else 0.0)
        values.append((np.log(total) - pos) / beta)
    return np.mean(values)


def test_the_popularity_is_the_share_of_clicks(log):
    np.testing.assert_allclose(np.exp(_retrieval.log_popularity(log)), popularity(log), rtol=1e-5)


@pytest.mark.parametrize("hits", [False, True], ids=["hits_kept", "hits_removed"])
@pytest.mark.parametrize(
    ("name", "options", "power", "beta", "twice"),
    [
        ("ssl", {}, 0.0, 1.0, False),
        ("ssl", {"variant": "released"}, 0.0, 1.0, True),
        ("ssl_pop", {}, 1.0, 1.0, False),
        ("ssl_pop", {"sharpness": 2.0}, 1.0, 2.0, False),
    ],
    ids=["ssl", "ssl_released", "ssl_pop", "ssl_pop_sharp"],
)
def test_the_loss_of_a_padded_batch(log, name, options, power, beta, twice, hits):
    method = getattr(methods, name)(MF, batch_size=BATCH, remove_accidental_hits=hits, **options)
    before, batch, after, logs = one_step(method, log)
    params = jax.tree.map(np.asarray, before.params["prediction"])
    kept = np.flatnonzero(batch.where)
    assert 0 < len(kept) < BATCH
    users, items = (np.asarray(x)[kept] for x in (batch.users, batch.items))
    scores = params["user"][users] @ params["item"][items].T
    candidates = np.ones(scores.shape, bool)
    if hits:
        candidates = (items[:, None] != items[None]) | np.eye(len(kept), dtype=bool)
        assert not candidates.all()
    log_q = power * np.log(popularity(log))[items]
    expected = softmax_loss(scores, log_q, np.arange(len(kept)), candidates, beta, twice)
    np.testing.assert_allclose(logs["loss"], expected, rtol=2e-5)
    assert not np.isin(np.flatnonzero(np.abs(gradient(after)["user"]).sum(axis=1)), users, invert=True).any()


@pytest.mark.parametrize("number", [0, -1], ids=["full", "padded"])
@pytest.mark.parametrize("variant", ["published", "released"])
def test_mixed_negatives(log, variant, number):
    n_uniform = 5
    method = methods.mns(MF, batch_size=BATCH, n_uniform=n_uniform, variant=variant)
    before, batch, _, logs = one_step(method, log, number=number)
    kept = np.flatnonzero(batch.where)
    assert (len(kept) < BATCH) == (number == -1)
    uniform = sampling.uniform_items(jax.random.fold_in(jax.random.key(3), 0), (n_uniform,), n_items=N_ITEMS)
    params = jax.tree.map(np.asarray, before.params["prediction"])
    items = np.concatenate([np.asarray(batch.items)[kept], uniform])
    scores = params["user"][np.asarray(batch.users)[kept]] @ params["item"][items].T
    share = len(kept) / (len(kept) + n_uniform)
    pop, own = popularity(log)[items], np.arange(len(kept))
    if variant == "published":
        log_q = np.log(share * pop + (1 - share) / N_ITEMS)
        expected = softmax_loss(scores, log_q, own, np.ones(scores.shape, bool))
    else:
        log_q = np.log((1 - share) * pop + share / N_ITEMS)
        pos = scores[own, own] - np.log(pop[own])
        expected = np.mean(np.log(np.exp(pos) + np.exp(scores - log_q).sum(axis=1)) - pos)
    np.testing.assert_allclose(logs["loss"], expected, rtol=2e-5)


def test_frequencies_count_the_batches_that_hold_an_item(log):
    method = methods.g_tower(MF, batch_size=BATCH)
    before, batch, after, logs = one_step(method, log, frequency_rate=0.25)
    kept = np.asarray(batch.where)
    items = np.asarray(batch.items)[kept]
    # At first all items are taken to be equally popular.
    start = 1 / (1 - (1 - 1 / N_ITEMS) ** BATCH)
    interval = np.full(N_ITEMS, start)
    interval[np.unique(items)] = 0.75 * start + 0.25 * 1
    np.testing.assert_allclose(after.extra.interval[0], interval, rtol=1e-6)
    np.testing.assert_array_equal(np.flatnonzero(after.extra.last_seen[0]), np.unique(items))
    params = jax.tree.map(np.asarray, before.params["prediction"])
    scores = params["user"][np.asarray(batch.users)[kept]] @ params["item"][items].T
    expected = softmax_loss(
        scores, -np.log(interval[items]), np.arange(len(items)), np.ones(scores.shape, bool)
    )
    np.testing.assert_allclose(logs["loss"], expected, rtol=2e-5)


@pytest.mark.parametrize("name", ["ssl", "ssl_pop", "mns", "g_tower", "bir", "xir"])
def test_chunks_have_the_gradient_of_the_whole_batch(log, name):
    """Of the towers' parameters, which the score matrix is never whole for."""
    model = models.two_tower(N_USERS, N_ITEMS, dim=DIM, hidden=(4,), normalize=True, temperature=0.3)
    steps = [
        one_step(
            getattr(methods, name)(model, batch_size=BATCH, remove_accidental_hits=True, chunk=chunk), log
        )
        for chunk in (None, 2, BATCH)
    ]
    whole = gradient(steps[0][2])
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole))
    for _, _, after, logs in steps[1:]:
        np.testing.assert_allclose(logs["loss"], steps[0][3]["loss"], rtol=1e-6)
        for ours, expected in zip(jax.tree.leaves(gradient(after)), jax.tree.leaves(whole), strict=True):
            np.testing.assert_allclose(ours, expected, atol=2e-6 * largest)


def matrix(before, batch, columns):
    params = jax.tree.map(np.asarray, before.params["prediction"])
    return params["user"][np.asarray(batch.users)] @ params["item"][np.asarray(columns)].T


def drawn(key, logits, n):
    """The columns of each row, by a key of its own."""
    return np.stack(
        [
            sampling.in_batch_resample(
                jax.random.fold_in(key, row), jnp.asarray(logits[row], jnp.float32), n=n
            )
            for row in range(len(logits))
        ]
    )


def resampled_loss(scores, indices, variant):
    own = np.arange(len(scores))
    pos, chosen = scores[own, own], np.take_along_axis(scores, indices, axis=1)
    if variant == "mean":
        return chosen.mean(axis=1) - pos
    total = np.exp(chosen).sum(axis=1) + (np.exp(pos) if variant == "released" else 0.0)
    return np.log(total) - pos


@pytest.mark.parametrize("variant", ["published", "released", "corrected", "mean"])
def test_resampling_of_a_padded_batch(log, variant):
    method = methods.bir(MF, batch_size=BATCH, n_resampled=5, variant=variant)
    before, batch, _, logs = one_step(method, log)
    kept = np.asarray(batch.where)
    scores = matrix(before, batch, batch.items)
    weights = scores - np.log(popularity(log))[np.asarray(batch.items)]
    logits = np.where(kept | np.eye(BATCH, dtype=bool), weights, -np.inf)
    indices = drawn(jax.random.key(3), logits, 5)
    assert kept[indices[kept]].all()
    if variant == "corrected":
        law = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        own = np.arange(BATCH)
        terms = np.take_along_axis(np.exp(scores) / (5 * np.where(law > 0, law, 1.0)), indices, axis=1)
        expected = np.log(terms.sum(axis=1)) - scores[own, own]
    else:
        expected = resampled_loss(scores, indices, variant)
    np.testing.assert_allclose(logs["loss"], expected[kept].mean(), rtol=2e-5)


def test_accidental_hits_are_never_drawn(log):
    method = methods.bir(MF, batch_size=BATCH, n_resampled=200, remove_accidental_hits=True)
    before, batch, _, logs = one_step(method, log, number=0)
    items = np.asarray(batch.items)
    scores = matrix(before, batch, items)
    hits = (items[:, None] == items[None]) & ~np.eye(BATCH, dtype=bool)
    assert hits.any()
    logits = np.where(hits, -np.inf, scores - np.log(popularity(log))[items])
    indices = drawn(jax.random.key(3), logits, 200)
    assert not np.take_along_axis(hits, indices, axis=1).any()
    np.testing.assert_allclose(logs["loss"], resampled_loss(scores, indices, "published").mean(), rtol=2e-5)


@pytest.mark.parametrize("loss_variant", ["published", "released", "mean"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_and_the_counts_of_xir(log, weight, loss_variant):
    n = 3
    method = methods.xir(MF, batch_size=BATCH, cache_size=5, n_resampled=n, loss_variant=loss_variant)
    before, batch, after, logs = one_step(method, log, cache_weight=weight)
    kept, cache = np.asarray(batch.where), np.asarray(before.extra.items)
    items = np.asarray(batch.items)
    scores = matrix(before, batch, np.concatenate([items, cache]))
    own = np.eye(BATCH, dtype=bool)
    logits = scores - np.log(popularity(log))[np.concatenate([items, cache])]
    logits[:, :BATCH] = np.where(kept | own, logits[:, :BATCH], -np.inf)
    of_batch = drawn(jax.random.fold_in(jax.random.key(3), 0), logits[:, :BATCH], n)
    of_cache = drawn(jax.random.fold_in(jax.random.key(3), 1), logits[:, BATCH:], n)
    in_batch = resampled_loss(scores[:, :BATCH], of_batch, loss_variant)
    pos = np.diag(scores)[:, None]
    in_cache = resampled_loss(
        np.hstack([np.where(own, pos, 0.0), scores[:, BATCH:]]), BATCH + of_cache, loss_variant
    )
    expected = (weight * in_cache + (1 - weight) * in_batch)[kept].mean()
    np.testing.assert_allclose(logs["loss"], expected, rtol=2e-5)
    counted = np.bincount(
        np.concatenate([items[of_batch[kept]], cache[of_cache[kept]]], axis=None), minlength=N_ITEMS
    )
    np.testing.assert_array_equal(after.extra.occurrences, counted)
    assert np.isin(after.extra.items, np.flatnonzero(counted)).all()


def test_xir_forgets_by_its_decay(log):
    method = methods.xir(MF, batch_size=BATCH, cache_size=5, n_resampled=3)
    state = method.init(jax.random.key(1), log, {"occurrence_decay": 0.5})
    batch = jax.tree.map(lambda x: x[-1], method.batches(log, jax.random.key(2)))
    for number in range(2):
        state, _ = method.step(state, log, batch, jax.random.key(number))
    assert float(state.extra.occurrences.sum()) == 1.5 * 2 * 3 * int(batch.where.sum())


def test_a_row_whose_item_is_all_that_the_cache_holds_learns_from_the_batch(log):
    method = methods.xir(MF, batch_size=BATCH, cache_size=1, n_resampled=2, remove_accidental_hits=True)
    state = method.init(jax.random.key(1), log, {"cache_weight": 1.0})
    batch = jax.tree.map(lambda x: x[0], method.batches(log, jax.random.key(2)))
    held = int(batch.items[0])
    state = state._replace(extra=state.extra._replace(items=jnp.full(1, held, jnp.int32)))
    after, logs = method.step(state, log, batch, jax.random.key(3))
    assert np.isfinite(float(logs["loss"]))
    n_own = int((batch.items == held).sum())
    # Such rows draw from the batch alone.
    assert float(after.extra.occurrences.sum()) == 2 * (2 * BATCH - n_own)


def test_a_model_without_towers_and_wrong_sizes_are_refused(log):
    for name in ("ssl", "ssl_pop", "mns", "g_tower", "bir", "xir"):
        factory = getattr(methods, name)
        with pytest.raises(ConfigError, match="needs a model of two towers, .*take mf or two_tower"):
            factory(models.mmoe(N_USERS, N_ITEMS, dim=2, tasks=("label",)))
        with pytest.raises(ConfigError, match="chunk 3 does not divide the batch size 8"):
            factory(MF, batch_size=8, chunk=3)
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            factory(MF, batch_size=0)
    with pytest.raises(ValueError, match="n_uniform must be at least 1, got 0"):
        methods.mns(MF, n_uniform=0)
    with pytest.raises(ValueError, match="unknown variant 'corrected'"):
        methods.xir(MF, variant="corrected")
    with pytest.raises(ValueError, match="unknown loss_variant 'corrected'"):
        methods.xir(MF, loss_variant="corrected")
    for name in ("ssl", "ssl_pop", "mns", "g_tower", "bir"):
        with pytest.raises(ValueError, match="unknown variant 'released_'"):
            getattr(methods, name)(MF, variant="released_")
    for options, message in (({"n_resampled": 0}, "n_resampled"), ({"cache_size": 0}, "cache_size")):
        with pytest.raises(ValueError, match=f"{message} must be at least 1, got 0"):
            methods.xir(MF, **options)
    with pytest.raises(ValueError, match="n_resampled must be at least 1, got 0"):
        methods.bir(MF, n_resampled=0)
    with pytest.raises(ValueError, match="sharpness must be positive, got 0"):
        methods.ssl_pop(MF, sharpness=0)
