"""Each doubly robust method's step against its paper's losses, written one pair at a time in float64."""

import functools
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference import dr as reference

from debias_jax import data, experiment, methods, models, training
from debias_jax.errors import ConfigError
from debias_jax.experiment import _build
from debias_jax.methods import cvr_batches

N_USERS, N_ITEMS = 12, 9
FRAMES = ("pairs", "tiles", "uniform")
MF = models.mf(N_USERS, N_ITEMS, dim=3, init_scale=0.7)
PROPENSITY_MODEL = models.additive_logistic(N_USERS, N_ITEMS)
HPARAMS = {"weight_decay": 0.0, "imputation_weight_decay": 0.0, "lr": 0.1, "imputation_lr": 0.1}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles a step."""
    monkeypatch.setattr(cvr_batches, "TILE_SIDE", 2)


@functools.cache
def _log():
    return data.synthetic.generate(seed=5, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.4)


@functools.cache
def _data():
    return training.train_data(_log())


def _factor(name, bias_weight=0.5):
    """The factor of o d^2 in an imputation loss, from eqs. 6 and 8 to 10 of the BADR paper."""
    mrdr = lambda o, p: (1 - p) / p**2  # noqa: E731
    dr_bias = lambda o, p: (o - p) ** 2 / p**3  # noqa: E731
    return {
        "eib": lambda o, p: 1.0,
        "dr_jl": lambda o, p: 1 / p,
        "mrdr": mrdr,
        "dr_bias": dr_bias,
        "dr_mse": lambda o, p: bias_weight * dr_bias(o, p) + (1 - bias_weight) * mrdr(o, p),
    }[name]


def _imputation(name):
    def loss(b):
        """A sum over rows, each for s pairs of the population, over the number of pairs."""
        return reference.imputation(b.e, b.h, b.o, b.p, b.s, _factor(name)) * len(b.e) / len(b.everyone)

    return loss


def _estimate(name, **options):
    return lambda b: getattr(reference, name)(b.e, b.h, b.o, b.p, b.s, b.everyone, **options)


def _raised(loss):
    """``loss`` with the propensities of D-DR at variance weight 0.3."""
    return lambda b: loss(SimpleNamespace(**{**vars(b), "p": b.p + 0.3 * (1 - b.p)}))


def _squared_tdr(b):
    """The released step of TDR: squared errors, the coefficient a constant (that of the unperturbed parameters)."""
    seen = b.o > 0
    moved = b.h + b.slope * (1 / b.p - 1)
    moved_everyone = b.everyone + b.slope * (1 / b.everyone_p - 1)
    rows = np.sum((b.s * (b.e**2 / b.p - moved**2))[seen])
    return (rows + np.sum(moved_everyone**2)) / len(b.everyone)


def _snips(b):
    w = b.s * b.o / b.p
    return np.sum(w * b.e) / np.sum(w)


def _with_propensity(name, **options):
    return lambda frame: getattr(methods, name)(
        MF, MF, PROPENSITY_MODEL, batch_size=16, frame=frame, propensity="popularity", **options
    )


CASES = {
    "eib": (
        lambda frame: methods.eib(MF, MF, batch_size=16, frame=frame),
        _estimate("eib"),
        _imputation("eib"),
    ),
    "dr_jl": (_with_propensity("dr_jl"), _estimate("dr"), _imputation("dr_jl")),
    "mrdr": (_with_propensity("mrdr"), _estimate("dr"), _imputation("mrdr")),
    "mrdr_released": (
        _with_propensity("mrdr", variant="released"),
        _estimate("dr", released=True),
        _imputation("mrdr"),
    ),
    "dr_bias": (_with_propensity("dr_bias"), _estimate("dr"), _imputation("dr_bias")),
    "dr_mse": (_with_propensity("dr_mse"), _estimate("dr"), _imputation("dr_mse")),
    "sndr": (_with_propensity("sndr"), _estimate("sndr"), _imputation("dr_jl")),
    "sndr_variance": (
        _with_propensity("sndr", imputation="variance"),
        _estimate("sndr"),
        lambda b: reference.badr_eq32(b.e, b.h, b.o, b.p, b.s, b.everyone),
    ),
    "badr": (
        _with_propensity("badr"),
        _estimate("badr"),
        lambda b: reference.badr_eq32(b.e, b.h, b.o, b.p, b.s, b.everyone),
    ),
    # The paper's ablation: another method's imputation under BADR's risk.
    **{
        f"badr_{name}": (
            _with_propensity("badr", imputation=name),
            _estimate("badr"),
            _imputation(name),
        )
        for name in ("dr_jl", "mrdr", "dr_bias", "dr_mse")
    },
    "d_dr": (_with_propensity("d_dr"), _raised(_estimate("dr")), _raised(_imputation("dr_jl"))),
    "tdr_cl": (
        _with_propensity("tdr_cl"),
        lambda b: reference.tdr(b.e, b.h, b.o, b.p, b.s, b.everyone, b.everyone_p),
        _imputation("dr_jl"),
    ),
    "tdr_cl_squared": (
        _with_propensity("tdr_cl", variant="squared"),
        _squared_tdr,
        _imputation("dr_jl"),
    ),
}


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _cross_entropy(logits, targets):
    return np.logaddexp(0.0, logits) - targets * logits


def _double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def _scores(params, users, items):
    return np.sum(params["user"][users] * params["item"][items], axis=-1)


def _additive(params, users, items):
    return params["user"][users] + params["item"][items] + params["bias"]


def _popularity(users, items):
    counts = np.bincount(np.asarray(_data().items), minlength=N_ITEMS)
    return np.sqrt(counts / counts.max())[items]


class Step:
    """One step of a method from its first state, and what the losses are at given parameters."""

    def __init__(self, method, hparams):
        given = {k: v for k, v in {**HPARAMS, **hparams}.items() if k in method.hparams}
        self.before = method.init(jax.random.key(1), _data(), given)
        batches = method.batches(_data(), jax.random.key(2))
        # The last batch: it is padded where rows are observed rows.
        self.batch = jax.tree.map(lambda x: x[-1], batches)
        self.after, self.logs = method.step(self.before, _data(), self.batch, jax.random.key(3))

    def gradient(self, group):
        """Adam's first moment after one step is a tenth of the gradient."""
        return jax.tree.map(lambda mu: mu / 0.1, optax.tree.get(self.after.opt_state[group], "mu"))

    def at(self, prediction, pseudo, propensity):
        """The batch as the references take it, at parameters of the models, or with given pseudo-label parameters."""
        rows, where = self.batch.rows, np.asarray(self.batch.rows.where)
        users, items, labels, weights, observed = (
            np.asarray(x)[where]
            for x in (rows.users, rows.items, rows.labels, rows.weights, self.batch.observed)
        )
        logits = _scores(prediction, users, items)
        imputed = _cross_entropy(logits, _sigmoid(_scores(pseudo, users, items)))
        b = SimpleNamespace(
            e=_cross_entropy(logits, labels),
            h=imputed,
            o=observed.astype(np.float64),
            p=propensity(users, items),
            s=weights.astype(np.float64),
        )
        if self.batch.population is None:
            everyone = users, items
        else:
            pairs = self.batch.population
            everyone = tuple(np.asarray(x).ravel() for x in jnp.broadcast_arrays(pairs.users, pairs.items))
        sample_logits = _scores(prediction, *everyone)
        b.everyone = _cross_entropy(sample_logits, _sigmoid(_scores(pseudo, *everyone)))
        b.everyone_p = propensity(*everyone)
        look_up = np.zeros((N_USERS, N_ITEMS))
        look_up[np.asarray(_data().users), np.asarray(_data().items)] = 1.0
        b.everyone_o = look_up[everyone]
        return b


def _check_loss_and_gradient(step, group, params, loss, rng):
    """The logged loss is ``loss(params)``, and the step's gradient its derivative along a random direction."""
    np.testing.assert_allclose(step.logs[f"loss/{group}"], loss(params), rtol=2e-5, atol=1e-6)
    direction = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
    moved = [
        loss(jax.tree.map(lambda x, d: x + shift * d, params, direction))  # noqa: B023
        for shift in (1e-5, -1e-5)
    ]
    slope = (moved[0] - moved[1]) / 2e-5
    gradient = step.gradient(group)
    along = sum(
        np.sum(np.asarray(g, np.float64) * d)
        for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    scale = np.sqrt(sum(np.sum(np.asarray(g) ** 2) for g in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(along, slope, rtol=1e-4, atol=1e-4 * scale)


IN_EVERY_FRAME = ("dr_jl", "badr", "tdr_cl", "tdr_cl_squared")
"""Two of those that share the code of frames, and those that have their own; the rest by ``make test-all``."""


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        *(
            pytest.param(
                name,
                frame,
                marks=pytest.mark.slow if frame != "pairs" and name not in IN_EVERY_FRAME else (),
            )
            for frame in FRAMES
            for name in CASES
        ),
        ("dr_jl", "block"),
    ],
)
def test_one_step_is_the_written_losses(name, frame, rng):
    build, prediction_loss, imputation_loss = CASES[name]
    step = Step(build(frame), {"variance_weight": 0.3})
    propensity = (lambda users, items: np.ones(users.shape)) if name == "eib" else _popularity
    prediction, pseudo = _double(step.before.params["prediction"]), _double(step.before.params["imputation"])

    # The prediction is a constant of the imputation's step.
    _check_loss_and_gradient(
        step, "imputation", pseudo, lambda own: imputation_loss(step.at(prediction, own, propensity)), rng
    )

    # The pseudo-labels of the stepped imputation are constants of the prediction's step.
    stepped = _double(step.after.params["imputation"])
    base = step.at(prediction, stepped, propensity)
    w = np.where(base.o > 0, base.s * (1 / base.p - 1), 0.0)
    slope = np.sum(w * (base.e - base.h)) / max(np.sum(w * (1 / base.p - 1)), 1e-12)

    def own_loss(own):
        b = step.at(own, stepped, propensity)
        b.slope = slope
        return prediction_loss(b)

    _check_loss_and_gradient(step, "prediction", prediction, own_loss, rng)


def _fitted(params):
    return lambda users, items: _sigmoid(_additive(params, users, items))


def _stable_penalty(b, eta=7.0):
    total = 0.0
    for o, p, h in zip(b.everyone_o, b.everyone_p, b.everyone, strict=True):
        total += o / p * (h - np.mean(b.everyone))
    return eta * (total / len(b.everyone)) ** 2


def _gpl_penalty(b, weight=0.6, share=0.3):
    """Eqs. 11 and 12 of the BADR paper with the erratum; the sum over all pairs from the weighted observed rows."""
    n = len(b.everyone)
    bias = variance = 0.0
    for e, h, o, p, s in zip(b.e, b.h, b.o, b.p, b.s, strict=True):
        d = (e - h) * o
        bias += s * (o - p) ** 2 / p**2 * d**2 / n
        variance += s * o * (1 - p) / p**2 * d**2 / n**2
    return weight * (share * bias + (1 - share) * variance)


JOINT = {
    "stable_dr": (_snips, _imputation("dr_jl"), _stable_penalty, ("imputation", "propensity", "prediction")),
    "dr_mse_gpl": (
        _estimate("dr"),
        _imputation("dr_mse"),
        _gpl_penalty,
        ("propensity", "imputation", "prediction"),
    ),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("name", JOINT)
def test_one_step_of_three_models_is_the_written_losses(name, frame, rng):
    prediction_loss, imputation_loss, penalty, order = JOINT[name]
    method = getattr(methods, name)(MF, MF, PROPENSITY_MODEL, batch_size=16, frame=frame)
    hparams = {
        "stabilization": 7.0,
        "propensity_mse_weight": 0.6,
        "propensity_bias_weight": 0.3,
        "joint_propensity_lr": 0.02,
        "propensity_weight_decay": 0.0,
    }
    step = Step(method, hparams)
    newest = _double(dict(step.before.params))

    def propensity_loss(b):
        return np.mean(
            -b.everyone_o * np.log(b.everyone_p) - (1 - b.everyone_o) * np.log1p(-b.everyone_p)
        ) + (penalty(b))

    losses = {"prediction": prediction_loss, "imputation": imputation_loss, "propensity": propensity_loss}
    for group in order:

        def own_loss(own, group=group):
            params = {**newest, group: own}
            b = step.at(params["prediction"], params["imputation"], _fitted(params["propensity"]))
            return losses[group](b)

        _check_loss_and_gradient(step, group, newest[group], own_loss, rng)
        newest[group] = _double(step.after.params[group])


def _trainer(method, n_epochs):
    """``hparams -> (first state, last state, logs)``; one compiled program for all hyperparameters."""

    @jax.jit
    def train(hparams):
        state = method.init(jax.random.key(0), _data(), hparams)
        return state, *training.train_epochs(
            method, state, _data(), jax.random.key(1), jnp.int32(0), n_epochs=n_epochs
        )

    return train


def _joint_on_the_whole_matrix(name, n_epochs):
    """Propensities alone are trained, on a block that is the whole matrix: a step's penalty is that of all pairs."""
    method = getattr(methods, name)(MF, MF, PROPENSITY_MODEL, batch_size=16, frame="block", ratio=7)
    train = _trainer(method, n_epochs)
    still = {"lr": 1e-9, "imputation_lr": 1e-9, "joint_propensity_lr": 0.01}
    return lambda **hparams: train({k: jnp.float32(v) for k, v in (still | hparams).items()})


def test_stable_dr_drives_its_constraint_to_zero():
    train = _joint_on_the_whole_matrix("stable_dr", 80)
    penalised, free = (
        np.sqrt(np.asarray(train(stabilization=eta)[2]["propensity_penalty"]) / eta) for eta in (300.0, 1e-6)
    )
    assert penalised[-1] < 0.1 * free[-1]


def test_dr_mse_gpl_lowers_what_it_penalises():
    train = _joint_on_the_whole_matrix("dr_mse_gpl", 40)
    penalised, free = (
        np.asarray(
            train(propensity_mse_weight=weight, propensity_bias_weight=1.0)[2]["propensity_penalty"] / weight
        )
        for weight in (1.0, 1e-6)
    )
    assert penalised[-1] < 0.8 * free[-1]


def test_joint_propensities_start_from_the_fit():
    """With the cross-entropy the fitted propensities reproduce the observed count."""
    method = methods.dr_mse_gpl(MF, MF, PROPENSITY_MODEL)
    state = jax.jit(method.init)(jax.random.key(0), _data(), {})
    users, items = jnp.meshgrid(jnp.arange(N_USERS), jnp.arange(N_ITEMS), indexing="ij")
    expected = float(jnp.sum(method.exposure(state, _data(), users, items)))
    assert expected == pytest.approx(len(_data().users), rel=0.03)


def test_d_dr_lies_between_dr_jl_and_eib():
    for name, weight in (("dr_jl", 0.0), ("eib", 1.0)):
        end = Step(CASES[name][0]("pairs"), {})
        between = Step(CASES["d_dr"][0]("pairs"), {"variance_weight": weight})
        for loss in ("loss/prediction", "loss/imputation"):
            np.testing.assert_allclose(between.logs[loss], end.logs[loss], rtol=1e-5)


def test_badr_with_zeros_has_certain_negatives_and_no_imputation_model():
    method = methods.badr(
        MF, MF, PROPENSITY_MODEL, batch_size=16, propensity="popularity", imputation="zeros"
    )
    step = Step(method, {})
    assert step.before.params["imputation"] == {}
    b = step.at(_double(step.before.params["prediction"]), _double(MF.init(jax.random.key(0))), _popularity)
    # What a sure negative costs: CE(s, 0) = log(1 + e^s).
    prediction = _double(step.before.params["prediction"])
    rows, where = step.batch.rows, np.asarray(step.batch.rows.where)
    own = _scores(prediction, np.asarray(rows.users)[where], np.asarray(rows.items)[where])
    pairs = jnp.broadcast_arrays(step.batch.population.users, step.batch.population.items)
    everyone = _scores(prediction, *(np.asarray(x).ravel() for x in pairs))
    zero, zeros = _cross_entropy(own, 0.0), _cross_entropy(everyone, 0.0)
    expected = reference.badr(b.e, zero, b.o, b.p, b.s, zeros)
    np.testing.assert_allclose(step.logs["loss/prediction"], expected, rtol=2e-5)


@pytest.mark.parametrize("name", ["ips", "badr", "stable_dr", "cvib", "damf", "escm2_dr"])
def test_a_two_tower_model_with_features_takes_the_place_of_mf(name):
    """The step reaches the network and the embeddings of both towers of the prediction."""
    config = experiment.base_config()
    with config.unlocked():
        config.model.update({"name": "two_tower", "features": True, "dim": 3, "hidden": (4,)})
        config.train.batch_size = 16
    features = np.random.default_rng(0).normal(size=(N_ITEMS, 2))
    entry = experiment.cvr_variants({})[name]
    method = _build.build_method(config, entry, n_users=N_USERS, n_items=N_ITEMS, item_features=features)
    state = method.init(jax.random.key(1), _data(), {})
    batch = jax.tree.map(lambda x: x[0], method.batches(_data(), jax.random.key(2)))
    after, _ = method.step(state, _data(), batch, jax.random.key(3))
    before, after = state.params["prediction"], after.params["prediction"]
    for side in ("user", "item"):
        for part in ("embedding", "layers"):
            moved = jax.tree.map(
                lambda x, y: bool(np.any(np.asarray(x) != np.asarray(y))),
                before[side][part],
                after[side][part],
            )
            assert any(jax.tree.leaves(moved)), (side, part)


def test_eib_knows_no_propensities():
    method = methods.eib(MF, MF)
    assert method.exposure is None
    assert not [name for name in method.hparams if "propensity" in name]
    with pytest.raises(TypeError, match="propensity"):
        methods.eib(MF, MF, propensity="estimated")


def test_mf_bias_sees_each_observed_row_once_and_learns_the_biases():
    method = methods.mf_bias(models.mf(N_USERS, N_ITEMS, dim=2, bias=True), batch_size=16)
    batch = method.batches(_data(), jax.random.key(0))
    assert int(jnp.sum(batch.where)) == len(_data().users)
    before, after, _ = _trainer(method, 2)({"lr": jnp.float32(0.05)})
    moved = jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y))), before.params, after.params)
    assert min(jax.tree.leaves(moved)) > 0


THREE_MODELS = ("mrdr", "dr_bias", "dr_mse", "sndr", "d_dr", "tdr_cl", "stable_dr", "dr_mse_gpl")


@pytest.mark.parametrize("name", THREE_MODELS)
def test_options_are_checked(name):
    def build(**options):
        return getattr(methods, name)(MF, MF, PROPENSITY_MODEL, **options)

    with pytest.raises(ValueError, match="no_such.*block"):
        build(frame="no_such")
    with pytest.raises(ValueError, match="no_such.*released"):
        build(imputed_errors="no_such")
    if name in ("mrdr", "dr_bias", "dr_mse", "tdr_cl", "dr_mse_gpl"):
        with pytest.raises(ValueError, match="unknown variant 'no_such'; there are published"):
            build(variant="no_such")
    if name == "sndr":
        with pytest.raises(ValueError, match="unknown imputation 'no_such'; there are dr_jl, variance"):
            build(imputation="no_such")
    if name in ("stable_dr", "dr_mse_gpl"):
        with pytest.raises(TypeError, match="propensity"):
            build(propensity="constant")


def test_tdr_cl_needs_propensities_of_all_pairs():
    method = methods.tdr_cl(MF, MF, PROPENSITY_MODEL, batch_size=16, propensity="logged")
    state = method.init(jax.random.key(0), _data(), {})
    batch = jax.tree.map(lambda x: x[0], method.batches(_data(), jax.random.key(1)))
    with pytest.raises(ConfigError, match="propensity='logged'.*estimated"):
        method.step(state, _data(), batch, jax.random.key(2))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=pytest.mark.slow if name not in ("dr_jl", "badr", "eib", "sndr", "tdr_cl_squared") else (),
        )
        for name in CASES
    ],
)
def test_observed_weight_moves_the_population_against_rows_that_keep_their_scale(name):
    build, _, _ = CASES[name]
    has_it = "observed_weight" in build("block").hparams
    assert has_it == (name not in ("sndr", "sndr_variance", "tdr_cl")), name
    steps = [
        Step(build("block"), {"variance_weight": 0.3} | ({"observed_weight": weight} if has_it else {}))
        for weight in (1.0, 2.0, 4.0)
    ]
    for step in steps[1:]:
        chex.assert_trees_all_equal(step.after.params["imputation"], steps[0].after.params["imputation"])
    losses = [float(step.logs["loss/prediction"]) for step in steps]
    # The observed part, and the population's divided by the weight: a straight line over 1, 1/2 and 1/4.
    spread = losses[0] - losses[2]
    assert (abs(spread) > 1e-3) == has_it
    np.testing.assert_allclose((losses[0] - losses[1]), spread * (1 / 2) / (3 / 4), atol=2e-5)
