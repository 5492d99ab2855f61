"""Matrix factorisation."""

import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.models.base import (
    Model,
    check_pairs,
    from_nnx,
    inner_products,
    lookup,
    param,
    with_bias,
)
from debias_jax.types import Array, Params


def mf(n_users: int, n_items: int, *, dim: int, bias: bool = False, init_scale: float = 0.1) -> Model:
    r"""Matrix factorisation: the logit of a pair is an inner product, with biases if wanted.

    .. math:: s_{ui} = \omega_u^\top \omega_i \; (+\, b_u + b_i + b)

    ``apply(params, users, items)`` broadcasts users against items axis by axis: ``[B]`` with ``[B]``, or
    ``[E, 1]`` with ``[E, C]`` to score candidates, or ``[U, 1]`` with ``[1, I]`` for the whole matrix. Ids
    are codes of a vocabulary; one that is out of range scores NaN.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        dim: length of the vectors.
        bias: whether to add user, item and global biases, which start at 0.
        init_scale: standard deviation of the vectors' normal initialisation. It sets the scale of a
            hypergradient through the model: a product of vectors, it falls with the square.

    Returns:
        The model, with its towers; parameters ``user [n_users, dim]``, ``item [n_items, dim]`` and, with ``bias``,
        ``user_bias [n_users]``, ``item_bias [n_items]``, ``global_bias []``.

    Raises:
        ConfigError: a size is not a positive integer.
        ValueError: (``apply``) users do not broadcast against items.
        TypeError: (``apply``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = mf(3, 5, dim=2, bias=True)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.arange(3)[:, None], jnp.arange(5)[None, :]).shape
        (3, 5)

    Source:
        Koren, Bell and Volinsky, "Matrix factorization techniques for recommender systems" (2009); without
        biases the model of Biif, eq. 3, and of BADR.
    """
    check_sizes(n_users=n_users, n_items=n_items, dim=dim)
    model = from_nnx(lambda rngs: _MatrixFactorization(n_users, n_items, dim, bias, init_scale, rngs=rngs))

    def user_tower(params: Params, users: Array) -> Array:
        vectors = lookup(params["user"], users)
        if not bias:
            return vectors
        return with_bias(vectors, lookup(params["user_bias"], users) + params["global_bias"], first=True)

    def item_tower(params: Params, items: Array) -> Array:
        vectors = lookup(params["item"], items)
        return with_bias(vectors, lookup(params["item_bias"], items), first=False) if bias else vectors

    def output_table(params: Params) -> Array:
        vectors = params["item"]
        return with_bias(vectors, params["item_bias"], first=False) if bias else vectors

    return model._replace(
        user_tower=user_tower,
        item_tower=item_tower,
        output_table=output_table,
    )


def item_vectors(params: Params, items: Array) -> Array:
    r"""The vectors :math:`\omega_i` of items, which an exposure model shares with the factorisation.

    Args:
        params: parameters of ``mf``.
        items: int ``[...]``; an id out of range gives NaN.

    Returns:
        ``[..., dim]``.

    Raises:
        TypeError: ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = mf(3, 5, dim=2).init(jax.random.key(0))
        >>> item_vectors(params, jnp.asarray([[4, 0, 1]])).shape
        (1, 3, 2)

    Source:
        Biif, eq. 14.
    """
    return lookup(params["item"], items)


def user_vectors(params: Params, users: Array) -> Array:
    r"""The vectors :math:`\omega_u` of users, which a calibration gate reads.

    Args:
        params: parameters of ``mf``, or of another model whose ``user`` table they are.
        users: int ``[...]``; an id out of range gives NaN.

    Returns:
        ``[..., dim]``.

    Raises:
        TypeError: ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = mf(3, 5, dim=2).init(jax.random.key(0))
        >>> user_vectors(params, jnp.asarray([2, 0])).shape
        (2, 2)

    Source:
        Kweon and Yu, "Doubly calibrated estimator for recommendation on data missing not at random" (2024).
    """
    return lookup(params["user"], users)


class _MatrixFactorization(nnx.Module):
    def __init__(self, n_users, n_items, dim, bias, init_scale, *, rngs):
        self.user = param(rngs(), (n_users, dim), init_scale)
        self.item = param(rngs(), (n_items, dim), init_scale)
        self.bias = bias
        if bias:
            self.user_bias = nnx.Param(jnp.zeros(n_users, jnp.float32))
            self.item_bias = nnx.Param(jnp.zeros(n_items, jnp.float32))
            self.global_bias = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, users, items):
        check_pairs(users, items)
        logits = inner_products(lookup(self.user[...], users), lookup(self.item[...], items))
        if self.bias:
            logits += lookup(self.user_bias[...], users) + lookup(self.item_bias[...], items)
            logits += self.global_bias[...]
        return logits
