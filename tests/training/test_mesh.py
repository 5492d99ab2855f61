"""Several devices: the same run as on one, with the work and the tables split. The test process has four of a CPU."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from debias_jax import data, losses, methods, metrics, models, training
from debias_jax.errors import ConfigError
from debias_jax.training import early_stop, evaluation
from debias_jax.training._programs import programs_of, train_epochs
from debias_jax.training.checkpoint import Checkpointer

N_USERS, N_ITEMS, DIM = 256, 130, 32
BATCH = 256


@pytest.fixture(scope="module")
def log():
    log = data.synthetic.generate(seed=1, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.05)
    return data.splits.biif(log, seed=0)


@pytest.fixture(scope="module")
def train(log):
    return training.train_data(log)


@pytest.fixture(scope="module")
def mf():
    return methods.mf(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=BATCH)


def _methods():
    model = models.mf(N_USERS, N_ITEMS, dim=DIM)
    exposure = models.biif_exposure(N_USERS, dim=DIM)
    return {
        "bpr": lambda: methods.bpr(model, batch_size=BATCH),
        "biif": lambda: methods.biif(model, exposure, item_vectors=models.item_vectors, batch_size=BATCH),
        "eib": lambda: methods.eib(model, model, batch_size=BATCH),
        "ssl_pop": lambda: methods.ssl_pop(model, batch_size=BATCH),
        "xir": lambda: methods.xir(model, batch_size=BATCH),
    }


def _fit(method, train, mesh, *, seeds=(3, 4), strategy="map", **settings):
    keys = jnp.stack([training.run_key(seed) for seed in seeds])
    settings = {"epochs": 2, "hparams": {"lr": 1e-3}} | settings
    return training.fit_many(method, train, keys, strategy=strategy, mesh=mesh, **settings)


def _assert_same_run(alone, split):
    for one, other in zip(jax.tree.leaves(alone.last_state), jax.tree.leaves(split.last_state), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    for one, other in zip(alone.history, split.history, strict=True):
        for name in one:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-4)


def _held(leaf):
    """The share of an array that a device holds."""
    return leaf.addressable_shards[0].data.size / leaf.size


class TestFit:
    @pytest.mark.parametrize(
        "name",
        [pytest.param(name, marks=[pytest.mark.slow] * (name in ("eib", "ssl_pop"))) for name in _methods()],
    )
    def test_a_run_on_four_devices_is_the_run_on_one(self, name, train):
        method = _methods()[name]()
        _assert_same_run(_fit(method, train, None), _fit(method, train, training.make_mesh(data=2, table=2)))

    @pytest.mark.parametrize(
        ("loss", "lengths", "n_users"),
        [
            ("cross_entropy", (8,), 64),
            ("scaled_cross_entropy", (8,), 64),
            pytest.param("cross_entropy", (4, 8), 160, marks=pytest.mark.slow),
            pytest.param("scaled_cross_entropy", (4, 8), 160, marks=pytest.mark.slow),
        ],
    )
    def test_so_is_that_of_a_sequence_model(self, loss, lengths, n_users):
        log = data.sequences.leave_one_out(data.synthetic_sequences.generate(n_users=n_users, n_items=129))
        model = models.sasrec(129, dim=DIM, max_len=8, n_blocks=1)
        method = methods.next_item(model, loss=loss, lengths=lengths, batch_size=16)
        train = training.data_for(method, log)
        runs = [_fit(method, train, mesh, seeds=(3,)) for mesh in (None, training.make_mesh(data=2, table=2))]
        # The key's bias has no gradient but rounding, of which Adam makes full steps: scores are compared, not states.
        scores = [
            jax.vmap(method.predict, (0, None, None))(
                run.last_state,
                jnp.arange(2, dtype=jnp.int32),
                jnp.asarray([[129, 3, 4], [7, 8, 9]], jnp.int32),
            )
            for run in runs
        ]
        np.testing.assert_allclose(*scores, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(runs[0].history[-1]["loss"], runs[1].history[-1]["loss"], rtol=1e-5)

    def test_batches_and_chunks_that_do_not_divide_have_a_smaller_last_part(self, train):
        method = methods.bpr(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=100)
        _assert_same_run(_fit(method, train, None), _fit(method, train, training.make_mesh(data=3)))

    @pytest.mark.parametrize(
        "name", ["cross_entropy", pytest.param("scaled_cross_entropy", marks=pytest.mark.slow)]
    )
    def test_so_have_histories_and_chunks_of_the_softmax(self, name):
        log = data.sequences.leave_one_out(data.synthetic_sequences.generate(n_users=64, n_items=50))
        model = models.gru4rec(50, dim=DIM, max_len=8)
        method = methods.next_item(model, loss=name, lengths=(3, 8), batch_size=17, chunk=10)
        train = training.data_for(method, log)
        _assert_same_run(
            *(_fit(method, train, mesh, seeds=(3,)) for mesh in (None, training.make_mesh(data=3)))
        )

    def test_one_run_is_split_too(self, mf, train):
        mesh = training.make_mesh(data=2, table=2)
        result = training.fit(mf, train, training.run_key(3), {"lr": 1e-3}, epochs=2, mesh=mesh)
        assert _held(result.state.params["prediction"]["user"]) == 0.5

    def test_runs_side_by_side_are_split_alike(self, mf, train):
        mesh = training.make_mesh(data=4)
        _assert_same_run(_fit(mf, train, None, strategy="vmap"), _fit(mf, train, mesh, strategy="vmap"))

    def test_a_device_holds_its_part_of_tables_and_moments(self, mf, train):
        state = _fit(mf, train, training.make_mesh(data=2, table=2)).last_state
        tables = [leaf for leaf in jax.tree.leaves((state.params, state.opt_state)) if leaf.ndim == 3]
        # Two tables with two moments each. The mesh is 2 x 2: each half lies twice.
        assert [_held(leaf) for leaf in tables] == [0.5] * 6
        assert all(leaf.addressable_shards[0].data.shape[2] == DIM for leaf in tables)

    def test_a_table_whose_rows_do_not_divide_is_split_by_columns(self, mf, train):
        params = _fit(mf, train, training.make_mesh(table=4)).last_state.params["prediction"]
        shapes = {name: table.addressable_shards[0].data.shape for name, table in params.items()}
        assert shapes == {"user": (2, N_USERS // 4, DIM), "item": (2, N_ITEMS, DIM // 4)}

    def test_the_best_epoch_is_chosen_and_kept_as_on_one(self, mf, log, train):
        protocol = metrics.PROTOCOLS["snips"]

        def evaluate(state, eval_set):
            return evaluation.summarise(evaluation.evaluate(protocol, mf.predict, state, eval_set))

        settings = {
            "evaluate": evaluate,
            "eval_data": evaluation.build_eval_set(protocol, log.validation, log.train),
            "monitor": "snips_dcg@3",
            "hparams": {"lr": 0.05},
            "epochs": 6,
        }
        alone = _fit(mf, train, None, **settings)
        split = _fit(mf, train, training.make_mesh(data=2, table=2), **settings)
        assert alone.best_epoch.tolist() == split.best_epoch.tolist() != [6, 6]
        np.testing.assert_allclose(alone.best_value, split.best_value, rtol=1e-4)
        assert _held(split.state.params["prediction"]["user"]) == 0.5

    def test_the_second_chunk_compiles_nothing(self, mf, train, caplog):
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            _fit(mf, train, training.make_mesh(data=4), epochs=3)
        compiled = [
            record.getMessage()
            for record in caplog.records
            if record.getMessage().startswith("Finished XLA compilation")
        ]
        assert sum("by_map" in message for message in compiled) == 2, compiled


def _work(function, *arguments, mesh):
    """Floating-point operations of one device."""
    with jax.set_mesh(mesh):
        return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


class TestWork:
    """What each device computes, as the compiler counts it: the body of a loop once."""

    @pytest.mark.parametrize("data", [3, 4])
    @pytest.mark.parametrize("reduce_fn", [jnp.mean, None])
    def test_a_chunk_of_the_softmax_is_split(self, data, reduce_fn):
        arrays = (jnp.ones((250, 16)), jnp.ones((2000, 16)), jnp.arange(250), jnp.arange(250) % 3 > 0)

        def loss(hidden, table, target, where):
            found = losses.chunked_cross_entropy(
                hidden, table, target, where=where, chunk=64, reduce_fn=reduce_fn
            )
            return jnp.sum(found)

        whole, part = (
            _work(
                jax.grad(loss, (0, 1)), *jax.device_put(arrays, jax.NamedSharding(mesh, jax.P())), mesh=mesh
            )
            for mesh in (training.make_mesh(), training.make_mesh(data=data))
        )
        assert 1 / data <= part / whole < 1.3 / data

    @pytest.mark.parametrize(
        ("name", "largest"), [("mf", 0.7), ("cross_entropy", 0.35), ("scaled_cross_entropy", 0.35)]
    )
    def test_an_epoch_is_split(self, name, largest, train):
        # Of ``mf`` each device draws all negatives, and moves its whole tables.
        if name == "mf":
            method = methods.mf(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=4096)
        else:
            log = data.sequences.leave_one_out(data.synthetic_sequences.generate(n_users=128, n_items=400))
            model = models.sasrec(400, dim=DIM, max_len=8, n_blocks=1)
            method = methods.next_item(model, loss=name, lengths=(4, 8), batch_size=126)
            train = training.data_for(method, log)
        key = training.run_key(3)
        hparams = {name: jnp.float32(value) for name, value in method.hparams.items()}
        counted = []
        for mesh in (training.make_mesh(), training.make_mesh(data=4)):
            arrays = jax.device_put(
                (jax.jit(method.init)(key, train, hparams), train, key), jax.NamedSharding(mesh, jax.P())
            )

            def epoch(state, train, key, mesh=mesh):
                return train_epochs(method, state, train, key, jnp.int32(0), n_epochs=1, mesh=mesh)

            counted.append(jax.jit(epoch).lower(*arrays).compile().cost_analysis()["flops"])
        assert counted[1] / counted[0] < largest, counted

    def test_users_are_split_in_an_evaluation(self, mf, log, train):
        protocol = metrics.PROTOCOLS["snips"]
        eval_set = evaluation.build_eval_set(protocol, log.validation, log.train)
        hparams = {name: jnp.float32(value) for name, value in mf.hparams.items()}
        state = jax.jit(mf.init)(training.run_key(3), train, hparams)

        def values(state, eval_set):
            return evaluation.evaluate(protocol, mf.predict, state, eval_set)

        whole, part = (
            _work(values, *jax.device_put((state, eval_set), jax.NamedSharding(mesh, jax.P())), mesh=mesh)
            for mesh in (training.make_mesh(), training.make_mesh(data=4))
        )
        assert part / whole < 0.35

    def test_so_are_they_where_epochs_are_judged(self, mf, log, train):
        protocol = metrics.PROTOCOLS["snips"]
        eval_set = evaluation.build_eval_set(protocol, log.validation, log.train)

        def values(state, eval_set):
            return evaluation.summarise(evaluation.evaluate(protocol, mf.predict, state, eval_set))

        counted = []
        for mesh in (training.make_mesh(), training.make_mesh(data=4)):
            programs = programs_of(*mf[:4], "map", mesh, values, "snips_dcg@3", "max", None)
            hparams = {name: jnp.float32(value)[None] for name, value in mf.hparams.items()}
            arrays = (training.run_key(3)[None], train, hparams)
            states = programs.init(*jax.device_put(arrays, jax.NamedSharding(mesh, jax.P())))
            stop = jax.vmap(lambda params: early_stop.init(params, mode="max"))(states.params)
            arrays = (
                states,
                stop,
                *jax.device_put((eval_set, jnp.int32(1)), jax.NamedSharding(mesh, jax.P())),
            )
            counted.append(programs.judge.lower(*arrays).compile().cost_analysis()["flops"])
        assert counted[1] / counted[0] < 0.35, counted


@pytest.fixture(scope="module")
def sasrec():
    model = models.sasrec(20, dim=8, max_len=5, n_blocks=1)
    return model, model.init(jax.random.key(0))


class TestOwnMesh:
    """Meshes that callers put into the context themselves."""

    def test_outside_jit_rows_need_not_divide(self, sasrec):
        model, params = sasrec
        history = jnp.asarray([[20, 20, 1, 2, 3]] * 3, jnp.int32)

        def total(params):
            return jnp.sum(model.apply(params, history) ** 2)

        expected, expected_gradient = jax.value_and_grad(total)(params)
        with jax.set_mesh(training.make_mesh(data=4)):
            found, gradient = jax.value_and_grad(total)(params)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5), gradient, expected_gradient
        )

    def test_other_axes_are_left_alone(self, sasrec):
        model, params = sasrec
        histories = jnp.asarray([[[20, 1, 2, 3]] * 2] * 4, jnp.int32)
        alone = jax.vmap(lambda history: model.apply(params, history))(histories)
        with jax.set_mesh(jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))):
            mapped = jax.vmap(lambda history: model.apply(params, history), spmd_axis_name="data")
            np.testing.assert_allclose(jax.jit(mapped)(histories), alone, rtol=1e-5)


class TestResume:
    def test_a_split_run_goes_on_to_the_bit(self, mf, train, tmp_path):
        mesh = training.make_mesh(data=2, table=2)
        whole = _fit(mf, train, mesh, epochs=4)
        for epochs in (2, 4):
            with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
                parts = _fit(mf, train, mesh, epochs=epochs, checkpointer=saver)
        for one, other in zip(jax.tree.leaves(whole.state), jax.tree.leaves(parts.state), strict=True):
            np.testing.assert_array_equal(one, other)
        assert _held(parts.state.params["prediction"]["user"]) == 0.5

    def test_on_other_devices_it_goes_on_and_says_what_that_means(self, mf, train, tmp_path, caplog):
        with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
            _fit(mf, train, training.make_mesh(data=2), checkpointer=saver)
        with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
            parts = _fit(mf, train, None, epochs=4, checkpointer=saver)
        assert (
            "epochs 1 to 2 were trained on a mesh of data=2, table=1, the others will be on one device"
            in caplog.text
        )
        _assert_same_run(_fit(mf, train, None, epochs=4), parts)
        caplog.clear()
        with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
            _fit(mf, train, training.make_mesh(), epochs=6, checkpointer=saver)
        # A mesh of one device is one device.
        assert "trained on" not in caplog.text
        with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
            _fit(mf, train, training.make_mesh(data=4), epochs=8, checkpointer=saver)
        assert (
            "epochs 1 to 2 were trained on a mesh of data=2, table=1, epochs 3 to 6 were trained on one device, the "
            "others will be on a mesh of data=4, table=1" in caplog.text
        )

    def test_a_run_that_has_stopped_trains_nowhere_else(self, mf, train, tmp_path, caplog):
        settings = {
            "evaluate": lambda state, _: {"value": -jnp.float32(state.step)},
            "monitor": "value",
            "patience": 1,
            "epochs": 8,
        }
        for mesh in (None, training.make_mesh(data=2)):
            with Checkpointer(tmp_path / "run", fingerprint={}) as saver:
                result = _fit(mf, train, mesh, checkpointer=saver, **settings)
        assert len(result.history) == 2
        assert "trained on" not in caplog.text


class TestRefusals:
    def test_more_devices_than_there_are(self):
        with pytest.raises(
            ConfigError, match=r"asks for 8 devices, and there are 4 \(cpu\); XLA_FLAGS=.*count=8"
        ):
            training.make_mesh(data=4, table=2)

    @pytest.mark.parametrize("sizes", [{"data": 0}, {"table": -1}, {"data": 1.5}])
    def test_sizes_that_are_none(self, sizes):
        with pytest.raises((TypeError, ValueError), match="data|table"):
            training.make_mesh(**sizes)

    def test_fewer_rows_than_parts(self, train):
        method = methods.bpr(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=3)
        with pytest.raises(ConfigError, match="mesh.data=4 .* a batch has 3 rows; .*train.batch_size"):
            _fit(method, train, training.make_mesh(data=4))

    def test_batches_of_one_row(self, train):
        method = methods.bpr(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=1)
        with pytest.raises(ConfigError, match="mesh.data=2 .* a batch has 1 rows; .*train.batch_size"):
            _fit(method, train, training.make_mesh(data=2))

    def test_a_method_without_batches_to_split(self, train):
        method = methods.mean_logit()
        with pytest.raises(ConfigError, match="takes all data in one step; set mesh.data=1"):
            _fit(method, train, training.make_mesh(data=2), hparams={})

    def test_tables_that_do_not_divide(self, train):
        method = methods.mf(models.mf(N_USERS, N_ITEMS, dim=DIM), batch_size=BATCH)
        with pytest.raises(
            ConfigError, match=r"mesh.table=3 .*: 3 divides no axis .*\(256, 32\); .*model.dim"
        ):
            _fit(method, train, training.make_mesh(table=3))

    def test_tables_that_are_small(self, train):
        method = methods.mf(models.mf(N_USERS, N_ITEMS, dim=4), batch_size=BATCH)
        with pytest.raises(ConfigError, match="mesh.table=2 .*no array of this method has 4096 values"):
            _fit(method, train, training.make_mesh(table=2))

    @pytest.mark.parametrize(
        ("mesh", "message"),
        [
            (4, "mesh is 4; give one of training.make_mesh"),
            (
                jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,)),
                r"the axes batch \(Auto\); fit wants",
            ),
            (jax.make_mesh((2, 2), ("data", "table")), r"data \(Explicit\), table \(Explicit\); fit wants"),
        ],
    )
    def test_a_mesh_that_is_not_ours(self, mf, train, mesh, message):
        with pytest.raises(ConfigError, match=message):
            _fit(mf, train, mesh)
