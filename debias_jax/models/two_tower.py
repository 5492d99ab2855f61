"""Two towers: a network over a user's id and features, another over an item's, and an inner product."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from debias_jax.errors import ConfigError
from debias_jax.models.base import (
    Model,
    check_features,
    check_pairs,
    check_sizes,
    from_nnx,
    inner_products,
    lookup,
    param,
    with_bias,
)
from debias_jax.types import Array, Key, Params


def two_tower(
    n_users: int,
    n_items: int,
    *,
    dim: int,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    hidden: Sequence[int] = (64,),
    ids: bool = True,
    bias: bool = False,
    init_scale: float = 0.1,
    normalize: bool = False,
    temperature: float = 1.0,
) -> Model:
    r"""Two towers over ids and features: the logit of a pair is the inner product of what they give.

    .. math::
        s_{ui} = f([\omega_u; x_u])^\top g([\omega_i; x_i]) / \tau \; (+\, b_u + b_i + b)

    with embeddings :math:`\omega`, given features :math:`x`, and multilayer perceptrons :math:`f, g` with ReLU and a
    linear last layer. ``apply(params, users, items)`` broadcasts like ``mf``; an id out of range scores NaN.

    A tower runs once for an id: over all ids where more are asked for than there are, over the asked ones otherwise.
    The features are no parameters and ``apply`` has no place for them, so it closes over them.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        dim: length of the embeddings and of what the towers give.
        user_features: ``[n_users, d]``, or None.
        item_features: ``[n_items, d]``, or None.
        hidden: widths of the hidden layers of each tower.
        ids: whether the towers see ids; without, pairs that nobody rated are scored by their features alone.
        bias: whether to add user, item and global biases, which start at 0.
        init_scale: standard deviation of the embeddings' normal initialisation; layers start with variance 1 / fan-in.
        normalize: whether what the towers give is divided by its length, so that the inner product is a cosine.
        temperature: :math:`\tau > 0`; cosines need one well below 1, e.g. 0.1, to give a sharp softmax.

    Returns:
        The model, with its towers; parameters ``user`` and ``item``, each with ``embedding [n, dim]`` and ``layers``,
        and the biases of ``mf``.

    Raises:
        ConfigError: a size is not a positive integer, the temperature not positive, features do not fit or are larger
            than 16 MiB, or a tower has no input.
        ValueError: (``apply``) users do not broadcast against items.
        TypeError: (``apply``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> model = two_tower(3, 5, dim=2, user_features=np.eye(3), hidden=(8,))
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.arange(3)[:, None], jnp.arange(5)[None, :]).shape
        (3, 5)

    Source:
        Covington, Adams, Sargin, "Deep neural networks for YouTube recommendations" (RecSys 2016); Yi et al.,
        "Sampling-bias-corrected neural modeling for large corpus item recommendations" (RecSys 2019).
    """
    check_sizes(n_users=n_users, n_items=n_items, dim=dim)
    for position, width in enumerate(hidden):
        check_sizes(**{f"hidden[{position}]": width})
    user_features = check_features("user_features", user_features, n_users)
    item_features = check_features("item_features", item_features, n_items)
    sides = {"user": (n_users, user_features), "item": (n_items, item_features)}
    for side, (_, features) in sides.items():
        if features is None and not ids:
            raise ConfigError(f"the {side} tower has no input: give {side}_features, or set ids=True")
    if not temperature > 0:
        raise ConfigError(f"temperature must be positive, got {temperature}")
    shapes = [(rows, 0 if features is None else features.shape[1]) for rows, features in sides.values()]
    template = from_nnx(
        lambda rngs: _TwoTowers(*shapes, dim, tuple(hidden), ids, bias, init_scale, rngs=rngs)
    )
    user_network, item_network = (
        from_nnx(lambda rngs, shape=shape: _Tower(*shape, dim, tuple(hidden), ids, init_scale, rngs=rngs))
        for shape in shapes
    )

    def finished(vectors: Array, scale: float) -> Array:
        if normalize:
            vectors = vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)
        return vectors if scale == 1.0 else vectors * scale

    def users_of(params: Params, users: Array) -> Array:
        return finished(user_network.apply(params["user"], users, user_features), 1.0 / temperature)

    def items_of(params: Params, items: Array) -> Array:
        return finished(item_network.apply(params["item"], items, item_features), 1.0)

    def user_bias(params: Params, users: Array) -> Array:
        return lookup(params["user_bias"], users) + params["global_bias"]

    def apply(params: Params, users: Array, items: Array, *, key: Key | None = None) -> Array:
        del key
        check_pairs(users, items)
        logits = inner_products(users_of(params, users), items_of(params, items))
        return logits + user_bias(params, users) + lookup(params["item_bias"], items) if bias else logits

    def user_tower(params: Params, users: Array) -> Array:
        vectors = users_of(params, users)
        return with_bias(vectors, user_bias(params, users), first=True) if bias else vectors

    def item_tower(params: Params, items: Array) -> Array:
        vectors = items_of(params, items)
        return with_bias(vectors, lookup(params["item_bias"], items), first=False) if bias else vectors

    def output_table(params: Params) -> Array:
        return item_tower(params, jnp.arange(n_items))

    return Model(template.init, apply, user_tower, item_tower, output_table=output_table)


class _Tower(nnx.Module):
    def __init__(self, n_rows, n_features, dim, hidden, ids, init_scale, *, rngs):
        self.ids = ids
        self.n_rows = n_rows
        if ids:
            self.embedding = param(rngs(), (n_rows, dim), init_scale)
        widths = (dim * ids + n_features, *hidden, dim)
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(widths)])

    def __call__(self, ids, features):
        tables = [] if features is None else [jnp.asarray(features)]
        if self.ids:
            tables.insert(0, self.embedding[...])
        inputs = jnp.concatenate(tables, axis=-1)
        if ids.size < self.n_rows:
            return self.network(lookup(inputs, ids))
        return lookup(self.network(inputs), ids)

    def network(self, x):
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


class _TwoTowers(nnx.Module):
    """The parameters of both towers and the biases."""

    def __init__(self, user_shape, item_shape, dim, hidden, ids, bias, init_scale, *, rngs):
        self.user = _Tower(*user_shape, dim, hidden, ids, init_scale, rngs=rngs)
        self.item = _Tower(*item_shape, dim, hidden, ids, init_scale, rngs=rngs)
        if bias:
            self.user_bias = nnx.Param(jnp.zeros(user_shape[0], jnp.float32))
            self.item_bias = nnx.Param(jnp.zeros(item_shape[0], jnp.float32))
            self.global_bias = nnx.Param(jnp.zeros((), jnp.float32))
