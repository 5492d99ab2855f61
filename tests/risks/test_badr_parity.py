"""The released programs of BADR and DCE compute what the ``released`` variants compute, on recorded probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import risks

TOLERANCE = 1e-5
"""Of losses in float32, relative to the largest absolute value."""
DCE_TOLERANCE = 2e-4
"""Of DCE: at its temperature of 1e-3 rounding in the gates is divided by the temperature."""


def cross_entropy(probability, target):
    """The programs' error: of recorded probabilities, not of logits."""
    return -(target * jnp.log(probability) + (1 - target) * jnp.log1p(-probability))


def mf(tables, pairs):
    """The programs' model: no biases."""
    users, items = pairs.T
    return jax.nn.sigmoid(jnp.sum(tables[0][users] * tables[1][items], axis=-1))


def assert_parity(ours, recorded, tolerance=TOLERANCE):
    assert np.shape(ours) == recorded.shape
    assert np.max(np.abs(ours - recorded)) <= tolerance * np.max(np.abs(recorded))


@pytest.fixture(scope="module")
def badr(fixtures_dir):
    return dict(np.load(fixtures_dir / "badr_step.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def dce(fixtures_dir):
    return dict(np.load(fixtures_dir / "dce_dr_step.npz", allow_pickle=False))


@pytest.fixture(scope="module")
def weighting(badr):
    """What both steps of BADR share: o and the clipped propensities of the observed rows."""
    clipped, report = risks.clip_propensity(badr["batch/propensity"], floor=float(badr["hp/gamma"]))
    assert 0 < float(report.clipped_share) < 1
    assert_parity(1 / clipped, badr["batch/inverse_propensity"])
    return {"observed": np.ones_like(clipped), "propensity": clipped}


def test_prediction_loss_of_badr(badr, weighting):
    prediction, pseudo_label = badr["pred/predict_observed"], badr["pred/impute_observed"]
    errors = cross_entropy(prediction, badr["batch/observed_labels"])
    imputed = cross_entropy(prediction, pseudo_label)
    population = cross_entropy(badr["pred/predict_uniform"], badr["pred/impute_uniform"])
    loss = risks.badr(errors, imputed, population=population, **weighting, variant="released")
    assert_parity(loss, badr["pred/loss"])
    # The same bracket over the number of uniform pairs: the released programs differ in the divisor.
    bracket = (
        badr["pred/weighted_bce_observed_sum"]
        - badr["pred/imputed_bce_observed_sum"]
        + badr["pred/imputed_bce_uniform_sum"]
    )
    dr = risks.dr(errors, imputed, population=population, **weighting, variant="released")
    assert_parity(dr * population.size, bracket)


def test_imputation_loss_of_badr(badr, weighting):
    prediction, pseudo_label = badr["impu/predict_observed"], badr["impu/impute_observed"]
    errors = cross_entropy(prediction, badr["batch/observed_labels"])
    imputed = cross_entropy(pseudo_label, prediction)
    population = cross_entropy(badr["impu/impute_uniform"], badr["impu/predict_uniform"])
    assert_parity(errors, badr["impu/bce_observed"])
    assert_parity(imputed, badr["impu/imputed_bce_observed"])
    assert_parity(jnp.mean(population), badr["impu/imputed_bce_uniform_mean"])
    loss = risks.badr_imputation(errors, imputed, population=population, **weighting, variant="released")
    assert_parity(loss, badr["impu/loss"])


def test_gradient_of_the_imputation_loss_of_badr(badr, weighting):
    """The recorded gradient of the tables of the imputation model."""
    tables = badr["param_impu/user_emb_table.weight"], badr["param_impu/item_emb_table.weight"]

    def loss(tables):
        return risks.badr_imputation(
            cross_entropy(badr["impu/predict_observed"], badr["batch/observed_labels"]),
            cross_entropy(mf(tables, badr["batch/observed_pairs"]), badr["impu/predict_observed"]),
            population=cross_entropy(mf(tables, badr["batch/uniform_pairs"]), badr["impu/predict_uniform"]),
            **weighting,
            variant="released",
        )

    users, items = jax.grad(loss)(tuple(map(jnp.asarray, tables)))
    assert_parity(users, badr["impu/grad/user_emb_table.weight"], 2e-5)
    assert_parity(items, badr["impu/grad/item_emb_table.weight"], 2e-5)


@pytest.fixture(scope="module")
def dce_weighting(dce):
    calibrated = dce["step/calibrated/propensity_observed"]
    clipped, _ = risks.clip_propensity(calibrated, floor=float(dce["hp/gamma"]))
    assert_parity(1 / clipped, dce["step/inverse_propensity"])
    return {"observed": np.ones_like(clipped), "propensity": clipped}


def test_prediction_loss_of_dce(dce, dce_weighting):
    tables = dce["param_prediction/W.weight"], dce["param_prediction/H.weight"]
    observed, uniform = mf(tables, dce["step/observed_pairs"]), mf(tables, dce["step/uniform_pairs"])
    population = cross_entropy(uniform, dce["step/calibrated/imputation_uniform"])
    loss = risks.dr(
        cross_entropy(observed, dce["step/observed_labels"]),
        cross_entropy(observed, dce["step/calibrated/imputation_observed"]),
        population=population,
        **dce_weighting,
        variant="released",
    )
    # The program divides by the number of observed rows.
    assert_parity(loss * population.size / dce["hp/batch_size"], dce["step/prediction/loss"], DCE_TOLERANCE)


def test_imputation_loss_of_dce(dce, dce_weighting):
    """The recorded tables are those before the calibration, the prediction model's those after its own step."""
    stepped = dce["step/prediction/param_after/W.weight"], dce["step/prediction/param_after/H.weight"]
    imputation = dce["param_imputation/W.weight"], dce["param_imputation/H.weight"]
    prediction = mf(stepped, dce["step/observed_pairs"])
    pseudo_label = mf(imputation, dce["step/observed_pairs"])
    loss = risks.dr_jl(
        cross_entropy(prediction, dce["step/observed_labels"]),
        cross_entropy(pseudo_label, prediction),
        **dce_weighting,
    )
    # The program sums.
    assert_parity(loss * dce["hp/batch_size"], dce["step/imputation/loss"], DCE_TOLERANCE)
