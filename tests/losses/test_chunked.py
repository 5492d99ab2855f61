"""Losses in chunks: equal to the plain form in value and derivatives, and without its memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import losses

N, V, D = 23, 11, 5


@pytest.fixture
def batch(rng):
    """Hidden, table, bias, target, weights, where."""
    return (
        rng.normal(0.0, 2.0, (N, D)).astype(np.float32),
        rng.normal(size=(V, D)).astype(np.float32),
        rng.normal(size=V).astype(np.float32),
        rng.integers(0, V, N).astype(np.int32),
        rng.uniform(0.5, 2.0, N).astype(np.float32),
        rng.uniform(size=N) < 0.6,
    )


def plain(hidden, table, bias, target, **options):
    return losses.cross_entropy(hidden @ table.T + bias[None, :], target, **options)


def ours(hidden, table, bias, target, **options):
    return losses.chunked_cross_entropy(hidden, table, target, bias=bias, **options)


def scalar(loss, target, where, reduce_fn, **options):
    """The loss as a function of all that is differentiated; values of examples get unequal cotangents."""

    def of(hidden, table, bias, weights):
        value = loss(
            hidden, table, bias, target, weights=weights, where=where, reduce_fn=reduce_fn, **options
        )
        return jnp.sum(value * jnp.cos(jnp.arange(value.size)).reshape(value.shape))

    return of


def assert_close(a, b, rtol=2e-5, atol=2e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("reduce_fn", [jnp.mean, jnp.sum, None], ids=["mean", "sum", "none"])
def test_value_and_gradients_are_those_of_the_plain_form(batch, x64, masked, reduce_fn):
    """In double precision, where nothing but rounding is left of a difference."""
    batch = [np.float64(x) if x.dtype == np.float32 else x for x in batch]
    hidden, table, bias, target, weights, where = batch
    where = where if masked else None

    def differentiated(loss):
        return jax.value_and_grad(loss, argnums=(0, 1, 2, 3))

    @jax.jit
    def outcomes(*arguments):
        """Of the plain form, and for each size of chunk; without derivatives the loss is another computation."""
        chunked = [scalar(ours, target, where, reduce_fn, chunk=chunk) for chunk in (1, 4, 23, 100, None)]
        expected = differentiated(scalar(plain, target, where, reduce_fn))(*arguments)
        return expected, [(differentiated(loss)(*arguments), loss(*arguments)) for loss in chunked]

    expected, found = outcomes(hidden, table, bias, weights)
    for with_gradients, value in found:
        assert_close(with_gradients, expected, rtol=1e-12, atol=1e-12)
        assert_close(value, expected[0], rtol=1e-12)


def test_scalar_weights_other_reductions_and_leading_axes(batch):
    hidden, table, bias, target, weights, where = batch

    def largest(a, where=None):
        return jnp.max(a, where=where, initial=-jnp.inf)

    for options in ({"weights": 0.5}, {"weights": weights, "where": where, "reduce_fn": largest}):
        assert_close(
            ours(hidden, table, bias, target, chunk=4, **options),
            plain(hidden, table, bias, target, **options),
        )
    shape = (4, 5)
    folded = {"weights": weights[:20].reshape(shape), "where": where[:20].reshape(shape)}
    values = ours(
        hidden[:20].reshape(*shape, D), table, bias, target[:20].reshape(shape), reduce_fn=None, **folded
    )
    flat = plain(hidden, table, bias, target, weights=weights, where=where, reduce_fn=None)[:20]
    assert_close(values, flat.reshape(shape))
    assert_close(
        jax.grad(lambda w: ours(hidden, table, bias, target, weights=w))(0.5),
        plain(hidden, table, bias, target),
    )


def test_without_bias(batch):
    hidden, table, _, target, _, where = batch
    value = losses.chunked_cross_entropy(hidden, table, target, where=where, chunk=4)
    assert_close(value, losses.cross_entropy(hidden @ table.T, target, where=where))


def test_padding_is_neither_read_nor_computed(batch):
    hidden, table, bias, target, weights, where = batch
    dirty = tuple(np.where(where.reshape(-1, *[1] * (x.ndim - 1)), x, np.nan) for x in (hidden, weights))
    lost = np.where(where, target, -7)
    for reduce_fn in (jnp.mean, None):
        loss = scalar(ours, lost, where, reduce_fn, chunk=4)
        found = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))(dirty[0], table, bias, dirty[1])
        clean = scalar(ours, target, where, reduce_fn, chunk=4)
        assert_close(found, jax.value_and_grad(clean, argnums=(0, 1, 2, 3))(hidden, table, bias, weights))
        np.testing.assert_array_equal(found[1][0][~where], 0.0)

    counted = []

    def loss_of_chunk(table, inputs):
        jax.debug.callback(lambda: counted.append(1))
        return jnp.sum(inputs @ table.T, axis=-1)

    for n_valid in (0, 1, 8, 9, N):
        for differentiated in (False, True):
            counted.clear()
            mask = np.random.default_rng(0).permutation(N) < n_valid

            def run(table, mask=mask):
                return losses.in_chunks(loss_of_chunk, table, hidden, where=mask, chunk=4)

            jax.block_until_ready((jax.grad(run) if differentiated else run)(table))
            jax.effects_barrier()
            assert len(counted) == -(-n_valid // 4)


def test_nothing_valid_and_no_rows_are_zero_with_zero_gradients(batch):
    hidden, table, bias, target, weights, _ = batch
    for reduce_fn in (jnp.mean, jnp.sum, None):
        loss = scalar(ours, target, np.zeros(N, bool), reduce_fn, chunk=4)
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1, 2, 3))(hidden, table, bias, weights)
        assert value == 0
        assert all((leaf == 0).all() for leaf in gradients)
        nothing = ours(hidden[:0], table, bias, target[:0], reduce_fn=reduce_fn)
        np.testing.assert_array_equal(nothing, 0.0)


@pytest.mark.parametrize("masked", [False, True])
def test_forward_mode_and_forward_over_reverse(batch, masked):
    hidden, table, bias, target, weights, where = batch
    arguments = (hidden, table, bias, weights)
    directions = jax.tree.map(lambda x: np.cos(x).astype(x.dtype), arguments)
    both = [
        scalar(loss, target, where if masked else None, jnp.mean, **options)
        for loss, options in ((ours, {"chunk": 4}), (plain, {}))
    ]
    chunked, expected = (jax.jit(lambda *a, f=f: jax.jvp(f, a, directions))(*arguments) for f in both)
    assert_close(chunked, expected)
    chunked, expected = (
        jax.jit(lambda *a, f=f: jax.jvp(jax.grad(f, argnums=(0, 1, 2, 3)), a, directions)[1])(*arguments)
        for f in both
    )
    assert_close(chunked, expected, atol=1e-5)


def test_only_what_is_asked_for_is_accumulated(batch):
    """A frozen table costs no gradient of its size: the loop then carries the total and the rows alone."""
    hidden, table, bias, target, _, _ = batch

    def carried(argument):
        gradient = jax.grad(lambda *a: ours(*a, target, chunk=4), argnums=argument)
        text = str(jax.make_jaxpr(gradient)(hidden, table, bias))
        (loop,) = [line for line in text.splitlines() if "while[" in line or "scan[" in line]
        return loop.split("=")[0]

    assert f"[{V},{D}]" not in carried(0)
    assert f"[{V},{D}]" in carried(1)


def test_under_vmap_each_row_of_a_batch_has_its_own_padding(batch):
    hidden, table, bias, target, _, _ = batch
    where = np.arange(N)[None, :] < np.array([0, 3, 17, N])[:, None]
    scale = np.array([1.0, 0.5, 2.0, -1.0], np.float32)
    for reduce_fn in (jnp.mean, None):

        def loss(form, scale, where, reduce_fn=reduce_fn):
            return jnp.sum(
                form(hidden * scale, table * scale, bias, target, where=where, reduce_fn=reduce_fn)
            )

        found, expected = (
            jax.jit(jax.vmap(jax.value_and_grad(lambda s, w, f=form: loss(f, s, w))))(scale, where)
            for form in (lambda *a, **k: ours(*a, chunk=4, **k), plain)
        )
        assert_close(found, expected)


def test_inside_a_scan_of_gradient_steps(batch):
    hidden, table, bias, target, _, where = batch

    def train(loss):
        def step(table, mask):
            value, gradient = jax.value_and_grad(lambda t: loss(hidden, t, bias, target, where=mask))(table)
            return table - 0.1 * gradient, value

        masks = jnp.stack([where, ~where, jnp.ones(N, bool)])
        return jax.jit(lambda table: jax.lax.scan(step, table, masks))(jnp.asarray(table))

    assert_close(train(lambda *a, **k: ours(*a, chunk=4, **k)), train(plain))


def test_no_scores_of_all_rows_are_held():
    """Twice the rows take no more memory than the rows themselves; the plain form holds all scores at least once."""
    n, v, d = 512, 4096, 8

    def reserved(loss, n):
        arguments = (jnp.zeros((n, d)), jnp.zeros((v, d)), jnp.zeros(v), jnp.zeros(n, jnp.int32))
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert reserved(plain, 2 * n) - reserved(plain, n) >= 4 * n * v
    for reduce_fn in (jnp.mean, None):

        def loss(*arguments, reduce_fn=reduce_fn):
            return jnp.sum(ours(*arguments, chunk=32, reduce_fn=reduce_fn))

        # A few arrays of [n, d] and of [n], while a chunk's scores and the table's gradient stay what they are.
        assert reserved(loss, 2 * n) - reserved(loss, n) < 8 * 4 * n * d
        assert reserved(loss, n) < 4 * n * v // 2


@pytest.mark.parametrize("wrong", [-1, V])
@pytest.mark.parametrize("reduce_fn", [jnp.mean, None], ids=["mean", "none"])
def test_a_target_that_is_no_item(batch, wrong, reduce_fn):
    hidden, table, bias, target, _, _ = batch
    target = np.where(np.arange(N) == 5, wrong, target)
    values = ours(hidden, table, bias, target, chunk=4, reduce_fn=None)
    np.testing.assert_array_equal(np.isnan(values), np.arange(N) == 5)
    # Nor does another item's row stand in for it on the way back.
    found, expected = (
        jax.grad(lambda *a, f=form: jnp.sum(f(*a, target, reduce_fn=reduce_fn)), argnums=(0, 1, 2))(
            hidden, table, bias
        )
        for form in (ours, plain)
    )
    assert_close(found, expected)


def test_any_loss_of_single_examples(batch):
    """SCE on counts of draws, which a chunk makes of indices: never ``[N, V]`` counts either."""
    hidden, table, _, target, weights, where = batch
    drawn = np.random.default_rng(1).integers(0, V, (N, 6)).astype(np.int32)

    def of_chunk(params, inputs):
        table, alpha = params
        hidden, target, drawn = inputs
        scores = hidden @ table.T
        rows = jnp.arange(drawn.shape[0])
        counts = jnp.zeros(scores.shape).at[rows[:, None], drawn].add(1.0)
        pos = jnp.take_along_axis(scores, target[:, None], axis=1)[:, 0]
        return losses.scaled_cross_entropy(pos, scores, alpha=alpha, counts=counts, reduce_fn=None)

    def chunked(hidden, table, alpha):
        return losses.in_chunks(
            of_chunk, (table, alpha), (hidden, target, drawn), chunk=4, weights=weights, where=where
        )

    def gathered(hidden, table, alpha):
        pos = jnp.sum(hidden * table[target], axis=-1)
        neg = jnp.einsum("nd,nkd->nk", hidden, table[drawn])
        return losses.scaled_cross_entropy(pos, neg, alpha=alpha, weights=weights, where=where)

    arguments = (jnp.asarray(hidden), jnp.asarray(table), jnp.asarray(3.0))
    both = [jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*arguments) for f in (chunked, gathered)]
    assert_close(*both)


def test_keys_may_be_inputs():
    keys = jax.random.split(jax.random.key(0), 10)

    def of_chunk(scale, keys):
        return scale * jax.vmap(jax.random.uniform)(keys)

    where = jnp.arange(10) % 3 > 0
    value, gradient = jax.value_and_grad(
        lambda scale: losses.in_chunks(of_chunk, scale, keys, chunk=3, where=where)
    )(2.0)
    expected = np.asarray(jax.vmap(jax.random.uniform)(keys))[np.asarray(where)].mean()
    assert float(value) == pytest.approx(2 * expected, rel=1e-6)
    assert float(gradient) == pytest.approx(expected, rel=1e-6)


def test_sums_of_half_precision_are_kept_in_single():
    """4,096 gradients of 1/4096 each: half precision would stop adding at 1/8, half an ulp of which is 1/4096 / 2."""
    rows = jnp.ones((4096, 1), jnp.bfloat16)

    def loss(table):
        return losses.in_chunks(lambda t, x: (x @ t)[:, 0], table, rows, chunk=1)

    assert float(jax.grad(loss)(jnp.ones((1, 1), jnp.bfloat16))[0, 0]) == 1.0


def test_misuse_is_refused(batch):
    hidden, table, bias, target, _, where = batch
    loss = losses.chunked_cross_entropy
    with pytest.raises(TypeError, match="target must be of an integer dtype, got float32"):
        loss(hidden, table, target.astype(np.float32))
    with pytest.raises(ValueError, match=r"hidden must be of shape \(..., 5\) as the table, got \(23, 4\)"):
        loss(hidden[:, :4], table, target)
    with pytest.raises(ValueError, match=r"target must be of shape \(23,\), got \(22,\)"):
        loss(hidden, table, target[:-1])
    with pytest.raises(ValueError, match=r"bias must be of shape \(11,\), got \(10,\)"):
        loss(hidden, table, target, bias=bias[:-1])
    with pytest.raises(ValueError, match=r"table must be of shape \(V, d\) with V, d >= 1, got \(11, 0\)"):
        loss(hidden[:, :0], table[:, :0], target)
    for chunk, error in ((0, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match="chunk must be"):
            loss(hidden, table, target, chunk=chunk)
    with pytest.raises(ValueError, match=r"one first axis, got the shapes \[\(23, 5\), \(22,\)\]"):
        losses.in_chunks(lambda p, x: x[0] @ p, bias[:5], (hidden, target[:-1]), chunk=4)
    with pytest.raises(ValueError, match=r"loss must return floating values of shape \(23,\) here, got"):
        losses.in_chunks(lambda p, x: jnp.sum(x @ p), bias[:5], hidden, chunk=4)
    with pytest.raises(ValueError, match=r"shape must have 23 entries, as inputs has rows, got \(4, 5\)"):
        losses.in_chunks(lambda p, x: x @ p, bias[:5], hidden, chunk=4, shape=(4, 5))
    with pytest.raises(ValueError, match=r"where must be of shape \(23,\), got \(22,\)"):
        losses.in_chunks(lambda p, x: x @ p, bias[:5], hidden, chunk=4, where=where[:-1])
