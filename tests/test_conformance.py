"""Every public loss, risk, metric and sampler passes the same tests. A new one is one more row.

A row says how to draw the arguments for a given batch shape; which tests apply follows from the signature. A
public function without a row fails ``test_every_public_function_has_a_row``.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from debias_jax import losses, metrics, risks, sampling

N = 7
WHERE = np.array([True, False, True, True, False, True, True])
LARGEST_LOGIT = 80.0


def normal(rng, shape):
    return rng.normal(0.0, 2.0, shape).astype(np.float32)


def samples(rng, shape):
    return normal(rng, (*shape, 3))


def columns(rng, shape):
    return normal(rng, (*shape, 9))


def drawn(rng, shape):
    """How often each column was drawn."""
    return rng.integers(1, 4, (*shape, 9)).astype(np.float32)


def sample_counts(rng, shape):
    """How often each of the samples was drawn; one not at all."""
    counts = rng.integers(1, 4, (*shape, 3)).astype(np.float32)
    counts[..., 1] = 0.0
    return counts


def probability(rng, shape):
    return rng.uniform(0.1, 0.9, shape).astype(np.float32)


def likely(rng, shape):
    """Away from 0, where finite differences of 1/p^3 run out of digits."""
    return rng.uniform(0.4, 0.9, shape).astype(np.float32)


def binary(rng, shape):
    """Two entries are fixed, so that no list is of one class alone, masked or not."""
    labels = (rng.uniform(size=shape) < 0.5).astype(np.float32)
    labels[..., 0], labels[..., 2] = 1.0, 0.0
    return labels


def binary_samples(rng, shape):
    return binary(rng, (*shape, 3))


def likely_samples(rng, shape):
    return likely(rng, (*shape, 3))


def count(rng, shape):
    return rng.integers(1, 50, shape).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Row:
    """How to call one public function, and what to expect of it.

    Attributes:
        name: ``package.function``.
        arrays: how to draw each array argument; predictions first.
        static: the other arguments.
        smooth: arguments in which it is differentiable.
        logits: arguments in which it must stay finite up to 80.
        empty: its value where everything is masked.
        call: what is called, if not the public function itself.
        outcome: the part of its output that is reduced over entries.
        any_dtype: it takes integers as its first argument.
    """

    name: str
    arrays: dict[str, Callable]
    static: dict[str, Any] = dataclasses.field(default_factory=dict)
    smooth: tuple[str, ...] = ()
    logits: tuple[str, ...] = ()
    empty: float = 0.0
    call: Callable | None = None
    outcome: Callable = lambda output: output
    any_dtype: bool = False

    @property
    def function(self) -> Callable:
        package, name = self.name.split(".")
        return getattr(globals()[package], name)

    def __call__(self, arrays, **more):
        return (self.call or self.function)(**arrays, **self.static, **more)

    def build(self, rng, shape) -> dict[str, np.ndarray]:
        return {name: draw(rng, shape) for name, draw in self.arrays.items()}

    def takes(self, argument: str) -> bool:
        return argument in inspect.signature(self.function).parameters


PROTOCOL = metrics.PROTOCOLS["leave_one_out"].with_metrics("ndcg@3", "hr@3", "mrr@3")


def user_metrics(**arguments):
    return metrics.user_metrics(PROTOCOL, **arguments)


def in_batch_softmax(scores, **arguments):
    targets = jnp.full(scores.shape[:-1], 4, jnp.int32)
    log_q = jnp.linspace(-3.0, -1.0, 9, dtype=scores.dtype)
    return losses.in_batch_softmax(scores, targets=targets, log_q=log_q, **arguments)


def corrected_softmax(log_w, **arguments):
    return losses.resampled_softmax(log_w=log_w, variant="corrected", **arguments)


def with_target(name):
    """A loss on the scores of nine items, always of the same target."""

    def call(scores, **arguments):
        targets = jnp.full(scores.shape[:-1], 4, jnp.int32)
        return getattr(losses, name)(scores, targets, **arguments)

    return call


def item_table(dtype):
    return jnp.sin(jnp.arange(27, dtype=dtype)).reshape(9, 3)


def chunked_cross_entropy(hidden, **arguments):
    target = jnp.full(hidden.shape[:-1], 4, jnp.int32)
    bias = jnp.linspace(-1.0, 1.0, 9, dtype=hidden.dtype)
    return losses.chunked_cross_entropy(
        hidden, item_table(hidden.dtype), target, bias=bias, chunk=2, **arguments
    )


def sampled_of_chunk(table, hidden):
    scores = hidden @ table.T
    counts = jnp.broadcast_to(jnp.arange(9, dtype=scores.dtype) % 3, scores.shape)
    return losses.negative_sampling(scores[:, 4], scores, counts=counts, reduce_fn=None)


def in_chunks(hidden, **arguments):
    return losses.in_chunks(
        sampled_of_chunk,
        item_table(hidden.dtype),
        hidden.reshape(-1, 3),
        chunk=2,
        shape=hidden.shape[:-1],
        **arguments,
    )


def estimate(output):
    """Of an off-policy value; one list has no interval."""
    return output.estimate


SAMPLED = {"pos": normal, "neg": samples, "weights": probability}
CLICKS = {"logits": normal, "clicks": binary, "exposure": probability, "weights": probability}
OBSERVED = {"errors": normal, "observed": binary}
WEIGHTED = OBSERVED | {"propensity": probability}
IMPUTED = {
    "errors": normal,
    "imputed": normal,
    "observed": binary,
    "propensity": likely,
    "weights": probability,
}
SMOOTH = ("errors", "imputed", "propensity", "weights")
RANKED = {"scores": normal, "labels": binary}
LOGGED = RANKED | {"observed": binary, "propensity": probability}

COUNTED = SAMPLED | {"counts": sample_counts}

ROWS = [
    *(
        Row(
            f"losses.{name}",
            {"hidden": samples, "weights": probability},
            smooth=("hidden", "weights"),
            logits=("hidden",),
            call=call,
            any_dtype=name == "in_chunks",
        )
        for name, call in [("chunked_cross_entropy", chunked_cross_entropy), ("in_chunks", in_chunks)]
    ),
    *(
        Row(
            f"losses.{name}",
            {"scores": columns, "weights": probability},
            static,
            smooth=("scores", "weights"),
            logits=("scores",),
            call=with_target(name),
        )
        for name, static in [
            ("cross_entropy", {}),
            ("top_cross_entropy", {"n": 4}),
            ("truncated_cross_entropy", {"eta": 0.7}),
        ]
    ),
    *(
        Row(f"losses.{name}", arrays, static, smooth=("pos", "neg", "weights"), logits=("pos", "neg"))
        for arrays in (SAMPLED, COUNTED)
        for name, static in [
            ("bce", {}),
            ("bpr", {}),
            ("gbce", {"n_items": 50}),
            ("negative_sampling", {}),
            ("noise_contrastive", {"c": 1.0, "n_items": 50}),
            ("scaled_cross_entropy", {"alpha": 2.5}),
        ]
    ),
    Row(
        "losses.importance_sampled_softmax",
        COUNTED | {"log_q_pos": normal, "log_q_neg": samples},
        {"positive_in_sum": False},
        smooth=("pos", "neg", "weights"),
        logits=("pos", "neg"),
    ),
    Row(
        "losses.importance_sampled_softmax",
        SAMPLED | {"log_q_pos": normal, "log_q_neg": samples},
        smooth=("pos", "neg", "weights"),
        logits=("pos", "neg"),
    ),
    Row(
        "losses.in_batch_softmax",
        {"scores": columns, "weights": probability},
        {"sharpness": 0.5},
        smooth=("scores", "weights"),
        logits=("scores",),
        call=in_batch_softmax,
    ),
    Row("losses.in_batch_softmax", {"scores": columns}, {"variant": "released"}, call=in_batch_softmax),
    *(
        Row(
            "losses.resampled_softmax",
            {"pos": normal, "scores": columns, "counts": drawn, "weights": probability},
            {"variant": variant},
            smooth=("pos", "scores", "weights"),
            logits=("pos", "scores"),
        )
        for variant in ("published", "released", "mean")
    ),
    Row(
        "losses.resampled_softmax",
        {"pos": normal, "scores": columns, "counts": drawn, "log_w": columns},
        smooth=("pos", "scores"),
        logits=("pos", "scores"),
        call=corrected_softmax,
    ),
    Row("losses.ceb_weighted", CLICKS, smooth=("logits", "exposure", "weights"), logits=("logits",)),
    Row("losses.ceb_added_positives", CLICKS, smooth=("logits", "exposure", "weights"), logits=("logits",)),
    *(
        Row(
            f"losses.{name}",
            CLICKS | {"weight_logits": normal},
            static,
            smooth=("logits", "weight_logits", "exposure", "weights"),
            logits=("logits", "weight_logits"),
        )
        for name, static in [
            ("ceb_weighted", {}),
            ("ceb_added_positives", {}),
            ("ceb_added_positives", {"variant": "released"}),
        ]
    ),
    Row("losses.relmf", CLICKS, smooth=("logits", "exposure", "weights"), logits=("logits",)),
    *(
        Row(
            "losses.ubpr",
            SAMPLED
            | {"neg_clicks": binary_samples, "pos_exposure": probability, "neg_exposure": likely_samples},
            {"beta": beta},
            smooth=("pos", "neg", "pos_exposure", "neg_exposure", "weights"),
            logits=("pos", "neg"),
        )
        for beta in (None, 0.5)
    ),
    Row("losses.umf", CLICKS, smooth=("logits", "exposure", "weights"), logits=("logits",)),
    Row("risks.naive", OBSERVED, smooth=("errors",), logits=("errors",)),
    Row(
        "risks.ips",
        WEIGHTED,
        smooth=("errors", "propensity"),
        logits=("errors",),
    ),
    Row(
        "risks.snips",
        WEIGHTED,
        smooth=("errors", "propensity"),
        logits=("errors",),
    ),
    Row("risks.eib", IMPUTED, smooth=("errors", "imputed", "weights"), logits=("errors", "imputed")),
    *(
        Row(f"risks.{name}", IMPUTED, static, smooth=SMOOTH, logits=("errors", "imputed"))
        for name, static in [
            ("badr", {}),
            ("badr_imputation", {}),
            ("badr_imputation", {"variant": "corrected"}),
            ("d_dr", {"variance_weight": 0.2}),
            ("dr", {}),
            ("dr_bias", {}),
            ("dr_jl", {}),
            ("dr_mse", {"bias_weight": 0.25}),
            ("mrdr", {}),
            ("sndr", {}),
            ("stable_dr", {}),
            ("targeting_coefficient", {}),
            ("tdr", {}),
        ]
    ),
    Row(
        "risks.dynamic_propensity",
        {"propensity": probability},
        {"variance_weight": 0.2},
        smooth=("propensity",),
    ),
    Row(
        "risks.stabilization_constraint",
        {"imputed": normal, "observed": binary, "propensity": probability},
        smooth=("imputed", "propensity"),
        logits=("imputed",),
    ),
    Row(
        "risks.naive_bayes",
        {"labels": binary},
        {"label_marginal": 0.4, "observed_rate": 0.2},
        outcome=jnp.sum,
    ),
    Row("risks.user_item", {"user_counts": count, "item_counts": count}, {"total": 50.0}, any_dtype=True),
    Row("risks.clip_propensity", {"propensity": probability}, {"floor": 0.3}, outcome=lambda out: out[1]),
    Row("risks.effective_sample_size", {"weights": probability}, smooth=("weights",)),
    Row("risks.popularity_power", {"counts": count}, any_dtype=True),
    Row("metrics.auc", RANKED, empty=np.nan),
    Row("metrics.average_precision", RANKED, {"k": 3}),
    Row("metrics.dcg", RANKED | {"weights": probability}, {"k": 3}, smooth=("weights",)),
    *(
        Row(
            "metrics.dr_value",
            LOGGED | {"imputed": probability},
            {"k": 3, "metric": metric},
            outcome=estimate,
        )
        for metric in ("dcg", "ndcg", "precision", "recall")
    ),
    Row("metrics.hit_rate", RANKED, {"k": 3}),
    Row("metrics.ips_value", RANKED | {"propensity": probability}, {"k": 3}, outcome=estimate),
    Row("metrics.log_loss", {"logits": normal, "labels": binary}, smooth=("logits",), logits=("logits",)),
    Row("metrics.mrr", RANKED, {"k": 3}),
    Row("metrics.ndcg", RANKED, {"k": 3}),
    Row(
        "metrics.overlap",
        {"propensity": probability, "observed": binary},
        {"threshold": 0.3},
        outcome=lambda out: out.small_weight,
    ),
    Row("metrics.pearson", {"x": normal, "y": normal}, smooth=("x", "y")),
    Row("metrics.precision", RANKED, {"k": 3}),
    Row("metrics.recall", RANKED, {"k": 3}),
    Row("metrics.snips_dcg", RANKED | {"propensity": probability}, {"k": 3}),
    Row("metrics.snips_value", LOGGED, {"k": 3}, outcome=estimate),
    Row("metrics.user_metrics", RANKED, call=user_metrics, outcome=lambda out: out[0]),
    *(
        Row(
            "metrics.user_snips",
            RANKED | {"propensity": probability},
            {"k": 3, "metric": metric, "variant": variant},
            outcome=estimate,
        )
        for variant, metric in (("published", "auc"), ("published", "dcg"), ("cjmf", "map"))
    ),
]

PAIRS = sampling.pair_set([0, 0, 1, 2, 2], [1, 3, 0, 2, 4], n_users=3)
USERS = np.array([0, 1, 2, 2], np.int32)
CACHE = sampling.ItemCache(jnp.arange(9, dtype=jnp.int32), jnp.zeros(90))
DRAWS = {
    "sampling.cloze_mask": lambda key: sampling.cloze_mask(key, jnp.ones((4, 9), bool), rate=0.5),
    "sampling.epoch_batches": lambda key: sampling.epoch_batches(key, 50, batch_size=8),
    "sampling.in_batch_counts": lambda key: sampling.in_batch_counts(key, jnp.zeros((4, 90)), n=9),
    "sampling.in_batch_resample": lambda key: sampling.in_batch_resample(key, jnp.zeros((4, 90)), n=9),
    "sampling.init_cache": lambda key: sampling.init_cache(key, n_items=90, size=9).items,
    "sampling.popularity_items": lambda key: sampling.popularity_items(
        key, (4, 9), table=sampling.AliasTable(jnp.array([0.5, 1.0]), jnp.array([1, 1], jnp.int32))
    ),
    "sampling.update_cache": lambda key: (
        sampling.update_cache(key, CACHE, jnp.arange(30), jnp.arange(30.0)).items
    ),
    "sampling.stratified_batches": lambda key: sampling.stratified_batches(key, (50, 0, 7), batch_size=8),
    "sampling.uniform_items": lambda key: sampling.uniform_items(key, (4, 9), n_items=90),
    "sampling.uniform_pairs": lambda key: sampling.uniform_pairs(key, (9,), n_users=90, n_items=80),
    "sampling.uniform_unseen_items": lambda key: sampling.uniform_unseen_items(
        key, jnp.tile(USERS, 9), PAIRS, n_items=40
    ),
}
WITHOUT_KEY = {
    "sampling.accidental_hits",
    "sampling.alias_table",
    "sampling.contains",
    "sampling.find",
    "sampling.hash_bits",
    "sampling.init_frequency",
    "sampling.log_frequency",
    "sampling.pair_set",
    "sampling.update_frequency",
}


def rows_with(*, argument: str | None = None, field: str | None = None):
    chosen = [
        row
        for row in ROWS
        if (argument is None or row.takes(argument)) and (field is None or getattr(row, field))
    ]
    return pytest.mark.parametrize("row", chosen, ids=lambda row: row.name)


def public_functions():
    packages = {"losses": losses, "risks": risks, "metrics": metrics, "sampling": sampling}
    return {
        f"{package}.{name}": getattr(module, name)
        for package, module in packages.items()
        for name in module.__all__
        if callable(getattr(module, name)) and not inspect.isclass(getattr(module, name))
    }


def assert_close(ours, expected, rtol=2e-6, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected)


def test_every_public_function_has_a_row():
    assert set(public_functions()) == {row.name for row in ROWS} | set(DRAWS) | WITHOUT_KEY


@pytest.mark.parametrize("package", [losses, risks, metrics, sampling], ids=lambda package: package.__name__)
def test_every_public_name_is_documented(package):
    for name in package.__all__:
        value = getattr(package, name)
        if inspect.isclass(value):
            assert "Attributes:" in (value.__doc__ or ""), f"{name} does not describe its attributes"
        elif callable(value):
            assert "Example:" in (value.__doc__ or "") and ">>>" in value.__doc__, f"{name} has no example"


@rows_with()
def test_signature_order(row):
    """Predictions and targets by position, the rest by keyword, in one order, ``reduce_fn`` last."""
    parameters = list(inspect.signature(row.function).parameters.values())
    for parameter in parameters[1:]:
        if parameter.name in ("exposure", "observed", "propensity", "weights", "where", "k", "reduce_fn"):
            assert parameter.kind is parameter.KEYWORD_ONLY, parameter.name
    names = [parameter.name for parameter in parameters]
    ordered = [name for name in ("weights", "where", "k", "reduce_fn") if name in names[1:]]
    assert [name for name in names[1:] if name in ordered] == ordered
    assert "reduce_fn" not in names or names[-1] == "reduce_fn"


@rows_with()
def test_eager_jit_and_vmap_agree_and_the_second_call_does_not_compile(rng, row):
    traces = []

    @jax.jit
    @jax.vmap
    def mapped(arrays):
        traces.append(row.name)
        return row(arrays)

    arrays = row.build(rng, (3, N))
    together = mapped(arrays)
    mapped(row.build(rng, (3, N)))
    assert len(traces) == 1
    one_by_one = [row({name: value[i] for name, value in arrays.items()}) for i in range(3)]
    assert_close(together, jax.tree.map(lambda *leaves: np.stack(leaves), *one_by_one))


@rows_with(argument="where")
def test_where_equals_dropping_entries_and_never_reads_them(rng, row):
    arrays = row.build(rng, (N,))
    kept = {name: value[WHERE] for name, value in arrays.items()}
    hidden = {name: value.copy() for name, value in arrays.items()}
    for value in hidden.values():
        value[~WHERE] = np.nan
    expected = jax.jit(lambda arrays: row.outcome(row(arrays)))(kept)
    masked = jax.jit(lambda arrays: row.outcome(row(arrays, where=WHERE)))
    assert_close(masked(arrays), expected)
    assert_close(masked(hidden), expected)


@rows_with(argument="where")
def test_everything_masked_is_empty_with_zero_gradients(rng, row):
    arrays = row.build(rng, (N,))
    for value in arrays.values():
        value[:] = np.nan
    where = np.zeros(N, bool)
    smooth, others = _split(row, arrays)
    masked = jax.jit(lambda x: row.outcome(row(x | others, where=where)))
    for value in jax.tree.leaves(masked(smooth)):
        np.testing.assert_array_equal(value, np.full_like(value, row.empty))
    if row.smooth:
        assert_close(jax.grad(masked)(smooth), jax.tree.map(np.zeros_like, smooth), atol=0)


@rows_with(argument="reduce_fn")
def test_values_of_examples_sum_to_the_sum(rng, row):
    # Masked entries (whole lists, for a metric) are 0 and leave the sum unchanged.
    where = np.ones((3, N), bool)
    where[1] = False

    @jax.jit
    def reductions(arrays, where):
        values = row(arrays, where=where, reduce_fn=None)
        return values, row(arrays, where=where, reduce_fn=jnp.sum), row(arrays, where=where)

    for mask in (np.ones_like(where), where):
        values, total, mean = reductions(row.build(rng, (3, N)), mask)
        assert_close(np.sum(values), total, rtol=1e-5)
        assert_close(np.mean(values[mask.any(axis=-1)]), mean, rtol=1e-5)
    np.testing.assert_array_equal(values[1], np.zeros_like(values[1]))


@rows_with(field="smooth")
def test_gradients_by_finite_differences(rng, x64, row):
    arrays = {name: jnp.asarray(value, jnp.float64) for name, value in row.build(rng, (N,)).items()}
    smooth, others = _split(row, arrays)
    options = {"where": WHERE} if row.takes("where") else {}
    value = jax.jit(lambda x: row(x | others, **options))
    check_grads(value, (smooth,), order=1, rtol=1e-5, atol=1e-5)


@rows_with(field="logits")
def test_finite_up_to_logits_of_eighty(rng, row):
    smooth, others = _split(row, row.build(rng, (N,)))
    value_and_gradients = jax.jit(jax.value_and_grad(lambda x: row(x | others)))
    signs = np.array([1, 1, 1, 0, -1, 1, -1], np.float32)
    for largest in (LARGEST_LOGIT, -LARGEST_LOGIT):
        for position, name in enumerate(row.logits):
            # Opposite signs for opposite roles: a positive far below its negatives, and far above.
            extreme = (-1) ** position * largest * signs
            rank = smooth[name].ndim
            smooth[name] = jnp.broadcast_to(extreme.reshape(-1, *[1] * (rank - 1)), smooth[name].shape)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value_and_gradients(smooth)))


@rows_with()
def test_misuse_is_refused(rng, row):
    arrays = row.build(rng, (N,))
    first, *others = arrays
    if not row.any_dtype:
        with pytest.raises(TypeError, match=f"{first} must be (boolean or )?of a floating dtype, got int32"):
            row(arrays | {first: np.zeros_like(arrays[first], np.int32)})
    for name in others:
        with pytest.raises(ValueError, match="shape"):
            row(arrays | {name: arrays[name][:-1]})
    if row.takes("where"):
        with pytest.raises(TypeError, match="where must be boolean, got float32"):
            row(arrays, where=np.ones(N, np.float32))
        with pytest.raises(ValueError, match="shape"):
            row(arrays, where=WHERE[:-1])


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_draws_are_functions_of_their_key(draw):
    keys = jax.random.split(jax.random.key(1), 2)
    eager, mapped = draw(keys[0]), jax.jit(jax.vmap(draw))(keys)
    for ours, again, in_jit in zip(*map(jax.tree.leaves, (eager, draw(keys[0]), mapped)), strict=True):
        np.testing.assert_array_equal(ours, again)
        np.testing.assert_array_equal(ours, in_jit[0])
        assert ours.dtype in (
            (jnp.float32,) if draw is DRAWS["sampling.in_batch_counts"] else (jnp.int32, jnp.bool_)
        )
    assert any((leaf[0] != leaf[1]).any() for leaf in jax.tree.leaves(mapped))


def _split(row, arrays):
    smooth = {name: jnp.asarray(arrays[name]) for name in row.smooth}
    return smooth, {name: value for name, value in arrays.items() if name not in smooth}
