"""``methods.badr`` against one step of the released program (fixture ``badr_step``): the step as it is trained.

The risks alone are compared in ``tests/risks/test_badr_parity.py``, here everything from the parameters on: logits,
propensities, the order of the two steps, what each sees of the other, and both optimisers.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import dr as reference

from debias_jax import methods, models, optimizers
from debias_jax.methods.base import CvrBatch, PairBatch, Pairs, TrainState

TOLERANCE = 1e-5
"""Of losses, probabilities and stepped parameters, relative to the largest absolute value; float32."""
GRADIENT_TOLERANCE = 2e-5

N_USERS, N_ITEMS, DIM = 7, 30, 8
MF = models.mf(N_USERS, N_ITEMS, dim=DIM)
PROPENSITY_MODEL = models.additive_logistic(N_USERS, N_ITEMS, dim=DIM)
AS_RELEASED = {
    "weighting": "batch",
    "propensity": "released",
    "imputed_errors": "released",
    "order": "prediction_first",
}
GROUPS = {"prediction": "pred", "imputation": "impu"}
SETTINGS = {
    "lr": "pred_lr",
    "weight_decay": "pred_weight_decay",
    "imputation_lr": "impu_lr",
    "imputation_weight_decay": "impu_weight_decay",
    "min_propensity": "gamma",
}


@pytest.fixture(scope="module")
def fixture(fixtures_dir):
    with np.load(fixtures_dir / "badr_step.npz", allow_pickle=False) as file:
        return dict(file)


def assert_parity(ours, recorded, tolerance=TOLERANCE):
    assert np.shape(ours) == recorded.shape
    assert np.max(np.abs(ours - recorded)) <= tolerance * np.max(np.abs(recorded))


def tables(fixture, prefix):
    return {side: jnp.asarray(fixture[f"{prefix}/{side}_emb_table.weight"]) for side in ("user", "item")}


def hyperparameters(fixture, method):
    """The settings were stored as float32; their decimal value is meant."""
    recorded = {name: float(str(fixture[f"hp/{key}"])) for name, key in SETTINGS.items()}
    return {name: jnp.asarray(value, jnp.float32) for name, value in {**method.hparams, **recorded}.items()}


def state_of(fixture, method):
    """The state that the program started from, with its fitted propensities."""
    hparams = hyperparameters(fixture, method)
    params = {group: tables(fixture, f"param_{name}") for group, name in GROUPS.items()}
    propensity = tables(fixture, "param_prop") | {
        "weight": jnp.asarray(fixture["param_prop/linear_1.weight"][0]),
        "bias": jnp.asarray(fixture["param_prop/linear_1.bias"][0]),
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        # Adam's state does not depend on its hyperparameters.
        opt_state={group: optimizers.adam(0.0).init(params[group]) for group in GROUPS},
        hparams=hparams,
        extra={"propensity": propensity},
    )


def batch_of(fixture):
    users, items = jnp.asarray(fixture["batch/observed_pairs"]).T
    known = jnp.ones(6, bool)
    rows = PairBatch(
        users, items, jnp.asarray(fixture["batch/observed_labels"]), jnp.ones(6, jnp.float32), known
    )
    return CvrBatch(rows, known, Pairs(*jnp.asarray(fixture["batch/uniform_pairs"]).T))


def step_of(fixture, **settings):
    method = methods.badr(MF, MF, PROPENSITY_MODEL, batch_size=6, ratio=3, **{**AS_RELEASED, **settings})
    before = state_of(fixture, method)
    # No part of this step reads the training data.
    after, logs = method.step(before, None, batch_of(fixture), jax.random.key(0))
    return before, after, logs


@pytest.fixture(scope="module")
def released(fixture):
    return step_of(fixture, variant="released")


def test_losses(fixture, released):
    _, _, logs = released
    assert_parity(logs["loss/prediction"], fixture["pred/loss"])
    assert_parity(logs["loss/imputation"], fixture["impu/loss"])
    assert_parity(logs["loss"], fixture["pred/loss"])
    # What the program watches to stop: its first cross-entropy sum, here over the number of rows.
    assert_parity(logs["observed_loss"] * 6, fixture["pred/weighted_bce_observed_sum"])


def gradient_of(before, after, group):
    """Adam's first moment after one step is a tenth of the gradient, weight decay added."""
    decay = before.hparams["weight_decay" if group == "prediction" else "imputation_weight_decay"]
    moment = optax.tree.get(after.opt_state[group], "mu")
    return jax.tree.map(lambda mu, x: mu / 0.1 - decay * x, moment, before.params[group])


@pytest.mark.parametrize("group", GROUPS)
def test_gradients(fixture, released, group):
    before, after, _ = released
    gradient = gradient_of(before, after, group)
    for side, recorded in tables(fixture, f"{GROUPS[group]}/grad").items():
        assert_parity(gradient[side], recorded, GRADIENT_TOLERANCE)


@pytest.mark.parametrize("group", GROUPS)
def test_stepped_parameters(fixture, released, group):
    _, after, _ = released
    for side, recorded in tables(fixture, f"{GROUPS[group]}/param_after").items():
        assert_parity(after.params[group][side], recorded)


@pytest.mark.parametrize("sample", ["observed", "uniform"])
def test_probabilities(fixture, released, sample):
    """The program records them in each loss: in the second the prediction model has been stepped."""
    before, after, _ = released
    users, items = jnp.asarray(fixture[f"batch/{sample}_pairs"]).T

    def probabilities(state, group):
        return jax.nn.sigmoid(MF.apply(state.params[group], users, items))

    assert_parity(probabilities(before, "prediction"), fixture[f"pred/predict_{sample}"])
    assert_parity(probabilities(before, "imputation"), fixture[f"pred/impute_{sample}"])
    assert_parity(probabilities(after, "prediction"), fixture[f"impu/predict_{sample}"])
    assert_parity(probabilities(before, "imputation"), fixture[f"impu/impute_{sample}"])


def test_propensities(fixture):
    method = methods.badr(MF, MF, PROPENSITY_MODEL, propensity="released")
    users, items = jnp.asarray(fixture["batch/observed_pairs"]).T
    ours = method.exposure(state_of(fixture, method), None, users, items)
    assert_parity(ours, fixture["batch/propensity"])
    assert_parity(1 / np.maximum(ours, fixture["hp/gamma"]), fixture["batch/inverse_propensity"])


# Where the variants part, on the recorded probabilities.


def cross_entropy(probabilities, targets):
    probabilities = probabilities.astype(np.float64)
    return -targets * np.log(probabilities) - (1 - targets) * np.log1p(-probabilities)


@pytest.fixture(scope="module")
def recorded(fixture):
    """The arguments of ``reference`` before any step."""

    def imputed(sample):
        return cross_entropy(fixture[f"pred/predict_{sample}"], fixture[f"pred/impute_{sample}"])

    errors = cross_entropy(fixture["pred/predict_observed"], fixture["batch/observed_labels"])
    propensity = 1 / fixture["batch/inverse_propensity"].astype(np.float64)
    return errors, imputed("observed"), np.ones(6), propensity, np.ones(6), imputed("uniform")


IMPUTATION_LOSSES = {
    "published": reference.badr_eq32,
    "detached": reference.badr_eq32,
    "corrected": reference.badr_corrected,
    "released": lambda *batch: reference.badr_released(*batch)[0],
}


@pytest.fixture(scope="module")
def imputation_first(fixture):
    """The step of every variant in the paper's order and with its imputed errors."""
    settings = {"order": "imputation_first", "imputed_errors": "published"}
    return {variant: step_of(fixture, variant=variant, **settings) for variant in IMPUTATION_LOSSES}


@pytest.mark.parametrize("variant", IMPUTATION_LOSSES)
def test_imputation_loss_of_each_variant(imputation_first, recorded, variant):
    expected = IMPUTATION_LOSSES[variant](*recorded)
    _, _, logs = imputation_first[variant]
    assert float(logs["loss/imputation"]) == pytest.approx(expected, rel=TOLERANCE)


def test_prediction_loss_of_the_paper(fixture, recorded, released):
    """The released program does not divide the subtracted imputed errors by the propensities."""
    loss = float(step_of(fixture, variant="published")[2]["loss/prediction"])
    assert loss == pytest.approx(reference.badr(*recorded), rel=TOLERANCE)
    # sum h (1 / p - 1) / sum 1 / p
    _, imputed, _, p, _, _ = recorded
    excess = np.sum(imputed * (1 / p - 1)) / np.sum(1 / p)
    assert float(released[2]["loss/prediction"]) - loss == pytest.approx(excess, rel=1e-4)
    assert excess > 0.1 * abs(loss)


def test_gradient_of_the_imputation_of_each_variant(fixture, imputation_first):
    """In ``released`` only tables of uniform pairs have one, in the others those of observed pairs too."""
    only_observed = np.setdiff1d(fixture["batch/observed_pairs"][:, 1], fixture["batch/uniform_pairs"][:, 1])
    assert only_observed.size
    gradients = {
        variant: np.asarray(gradient_of(before, after, "imputation")["item"])
        for variant, (before, after, _) in imputation_first.items()
    }
    sizes = {variant: np.max(np.abs(gradient)) for variant, gradient in gradients.items()}
    # What is left of the weight decay that was subtracted: rounding.
    assert np.max(np.abs(gradients["released"][only_observed])) < 1e-6 * sizes["released"]
    for variant in ("published", "detached", "corrected"):
        assert np.max(np.abs(gradients[variant][only_observed])) > 1e-2 * sizes[variant]
    assert np.max(np.abs(gradients["published"] - gradients["detached"])) > 1e-2 * sizes["published"]
