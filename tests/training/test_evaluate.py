"""Evaluation sets, and evaluation against a slow reference, the released program and published reference points."""

import csv
import dataclasses
import gzip
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import ranking as reference

from debias_jax.data import synthetic
from debias_jax.data.types import Interactions
from debias_jax.errors import ConfigError, DataError, DivergedError
from debias_jax.metrics import PROTOCOLS
from debias_jax.training.device_data import train_data
from debias_jax.training.evaluation import (
    build_eval_set,
    check_finite,
    evaluate,
    exposure_matrix,
    summarise,
)

BADR, CJMF, STRICT, XIR, SNIPS = (PROTOCOLS[name] for name in ("badr", "cjmf", "strict", "xir", "snips"))
LEAVE_ONE_OUT = PROTOCOLS["leave_one_out"]
# Values in [0, 2] from sums of a few float32 terms, and means of some hundred of them.
ATOL = 2e-6


def table(state, users, items):
    """A model that is its score table."""
    return state[users, items]


run = jax.jit(evaluate, static_argnums=(0, 1), static_argnames="chunk")


def interactions(rows, n_users, n_items, *, ratings=False):
    users, items, labels = np.array(rows, np.float64).reshape(-1, 3).T
    return Interactions(
        users.astype(np.int64),
        items.astype(np.int64),
        labels,
        n_users,
        n_items,
        ratings=labels if ratings else None,
    )


def random_part(rng, n_users, n_items, density):
    users, items = np.nonzero(rng.random((n_users, n_items)) < density)
    return Interactions(users, items, rng.random(users.size) < 0.4, n_users, n_items)


def test_listed_candidates_are_laid_out_by_user_and_item():
    test = interactions([[3, 4, 0], [0, 2, 1], [3, 1, 1], [3, 0, 0]], 5, 6)
    eval_set = build_eval_set(BADR, test, test)
    assert eval_set.users.tolist() == [0, 3]
    assert eval_set.items.tolist() == [[2, 0, 0], [0, 1, 4]]
    assert eval_set.labels.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert eval_set.where.tolist() == [[True, False, False], [True, True, True]]
    assert eval_set.seen.shape == (2, 0)
    reordered = build_eval_set(BADR, test.take([2, 0, 3, 1]), test)
    jax.tree.map(np.testing.assert_array_equal, reordered, eval_set)


def test_catalogue_lists_held_out_positives_and_what_was_seen():
    train = interactions([[0, 1, 1], [0, 2, 0], [1, 5, 1], [2, 0, 1]], 4, 6)
    test = interactions([[0, 3, 1], [0, 1, 1], [0, 4, 0], [2, 5, 0]], 4, 6)
    eval_set = build_eval_set(dataclasses.replace(XIR, metrics=("ndcg@2",)), test, train)
    assert eval_set.users.tolist() == [0, 1, 2, 3]
    # (0, 1) was seen and cannot be recommended; rows with label 0 are no different from the rest of the catalogue.
    assert eval_set.items.tolist() == [[3], [0], [0], [0]]
    assert eval_set.where.tolist() == [[True], [False], [False], [False]]
    assert eval_set.seen.tolist() == [[1, 2], [5, 6], [0, 6], [6, 6]]
    positives_only = build_eval_set(SNIPS, test, train)
    assert positives_only.users.tolist() == [0, 2]
    assert positives_only.seen.tolist() == [[1], [0]]


def test_popularity_defaults_to_the_square_root_of_relative_clicks():
    train = interactions([[0, 0, 1], [1, 0, 1], [2, 0, 1], [3, 0, 1], [0, 1, 1], [1, 2, 0]], 4, 8)
    test = interactions([[0, 4, 1], [1, 1, 1]], 4, 8)
    np.testing.assert_allclose(build_eval_set(SNIPS, test, train).propensity, [1, 0.5, 0, 0, 0, 0, 0, 0])
    given = np.linspace(0, 1, 8)
    np.testing.assert_allclose(build_eval_set(SNIPS, test, train, popularity=given).propensity, given)


def test_listed_candidates_agree_with_the_definitions(rng):
    test = random_part(rng, 30, 20, 0.4)
    scores = rng.integers(8, size=(30, 20)).astype(np.float32)
    eval_set = build_eval_set(BADR, test, test)
    result = run(BADR, table, scores, eval_set, chunk=7)
    assert bool(result.finite)
    for row, user in enumerate(eval_set.users.tolist()):
        mine = test.users == user
        s, y = scores[user, test.items[mine]].tolist(), test.labels[mine].tolist()
        ndcg = reference.ndcg(s, y, k=5) if sum(y) else 1.0
        assert float(result.per_user["ndcg@5"][row]) == pytest.approx(ndcg, abs=ATOL)
        assert float(result.per_user["recall@5"][row]) == pytest.approx(reference.recall(s, y, k=5), abs=ATOL)
        precision = reference.precision(s, y, k=5, denominator="candidates")
        assert float(result.per_user["precision@5"][row]) == pytest.approx(precision, abs=ATOL)
    assert float(result.pooled["auc"]) == pytest.approx(
        reference.auc(scores[test.users, test.items], test.labels), abs=ATOL
    )
    summary = summarise(result)
    assert sorted(summary) == sorted(BADR.metrics)
    assert float(summary["ndcg@5"]) == pytest.approx(np.asarray(result.per_user["ndcg@5"]).mean(), abs=ATOL)


def test_chunks_and_mapped_runs_agree_with_single_ones(rng):
    test = random_part(rng, 30, 20, 0.4)
    eval_set = build_eval_set(BADR, test, test)
    tables = rng.random((3, 30, 20)).astype(np.float32)
    whole = [run(BADR, table, scores, eval_set) for scores in tables]
    chunked = run(BADR, table, tables[0], eval_set, chunk=7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=ATOL), chunked, whole[0])
    mapped = jax.jit(jax.vmap(lambda state: summarise(evaluate(BADR, table, state, eval_set))))(tables)
    for name, values in mapped.items():
        expected = [float(summarise(one)[name]) for one in whole]
        np.testing.assert_allclose(values, expected, rtol=0, atol=ATOL, err_msg=name)


@pytest.mark.parametrize("protocol", [XIR, SNIPS, dataclasses.replace(LEAVE_ONE_OUT, mask_seen="none")])
def test_catalogue_agrees_with_the_definitions(rng, protocol):
    n_users, n_items = 12, 40
    protocol = protocol.with_metrics("ndcg@5", "recall@10", "mrr@10", "snips_dcg@3")
    train, test = random_part(rng, n_users, n_items, 0.2), random_part(rng, n_users, n_items, 0.15)
    test = test.take(test.users != 4)
    scores = rng.integers(9, size=(n_users, n_items)).astype(np.float32)
    eval_set = build_eval_set(protocol, test, train)
    result = run(protocol, table, scores, eval_set, chunk=5)
    assert (4 in eval_set.users.tolist()) == (protocol.eligible_users == "all")
    seen = {"none": train.take([]), "positives": train.positives, "rows": train}[protocol.mask_seen]
    for row, user in enumerate(eval_set.users.tolist()):
        left = np.setdiff1d(np.arange(n_items), seen.items[seen.users == user])
        positives = test.items[(test.users == user) & (test.labels > 0)]
        s, y = scores[user, left].tolist(), np.isin(left, positives).astype(float).tolist()
        expected = {
            "ndcg@5": reference.ndcg(s, y, k=5),
            "recall@10": reference.recall(s, y, k=10),
            "mrr@10": reference.mrr(s, y, k=10),
        }
        for metric, value in expected.items():
            assert float(result.per_user[metric][row]) == pytest.approx(value, abs=ATOL), metric
        snips = reference.snips_dcg(s, y, np.asarray(eval_set.propensity)[left].tolist(), k=3)
        assert bool(result.where["snips_dcg@3"][row]) == (snips is not None)
        assert float(result.per_user["snips_dcg@3"][row]) == pytest.approx(snips or 0.0, abs=5e-6)
        assert bool(result.where["ndcg@5"][row]) == (protocol.eligible_users == "all" or sum(y) > 0)


def test_users_of_the_cjmf_rule():
    train = interactions([[0, 0, 1], [1, 1, 1], [2, 0, 1], [3, 1, 0], [4, 0, 1]], 6, 4)
    test = interactions(
        [[0, 0, 1], [0, 1, 0], [0, 3, 0]]  # both classes; item 3 has no click and is dropped
        + [[1, 0, 1], [1, 1, 1]]  # no negative
        + [[2, 0, 0], [2, 3, 1]]  # its positive is dropped
        + [[3, 0, 1], [3, 1, 0]]  # no positive in training
        + [[4, 0, 1], [4, 1, 0]],
        6,
        4,
    )
    eval_set = build_eval_set(CJMF.with_metrics("dcg@2"), test, train)
    assert eval_set.users.tolist() == [0, 4]
    assert eval_set.items.tolist() == [[0, 1], [0, 1]]


def test_threshold_reads_ratings():
    rated = interactions([[0, 0, 4], [0, 1, 3], [0, 2, 5]], 1, 3, ratings=True)
    protocol = dataclasses.replace(BADR, threshold=4)
    assert build_eval_set(protocol, rated, rated).labels.tolist() == [[1, 0, 1]]
    unrated = interactions([[0, 0, 1]], 1, 3)
    with pytest.raises(DataError, match="thresholds ratings at 4, but train has none; set threshold=None"):
        build_eval_set(protocol, rated, unrated)


def test_given_candidates():
    protocol = dataclasses.replace(BADR, candidates="given")
    test = interactions([[0, 2, 1], [1, 0, 1]], 2, 5)
    given = interactions([[1, 4, 0], [0, 3, 0], [0, 2, 0], [1, 0, 0], [0, 0, 0]], 2, 5)
    eval_set = build_eval_set(protocol, test, test, candidates=given)
    assert eval_set.items.tolist() == [[0, 2, 3], [0, 4, 0]]
    assert eval_set.labels.tolist() == [[0, 1, 0], [1, 0, 0]]
    with pytest.raises(DataError, match="1 test positives are not among the given .* user 1, item 0; add"):
        build_eval_set(protocol, test, test, candidates=given.take([0, 1, 2, 4]))
    for other, candidates in ((protocol, None), (BADR, given)):
        with pytest.raises(ConfigError, match="a candidate list goes with 'given', and with nothing else"):
            build_eval_set(other, test, test, candidates=candidates)


def test_k_larger_than_a_list():
    test = interactions([[0, 0, 1], [0, 1, 0], [0, 2, 0], [1, 0, 1], [1, 3, 0]], 2, 4)
    message = (
        r"strict: ndcg@3 asks for k = 3 ranks, but the user of code 1 has 2 candidates, "
        r"the smallest list; lower k, or"
    )
    with pytest.raises(ConfigError, match=message):
        build_eval_set(STRICT.with_metrics("ndcg@2", "ndcg@3"), test, test)
    assert build_eval_set(STRICT.with_metrics("ndcg@2", "ndcg"), test, test).users.tolist() == [0, 1]
    assert build_eval_set(BADR, test, test).users.tolist() == [0, 1]
    train = interactions([[0, 1, 1], [0, 2, 1], [1, 2, 1]], 2, 4)
    with pytest.raises(
        ConfigError, match="ndcg@3 asks for k = 3 ranks, but the user of code 0 has 2 candidates"
    ):
        build_eval_set(XIR.with_metrics("ndcg@3"), test, train)


def test_data_that_cannot_be_evaluated_is_refused():
    test = interactions([[0, 0, 1], [0, 1, 0]], 2, 3)
    for change, message in (
        ({"test": test.take([])}, "the evaluated part has no row"),
        ({"test": test.take([0, 1, 0])}, "user 0, item 0 occurs 2 times among the evaluated rows"),
        (
            {"train": interactions([[0, 0, 1]], 2, 4)},
            "train counts 2 users and 4 items, the evaluated part 2 and 3",
        ),
        ({"train": interactions([[0, 0, 0]], 2, 3)}, "cjmf: none of the 1 evaluated users qualifies"),
    ):
        parts = {"test": test, "train": test, **change}
        with pytest.raises(DataError, match=message):
            build_eval_set(CJMF.with_metrics("dcg@1"), **parts)
    with pytest.raises(DataError, match=r"popularity must have shape \(3,\), one an item, got \(2,\)"):
        build_eval_set(BADR, test, test, popularity=np.ones(2))
    with pytest.raises(DataError, match=r"popularity\[1\] = -1.0 must be finite and at least 0"):
        build_eval_set(BADR, test, test, popularity=np.array([1.0, -1.0, 0.5]))


def test_scores_that_are_not_finite_are_reported():
    test = interactions([[0, 0, 1], [0, 1, 0], [1, 2, 1]], 2, 3)
    eval_set = build_eval_set(BADR, test, test)
    sound = np.array([[0.2, 0.1, np.nan], [np.inf, 0.0, 0.3]], np.float32)  # neither is a candidate
    broken = sound.copy()
    broken[0, 1] = np.nan
    results = jax.jit(jax.vmap(lambda state: evaluate(BADR, table, state, eval_set)))(
        np.stack([sound, broken])
    )
    assert results.finite.tolist() == [True, False]
    for values in summarise(results).values():
        np.testing.assert_array_equal(np.isnan(values), [False, True])
    with pytest.raises(
        DivergedError, match=r"a score is NaN or infinite in run\(s\) 1; lower the learning rate"
    ):
        check_finite(results)
    check_finite(jax.tree.map(lambda leaf: leaf[0], results))


def test_what_nobody_counts_in_is_nan():
    test = interactions([[0, 0, 0], [0, 1, 0]], 1, 2)
    protocol = STRICT.with_metrics("auc", "ndcg@2")
    summary = summarise(
        run(protocol, table, np.zeros((1, 2), np.float32), build_eval_set(protocol, test, test))
    )
    assert all(math.isnan(value) for value in summary.values())


def test_predict_must_broadcast():
    test = interactions([[0, 0, 1], [0, 1, 0]], 1, 2)
    eval_set = build_eval_set(BADR, test, test)
    message = (
        r"predict returned \(1, 1\) for users \(1, 1\) and items \(1, 2\); it must broadcast them to \(1, 2\)"
    )
    with pytest.raises(ValueError, match=message):
        run(BADR, lambda state, users, items: state[users], jnp.zeros(1), eval_set)
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1, got 0"):
        evaluate(BADR, table, jnp.zeros((1, 2)), eval_set, chunk=0)


def test_exposure_of_every_pair_in_chunks():
    train = train_data(synthetic.generate(seed=0, n_users=7, n_items=5))

    def exposure(state, data, users, items):
        # One axis each, so that a model gathers the vectors of users and of items, not of pairs.
        assert users.shape[1] == items.shape[0] == 1
        return state * data.popularity[items] + users

    expected = 0.5 * np.asarray(train.popularity)[None, :] + np.arange(7)[:, None]
    for chunk in (None, 1, 3, 7, 100):
        found = exposure_matrix(exposure, jnp.float32(0.5), train, chunk=chunk)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="chunk must be an integer of at least 1, got 0"):
        exposure_matrix(exposure, jnp.float32(0.5), train, chunk=0)


def test_parity_with_the_released_badr_evaluation(fixtures_dir):
    with np.load(fixtures_dir / "badr_eval.npz", allow_pickle=False) as recorded:
        fixture = dict(recorded)
    users, items = fixture["user_ids"], fixture["item_ids"]
    test = Interactions(users, items, fixture["labels"], int(users.max()) + 1, int(items.max()) + 1)
    scores = np.zeros((test.n_users, test.n_items), np.float32)
    scores[users, items] = fixture["scores"]
    cuts = fixture["top_k"].tolist()
    names = [f"{kind}@{k}" for kind in ("ndcg", "recall", "precision") for k in cuts]
    protocol = BADR.with_metrics("auc", *names)
    eval_set = build_eval_set(protocol, test, test)
    np.testing.assert_array_equal(eval_set.users, fixture["users_sorted"])
    result = run(protocol, table, scores, eval_set)
    summary = summarise(result)
    assert float(summary["auc"]) == pytest.approx(float(fixture["auc"]), abs=1e-6)
    for name in names:
        recorded = name.replace("@", "_")
        per_user = fixture[f"per_user/{recorded}"]
        np.testing.assert_allclose(result.per_user[name], per_user, rtol=0, atol=1e-6, err_msg=name)
        assert float(summary[name]) == pytest.approx(float(fixture[f"mean/{recorded}"]), abs=1e-6)


def read_split(file, n_users, n_items):
    with gzip.open(file, "rt", newline="") as lines:
        rows = [[int(row[name]) for name in ("user", "item", "label")] for row in csv.DictReader(lines)]
    return interactions(rows, n_users, n_items)


def smoothed_logits(train):
    """Logits of user and item means with 5 pseudo-counts at the global rate."""
    rate = train.labels.mean(dtype=np.float64)

    def logits(codes, n):
        means = (np.bincount(codes, train.labels, n) + 5 * rate) / (np.bincount(codes, minlength=n) + 5)
        return np.log(means / (1 - means))

    return logits(train.users, train.n_users), logits(train.items, train.n_items)


def test_floors_of_coat_under_the_badr_protocol(data_dir):
    """Reference values of parameter-free rankers, printed to four digits; ties there in the sort's order.

    AUC has no tie order and must agree to the printed digits. Ranking metrics may differ by what tied items can
    move, which is seen by ranking ties for and against the positives.
    """
    train, test = (
        read_split(data_dir / f"coat/split_thres3_{part}.csv.gz", 290, 300) for part in ("train", "test")
    )
    eval_set = build_eval_set(BADR, test, train)
    user_logits, item_logits = smoothed_logits(train)
    optimistic = np.zeros((290, 300), np.float32)
    optimistic[test.users, test.items] = 1e-4 * test.labels
    reference_points = {
        "item": (np.tile(item_logits, (290, 1)), 0.6296, 0.6601, 0.5185),
        "user + item": (user_logits[:, None] + item_logits[None, :], 0.7715, 0.6600, 0.5185),
    }
    for name, (scores, auc, ndcg, recall) in reference_points.items():
        scores = scores.astype(np.float32)
        low = summarise(run(BADR, table, scores, eval_set))
        high = summarise(run(BADR, table, scores + optimistic, eval_set))
        assert float(low["auc"]) == pytest.approx(auc, abs=5.1e-5), name
        for metric, value in (("ndcg@5", ndcg), ("recall@5", recall)):
            assert float(low[metric]) - 5.1e-5 <= value <= float(high[metric]) + 5.1e-5, (name, metric)
            assert float(high[metric]) - float(low[metric]) < 2e-3
    oracle = np.zeros((290, 300), np.float32)
    oracle[test.users, test.items] = test.labels
    best = summarise(run(BADR, table, oracle, eval_set))
    assert float(best["recall@5"]) == pytest.approx(0.7951, abs=5.1e-5)
    assert float(best["ndcg@5"]) == 1.0


def test_reference_points_of_coat_under_the_cjmf_protocol(data_dir):
    """The candidates that give the published oracle: test items with a training positive (284), 237 users.

    With all 300 items as candidates the oracle would reach 1.4818 and 1.7582 instead of 1.479 and 1.753.
    """
    parts = []
    for part in ("train", "test"):
        matrix = np.loadtxt(data_dir / f"coat/{part}.ascii", dtype=np.int32)
        users, items = np.nonzero(matrix)
        rated = matrix[users, items]
        parts.append(Interactions(users, items, rated >= 4, 290, 300, ratings=rated))
    train, test = parts
    eval_set = build_eval_set(CJMF, test, train)
    assert eval_set.users.shape == (237,)
    assert int(eval_set.where.sum()) == 3609
    names = ("dcg@1", "dcg@2", "dcg@3", "map@1", "map@2", "map@3")

    def values(scores):
        summary = summarise(run(CJMF, table, scores.astype(np.float32), eval_set))
        return np.array([summary[name] for name in names])

    labels = np.zeros((290, 300), np.float32)
    labels[test.users, test.items] = test.labels
    np.testing.assert_allclose(values(labels), [1, 1.479, 1.753, 1, 1, 1], rtol=0, atol=5.1e-4)

    # Popularity has many ties, whose order the published ranking took from its sort: its values lie between ranking
    # them against and for the positives, a range of .04 that holds all six.
    clicks = np.tile(np.bincount(train.positives.items, minlength=300).astype(np.float32), (290, 1))
    popularity = np.array([0.371, 0.592, 0.732, 0.371, 0.481, 0.507])
    against, favourable = values(clicks), values(clicks + 0.5 * labels)
    assert (against - 5e-4 <= popularity).all()
    assert (popularity <= favourable + 5e-4).all()

    # The published random ranking is a mean of 5 draws: within three of its standard errors.
    rng = np.random.default_rng(0)
    draws = np.array([values(rng.random((290, 300))) for _ in range(60)])
    published = np.array([0.230, 0.372, 0.478, 0.230, 0.309, 0.344])
    assert (np.abs(draws.mean(axis=0) - published) < 3 * draws.std(axis=0) / math.sqrt(5)).all()
