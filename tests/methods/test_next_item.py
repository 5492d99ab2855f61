"""Next-item prediction: samples, the loss of a step and its gradient against plain forms, negatives, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from debias_jax import data, methods, models, training
from debias_jax.data.types import Dataset, Interactions
from debias_jax.data.vocab import Vocabulary
from debias_jax.errors import ConfigError, DataError
from debias_jax.methods import _negatives, _row_sparse, sequences
from debias_jax.methods.sequences import SequenceFrame
from debias_jax.models.base import Model, lookup

N_ITEMS, DIM = 9, 3

HISTORIES = ([4, 2, 7, 0, 8, 1], [3], [5, 3, 3], [6, 4], [], [1, 0, 6, 2, 5, 3, 8, 7, 4, 0])


def log_of(histories):
    users = np.repeat(np.arange(len(histories)), [len(items) for items in histories])
    items = np.concatenate([np.asarray(items, np.int64) for items in histories])
    rows = Interactions(users, items, np.ones(len(users)), len(histories), N_ITEMS)
    return Dataset("x", rows, None, None, Vocabulary.range(len(histories)), Vocabulary.range(N_ITEMS))


LOG = log_of(HISTORIES)


def summing_model(max_len, mask_id=None):
    """A slot's encoding is the sum of what came before, older items less; it compiles in no time."""

    def init(key):
        return {"item": jax.random.normal(key, (N_ITEMS + (1 if mask_id is None else 2), DIM))}

    def encode(params, history, users=None, *, key=None):
        del users, key
        rows = jnp.where((history == N_ITEMS)[..., None], 0.0, lookup(params["item"], history))
        slot = jnp.arange(history.shape[1])
        weights = jnp.where(
            slot[:, None] >= slot[None, :], 0.5 ** jnp.abs(slot[:, None] - slot[None, :]), 0.0
        )
        return jnp.einsum("ts,bsd->btd", weights, rows)

    def output_table(params):
        return params["item"][:N_ITEMS]

    def apply(params, history, users=None, *, key=None):
        return encode(params, history)[:, -1] @ output_table(params).T

    return Model(init, apply, encode=encode, output_table=output_table, max_len=max_len, mask_id=mask_id)


def one_step(method, **hparams):
    """The state before, the first batch, and the state and the logs after."""
    log = training.sequence_data(LOG, method.frame)
    before = jax.jit(method.init)(jax.random.key(1), log, {"weight_decay": 0.0, **hparams})
    batch = jax.jit(lambda log, key: jax.tree.map(lambda x: x[0], method.batches(log, key)))(
        log, jax.random.key(2)
    )
    return before, batch, *jax.jit(method.step)(before, log, batch, jax.random.key(3))


def gradient(after):
    """Adam's first moment after one step is a tenth of the gradient."""
    return jax.tree.map(lambda mu: np.asarray(mu) / 0.1, optax.tree.get(after.opt_state["prediction"], "mu"))


def pairs_of(kind, max_len, *, truncate=False, min_items=2):
    """(history, target) of every position, by loops."""
    pairs = []
    for items in HISTORIES:
        if kind == "windows":
            window = items[-max_len - 1 :]
            pairs += [(tuple(window[:t]), window[t]) for t in range(1, len(window))]
        elif kind == "cloze":
            window = items[-max_len:]
            pairs += [(tuple(window), item) for item in window]
        elif kind == "events":
            pairs += [((), item) for item in items]
        else:
            cut = items[-max_len:] if truncate else items
            shortest = min(min_items, len(cut))
            pairs += [(tuple(cut[:t][-max_len:]), cut[t]) for t in range(max(shortest - 1, 1), len(cut))]
    return sorted(pairs)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("windows", {}),
        ("cloze", {}),
        ("prefixes", {}),
        ("prefixes", {"truncate": True}),
        ("prefixes", {"min_items": 4}),
    ],
)
@pytest.mark.parametrize("edges", [(4,), (1, 2, 4), (3, 4)])
def test_batches_hold_every_sample_once(kind, options, edges):
    frame = SequenceFrame(kind, 4, edges, **options)
    log = training.sequence_data(LOG, frame)
    found = []
    batches = jax.jit(sequences.sequence_batches(3))(log, jax.random.key(0))
    for number, batch in jax.tree.map(np.asarray, batches).items():
        cut_rows = jax.jit(functools.partial(sequences.cut, samples=kind, length=edges[int(number)]))
        for step in range(batch.ends.shape[0]):
            cut = cut_rows(log, jax.tree.map(lambda x, step=step: x[step], batch))
            for row, slot in np.argwhere(np.asarray(cut.where)):
                history = np.asarray(cut.histories[row])
                known = history if kind in ("prefixes", "cloze") else history[: slot + 1]
                assert not np.any(np.diff((known != N_ITEMS).astype(int)) < 0), "pads stand on the left"
                found.append((tuple(known[known != N_ITEMS].tolist()), int(cut.targets[row, slot])))
    assert sorted(found) == pairs_of(kind, 4, **options)
    targets = [target for _, target in found]
    np.testing.assert_array_equal(log.target_counts, np.bincount(targets, minlength=N_ITEMS))


def test_batches_are_equally_large_up_to_one_sample():
    log = training.sequence_data(LOG, SequenceFrame("prefixes", 4, (1, 2, 4)))
    batches = sequences.sequence_batches(5)(log, jax.random.key(0)).values()
    sizes = sum(np.asarray(batch.where).sum(axis=1) for batch in batches)
    assert sizes.sum() == len(pairs_of("prefixes", 4)) and np.ptp(sizes) <= 1 and sizes.max() <= 5


def encoding_weights(pairs):
    """``[pairs, items]``: what a history weighs every item by, 0.5 to the power of how long ago it was."""
    weights = np.zeros((len(pairs), N_ITEMS), np.float32)
    for row, (history, _) in zip(weights, pairs, strict=True):
        for age, item in enumerate(reversed(history)):
            row[item] += 0.5**age
    return weights


def plain_scores(params, pairs):
    """Scores of all items after the history of each pair."""
    items = params["item"][:N_ITEMS]
    return encoding_weights(pairs) @ items @ items.T


def plain_loss(params, pairs):
    """Mean cross-entropy of (history, target) pairs."""
    scores, targets = plain_scores(params, pairs), np.asarray([target for _, target in pairs])
    return jnp.mean(jax.nn.logsumexp(scores, axis=1) - scores[np.arange(len(pairs)), targets])


@pytest.mark.parametrize("kind", ["windows", "prefixes"])
@pytest.mark.parametrize(("lengths", "chunk"), [(None, None), ((1, 2, 10), 4), ((10,), 1)])
def test_the_step_follows_the_mean_over_all_positions(kind, lengths, chunk):
    method = methods.next_item(summing_model(10), samples=kind, lengths=lengths, chunk=chunk, batch_size=100)
    before, _, after, logs = one_step(method)
    pairs = pairs_of(kind, 10)
    wanted, slope = jax.jit(jax.value_and_grad(lambda params: plain_loss(params, pairs)))(
        before.params["prediction"]
    )
    np.testing.assert_allclose(logs["loss"], wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient(after)["item"], slope["item"], rtol=1e-4, atol=1e-6)


def test_truncated_cross_entropy_leaves_out_what_scores_far_below_the_target():
    method = methods.next_item(summing_model(10), loss="truncated_cross_entropy", chunk=3, batch_size=100)
    before, _, _, logs = one_step(method, eta=0.6)
    values = []
    for scores, target in zip(*scores_and_targets(before.params["prediction"]), strict=True):
        pos = scores[target]
        kept = scores[scores - pos >= -0.6 * abs(pos)]
        values.append(np.log(np.exp(kept).sum()) - pos)
    np.testing.assert_allclose(logs["loss"], np.mean(values), rtol=1e-5)


def test_cloze_asks_for_what_it_hides_and_shows_the_rest():
    seen = []
    model = summing_model(4, mask_id=N_ITEMS + 1)

    def encode(params, history, users=None, *, key=None):
        jax.debug.callback(lambda history: seen.append(np.asarray(history)), history)
        return model.encode(params, history)

    method = methods.next_item(model._replace(encode=encode), lengths=(4,), batch_size=100)
    _, batch, _, logs = one_step(method, mask_rate=0.5)
    jax.effects_barrier()
    log = training.sequence_data(LOG, method.frame)
    whole = sequences.cut(log, batch["0"], samples="cloze", length=4)
    shown = seen[-1]
    hidden = shown == N_ITEMS + 1
    assert 0 < hidden.sum() < np.asarray(whole.where).sum() and not np.any(hidden & ~np.asarray(whole.where))
    np.testing.assert_array_equal(shown[~hidden], np.asarray(whole.histories)[~hidden])
    assert np.isfinite(logs["loss"])


SAMPLED = {
    "scaled_cross_entropy": {},
    "noise_contrastive": {},
    "negative_sampling": {},
    "importance_sampled_softmax": {},
    "importance_sampling": {"negatives": "popularity", "exclude_target": True},
    "bce": {},
    "bpr": {},
}


GATHERED_ALIKE = ("negative_sampling", "importance_sampled_softmax", "bpr")
"""Losses that are computed of the same draws by the same code as others."""


@pytest.mark.parametrize(
    "loss",
    [pytest.param(loss, marks=pytest.mark.slow if loss in GATHERED_ALIKE else ()) for loss in SAMPLED],
)
def test_counts_over_all_items_and_gathered_items_are_one_loss(loss):
    steps = {}
    for scoring in ("gather", "dense"):
        options = {"n_negatives": 5, "scoring": scoring, "chunk": 6, "batch_size": 100} | SAMPLED[loss]
        method = methods.next_item(summing_model(10), loss=loss, **options)
        *_, after, logs = one_step(method)
        steps[scoring] = gradient(after)["item"], logs["loss"]
    np.testing.assert_allclose(steps["dense"][1], steps["gather"][1], rtol=1e-5)
    np.testing.assert_allclose(steps["dense"][0], steps["gather"][0], rtol=1e-4, atol=1e-5)


def test_shared_negatives_stand_in_every_row():
    method = methods.next_item(
        summing_model(10), loss="scaled_cross_entropy", n_negatives=4, shared=True, batch_size=100
    )
    before, _, after, logs = one_step(method, alpha=3.0)
    data_ = training.sequence_data(LOG, method.frame)
    key = jax.random.fold_in(jax.random.key(3), len(method.frame.edges))
    drawn = _negatives.draw_shared(
        key, data_, jnp.zeros(1, jnp.int32), jnp.ones(1, bool), pool="uniform", n=4, exclude_target=False
    ).items

    def plain(params):
        pairs = pairs_of("windows", 10)
        scores, targets = plain_scores(params, pairs), np.asarray([target for _, target in pairs])
        pos, neg = scores[np.arange(len(pairs)), targets], scores[:, drawn]
        return jnp.mean(jnp.log(jnp.exp(pos) + 3.0 * jnp.exp(neg).sum(axis=1)) - pos)

    wanted, slope = jax.jit(jax.value_and_grad(plain))(before.params["prediction"])
    np.testing.assert_allclose(logs["loss"], wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient(after)["item"], slope["item"], rtol=1e-4, atol=1e-6)


def test_importance_sampling_leaves_the_positive_out_of_the_sum():
    """With uniform draws: -s+ + log sum e^s- (Xu et al. 2024, Table 1), which has no lower bound."""
    method = methods.next_item(
        summing_model(10), loss="importance_sampling", n_negatives=4, shared=True, batch_size=100
    )
    before, _, _, logs = one_step(method)
    key = jax.random.fold_in(jax.random.key(3), len(method.frame.edges))
    drawn = np.asarray(jax.random.randint(key, (4,), 0, N_ITEMS, dtype=jnp.int32))
    scores, targets = scores_and_targets(before.params["prediction"])
    pos, neg = scores[np.arange(len(targets)), targets], scores[:, drawn]
    np.testing.assert_allclose(logs["loss"], np.mean(np.log(np.exp(neg).sum(axis=1)) - pos), rtol=1e-5)


def scores_and_targets(params):
    pairs = pairs_of("windows", 10)
    params = jax.tree.map(lambda table: np.asarray(table, float), params)
    return plain_scores(params, pairs), np.asarray([target for _, target in pairs])


class TestPositionsWithoutNegatives:
    def test_of_unseen_items(self):
        """User 5 has seen all items. Where all scores are 0, a softplus is log 2."""
        n, n_without = len(pairs_of("windows", 10)), len(HISTORIES[5]) - 1
        for loss, wanted in (("bpr", 1.0), ("bce", (2 * n - n_without) / n)):
            method = methods.next_item(summing_model(10), loss=loss, chunk=4, batch_size=100)
            log = training.sequence_data(LOG, method.frame)
            state = method.init(jax.random.key(1), log, {})
            state = state._replace(params=jax.tree.map(jnp.zeros_like, state.params))
            batch = jax.tree.map(lambda x: x[0], method.batches(log, jax.random.key(2)))
            _, logs = jax.jit(method.step)(state, log, batch, jax.random.key(3))
            np.testing.assert_allclose(logs["loss"], wanted * np.log(2), rtol=1e-6)

    @pytest.mark.parametrize("loss", ["bpr", "bce", "importance_sampling"])
    def test_of_targets_that_were_drawn(self, loss):
        """Two draws of the batch's own items for all: a position keeps those that are not its target."""
        method = methods.next_item(
            summing_model(10),
            loss=loss,
            negatives="popularity",
            n_negatives=2,
            shared=True,
            exclude_target=True,
            batch_size=100,
        )
        before, _, _, logs = one_step(method)
        key = jax.random.fold_in(jax.random.key(3), len(method.frame.edges))
        log = training.sequence_data(LOG, method.frame)
        drawn = np.asarray(log.items[jax.random.randint(key, (2,), 0, len(log.items), dtype=jnp.int32)])
        scores, targets = scores_and_targets(before.params["prediction"])
        share = np.bincount(LOG.train.items, minlength=N_ITEMS) / len(LOG.train)
        values = []
        for row, target in zip(scores, targets, strict=True):
            left, pos = drawn[drawn != target], row[target]
            if loss == "bce":
                negative = np.mean(np.logaddexp(0, row[left])) if len(left) else 0.0
                values.append(np.logaddexp(0, -pos) + negative)
            elif len(left) and loss == "bpr":
                values.append(np.mean(np.logaddexp(0, row[left] - pos)))
            elif len(left):
                estimate = np.sum(np.exp(row[left]) / share[left])
                values.append(np.log(estimate) - (pos - np.log(share[target])))
        left = [np.sum(drawn != target) for target in targets]
        assert 0 in left or 1 in left
        np.testing.assert_allclose(logs["loss"], np.mean(values), rtol=1e-5)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        pytest.param("bce", {}, marks=pytest.mark.slow),
        pytest.param("bpr", {}, marks=pytest.mark.slow),
        ("gbce", {"n_negatives": 3}),
        ("importance_sampled_softmax", {"negatives": "in_batch", "n_negatives": 3, "exclude_target": True}),
        ("scaled_cross_entropy", {"negatives": "popularity", "n_negatives": 3, "exclude_target": True}),
        pytest.param("noise_contrastive", {"n_negatives": 3, "exclude_target": True}, marks=pytest.mark.slow),
    ],
)
def test_every_loss_falls(loss, options):
    log = data.splits.random_split(
        data.synthetic_sequences.generate(seed=0, n_users=40, n_items=N_ITEMS),
        validation=0.0,
        test=0.2,
        seed=0,
    )
    method = methods.next_item(summing_model(6), loss=loss, batch_size=16, **options)
    train = training.sequence_data(log, method.frame)
    result = training.fit(method, train, jax.random.key(0), {"lr": 0.02}, epochs=12)
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@functools.cache
def drawing_data():
    return training.sequence_data(LOG, SequenceFrame("windows", 4, (4,)))


TARGETS = jnp.asarray([0, 3, 8, 3], jnp.int32)
USERS = jnp.asarray([0, 2, 5, 5], jnp.int32)


def draw(pool, n=4000, exclude_target=False):
    return _negatives.draw_each(
        jax.random.key(0), drawing_data(), USERS, TARGETS, pool=pool, n=n, exclude_target=exclude_target
    )


def frequencies(items):
    return np.stack([np.bincount(row, minlength=N_ITEMS) for row in np.asarray(items)]) / items.shape[1]


class TestNegatives:
    def test_uniform_without_the_target_is_uniform_over_the_others(self):
        found = frequencies(draw("uniform", exclude_target=True).items)
        wanted = np.full((4, N_ITEMS), 1 / (N_ITEMS - 1))
        wanted[np.arange(4), np.asarray(TARGETS)] = 0.0
        # Five standard errors of a share of an eighth among 4,000.
        np.testing.assert_allclose(found, wanted, atol=5 * np.sqrt(0.11 / 4000))
        assert np.all(found[np.arange(4), np.asarray(TARGETS)] == 0.0)

    def test_popularity_is_the_share_among_the_events_and_its_log_is_reported(self):
        found = draw("popularity")
        share = np.bincount(LOG.train.items, minlength=N_ITEMS) / len(LOG.train)
        np.testing.assert_allclose(
            frequencies(found.items), np.tile(share, (4, 1)), atol=5 * np.sqrt(0.2 / 4000)
        )
        np.testing.assert_allclose(np.exp(found.log_q[0]), share[np.asarray(found.items[0])], rtol=1e-5)
        np.testing.assert_allclose(np.exp(found.log_q_pos), share[np.asarray(TARGETS)], rtol=1e-5)

    def test_unseen_are_outside_the_users_history(self):
        found = draw("unseen")
        for row, user in enumerate(USERS.tolist()):
            unseen = sorted(set(range(N_ITEMS)) - set(HISTORIES[user]))
            assert bool(found.where[row].all()) == bool(unseen)
            if unseen:
                assert sorted(set(found.items[row].tolist())) == unseen

    def test_in_batch_are_targets_of_positions_that_have_one(self):
        where = jnp.asarray([True, True, False, True])
        found = _negatives.draw_shared(
            jax.random.key(0), drawing_data(), TARGETS, where, pool="in_batch", n=3000, exclude_target=True
        )
        share = np.bincount(found.items, minlength=N_ITEMS) / 3000
        np.testing.assert_allclose(share[[0, 3]], [1 / 3, 2 / 3], atol=5 * np.sqrt(0.25 / 3000))
        assert share[[0, 3]].sum() == 1.0
        np.testing.assert_array_equal(found.where, found.items[None, :] != TARGETS[:, None])
        # Over an epoch a batch draws as often as an item is a target, which no first event of a history is.
        targets = [target for _, target in pairs_of("windows", 4)]
        share = np.bincount(targets, minlength=N_ITEMS) / len(targets)
        np.testing.assert_allclose(np.exp(found.log_q_pos), share[np.asarray(TARGETS)], rtol=1e-5)


def test_a_model_of_pairs_learns_from_every_event():
    method = methods.next_item(models.mf(len(HISTORIES), N_ITEMS, dim=DIM, init_scale=0.5), batch_size=100)
    before, batch, _, logs = one_step(method)
    params = {name: np.asarray(table, float) for name, table in before.params["prediction"].items()}
    scores = params["user"] @ params["item"].T
    values = [
        np.log(np.exp(scores[user]).sum()) - scores[user, item]
        for user, items in enumerate(HISTORIES)
        for item in items
    ]
    assert int(batch["0"].where.sum()) == len(values)
    np.testing.assert_allclose(logs["loss"], np.mean(values), rtol=1e-5)
    scored = method.predict(before, jnp.asarray([2]), jnp.zeros((1, 1), jnp.int32))
    np.testing.assert_allclose(scored[0], scores[2], rtol=1e-5)


class TestRefused:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"loss": "cross_entropi"}, "cross_entropy"),
            ({"n_negatives": 5}, "reads the scores of all items"),
            ({"loss": "bce", "shared": True}, "share no unseen items"),
            ({"loss": "bce", "n_negatives": 0}, "of at least 1, got 0"),
            ({"loss": "bce", "negatives": "popular"}, "popularity"),
            ({"samples": "cloze"}, "bert4rec learns from 'cloze'"),
            ({"samples": "events"}, "mf and two_tower from 'events'"),
            ({"lengths": (4, 2, 10)}, "must ascend"),
            ({"lengths": (4, 8)}, "must be max_len = 10"),
            ({"batch_size": 0}, "batch_size must be an integer of at least 1"),
            ({"scoring": "fast"}, "gather"),
            ({"scoring": "dense"}, "cross_entropy draws none; leave scoring out"),
            (
                {"loss": "bpr", "negatives": "uniform", "shared": True, "scoring": "gather"},
                "a batch shares them",
            ),
            ({"loss": "noise_contrastive", "negatives": "popularity"}, "corrects by log q"),
            ({"loss": "noise_contrastive", "negatives": "in_batch"}, "holds for uniform noise"),
            ({"min_items": 0}, "min_items must be an integer of at least 1"),
        ],
    )
    def test_options_that_do_not_fit(self, options, message):
        with pytest.raises((ConfigError, ValueError), match=message):
            methods.next_item(summing_model(10), **options)

    def test_a_model_without_vectors(self):
        with pytest.raises(ConfigError, match="take sasrec"):
            methods.next_item(models.mmoe(3, N_ITEMS, dim=2))

    def test_histories_that_are_too_short(self):
        with pytest.raises(DataError, match="no user has the events"):
            training.sequence_data(log_of([[1], [2]]), SequenceFrame("windows", 4, (4,)))


class TestSparse:
    """Steps that touch the rows of a batch alone."""

    OPTIONS = {"loss": "scaled_cross_entropy", "n_negatives": 3, "shared": True}

    @staticmethod
    def model(name="gru4rec"):
        options = {"n_heads": 1, "n_blocks": 1} if name == "sasrec" else {}
        return getattr(models, name)(N_ITEMS, dim=DIM, max_len=4, **options)

    def steps(self, n, name="gru4rec", **options):
        method = methods.next_item(self.model(name), batch_size=2, **self.OPTIONS, **options)
        log = training.sequence_data(LOG, method.frame)
        states = [jax.jit(method.init)(jax.random.key(1), log, {"lr": 0.1, "weight_decay": 0.0})]
        batches, step = jax.jit(method.batches)(log, jax.random.key(2)), jax.jit(method.step)
        for number in range(n):
            batch = jax.tree.map(lambda x, number=number: x[number], batches)
            states.append(step(states[-1], log, batch, jax.random.key(3 + number))[0])
        return states

    @pytest.mark.parametrize("name", [pytest.param("gru4rec", marks=pytest.mark.slow), "sasrec"])
    def test_the_first_step_is_that_of_all_rows(self, name):
        # By their gradients: a gradient of 0, as a bias of attention's keys has, is rounding that Adam blows up.
        dense, sparse = (gradient(self.steps(1, name, **options)[1]) for options in ({}, {"sparse": True}))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), dense, sparse)
        # Before the first step there is no momentum by which other rows could move.
        if name == "gru4rec":
            dense, sparse = (self.steps(1, name, **options)[1].params for options in ({}, {"sparse": True}))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), dense, sparse)

    def test_rows_outside_the_batch_stand_still(self):
        start, first, second = (state.params["prediction"] for state in self.steps(2, sparse=True))
        moved = [
            np.any(np.asarray(a != b), axis=1)
            for a, b in ((start["item"], first["item"]), (first["item"], second["item"]))
        ]
        assert all(0 < rows[:N_ITEMS].sum() < N_ITEMS and not rows[N_ITEMS] for rows in moved)
        assert np.any(moved[0] != moved[1])

    def test_padding_reads_no_item(self):
        """Of positions without a target a 0 stands in the batch; item 0 stands nowhere in this log."""
        log = log_of([[4, 2, 7, 5, 8, 1], [5, 3, 3], [6, 4]])
        method = methods.next_item(
            self.model(), loss="scaled_cross_entropy", negatives="in_batch", batch_size=9, sparse=True
        )
        log = training.sequence_data(log, method.frame)
        before = jax.jit(method.init)(jax.random.key(1), log, {"lr": 0.1, "weight_decay": 0.5})
        batch = jax.tree.map(lambda x: x[0], jax.jit(method.batches)(log, jax.random.key(2)))
        after, _ = jax.jit(method.step)(before, log, batch, jax.random.key(3))
        moved = np.any(
            np.asarray(before.params["prediction"]["item"] != after.params["prediction"]["item"]), axis=1
        )
        assert moved[:N_ITEMS].tolist() == [False] + [True] * (N_ITEMS - 1)

    def test_a_row_that_is_read_again_goes_on_with_its_own_moments(self):
        items = _row_sparse.distinct_items(jnp.asarray([2, 4, 2, N_ITEMS]), n_items=N_ITEMS)
        params = {"item": jnp.ones((N_ITEMS + 1, 1)), "scale": jnp.ones(1)}
        tables = {"item": True, "scale": False}
        state = _row_sparse.row_adam()({}).init(params)
        # g = 1 and then 3 for item 2; every second step leaves it out.
        for step, (rows, slope) in enumerate(
            [(items, 1.0), (items._replace(rows=items.rows.at[0].set(0)), 7.0), (items, 3.0)]
        ):
            grads = {"item": jnp.full((5, 1), slope), "scale": jnp.full(1, slope)}
            params, state = _row_sparse.adam_step(
                params, state, grads, rows, tables, lr=jnp.float32(0.1), weight_decay=jnp.float32(0.0)
            )
            if step == 1:
                after_one = float(params["item"][2, 0])
        mean, square = 0.9 * 0.1 * 1.0 + 0.1 * 3.0, 0.999 * 0.001 * 1.0 + 0.001 * 9.0
        step_size = 0.1 * (mean / (1 - 0.9**3)) / np.sqrt(square / (1 - 0.999**3))
        np.testing.assert_allclose(after_one, 0.9, rtol=1e-5)
        np.testing.assert_allclose(params["item"][2, 0], after_one - step_size, rtol=1e-4)
        assert float(params["item"][3, 0]) == 1.0

    @pytest.mark.parametrize("options", [{"shared": False}, {"samples": "cloze"}])
    def test_what_has_no_sparse_step(self, options):
        model = models.bert4rec(N_ITEMS, dim=4, max_len=4) if "samples" in options else self.model()
        with pytest.raises(ConfigError, match="sparse=True needs"):
            methods.next_item(model, **(self.OPTIONS | options), sparse=True)
