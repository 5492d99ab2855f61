"""In-batch losses, cache and streaming frequencies against the released program (fixture ``xir_losses``)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import losses, sampling
from debias_jax.sampling import in_batch

LOSS, GRADIENT = 1e-5, 2e-5
"""Tolerances of the fixtures: relative to the largest absolute value of an array."""


def assert_parity(ours, recorded, tolerance):
    assert np.shape(ours) == recorded.shape
    assert np.max(np.abs(ours - recorded)) <= tolerance * np.max(np.abs(recorded))


@pytest.fixture(scope="module")
def xir(fixtures_dir):
    return dict(np.load(fixtures_dir / "xir_losses.npz", allow_pickle=False))


def check(xir, name, loss, scores="grad_scores"):
    """The loss of the score matrix, its gradient there, and on to both tables."""

    def of_tables(query_table, item_table):
        return loss(query_table[xir["user_ids"]] @ item_table[xir["item_ids"]].T)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(xir["scores"]))
    assert_parity(value, xir[f"{name}/loss"], LOSS)
    assert_parity(gradient, xir[f"{name}/{scores}"], GRADIENT)
    query, item = jax.grad(of_tables, argnums=(0, 1))(xir["user_table"], xir["item_table"])
    assert_parity(query, xir[f"{name}/grad_query_table"], GRADIENT)
    assert_parity(item, xir[f"{name}/grad_item_table"], GRADIENT)


@pytest.mark.parametrize("name", ["ssl", "ssl_pop", "gtower_loss"])
def test_in_batch_softmax(xir, name):
    log_q = jnp.asarray(xir[f"{name}/log_q_items"])
    check(xir, name, lambda scores: losses.in_batch_softmax(scores, log_q=log_q, variant="released"))


def test_the_released_form_counts_the_positive_twice(xir):
    scores, log_q = jnp.asarray(xir["scores"]), jnp.asarray(xir["ssl_pop/log_q_items"])
    once, twice = (
        jax.grad(lambda s, v=variant: losses.in_batch_softmax(s, log_q=log_q, variant=v))(scores)
        for variant in ("published", "released")
    )
    # Two shares of the positive in the denominator: the pull on it is weaker, and that on the others too.
    assert (np.diag(twice) > np.diag(once)).all()
    off = ~np.eye(len(scores), dtype=bool)
    assert (np.asarray(twice)[off] < np.asarray(once)[off]).all()


def test_sampled_in_batch_softmax(xir):
    def loss(scores):
        return losses.importance_sampled_softmax(
            jnp.diag(scores),
            jnp.take_along_axis(scores, xir["ssl_pop_sampled/indices"], axis=1),
            log_q_pos=xir["ssl_pop_sampled/log_q_pos"],
            log_q_neg=xir["ssl_pop_sampled/log_q_neg"],
        )

    check(xir, "ssl_pop_sampled", loss)


@pytest.mark.parametrize("name", ["mns", "mns_with_pad_draw"])
def test_mixed_negatives(xir, name):
    """The mixture is weighed the wrong way round, and the positive corrected by its popularity alone."""
    drawn = xir[f"{name}/mixed_items"]
    counts, n_items = xir["pop_count"], int(xir["hp/num_items"])
    log_popularity = np.concatenate([[0.0], np.log(counts / counts.sum())])
    n_batch, n_drawn = len(xir["item_ids"]), len(drawn)
    share = n_drawn / (n_drawn + n_batch)
    items = np.concatenate([xir["item_ids"], drawn])
    log_q = np.log(share * np.exp(log_popularity[items]) + (1 - share) / (n_items + 1)).astype(np.float32)
    np.testing.assert_allclose(xir[f"{name}/mix_ratio"], share, rtol=1e-6)
    np.testing.assert_allclose(log_q, xir[f"{name}/log_q_neg"], rtol=1e-6)

    def loss(scores, extra):
        return losses.importance_sampled_softmax(
            jnp.diag(scores),
            jnp.concatenate([scores, extra], axis=1),
            log_q_pos=xir[f"{name}/log_q_pos"],
            log_q_neg=log_q,
        )

    arguments = (jnp.asarray(xir["scores"]), jnp.asarray(xir[f"{name}/uniform_scores"]))
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*arguments)
    assert_parity(value, xir[f"{name}/loss"], LOSS)
    assert_parity(gradients[0], xir[f"{name}/grad_scores"], GRADIENT)
    assert_parity(gradients[1], xir[f"{name}/grad_uniform_scores"], GRADIENT)


@pytest.mark.parametrize("name", ["bir", "bir_sampled"])
def test_resampled_softmax(xir, name):
    scores, indices = jnp.asarray(xir["scores"]), xir[f"{name}/indices"]
    logits = scores - xir[f"{name}/log_pop"][None, :]
    assert_parity(jax.nn.softmax(logits, axis=1), xir[f"{name}/resample_prob"], LOSS)
    check(
        xir,
        name,
        lambda scores: losses.resampled_softmax(jnp.diag(scores), scores, indices, variant="released"),
    )
    counts = jnp.sum(jax.nn.one_hot(indices, scores.shape[1]), axis=1)
    check(
        xir,
        name,
        lambda scores: losses.resampled_softmax(jnp.diag(scores), scores, counts=counts, variant="released"),
    )


@pytest.mark.parametrize("step", range(3))
def test_a_step_of_xir(xir, step):
    record = {name.removeprefix(f"xir/{step}/"): value for name, value in xir.items()}
    cache_weight = jnp.asarray(xir["hp/lambda"])

    def loss(batch_scores, cache_scores):
        pos = jnp.diag(batch_scores)
        of_cache = losses.resampled_softmax(pos, cache_scores, record["cache_indices"], variant="released")
        of_batch = losses.resampled_softmax(pos, batch_scores, record["batch_indices"], variant="released")
        return cache_weight * of_cache + (1 - cache_weight) * of_batch, (of_cache, of_batch)

    (value, parts), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        jnp.asarray(record["batch_scores"]), jnp.asarray(record["cache_scores"])
    )
    assert_parity(value, record["loss"], LOSS)
    assert_parity(parts[0], record["loss_cache"], LOSS)
    assert_parity(parts[1], record["loss_batch"], LOSS)
    assert_parity(gradients[0], record["grad_batch_scores"], GRADIENT)
    assert_parity(gradients[1], record["grad_cache_scores"], GRADIENT)

    cache = sampling.ItemCache(jnp.asarray(record["cache_before"]), jnp.asarray(record["occurrence_before"]))
    items = jnp.concatenate([record["item_ids"], cache.items])
    n_batch = len(record["item_ids"])
    counts = np.concatenate(
        [
            np.bincount(record["batch_indices"].ravel(), minlength=n_batch),
            np.bincount(record["cache_indices"].ravel(), minlength=len(cache.items)),
        ]
    )
    weights, occurrences = in_batch.refill_weights(cache, items, counts, variant="released")
    np.testing.assert_array_equal(occurrences, record["occurrence_after"])
    np.testing.assert_array_equal(np.flatnonzero(weights), record["refill_items"])
    np.testing.assert_array_equal(np.asarray(weights)[record["refill_items"]], record["refill_weights"])
    np.testing.assert_array_equal(record["refill_items"][record["refill_indices"]], record["cache_after"])


def test_streaming_frequency(xir):
    primes = xir["gtower/primes"]
    state = sampling.init_frequency([int(prime) for prime in primes], initial_interval=1.0)
    for number, batch in enumerate(xir["gtower/batches"]):
        state = sampling.update_frequency(state, jnp.asarray(batch), rate=jnp.asarray(xir["gtower/alpha"]))
        for table, prime in enumerate(primes):
            keys = batch % prime
            np.testing.assert_array_equal(
                state.last_seen[table][keys], xir[f"gtower/A_at_keys/{number}"][table]
            )
            assert_parity(state.interval[table][keys], xir[f"gtower/B_at_keys/{number}"][table], LOSS)
        np.testing.assert_allclose(
            sampling.log_frequency(state, jnp.asarray(batch)), xir["gtower/log_q"][number], atol=1e-6
        )
    assert float(state.step) == xir["gtower/t_final"]
    for table in range(len(primes)):
        np.testing.assert_array_equal(state.last_seen[table], xir[f"gtower/A_final/{table}"])
        assert_parity(state.interval[table], xir[f"gtower/B_final/{table}"], LOSS)
