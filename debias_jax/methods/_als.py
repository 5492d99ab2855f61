"""Least squares for the vectors of one side of a factorisation, the other side held fixed.

The normal equations of a row are ``(sum_j w_j f_j f_j^T + ridge I) x = sum_j w_j y_j f_j``. A symmetric matrix is kept
as its lower triangle, ``dim (dim + 1) / 2`` numbers: the sums for many rows are then one matrix product with half the
operations, and half the memory.
"""

import jax
import jax.numpy as jnp
import numpy as np

from debias_jax.errors import ConfigError
from debias_jax.methods.base import TrainData
from debias_jax.models.base import Model
from debias_jax.types import Array


def check_factors(name: str, model: Model) -> None:
    """Refuses a model whose score is not the inner product of a user and an item vector.

    Raises:
        ConfigError: it has other parameters than the tables ``user`` and ``item``.
    """
    found = jax.eval_shape(model.init, jax.random.key(0))
    if set(found) != {"user", "item"} or any(getattr(table, "ndim", 0) != 2 for table in found.values()):
        raise ConfigError(
            f"{name} solves for the vectors of users and items, and this model has the parameters {sorted(found)}; "
            "pass models.mf(..., bias=False) (config: model.name='mf', model.bias=False)"
        )


def user_chunks(n_users: int, size: int) -> Array:
    """Ids of all users in rows of ``size``, int32 ``[n_chunks, size]``; ids of ``n_users`` and above are padding."""
    size = min(size, n_users)
    n_chunks = -(-n_users // size)
    return jnp.arange(n_chunks * size, dtype=jnp.int32).reshape(n_chunks, size)


def clicks_of(data: TrainData, users: Array, dtype) -> Array:
    """The rows of the click matrix of a run of consecutive users, ``[len(users), n_items]``; 0 for padding."""
    rows = data.clicks[0] - users[0]
    # A negative index would count from the end.
    rows = jnp.where(rows < 0, users.shape[0], rows)
    block = jnp.zeros((users.shape[0], data.matrix_size[1]), dtype)
    return block.at[rows, data.clicks[1]].set(1.0, mode="drop")


def packed_products(vectors: Array) -> Array:
    """The lower triangles of ``f f^T``: ``[n, dim]`` to ``[n, dim (dim + 1) / 2]``."""
    rows, columns = np.tril_indices(vectors.shape[-1])
    return vectors[:, rows] * vectors[:, columns]


def solve(packed: Array, right: Array, ridge: Array) -> Array:
    """``(A + ridge I) x = b`` for many symmetric A.

    Args:
        packed: ``[n, dim (dim + 1) / 2]`` lower triangles of the A, positive semi-definite.
        right: ``[n, dim]``, the b.
        ridge: positive scalar.

    Returns:
        ``[n, dim]``.
    """
    dim = right.shape[-1]
    rows, columns = np.tril_indices(dim)
    where = np.zeros((dim, dim), np.int32)
    where[rows, columns] = where[columns, rows] = np.arange(rows.size)

    def one(triangle, b):
        matrix = triangle[where] + ridge * jnp.eye(dim, dtype=triangle.dtype)
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), b)

    return jax.vmap(one)(packed, right)


def solve_in_chunks(packed: Array, right: Array, ridge: Array, size: int) -> Array:
    """``solve`` with no more than ``size`` matrices unpacked at once."""
    n, size = right.shape[0], min(size, right.shape[0])
    n_chunks = -(-n // size)

    def chunked(values):
        padded = jnp.pad(values, ((0, n_chunks * size - n), (0, 0)))
        return padded.reshape(n_chunks, size, values.shape[-1])

    solved = jax.lax.map(lambda own: solve(*own, ridge), (chunked(packed), chunked(right)))
    return solved.reshape(n_chunks * size, -1)[:n]
