"""AutoDebias against numpy: gradients of the base by hand, those of the weights by finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import data, methods, models, optimizers, training
from debias_jax.errors import ConfigError

N_USERS, N_ITEMS, DIM = 4, 3, 2
SETTINGS = {
    "lr": 0.01,
    "weight_decay": 0.1,
    "inner_lr": 0.05,
    "imputation_weight": 0.3,
    "l2": 0.7,
    "observed_weight_decay": 0.0,
    "imputed_weight_decay": 0.0,
    "imputation_weight_decay": 0.0,
    "weight_delay": 0.0,
}
CLICKS = np.array([[0, 0, 1, 2, 3], [0, 2, 1, 2, 0]])
DISLIKED = np.array([[1, 3], [0, 2]])
SET = np.array([[0, 1, 2, 3, 1], [1, 1, 0, 2, 2]]), np.array([1.0, 0.0, 1.0, 0.0, 1.0])


def log(clicks=CLICKS):
    users, items = np.concatenate([clicks, DISLIKED], axis=1)
    labels = np.repeat([1.0, 0.0], [clicks.shape[1], 2]).astype(np.float32)
    (exposed_users, exposed_items), exposed_labels = SET
    sizes = N_USERS, N_ITEMS
    return training.train_data(
        data.Dataset(
            "tiny",
            data.Interactions(users, items, labels, *sizes),
            None,
            None,
            *(data.Vocabulary.range(n) for n in sizes),
            probably_exposed=data.Interactions(
                exposed_users, exposed_items, exposed_labels.astype(np.float32), *sizes
            ),
        )
    )


def make(**options):
    return methods.auto_debias(
        models.mf(N_USERS, N_ITEMS, dim=DIM, bias=True, init_scale=0.5),
        user_vectors=models.user_vectors,
        item_vectors=models.item_vectors,
        **{"block": (4, 3)} | options,
    )


def start(method, train, rng):
    """A state in float64 whose weights and imputed labels are not those of the beginning."""
    hparams = {name: value for name, value in SETTINGS.items() if name in method.hparams}
    state = method.init(jax.random.key(0), train, hparams)
    debias = jax.tree.map(lambda x: rng.normal(0, 0.5, x.shape), state.params["debias"])
    return jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        state._replace(params={**state.params, "debias": debias}),
    )


def numbers(tree):
    return jax.tree.map(np.asarray, tree)


def scores_of(base):
    scores = base["user"] @ base["item"].T + base["user_bias"][:, None] + base["item_bias"]
    return scores + base["global_bias"]


def loss_terms(learnt, feedback, variant):
    """Observed pairs, labels and imputed labels; and factors of both squares, all as matrices."""
    observed, labels = np.zeros((N_USERS, N_ITEMS), int), np.ones((N_USERS, N_ITEMS))
    observed[*CLICKS] = 1
    if feedback == "ratings":
        observed[*DISLIKED] = 1
        labels[*DISLIKED] = -1
    scale = 5.0 if variant == "released" else 1.0
    w1 = np.exp((learnt["observed"]["user"][:, None] + learnt["observed"]["item"]) / scale)
    w2 = learnt["imputed"]["user"][:, None] + learnt["imputed"]["item"]
    w2 = np.exp((w2 + learnt["imputed"]["observed"][observed]) / scale)
    imputed = np.tanh(learnt["imputation"]["label"])[np.where(observed, np.where(labels > 0, 2, 1), 0)]
    of_log, of_all = observed * w1, 0.3 * w2
    if variant == "published":
        of_log, of_all = of_log / observed.sum(), of_all / observed.size
    return labels, imputed, of_log, of_all


def base_gradient(base, learnt, feedback, variant):
    """d L_T / d base over the whole matrix, base and learnt parameters as dicts of numpy arrays."""
    labels, imputed, of_log, of_all = loss_terms(learnt, feedback, variant)
    scores, decay = scores_of(base), 0.7 if variant == "released" else 0.0
    slope = 2 * of_log * (scores - labels) + 2 * of_all * (scores - imputed)
    return {
        "user": slope @ base["item"] + decay * base["user"],
        "item": slope.T @ base["user"] + decay * base["item"],
        "user_bias": slope.sum(axis=1),
        "item_bias": slope.sum(axis=0),
        "global_bias": slope.sum(),
    }


def outer(base, variant):
    """L_U: the paper's is a mean, the program's a sum."""
    (users, items), labels = SET
    squares = (scores_of(base)[users, items] - (2 * labels - 1)) ** 2
    return squares.mean() if variant == "published" else squares.sum()


@pytest.mark.parametrize(
    ("variant", "feedback"), [("published", "clicks"), ("published", "ratings"), ("released", "clicks")]
)
def test_a_step_and_its_hypergradient(x64, rng, variant, feedback):
    train, method = log(), make(variant=variant, feedback=feedback)
    state = start(method, train, rng)
    batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))
    new, logs = jax.jit(method.step)(state, train, batch, jax.random.key(2))

    base, debias = numbers(state.params["prediction"]), state.params["debias"]
    flat, unflatten = jax.flatten_util.ravel_pytree(debias)

    def stepped_outer(flat):
        grads = base_gradient(base, numbers(unflatten(flat)), feedback, variant)
        return outer({name: base[name] - 0.05 * grads[name] for name in base}, variant)

    assert float(logs["outer_loss"]) == pytest.approx(stepped_outer(flat), rel=1e-6)
    difference = 1e-5 * np.eye(flat.size)
    hyper = np.array([(stepped_outer(flat + d) - stepped_outer(flat - d)) / 2e-5 for d in difference])
    assert float(logs["hypergradient_norm"]) == pytest.approx(np.linalg.norm(hyper), rel=1e-6)
    # Adam's first moment is a tenth of the gradient; the parts come in alphabetical order, as in ``debias``.
    moments = [mu for _, mu in optax.tree.get_all_with_path(new.opt_state["debias"], "mu")]
    assert len(moments) == 3
    of_parts = [np.ravel(leaf) for mu in moments for leaf in jax.tree.leaves(mu)]
    np.testing.assert_allclose(np.concatenate(of_parts), 0.1 * hyper, rtol=1e-5, atol=1e-9)

    # The kept step is taken at the new weights.
    grads = base_gradient(base, numbers(new.params["debias"]), feedback, variant)
    tx = optimizers.sgd(0.05) if variant == "released" else optimizers.adam(0.01, weight_decay=0.1)
    want = optax.apply_updates(base, tx.update(grads, tx.init(base), base)[0])
    # Hyperparameters are float32 numbers, .05 among them.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8), new.params["prediction"], want
    )


def test_the_published_step_knows_no_size_of_the_set_and_the_released_one_does(x64, rng):
    """Each of its pairs given three times is the same mean, and three times the sum."""
    train = log()
    longer = train._replace(
        **{
            name: jnp.tile(getattr(train, name), 3)
            for name in ("exposed_users", "exposed_items", "exposed_labels")
        }
    )
    for variant, factor in (("published", 1.0), ("released", 3.0)):
        method = make(variant=variant)
        state = start(method, train, rng)
        batch = jax.tree.map(lambda x: x[0], method.batches(train, jax.random.key(5)))
        step = jax.jit(method.step)
        once, thrice = (step(state, each, batch, jax.random.key(2)) for each in (train, longer))
        for name in ("outer_loss", "hypergradient_norm"):
            assert float(thrice[1][name]) == pytest.approx(factor * float(once[1][name]), rel=1e-9)
        if variant == "published":
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9),
                once[0].opt_state["debias"],
                thrice[0].opt_state["debias"],
            )


@pytest.mark.parametrize("feedback", ["clicks", "ratings"])
def test_the_mean_over_the_blocks_of_an_epoch_is_the_loss_over_the_whole_matrix(x64, rng, feedback):
    """Blocks of one size; a click that was logged twice is in D_T once."""
    train = log(np.concatenate([CLICKS, CLICKS[:, :1]], axis=1))
    assert train.clicks[0].shape == (6,)
    method = make(block=(2, 1), feedback=feedback)
    state = start(method, train, rng)
    batches = method.batches(train, jax.random.key(5))
    assert batches.where.shape == (6, 2, 1) and bool(batches.where.all())
    step = jax.jit(method.step)
    values = [
        float(step(state, train, jax.tree.map(lambda x, k=k: x[k], batches), jax.random.key(0))[1]["loss"])
        for k in range(6)
    ]
    labels, imputed, of_log, of_all = loss_terms(numbers(state.params["debias"]), feedback, "published")
    scores = scores_of(numbers(state.params["prediction"]))
    whole = np.sum(of_log * (scores - labels) ** 2 + of_all * (scores - imputed) ** 2)
    assert np.ptp(values) > 0.1 * whole
    assert np.mean(values) == pytest.approx(whole, rel=1e-6)


def test_blocks_cut_the_matrix_into_pieces():
    batches = make(block=(3, 2)).batches(log(), jax.random.key(1))
    assert batches.where.shape == (4, 3, 2)
    users, items, where = (
        np.asarray(x) for x in jnp.broadcast_arrays(batches.users, batches.items, batches.where)
    )
    met = zip(users[where].tolist(), items[where].tolist(), strict=True)
    assert sorted(met) == [(u, i) for u in range(N_USERS) for i in range(N_ITEMS)]


def test_weights_rest_for_the_delay_and_imputed_labels_do_not():
    train, method = log(), make()
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


def test_each_variant_has_the_settings_that_it_reads():
    published, released = (make(variant=variant).hparams for variant in ("published", "released"))
    assert set(published) - set(released) == {"lr", "weight_decay"}
    assert set(released) - set(published) == {"l2"}


def test_data_without_a_set_and_bad_options_are_named():
    method = make()
    nothing = log()._replace(
        **{f"exposed_{name}": jnp.zeros(0, jnp.int32) for name in ("users", "items", "labels")}
    )
    state = method.init(jax.random.key(0), nothing, {})
    batch = jax.tree.map(lambda x: x[0], method.batches(nothing, jax.random.key(0)))
    with pytest.raises(ConfigError, match="data.split.name='biif'"):
        method.step(state, nothing, batch, jax.random.key(0))
    with pytest.raises(ConfigError, match=r"block must be two sizes.*\(4, 0\)"):
        make(block=(4, 0))
    with pytest.raises(ConfigError, match=r"block must be two sizes of at least 1, users and items, got 64"):
        make(block=64)
    with pytest.raises(ValueError, match="no_such.*ratings"):
        make(feedback="no_such")
