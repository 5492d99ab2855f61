"""The score matrix in chunks: sums over them against numpy, and what a step holds of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, training
from debias_jax.methods._score_matrix import ClickBatch, FurtherItems, ScoreMatrix

N_USERS, N_ITEMS, DIM = 14, 9, 3
MF = models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7)


@pytest.mark.parametrize("hits", [False, True], ids=["hits_kept", "hits_removed"])
@pytest.mark.parametrize("chunk", [None, 4, 16])
@pytest.mark.parametrize("vectors", [False, True], ids=["embedded", "given"])
def test_counts_over_the_rows(rng, chunk, vectors, hits):
    """Sixteen clicks of fourteen users, in chunks that are filled up, of which four clicks are padding."""
    log = training.train_data(data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS))
    params = MF.init(jax.random.key(0))
    users, items = rng.integers(0, N_USERS, 16), rng.integers(0, N_ITEMS, 16)
    where, further = np.arange(16) < 12, rng.integers(0, N_ITEMS, 5)
    counts = np.asarray([1, 0, 2, 1, 1], np.float32)
    kept = rng.normal(size=(5, DIM)).astype(np.float32)
    batch = ClickBatch(*(jnp.asarray(x, jnp.int32) for x in (users, items)), jnp.asarray(where))
    columns = FurtherItems(
        jnp.asarray(further, jnp.int32), jnp.asarray(counts), jnp.asarray(kept) if vectors else None
    )

    @jax.jit
    def sums(params):
        def of_rows(rows):
            # By item: what the rows' softmax over the further columns gives each.
            share = rows.weights @ jnp.exp(rows.further.logits())
            counts = {
                "items": jnp.zeros(N_ITEMS).at[rows.further.items].add(share),
                "n": jnp.sum(rows.weights),
            }
            return rows.numbers, counts

        return ScoreMatrix(MF, params, log, batch, columns, hits, chunk).each_chunk(of_rows)

    user, item = np.asarray(params["user"]), np.asarray(params["item"])
    expected = np.zeros(N_ITEMS)
    for row in range(12):
        for slot in range(5):
            if hits and further[slot] == items[row]:
                continue
            vector = kept[slot] if vectors else item[further[slot]]
            expected[further[slot]] += counts[slot] * np.exp(user[users[row]] @ vector)
    numbers, found = sums(params)
    np.testing.assert_allclose(found["items"], expected, rtol=1e-5, atol=1e-6)
    assert float(found["n"]) == 12
    # Fewer users than clicks: each is one row, unless hits of single clicks are left out.
    assert sorted(set(np.ravel(numbers).tolist())) == list(range(16 if hits else N_USERS))


@pytest.mark.parametrize("chunk", [None, 4])
def test_no_gradient_passes_through_counts(rng, chunk):
    log = training.train_data(data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS))
    ids = jnp.asarray(rng.integers(0, N_ITEMS, 8), jnp.int32)
    batch = ClickBatch(ids, ids, jnp.ones(8, bool))

    def counted(params):
        scores = ScoreMatrix(MF, params, log, batch, None, False, chunk)
        of_rows, counts = scores.each_chunk(lambda rows: (rows.batch.log_total(), jnp.sum(rows.batch.scores)))
        return counts + 0.0 * jnp.sum(of_rows), jnp.sum(of_rows)

    params = MF.init(jax.random.key(0))
    through_counts = jax.grad(lambda params: counted(params)[0])(params)
    through_rows = jax.grad(lambda params: counted(params)[1])(params)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(through_counts))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(through_rows))


def test_a_step_of_xir_holds_the_matrices_of_one_chunk_only():
    """Batches of 2,048 in 64 chunks: neither scores nor draws of all rows are there at once, one way or back."""
    n, size, chunk = 4096, 2048, 32
    log = training.train_data(data.synthetic.generate(seed=0, n_users=60, n_items=50, mean_exposure=0.9))
    log = log._replace(
        popularity=jnp.ones(n), click_set=log.click_set._replace(indptr=jnp.zeros(n + 1, jnp.int32))
    )
    method = methods.xir(models.mf(n, n, dim=4), batch_size=size, chunk=chunk)
    state = jax.eval_shape(lambda key: method.init(key, log, {}), jax.random.key(0))
    ids, where = (jax.ShapeDtypeStruct((size,), dtype) for dtype in (jnp.int32, jnp.bool_))
    step = jax.jit(method.step).lower(state, log, ClickBatch(ids, ids, where), jax.random.key(0)).compile()
    # Some ten matrices of a chunk's rows, where one of all rows is 64 of them.
    assert step.memory_analysis().temp_size_in_bytes < 4 * size * size / 3
