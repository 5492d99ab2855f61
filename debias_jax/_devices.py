"""Rows split over devices: whoever trains puts a mesh into the context, and whoever has many rows asks for it."""

import jax
from jax.sharding import PartitionSpec

from debias_jax.types import PyTree

DATA = "data"
"""The axis of a mesh over which the rows of a batch are split."""


def split_rows(tree: PyTree) -> PyTree:
    """Arrays ``[n, ...]`` with their rows over ``DATA`` of the mesh of the context; as they are where there is none.

    An axis that is explicit or manual is the caller's own business, and left alone.
    """
    if DATA not in jax.sharding.get_abstract_mesh().auto_axes:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(DATA))
