"""Training on several devices: batches split over one axis of a mesh, tables over the other.

Nothing in a method knows of it. The arrays of a run are placed, and the compiler splits the work after them; what
comes out is what one device computes, up to the order of float sums.
"""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from debias_jax._checks import check_sizes
from debias_jax.errors import ConfigError
from debias_jax.types import PyTree

DATA, TABLE = "data", "table"

_SMALLEST = 4096
"""Values of a run's array from which on it is split: a smaller one costs more to gather than to hold."""


def make_mesh(*, data: int = 1, table: int = 1) -> Mesh:
    """A mesh of the first ``data * table`` devices of this process, for ``fit`` and ``fit_many``.

    Each step's batch is placed in ``data`` parts; what of its work is split is the compiler's choice, and the softmax
    of ``losses.in_chunks`` is not. Parameters and optimiser state are split into ``table`` parts: each array that has
    at least 4,096 values in a run, along its longest axis that ``table`` divides. Of an embedding table those are
    mostly the rows, or the columns where the number of rows does not divide. The training data lie on every device.

    Args:
        data: parts of a batch. Arrays of a batch whose rows it does not divide stay whole on each device; a batch of
            which it divides none is refused.
        table: parts of a table.

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


def split_tables(mesh: Mesh | None, states: PyTree) -> PyTree:
    """Arrays with a leading axis of runs, split as ``make_mesh`` says; for use under ``jit``.

    Raises:
        ConfigError: the mesh would split tables, and no array can be split.
    """
    if mesh is None:
        return states
    parts = mesh.shape[TABLE]
    axes = [_axis_to_split(leaf.shape, parts) for leaf in jax.tree.leaves(states)]
    if parts > 1 and not any(axes):
        sizes = sorted({leaf.shape[1:] for leaf in jax.tree.leaves(states) if leaf.ndim > 1})
        raise ConfigError(
            f"mesh.table={parts} has nothing to split: no array of a run has {_SMALLEST} values and an axis that "
            f"{parts} divides (their shapes are {', '.join(map(str, sizes))}); set mesh.table=1, or a model.dim that "
            "it divides"
        )

    def place(leaf):
        axis = _axis_to_split(leaf.shape, parts)
        spec = PartitionSpec(*[None] * axis, TABLE) if axis else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, states)


def split_batches(mesh: Mesh | None, batches: PyTree) -> PyTree:
    """Batches ``[steps, B, ...]``, each split along ``B``; for use under ``jit``.

    Arrays with another second axis that the mesh does not divide, such as the one row of items of a block of pairs,
    stay whole.

    Raises:
        ConfigError: the mesh would split batches, and no array can be split.
    """
    if mesh is None:
        return batches
    parts = mesh.shape[DATA]
    leaves = jax.tree.leaves(batches)
    divides = [leaf.ndim > 1 and leaf.shape[1] % parts == 0 for leaf in leaves]
    if parts > 1 and not any(divides):
        sizes = sorted({leaf.shape[1] for leaf in leaves if leaf.ndim > 1} - {0, 1})
        raise ConfigError(
            f"mesh.data={parts} has nothing to split: "
            + (
                f"it does not divide batches of {sizes[-1]}"
                if sizes
                else "this method takes all data in one step"
            )
            + "; set mesh.data=1"
            + (", or a train.batch_size that it divides" if sizes else "")
        )

    def place(leaf):
        whole = leaf.ndim < 2 or leaf.shape[1] % parts
        spec = PartitionSpec() if whole else PartitionSpec(None, DATA)
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(place, batches)


def _axis_to_split(shape: tuple[int, ...], parts: int) -> int:
    """The longest axis past that of runs which ``parts`` divides; 0 if there is none, or the array is small."""
    if np.prod(shape[1:], dtype=np.int64) < _SMALLEST or parts == 1:
        return 0
    axes = [axis for axis in range(1, len(shape)) if shape[axis] % parts == 0]
    return max(axes, key=lambda axis: shape[axis], default=0)
