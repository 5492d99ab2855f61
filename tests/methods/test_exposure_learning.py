"""CEB, UBO and Biif's outer batch: one step of each, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference.steps import close, pairs_of

from debias_jax import data, losses, methods, models, optimizers, training
from debias_jax.errors import ConfigError

N_USERS, N_ITEMS, DIM = 24, 18, 4


@pytest.fixture(scope="module")
def log():
    simulated = data.synthetic.generate(seed=3, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3)
    return data.splits.biif(simulated, seed=0)


@pytest.fixture(scope="module")
def train(log):
    return training.train_data(log)


class TestUbo:
    @pytest.mark.parametrize("frame", ["clicks_and_negatives", "clicks_and_uniform_pairs", "observed"])
    def test_it_trains_on_all_rows_of_biif_but_the_probably_exposed(self, log, train, frame):
        arguments = (models.mf(N_USERS, N_ITEMS, dim=DIM), models.biif_exposure(N_USERS, dim=DIM))
        options = {"item_vectors": models.item_vectors, "batch_size": 32, "frame": frame}
        key = jax.random.key(4)
        whole, rest = (
            make(*arguments, **options).batches(train, key) for make in (methods.biif, methods.ubo)
        )
        exposed = set(
            zip(log.probably_exposed.users.tolist(), log.probably_exposed.items.tolist(), strict=True)
        )
        rows = pairs_of(whole.users, whole.items, whole.where)
        assert exposed & set(rows)
        assert pairs_of(rest.users, rest.items, rest.where) == [pair for pair in rows if pair not in exposed]

    def test_pairs_that_are_not_in_the_log_hold_nothing_out(self, train):
        """A set of a random policy, say."""
        logged = set(zip(np.asarray(train.users).tolist(), np.asarray(train.items).tolist(), strict=True))
        user, item = next((u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (u, i) not in logged)
        one = train._replace(
            exposed_users=jnp.array([user], jnp.int32),
            exposed_items=jnp.array([item], jnp.int32),
            exposed_labels=jnp.zeros(1),
        )
        method = methods.ubo(
            models.mf(N_USERS, N_ITEMS, dim=DIM),
            models.biif_exposure(N_USERS, dim=DIM),
            item_vectors=models.item_vectors,
            frame="observed",
        )
        batch = method.batches(one, jax.random.key(0))
        assert int(batch.where.sum()) == len(train.users)


class TestOuterBatch:
    """A step of Biif on a draw of the "probably exposed" pairs."""

    def step(self, train, known=None, number=0, **options):
        """From one state and one inner batch; ``known`` replaces the data that the outer loss reads."""
        method = methods.biif(
            models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7),
            models.biif_exposure(N_USERS, dim=DIM, init_scale=0.7),
            item_vectors=models.item_vectors,
            batch_size=32,
            **options,
        )
        state = method.init(jax.random.key(1), train, {})
        batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))
        return method.step(state, train if known is None else known, batch, jax.random.key(number))

    @pytest.mark.parametrize("exposed", ["all", "positives"])
    def test_one_drawn_pair_stands_for_all(self, train, exposed):
        """The loss is n times one pair's own, and n draws in the mean come to the loss of all."""
        n, columns = len(train.exposed_users), ("exposed_users", "exposed_items", "exposed_labels")

        @jax.jit
        def alone(pair):
            one = {name: jnp.take(getattr(train, name), pair[None]) for name in columns}
            return self.step(train, train._replace(**one), exposed=exposed)[1]["outer_loss"]

        @jax.jit
        def drawn(number):
            return self.step(train, number=number, exposed=exposed, outer_batch_size=1)[1]["outer_loss"]

        values = np.asarray(jax.lax.map(alone, jnp.arange(n)), np.float64)
        draws = np.asarray(jax.lax.map(drawn, jnp.arange(2000)), np.float64)
        assert np.isclose(draws[:, None], n * values, rtol=1e-4, atol=1e-5).any(axis=1).all()
        assert abs(draws.mean() - values.sum()) < 4 * n * values.std() / np.sqrt(draws.size)
        whole = float(self.step(train, exposed=exposed)[1]["outer_loss"])
        assert values.sum() == pytest.approx(whole, rel=1e-4)

    def test_as_many_as_there_are_is_all_of_them(self, train):
        whole, all_drawn = self.step(train), self.step(train, outer_batch_size=len(train.exposed_users))
        jax.tree.map(np.testing.assert_array_equal, whole, all_drawn)

    def test_a_batch_of_none_is_refused(self, train):
        with pytest.raises(ValueError, match="outer_batch_size must be an integer of at least 1, got 0"):
            self.step(train, outer_batch_size=0)


class TestCeb:
    """Its loss is lambda_pred times the likelihood of clicks and lambda_w times the risk."""

    def step(self, train, clip=0.0, **options):
        method = methods.ceb(
            models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7),
            models.biif_exposure(N_USERS, dim=DIM, init_scale=0.7),
            item_vectors=models.item_vectors,
            batch_size=64,
            **options,
        )
        hparams = {
            "lr": 0.01,
            "outer_lr": 0.02,
            "likelihood_weight": 3.0,
            "risk_weight": 0.5,
            "min_exposure": clip,
        }
        state = method.init(jax.random.key(1), train, hparams)
        batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))
        exposure = method.exposure(state, train, batch.users, batch.items)
        logits = method.predict(state, batch.users, batch.items)
        return *method.step(state, train, batch, jax.random.key(2)), state, batch, logits, exposure

    @pytest.mark.parametrize("options", [{}, {"risk": "pu"}, {"risk": "added_positives"}])
    def test_loss_by_hand(self, train, options):
        _, logs, _, batch, logits, m = self.step(train, **options)
        p = jax.nn.sigmoid(logits)
        zero = {
            "weighted": -(1 - p) / (1 - m * p) * jnp.log1p(-p),
            "pu": -jnp.log1p(-p),
            "added_positives": -((1 - p) * jnp.log1p(-p) + p * (1 - m) * jnp.log(p)) / (1 - m * p),
        }
        click = {
            "weighted": -jnp.log(p) / m,
            "pu": -jnp.log(p) / m - (1 - 1 / m) * jnp.log1p(-p),
            "added_positives": -jnp.log(p),
        }
        risk = options.get("risk", "weighted")
        likelihood = jnp.where(batch.labels > 0, -jnp.log(m * p), -jnp.log1p(-m * p))
        values = 3.0 * likelihood + 0.5 * jnp.where(batch.labels > 0, click[risk], zero[risk])
        assert float(logs["loss"]) == pytest.approx(float(values[batch.where].mean()), rel=1e-4)

    def test_with_an_exposure_clipped_to_1_all_is_the_cross_entropy_of_clicks(self, train):
        new, logs, state, batch, logits, exposure = self.step(train, clip=1.0)
        p = np.asarray(jax.nn.sigmoid(logits), np.float64)
        values = np.where(batch.labels > 0, -np.log(p), -np.log1p(-p))[np.asarray(batch.where)]
        assert float(logs["loss"]) == pytest.approx(3.5 * values.mean(), rel=1e-5)
        jax.tree.map(np.testing.assert_array_equal, new.params["exposure"], state.params["exposure"])
        assert float(exposure.max()) < 1.0, "what is estimated is not clipped"

    def test_detached_weights_leave_the_exposure_to_the_likelihood(self, train):
        new, _, state, batch, logits, _ = self.step(train, detach_weights=True)

        def likelihood(exposure):
            vectors = state.params["prediction"]["item"][batch.items]
            model = models.biif_exposure(N_USERS, dim=DIM)
            m = model.apply(exposure, batch.users, vectors, train.popularity[batch.items])
            return 3.0 * losses.umf(logits, batch.labels, exposure=m, where=batch.where)

        old, tx = state.params["exposure"], optimizers.adam(0.02)
        updates, _ = tx.update(jax.grad(likelihood)(old), tx.init(old), old)
        close(new.params["exposure"], optax.apply_updates(old, updates))
        # Adam's first step is a sign; its moments tell the gradients apart.
        attached = self.step(train)[0].opt_state["exposure"]
        apart = jax.tree.map(
            lambda a, b: bool(jnp.any(abs(a - b) > 1e-4)), attached, new.opt_state["exposure"]
        )
        assert any(jax.tree.leaves(apart))

    @pytest.mark.parametrize("risk", ["weighted", "pu"])
    def test_a_released_form_that_would_change_nothing_is_refused(self, train, risk):
        with pytest.raises(ConfigError, match=f"risk='added_positives', and the risk is '{risk}'"):
            self.step(train, risk=risk, variant="released")

    @pytest.mark.parametrize("options", [{"risk": "no_such"}, {"variant": "no_such"}])
    def test_unknown_options_are_named(self, train, options):
        with pytest.raises(ValueError, match="no_such"):
            self.step(train, **options)
