"""CVIB, DIB and DAMF: one step written out in numpy, what receives a gradient, and what each claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, training
from debias_jax.methods import cvr_batches
from debias_jax.methods.base import CvrBatch, PairBatch, Pairs

N_USERS, N_ITEMS, DIM = 6, 5, 3
FRAMES = ("pairs", "uniform")


def _mf(bias=False):
    return models.mf(N_USERS, N_ITEMS, dim=DIM, bias=bias, init_scale=1.0)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _ce(logits, labels):
    return -labels * np.log(_sigmoid(logits)) - (1 - labels) * np.log(_sigmoid(-logits))


def _logits(params, users, items):
    params = {name: np.asarray(value, np.float64) for name, value in params.items()}
    values = (params["user"][users] * params["item"][items]).sum(-1)
    if "user_bias" in params:
        values += params["user_bias"][users] + params["item_bias"][items] + params["global_bias"]
    return values


@pytest.fixture(scope="module")
def train():
    log = data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.4)
    return training.train_data(log)


@pytest.fixture
def batches():
    """The same labels in both frames; the last observed row is padding, and must not be read."""
    rng = np.random.default_rng(0)
    users, items = rng.integers(N_USERS, size=8), rng.integers(N_ITEMS, size=8)
    labels = np.array([1, 0, 1, 1, 0, 0, 0, 0], np.float32)
    observed = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
    rows = PairBatch(*map(jnp.asarray, (users, items, labels, np.ones(8, np.float32), np.ones(8, bool))))
    uniform = CvrBatch(rows, jnp.asarray(observed), None)
    pairs = CvrBatch(rows._replace(where=uniform.observed), uniform.observed, Pairs(rows.users, rows.items))
    return {"pairs": pairs, "uniform": uniform}


def _state_and_logs(method, train, batch, **hparams):
    state = method.init(jax.random.key(3), train, {name: jnp.float32(v) for name, v in hparams.items()})
    return state, *method.step(state, train, batch, jax.random.key(4))


class TestCvib:
    def _parts(self, state, batch):
        rows = batch.rows
        logits = _logits(state.params["prediction"], rows.users, rows.items)
        return logits, np.asarray(rows.labels), np.asarray(batch.observed)

    @pytest.mark.parametrize("frame", FRAMES)
    def test_loss_is_the_three_terms(self, train, batches, frame):
        method = methods.cvib(_mf(), frame=frame)
        state, _, logs = _state_and_logs(
            method, train, batches[frame], contrast_weight=0.3, confidence_weight=0.2
        )
        logits, labels, o = self._parts(state, batches[frame])
        q = _sigmoid(logits)
        m_o, m_u = q[o].mean(), q.mean()
        contrast = -m_o * np.log(m_u) - (1 - m_o) * np.log(1 - m_u)
        confidence = (q[o] * np.log(q[o])).mean()
        np.testing.assert_allclose(logs["contrast"], contrast, rtol=1e-5)
        want = _ce(logits, labels)[o].mean() + 0.3 * contrast + 0.2 * confidence
        np.testing.assert_allclose(logs["loss"], want, rtol=1e-5)

    def test_released_contrast_does_not_read_the_population(self, train, batches):
        method = methods.cvib(_mf(), variant="released")
        batch = batches["pairs"]
        state, stepped, logs = _state_and_logs(method, train, batch)
        logits, _, o = self._parts(state, batch)
        np.testing.assert_allclose(logs["contrast"], -np.log(_sigmoid(logits))[o].mean(), rtol=1e-5)
        elsewhere = batch._replace(population=Pairs(batch.rows.users * 0, batch.rows.items * 0))
        other = method.step(state, train, elsewhere, jax.random.key(4))[0]
        jax.tree.map(np.testing.assert_array_equal, stepped.params, other.params)

    def test_unknown_variant_is_named(self):
        with pytest.raises(ValueError, match="no_such.*published, released"):
            methods.cvib(_mf(), variant="no_such")


class TestDib:
    def test_loss_of_both_parts(self, train, batches):
        method = methods.dib(_mf())
        batch = batches["pairs"].rows
        state, stepped, logs = _state_and_logs(
            method, train, batch, combined_weight=0.2, biased_weight=0.1, weight_decay=0.5, lr=0.1
        )
        z, c = (_logits(state.params[name], batch.users, batch.items) for name in ("prediction", "biased"))
        labels, keep = np.asarray(batch.labels), np.asarray(batch.where)
        values = 0.8 * _ce(z, labels) - 0.1 * _ce(c, labels) + 0.2 * _ce(z + c, labels)
        np.testing.assert_allclose(logs["loss"], values[keep].mean(), rtol=1e-5)

        # A user without a row in the batch moves only where there is weight decay: in z.
        away = sorted(set(range(N_USERS)) - set(np.asarray(batch.users)[keep].tolist()))
        moved = {
            name: np.abs(stepped.params[name]["user"] - state.params[name]["user"])[away].max()
            for name in ("prediction", "biased")
        }
        assert moved["prediction"] > 0.05
        assert moved["biased"] == 0.0

    def test_predictions_are_of_the_unbiased_part(self, train):
        method = methods.dib(_mf())
        state = method.init(jax.random.key(0), train, {})
        users, items = jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :]
        want = _mf().apply(state.params["prediction"], users, items)
        np.testing.assert_array_equal(method.predict(state, users, items), want)

    def test_gradient_pushes_the_biased_part_away_from_the_labels(self, train, batches):
        """With z large and right, c alone decides -gamma CE(c): one step makes c worse."""
        method = methods.dib(_mf())
        batch = batches["pairs"].rows
        state, stepped, _ = _state_and_logs(
            method, train, batch, combined_weight=0.0, biased_weight=0.1, lr=1e-3
        )
        labels, keep = np.asarray(batch.labels), np.asarray(batch.where)

        def error(state):
            return _ce(_logits(state.params["biased"], batch.users, batch.items), labels)[keep].mean()

        assert error(stepped) > error(state)


class TestDamf:
    def _squares(self, params, batch):
        users, items = batch.rows.users, batch.rows.items
        f = _sigmoid(_logits(params["prediction"], users, items))
        h = _sigmoid(_logits(params["adversary"], users, items))
        return f, (h - f) ** 2

    @pytest.mark.parametrize("label_loss", ["squared", "cross_entropy"])
    @pytest.mark.parametrize("frame", FRAMES)
    def test_losses_of_both_players(self, train, batches, frame, label_loss):
        method = methods.damf(_mf(bias=True), _mf(), label_loss=label_loss, frame=frame)
        batch = batches[frame]
        state, stepped, logs = _state_and_logs(method, train, batch, discrepancy_weight=0.4)
        o, labels = np.asarray(batch.observed), np.asarray(batch.rows.labels)
        f, squares = self._squares(state.params, batch)
        pmd = squares.mean() - squares[o].mean()
        fit = (labels - f) ** 2 if label_loss == "squared" else -np.log(np.where(labels > 0, f, 1 - f))
        np.testing.assert_allclose(logs["discrepancy"], pmd, rtol=1e-4)
        np.testing.assert_allclose(logs["loss"], fit[o].mean() + 0.4 * pmd, rtol=1e-5)

        # The adversary steps second, on the stepped prediction.
        mixed = {"prediction": stepped.params["prediction"], "adversary": state.params["adversary"]}
        _, squares = self._squares(mixed, batch)
        np.testing.assert_allclose(logs["loss/adversary"], squares[o].mean() - squares.mean(), rtol=1e-4)

    def test_the_adversary_widens_the_gap_against_a_fixed_prediction(self, train, batches):
        method = methods.damf(_mf(bias=True), _mf())
        hparams = {"lr": 0.0, "adversary_lr": 0.02, "adversary_weight_decay": 0.0}
        state = method.init(jax.random.key(3), train, hparams)
        step = jax.jit(method.step)
        gaps = []
        for number in range(50):
            state, logs = step(state, train, batches["pairs"], jax.random.key(number))
            gaps.append(float(logs["discrepancy"]))
        assert gaps[-1] > gaps[0] + 0.1
        assert all(late > early - 1e-4 for early, late in zip(gaps, gaps[1:], strict=False))

    def test_the_prediction_narrows_the_gap_of_a_fixed_adversary(self, train, batches):
        method = methods.damf(_mf(bias=True), _mf())
        hparams = {"lr": 0.02, "adversary_lr": 0.0, "adversary_weight_decay": 0.0, "discrepancy_weight": 10.0}
        state = method.init(jax.random.key(3), train, hparams)
        step = jax.jit(method.step)
        gaps = []
        for number in range(30):
            state, logs = step(state, train, batches["pairs"], jax.random.key(number))
            gaps.append(float(logs["discrepancy"]))
        assert gaps[-1] < gaps[0] - 0.05

    def test_unknown_label_loss_is_named(self):
        with pytest.raises(ValueError, match="no_such.*squared, cross_entropy"):
            methods.damf(_mf(bias=True), _mf(), label_loss="no_such")


@pytest.mark.parametrize("frame", cvr_batches.FRAMES)
@pytest.mark.parametrize("name", ["cvib", "damf"])
def test_every_frame_trains(train, name, frame):
    settings = {"batch_size": 4, "frame": frame, "ratio": 2}
    if name == "cvib":
        method = methods.cvib(_mf(), **settings)
    else:
        method = methods.damf(_mf(bias=True), _mf(), **settings)
    decays = {each: 0.0 for each in method.hparams if each.endswith("weight_decay")}
    state = method.init(jax.random.key(0), train, decays)
    batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(1)))
    after, logs = method.step(state, train, batch, jax.random.key(2))
    assert np.isfinite(logs["loss"])
    for group, params in state.params.items():
        assert not np.array_equal(after.params[group]["user"], params["user"]), group
