"""Rows split over devices: whoever trains puts a mesh into the context, and whoever has many rows asks for it."""

import jax
from jax.sharding import PartitionSpec

from debias_jax.types import PyTree

DATA, TABLE = "data", "table"
"""The axes of a mesh of ``training.make_mesh``: the rows of a batch are split over one, tables over the other."""


def split_rows(tree: PyTree) -> PyTree:
    """Arrays ``[n, ...]`` with their rows over ``DATA`` of the mesh in the context; as they are without such a mesh.

    Meshes of other axes are the caller's own business, as is an axis that is explicit or manual.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != (DATA, TABLE) or DATA not in mesh.auto_axes:
        return tree
    return _split(tree)


@jax.jit
def _split(tree: PyTree) -> PyTree:
    # Outside jit only rows that the axis divides could be constrained.
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(DATA))
