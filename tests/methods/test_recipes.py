"""The bi-level recipe: the scale of its hypergradient against Adam's epsilon."""

import math

import jax
import jax.numpy as jnp
import pytest

from debias_jax import data, training
from debias_jax.methods.recipes import Group, adam, bilevel
from debias_jax.optimizers import ADAM_EPS, sgd

ETA = 0.1
W, A = (1.0, 2.0, 0.0), (2.0, 1.0, 3.0)
N_INNER, N_OUTER = 4.0, 2.0


@pytest.fixture(scope="module")
def train():
    return training.train_data(data.synthetic.generate(seed=0, n_users=8, n_items=6))


def step(train, w=W, differentiable_optimizer=None, **options):
    """One step on L_in = sum a w^2 / 2 of four examples, L_out = sum w^2 / 2 of two; a and w have a row a number."""

    def inner_loss(params, context, batch):
        del context, batch
        return jnp.sum(params["outer"] * params["inner"] ** 2) / 2, jnp.float32(N_INNER)

    def outer_loss(params, context, batch):
        del context, batch
        return jnp.sum(params["inner"] ** 2) / 2, jnp.float32(N_OUTER)

    method = bilevel(
        Group(lambda key: jnp.asarray(w)[:, None], adam(), differentiable_optimizer=differentiable_optimizer),
        Group(lambda key: jnp.asarray(A)[:, None], adam(lr="outer_lr", weight_decay=None)),
        names=("inner", "outer"),
        inner_loss=inner_loss,
        outer_loss=outer_loss,
        batches=lambda data, key: jnp.zeros((1, 1)),
        predict=lambda state, users, items: users + items,
        hparams={"lr": 0.01, "weight_decay": 0.0, "inner_lr": ETA, "slow_lr": 0.001, "outer_lr": 0.02},
        **options,
    )
    state = method.init(jax.random.key(0), train, {})
    return method.step(state, train, jnp.zeros(1), jax.random.key(1))


class TestInnerStepOfTheGroup:
    def test_the_gradient_passes_through_the_groups_own_rule(self, train):
        """Through w - slow_lr a w, which is kept; Adam on ``lr`` moves all of w by .01 at first."""
        state, logs = step(
            train, inner_step="adam", differentiable_optimizer=lambda hparams: sgd(hparams["slow_lr"])
        )
        kept = [w - 0.001 * a * w for w, a in zip(W, A, strict=True)]
        assert state.params["inner"][:, 0].tolist() == pytest.approx(kept, rel=1e-6)
        own = [-0.001 * w * after for w, after in zip(W, kept, strict=True)]
        assert float(logs["hypergradient_norm"]) == pytest.approx(math.hypot(*own), rel=1e-5)

    def test_a_group_without_one_is_refused(self, train):
        with pytest.raises(ValueError, match=r"inner group 'inner', which has no\s+differentiable_optimizer"):
            step(train, inner_step="adam")


class TestHypergradientScale:
    """dL_out / da_j = -(eta / n_in) w_j w_j (1 - eta a_j / n_in) / n_out, with n = 1 where losses are summed."""

    @pytest.mark.parametrize(("reduction", "n_in", "n_out"), [("sum", 1.0, 1.0), ("mean", 4.0, 2.0)])
    def test_root_mean_square_of_the_coordinates_that_the_step_reached(self, train, reduction, n_in, n_out):
        _, logs = step(train, reduction=reduction)
        own = [-(ETA / n_in) * w * w * (1 - ETA * a / n_in) / n_out for w, a in zip(W, A, strict=True)]
        assert own[2] == 0.0
        norm = math.sqrt(own[0] ** 2 + own[1] ** 2)
        assert float(logs["hypergradient_norm"]) == pytest.approx(norm, rel=1e-5)
        assert float(logs["hypergradient_over_eps"]) == pytest.approx(norm / math.sqrt(2) / 1e-8, rel=1e-5)

    def test_nothing_reached(self, train):
        assert float(step(train, w=(0.0, 0.0, 0.0))[1]["hypergradient_over_eps"]) == 0.0

    @pytest.mark.parametrize(("w", "share"), [(1.0, 1.0), (1e-2, 1.0), (1e-5, 0.001)])
    def test_it_tells_how_far_adam_moves(self, train, w, share):
        """Of a first step: outer_lr g / (g + eps), g = eta w^2 (1 - eta a) with a = 2, at .8e-1, .8e-5, .8e-11."""
        state, logs = step(train, w=(w, 0.0, 0.0))
        ratio = float(logs["hypergradient_over_eps"])
        assert ratio == pytest.approx(ETA * w * w * 0.8 / ADAM_EPS, rel=1e-5)
        moved = float(state.params["outer"][0, 0]) - A[0]
        assert moved == pytest.approx(0.02 * ratio / (ratio + 1), rel=1e-2)
        assert moved == pytest.approx(0.02 * share, rel=0.25)
