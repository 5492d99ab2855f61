import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError, DivergedError
from debias_jax.serving import (
    Bundle,
    Recommendation,
    load_bundle,
    recommend,
    recommend_many,
    recommend_next,
    save_bundle,
)

N_USERS, N_ITEMS = 7, 6


def score(params, users, items):
    """A dot product, as matrix factorisation has it."""
    return (params["users"][users] * params["items"][items]).sum(axis=-1)


def by_table(params, users, items):
    return params["table"][users, items]


def make(table=None, seen=None, popularity=None):
    rng = np.random.default_rng(0)
    if table is None:
        params = {
            "users": jnp.asarray(rng.normal(size=(N_USERS, 3)), jnp.float32),
            "items": jnp.asarray(rng.normal(size=(N_ITEMS, 3)), jnp.float32),
        }
    else:
        params = {"table": jnp.asarray(table, jnp.float32)}
    return Bundle(
        params=params,
        users=Vocabulary([f"user{number}" for number in range(N_USERS)], kind="user"),
        items=Vocabulary([f"item{number}" for number in range(N_ITEMS)], kind="item"),
        config={},
        seen=seen,
        popularity=popularity,
    )


def seen_of(lists):
    return np.cumsum([0, *map(len, lists)]), np.array([item for row in lists for item in row], int)


HISTORY = [[0, 1], [], [5], [0, 1, 2, 3, 4, 5], [2, 4], [1], [0, 5]]


def slow_top(values, seen, k):
    """Sorts (score, code) pairs in plain Python."""
    pairs = [(-float(value), code) for code, value in enumerate(values) if code not in seen]
    return [(code, -negated) for negated, code in sorted(pairs)[:k]]


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_agrees_with_sorting_in_plain_python(chunk, exclude_seen):
    bundle = make(seen=seen_of(HISTORY))
    table = np.asarray(bundle.params["users"]) @ np.asarray(bundle.params["items"]).T
    order = [3, 6, 0, 1, 1, 5, 2, 4]
    users = [f"user{number}" for number in order]
    top = recommend_many(score, bundle, users, k=5, exclude_seen=exclude_seen, chunk=chunk)
    assert (top.items.dtype, top.scores.dtype, top.where.dtype) == (np.int32, np.float32, bool)
    for row, user in enumerate(order):
        expected = slow_top(table[user], HISTORY[user] if exclude_seen else [], 5)
        assert top.where[row].tolist() == [True] * len(expected) + [False] * (5 - len(expected))
        assert top.items[row][top.where[row]].tolist() == [code for code, _ in expected]
        np.testing.assert_allclose(
            top.scores[row][top.where[row]], [value for _, value in expected], rtol=1e-5
        )
        assert (top.items[row][~top.where[row]] == -1).all()
        assert np.isneginf(top.scores[row][~top.where[row]]).all()


def test_one_user_gets_raw_ids_scores_and_ranks():
    table = np.zeros((N_USERS, N_ITEMS))
    table[2] = [0.5, 3.0, -1.0, 2.0, 0.25, 9.0]
    bundle = make(table, seen_of(HISTORY))
    assert recommend(by_table, bundle, "user2", k=3) == [
        Recommendation("item1", 3.0, 1),
        Recommendation("item3", 2.0, 2),
        Recommendation("item0", 0.5, 3),
    ]
    assert recommend(by_table, bundle, "user2", k=1, exclude_seen=False) == [Recommendation("item5", 9.0, 1)]


def test_equal_scores_are_ordered_by_item_code():
    table = np.tile([-0.0, 1.0, 0.0, 1.0, -0.0, 0.0], (N_USERS, 1))
    top = recommend_many(by_table, make(table), ["user0", "user6"], k=6, exclude_seen=False)
    assert top.items.tolist() == [[1, 3, 0, 2, 4, 5]] * 2


def test_scores_as_low_as_floats_go_are_still_recommended():
    lowest = float(np.finfo(np.float32).min)
    table = np.full((N_USERS, N_ITEMS), lowest)
    top = recommend_many(by_table, make(table), ["user0"], k=6, exclude_seen=False)
    assert top.where.all()


def test_an_unknown_user_is_named_with_the_nearest_ids():
    with pytest.raises(DataError) as error:
        recommend(score, make(seen=seen_of(HISTORY)), "usr3", k=2)
    text = str(error.value)
    assert text.startswith("user 'usr3' is not among the 7 known users; the nearest are 'user3', ")
    assert text.endswith("; unknown_user='popular' answers with the most popular items")
    assert "\n" not in text
    with pytest.raises(DataError, match="user '@' is not among the 7 known users; unknown_user="):
        recommend(score, make(seen=seen_of(HISTORY)), "@", k=2)


def test_the_nearest_id_of_a_large_vocabulary_is_found():
    users = Vocabulary([f"{number:06d}" for number in range(12_000)], kind="user")
    bundle = Bundle({}, users, Vocabulary(["x"], kind="item"), {})
    with pytest.raises(DataError, match="'011777'"):
        recommend(score, bundle, "0117777", k=1, exclude_seen=False)


def test_unknown_users_can_get_the_popular_items():
    bundle = make(seen=seen_of(HISTORY), popularity=np.array([1.0, 5.0, 2.0, 5.0, 0.0, 3.0]))
    expected = [("item1", 5.0, 1), ("item3", 5.0, 2), ("item5", 3.0, 3)]
    assert recommend(score, bundle, "new", k=3, unknown_user="popular") == expected
    mixed = recommend_many(score, bundle, ["new", "user1", "newer"], k=3, unknown_user="popular")
    known = recommend_many(score, bundle, ["user1"], k=3)
    assert mixed.items[[0, 2]].tolist() == [[1, 3, 5]] * 2
    np.testing.assert_array_equal(mixed.items[1], known.items[0])
    with pytest.raises(DataError, match="user 'new' is unknown and the bundle holds no popularity"):
        recommend(score, make(seen=seen_of(HISTORY)), "new", unknown_user="popular", k=2)


def test_nobody_gets_nothing():
    top = recommend_many(score, make(seen=seen_of(HISTORY)), [], k=2)
    assert top.items.shape == top.scores.shape == top.where.shape == (0, 2)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"k": 0}, ConfigError, "k must be an integer of at least 1, got 0"),
        ({"k": -3}, ConfigError, "k must be an integer of at least 1, got -3"),
        ({"k": 7}, DataError, "k = 7 items were asked for, and the catalogue has only 6"),
        (
            {"k": 5},
            DataError,
            "k = 5 items were asked for, and user 'user0' has only 4 unseen ones; ask for at most 4",
        ),
        ({"unknown_user": "skip"}, ConfigError, "unknown_user must be 'error' or 'popular', got 'skip'"),
    ],
)
def test_questions_without_an_answer(settings, error, message):
    with pytest.raises(error, match=message):
        recommend(score, make(seen=seen_of(HISTORY)), "user0", **({"k": 2} | settings))


def test_a_user_who_has_seen_everything():
    bundle = make(seen=seen_of(HISTORY))
    with pytest.raises(
        DataError, match="k = 1 items were asked for, and user 'user3' has only 0 unseen ones"
    ):
        recommend(score, bundle, "user3", k=1)
    assert len(recommend(score, bundle, "user3", k=6, exclude_seen=False)) == 6


def test_history_is_asked_for_by_name():
    with pytest.raises(
        DataError, match="the bundle does not say what users have seen; pass exclude_seen=False"
    ):
        recommend(score, make(), "user0", k=2)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused(bad):
    table = np.zeros((N_USERS, N_ITEMS))
    table[4, 2] = bad
    bundle = make(table, seen_of([[]] * 4 + [[2]] + [[]] * 2))
    with pytest.raises(DivergedError, match="the score of item 'item2' for user 'user4' is not finite"):
        recommend(by_table, bundle, "user4", k=2)
    with pytest.raises(DivergedError, match="item 'item2' for user 'user4'"):
        recommend_many(by_table, bundle, ["user0", "user1", "user4"], k=2, chunk=2)
    assert len(recommend(by_table, bundle, "user3", k=2)) == 2


def test_a_score_that_does_not_broadcast_is_refused():
    def forgets_the_users(params, users, items):
        return params["items"][items[0], 0]

    with pytest.raises(ValueError, match=r"to \(1, 6\), got \(6,\)"):
        recommend(forgets_the_users, make(), "user0", k=2, exclude_seen=False)
    with pytest.raises(ConfigError, match="chunk must be an integer of at least 1, got 0"):
        recommend_many(score, make(), ["user0"], k=2, exclude_seen=False, chunk=0)


def test_the_last_chunk_does_not_compile_again():
    traces = []

    def traced(params, users, items):
        traces.append(users.shape)
        return score(params, users, items)

    bundle = make(seen=seen_of(HISTORY))
    users = list(bundle.users.ids)
    recommend_many(traced, bundle, users, k=2, chunk=3)
    recommend_many(traced, bundle, users[::-1], k=2, chunk=3)
    assert traces == [(3, 1)]


def test_questions_about_histories_compile_once():
    traces = []

    def traced(params, histories):
        traces.append(histories.shape)
        return params["items"][histories[:, -1]] @ params["items"].T

    bundle = make()
    answers = [
        recommend_next(traced, bundle, history, length=3, k=2) for history in (["item1"], ["item0", "item4"])
    ]
    assert traces == [(1, 3)]
    assert {row.item for row in answers[1]}.isdisjoint({"item0", "item4"})


@pytest.mark.parametrize(
    ("n_items", "ks", "compiled"), [(40, (1, 10, 16), 1), (40, (16, 17, 32, 40), 3), (6, (1, 6), 1)]
)
def test_few_numbers_of_items_compile(n_items, ks, compiled):
    traces = []

    def traced(params, histories):
        traces.append(histories.shape)
        return params["scores"][None, :]

    scores = np.random.default_rng(0).permutation(n_items).astype(np.float32)
    items = Vocabulary([str(number) for number in range(n_items)], kind="item")
    bundle = Bundle({"scores": jnp.asarray(scores)}, Vocabulary(["ann"], kind="user"), items, {})
    for k in ks:
        found = recommend_next(traced, bundle, ["0"], length=3, k=k, exclude_seen=False)
        assert [(int(row.item), row.score) for row in found] == slow_top(scores, [], k)
    assert len(traces) == compiled


def test_another_question_compiles_nothing_at_all(caplog):
    bundle = make(seen=seen_of(HISTORY))

    def after(params, histories):
        return params["items"][histories[:, -1]] @ params["items"].T

    def ask(history, k):
        recommend_next(after, bundle, history, length=3, k=k)
        recommend(score, bundle, "user0", k=k)

    with jax.log_compiles():
        ask(["item1"], 4)
        assert "Compiling" in caplog.text
        caplog.clear()
        ask(["item0", "item4"], 2)
        assert "Compiling" not in caplog.text


def test_answers_survive_a_round_trip_through_a_bundle(tmp_path):
    bundle = make(seen=seen_of(HISTORY))
    save_bundle(
        tmp_path / "bundle",
        params=bundle.params,
        users=bundle.users,
        items=bundle.items,
        config={},
        seen=bundle.seen,
    )
    before = recommend_many(score, bundle, bundle.users.ids, k=3)
    after = recommend_many(score, load_bundle(tmp_path / "bundle"), bundle.users.ids, k=3)
    for left, right in zip(before, after, strict=True):
        np.testing.assert_array_equal(left, right)
