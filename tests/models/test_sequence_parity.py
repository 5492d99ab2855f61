"""The sequence models against the released program: outputs, eight losses, and every gradient of two of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models
from debias_jax.models import base
from debias_jax.models.fmlp import _FMLPRec

OUTPUT, GRADIENT = 1e-5, 2e-5
"""Tolerances of the fixtures: relative to the largest absolute value of an array."""

NAMES = ("sasrec", "gru4rec", "caser", "bert4rec", "fmlp_rec")


def assert_parity(ours, recorded, tolerance):
    assert np.shape(ours) == recorded.shape
    assert np.max(np.abs(ours - recorded)) <= tolerance * np.max(np.abs(recorded))


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def record(fixtures_dir, name):
    return dict(np.load(fixtures_dir / f"{name}.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def params(record, name):
    return models.convert.from_released(name, part(record, "param/"))


@pytest.fixture(scope="module")
def model(record, name):
    n_items, max_len = int(record["hp/num_items"]), int(record["hp/maxlen"])
    heads = {"n_heads": int(record["hp/num_heads"])} if "hp/num_heads" in record else {}
    if name == "sasrec":
        return models.sasrec(n_items, dim=8, max_len=max_len, **heads)
    if name == "gru4rec":
        return models.gru4rec(n_items, dim=8, max_len=max_len)
    if name == "caser":
        n_users, n_filters = int(record["hp/num_users"]), int(record["hp/num_horiz"])
        return models.caser(n_users, n_items, dim=8, max_len=max_len, n_horizontal=n_filters)
    if name == "bert4rec":
        return models.bert4rec(n_items, dim=8, max_len=max_len, **heads)
    return models.fmlp_rec(n_items, dim=8, max_len=max_len, n_blocks=2)


def part(record, prefix):
    return {key.removeprefix(prefix): value for key, value in record.items() if key.startswith(prefix)}


def codes(record, ids):
    """Released ids, specials first, as ours: items from 0, then the pad, then the mask token."""
    n_items, n_specials = int(record["hp/num_items"]), int(record["hp/num_pads"])
    return np.where(ids < n_specials, n_items + ids, ids - n_specials).astype(np.int32)


def left_padded(seqs):
    return np.array([np.concatenate([row[row == 0], row[row != 0]]) for row in seqs])


def users(record):
    return jnp.asarray(record["batch/users"]) if "batch/users" in record else None


def examples(record, name):
    """Histories, and the slots that are scored with their targets and negatives."""
    positives, negatives = record["batch/positives"], record["batch/negatives"]
    if name == "bert4rec":
        where = record["batch/mask"]
        history = record["batch/masked_seqs"]
    elif name == "sasrec":
        where, history = positives != 0, record["batch/seqs"]
    else:
        where, history = np.ones((len(positives), 1), bool), left_padded(record["batch/seqs"])
        negatives = negatives[:, None]
    return codes(record, history), where, codes(record, positives[where]), codes(record, negatives[where])


def losses(record, features, table, targets, negatives):
    """The released losses as the README of the fixtures states them."""
    n_items, n_drawn = len(table), negatives.shape[1]
    scores = features @ table.T
    positive = jnp.take_along_axis(scores, targets[:, None], axis=1)
    negative = jnp.take_along_axis(scores, negatives, axis=1)
    shift = np.log(n_items / n_drawn) - record["hp/nce_c"]

    def binary(shift):
        return jnp.mean(
            jax.nn.softplus(-positive - shift)[:, 0] + jnp.sum(jax.nn.softplus(negative + shift), axis=1)
        )

    def sampled(alpha):
        logits = jnp.concatenate([positive, negative + np.log(alpha)], axis=1)
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - positive[:, 0])

    near = scores - positive >= -record["hp/ce_tight_eta"] * jnp.abs(positive)
    near_sum = jax.nn.logsumexp(jnp.where(near, scores, -1e23), axis=1)
    return {
        "CE": jnp.mean(jax.nn.logsumexp(scores, axis=1) - positive[:, 0]),
        "BCE": jnp.mean(jax.nn.softplus(-positive)) + jnp.mean(jax.nn.softplus(negative)),
        "BPR": jnp.mean(jax.nn.softplus(negative - positive)),
        "NCE": binary(shift),
        "NEG": binary(0.0),
        "SCE": sampled(record["hp/sce_alpha"]),
        "CE-Sampled": sampled(1.0),
        "CE-Tight": jnp.mean(near_sum - positive[:, 0]),
    }


def released_losses(model, record, name):
    history, where, targets, negatives = examples(record, name)

    def of_params(params, n_drawn=None):
        features = model.encode(params, jnp.asarray(history), users(record))
        if features.shape[1] != where.shape[1]:
            features = features[:, -1:]
        features = features[where]
        return losses(record, features, model.output_table(params), targets, negatives[:, :n_drawn])

    return of_params


def test_scores_of_the_next_item(record, model, params, name):
    history = left_padded(record["batch/seqs"])
    scores = jax.jit(model.apply)(params, jnp.asarray(codes(record, history)), users(record))
    assert_parity(scores, record["out/scores_full"], OUTPUT)


def test_features(record, model, params, name):
    history, where, targets, _ = examples(record, name)
    encode = jax.jit(model.encode)
    features = np.asarray(encode(params, jnp.asarray(history), users(record)))
    if name == "sasrec":
        assert_parity(features, record["out/features"], OUTPUT)
        assert_parity(features[where], record["out/features_scored"], OUTPUT)
        np.testing.assert_array_equal(targets + 1, record["out/targets_scored"])
        table = np.asarray(model.output_table(params))
        logits = (features[where] * table[targets]).sum(axis=1, keepdims=True)
        assert_parity(logits, record["out/pos_logits_scored"], OUTPUT)
    elif name == "caser":
        # Ours has a 1 at the end, by which the bias is multiplied.
        np.testing.assert_array_equal(features[..., -1], 1.0)
        assert_parity(features[:, -1, :-1], record["out/features_scored"], OUTPUT)
    elif name == "bert4rec":
        assert_parity(features[where], record["out/features_train_masked"], OUTPUT)
        np.testing.assert_array_equal(targets + 2, record["out/targets_masked"])
        seqs = record["eval/seqs"]
        features = np.asarray(encode(params, jnp.asarray(codes(record, seqs))))
        assert_parity(features[:, -1], record["out/features_scored"], OUTPUT)
        assert_parity(features[seqs != 0], record["out/features_eval_valid"], OUTPUT)
    else:
        assert_parity(features[:, -1], record["out/features_scored"], OUTPUT)


def test_features_of_every_slot_of_fmlp_rec(fixtures_dir):
    record = dict(np.load(fixtures_dir / "fmlp_rec.npz", allow_pickle=False))
    params = models.convert.from_released("fmlp_rec", part(record, "param/"))
    _, (hidden_states,) = base.pure_methods(
        lambda rngs: _FMLPRec(30, 8, 10, 2, 0.0, 32, rngs=rngs), "hidden_states"
    )
    history = jnp.asarray(codes(record, record["batch/seqs"]))
    assert_parity(jax.jit(hidden_states)(params, history), record["out/features"], OUTPUT)


def test_losses(record, model, params, name):
    of_params = jax.jit(released_losses(model, record, name), static_argnums=1)
    for key, value in of_params(params).items():
        assert_parity(value, record[f"loss/{key}"], OUTPUT)
    alone = of_params(params, 1)
    for key in ("BCE", "BPR", "NCE", "NEG", "SCE"):
        assert_parity(alone[key], record[f"loss/{key}_K1"], OUTPUT)


@pytest.mark.parametrize("loss", ["CE", "SCE"])
def test_gradients(record, model, params, name, loss):
    of_params = released_losses(model, record, name)
    gradients = jax.jit(jax.grad(lambda params: of_params(params)[loss]))(params)
    ours, recorded = models.convert.to_released(name, gradients), part(record, f"grad_{loss}/")
    assert ours.keys() == recorded.keys()
    for key, value in recorded.items():
        if value.any():
            assert_parity(ours[key], value, GRADIENT)
        else:
            np.testing.assert_array_equal(ours[key], value)
    # The pad is read by some, and moved by none.
    np.testing.assert_array_equal(ours["Item.embeddings.weight"][0], 0.0)


def test_released_parameters_come_back(record, params, name):
    back, released = models.convert.to_released(name, params), part(record, "param/")
    assert back.keys() == released.keys()
    for key, value in released.items():
        np.testing.assert_array_equal(back[key], value)
