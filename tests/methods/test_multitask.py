"""Multi-task methods: losses written out in numpy, which tower each trains, shared and separate towers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import data, methods, models, training
from debias_jax.methods.base import CvrBatch, PairBatch, Pairs
from debias_jax.methods.cvr_batches import FRAMES
from debias_jax.models.base import Model

N_USERS, N_ITEMS, DIM = 6, 5, 3
TOWERS = ("propensity", "prediction", "imputation")
LABELS = np.array([1, 0, 1, 1, 0, 0, 0, 0], np.float32)
OBSERVED = np.array([1, 1, 1, 1, 1, 0, 0, 0], bool)
WEIGHT = 0.5  # of a row against a pair of the population


def _mf():
    return models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=1.0)


def _shared():
    """Three towers on common embeddings: <user * tower, item>."""

    def init(key):
        keys = jax.random.split(key, 3)
        return {
            "user": jax.random.normal(keys[0], (N_USERS, DIM), jnp.float32),
            "item": jax.random.normal(keys[1], (N_ITEMS, DIM), jnp.float32),
            "tower": jax.random.normal(keys[2], (DIM, 3), jnp.float32),
        }

    def apply(params, users, items, key=None):
        return (params["user"][users] * params["item"][items]) @ params["tower"]

    return Model(init, apply)


FACTORIES = {
    "multi_ips": (methods.multi_ips, TOWERS[:2]),
    "multi_dr": (methods.multi_dr, TOWERS),
    "escm2_ips": (methods.escm2_ips, TOWERS[:2]),
    "escm2_dr": (methods.escm2_dr, TOWERS),
    "ddpo": (methods.ddpo, TOWERS),
}


def _build(name, towers="separate", **settings):
    if name == "badr_mmoe":
        return methods.badr_mmoe(_shared(), **settings)
    factory, needed = FACTORIES[name]
    if towers == "shared":
        return factory(multitask_model=_shared(), towers="shared", **settings)
    return factory(*(_mf() for _ in needed), **settings)


@pytest.fixture(scope="module")
def train():
    log = data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.4)
    return training.train_data(log)


def _batch(frame):
    """Frame "uniform": eight pairs, five observed. Frame "pairs": the five, and other twelve pairs beside them."""
    rng = np.random.default_rng(0)
    users, items = (jnp.asarray(rng.integers(n, size=8)) for n in (N_USERS, N_ITEMS))
    labels, observed = jnp.asarray(LABELS), jnp.asarray(OBSERVED)
    if frame == "uniform":
        rows = PairBatch(users, items, labels, jnp.ones(8, jnp.float32), jnp.ones(8, bool))
        return CvrBatch(rows, observed, None)
    rows = PairBatch(users, items, labels, jnp.full(8, WEIGHT, jnp.float32), observed)
    seen = rng.integers(2, size=12).astype(bool)
    sample_labels = (seen * rng.integers(2, size=12)).astype(np.float32)
    sample = Pairs(
        *(jnp.asarray(rng.integers(n, size=12)) for n in (N_USERS, N_ITEMS)),
        jnp.asarray(seen),
        jnp.asarray(sample_labels),
    )
    return CvrBatch(rows, observed, sample)


def _sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def _ce(q, t):
    return -t * np.log(q) - (1 - t) * np.log(1 - q)


class Reference:
    """All losses in float64, one formula each, from the probabilities of the towers."""

    def __init__(self, params, batch, towers):
        def probabilities(pairs):
            users, items = np.asarray(pairs.users), np.asarray(pairs.items)

            def factors(tree):
                return (np.asarray(tree[n], np.float64)[ids] for n, ids in (("user", users), ("item", items)))

            if towers == "shared":
                u, i = factors(params["prediction"])
                q = _sigmoid((u * i) @ np.asarray(params["prediction"]["tower"], np.float64)).T
                return dict(zip(TOWERS, q, strict=True))
            return {
                name: _sigmoid(np.prod(list(factors(tree)), axis=0).sum(-1)) for name, tree in params.items()
            }

        self.rows = {name: q[OBSERVED] for name, q in probabilities(batch.rows).items()}
        self.sample = probabilities(batch.sample)
        self.r = LABELS[OBSERVED].astype(np.float64)
        self.o = np.asarray(batch.sample.observed, np.float64)
        self.y = np.asarray(batch.sample.labels, np.float64)
        self.s = np.asarray(batch.rows.weights, np.float64)[OBSERVED]
        self.m = self.o.size

    @property
    def error(self):
        return _ce(self.rows["prediction"], self.r)

    def imputed(self, q):
        return _ce(q["prediction"], q["imputation"])

    @property
    def ctr(self):
        return _ce(self.sample["propensity"], self.o).mean()

    @property
    def ctcvr(self):
        return _ce(self.sample["propensity"] * self.sample["prediction"], self.y).mean()

    @property
    def ips(self):
        return (self.s * self.error / self.rows["propensity"]).sum() / self.m

    @property
    def bracket(self):
        d = self.error - self.imputed(self.rows)
        return self.imputed(self.sample).sum() + (self.s * d / self.rows["propensity"]).sum()

    @property
    def imputation(self):
        d = self.error - self.imputed(self.rows)
        return (self.s * d**2 / self.rows["propensity"]).sum() / self.m

    @property
    def ddpo(self):
        pseudo = self.rows["imputation"]
        w, v = 1 / self.rows["propensity"], (1 - self.o) / (1 - self.sample["propensity"])
        inside = _ce(self.rows["prediction"], np.minimum(self.r + pseudo, 1.0))
        outside = self.imputed(self.sample)
        return {
            "imputation": _ce(pseudo, self.r).mean(),
            "click": (w * inside).sum() / w.sum(),
            "nonclick": (v * outside).sum() / v.sum(),
        }

    def losses(self, name):
        if name.endswith("ips"):
            values = {"cvr": self.ips}
        elif name == "ddpo":
            values = self.ddpo
        elif name == "badr_mmoe":
            weights = self.s / self.rows["propensity"]
            d = self.error - self.imputed(self.rows)
            mean = (weights * d).sum() / weights.sum()
            imputation = ((weights / weights.sum() * (d - mean)) ** 2).sum()
            values = {"cvr": self.bracket / weights.sum(), "imputation": imputation}
        else:
            values = {"cvr": self.bracket / self.m, "imputation": self.imputation}
        values["ctr"] = self.ctr
        if not name.startswith("multi"):
            values["ctcvr"] = self.ctcvr
        return values


CASES = [(name, towers) for name in FACTORIES for towers in ("separate", "shared")] + [
    ("badr_mmoe", "shared")
]


@pytest.mark.parametrize("frame", ["pairs", "uniform"])
@pytest.mark.parametrize(("name", "towers"), CASES)
def test_every_loss_is_its_formula(train, name, towers, frame):
    method = _build(name, towers, frame=frame)
    weights = {key: jnp.float32(0.3 + 0.2 * number) for number, key in enumerate(sorted(method.hparams))}
    given = {key: value for key, value in weights.items() if key.endswith("_weight")} | {
        "min_propensity": 0.0
    }
    state = method.init(jax.random.key(3), train, given)
    batch = _batch(frame)
    _, logs = method.step(state, train, batch, jax.random.key(4))
    want = Reference(state.params, batch, towers).losses(name)
    got = {key.removeprefix("loss/"): value for key, value in logs.items() if key != "loss"}
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, rtol=2e-5, err_msg=key)
    total = sum(
        float(state.hparams.get(f"{key}_weight", 1.0)) * value
        for key, value in want.items()
        if key != "imputation"
    )
    np.testing.assert_allclose(logs["loss"], total, rtol=2e-5)


def _moved(name, only, **settings):
    """Which towers move in a step when one loss alone has weight."""
    method = _build(name, **settings)
    log = data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.4)
    train = training.train_data(log)
    hparams = {key: 0.0 for key in method.hparams if key.endswith(("_weight", "weight_decay"))}
    if f"{only}_weight" in hparams:
        hparams[f"{only}_weight"] = 1.0
    state = method.init(jax.random.key(3), train, hparams)
    stepped = method.step(state, train, _batch("pairs"), jax.random.key(4))[0]

    def differs(tower):
        pairs = zip(jax.tree.leaves(state.params[tower]), jax.tree.leaves(stepped.params[tower]), strict=True)
        return any(bool((before != after).any()) for before, after in pairs)

    return {tower for tower in state.params if differs(tower)}


class TestGradients:
    @pytest.mark.parametrize(
        ("only", "towers"),
        [
            ("ctr", {"propensity"}),
            ("cvr", {"prediction"}),
            ("imputation", {"imputation"}),
            ("ctcvr", {"propensity", "prediction"}),
        ],
    )
    def test_of_escm2_dr(self, only, towers):
        assert _moved("escm2_dr", only) == towers

    def test_of_the_risks_with_propensities_as_variables(self):
        # The risks of multi_* weigh 1 and cannot be switched off.
        assert _moved("multi_ips", "cvr") == {"propensity", "prediction"}
        assert _moved("multi_dr", "cvr") == {"propensity", "prediction"}
        assert _moved("multi_ips", "cvr", detach_propensity=True) == {"prediction"}
        assert _moved("escm2_ips", "cvr") == {"prediction"}

    @pytest.mark.parametrize(
        ("only", "towers"),
        [
            ("imputation", {"imputation"}),
            ("click", {"prediction"}),
            ("nonclick", {"prediction"}),
        ],
    )
    def test_of_ddpo(self, only, towers):
        assert _moved("ddpo", only) == towers

    def test_ips_gradient_raises_the_propensities_of_observed_pairs(self, train):
        """Without a click loss nothing holds them: the method goes to the naive one."""
        method = _build("multi_ips")
        state = method.init(jax.random.key(3), train, {"ctr_weight": 0.0, "propensity_lr": 0.05})
        batch, step = _batch("pairs"), jax.jit(method.step)

        def propensities(state):
            p = method.exposure(state, train, batch.rows.users, batch.rows.items)
            return np.asarray(p)[OBSERVED].mean()

        start = propensities(state)
        for number in range(100):
            state, _ = step(state, train, batch, jax.random.key(number))
        assert propensities(state) > max(start, 0.9)


def test_badr_mmoe_has_the_gradient_of_escm2_dr_times_pairs_over_weights(train):
    """On one architecture, batch and parameters, the risks' gradients differ by m / W."""

    def hparams(method):
        # Plain SGD is not to be had; Adam's first moment after one step is a tenth of the gradient.
        zero = {key: 0.0 for key in method.hparams if key.endswith("_weight")}
        return zero | {"cvr_weight": 1.0, "min_propensity": 0.1}

    batch, gradients = _batch("uniform"), {}
    for name in ("badr_mmoe", "escm2_dr"):
        method = _build(name, "shared", frame="uniform")
        state = method.init(jax.random.key(3), train, hparams(method))
        stepped = method.step(state, train, batch, jax.random.key(4))[0]
        gradients[name] = optax.tree.get(stepped.opt_state["prediction"], "mu")
        p = method.exposure(state, train, batch.rows.users, batch.rows.items)
    weight = (1.0 / np.maximum(np.asarray(p), 0.1))[OBSERVED].sum()
    for leaf in ("user", "item", "tower"):
        want = np.asarray(gradients["escm2_dr"][leaf]) * len(OBSERVED) / weight
        np.testing.assert_allclose(gradients["badr_mmoe"][leaf], want, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("variant", ["detached", "corrected", "released"])
def test_badr_mmoe_takes_the_variants_of_badr(train, variant):
    """Each has a gradient of its own, which Adam's first moment shows (its first step has the sign alone)."""

    def step(**options):
        method = _build("badr_mmoe", **options)
        state = method.init(jax.random.key(3), train, {})
        after, _ = method.step(state, train, _batch("pairs"), jax.random.key(4))
        return np.concatenate([np.ravel(x) for x in jax.tree.leaves(optax.tree.get(after.opt_state, "mu"))])

    published, own = step(), step(variant=variant)
    assert np.isfinite(own).all()
    assert np.max(np.abs(own - published)) > 1e-3 * np.max(np.abs(published))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("towers", ["separate", "shared"])
@pytest.mark.parametrize("name", ["escm2_dr", "ddpo"])
def test_every_frame_trains(train, name, towers, frame):
    method = _build(name, towers, batch_size=4, frame=frame, ratio=2)
    decays = {each: 0.0 for each in method.hparams if each.endswith("weight_decay")}
    state = method.init(jax.random.key(0), train, decays)
    batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(1)))
    after, logs = method.step(state, train, batch, jax.random.key(2))
    moved = jax.tree.map(lambda old, new: bool(np.any(old != new)), state.params, after.params)
    assert all(jax.tree.leaves(moved)), moved
    if towers == "shared":
        (shared,) = state.params
        assert np.any(after.params[shared]["tower"] != state.params[shared]["tower"], axis=0).all()
    assert all(np.isfinite(value) for value in logs.values())


class TestOptions:
    def test_unknown_towers_are_named(self):
        with pytest.raises(ValueError, match="no_such.*separate, shared"):
            methods.escm2_dr(_mf(), _mf(), _mf(), towers="no_such")

    def test_missing_models_are_named(self):
        with pytest.raises(ValueError, match="'separate' needs propensity_model and imputation_model"):
            methods.escm2_dr(_mf())
        with pytest.raises(ValueError, match="'shared' needs multitask_model"):
            methods.escm2_dr(_mf(), _mf(), _mf(), towers="shared")

    def test_too_few_towers_are_counted(self, train):
        two = models.mmoe(N_USERS, N_ITEMS, dim=DIM, tasks=("ctr", "cvr"), n_experts=2, expert_hidden=(4,))
        method = methods.ddpo(multitask_model=two, towers="shared")
        state = method.init(jax.random.key(0), train, {})
        with pytest.raises(
            ValueError, match="gives 2 logits a pair, and this method needs 3: propensity, pred"
        ):
            method.predict(state, jnp.arange(2), jnp.arange(2))

    def test_unknown_variant_is_named(self):
        with pytest.raises(ValueError, match="no_such.*published"):
            methods.badr_mmoe(_shared(), variant="no_such")
