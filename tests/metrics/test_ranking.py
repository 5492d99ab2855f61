"""Ranking metrics against arithmetic, a slow reference, scikit-learn and rax."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rax
import sklearn.metrics
from reference import ranking as reference

from debias_jax import metrics

# Sums of at most 20 float32 terms of size one, each rounded twice: 40 * 2^-24 is 2.4e-6 at worst.
ATOL = 2.4e-6

CASES = [
    ("dcg", {}),
    ("dcg", {"k": 3}),
    ("dcg", {"k": 4, "gain": "exponential", "discount": "jarvelin"}),
    ("dcg", {"k": 3, "ties": "by_index"}),
    ("ndcg", {}),
    ("ndcg", {"k": 3}),
    ("ndcg", {"k": 3, "ideal": "full"}),
    ("ndcg", {"k": 5, "gain": "exponential", "discount": "jarvelin"}),
    ("average_precision", {}),
    ("average_precision", {"k": 3, "normaliser": "positives"}),
    ("average_precision", {"k": 3, "normaliser": "min_k"}),
    ("average_precision", {"k": 3, "normaliser": "hits"}),
    ("average_precision", {"k": 3, "normaliser": "none"}),
    ("recall", {"k": 3}),
    ("recall", {"k": 3, "denominator": "min_k"}),
    ("precision", {}),
    ("precision", {"k": 5}),
    ("precision", {"k": 5, "denominator": "candidates"}),
    ("hit_rate", {"k": 2}),
    ("mrr", {}),
    ("mrr", {"k": 3, "ties": "by_index"}),
]
METRICS = sorted({name for name, _ in CASES})


def lists(seed, *, n_lists=24, n=12, grades=(0.0, 1.0), levels=4):
    """Padded lists with many ties: scores from a few levels, -0 among them, lengths from 0 to n."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(levels, size=(n_lists, n)).astype(np.float32) - 1.0
    scores[(scores == 0) & (rng.random(scores.shape) < 0.5)] = -0.0
    labels = rng.choice(np.array(grades, np.float32), size=(n_lists, n))
    lengths = rng.integers(0, n + 1, size=n_lists)
    lengths[:3] = 0, 1, n
    where = np.arange(n)[None, :] < lengths[:, None]
    return scores, labels, rng.permuted(where, axis=1)


def every_case(scores, labels, where):
    """Values ``[lists]`` of all cases; compiled together, so that they share their sorts."""
    return [
        getattr(metrics, name)(scores, labels, where=where, reduce_fn=None, **options)
        for name, options in CASES
    ]


compiled = jax.jit(every_case)


def assert_equal_cases(ours, theirs, atol=ATOL):
    for (name, options), value, other in zip(CASES, ours, theirs, strict=True):
        np.testing.assert_allclose(value, other, rtol=0, atol=atol, err_msg=f"{name} {options}")


def test_agrees_with_the_definition():
    scores, labels, where = lists(0)
    expected = [
        [
            getattr(reference, name)(s[w].tolist(), y[w].tolist(), **options)
            for s, y, w in zip(scores, labels, where, strict=True)
        ]
        for name, options in CASES
    ]
    assert_equal_cases(compiled(scores, labels, where), expected)


@pytest.mark.parametrize("k", [1, 4, 12])
def test_graded_labels_and_ties_at_the_cut(k):
    scores, labels, where = lists(1, grades=(0.0, 1.0, 2.0, 3.0), levels=2)
    metric = jax.jit(
        lambda: metrics.dcg(scores, labels, where=where, k=k, gain="exponential", reduce_fn=None)
    )
    expected = [
        reference.dcg(s[w].tolist(), y[w].tolist(), k=k, gain="exponential")
        for s, y, w in zip(scores, labels, where, strict=True)
    ]
    np.testing.assert_allclose(metric(), expected, rtol=0, atol=7 * ATOL)


def test_written_out():
    scores, labels = jnp.array([0.1, 0.4, 0.3, 0.2]), jnp.array([1.0, 0.0, 1.0, 1.0])  # ranked: 0 1 1 1
    second, third, fourth = 1 / math.log2(3), 1 / math.log2(4), 1 / math.log2(5)
    table = [
        ("dcg", {}, second + third + fourth),
        ("dcg", {"discount": "jarvelin"}, 1.0 + 1 / math.log2(3) + 1 / math.log2(4)),
        ("dcg", {"weights": jnp.array([8.0, 1.0, 2.0, 0.0])}, 2 * second + 8 * fourth),
        ("ndcg", {"k": 2}, second / (1 + second)),
        ("ndcg", {"k": 2, "ideal": "full"}, second / (1 + second + third)),
        ("average_precision", {}, (1 / 2 + 2 / 3 + 3 / 4) / 3),
        ("average_precision", {"k": 2, "normaliser": "positives"}, (1 / 2) / 3),
        ("average_precision", {"k": 2, "normaliser": "min_k"}, (1 / 2) / 2),
        ("average_precision", {"k": 3, "normaliser": "hits"}, (1 / 2 + 2 / 3) / 2),
        ("average_precision", {"k": 3, "normaliser": "none"}, 1 / 2 + 2 / 3),
        ("recall", {"k": 2}, 1 / 3),
        ("recall", {"k": 2, "denominator": "min_k"}, 1 / 2),
        ("precision", {"k": 3}, 2 / 3),
        ("precision", {"k": 8}, 3 / 8),
        ("precision", {"k": 8, "denominator": "candidates"}, 3 / 4),
        ("hit_rate", {"k": 1}, 0.0),
        ("hit_rate", {"k": 2}, 1.0),
        ("mrr", {}, 1 / 2),
        ("mrr", {"k": 1}, 0.0),
    ]
    ours = jax.jit(lambda s, y: [getattr(metrics, name)(s, y, **options) for name, options, _ in table])(
        scores, labels
    )
    for (name, options, expected), value in zip(table, ours, strict=True):
        assert float(value) == pytest.approx(expected, abs=2 * ATOL), (name, options)


def distinct_scores(seed):
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.arange(20.0, dtype=np.float32)[None, :].repeat(9, 0), axis=1)
    labels = (rng.random((9, 20)) < 0.3).astype(np.float32)
    return scores, labels, rng.random((9, 20)) < 0.7


def test_agrees_with_scikit_learn():
    scores, labels, _ = distinct_scores(2)
    labels[:, 0] = 1.0

    @jax.jit
    def ours():
        both = [(metrics.dcg(scores, labels, k=k), metrics.ndcg(scores, labels, k=k)) for k in (None, 1, 5)]
        return both, metrics.average_precision(scores, labels, reduce_fn=None)

    gains, precisions = ours()
    for k, (dcg, ndcg) in zip((None, 1, 5), gains, strict=True):
        assert float(dcg) == pytest.approx(sklearn.metrics.dcg_score(labels, scores, k=k), abs=ATOL)
        assert float(ndcg) == pytest.approx(sklearn.metrics.ndcg_score(labels, scores, k=k), abs=ATOL)
    theirs = [sklearn.metrics.average_precision_score(y, s) for y, s in zip(labels, scores, strict=True)]
    np.testing.assert_allclose(precisions, theirs, rtol=0, atol=ATOL)


def test_agrees_with_rax():
    scores, labels, where = distinct_scores(3)
    pairs = [
        (metrics.dcg, rax.dcg_metric, {"gain": "exponential"}),
        (metrics.ndcg, rax.ndcg_metric, {"gain": "exponential"}),
        (metrics.recall, rax.recall_metric, {}),
        (metrics.precision, rax.precision_metric, {"denominator": "candidates"}),
        (metrics.mrr, rax.mrr_metric, {}),
    ]

    @jax.jit
    def both():
        return [
            (
                ours(scores, labels, where=where, k=k, reduce_fn=None, **options),
                theirs(scores, labels, where=where, topn=k, reduce_fn=None),
            )
            for ours, theirs, options in pairs
            for k in (None, 4)
        ]

    for ours, theirs in both():
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)


def test_the_order_of_a_list_changes_nothing():
    scores, labels, where = lists(4)
    shuffle = np.random.default_rng(5).permutation(scores.shape[1])
    ours = compiled(scores, labels, where)
    theirs = compiled(scores[:, shuffle], labels[:, shuffle], where[:, shuffle])
    for (name, options), value, other in zip(CASES, ours, theirs, strict=True):
        if options.get("ties") != "by_index":
            np.testing.assert_array_equal(value, other, err_msg=f"{name} {options}")


def test_padding_changes_nothing():
    scores, labels, where = lists(4)
    garbage, nowhere = np.full((24, 4), np.nan, np.float32), np.zeros((24, 4), bool)
    longer = [np.concatenate([head, tail], axis=1) for head, tail in ((garbage, scores), (garbage, labels))]
    padded = compiled(*longer, np.concatenate([nowhere, where], axis=1))
    assert_equal_cases(compiled(scores, labels, where), padded)


def test_eager_jit_and_vmap_agree():
    batch = [jnp.asarray(array) for array in lists(6)]
    expected = compiled(*batch)
    for name in METRICS:
        cut = next(i for i, (other, options) in enumerate(CASES) if other == name and "k" in options)
        eager = getattr(metrics, name)(*batch[:2], where=batch[2], reduce_fn=None, **CASES[cut][1])
        np.testing.assert_allclose(expected[cut], eager, rtol=0, atol=ATOL, err_msg=name)
    nested = jax.jit(jax.vmap(every_case))(*(array.reshape(4, 6, -1) for array in batch))
    assert_equal_cases(expected, [value.reshape(-1) for value in nested])


def test_lists_with_every_entry_masked_do_not_count_in_the_mean():
    scores, labels, where = lists(6)
    each = np.asarray(compiled(scores, labels, where)[0])
    mean, total = jax.jit(
        lambda: [metrics.dcg(scores, labels, where=where, reduce_fn=f) for f in (jnp.mean, jnp.sum)]
    )()
    assert float(mean) == pytest.approx(each[where.any(axis=1)].mean(), abs=ATOL)
    assert float(total) == pytest.approx(each.sum(), abs=24 * ATOL)


def test_no_relevant_entry_or_no_entry_at_all_is_zero():
    scores, labels, where = lists(8)
    for value in compiled(scores, np.zeros_like(labels), where):
        np.testing.assert_array_equal(value, np.zeros(24))
    for value in compiled(scores, labels, np.zeros_like(where)):
        np.testing.assert_array_equal(value, np.zeros(24))
    empty = np.zeros((3, 0), np.float32)
    for value in jax.jit(every_case)(empty, empty, empty > 0):
        np.testing.assert_array_equal(value, np.zeros(3))


def test_ties_gain_nothing_and_random_scores_reach_the_expected_value():
    """Of a random order E DCG@3 is the share of positives times the sum of discounts; of a constant score 0."""
    labels = np.tile(np.array([1, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0], np.float32), (24, 1))
    everywhere = np.ones(labels.shape, bool)
    constant = compiled(np.zeros_like(labels), labels, everywhere)
    rng = np.random.default_rng(7)
    random = np.array(
        [compiled(rng.random(labels.shape, np.float32), labels, everywhere)[1] for _ in range(200)]
    ).ravel()
    expected = 3 / 12 * sum(1 / math.log2(rank + 1) for rank in (1, 2, 3))
    assert abs(random.mean() - expected) < 4 * random.std() / math.sqrt(random.size)
    for (name, options), value in zip(CASES, constant, strict=True):
        if options.get("k", 12) <= 9 and options.get("ties") != "by_index":
            np.testing.assert_array_equal(value, np.zeros(24), err_msg=f"{name} {options}")


def test_weights_of_padding_are_not_read():
    scores, labels, weights = jnp.array([0.2, 0.1]), jnp.ones(2), jnp.array([3.0, jnp.nan])
    ours = jax.jit(metrics.dcg)(scores, labels, weights=weights, where=jnp.array([True, False]))
    assert float(ours) == 3.0


def test_nan_and_infinite_scores():
    mrr = jax.jit(metrics.mrr, static_argnames="ties")
    first, everywhere = jnp.array([1.0, 0.0, 0.0]), jnp.ones(3, bool)
    assert float(mrr(jnp.array([jnp.nan, -1e30, 0.0]), first, where=everywhere)) == pytest.approx(1 / 3)
    assert float(mrr(jnp.array([jnp.inf, 1.0, 0.0]), first, where=everywhere)) == 1.0
    # Padding stays behind a candidate of minus infinity, wherever it stands.
    low, second = jnp.array([0.0, -jnp.inf, 0.0]), jnp.array([0.0, 1.0, 0.0])
    assert float(mrr(low, second, where=second > 0)) == 1.0
    assert float(mrr(low, second, where=second > 0, ties="by_index")) == 1.0


@pytest.mark.parametrize("dtype", [jnp.bool_, jnp.int32])
def test_labels_need_not_be_floating(dtype):
    scores, labels = jnp.array([0.9, 0.5, 0.1]), jnp.array([1, 0, 1], dtype)
    assert float(jax.jit(metrics.dcg)(scores, labels)) == 1.5


@pytest.mark.parametrize("name", METRICS)
def test_errors_name_the_offence(name):
    metric = getattr(metrics, name)
    scores, labels = jnp.array([0.2, 0.1]), jnp.array([1.0, 0.0])
    with pytest.raises(TypeError, match="scores must be of a floating dtype, got int32"):
        metric(jnp.array([2, 1]), labels)
    with pytest.raises(ValueError, match=r"scores \(2,\), labels \(3,\)"):
        metric(scores, jnp.zeros(3))
    with pytest.raises(TypeError, match="where must be boolean, got float32"):
        metric(scores, labels, where=labels)
    with pytest.raises(ValueError, match="k must be an integer of at least 1, got 0"):
        metric(scores, labels, k=0)
    with pytest.raises(ValueError, match="ties must be one of 'pessimistic', 'by_index', got 'random'"):
        metric(scores, labels, ties="random")
    with pytest.raises(ValueError, match="last axis"):
        metric(scores[0], labels[0])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("dcg", "gain"),
        ("dcg", "discount"),
        ("ndcg", "ideal"),
        ("average_precision", "normaliser"),
        ("recall", "denominator"),
        ("precision", "denominator"),
    ],
)
def test_unknown_conventions_are_refused(name, option):
    with pytest.raises(ValueError, match=f"{option} must be one of .*, got 'mine'"):
        getattr(metrics, name)(jnp.array([0.2, 0.1]), jnp.array([1.0, 0.0]), **{option: "mine"})
