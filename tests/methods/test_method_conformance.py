"""Every method of ``methods.__all__`` goes through the same matrix; a new one adds a row to ``BUILD``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, training
from debias_jax.errors import ConfigError
from debias_jax.methods._sequence_losses import LOSSES
from debias_jax.methods.base import TrainState, range_of

N_USERS, N_ITEMS, DIM = 24, 18, 4


def _mf():
    return models.mf(N_USERS, N_ITEMS, dim=DIM)


def _exposure():
    return models.biif_exposure(N_USERS, dim=DIM)


def _with_exposure(factory):
    return lambda: factory(_mf(), _exposure(), item_vectors=models.item_vectors, batch_size=32)


def _with_propensity(factory):
    return lambda: factory(_mf(), models.additive_logistic(N_USERS, N_ITEMS), batch_size=16)


def _mmoe():
    return models.mmoe(N_USERS, N_ITEMS, dim=DIM, n_experts=2, expert_hidden=(8,), tower_hidden=(4,))


def _with_towers(factory):
    return lambda: factory(_mf(), models.additive_logistic(N_USERS, N_ITEMS), _mf(), batch_size=16)


def _with_calibration(factory):
    logistic = models.additive_logistic(N_USERS, N_ITEMS, dim=DIM)
    return lambda: factory(_mf(), _mf(), logistic, user_vectors=models.user_vectors, batch_size=16)


def _doubly_robust(factory):
    return lambda: factory(_mf(), _mf(), models.additive_logistic(N_USERS, N_ITEMS), batch_size=16)


def _auto_debias(**options):
    vectors = {"user_vectors": models.user_vectors, "item_vectors": models.item_vectors}
    biased = models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True)
    return lambda: methods.auto_debias(biased, **vectors, block=(10, 8), **options)


def _cjmf():
    item_exposure = models.cjmf_exposure(dim=DIM)
    return methods.cjmf(_mf(), item_exposure, item_vectors=models.item_vectors, n_models=3, batch_size=48)


BUILD = {
    "alter_opt": _with_exposure(methods.alter_opt),
    "auto_debias": _auto_debias(),
    "badr": _doubly_robust(methods.badr),
    "badr_mmoe": lambda: methods.badr_mmoe(_mmoe(), batch_size=16),
    "bi_opt2": _with_exposure(methods.bi_opt2),
    "biif": _with_exposure(methods.biif),
    "bir": lambda: methods.bir(_mf(), batch_size=16),
    "bpr": lambda: methods.bpr(_mf(), batch_size=16),
    "ceb": _with_exposure(methods.ceb),
    "cjmf": _cjmf,
    "cvib": lambda: methods.cvib(_mf(), batch_size=16),
    "d_dr": _doubly_robust(methods.d_dr),
    "damf": lambda: methods.damf(models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True), _mf(), batch_size=16),
    "dce_dr": _with_calibration(methods.dce_dr),
    "dce_tdr": _with_calibration(methods.dce_tdr),
    "ddpo": _with_towers(methods.ddpo),
    "dib": lambda: methods.dib(_mf(), batch_size=16),
    "dr_bias": _doubly_robust(methods.dr_bias),
    "dr_jl": _doubly_robust(methods.dr_jl),
    "dr_mse": _doubly_robust(methods.dr_mse),
    "dr_mse_gpl": _doubly_robust(methods.dr_mse_gpl),
    "eib": lambda: methods.eib(_mf(), _mf(), batch_size=16),
    "escm2_dr": _with_towers(methods.escm2_dr),
    "escm2_ips": _with_propensity(methods.escm2_ips),
    "expomf": lambda: methods.expomf(_mf(), chunk_size=10),
    "g_tower": lambda: methods.g_tower(_mf(), batch_size=16),
    "ips": _with_propensity(methods.ips),
    "joint_opt": _with_exposure(methods.joint_opt),
    "mean_logit": methods.mean_logit,
    "mf": lambda: methods.mf(_mf(), batch_size=32),
    "mf_bias": lambda: methods.mf_bias(models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True), batch_size=16),
    "mns": lambda: methods.mns(_mf(), batch_size=16, n_uniform=8),
    "mrdr": _doubly_robust(methods.mrdr),
    "multi_dr": _with_towers(methods.multi_dr),
    "multi_ips": _with_propensity(methods.multi_ips),
    "next_item": lambda: methods.next_item(
        models.gru4rec(N_ITEMS, dim=DIM, max_len=6), lengths=(6,), batch_size=8
    ),
    "relmf": lambda: methods.relmf(_mf(), batch_size=32),
    "sndr": _doubly_robust(methods.sndr),
    "snips": _with_propensity(methods.snips),
    "ssl": lambda: methods.ssl(_mf(), batch_size=16),
    "ssl_pop": lambda: methods.ssl_pop(_mf(), batch_size=16),
    "stable_dr": _doubly_robust(methods.stable_dr),
    "tdr_cl": _doubly_robust(methods.tdr_cl),
    "ubo": _with_exposure(methods.ubo),
    "ubpr": lambda: methods.ubpr(_mf(), batch_size=16),
    "umf": lambda: methods.umf(_mf(), batch_size=32),
    "wmf": lambda: methods.wmf(_mf(), chunk_size=10),
    "xir": lambda: methods.xir(_mf(), batch_size=16),
}


def test_every_method_has_a_row():
    assert sorted(BUILD) == sorted(methods.__all__)


UNBOUNDED = {"c"}
"""Hyperparameters of which every number is sense: c of NCE shifts scores."""


@pytest.mark.parametrize("name", methods.__all__)
def test_every_hyperparameter_has_a_range(name):
    built = [BUILD[name]()]
    if name == "next_item":
        sized = {"dim": DIM, "max_len": 6}
        built = [methods.next_item(models.gru4rec(N_ITEMS, **sized), loss=loss) for loss in LOSSES]
        built.append(methods.next_item(models.bert4rec(N_ITEMS, **sized)))
    elif name == "ssl_pop":
        built.append(methods.ssl_pop(_mf(), batch_size=16, cache_size=8))
    for method in built:
        assert {each for each in method.hparams if range_of(method, each) is None} <= UNBOUNDED
        # And its default lies in it.
        for each, value in method.hparams.items():
            assert each in UNBOUNDED or range_of(method, each).holds(value), each


@functools.cache
def _log():
    log = data.synthetic.generate(seed=3, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3)
    return data.splits.biif(log, seed=0)


@functools.cache
def _data(name):
    return training.data_for(_method(name), _log())


@functools.cache
def _method(name):
    return BUILD[name]()


CLOSED_FORM = ("expomf", "mean_logit", "wmf")
"""Methods whose steps draw nothing: the seed decides where they start, if anything."""

WITHOUT_EXPOSURE = (
    *("auto_debias", "bpr", "cvib", "damf", "dib", "eib", "mean_logit", "mf", "mf_bias", "wmf"),
    *("bir", "g_tower", "mns", "next_item", "ssl", "ssl_pop", "xir"),
)


@functools.cache
def _epochs(name, n_epochs):
    """One compiled program a method and length; ``traces`` grows with each compilation."""
    method, traces = _method(name), []

    def run(state, train, key, first_epoch):
        traces.append(first_epoch)
        return training.train_epochs(method, state, train, key, first_epoch, n_epochs=n_epochs)

    return jax.jit(run), traces


@functools.cache
def _init(name):
    return jax.jit(_method(name).init)


def _start_with(name, **changed):
    """The first state; every hyperparameter is given, so that all calls are one compiled program."""
    given = {**_method(name).hparams, **changed}
    return _init(name)(
        jax.random.key(0), _data(name), {key: jnp.asarray(value, jnp.float32) for key, value in given.items()}
    )


@functools.cache
def _start(name):
    return _start_with(name)


def _train(name, state, first_epoch, n_epochs, seed=7):
    return _epochs(name, n_epochs)[0](state, _data(name), jax.random.key(seed), jnp.int32(first_epoch))


def _structure(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


RESUMED = (
    *("mean_logit", "mf", "bpr", "biif", "auto_debias", "cjmf"),
    *("badr", "dce_tdr", "damf", "ddpo"),
    *("g_tower", "xir"),
    *("expomf", "next_item"),
)
"""One method a recipe, a frame and a kind of state that is carried from step to step: a program of twice the length
takes long to compile."""

RESUMED_AS = {
    **dict.fromkeys(("cvib", "mf_bias", "relmf", "umf"), "mf"),
    "ubpr": "bpr",
    **dict.fromkeys(("alter_opt", "bi_opt2", "ceb", "joint_opt", "ubo"), "biif"),
    "wmf": "expomf",
    **dict.fromkeys(("badr_mmoe", "dib", "escm2_dr", "escm2_ips", "multi_dr", "multi_ips"), "ddpo"),
    **dict.fromkeys(("dr_mse_gpl", "stable_dr"), "ddpo"),
    **dict.fromkeys(("dr_bias", "dr_jl", "dr_mse", "eib", "mrdr", "sndr", "tdr_cl", "d_dr"), "badr"),
    **dict.fromkeys(("ips", "snips"), "badr"),
    "dce_dr": "dce_tdr",
    **dict.fromkeys(("bir", "ssl", "ssl_pop", "mns"), "xir"),
}
"""The others, each with one whose step carries as many groups of parameters, and other state if it carries any."""


def test_every_method_is_resumed_or_like_one_that_is():
    assert sorted([*RESUMED, *RESUMED_AS]) == sorted(methods.__all__)
    assert set(RESUMED_AS.values()) <= set(RESUMED)


def _carried(name):
    """How many groups of parameters a method has, and whether it carries state besides them."""
    state = _shapes(name)[0]
    return len(state.params), bool(jax.tree.leaves(state.extra))


@functools.cache
def _shapes(name):
    """The first state, and that after a step; traced, not compiled."""
    method, train = _method(name), _data(name)
    hparams = {key: jnp.asarray(value, jnp.float32) for key, value in method.hparams.items()}
    key = jax.random.key(0)
    state = jax.eval_shape(method.init, key, train, hparams)
    batches = jax.eval_shape(method.batches, train, key)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
    return state, jax.eval_shape(method.step, state, train, batch, key)[0]


@pytest.mark.parametrize("name", methods.__all__)
def test_a_step_keeps_shapes_and_types(name):
    """So that a loop is one program, whatever is trained in it."""
    before, after = _shapes(name)
    assert _structure(after) == _structure(before)


def test_methods_are_like_those_that_are_resumed():
    for name, other in RESUMED_AS.items():
        (groups, extra), (groups_of_other, extra_of_other) = _carried(name), _carried(other)
        assert groups <= groups_of_other and extra <= extra_of_other, name


# The others, whose losses tests of their own write out, run in ``make test-all``.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in RESUMED_AS else ()) for name in methods.__all__],
)
class TestMethod:
    def test_state_is_a_pytree_of_arrays_with_stable_types(self, name):
        state = _start(name)
        assert isinstance(state, TrainState)
        trained, logs = _train(name, state, 0, 2)
        assert _structure(trained) == _structure(state)
        assert all(log.shape == (2,) and bool(jnp.all(jnp.isfinite(log))) for log in logs.values())
        assert "loss" in logs

    def test_the_second_call_does_not_recompile(self, name):
        state = _train(name, _start(name), 0, 2)[0]
        before = len(_epochs(name, 2)[1])
        assert before > 0
        _train(name, state, 2, 2)
        assert len(_epochs(name, 2)[1]) == before

    def test_seed_decides(self, name):
        a, b, c = (_train(name, _start(name), 0, 2, seed=seed)[0].params for seed in (1, 1, 2))
        jax.tree.map(np.testing.assert_array_equal, a, b)
        if name not in CLOSED_FORM:
            assert any(jax.tree.leaves(jax.tree.map(lambda x, y: bool(jnp.any(x != y)), a, c)))

    def test_predict_broadcasts_users_against_items(self, name):
        method, state = _method(name), _start(name)
        if method.frame is not None:
            pytest.skip("it scores all items after a history: test_next_item.py")
        users, items = jnp.arange(5, dtype=jnp.int32), jnp.arange(7, dtype=jnp.int32)
        table = method.predict(state, users[:, None], items[None, :])
        assert table.shape == (5, 7)
        # A block adds up in another order: terms of about 0.01 that cancel leave their rounding.
        pairs = method.predict(state, users, users)
        np.testing.assert_allclose(pairs, jnp.diagonal(table[:, :5]), rtol=1e-6, atol=1e-8)

    def test_hyperparameters_are_leaves_of_the_state_and_unknown_ones_are_named(self, name):
        assert set(_start(name).hparams) == set(_method(name).hparams)
        with pytest.raises(ConfigError, match="no_such"):
            _method(name).init(jax.random.key(0), _data(name), {"no_such": 1.0})

    def test_loss_falls(self, name):
        if name == "mean_logit":
            pytest.skip("closed form: there is no loss to follow")
        state = _start_with(name, **{"lr": 0.02} if "lr" in _method(name).hparams else {})
        losses = []
        for epoch in range(0, 30, 2):
            state, logs = _train(name, state, epoch, 2)
            losses.append(float(logs["loss"].mean()))
        assert losses[-1] < losses[0]

    def test_exposure_is_a_probability(self, name):
        method = _method(name)
        if method.exposure is None:
            assert name in WITHOUT_EXPOSURE
            return
        users, items = jnp.meshgrid(jnp.arange(N_USERS), jnp.arange(N_ITEMS), indexing="ij")
        exposure = method.exposure(_start(name), _data(name), users, items)
        assert exposure.shape == (N_USERS, N_ITEMS)
        assert bool(jnp.all((exposure >= 0) & (exposure <= 1)))


@pytest.mark.parametrize("name", RESUMED)
def test_two_and_two_epochs_are_four_to_the_bit(name):
    at_once = _train(name, _start(name), 0, 4)[0]
    in_parts = _train(name, _train(name, _start(name), 0, 2)[0], 2, 2)[0]
    jax.tree.map(np.testing.assert_array_equal, at_once, in_parts)
