"""What single methods promise beyond the conformance suite."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import data, hypergrad, losses, methods, models, optimizers, training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError
from debias_jax.methods import batching
from debias_jax.methods._propensity import fit_propensity

N_USERS, N_ITEMS, DIM = 24, 18, 4


@pytest.fixture(scope="module")
def log():
    return data.splits.biif(
        data.synthetic.generate(seed=3, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.3), seed=0
    )


@pytest.fixture(scope="module")
def train(log):
    return training.train_data(log)


def _first_batch(method, train):
    return jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))


def _pairs(batch):
    keep = np.asarray(batch.where).ravel()
    return np.asarray(batch.users).ravel()[keep], np.asarray(batch.items).ravel()[keep], keep


def _l2(train, batch, detach=True):
    """The summed L2 with Biif's exposure, written from eq. 10 and 14."""

    def l2(relevance, exposure):
        logits = jnp.sum(relevance["user"][batch.users] * relevance["item"][batch.items], axis=-1)
        vectors = relevance["item"][batch.items]
        vectors = jax.lax.stop_gradient(vectors) if detach else vectors
        gate = jax.nn.sigmoid(vectors @ exposure["gate_weight"] + exposure["gate_bias"])
        affinity = jax.nn.sigmoid(jnp.sum(exposure["user"][batch.users] * vectors, axis=-1))
        m = gate * affinity + (1 - gate) * train.popularity[batch.items]
        p = jax.nn.sigmoid(logits)
        values = -jnp.where(batch.labels > 0, jnp.log(m * p), jnp.log(1 - m * p))
        return jnp.sum(jnp.where(batch.where, values, 0.0))

    return l2


class TestFrames:
    def test_observed_pairs_visits_every_row_once(self, log, train):
        batch = batching.observed_pairs(batch_size=16)(train, jax.random.key(0))
        users, items, keep = _pairs(batch)
        assert sorted(zip(users, items, strict=True)) == sorted(
            zip(log.train.users, log.train.items, strict=True)
        )
        by_pair = dict(
            zip(zip(log.train.users, log.train.items, strict=True), log.train.propensities, strict=True)
        )
        logged = np.asarray(batch.propensities).ravel()[keep]
        np.testing.assert_array_equal(logged, [by_pair[pair] for pair in zip(users, items, strict=True)])

    def test_clicks_and_negatives_holds_clicks_zeros_and_known_negatives(self, log, train):
        batch = batching.clicks_and_negatives(batch_size=16, n_negatives=3)(train, jax.random.key(0))
        users, items, keep = _pairs(batch)
        labels = np.asarray(batch.labels).ravel()[keep]
        clicks = set(zip(log.train.positives.users, log.train.positives.items, strict=True))
        rows = list(zip(users, items, strict=True))
        assert sorted(pair for pair, label in zip(rows, labels, strict=True) if label) == sorted(clicks)
        zeros = [pair for pair, label in zip(rows, labels, strict=True) if not label]
        assert not clicks & set(zeros)
        exposed = log.probably_exposed
        known = {
            (u, i) for u, i, y in zip(exposed.users, exposed.items, exposed.labels, strict=True) if y == 0
        }
        assert known and known <= set(zeros)

    def test_clicks_and_uniform_pairs_estimates_the_whole_matrix_without_bias(self, train):
        """E of the weighted epoch mean of any function of (u, i, Y) is its mean over all pairs."""
        clicked = np.zeros((N_USERS, N_ITEMS), bool)
        clicked[np.asarray(train.clicks[0]), np.asarray(train.clicks[1])] = True
        values = np.random.default_rng(0).normal(size=(2, N_USERS, N_ITEMS)).astype(np.float32)
        truth = np.where(clicked, values[1], values[0]).mean()
        frame = jax.jit(batching.clicks_and_uniform_pairs(batch_size=64, n_negatives=5))

        def estimate(seed):
            batch = frame(train, jax.random.key(seed))
            picked = jnp.asarray(values)[batch.labels.astype(jnp.int32), batch.users, batch.items]
            total = jnp.sum(jnp.where(batch.where, batch.weights * picked, 0.0))
            return float(total / jnp.sum(jnp.where(batch.where, batch.weights, 0.0)))

        draws = np.array([estimate(seed) for seed in range(200)])
        standard_error = draws.std(ddof=1) / np.sqrt(len(draws))
        assert abs(draws.mean() - truth) < 4 * standard_error
        assert standard_error < 0.02

    def test_a_click_that_was_logged_twice_is_one_pair_of_the_matrix(self, train):
        twice = train._replace(clicks=tuple(jnp.append(ids, ids[0]) for ids in train.clicks))
        batch = batching.clicks_and_uniform_pairs(batch_size=64)(twice, jax.random.key(0))
        weights = np.asarray(batch.weights * batch.where)
        clicked, n_clicks = np.asarray(batch.labels) > 0, len(train.clicks[0])
        of_pair = (batch.users == train.clicks[0][0]) & (batch.items == train.clicks[1][0]) & clicked
        of_others = weights[clicked & ~of_pair & np.asarray(batch.where)]
        assert (of_pair & batch.where).sum() == 2
        np.testing.assert_allclose(weights[of_pair].sum(), of_others[0], rtol=1e-6)
        # All weights over that of one click: the pairs of the matrix.
        assert weights.sum() / of_others[0] == pytest.approx(N_USERS * N_ITEMS, rel=1e-5)
        assert weights[clicked].sum() / of_others[0] == pytest.approx(n_clicks, rel=1e-5)

    def test_unknown_frame_is_named(self):
        with pytest.raises(ValueError, match="no_such.*clicks_and_negatives"):
            batching.pair_frame("no_such", batch_size=2, n_negatives=1)

    @pytest.mark.parametrize("size", ["batch_size", "n_negatives"])
    @pytest.mark.parametrize("name", ["mf", "relmf", "umf", "bpr", "ubpr"])
    def test_sizes_are_checked_where_a_method_is_made(self, name, size):
        with pytest.raises(ConfigError, match=f"{size} must be an integer of at least 1, got 0"):
            getattr(methods, name)(models.mf(3, 4, dim=2), **{size: 0})


class TestBiif:
    def _biif(self, **options):
        return methods.biif(
            models.mf(N_USERS, N_ITEMS, dim=DIM),
            models.biif_exposure(N_USERS, dim=DIM),
            item_vectors=models.item_vectors,
            batch_size=64,
            **options,
        )

    def test_one_step_is_algorithm_1_written_out(self, train):
        """(i) Adam on the mean L2; (ii) Adam on the gradient of the summed L_val through an SGD step."""
        method = self._biif()
        hparams = {"lr": 0.01, "outer_lr": 0.02, "inner_lr": 0.003, "weight_decay": 0.1}
        state = method.init(jax.random.key(1), train, hparams)
        batch = _first_batch(method, train)
        relevance, exposure = state.params["prediction"], state.params["exposure"]

        l2 = _l2(train, batch)

        def l_val(exposure):
            grads = jax.grad(l2)(relevance, exposure)
            stepped = jax.tree.map(lambda w, g: w - 0.003 * g, relevance, grads)
            u, i = train.exposed_users, train.exposed_items
            logits = jnp.sum(stepped["user"][u] * stepped["item"][i], axis=-1)
            return jnp.sum(
                jnp.where(train.exposed_labels > 0, jax.nn.softplus(-logits), jax.nn.softplus(logits))
            )

        count = jnp.sum(batch.where)
        grads = jax.tree.map(lambda g: g / count, jax.grad(l2)(relevance, exposure))
        tx = optimizers.adam(0.01, weight_decay=0.1)
        want_relevance = optax.apply_updates(relevance, tx.update(grads, tx.init(relevance), relevance)[0])
        hyper = jax.grad(l_val)(exposure)
        tx = optimizers.adam(0.02)
        want_exposure = optax.apply_updates(exposure, tx.update(hyper, tx.init(exposure), exposure)[0])

        got, logs = method.step(state, train, batch, jax.random.key(2))
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)  # noqa: E731
        jax.tree.map(close, got.params["prediction"], want_relevance)
        jax.tree.map(close, got.params["exposure"], want_exposure)
        np.testing.assert_allclose(logs["outer_loss"], l_val(exposure), rtol=1e-5)

    def test_mean_reduction_divides_the_hypergradient_by_both_counts(self, train):
        batch = _first_batch(self._biif(), train)
        norms = []
        for reduction in ("sum", "mean"):
            method = self._biif(reduction=reduction)
            state = method.init(jax.random.key(1), train, {})
            norms.append(float(method.step(state, train, batch, jax.random.key(2))[1]["hypergradient_norm"]))
        # Mean losses scale the inner step too; at eta = 1e-3 the stepped residuals differ by far less than 1 %.
        expected = float(jnp.sum(batch.where)) * train.exposed_labels.shape[0]
        assert norms[0] / norms[1] == pytest.approx(expected, rel=0.02)

    def test_inner_adam_keeps_its_step_and_its_first_hypergradient_is_near_zero(self, train):
        batch = _first_batch(self._biif(), train)
        norms = {}
        for inner_step in ("virtual_sgd", "adam", "sgd"):
            method = self._biif(inner_step=inner_step)
            state = method.init(jax.random.key(1), train, {"lr": 1e-3, "inner_lr": 1e-3})
            new, logs = method.step(state, train, batch, jax.random.key(2))
            norms[inner_step] = float(logs["hypergradient_norm"])
            moved = [
                bool(jnp.any(a != b))
                for a, b in zip(
                    jax.tree.leaves(new.params["prediction"]),
                    jax.tree.leaves(state.params["prediction"]),
                    strict=True,
                )
            ]
            assert all(moved)
        assert norms["adam"] < 1e-2 * norms["virtual_sgd"]
        assert norms["sgd"] == pytest.approx(norms["virtual_sgd"], rel=1e-6)

    def test_a_clipped_exposure_enters_the_loss_and_gets_no_gradient_below(self, train):
        method = self._biif()
        for clip in (0.4, 1.0):
            state = method.init(jax.random.key(1), train, {"min_exposure": clip})
            batch = _first_batch(method, train)
            m = np.asarray(method.exposure(state, train, batch.users, batch.items), np.float64)
            assert m.min() < 0.4 < m.max() < 1.0
            m, p = np.maximum(m, clip), jax.nn.sigmoid(method.predict(state, batch.users, batch.items))
            values = np.where(batch.labels > 0, -np.log(m * p), -np.log1p(-m * p))
            new, logs = method.step(state, train, batch, jax.random.key(2))
            assert float(logs["loss"]) == pytest.approx(values[np.asarray(batch.where)].mean(), rel=1e-5)
        assert float(logs["hypergradient_norm"]) == float(logs["hypergradient_over_eps"]) == 0.0
        jax.tree.map(np.testing.assert_array_equal, new.params["exposure"], state.params["exposure"])

    def test_positives_alone_guide_and_the_other_known_pairs_are_nowhere(self, log, train):
        whole, method = self._biif(), self._biif(exposed="positives")
        negative = log.probably_exposed.labels == 0
        known = set(
            zip(
                log.probably_exposed.users[negative].tolist(),
                log.probably_exposed.items[negative].tolist(),
                strict=True,
            )
        )
        rows = {
            name: list(zip(*_pairs(each.batches(train, jax.random.key(5)))[:2], strict=True))
            for name, each in (("all", whole), ("positives", method))
        }
        # Each is a row of its own; the same uniform zeros are drawn beside them.
        assert known <= set(rows["all"]) and len(rows["all"]) - len(rows["positives"]) == len(known)
        state = method.init(jax.random.key(1), train, {"inner_lr": 0.0})
        logs = method.step(state, train, _first_batch(method, train), jax.random.key(2))[1]
        positive = np.asarray(train.exposed_labels) > 0
        logits = method.predict(state, train.exposed_users[positive], train.exposed_items[positive])
        assert float(logs["outer_loss"]) == pytest.approx(float(np.sum(np.log1p(np.exp(-logits)))), rel=1e-5)

    def test_frozen_exposure_is_the_start(self, train):
        method = self._biif()
        state = method.init(jax.random.key(1), train, {"outer_lr": 0.0})
        new, _ = method.step(state, train, _first_batch(method, train), jax.random.key(2))
        jax.tree.map(np.testing.assert_array_equal, new.params["exposure"], state.params["exposure"])

    @pytest.mark.parametrize(
        "options", [{"inner_step": "newton"}, {"reduction": "max"}, {"exposed": "negatives"}]
    )
    def test_unknown_options_are_named(self, options):
        with pytest.raises(ValueError, match=next(iter(options.values()))):
            self._biif(**options)


class TestExposureBaselines:
    """One step of JointOpt, AlterOpt and BiOpt2, written out."""

    HPARAMS = {"lr": 0.01, "outer_lr": 0.02, "weight_decay": 0.0}

    def _method(self, factory, **options):
        return factory(
            models.mf(N_USERS, N_ITEMS, dim=DIM),
            models.biif_exposure(N_USERS, dim=DIM),
            item_vectors=models.item_vectors,
            batch_size=64,
            **options,
        )

    @staticmethod
    def _adam(params, grads, lr):
        tx = optimizers.adam(lr)
        return optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0])

    def _step(self, method, train, batch):
        state = method.init(
            jax.random.key(1), train, {k: v for k, v in self.HPARAMS.items() if k in method.hparams}
        )
        return state.params, method.step(state, train, batch, jax.random.key(2))[0].params

    @staticmethod
    def _close(got, want):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), got, want)

    @pytest.mark.parametrize("detach", [True, False])
    def test_joint_opt_takes_both_gradients_at_once(self, train, detach):
        method = self._method(methods.joint_opt, detach_items=detach)
        batch = _first_batch(method, train)
        old, new = self._step(method, train, batch)
        count = jnp.sum(batch.where)
        grads = jax.grad(_l2(train, batch, detach), argnums=(0, 1))(old["prediction"], old["exposure"])
        grads = jax.tree.map(lambda g: g / count, grads)
        self._close(new["prediction"], self._adam(old["prediction"], grads[0], 0.01))
        self._close(new["exposure"], self._adam(old["exposure"], grads[1], 0.02))

    def test_alter_opt_steps_the_exposure_at_the_new_relevance(self, train):
        method = self._method(methods.alter_opt)
        batch = _first_batch(method, train)
        old, new = self._step(method, train, batch)
        count, l2 = jnp.sum(batch.where), _l2(train, batch)
        grads = jax.tree.map(lambda g: g / count, jax.grad(l2)(old["prediction"], old["exposure"]))
        relevance = self._adam(old["prediction"], grads, 0.01)
        at_new = jax.grad(l2, argnums=1)(relevance, old["exposure"])
        at_old = jax.grad(l2, argnums=1)(old["prediction"], old["exposure"])
        self._close(new["prediction"], relevance)
        # Adam's first step is near the sign of the gradient, so the gate's gradient tells the two apart only where
        # they differ in sign; the moments do in size.
        moments = method.step(
            method.init(jax.random.key(1), train, self.HPARAMS), train, batch, jax.random.key(2)
        )[0].opt_state["exposure"]
        first = optax.tree.get(moments, "mu")
        self._close(jax.tree.map(lambda m: m / 0.1 * count, first), at_new)
        assert not np.allclose(at_new["user"], at_old["user"], rtol=1e-3)

    def test_bi_opt2_follows_the_total_derivative_of_the_training_loss(self, train):
        method = self._method(methods.bi_opt2)
        batch = _first_batch(method, train)
        state = method.init(jax.random.key(1), train, {**self.HPARAMS, "inner_lr": 0.003})
        new, logs = method.step(state, train, batch, jax.random.key(2))
        l2 = _l2(train, batch)

        def outer(exposure):
            relevance = state.params["prediction"]
            grads = jax.grad(l2)(relevance, exposure)
            return l2(jax.tree.map(lambda w, g: w - 0.003 * g, relevance, grads), exposure)

        hyper = jax.grad(outer)(state.params["exposure"])
        self._close(new.params["exposure"], self._adam(state.params["exposure"], hyper, 0.02))
        assert float(logs["hypergradient_norm"]) == pytest.approx(float(optax.tree.norm(hyper)), rel=1e-4)


def test_bpr_step_is_the_mean_of_its_triplets(train):
    method = methods.bpr(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=64)
    state = method.init(jax.random.key(0), train, {})
    batch = _first_batch(method, train)
    _, logs = method.step(state, train, batch, jax.random.key(1))
    gap = method.predict(state, batch.users, batch.positives) - method.predict(
        state, batch.users, batch.negatives
    )
    want = np.logaddexp(0, -np.asarray(gap))[np.asarray(batch.where)].mean()
    assert float(logs["loss"]) == pytest.approx(want, rel=1e-5)
    clicked = np.zeros((N_USERS, N_ITEMS), bool)
    clicked[np.asarray(train.clicks[0]), np.asarray(train.clicks[1])] = True
    assert clicked[batch.users, batch.positives][batch.where].all()
    assert not clicked[batch.users, batch.negatives][batch.where].any()


class TestPropensity:
    @pytest.mark.parametrize("factory", [methods.ips, methods.snips])
    def test_popularity_of_rows_weights_items_that_nobody_clicked(self, train, factory):
        """Items whose shown rows are all negative have no click; their rows must still have finite weights."""
        cold = train._replace(popularity=train.popularity.at[train.items[0]].set(0.0))
        method = factory(
            models.mf(N_USERS, N_ITEMS, dim=DIM),
            models.additive_logistic(N_USERS, N_ITEMS),
            propensity="popularity",
            batch_size=1000,
        )
        state = method.init(jax.random.key(0), cold, {})
        batch = _first_batch(method, cold)
        _, logs = method.step(state, cold, batch, jax.random.key(1))
        rows = np.bincount(np.asarray(train.items), minlength=N_ITEMS)
        weights = 1 / np.sqrt(rows / rows.max())[np.asarray(batch.items)] * np.asarray(batch.where)
        logits = np.asarray(method.predict(state, batch.users, batch.items))
        errors = np.where(batch.labels > 0, np.logaddexp(0, -logits), np.logaddexp(0, logits))
        divisor = weights.sum() if factory is methods.snips else np.asarray(batch.where).sum()
        assert float(logs["loss"]) == pytest.approx((weights * errors).sum() / divisor, rel=1e-5)

    def test_fit_reproduces_the_margins(self, train):
        """At the optimum of an additive logistic model the fitted counts of users and items are the observed ones."""
        model = models.additive_logistic(N_USERS, N_ITEMS)
        params = fit_propensity(
            model,
            jax.random.key(0),
            train,
            learning_rate=0.05,
            weight_decay=0.0,
            n_steps=600,
            batch_size=8192,
        )
        users, items = jnp.meshgrid(jnp.arange(N_USERS), jnp.arange(N_ITEMS), indexing="ij")
        fitted = np.asarray(jax.nn.sigmoid(model.apply(params, users, items)))
        observed = np.zeros((N_USERS, N_ITEMS))
        observed[np.asarray(train.users), np.asarray(train.items)] = 1
        # Uniform draws leave noise of about sqrt(p (1 - p) / (draws of a row)) < .01 in each mean.
        np.testing.assert_allclose(fitted.mean(axis=1), observed.mean(axis=1), atol=0.02)
        np.testing.assert_allclose(fitted.mean(axis=0), observed.mean(axis=0), atol=0.02)

    def test_logged_propensities_weight_each_row(self, train):
        method = methods.snips(
            models.mf(N_USERS, N_ITEMS, dim=DIM),
            models.additive_logistic(N_USERS, N_ITEMS),
            propensity="logged",
            batch_size=1000,
        )
        state = method.init(jax.random.key(0), train, {})
        batch = _first_batch(method, train)
        _, logs = method.step(state, train, batch, jax.random.key(1))
        logits = method.predict(state, batch.users, batch.items)
        errors = np.where(batch.labels > 0, np.logaddexp(0, -logits), np.logaddexp(0, logits))
        weights = np.asarray(batch.where) / np.where(batch.where, batch.propensities, 1.0)
        assert float(logs["loss"]) == pytest.approx((weights * errors).sum() / weights.sum(), rel=1e-5)

    def test_logged_without_a_column_says_so(self, train):
        method = methods.ips(
            models.mf(N_USERS, N_ITEMS, dim=DIM),
            models.additive_logistic(N_USERS, N_ITEMS),
            propensity="logged",
        )
        bare = train._replace(propensities=None)
        state = method.init(jax.random.key(0), bare, {})
        with pytest.raises(ConfigError, match="propensity column"):
            method.step(state, bare, _first_batch(method, bare), jax.random.key(1))


class TestMeanLogit:
    def test_ratings_form_by_hand(self):
        """User 0: 1 of 2 positive, user 1: 1 of 1; global rate 2/3; pseudo-count 5."""
        rows = Interactions(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0]), 2, 2)
        log = Dataset("tiny", rows, None, None, Vocabulary.range(2), Vocabulary.range(2))
        method = methods.mean_logit(feedback="ratings")
        state = method.init(jax.random.key(0), training.train_data(log), {})
        g = 2 / 3
        mean = lambda positives, count: (positives + 5 * g) / (count + 5)  # noqa: E731
        logit = lambda p: np.log(p / (1 - p))  # noqa: E731
        want = logit(mean(1, 2)) + logit(mean(1, 2)) - logit(g)
        got = method.predict(state, jnp.array([0]), jnp.array([1]))
        np.testing.assert_allclose(got, [want], rtol=1e-5)

    def test_clicks_form_ranks_by_popularity(self, train):
        state = methods.mean_logit().init(jax.random.key(0), train, {})
        scores = methods.mean_logit().predict(
            state, jnp.zeros((1, 1), jnp.int32), jnp.arange(N_ITEMS)[None, :]
        )
        order = np.argsort(np.asarray(scores[0]), kind="stable")
        assert np.all(np.diff(np.asarray(train.popularity)[order]) >= 0)


def test_losses_of_relmf_and_umf_are_the_library_losses(train):
    for factory, loss in ((methods.relmf, losses.relmf), (methods.umf, losses.umf)):
        options = {"probability_clip": None} if factory is methods.relmf else {}
        method = factory(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=64, **options)
        state = method.init(jax.random.key(0), train, {})
        batch = _first_batch(method, train)
        _, logs = method.step(state, train, batch, jax.random.key(1))
        logits = method.predict(state, batch.users, batch.items)
        exposure = jnp.maximum(train.popularity[batch.items], 1e-3)
        want = loss(logits, batch.labels, exposure=exposure, where=batch.where)
        assert float(logs["loss"]) == pytest.approx(float(want), rel=1e-5)


def test_hypergradient_is_taken_by_the_library(train):
    """Biif's logged norm is that of ``hypergrad.hypergradient`` on its two losses."""
    model, exposure = models.mf(N_USERS, N_ITEMS, dim=DIM), models.biif_exposure(N_USERS, dim=DIM)
    method = methods.biif(model, exposure, item_vectors=models.item_vectors, batch_size=64)
    state = method.init(jax.random.key(1), train, {})
    batch = _first_batch(method, train)

    def inner(own, other):
        vectors = jax.lax.stop_gradient(models.item_vectors(own, batch.items))
        m = exposure.apply(other, batch.users, vectors, train.popularity[batch.items])
        logits = model.apply(own, batch.users, batch.items)
        return losses.umf(logits, batch.labels, exposure=m, where=batch.where, reduce_fn=jnp.sum)

    def outer(own, other):
        del other
        logits = model.apply(own, train.exposed_users, train.exposed_items)
        return jnp.sum(optax.losses.sigmoid_binary_cross_entropy(logits, train.exposed_labels))

    tx = optimizers.sgd(1e-3)
    own, other = state.params["prediction"], state.params["exposure"]
    want = optax.tree.norm(hypergrad.hypergradient(inner, outer, tx)(own, tx.init(own), other).grads)
    got = method.step(state, train, batch, jax.random.key(2))[1]["hypergradient_norm"]
    assert float(got) == pytest.approx(float(want), rel=1e-4)
