"""CJMF, AutoDebias, CEB and UBO: one step of each, written out."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


def close(ours, expected, rtol=2e-4, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected)


def pairs_of(users, items, where):
    keep = np.asarray(where).ravel()
    users, items = (np.asarray(ids).ravel()[keep] for ids in (users, items))
    return list(zip(users.tolist(), items.tolist(), strict=True))


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


class TestCeb:
    """Its loss is lambda_pred times the likelihood of clicks and lambda_w times the risk."""

    def step(self, train, **options):
        method = methods.ceb(
            models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7),
            models.biif_exposure(N_USERS, dim=DIM, init_scale=0.7),
            item_vectors=models.item_vectors,
            batch_size=64,
            **options,
        )
        hparams = {"lr": 0.01, "outer_lr": 0.02, "likelihood_weight": 3.0, "risk_weight": 0.5}
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

    @pytest.mark.parametrize("options", [{"risk": "no_such"}, {"variant": "no_such"}])
    def test_unknown_options_are_named(self, train, options):
        with pytest.raises(ValueError, match="no_such"):
            self.step(train, **options)


class TestCjmf:
    C = 3
    HPARAMS = {
        "lr": 0.01,
        "weight_decay": 0.1,
        "exposure_weight_decay": 0.3,
        "residual_lr": 0.02,
        "residual_decay": 0.5,
    }

    def method(self, **options):
        return methods.cjmf(
            models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7),
            models.cjmf_exposure(dim=DIM, init_scale=0.7),
            item_vectors=models.item_vectors,
            **{"n_models": self.C, "batch_size": 48} | options,
        )

    def rows(self, state, train, batch):
        """Users, items, labels, mask and part of a batch, by plain look-ups."""
        n = train.clicks[0].shape[0]
        clicked = np.zeros((N_USERS, N_ITEMS), bool)
        clicked[np.asarray(train.clicks[0]), np.asarray(train.clicks[1])] = True
        place = np.asarray(state.extra["order"])[np.asarray(batch.slots)]
        users = np.asarray(train.clicks[0])[place]
        items = np.where(batch.is_click, np.asarray(train.clicks[1])[place], batch.items)
        where = np.asarray(batch.where) & (np.asarray(batch.is_click) | ~clicked[users, items])
        return (
            users,
            items,
            np.asarray(batch.is_click, np.float32),
            where,
            np.asarray(batch.slots) // -(-n // self.C),
        )

    def test_an_epoch_has_each_click_once_in_its_part_and_once_for_the_residuals(self, train):
        method = self.method()
        state = method.init(jax.random.key(1), train, {})
        batches = method.batches(train, jax.random.key(5))
        clicks = sorted(zip(*(np.asarray(ids).tolist() for ids in train.clicks), strict=True))
        residual, where = np.asarray(batches.residual), np.asarray(batches.where & batches.is_click)
        for phase in (residual, ~residual):
            part = jax.tree.map(lambda x, phase=phase: x[phase], batches)
            users, items, _, _, _ = self.rows(state, train, part)
            assert sorted(pairs_of(users, items, where[phase])) == clicks
        _, _, _, mask, parts = self.rows(state, train, batches)
        of_steps = [set(parts[step][mask[step]]) for step in np.flatnonzero(~residual)]
        assert all(len(of_step) == 1 for of_step in of_steps)
        # New targets with each new part, and with the residuals.
        first = [step == 0 or of_steps[step] != of_steps[step - 1] for step in range(len(of_steps))]
        assert sum(first) == self.C
        np.testing.assert_array_equal(np.asarray(batches.refresh)[~residual], first)
        assert np.asarray(batches.refresh)[residual].tolist() == [True] + [False] * (residual.sum() - 1)

    @pytest.mark.parametrize("variant", ["published", "released"])
    @pytest.mark.parametrize("phase", ["base", "residual"])
    def test_one_step_is_the_algorithm_written_out(self, train, phase, variant):
        method = self.method(variant=variant)
        state = method.init(jax.random.key(1), train, self.HPARAMS)
        # Popularity near 0, so that exposures fall below the bound of the targets.
        extra = {**state.extra, "popularity": jnp.where(jnp.arange(N_ITEMS) < 9, 1e-4, 0.8)}
        exposure_params = state.params["exposure"]
        steep = {
            **exposure_params["base"],
            "power_bias": jnp.full(self.C, 4.0),
            "gate_bias": jnp.full(self.C, -6.0),
        }
        params = {**state.params, "exposure": {**exposure_params, "base": steep}}
        state = state._replace(params=params, extra=extra)
        batches = method.batches(train, jax.random.key(5))
        step = int(jnp.argmax(batches.residual == (phase == "residual")))
        batch = jax.tree.map(lambda x: x[step], batches)
        new, logs = method.step(state, train, batch, jax.random.key(2))
        users, items, labels, where, part = self.rows(state, train, batch)

        def relevance(params):
            return jax.nn.sigmoid(jnp.sum(params["user"][users] * params["item"][items], axis=-1))

        def exposure(params, vectors):
            def of(name):
                return jax.nn.sigmoid(vectors @ params[f"{name}_weight"] + params[f"{name}_bias"])

            popularity = extra["popularity"][items]
            return (of("gate") * of("affinity") + (1 - of("gate")) * popularity) ** of("power")

        def model(tree, k):
            return jax.tree.map(lambda x: x[k], tree)

        base = {group: params[group]["base"] for group in params}
        p = jnp.stack([relevance(model(base["prediction"], k)) for k in range(self.C)])
        m = jnp.stack(
            [
                exposure(model(base["exposure"], k), base["prediction"]["item"][k][items])
                for k in range(self.C)
            ]
        )
        own = np.arange(len(part))
        p, m = (jnp.where(labels > 0, table[part, own], table.mean(axis=0)) for table in (p, m))
        assert bool(jnp.any(m < 0.01))
        p, m = jnp.clip(p, 0.01, 0.99), jnp.clip(m, 0.0 if variant == "released" else 0.01, 0.99)

        def mean(values):
            return jnp.mean(values[where])

        def l1(q, other):
            q = jnp.clip(q, 0.01, 0.99)
            return mean(-(labels / other * jnp.log(q) + (1 - labels / other) * jnp.log(1 - q)))

        def l2(q, other):
            q = jnp.clip(q, 0.01, 0.99)
            return mean(-(labels * jnp.log(q * other) + (1 - labels) * jnp.log(1 - q * other)))

        loss, values = (l1 if phase == "base" else l2), []
        lr, factor = (0.01, 1.0) if phase == "base" else (0.02, 0.5)
        for k in range(self.C):
            before = {group: model(params[group][phase], k) for group in params}
            if phase == "base" and k == part[0]:
                for group in params:
                    jax.tree.map(
                        np.testing.assert_array_equal, model(new.params[group][phase], k), before[group]
                    )
                continue

            def whole(group, own, k=k):
                return own if phase == "base" else jax.tree.map(jnp.add, own, model(base[group], k))

            def of_relevance(own, whole=whole):
                return loss(relevance(whole("prediction", own)), m)

            def of_exposure(own, stepped, whole=whole):
                return loss(exposure(whole("exposure", own), whole("prediction", stepped)["item"][items]), p)

            value, grads = jax.value_and_grad(of_relevance)(before["prediction"])
            values.append(float(value))
            tx = optimizers.adam(lr, weight_decay=0.1 * factor)
            updates, _ = tx.update(grads, tx.init(before["prediction"]), before["prediction"])
            stepped = optax.apply_updates(before["prediction"], updates)
            close(model(new.params["prediction"][phase], k), stepped)
            grads = jax.grad(of_exposure)(before["exposure"], stepped)
            tx = optimizers.adam(lr, weight_decay=0.3 * factor)
            updates, _ = tx.update(grads, tx.init(before["exposure"]), before["exposure"])
            close(model(new.params["exposure"][phase], k), optax.apply_updates(before["exposure"], updates))
        assert float(logs["loss"]) == pytest.approx(np.mean(values), rel=1e-4)
        other = "residual" if phase == "base" else "base"
        for group in params:
            jax.tree.map(np.testing.assert_array_equal, new.params[group][other], params[group][other])

    def test_scores_are_the_logit_of_the_mean_relevance_and_exposure_is_the_mean_of_the_bases(self, train):
        method = self.method()
        state = method.init(jax.random.key(1), train, {})
        users, items = np.meshgrid(np.arange(N_USERS), np.arange(N_ITEMS), indexing="ij")
        parts = state.params["prediction"]
        together = jax.tree.map(np.add, parts["base"], parts["residual"])
        p = 1 / (1 + np.exp(-np.einsum("cud,cid->cui", together["user"], together["item"])))
        scores = method.predict(state, jnp.asarray(users), jnp.asarray(items))
        close(scores, np.log(p.mean(axis=0)) - np.log1p(-p.mean(axis=0)), atol=1e-5)
        counts = np.bincount(np.asarray(train.clicks[1]), minlength=N_ITEMS)
        model = models.cjmf_exposure(dim=DIM)
        each = [
            model.apply(
                jax.tree.map(lambda x, k=k: x[k], state.params["exposure"]["base"]),
                parts["base"]["item"][k],
                jnp.asarray((counts + 1) / (counts.max() + 1), jnp.float32),
            )
            for k in range(self.C)
        ]
        close(
            method.exposure(state, train, users, items), np.broadcast_to(np.mean(each, axis=0), users.shape)
        )

    def test_scores_of_certain_pairs_are_finite(self, train):
        method = self.method()
        state = method.init(jax.random.key(1), train, {})
        params = jax.tree.map(lambda x: 10.0 * jnp.sign(x), state.params["prediction"])
        state = state._replace(params={**state.params, "prediction": params})
        scores = method.predict(state, jnp.arange(N_USERS)[:, None], jnp.arange(N_ITEMS)[None, :])
        assert bool(jnp.all(jnp.isfinite(scores)))
        assert float(jnp.max(scores)) > 17.0

    def test_bad_options_are_named(self):
        with pytest.raises(ConfigError, match="n_models must be at least 2.*got 1"):
            self.method(n_models=1)
        with pytest.raises(ValueError, match="no_such.*published"):
            self.method(variant="no_such")


class TestAutoDebias:
    """Against numpy: gradients of the base by hand, those of the weights by finite differences."""

    N_USERS, N_ITEMS, DIM = 4, 3, 2
    HPARAMS = {
        "lr": 0.01,
        "weight_decay": 0.1,
        "inner_lr": 0.05,
        "imputation_weight": 0.3,
        "l2": 0.7,
        "observed_weight_decay": 0.0,
        "imputed_weight_decay": 0.0,
        "imputation_weight_decay": 0.0,
    }
    CLICKS = np.array([[0, 0, 1, 2, 3], [0, 2, 1, 2, 0]])
    DISLIKED = np.array([[1, 3], [0, 2]])
    SET = np.array([[0, 1, 2, 3, 1], [1, 1, 0, 2, 2]]), np.array([1.0, 0.0, 1.0, 0.0, 1.0])

    def train(self):
        users, items = np.concatenate([self.CLICKS, self.DISLIKED], axis=1)
        labels = np.repeat([1.0, 0.0], [5, 2]).astype(np.float32)
        (exposed_users, exposed_items), exposed_labels = self.SET
        sizes = self.N_USERS, self.N_ITEMS
        log = data.Dataset(
            "tiny",
            data.Interactions(users, items, labels, *sizes),
            None,
            None,
            data.Vocabulary.range(sizes[0]),
            data.Vocabulary.range(sizes[1]),
            probably_exposed=data.Interactions(
                exposed_users, exposed_items, exposed_labels.astype(np.float32), *sizes
            ),
        )
        return training.train_data(log)

    def method(self, **options):
        return methods.auto_debias(
            models.mf(self.N_USERS, self.N_ITEMS, dim=self.DIM, bias=True, init_scale=0.5),
            user_vectors=models.user_vectors,
            item_vectors=models.item_vectors,
            **{"block": (4, 3)} | options,
        )

    def base_gradient(self, base, learnt, feedback, variant):
        """d L_T / d base over the whole matrix, base and learnt parameters as dicts of numpy arrays."""
        observed, labels = np.zeros((self.N_USERS, self.N_ITEMS), int), np.ones((self.N_USERS, self.N_ITEMS))
        observed[*self.CLICKS] = 1
        if feedback == "ratings":
            observed[*self.DISLIKED] = 1
            labels[*self.DISLIKED] = -1
        scale = 5.0 if variant == "released" else 1.0
        w1 = np.exp((learnt["observed"]["user"][:, None] + learnt["observed"]["item"]) / scale)
        w2 = (
            learnt["imputed"]["user"][:, None]
            + learnt["imputed"]["item"]
            + learnt["imputed"]["observed"][observed]
        )
        m = np.tanh(learnt["imputation"]["label"])[np.where(observed, np.where(labels > 0, 2, 1), 0)]
        scores = base["user"] @ base["item"].T + base["user_bias"][:, None] + base["item_bias"]
        scores = scores + base["global_bias"]
        of_log, of_all = 2 * observed * w1 * (scores - labels), 2 * 0.3 * np.exp(w2 / scale) * (scores - m)
        decay = 0.7
        if variant == "published":
            of_log, of_all, decay = of_log / observed.sum(), of_all / observed.size, 0.0
        slope = of_log + of_all
        return {
            "user": slope @ base["item"] + decay * base["user"],
            "item": slope.T @ base["user"] + decay * base["item"],
            "user_bias": slope.sum(axis=1),
            "item_bias": slope.sum(axis=0),
            "global_bias": slope.sum(),
        }

    def outer(self, base):
        (users, items), labels = self.SET
        scores = np.sum(base["user"][users] * base["item"][items], axis=1) + base["user_bias"][users]
        scores = scores + base["item_bias"][items] + base["global_bias"]
        return np.sum((scores - (2 * labels - 1)) ** 2)

    @pytest.mark.parametrize(
        ("variant", "feedback"),
        [("published", "clicks"), ("published", "ratings"), ("released", "clicks")],
    )
    def test_a_step_and_its_hypergradient(self, x64, rng, variant, feedback):
        train, method = self.train(), self.method(variant=variant, feedback=feedback)
        state = method.init(jax.random.key(0), train, self.HPARAMS)
        debias = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape), state.params["debias"])
        state = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            state._replace(params={**state.params, "debias": debias}),
        )
        batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))
        new, logs = jax.jit(method.step)(state, train, batch, jax.random.key(2))

        base = jax.tree.map(np.asarray, state.params["prediction"])
        flat, unflatten = jax.flatten_util.ravel_pytree(debias)

        def stepped_outer(flat):
            grads = self.base_gradient(base, jax.tree.map(np.asarray, unflatten(flat)), feedback, variant)
            return self.outer({name: base[name] - 0.05 * grads[name] for name in base})

        assert float(logs["outer_loss"]) == pytest.approx(stepped_outer(flat), rel=1e-6)
        difference = 1e-5 * np.eye(flat.size)
        hyper = np.array([(stepped_outer(flat + d) - stepped_outer(flat - d)) / 2e-5 for d in difference])
        assert float(logs["hypergradient_norm"]) == pytest.approx(np.linalg.norm(hyper), rel=1e-6)
        # Adam's first moment is a tenth of the gradient; the parts come in alphabetical order, as in ``debias``.
        moments = [mu for _, mu in optax.tree.get_all_with_path(new.opt_state["debias"], "mu")]
        of_parts = [np.ravel(leaf) for mu in moments for leaf in jax.tree.leaves(mu)]
        by_part = dict(zip(("imputation", "imputed", "observed"), range(3), strict=True))
        assert len(moments) == len(by_part)
        np.testing.assert_allclose(np.concatenate(of_parts), 0.1 * hyper, rtol=1e-5, atol=1e-9)

        # The kept step is taken at the new weights.
        moved = jax.tree.map(np.asarray, new.params["debias"])
        grads = self.base_gradient(base, moved, feedback, variant)
        tx = optimizers.sgd(0.05) if variant == "released" else optimizers.adam(0.01, weight_decay=0.1)
        want = optax.apply_updates(base, tx.update(grads, tx.init(base), base)[0])
        # Hyperparameters are float32 numbers, .05 among them.
        close(new.params["prediction"], want, rtol=1e-6, atol=1e-8)

    def test_blocks_cut_the_matrix_into_pieces(self):
        batches = self.method(block=(3, 2)).batches(self.train(), jax.random.key(1))
        assert batches.where.shape == (4, 3, 2)
        users, items, where = np.broadcast_arrays(batches.users, batches.items, batches.where)
        assert sorted(pairs_of(users, items, where)) == [(u, i) for u in range(4) for i in range(3)]

    def test_weights_rest_for_the_delay_and_imputed_labels_do_not(self):
        train, method = self.train(), self.method()
        state = method.init(jax.random.key(0), train, {"weight_delay": 2.0})
        batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))
        moved, step = [], jax.jit(method.step)
        for number in range(3):
            new, _ = step(state, train, batch, jax.random.key(number))
            moved.append(
                [
                    bool(jnp.any(new.params["debias"][name]["user"] != state.params["debias"][name]["user"]))
                    for name in ("observed", "imputed")
                ]
            )
            before, after = (one.params["debias"]["imputation"]["label"] for one in (state, new))
            assert bool(jnp.any(before != after))
            state = new
        assert moved == [[False, False], [False, False], [True, True]]

    def test_data_without_a_set_and_bad_options_are_named(self, train):
        method = self.method()
        nothing = self.train()._replace(
            **{f"exposed_{name}": jnp.zeros(0, jnp.int32) for name in ("users", "items", "labels")}
        )
        state = method.init(jax.random.key(0), nothing, {})
        batch = jax.tree.map(lambda x: x[0], method.batches(nothing, jax.random.key(0)))
        with pytest.raises(ConfigError, match="data.split.name='biif'"):
            method.step(state, nothing, batch, jax.random.key(0))
        with pytest.raises(ConfigError, match=r"block must be two sizes.*\(4, 0\)"):
            self.method(block=(4, 0))
        with pytest.raises(ValueError, match="no_such.*ratings"):
            self.method(feedback="no_such")
