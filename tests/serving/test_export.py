"""Exported vectors, exact search and indexes against scores written out, and what is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models, serving
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import CheckpointError, ConfigError, DataError, DivergedError

N_USERS, N_ITEMS = 40, 300
MODEL = models.two_tower(N_USERS, N_ITEMS, dim=8, hidden=(6,), bias=True, normalize=True, temperature=0.2)
TOWERS = {"user_tower": MODEL.user_tower, "item_tower": MODEL.item_tower}


@pytest.fixture(scope="module")
def bundle():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    seen = [np.sort(rng.choice(N_ITEMS, 20, replace=False)) for _ in range(N_USERS)]
    return serving.Bundle(
        params,
        Vocabulary((f"u{number}" for number in range(N_USERS)), kind="user"),
        Vocabulary((f"i{number}" for number in range(N_ITEMS)), kind="item"),
        config={},
        seen=(np.arange(N_USERS + 1) * 20, np.concatenate(seen)),
    )


def scores_of(bundle):
    return np.asarray(MODEL.apply(bundle.params, jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]))


@pytest.mark.parametrize("format", ["safetensors", "npz"])
def test_vectors_come_back_with_their_ids_and_give_the_scores(bundle, tmp_path, format):
    report = serving.export(tmp_path / "out", bundle, **TOWERS, format=format, index="none")
    assert report == (N_ITEMS, 10, "none", None, 100, 0)
    loaded = serving.load_index(tmp_path / "out")
    assert loaded.ids == bundle.items.ids and loaded.vectors.dtype == np.float32
    queries = serving.tower_vectors(MODEL.user_tower, bundle.params, N_USERS, chunk=7)
    scores = scores_of(bundle)
    np.testing.assert_allclose(queries @ loaded.vectors.T, scores, atol=2e-5)
    values, positions = loaded.search(queries, 5)
    expected = np.sort(scores, axis=1)[:, ::-1][:, :5]
    np.testing.assert_allclose(values, expected, atol=2e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, positions, axis=1), expected, atol=2e-5)


def test_towers_with_bags_are_exported_as_vectors(bundle, tmp_path):
    genres = np.where(np.arange(3 * N_ITEMS).reshape(N_ITEMS, 3) % 5 < 4, np.arange(3), -1)
    model = models.two_tower(N_USERS, N_ITEMS, dim=4, hidden=(), item_bags={"genres": genres})
    params = model.init(jax.random.key(0))
    towers = {"user_tower": model.user_tower, "item_tower": model.item_tower}
    serving.export(tmp_path / "out", dataclasses.replace(bundle, params=params), **towers, index="none")
    vectors = serving.load_index(tmp_path / "out").vectors
    queries = serving.tower_vectors(model.user_tower, params, N_USERS)
    scores = model.apply(params, jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :])
    np.testing.assert_allclose(queries @ vectors.T, scores, atol=1e-6)


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_exact_search_is_a_sort_in_any_chunks(rng, chunk):
    queries, vectors = rng.integers(-3, 4, (6, 3)), rng.integers(-3, 4, (29, 3))
    values, positions = serving.top_k(queries, vectors, k=9, chunk=chunk)
    scores = queries @ vectors.T
    # Small integers: many ties, of which the earlier vector comes first.
    order = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(positions, order)
    np.testing.assert_array_equal(values, np.take_along_axis(scores, order, axis=1))


@pytest.mark.parametrize(("index", "least"), [("flat", 1.0), ("hnsw", 0.8), ("ivf", 0.15)])
def test_an_index_says_how_much_of_the_exact_top_it_finds(bundle, tmp_path, index, least):
    pytest.importorskip("faiss", reason="the extra serve is not installed")
    report = serving.export(tmp_path / "out", bundle, **TOWERS, index=index, k=20)
    assert least <= report.recall <= 1.0 and report.n_users == N_USERS
    loaded = serving.load_index(tmp_path / "out")
    queries = serving.tower_vectors(MODEL.user_tower, bundle.params, N_USERS)
    _, found = loaded.search(queries, 20)
    _, exact = serving.top_k(queries, loaded.vectors, k=20)
    np.testing.assert_allclose(serving.recall(found, exact), report.recall)
    if index == "flat":
        np.testing.assert_array_equal(found, exact)


def test_recommendations_from_an_export_are_those_of_the_model(bundle, tmp_path):
    pytest.importorskip("faiss", reason="the extra serve is not installed")
    serving.export(tmp_path / "out", bundle, **TOWERS, index="flat")
    loaded = serving.load_index(tmp_path / "out")
    for user in ("u0", "u17"):
        for exclude_seen in (True, False):
            ours = serving.recommend_from(
                loaded, bundle, MODEL.user_tower, user, k=6, exclude_seen=exclude_seen
            )
            exact = serving.recommend(MODEL.apply, bundle, user, k=6, exclude_seen=exclude_seen)
            assert [(row.item, row.rank) for row in ours] == [(row.item, row.rank) for row in exact]
            np.testing.assert_allclose([row.score for row in ours], [row.score for row in exact], atol=2e-5)
    with pytest.raises(DataError, match="user 'u99' is not among the 40 known users"):
        serving.recommend_from(loaded, bundle, MODEL.user_tower, "u99")
    with pytest.raises(DataError, match="user 'u0' has only 280 unseen ones; ask for at most 280"):
        serving.recommend_from(loaded, bundle, MODEL.user_tower, "u0", k=281)
    with pytest.raises(ConfigError, match="k must be an integer of at least 1, got 0"):
        serving.recommend_from(loaded, bundle, MODEL.user_tower, "u0", k=0)
    other = dataclasses.replace(bundle, params=jax.tree.map(lambda x: x + 1, bundle.params))
    with pytest.raises(DataError, match="the export was made of another run than the bundle; export this"):
        serving.recommend_from(loaded, other, MODEL.user_tower, "u0")
    # An index that finds nothing is helped out by all vectors.
    blind = loaded._replace(search=lambda queries, k: (np.zeros((1, k)), np.full((1, k), -1)))
    ours = serving.recommend_from(blind, bundle, MODEL.user_tower, "u0", k=6)
    assert [row.item for row in ours] == [
        row.item for row in serving.recommend(MODEL.apply, bundle, "u0", k=6)
    ]


def test_a_diverged_user_is_named(bundle, tmp_path):
    params = jax.tree.map(jnp.array, bundle.params)
    params["user_bias"] = params["user_bias"].at[3].set(jnp.nan)
    broken = dataclasses.replace(bundle, params=params)
    serving.export(tmp_path / "out", broken, **TOWERS, index="none")
    with pytest.raises(DivergedError, match="the vector of user 'u3' is not finite"):
        serving.recommend_from(serving.load_index(tmp_path / "out"), broken, MODEL.user_tower, "u3")


def test_faults(bundle, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(ConfigError, match="unknown index 'flats'; there are none, flat, hnsw, ivf"):
        serving.export(folder, bundle, **TOWERS, index="flats")
    with pytest.raises(ConfigError, match="unknown format 'csv'"):
        serving.export(folder, bundle, **TOWERS, format="csv")
    with pytest.raises(CheckpointError, match="is not an export: it has no export.json"):
        serving.load_index(folder)
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="exists and is not an export; it is left alone"):
        serving.export(folder, bundle, **TOWERS, index="none")
    (folder / "mine.txt").unlink()
    serving.export(folder, bundle, **TOWERS, index="none")
    serving.export(folder, bundle, **TOWERS, index="none", format="npz")  # replaces the older one
    assert not (folder / "vectors.safetensors").exists()
    (folder / "ids.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"is damaged: .*ids\.json.*; export again"):
        serving.load_index(folder)
    params = jax.tree.map(jnp.array, bundle.params)
    params["item_bias"] = params["item_bias"].at[3].set(jnp.nan)
    with pytest.raises(DivergedError, match="the vector of id 3 is not finite"):
        serving.tower_vectors(MODEL.item_tower, params, N_ITEMS)
    with pytest.raises(DataError, match="k = 4 items were asked for, and there are only 3 vectors"):
        serving.top_k(np.ones((1, 2)), np.ones((3, 2)), k=4)
    for options in ({"k": 0}, {"k": 1, "chunk": 0}):
        with pytest.raises(ConfigError, match="must be an integer of at least 1, got 0"):
            serving.top_k(np.ones((1, 2)), np.ones((3, 2)), **options)
