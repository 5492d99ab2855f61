"""Training on several devices: batches split over one axis of a mesh, tables over the other.

Nothing in a method knows of it. The arrays of a run are placed, those that are made on the way (chunks of a softmax,
histories, users of an evaluation) by ``_devices.split_rows``, and the compiler splits the work after them; what comes
out is what one device computes, up to the order of float sums.
"""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from debias_jax._checks import check_sizes
from debias_jax._devices import DATA, TABLE
from debias_jax.errors import ConfigError
from debias_jax.methods.base import Method, TrainData
from debias_jax.types import PyTree

_SMALLEST = 4096
"""Values of a run's array from which on it is split: a smaller one costs more to gather than to hold."""


def make_mesh(*, data: int = 1, table: int = 1) -> Mesh:
    """A mesh of the first ``data * table`` devices of this process, for ``fit`` and ``fit_many``.

    Each step's batch is placed in ``data`` parts, and so are the rows of each chunk of ``losses.in_chunks``; the
    compiler splits the work after them. Parameters and optimiser state are split into ``table`` parts: each array that
    has at least 4,096 values in a run, along its longest axis that ``table`` divides. Of an embedding table those are
    mostly the rows, or the columns where the number of rows does not divide. The training data lie on every device.

    Args:
        data: parts of a batch; where it does not divide the rows, the last part is the smallest. A batch of fewer rows
            than parts stays whole on each device, and a method that has no other is refused.
        table: parts of a table; a method without an array that it splits is refused.

    Returns:
        The mesh, of axes ``data`` and ``table``.

    Raises:
        ValueError: a number is below 1.
        ConfigError: this process has fewer devices.

    Example:
        >>> make_mesh(data=1, table=1).axis_names
        ('data', 'table')
    """
    check_sizes(**{"mesh.data": data, "mesh.table": table})
    devices = jax.local_devices()
    if data * table > len(devices):
        hint = ""
        if devices[0].platform == "cpu":
            hint = f"; XLA_FLAGS=--xla_force_host_platform_device_count={data * table} makes as many of a CPU"
        raise ConfigError(
            f"mesh.data={data} times mesh.table={table} asks for {data * table} devices, and there are "
            f"{len(devices)} ({devices[0].device_kind}){hint}"
        )
    grid = np.asarray(devices[: data * table]).reshape(data, table)
    return Mesh(grid, (DATA, TABLE), axis_types=(AxisType.Auto, AxisType.Auto))


def on_every_device(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """A copy of arrays on each device of the mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def check_mesh(mesh: Any) -> None:
    """Refuses what is no mesh of ``make_mesh``, and not None.

    Raises:
        ConfigError: it is none.
    """
    if mesh is None:
        return
    if not isinstance(mesh, Mesh):
        raise ConfigError(f"mesh is {mesh!r}; give one of training.make_mesh, or None for one device")
    if mesh.axis_names != (DATA, TABLE) or set(mesh.axis_types) != {AxisType.Auto}:
        axes = ", ".join(
            f"{name} ({kind.name})" for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        )
        raise ConfigError(
            f"mesh has the axes {axes}; fit wants {DATA} and {TABLE}, both Auto, as training.make_mesh makes them"
        )


def check_splits(mesh: Mesh | None, method: Method, data: TrainData) -> None:
    """Refuses a mesh with an axis that splits nothing of a method; computes no values.

    Args:
        mesh: of ``make_mesh``.
        method: the method.
        data: its training data, for their shapes.

    Raises:
        ConfigError: the mesh would split batches, and none has as many rows as parts, or it would split tables, and no
            array can be split.
    """
    if mesh is None:
        return
    key = jax.random.key(0)
    parts = mesh.shape[DATA]
    leaves = jax.tree.leaves(jax.eval_shape(method.batches, data, key))
    if parts > 1 and not any(_is_split(leaf.shape, parts) for leaf in leaves):
        # One step of one row is what a method without batches has.
        rows = sorted({leaf.shape[1] for leaf in leaves if leaf.ndim > 1 and leaf.shape[:2] != (1, 1)} - {0})
        raise ConfigError(
            f"mesh.data={parts} has nothing to split: "
            + (
                f"a batch has {' or '.join(map(str, rows))} rows; set mesh.data=1, or a larger train.batch_size"
                if rows
                else "this method takes all data in one step; set mesh.data=1"
            )
        )
    parts = mesh.shape[TABLE]
    hparams = {name: jnp.float32(value) for name, value in method.hparams.items()}
    shapes = [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(method.init, key, data, hparams))]
    if parts > 1 and not any(_axis_to_split(shape, parts) is not None for shape in shapes):
        large = sorted({shape for shape in shapes if np.prod(shape, dtype=np.int64) >= _SMALLEST})
        raise ConfigError(
            f"mesh.table={parts} has nothing to split: "
            + (
                f"{parts} divides no axis of the shapes {', '.join(map(str, large))}; set mesh.table=1, or a model.dim "
                "that it divides"
                if large
                else f"no array of this method has {_SMALLEST} values; set mesh.table=1"
            )
        )


def inside(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """The context in which rows are split over the mesh, see ``_devices.split_rows``; for use under ``jit``."""
    return contextlib.nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def split_tables(mesh: Mesh | None, states: PyTree) -> PyTree:
    """Arrays with a leading axis of runs, split as ``make_mesh`` says; for use under ``jit``."""
    if mesh is None:
        return states

    def place(leaf):
        axis = _axis_to_split(leaf.shape[1:], mesh.shape[TABLE])
        spec = PartitionSpec() if axis is None else PartitionSpec(*[None] * (1 + axis), TABLE)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, states)


def split_batches(mesh: Mesh | None, batches: PyTree) -> PyTree:
    """Batches ``[steps, B, ...]``, each split along ``B``; for use under ``jit``.

    Arrays with another second axis that has fewer rows than parts, such as the one row of items of a block of pairs,
    stay whole.
    """
    if mesh is None:
        return batches

    def place(leaf):
        spec = PartitionSpec(None, DATA) if _is_split(leaf.shape, mesh.shape[DATA]) else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, batches)


def _is_split(shape: tuple[int, ...], parts: int) -> bool:
    """Whether an array of batches ``[steps, B, ...]`` is split along ``B``."""
    return len(shape) > 1 and shape[1] >= parts


def _axis_to_split(shape: tuple[int, ...], parts: int) -> int | None:
    """The longest axis of a run's array which ``parts`` divides; None if there is none, or the array is small."""
    if np.prod(shape, dtype=np.int64) < _SMALLEST or parts == 1:
        return None
    axes = [axis for axis, size in enumerate(shape) if size % parts == 0]
    return max(axes, key=lambda axis: shape[axis], default=None)
