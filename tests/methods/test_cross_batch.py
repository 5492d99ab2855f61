"""Items of the last batches as further negatives: losses written out over several steps, the queue, chunks, resume."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.retrieval import BATCH, DIM, MF, N_ITEMS, N_USERS, popularity, small_log

from debias_jax import methods, models, training
from debias_jax.methods import _cross_batch


@pytest.fixture(scope="module")
def log():
    return small_log()


def steps_of(method, log, *, n_steps=None, **hparams):
    """``(state before, batch, state after, logs)`` of each step of an epoch; batches are those of any size alike."""
    state = method.init(jax.random.key(1), log, {"weight_decay": 0.0, "lr": 0.3, **hparams})
    batches, step = method.batches(log, jax.random.key(2)), jax.jit(method.step)
    for number in range(batches.where.shape[0] if n_steps is None else n_steps):
        batch = jax.tree.map(lambda x, number=number: x[number], batches)
        after, logs = step(state, log, batch, jax.random.key(number))
        yield state, batch, after, logs
        state = after


def gradient(before, after):
    """Adam's first moment is 0.9 of that before and a tenth of the gradient."""
    mu = [optax.tree.get(state.opt_state["prediction"], "mu") for state in (before, after)]
    return jax.tree.map(lambda old, new: (np.asarray(new) - 0.9 * np.asarray(old)) / 0.1, *mu)


@pytest.mark.parametrize("hits", [False, True], ids=["hits_kept", "hits_removed"])
@pytest.mark.parametrize("cache", ["recomputed", "stale"])
@pytest.mark.parametrize(
    ("name", "batch_size", "size", "options"),
    [
        ("ssl", BATCH, 5, {}),
        ("ssl_pop", BATCH, 20, {"sharpness": 2.0}),
        ("ssl_pop", BATCH, 5, {"variant": "released"}),
        # More clicks than users and items, which are one row and one column each.
        ("ssl_pop", 16, 20, {}),
    ],
    ids=["ssl", "ssl_pop_sharp", "released", "large"],
)
def test_losses_and_gradients_of_an_epoch(log, name, batch_size, size, options, cache, hits):
    """A list of (item, vector) pairs is the cache, and every step's loss and gradient are written out."""
    method = getattr(methods, name)(
        MF, batch_size=batch_size, cache_size=size, cache=cache, remove_accidental_hits=hits, **options
    )
    log_q = np.zeros(N_ITEMS) if name == "ssl" else np.log(popularity(log))
    beta, twice = options.get("sharpness", 1.0), options.get("variant") == "released"
    queue, padded = [], 0
    for before, batch, after, logs in steps_of(method, log):
        kept = np.flatnonzero(batch.where)
        padded += len(kept) < batch_size
        users, items = (np.asarray(x)[kept] for x in (batch.users, batch.items))
        params = jax.tree.map(lambda x: np.asarray(x, np.float64), before.params["prediction"])
        cached = [item for item, _ in queue]
        vectors = [params["item"][item] if cache == "recomputed" else vector for item, vector in queue]
        columns = np.concatenate([items, np.asarray(cached, np.int32)])
        table = np.concatenate([params["item"][items], np.reshape(vectors, (-1, DIM))])
        of_users, of_items, total = np.zeros((N_USERS, DIM)), np.zeros((N_ITEMS, DIM)), 0.0
        for row, (user, item) in enumerate(zip(users, items, strict=True)):
            query = params["user"][user]
            left_in = (columns != item) | (np.arange(len(columns)) == row) if hits else columns >= 0
            weights = np.where(left_in, np.exp(beta * table @ query - log_q[columns]), 0.0)
            own = np.exp(beta * table[row] @ query - log_q[item])
            total += (np.log(weights.sum() + twice * own) - np.log(own)) / beta / len(kept)
            share = weights / (weights.sum() + twice * own) / len(kept)
            share[row] -= (1 - twice * own / (weights.sum() + twice * own)) / len(kept)
            of_users[user] += share @ table
            reached = len(columns) if cache == "recomputed" else len(kept)
            np.add.at(of_items, columns[:reached], share[:reached, None] * query)
        np.testing.assert_allclose(logs["loss"], total, rtol=2e-5)
        found = gradient(before, after)
        np.testing.assert_allclose(found["user"], of_users, atol=2e-5)
        np.testing.assert_allclose(found["item"], of_items, atol=2e-5)
        queue = [(item, params["item"][item]) for item in items] + queue
        queue = queue[:size]
        assert int(after.extra.n_filled) == len(queue)
        np.testing.assert_array_equal(after.extra.items[: len(queue)], [item for item, _ in queue])
    # The cache was filled, and a padded batch was among the steps.
    assert len(queue) == size and padded == 1


def test_the_newest_come_first_and_padding_takes_no_slot():
    recent = _cross_batch.RecentItems(jnp.zeros(5, jnp.int32), jnp.zeros((5, 1)), jnp.int32(0))
    push, expected = jax.jit(_cross_batch.push), []
    for items, where in (
        ([7, 8, 9], [True, True, True]),
        ([1, 2, 3], [False, True, False]),
        ([4, 5, 6], [False, False, False]),
        ([4, 5, 6], [True, False, True]),
        ([0, 1, 2, 3, 4, 5, 6], [False, True, True, True, True, True, True]),
    ):
        items, where = jnp.asarray(items, jnp.int32), jnp.asarray(where)
        recent = push(recent, items, 10.0 * items[:, None], where)
        expected = [int(item) for item, real in zip(items, where, strict=True) if real] + expected
        n = min(5, len(expected))
        assert int(recent.n_filled) == n
        assert recent.items[:n].tolist() == expected[:n]
        assert recent.vectors[:n, 0].tolist() == [10.0 * item for item in expected[:n]]
    assert expected[:5] == [1, 2, 3, 4, 5]


def test_before_the_end_of_the_warmup_there_is_no_cache(log):
    options = {"batch_size": BATCH, "cache_size": 12, "cache": "stale"}
    plain = [logs["loss"] for *_, logs in steps_of(methods.ssl_pop(MF, batch_size=BATCH), log, n_steps=5)]
    for warmup in (0, 3):
        steps = list(steps_of(methods.ssl_pop(MF, **options), log, n_steps=5, cache_warmup=float(warmup)))
        losses = [logs["loss"] for *_, logs in steps]
        first = max(1, warmup)
        np.testing.assert_array_equal(losses[:first], plain[:first])
        assert losses[first] > plain[first]
        # It fills up meanwhile.
        assert [int(after.extra.n_filled) for *_, after, _ in steps] == [8, 12, 12, 12, 12]


def test_at_frozen_parameters_vectors_that_were_kept_are_those_of_now(log):
    steps = [
        list(steps_of(methods.ssl_pop(MF, batch_size=BATCH, cache_size=12, cache=cache), log, lr=0.0))
        for cache in ("recomputed", "stale")
    ]
    for (*_, recomputed), (*_, stale) in zip(*steps, strict=True):
        np.testing.assert_array_equal(recomputed["loss"], stale["loss"])


@pytest.mark.parametrize("cache", ["recomputed", "stale"])
@pytest.mark.parametrize(
    "batch_size", [pytest.param(BATCH, marks=pytest.mark.slow), 16], ids=["clicks", "shared"]
)
def test_chunks_have_the_gradient_of_the_whole_batch(log, cache, batch_size):
    model = models.two_tower(
        N_USERS, N_ITEMS, dim=DIM, hidden=(4,), bias=True, normalize=True, temperature=0.3
    )
    options = {"batch_size": batch_size, "cache_size": 11, "cache": cache}
    step = jax.jit(methods.ssl_pop(model, chunk=4, **options).step)
    whole = list(steps_of(methods.ssl_pop(model, **options), log, n_steps=3))
    assert int(whole[-1][0].extra.n_filled) == 11
    for number, (before, batch, expected, expected_logs) in enumerate(whole):
        # Each from one state: Adam makes as long a step of a gradient that is 0 but for rounding.
        after, logs = step(before, log, batch, jax.random.key(number))
        np.testing.assert_allclose(logs["loss"], expected_logs["loss"], rtol=1e-6)
        jax.tree.map(np.testing.assert_array_equal, after.extra, expected.extra)
        of_whole = gradient(before, expected)
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(of_whole))
        for ours, theirs in zip(
            jax.tree.leaves(gradient(before, after)), jax.tree.leaves(of_whole), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=4e-6 * largest)


@pytest.mark.parametrize("cache", ["recomputed", "stale"])
def test_many_seeds_resume_to_the_bit(log, cache, tmp_path):
    method = methods.ssl_pop(MF, batch_size=BATCH, cache_size=12, cache=cache)
    keys = jax.random.split(jax.random.key(5), 2)
    settings = {"hparams": {"lr": np.asarray([0.01, 0.03])}, "eval_every": 2, "restore": "last"}
    whole = training.fit_many(method, log, keys, epochs=4, **settings)
    for epochs in (2, 4):
        with training.Checkpointer(tmp_path / "saved", fingerprint={}) as saver:
            parts = training.fit_many(method, log, keys, epochs=epochs, checkpointer=saver, **settings)
    assert whole.last_state.extra.items.shape == (2, 12)
    assert (whole.last_state.extra.n_filled == 12).all()
    assert (whole.last_state.extra.items[0] != whole.last_state.extra.items[1]).any()
    jax.tree.map(np.testing.assert_array_equal, parts.last_state, whole.last_state)


def test_what_is_kept_is_as_small_as_it_can_be(log):
    bias = models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True)
    for model, width in ((MF, DIM), (bias, DIM + 2)):
        stale = methods.ssl(model, cache_size=6, cache="stale").init(jax.random.key(0), log, {}).extra
        assert stale.vectors.shape == (6, width) and stale.vectors.dtype == jnp.float32
        recomputed = methods.ssl(model, cache_size=6).init(jax.random.key(0), log, {}).extra
        assert recomputed.vectors is None and recomputed.items.shape == (6,)
    without = methods.ssl_pop(MF)
    assert without.init(jax.random.key(0), log, {}).extra == {}
    assert sorted(without.hparams) == ["lr", "popularity_power", "weight_decay"]
    assert sorted(methods.ssl(MF, cache_size=1).hparams) == ["cache_warmup", "lr", "weight_decay"]


def test_wrong_settings_are_refused():
    for name in ("ssl", "ssl_pop"):
        with pytest.raises(ValueError, match="unknown cache 'old'; there are recomputed, stale"):
            getattr(methods, name)(MF, cache_size=4, cache="old")
        with pytest.raises(ValueError, match="cache_size must be at least 0, which is no cache, got -1"):
            getattr(methods, name)(MF, cache_size=-1)
