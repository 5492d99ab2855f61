"""DCE against the released program: calibration, and one step of every model (fixture ``dce_dr_step``)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import models, optimizers, risks
from debias_jax.methods._calibration import calibrate, listwise_loss
from debias_jax.methods.doubly_robust import cross_entropy, saturating_cross_entropy
from debias_jax.risks import dr_jl

KINDS = {"prop": "propensity", "imp": "imputation"}
MF = models.mf(7, 30, dim=8)


@pytest.fixture(scope="module")
def fixture(fixtures_dir):
    with np.load(fixtures_dir / "dce_dr_step.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def hp(fixture):
    # Settings were stored as float32; their decimal value is meant.
    return {
        name[3:]: float(np.format_float_positional(value, unique=True))
        for name, value in fixture.items()
        if name.startswith("hp/")
    }


def close(ours, reference, tolerance=1e-5):
    error = np.max(np.abs(np.asarray(ours) - reference))
    assert error <= tolerance * np.max(np.abs(reference))


def factors(fixture, prefix):
    return {
        "user": jnp.asarray(fixture[f"{prefix}W.weight"]),
        "item": jnp.asarray(fixture[f"{prefix}H.weight"]),
    }


def experts(fixture, kind):
    return {
        "scale": jnp.asarray(fixture[f"param_experts/a_{kind}"]),
        "shift": jnp.asarray(fixture[f"param_experts/b_{kind}"]),
        "gate_weight": jnp.asarray(fixture[f"param_{kind}_gate/0.weight"].T),
        "gate_bias": jnp.asarray(fixture[f"param_{kind}_gate/0.bias"]),
    }


def propensity_logits(fixture, users, items):
    model = models.additive_logistic(7, 30, dim=8)
    params = factors(fixture, "param_propensity/") | {
        "weight": jnp.asarray(fixture["param_propensity/linear_1.weight"][0]),
        "bias": jnp.asarray(fixture["param_propensity/linear_1.bias"][0]),
    }
    return model.apply(params, users, items)


def calibrated(fixture, kind, own, logits, users, noise, temperature):
    vectors = models.user_vectors(factors(fixture, f"param_{KINDS[kind]}/"), users)
    noise = None if noise is None else jnp.asarray(noise)
    log_q, _ = calibrate(own, logits, vectors, noise=noise, temperature=float(temperature))
    return jnp.exp(log_q)


def inverse_propensity(fixture, hp, users, items, noise, temperature):
    logits = propensity_logits(fixture, users, items)
    p = calibrated(fixture, "prop", experts(fixture, "prop"), logits, users, noise, temperature)
    return p, 1.0 / jnp.clip(p, hp["gamma"], 1.0)


def after_adam(params, grads, learning_rate, weight_decay, state=None):
    tx = optimizers.adam(learning_rate, weight_decay=weight_decay)
    updates, state = tx.update(grads, tx.init(params) if state is None else state, params)
    return optax.apply_updates(params, updates), state


def expert_arrays(tree):
    return {"a": tree["scale"], "b": tree["shift"], "gate_weight": tree["gate_weight"].T}


@pytest.mark.parametrize("kind", KINDS)
def test_calibrated_values_at_every_temperature(fixture, kind):
    users, items = fixture["calib/pairs"].T
    if kind == "prop":
        logits = propensity_logits(fixture, users, items)
    else:
        logits = MF.apply(factors(fixture, "param_imputation/"), users, items)
    close(logits, fixture[f"calib/{KINDS[kind]}_logit"])
    for number, temperature in enumerate(fixture["calib/temperatures"]):
        noise = fixture[f"calib/{kind}_gumbel"][number]
        got = calibrated(fixture, kind, experts(fixture, kind), logits, users, noise, temperature)
        # Rounding of the gate's logits is divided by the temperature.
        close(got, fixture[f"calib/{kind}_calibrated"][number], 2e-4 if temperature < 0.01 else 1e-5)


def test_the_step_of_the_propensity_experts(fixture, hp):
    users, items = fixture["propcal/pairs"].T
    logits = propensity_logits(fixture, users, items)

    def loss(own):
        noise, temperature = fixture["propcal/gumbel"], fixture["propcal/temperature"]
        q = calibrated(fixture, "prop", own, logits, users, noise, temperature)
        return listwise_loss(q, jnp.asarray(fixture["propcal/labels"])), q

    own = experts(fixture, "prop")
    (value, q), grads = jax.value_and_grad(loss, has_aux=True)(own)
    close(q, fixture["propcal/calibrated"])
    close(value, fixture["propcal/loss"])
    stepped, _ = after_adam(own, grads, hp["propcal_lr"], hp["propcal_weight_decay"])
    for name, suffix in (("a", "_prop"), ("b", "_prop"), ("gate_weight", "")):
        close(expert_arrays(grads)[name], fixture[f"propcal/grad/{name}{suffix}"], 2e-5)
        close(expert_arrays(stepped)[name], fixture[f"propcal/param_after/{name}{suffix}"])


@pytest.fixture(scope="module")
def joint_step(fixture, hp):
    """The step of the prediction, then of the imputation: losses, gradients, parameters, calibrated values."""
    users, items = fixture["step/observed_pairs"].T
    sample = fixture["step/uniform_pairs"].T
    labels = jnp.asarray(fixture["step/observed_labels"])
    p, inverse = inverse_propensity(
        fixture,
        hp,
        users,
        items,
        fixture["step/gumbel/propensity_observed"],
        fixture["step/temperature/propensity_observed"],
    )
    imputation = factors(fixture, "param_imputation/")

    def pseudo(pairs, which):
        noise, at = fixture[f"step/gumbel/{which}"], fixture[f"step/temperature/{which}"]
        return calibrated(
            fixture, "imp", experts(fixture, "imp"), MF.apply(imputation, *pairs), pairs[0], noise, at
        )

    pseudo_rows, pseudo_sample = (
        pseudo((users, items), "imputation_observed"),
        pseudo(sample, "imputation_uniform"),
    )
    observed = jnp.ones_like(labels)

    def prediction_loss(params):
        logits = MF.apply(params, users, items)
        risk = risks.dr(
            cross_entropy(logits, labels),
            cross_entropy(logits, pseudo_rows),
            observed=observed,
            propensity=1.0 / inverse,
            population=cross_entropy(MF.apply(params, *sample), pseudo_sample),
            variant="released",
        )
        # The program divides by the observed pairs of the batch, risks.dr by those of the population.
        return hp["G"] * risk

    prediction = factors(fixture, "param_prediction/")
    value, grads = jax.value_and_grad(prediction_loss)(prediction)
    stepped, _ = after_adam(prediction, grads, hp["lr"], hp["weight_decay"])

    def imputation_loss(params):
        logits = MF.apply(stepped, users, items)
        mean = dr_jl(
            cross_entropy(logits, labels),
            saturating_cross_entropy(MF.apply(params, users, items), jax.nn.sigmoid(logits)),
            observed=observed,
            propensity=1.0 / inverse,
        )
        return hp["batch_size"] * mean

    imputation_value, imputation_grads = jax.value_and_grad(imputation_loss)(imputation)
    imputation_stepped, _ = after_adam(imputation, imputation_grads, hp["lr_imp"], hp["weight_decay_imp"])
    return {
        "calibrated": {
            "propensity_observed": p,
            "imputation_observed": pseudo_rows,
            "imputation_uniform": pseudo_sample,
        },
        "inverse_propensity": inverse,
        "prediction": (value, grads, stepped),
        "imputation": (imputation_value, imputation_grads, imputation_stepped),
    }


def test_calibrated_values_of_the_joint_step(fixture, joint_step):
    for which, values in joint_step["calibrated"].items():
        tolerance = 2e-4 if fixture[f"step/temperature/{which}"] < 0.01 else 1e-5
        close(values, fixture[f"step/calibrated/{which}"], tolerance)
    close(joint_step["inverse_propensity"], fixture["step/inverse_propensity"], 2e-4)


@pytest.mark.parametrize("group", ["prediction", "imputation"])
def test_the_joint_step(fixture, joint_step, group):
    value, grads, stepped = joint_step[group]
    close(value, fixture[f"step/{group}/loss"])
    for ours, theirs in (("user", "W"), ("item", "H")):
        close(grads[ours], fixture[f"step/{group}/grad/{theirs}.weight"], 2e-5)
        close(stepped[ours], fixture[f"step/{group}/param_after/{theirs}.weight"])


def test_the_steps_of_the_imputation_experts(fixture, hp):
    users, items = fixture["impcal/val_pairs"].T
    labels = jnp.asarray(fixture["impcal/val_labels"])
    p, inverse = inverse_propensity(
        fixture,
        hp,
        users,
        items,
        fixture["impcal/gumbel_propensity"],
        fixture["impcal/temperature_propensity"],
    )
    close(p, fixture["impcal/calibrated_propensity"], 2e-4)
    close(inverse, fixture["impcal/inverse_propensity"], 2e-4)
    stepped_imputation = factors(fixture, "step/imputation/param_after/")
    logits = MF.apply(stepped_imputation, users, items)
    vectors = models.user_vectors(stepped_imputation, users)

    own, state = experts(fixture, "imp"), None
    for number in range(int(hp["iter_impcal"])):
        noise = jnp.asarray(fixture[f"impcal/{number}/gumbel"])
        temperature = float(fixture[f"impcal/{number}/temperature"])

        def loss(own, noise=noise, temperature=temperature):
            log_q, log_not_q = calibrate(own, logits, vectors, noise=noise, temperature=temperature)
            return -jnp.sum(inverse * (labels * log_q + (1.0 - labels) * log_not_q)), jnp.exp(log_q)

        (value, q), grads = jax.value_and_grad(loss, has_aux=True)(own)
        close(q, fixture[f"impcal/{number}/calibrated"])
        close(value, fixture[f"impcal/{number}/loss"])
        # The program does not train the gate's bias.
        grads["gate_bias"] = jnp.zeros_like(grads["gate_bias"])
        stepped, state = after_adam(own, grads, hp["lr_impcal"], hp["weight_decay_impcal"], state)
        own = stepped | {"gate_bias": own["gate_bias"]}
        for name, suffix in (("a", "_imp"), ("b", "_imp"), ("gate_weight", "")):
            close(expert_arrays(grads)[name], fixture[f"impcal/{number}/grad/{name}{suffix}"], 2e-5)
            close(expert_arrays(own)[name], fixture[f"impcal/{number}/param_after/{name}{suffix}"])
