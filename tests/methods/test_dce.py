"""Calibration experts, the rows held out for them, and one step of the DCE methods written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, training
from debias_jax.methods import _calibration
from debias_jax.methods.base import CvrBatch, PairBatch, Pairs
from debias_jax.methods.calibrated import gate_inputs, hold_out

N_USERS, N_ITEMS, DIM = 30, 20, 3


def _mf():
    return models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=1.0)


def _method(factory=methods.dce_dr, *, dim=None, **settings):
    propensity_model = models.additive_logistic(N_USERS, N_ITEMS, dim=dim)
    return factory(_mf(), _mf(), propensity_model, user_vectors=models.user_vectors, **settings)


@pytest.fixture(scope="module")
def train():
    log = data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3)
    return training.train_data(log)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _ce(logits, t):
    return -t * np.log(_sigmoid(logits)) - (1 - t) * np.log(_sigmoid(-logits))


def _experts(n=4, dim=DIM):
    rng = np.random.default_rng(5)
    shapes = {"scale": n, "shift": n, "gate_weight": (dim, n), "gate_bias": n}
    return {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}


class TestExperts:
    def test_mixture_is_its_formula(self, rng):
        experts = _experts()
        logits, vectors, noise = (rng.normal(size=s).astype(np.float32) for s in (6, (6, DIM), (6, 4)))
        e = {name: np.asarray(value, np.float64) for name, value in experts.items()}
        gate = np.exp((vectors @ e["gate_weight"] + e["gate_bias"] + noise) / 0.5)
        gate /= gate.sum(-1, keepdims=True)
        want = (gate * _sigmoid(logits[:, None] * e["scale"] + e["shift"])).sum(-1)
        log_q, log_not_q = _calibration.calibrate(
            experts, jnp.asarray(logits), jnp.asarray(vectors), noise=jnp.asarray(noise), temperature=0.5
        )
        np.testing.assert_allclose(np.exp(log_q), want, rtol=1e-5)
        np.testing.assert_allclose(np.exp(log_not_q), 1 - want, rtol=1e-5)

    def test_a_block_is_its_pairs(self, rng):
        experts = _experts()
        logits = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
        vectors = jnp.asarray(rng.normal(size=(3, 1, DIM)), jnp.float32)
        block, _ = _calibration.calibrate(experts, logits, vectors)
        for column in range(2):
            pairs, _ = _calibration.calibrate(experts, logits[:, column], vectors[:, 0])
            np.testing.assert_allclose(block[:, column], pairs, rtol=1e-5)

    def test_logits_of_any_size_are_finite_and_so_are_gradients(self):
        experts, vectors = _experts(), jnp.ones((2, DIM), jnp.float32)

        def total(experts, logits):
            return sum(map(jnp.sum, _calibration.calibrate(experts, logits, vectors, temperature=1e-3)))

        value, grads = jax.value_and_grad(total, argnums=(0, 1))(
            experts, jnp.asarray([-80.0, 80.0], jnp.float32)
        )
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves((value, grads)))

    def test_cold_draws_average_to_the_mixture_without_noise(self):
        """At temperature 0 expert m is drawn with probability softmax(gate)_m (Gumbel-max)."""
        experts, n = _experts(), 20000
        logits, vectors = jnp.full(n, 0.3, jnp.float32), jnp.ones((n, DIM), jnp.float32)
        noise = _calibration.gumbel_noise(jax.random.key(0), logits, experts)
        draws = np.exp(_calibration.calibrate(experts, logits, vectors, noise=noise, temperature=1e-3)[0])
        mean = np.exp(_calibration.calibrate(experts, logits[:1], vectors[:1])[0][0])
        assert abs(draws.mean() - mean) < 4 * draws.std() / np.sqrt(n)

    def test_a_number_a_user_is_a_vector_of_length_one(self):
        params = models.additive_logistic(N_USERS, N_ITEMS).init(jax.random.key(0))
        users = jnp.zeros((4, 1), jnp.int32)
        assert gate_inputs(models.user_vectors, params, users).shape == (4, 1, 1)
        assert gate_inputs(models.user_vectors, _mf().init(jax.random.key(0)), users).shape == (4, 1, DIM)

    def test_temperature_falls_geometrically_and_stays(self):
        got = _calibration.temperature(jnp.asarray([0.0, 0.5, 1.0, 7.0], jnp.float32))
        np.testing.assert_allclose(got, [1.0, (1e-1).__pow__(1.5), 1e-3, 1e-3], rtol=1e-5)

    def test_the_released_loss_does_not_see_the_level(self):
        labels = jnp.asarray([1.0, 0.0, 1.0], jnp.float32)
        q = jnp.asarray([0.2, 0.1, 0.4], jnp.float32)
        want = -np.log(np.exp([0.2, 0.4]) / np.exp([0.2, 0.1, 0.4]).sum()).sum()
        np.testing.assert_allclose(_calibration.listwise_loss(q, labels), want, rtol=1e-6)
        np.testing.assert_allclose(_calibration.listwise_loss(q + 0.5, labels), want, rtol=1e-6)


class TestPropensityExperts:
    def test_calibrate_a_model_that_is_wrong(self, train):
        """A model that overstates every logit: the fitted experts restore level and likelihood."""
        observed = np.zeros((N_USERS, N_ITEMS))
        observed[np.asarray(train.users), np.asarray(train.items)] = 1.0
        counts = observed.sum(0)
        item_logits = jnp.asarray(np.log(counts + 1) - np.log(N_USERS - counts + 1), jnp.float32)

        def logits(users, items):
            return 3.0 * item_logits[items] + 2.0 + 0.0 * users

        def vectors(users):
            return jnp.ones((*users.shape, 1), jnp.float32)

        experts = _calibration.init_experts(jax.random.key(0), n_experts=3, dim=1)
        fitted = jax.jit(
            lambda key: _calibration.fit_propensity_experts(
                logits,
                vectors,
                experts,
                key,
                train,
                learning_rate=jnp.float32(0.05),
                weight_decay=jnp.float32(0.0),
                ratio=20,
                loss="cross_entropy",
            )
        )(jax.random.key(1))
        users, items = jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]
        log_q, log_not_q = _calibration.calibrate(fitted, logits(users, items), vectors(users))
        likelihood = np.where(observed > 0, log_q, log_not_q).mean()
        assert likelihood > -_ce(np.asarray(logits(users, items), np.float64), observed).mean() + 0.1
        # 18 of 180 observed pairs are held out: their level is known to a quarter.
        assert abs(np.exp(log_q).mean() / observed.mean() - 1) < 0.25


class TestHeldOutRows:
    def test_a_tenth_of_the_pairs_of_every_user_and_item(self):
        users, items = jnp.arange(500)[:, None], jnp.arange(400)[None, :]
        held = np.asarray(_calibration.held_out(users, items))
        assert abs(held.mean() - 0.1) < 4 * np.sqrt(0.09 / held.size)
        for axis, n in ((0, 500), (1, 400)):
            # As variable as independent draws, between users and between items.
            assert 0.7 < held.mean(axis).var() / (0.09 / n) < 1.3
        np.testing.assert_array_equal(_calibration.held_out(users[7], items[0, 3:4]), held[7, 3:4])

    @pytest.mark.parametrize("frame", ["pairs", "uniform"])
    def test_leave_the_batch_and_the_rest_stands_for_them(self, frame):
        batch, held = _batch(frame), None
        kept, held = hold_out(batch)
        np.testing.assert_array_equal(held, [False, True, False, True, False, False])
        np.testing.assert_array_equal(kept.observed, [True, False, True, False, False, False])
        where = kept.observed if frame == "pairs" else np.ones(6, bool)
        np.testing.assert_array_equal(kept.rows.where, where)
        np.testing.assert_allclose(kept.rows.weights, np.asarray(batch.rows.weights) / 0.9, rtol=1e-6)


def _batch(frame):
    """Rows 1 and 3 are held out, 4 and 5 padding or not observed; row 5 is a pair that would be held out."""
    users, items = np.meshgrid(np.arange(N_USERS), np.arange(N_ITEMS), indexing="ij")
    held = np.asarray(_calibration.held_out(jnp.asarray(users), jnp.asarray(items)))
    out = [np.stack([users[mask], items[mask]], 1) for mask in (~held, held)]
    pairs = np.stack([out[0][0], out[1][0], out[0][9], out[1][5], out[0][50], out[1][9]]).astype(np.int32)
    users, items = jnp.asarray(pairs[:, 0]), jnp.asarray(pairs[:, 1])
    labels = jnp.asarray([1, 1, 0, 0, 0, 0], jnp.float32)
    observed = jnp.arange(6) < 4
    if frame == "uniform":
        rows = PairBatch(users, items, labels, jnp.ones(6, jnp.float32), jnp.ones(6, bool))
        return CvrBatch(rows, observed, None)
    rows = PairBatch(users, items, labels, jnp.full(6, 0.5, jnp.float32), observed)
    return CvrBatch(rows, observed, Pairs(users[::-1], items[::-1]))


def _one_expert(**settings):
    return _method(n_experts=1, order="prediction_first", **settings)


@pytest.fixture(scope="module")
def state(train):
    return jax.jit(_one_expert().init)(jax.random.key(3), train, {"min_propensity": 0.05})


class TestStep:
    """With one expert the gate is 1 whatever the noise is, and every value can be written out."""

    def test_losses(self, train, state):
        batch = _batch("pairs")
        stepped, logs = jax.jit(_one_expert().step)(state, train, batch, jax.random.key(4))
        extra = state.extra["propensity"]

        def scale(logits, experts):
            return np.asarray(logits * experts["scale"][0] + experts["shift"][0], np.float64)

        def logits(params, pairs):
            return np.asarray(_mf().apply(params, pairs.users, pairs.items), np.float64)

        rows, sample, kept, held = batch.rows, batch.population, [0, 2], [1, 3]
        propensity_model = models.additive_logistic(N_USERS, N_ITEMS)
        s = propensity_model.apply(extra["model"], rows.users, rows.items)
        p = np.maximum(_sigmoid(scale(s, extra["experts"])), 0.05)
        r, own = np.asarray(rows.labels), state.params["calibration"]

        pseudo = {
            name: _sigmoid(scale(logits(state.params["imputation"], pairs), own))
            for name, pairs in (("rows", rows), ("sample", sample))
        }
        f = logits(state.params["prediction"], rows)
        d = (_ce(f, r) - _ce(f, pseudo["rows"])) / p
        everywhere = _ce(logits(state.params["prediction"], sample), pseudo["sample"])
        want = (everywhere.sum() + (0.5 / 0.9 * d[kept]).sum()) / 6
        np.testing.assert_allclose(logs["loss/prediction"], want, rtol=1e-4)

        # The imputation's own pseudo-labels, against the stepped prediction.
        f = logits(stepped.params["prediction"], rows)
        d = _ce(f, r) - _ce(f, _sigmoid(logits(state.params["imputation"], rows)))
        want = (0.5 / 0.9 * d**2 / p)[kept].sum() / 6
        np.testing.assert_allclose(logs["loss/imputation"], want, rtol=1e-4)

        # The experts, on the held-out rows and the stepped imputation.
        values = _ce(scale(logits(stepped.params["imputation"], rows), own), r) / p
        np.testing.assert_allclose(logs["loss/calibration"], values[held].mean(), rtol=1e-4)

    @pytest.mark.parametrize("frame", ["pairs", "uniform"])
    def test_held_out_labels_reach_the_experts_alone(self, train, state, frame):
        batch, step = _batch(frame), jax.jit(_one_expert(frame=frame).step)
        held = jnp.isin(jnp.arange(6), jnp.asarray([1, 3]))
        flipped = jnp.where(held, 1 - batch.rows.labels, batch.rows.labels)
        other = batch._replace(rows=batch.rows._replace(labels=flipped))
        first, second = (step(state, train, each, jax.random.key(4))[0].params for each in (batch, other))
        for name in ("prediction", "imputation"):
            jax.tree.map(np.testing.assert_array_equal, first[name], second[name])
        assert bool(jnp.any(first["calibration"]["shift"] != second["calibration"]["shift"]))


@pytest.mark.parametrize(
    ("factory", "frame"),
    [pytest.param(methods.dce_dr, "block", marks=pytest.mark.slow), (methods.dce_tdr, "uniform")],
)
def test_the_other_frames_train(train, factory, frame):
    method = _method(factory, dim=DIM, batch_size=16, frame=frame, ratio=2)
    state = jax.jit(method.init)(jax.random.key(0), train, {})
    batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(1)))
    _, logs = jax.jit(method.step)(state, train, batch, jax.random.key(2))
    assert all(np.isfinite(value) for value in logs.values())


def test_options_are_checked():
    with pytest.raises(ValueError, match="propensity 'constant'; there are estimated, additive, released"):
        _method(propensity="constant")
    with pytest.raises(ValueError, match="propensity_calibration 'x'; there are cross_entropy, released"):
        _method(propensity_calibration="x")
    with pytest.raises(ValueError, match="variant 'x'; there are published, released"):
        _method(variant="x")
    with pytest.raises(ValueError, match="variant 'x'; there are published, squared"):
        _method(methods.dce_tdr, variant="x")
    with pytest.raises(ValueError, match="n_experts must be an integer of at least 1, got 0"):
        _method(n_experts=0)
