"""What is refused when training starts: tables that do not fit the data, hyperparameters without a sense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import data, methods, models, training
from debias_jax.errors import ConfigError, DivergedError
from debias_jax.methods import base, recipes

N_USERS, N_ITEMS, DIM = 12, 9, 2


@pytest.fixture(scope="module")
def train():
    simulated = data.synthetic.generate(seed=3, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.4)
    return training.train_data(data.splits.biif(simulated, seed=0))


def mf(n_users=N_USERS, n_items=N_ITEMS, *, dim=DIM, bias=False):
    return models.mf(n_users, n_items, dim=dim, bias=bias)


def biif(model=None, *, n_users=N_USERS, dim=DIM, make=methods.biif):
    exposure = models.biif_exposure(n_users, dim=dim)
    return make(model or mf(), exposure, item_vectors=models.item_vectors)


def cjmf(model=None, *, dim=DIM):
    exposure = models.cjmf_exposure(dim=dim)
    return methods.cjmf(model or mf(), exposure, item_vectors=models.item_vectors, n_models=2)


def fit(method, train, **hparams):
    return training.fit(method, train, jax.random.key(0), hparams, epochs=1)


class TestTables:
    @pytest.mark.parametrize("n_users", [7, 30])
    @pytest.mark.parametrize("make", [methods.biif, methods.joint_opt, methods.alter_opt])
    def test_an_exposure_model_of_other_users(self, train, make, n_users):
        message = rf"'user' of the exposure model has {n_users} rows.*for 12; make the model with n_users=12"
        with pytest.raises(ConfigError, match=message):
            fit(biif(n_users=n_users, make=make), train)

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: methods.mf(mf(n_users=11)), "table 'user' of the prediction model has 11 rows"),
            (lambda: methods.mf(mf(n_items=8)), "table 'item' .* 8 rows.* item ids for 9; .* n_items=9"),
            (lambda: cjmf(mf(n_items=8)), "table 'item' of the prediction model has 8 rows"),
            (lambda: methods.expomf(mf(n_users=13)), "table 'user' of the prediction model has 13 rows"),
            (lambda: methods.wmf(mf(n_users=13)), "table 'user' of the prediction model has 13 rows"),
            (
                lambda: methods.mf(models.two_tower(N_USERS, 8, dim=DIM, hidden=(3,))),
                "table 'item' of the prediction model has 8 rows",
            ),
        ],
    )
    def test_a_model_of_other_sizes(self, train, make, words):
        with pytest.raises(ConfigError, match=words):
            fit(make(), train)

    def test_a_bias_alone(self, train):
        with pytest.raises(ConfigError, match="table 'item_bias' of the prediction model has 8 rows"):
            base.check_tables("prediction", {"item_bias": jnp.zeros(8)}, train)

    def test_other_parameters_and_data_may_have_any_shape(self, train):
        other = {"user": jnp.zeros(()), "item": {"kernel": jnp.zeros((3, 2))}, "gate": jnp.zeros(4)}
        base.check_tables("prediction", other, train)
        base.check_tables("prediction", {"item": jnp.zeros((3, 2))}, {"rows": 5})
        base.check_tables("prediction", jnp.zeros(3), train)

    @pytest.mark.parametrize("method", [biif(dim=4), cjmf(dim=4)], ids=["biif", "cjmf"])
    def test_an_exposure_model_of_another_dim(self, train, method):
        with pytest.raises(ValueError, match=r"item_vectors are of shape \(.*2\), .* of dim=4"):
            fit(method, train)


class TestRanges:
    @pytest.mark.parametrize(
        ("allowed", "inside", "outside", "text"),
        [
            (base.Range(0.0, 1.0), (0.0, 0.5, 1.0), (-1e-6, 1.1, np.nan), "[0, 1]"),
            (base.Range(0.0, 1.0, without_ends=True), (0.5,), (0.0, 1.0, np.nan), "(0, 1)"),
            (base.Range(1.0), (1.0, 1e9), (0.9, np.nan), "[1, inf)"),
        ],
    )
    def test_ends(self, allowed, inside, outside, text):
        assert all(allowed.holds(value) for value in inside)
        assert not any(allowed.holds(value) for value in outside)
        assert str(allowed) == text

    @pytest.mark.parametrize("value", [2.0, -0.1])
    @pytest.mark.parametrize(
        "method",
        [
            *(biif(make=getattr(methods, name)) for name in ("biif", "ubo", "bi_opt2", "joint_opt", "ceb")),
            biif(make=methods.alter_opt),
            cjmf(),
            *(getattr(methods, name)(mf()) for name in ("relmf", "umf", "ubpr")),
        ],
    )
    def test_least_exposure(self, train, method, value):
        with pytest.raises(ConfigError, match=rf"min_exposure is {value:g}; it must be in \[0, 1\]"):
            fit(method, train, min_exposure=value)

    @pytest.mark.parametrize(
        ("name", "bad", "text"),
        [
            ("min_propensity", 2.0, r"\[0, 1\]"),
            ("min_propensity", -1.0, r"\[0, 1\]"),
            ("observed_weight", 0.0, r"\(0, inf\)"),
            ("bias_weight", -3.0, r"\[0, 1\]"),
            ("imputation_lr", -0.1, r"\[0, inf\)"),
            ("weight_decay", -1e-3, r"\[0, inf\)"),
        ],
    )
    def test_what_means_the_same_in_every_method(self, train, name, bad, text):
        method = methods.dr_mse(mf(), mf(), models.additive_logistic(N_USERS, N_ITEMS), batch_size=32)
        with pytest.raises(ConfigError, match=rf"{name} is {bad:g}; it must be in {text}"):
            fit(method, train, **{name: bad})

    def test_weights_of_losses_may_be_zero_and_what_has_no_range_is_taken_as_it_is(self):
        method = methods.ssl_pop(mf())
        assert base.range_of(method, "c") is None
        assert base.range_of(method, "contrast_weight").holds(0.0)

    @pytest.mark.parametrize(
        ("name", "value", "text"),
        [
            ("prior_exposed", 0.2, r"\[1, inf\)"),
            ("prior_unexposed", 0.9, r"\[1, inf\)"),
            ("initial_exposure", 0.0, r"\(0, 1\)"),
            ("initial_exposure", 1.5, r"\(0, 1\)"),
            ("precision", 0.0, r"\(0, inf\)"),
            ("regularization", -1.0, r"\[0, inf\)"),
        ],
    )
    def test_of_expomf(self, train, name, value, text):
        with pytest.raises(ConfigError, match=f"hyperparameter {name} is {value:g}; it must be in {text}"):
            fit(methods.expomf(mf()), train, **{name: value})

    def test_one_run_of_several(self, train):
        keys, values = jax.random.split(jax.random.key(0), 2), np.array([0.1, 7.0])
        with pytest.raises(ConfigError, match="min_exposure is 7"):
            training.fit_many(methods.umf(mf()), train, keys, {"min_exposure": values}, epochs=1)

    @pytest.mark.parametrize(("name", "has_rate"), [("lr", True), ("outer_lr", True), ("strength", False)])
    def test_divergence_speaks_of_a_learning_rate_only_where_there_is_one(self, train, name, has_rate):
        method = recipes.em(
            init=lambda key, hparams: {"prediction": {"share": jnp.zeros(N_ITEMS)}},
            m_steps=(lambda params, expectation, data, hparams: params,),
            objective=lambda params, data, hparams: jnp.log(-hparams[name]),
            predict=lambda state, users, items: state.params["prediction"]["share"][items],
            hparams={name: 1.0},
        )
        with pytest.raises(DivergedError, match=rf"loss is nan in epoch 1 of run 0 \({name}=1\)") as caught:
            fit(method, train)
        assert ("lower the learning rate" in str(caught.value)) == has_rate
        assert ("the method has no learning rate" in str(caught.value)) != has_rate
