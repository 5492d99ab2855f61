"""Protocols: closed, serialisable, and equal to the metrics they name."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from debias_jax import metrics
from debias_jax.errors import ConfigError

PROTOCOLS = metrics.PROTOCOLS


def batch(seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.integers(6, size=(8, 10)).astype(np.float32)
    labels = (rng.random((8, 10)) < 0.3).astype(np.float32)
    labels[0] = 0.0
    where = rng.random((8, 10)) < 0.8
    propensity = rng.random((8, 10)).astype(np.float32)
    return scores, labels, where, propensity


@functools.partial(jax.jit, static_argnums=0)
def user_metrics(protocol, scores, labels, where, propensity):
    return metrics.user_metrics(protocol, scores, labels, propensity=propensity, where=where)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_round_trip_through_json(name):
    protocol = PROTOCOLS[name]
    assert protocol.name == name
    restored = metrics.EvalProtocol.from_dict(json.loads(json.dumps(protocol.to_dict())))
    assert restored == protocol
    assert hash(restored) == hash(protocol)


def test_one_sort_gives_what_the_single_metrics_give():
    protocol = dataclasses.replace(
        PROTOCOLS["strict"].with_metrics(
            "auc",
            "dcg@3",
            "ndcg@5",
            "map@4",
            "recall@2",
            "precision@3",
            "hr@1",
            "mrr@5",
            "snips_dcg@3",
            "dcg",
        ),
        discount="jarvelin",
        ap_normaliser="hits",
    )
    scores, labels, where, propensity = batch()
    values, counted = user_metrics(protocol, scores, labels, where, propensity)

    @jax.jit
    def single(scores, labels, where, propensity):
        shared = {"where": where, "reduce_fn": None}
        return {
            "dcg@3": metrics.dcg(scores, labels, k=3, discount="jarvelin", **shared),
            "ndcg@5": metrics.ndcg(scores, labels, k=5, discount="jarvelin", **shared),
            "map@4": metrics.average_precision(scores, labels, k=4, normaliser="hits", **shared),
            "recall@2": metrics.recall(scores, labels, k=2, denominator="min_k", **shared),
            "precision@3": metrics.precision(scores, labels, k=3, **shared),
            "hr@1": metrics.hit_rate(scores, labels, k=1, **shared),
            "mrr@5": metrics.mrr(scores, labels, k=5, **shared),
            "snips_dcg@3": metrics.snips_dcg(
                scores, labels, propensity=propensity, k=3, discount="jarvelin", **shared
            ),
            "dcg": metrics.dcg(scores, labels, discount="jarvelin", **shared),
        }

    expected = single(scores, labels, where, propensity)
    assert sorted(values) == sorted(counted) == sorted(expected)
    for metric, value in expected.items():
        np.testing.assert_allclose(values[metric], value, rtol=0, atol=1e-6, err_msg=metric)
        np.testing.assert_array_equal(counted[metric], (labels * where).any(axis=1), err_msg=metric)


@pytest.mark.parametrize(
    ("rule", "ndcg", "counts"), [("one", 1.0, True), ("zero", 0.0, True), ("skip", 0.0, False)]
)
def test_users_without_positives(rule, ndcg, counts):
    protocol = dataclasses.replace(
        PROTOCOLS["badr"].with_metrics("ndcg@5", "recall@5"), users_without_positives=rule
    )
    values, counted = user_metrics(protocol, *batch())
    assert float(values["ndcg@5"][0]) == ndcg
    assert float(values["recall@5"][0]) == 0.0
    assert bool(counted["ndcg@5"][0]) == bool(counted["recall@5"][0]) == counts


def test_saito_floor_enters_all_sums():
    """Relevances .001 and 1; ranked y = 0, 1, 1: DCG .001 + 1/max(1, log2 2) + 1/log2 3, AP 1.001/2 + 2.001/3."""
    scores, labels = np.array([[0.9, 0.5, 0.1]], np.float32), np.array([[0, 1, 1]], np.float32)
    values, _ = user_metrics(
        PROTOCOLS["saito"], scores, labels, np.ones((1, 3), bool), np.ones((1, 3), np.float32)
    )
    assert float(values["dcg@3"][0]) == pytest.approx(0.001 + 1 + 1 / np.log2(3), abs=1e-6)
    assert float(values["map@3"][0]) == pytest.approx(1.001 / 2 + 2.001 / 3, abs=1e-6)
    assert float(values["recall@1"][0]) == pytest.approx(0.001 / 2.001, abs=1e-6)


def test_max_k():
    assert PROTOCOLS["cjmf"].max_k == 3
    assert PROTOCOLS["badr"].with_metrics("auc").max_k == 0
    assert PROTOCOLS["badr"].with_metrics("ndcg@5", "ndcg").max_k is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ties": "random"}, "ties = 'random' is unknown; it must be one of pessimistic, by_index"),
        ({"metrics": ("ndgc@5",)}, "metric 'ndgc@5' is unknown; did you mean 'ndcg'"),
        ({"metrics": ("ndcg@0",)}, "metric 'ndcg@0': the cut-off after @ must be a positive integer"),
        ({"metrics": ("ndcg@five",)}, "must be a positive integer"),
        ({"metrics": ("auc@5",)}, "metric 'auc@5': auc is pooled over all pairs and has no cut-off"),
        ({"metrics": "ndcg@5"}, "metrics must be a non-empty tuple, got 'ndcg@5'"),
        ({"metrics": ()}, "metrics must be a non-empty tuple"),
        ({"candidates": "catalogue"}, "auc needs labelled candidates"),
        ({"mask_seen": "rows"}, "mask_seen='rows' needs candidates='catalogue'"),
        ({"label_floor": 0.6}, r"label_floor = 0.6 must be a number in \[0, 0.5\)"),
        ({"threshold": "4"}, "threshold must be a number or None, got '4'"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(PROTOCOLS["badr"], **changes)


def test_catalogue_cannot_drop_items():
    with pytest.raises(ConfigError, match="eligible_items='clicked' needs listed candidates"):
        dataclasses.replace(PROTOCOLS["xir"], eligible_items="clicked")


def test_from_dict_names_the_nearest_field():
    with pytest.raises(ConfigError, match="protocol field 'tie' is unknown; did you mean 'ties'"):
        metrics.EvalProtocol.from_dict({**PROTOCOLS["badr"].to_dict(), "tie": "by_index"})
    with pytest.raises(ConfigError, match="protocol lacks metrics"):
        metrics.EvalProtocol.from_dict({"name": "mine"})
    with pytest.raises(ConfigError, match="non-empty tuple, got 'auc'"):
        metrics.EvalProtocol.from_dict({"name": "mine", "metrics": "auc"})


def test_snips_needs_propensities():
    scores, labels, where, _ = batch()
    with pytest.raises(ConfigError, match="protocol snips: snips_dcg@3 needs propensities"):
        metrics.user_metrics(PROTOCOLS["snips"], scores, labels, where=where)
