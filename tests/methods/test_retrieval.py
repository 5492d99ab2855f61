"""The retrieval methods: one step against written-out losses, chunks, accidental hits, padding, states."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.retrieval import BATCH, DIM, MF, N_ITEMS, N_USERS, popularity, small_log

from debias_jax import losses, methods, models, sampling
from debias_jax.errors import ConfigError
from debias_jax.methods import _retrieval


@pytest.fixture(scope="module")
def log():
    return small_log()


def one_step(method, log, number=-1, **hparams):
    """The state before, the batch (by default the last, which is padded), and the state and the logs after."""
    before = method.init(jax.random.key(1), log, {"weight_decay": 0.0, **hparams})
    batches = method.batches(log, jax.random.key(2))
    batch = jax.tree.map(lambda x: x[number], batches)
    return before, batch, *method.step(before, log, batch, jax.random.key(3))


def gradient(after):
    """Adam's first moment after one step is a tenth of the gradient."""
    return jax.tree.map(lambda mu: np.asarray(mu) / 0.1, optax.tree.get(after.opt_state["prediction"], "mu"))


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
    """How often each column of each row is drawn."""
    return np.asarray(sampling.in_batch_counts(key, jnp.asarray(logits, jnp.float32), n=n))


def resampled_loss(pos, scores, counts, variant):
    if variant == "mean":
        return (counts * scores).sum(axis=1) / counts.sum(axis=1) - pos
    total = (counts * np.exp(scores)).sum(axis=1) + (np.exp(pos) if variant == "released" else 0.0)
    return np.log(total) - pos


@pytest.mark.parametrize("variant", ["published", "released", "corrected", "mean"])
def test_resampling_of_a_padded_batch(log, variant):
    method = methods.bir(MF, batch_size=BATCH, n_resampled=5, variant=variant)
    before, batch, _, logs = one_step(method, log)
    kept = np.asarray(batch.where)
    scores = matrix(before, batch, batch.items)
    weights = scores - np.log(popularity(log))[np.asarray(batch.items)]
    logits = np.where(kept, weights, -np.inf)
    counts = drawn(jax.random.key(3), logits, 5)
    assert (counts.sum(axis=1) == 5).all() and not counts[:, ~kept].any()
    if variant == "corrected":
        law = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        terms = counts * np.exp(scores) / (5 * np.where(law > 0, law, 1.0))
        expected = np.log(terms.sum(axis=1)) - np.diag(scores)
    else:
        expected = resampled_loss(np.diag(scores), scores, counts, variant)
    np.testing.assert_allclose(logs["loss"], expected[kept].mean(), rtol=2e-5)


def test_accidental_hits_are_never_drawn(log):
    method = methods.bir(MF, batch_size=BATCH, n_resampled=200, remove_accidental_hits=True)
    before, batch, _, logs = one_step(method, log, number=0)
    items = np.asarray(batch.items)
    scores = matrix(before, batch, items)
    hits = (items[:, None] == items[None]) & ~np.eye(BATCH, dtype=bool)
    assert hits.any()
    logits = np.where(hits, -np.inf, scores - np.log(popularity(log))[items])
    counts = drawn(jax.random.key(3), logits, 200)
    assert not counts[hits].any()
    expected = resampled_loss(np.diag(scores), scores, counts, "published")
    np.testing.assert_allclose(logs["loss"], expected.mean(), rtol=2e-5)


@pytest.mark.parametrize("loss_variant", ["published", "released", "mean"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_and_the_counts_of_xir(log, weight, loss_variant):
    n = 3
    method = methods.xir(MF, batch_size=BATCH, cache_size=5, n_resampled=n, loss_variant=loss_variant)
    before, batch, after, logs = one_step(method, log, cache_weight=weight)
    kept, cache = np.asarray(batch.where), np.asarray(before.extra.items)
    items, log_pop = np.asarray(batch.items), np.log(popularity(log))
    in_batch, in_cache = matrix(before, batch, items), matrix(before, batch, cache)
    pos, key = np.diag(in_batch), jax.random.key(3)
    of_batch = drawn(jax.random.fold_in(key, 0), np.where(kept, in_batch - log_pop[items], -np.inf), n)
    of_cache = drawn(jax.random.fold_in(key, 1), in_cache - log_pop[cache], n)
    expected = sum(
        share * resampled_loss(pos, scores, counts, loss_variant)
        for share, scores, counts in ((1 - weight, in_batch, of_batch), (weight, in_cache, of_cache))
    )
    np.testing.assert_allclose(logs["loss"], expected[kept].mean(), rtol=2e-5)
    counted = np.bincount(items, of_batch[kept].sum(axis=0), minlength=N_ITEMS)
    counted += np.bincount(cache, of_cache[kept].sum(axis=0), minlength=N_ITEMS)
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


LARGE = 16
"""A batch of more clicks than there are users or items."""


@pytest.mark.parametrize("hits", [False, True], ids=["hits_kept", "hits_removed"])
@pytest.mark.parametrize("name", ["ssl", "ssl_pop", "g_tower", "mns"])
def test_clicks_of_one_user_or_item_share_their_scores(log, name, hits):
    """A batch with more clicks than users and items has the loss that is written out click by click."""
    options = {"n_uniform": 5} if name == "mns" else {}
    method = getattr(methods, name)(MF, batch_size=LARGE, remove_accidental_hits=hits, **options)
    before, batch, after, logs = one_step(method, log)
    kept = np.flatnonzero(batch.where)
    assert 0 < len(kept) < LARGE
    items = np.asarray(batch.items)[kept]
    assert len(np.unique(items)) < len(items)
    uniform = np.zeros(0, np.int32)
    log_q = {"ssl": np.zeros(N_ITEMS), "ssl_pop": np.log(popularity(log))}.get(name)
    if name == "g_tower":
        log_q = -np.log(np.asarray(after.extra.interval[0]))
    if name == "mns":
        uniform = np.asarray(
            sampling.uniform_items(jax.random.fold_in(jax.random.key(3), 0), (5,), n_items=N_ITEMS)
        )
        share = len(kept) / (len(kept) + 5)
        log_q = np.log(share * popularity(log) + (1 - share) / N_ITEMS)
    columns = np.concatenate([items, uniform])
    scores = matrix(before, batch, columns)[kept]
    candidates = np.ones(scores.shape, bool)
    if hits:
        candidates = (items[:, None] != columns[None]) | np.eye(*scores.shape, dtype=bool)
    expected = softmax_loss(scores, log_q[columns], np.arange(len(kept)), candidates)
    np.testing.assert_allclose(logs["loss"], expected, rtol=2e-5)


def test_the_gradient_of_shared_rows_is_that_of_a_score_matrix_of_clicks(log):
    method = methods.ssl_pop(MF, batch_size=LARGE)
    before, batch, after, _ = one_step(method, log)
    log_q = jnp.asarray(np.log(popularity(log)), jnp.float32)[batch.items]

    def plain(params):
        scores = params["user"][batch.users] @ params["item"][batch.items].T
        columns = jnp.broadcast_to(batch.where[None], scores.shape)
        return losses.in_batch_softmax(scores, log_q=log_q, candidates=columns, where=batch.where)

    expected = jax.grad(plain)(before.params["prediction"])
    for name, leaf in gradient(after).items():
        np.testing.assert_allclose(leaf, expected[name], atol=1e-6)


def test_bir_corrects_by_the_share_of_one_click(log):
    """A column of several clicks is drawn as often as all of them: the correction divides by the share of one."""
    n = 7
    method = methods.bir(MF, batch_size=LARGE, n_resampled=n, variant="corrected")
    before, batch, _, logs = one_step(method, log)
    kept = np.asarray(batch.where)
    users, items = np.asarray(batch.users), np.asarray(batch.items)
    params = jax.tree.map(np.asarray, before.params["prediction"])
    scores = params["user"] @ params["item"].T
    held = np.bincount(items[kept], minlength=N_ITEMS)
    assert held.max() > 1
    weights = np.exp(scores) / popularity(log)
    with np.errstate(divide="ignore"):
        counts = drawn(jax.random.key(3), np.log(weights * held), n)
    of_one_click = weights / (weights * held).sum(axis=1, keepdims=True)
    total = np.log((counts * np.exp(scores) / (n * of_one_click)).sum(axis=1))
    expected = total[users] - scores[users, items]
    np.testing.assert_allclose(logs["loss"], expected[kept].mean(), rtol=2e-5)


@pytest.mark.parametrize("name", ["ssl", "mns", "bir"])
def test_scores_that_are_not_finite_stay_so(log, name):
    """An item vector of NaN that only padding, or a further column, could bring in: never a finite loss."""
    variants = ("published", "released")
    for variant in variants:
        method = getattr(methods, name)(MF, batch_size=BATCH, variant=variant)
        before = method.init(jax.random.key(1), log, {})
        batch = jax.tree.map(lambda x: x[-1], method.batches(log, jax.random.key(2)))
        item = before.params["prediction"]["item"].at[batch.items].set(jnp.nan)
        state = before._replace(params={"prediction": {**before.params["prediction"], "item": item}})
        _, logs = method.step(state, log, batch, jax.random.key(3))
        assert np.isnan(float(logs["loss"])), (variant, logs["loss"])


@pytest.mark.parametrize("name", ["bir", "xir"])
def test_shared_rows_draw_in_proportion_to_all_clicks_of_an_item(log, name):
    """The draws of a user stand for all its clicks: in XIR's counts, and in the loss."""
    n = 7
    options = {"cache_size": 5} if name == "xir" else {}
    method = getattr(methods, name)(MF, batch_size=LARGE, n_resampled=n, **options)
    before, batch, after, logs = one_step(method, log, **({"cache_weight": 0.3} if name == "xir" else {}))
    kept, log_pop = np.asarray(batch.where), np.log(popularity(log))
    users, items = np.asarray(batch.users), np.asarray(batch.items)
    params = jax.tree.map(np.asarray, before.params["prediction"])
    scores = params["user"] @ params["item"].T

    def draws(key, columns):
        with np.errstate(divide="ignore"):
            held = np.log(np.bincount(columns, minlength=N_ITEMS))
        return drawn(key, scores - log_pop + held, n)

    key, pos = jax.random.key(3), scores[users, items]
    if name == "bir":
        counts = draws(key, items[kept])
        expected = resampled_loss(pos, scores[users], counts[users], "published")
    else:
        of_batch = draws(jax.random.fold_in(key, 0), items[kept])
        of_cache = draws(jax.random.fold_in(key, 1), np.asarray(before.extra.items))
        expected = sum(
            share * resampled_loss(pos, scores[users], counts[users], "published")
            for share, counts in ((0.7, of_batch), (0.3, of_cache))
        )
        counted = (of_batch + of_cache)[users[kept]].sum(axis=0)
        np.testing.assert_array_equal(after.extra.occurrences, counted)
    np.testing.assert_allclose(logs["loss"], expected[kept].mean(), rtol=2e-5)


@pytest.mark.parametrize(
    ("name", "hits"),
    [
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("ssl_pop", "mns", "bir")),
        *(("xir", False), ("ssl_pop", True), ("mns", True), ("bir", True)),
        pytest.param("xir", True, marks=pytest.mark.slow),
    ],
)
def test_chunks_of_shared_rows(log, name, hits):
    """Fourteen users, or sixteen clicks, in chunks of four: of the users the last chunk is filled up."""
    steps = [
        one_step(getattr(methods, name)(MF, batch_size=LARGE, chunk=chunk, remove_accidental_hits=hits), log)
        for chunk in (None, 4)
    ]
    (_, _, whole, whole_logs), (_, _, parts, parts_logs) = steps
    np.testing.assert_allclose(parts_logs["loss"], whole_logs["loss"], rtol=1e-6)
    for ours, expected in zip(
        jax.tree.leaves(gradient(parts)), jax.tree.leaves(gradient(whole)), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-6)
    if name == "xir":
        np.testing.assert_array_equal(parts.extra.occurrences, whole.extra.occurrences)


def test_a_model_without_towers_and_wrong_sizes_are_refused(log):
    for name in ("ssl", "ssl_pop", "mns", "g_tower", "bir", "xir"):
        factory = getattr(methods, name)
        with pytest.raises(ConfigError, match="needs a model of two towers, .*take mf or two_tower"):
            factory(models.mmoe(N_USERS, N_ITEMS, dim=2, tasks=("label",)))
        with pytest.raises(ConfigError, match="chunk 3 does not divide the batch size 8"):
            factory(MF, batch_size=8, chunk=3)
        with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
            factory(MF, batch_size=0)
    with pytest.raises(ValueError, match="n_uniform must be an integer of at least 1, got 0"):
        methods.mns(MF, n_uniform=0)
    with pytest.raises(ValueError, match="unknown variant 'corrected'"):
        methods.xir(MF, variant="corrected")
    with pytest.raises(ValueError, match="unknown loss_variant 'corrected'"):
        methods.xir(MF, loss_variant="corrected")
    for name in ("ssl", "ssl_pop", "mns", "g_tower", "bir"):
        with pytest.raises(ValueError, match="unknown variant 'released_'"):
            getattr(methods, name)(MF, variant="released_")
    for options, message in (({"n_resampled": 0}, "n_resampled"), ({"cache_size": 0}, "cache_size")):
        with pytest.raises(ValueError, match=f"{message} must be an integer of at least 1, got 0"):
            methods.xir(MF, **options)
    with pytest.raises(ValueError, match="n_resampled must be an integer of at least 1, got 0"):
        methods.bir(MF, n_resampled=0)
    with pytest.raises(ValueError, match="sharpness must be positive, got 0"):
        methods.ssl_pop(MF, sharpness=0)
