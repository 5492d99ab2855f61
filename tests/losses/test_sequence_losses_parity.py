"""The losses on all and on sampled items against those of the released sequence models (their fixtures)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import losses

MODELS = ("sasrec", "gru4rec", "caser", "bert4rec", "fmlp_rec")
TOLERANCE = 1e-5
"""Of the fixtures: relative to the value."""


class Recorded:
    """Scores of the scored positions of one model, and what it recorded of them."""

    def __init__(self, path):
        with np.load(path, allow_pickle=False) as file:
            self.file = dict(file)
        self.n_items, self.pads = int(self.file["hp/num_items"]), int(self.file["hp/num_pads"])
        negatives = self.file["batch/negatives"]
        if "out/targets_masked" in self.file:
            self.hidden, targets = self.file["out/features_train_masked"], self.file["out/targets_masked"]
            negatives = negatives[self.file["batch/mask"]]
        elif "out/scored_mask" in self.file:
            self.hidden, targets = self.file["out/features_scored"], self.file["out/targets_scored"]
            negatives = negatives[self.file["out/scored_mask"]]
        else:
            self.hidden, targets = self.file["out/features_scored"], self.file["batch/positives"][:, 0]
        # Caser's output table is not its input table, and has a bias.
        table = self.file.get("param/W2.weight", self.file["param/Item.embeddings.weight"])
        bias = self.file.get("param/b2.weight", np.zeros((len(table), 1), np.float32))[:, 0]
        # Pads are never scored.
        self.table, self.bias = table[self.pads :], bias[self.pads :]
        self.target, self.negatives = targets - self.pads, negatives - self.pads
        self.scores = self.hidden @ self.table.T + self.bias[None, :]
        self.pos = self.scores[np.arange(len(targets)), self.target]
        self.neg = np.take_along_axis(self.scores, self.negatives, axis=1)

    def hp(self, name):
        return float(self.file[f"hp/{name}"])


@pytest.fixture(scope="module", params=MODELS)
def recorded(request, fixtures_dir):
    return Recorded(fixtures_dir / f"{request.param}.npz")


def sampled(recorded):
    """The losses of ``pos`` and ``neg``, by their names in the fixtures."""
    nce = {"c": recorded.hp("nce_c"), "n_items": recorded.n_items}
    return {
        "BCE": (losses.bce, {}),
        "BPR": (losses.bpr, {}),
        "NCE": (losses.noise_contrastive, nce),
        "NEG": (losses.negative_sampling, {}),
        "SCE": (losses.scaled_cross_entropy, {"alpha": recorded.hp("sce_alpha")}),
        "CE-Sampled": (losses.scaled_cross_entropy, {"alpha": 1.0}),
    }


@pytest.mark.parametrize("name", ["BCE", "BPR", "NCE", "NEG", "SCE", "CE-Sampled"])
def test_losses_on_samples(recorded, name):
    loss, options = sampled(recorded)[name]
    expected = float(recorded.file[f"loss/{name}"])
    assert float(loss(recorded.pos, recorded.neg, **options)) == pytest.approx(expected, rel=TOLERANCE)
    if name == "CE-Sampled":
        return
    one = float(loss(recorded.pos, recorded.neg[:, :1], **options))
    assert one == pytest.approx(float(recorded.file[f"loss/{name}_K1"]), rel=TOLERANCE)


@pytest.mark.parametrize("name", ["NCE", "NEG", "SCE", "CE-Sampled"])
def test_the_same_from_counts_of_all_items(recorded, name):
    loss, options = sampled(recorded)[name]
    counts = np.stack([np.bincount(row, minlength=recorded.n_items) for row in recorded.negatives])
    assert counts.max() > 1
    value = loss(recorded.pos, recorded.scores, counts=counts.astype(np.float32), **options)
    assert float(value) == pytest.approx(float(recorded.file[f"loss/{name}"]), rel=TOLERANCE)


def test_losses_on_all_items(recorded):
    expected = float(recorded.file["loss/CE"])
    plain = losses.cross_entropy(recorded.scores, recorded.target)
    assert float(plain) == pytest.approx(expected, rel=TOLERANCE)
    chunked = losses.chunked_cross_entropy(
        recorded.hidden, recorded.table, recorded.target, bias=recorded.bias, chunk=3
    )
    assert float(chunked) == pytest.approx(expected, rel=TOLERANCE)
    tight = losses.truncated_cross_entropy(recorded.scores, recorded.target, eta=recorded.hp("ce_tight_eta"))
    assert float(tight) == pytest.approx(float(recorded.file["loss/CE-Tight"]), rel=TOLERANCE)
    assert float(tight) < expected


def test_gradient_of_the_output_table_and_bias_of_caser(fixtures_dir):
    """Its output table is used nowhere else, so that the recorded gradient is that of the loss alone."""
    caser = Recorded(fixtures_dir / "caser.npz")

    def scores(table, bias):
        return caser.hidden @ table.T + bias[None, :]

    def ce(table, bias):
        return losses.chunked_cross_entropy(caser.hidden, table, caser.target, bias=bias, chunk=3)

    def sce(table, bias):
        found = scores(table, bias)
        pos = jnp.take_along_axis(found, caser.target[:, None], axis=1)[:, 0]
        neg = jnp.take_along_axis(found, caser.negatives, axis=1)
        return losses.scaled_cross_entropy(pos, neg, alpha=caser.hp("sce_alpha"))

    for name, loss in (("CE", ce), ("SCE", sce)):
        of_table, of_bias = jax.grad(loss, argnums=(0, 1))(caser.table, caser.bias)
        for ours, key in ((of_table, "W2.weight"), (of_bias[:, None], "b2.weight")):
            expected = caser.file[f"grad_{name}/{key}"][caser.pads :]
            assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()
