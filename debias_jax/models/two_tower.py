"""Two towers: a network over a user's id, features and bags, another over an item's, and an inner product."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from debias_jax._checks import check_choice, check_sizes
from debias_jax.errors import ConfigError
from debias_jax.models.base import (
    Model,
    check_bags,
    check_features,
    check_pairs,
    from_nnx,
    inner_products,
    lookup,
    param,
    with_bias,
)
from debias_jax.types import Array, Key, Params

BAG_REDUCTIONS = ("mean", "sum")


def two_tower(
    n_users: int,
    n_items: int,
    *,
    dim: int,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
    user_bags: Mapping[str, np.ndarray] | None = None,
    item_bags: Mapping[str, np.ndarray] | None = None,
    bag_reduction: str = "mean",
    hidden: Sequence[int] = (64,),
    ids: bool = True,
    bias: bool = False,
    init_scale: float = 0.1,
    normalize: bool = False,
    temperature: float = 1.0,
) -> Model:
    r"""Two towers over ids, features and bags: the logit of a pair is the inner product of what they give.

    .. math::
        s_{ui} = f([\omega_u; x_u; z_u])^\top g([\omega_i; x_i; z_i]) / \tau \; (+\, b_u + b_i + b), \qquad
        z_i = \Big[ \frac{1}{|V_{ik}|} \sum_{v \in V_{ik}} e^{(k)}_v \Big]_k

    with embeddings :math:`\omega`, given features :math:`x`, bags :math:`z`, and multilayer perceptrons :math:`f, g`
    with ReLU and a linear last layer. A bag k is what a user or an item has several of (genres, tags, words): ids
    :math:`V_{ik}` of values, each with a vector :math:`e^{(k)}` in a table of the bag's own, which the tower reads the
    mean of. ``apply(params, users, items)`` broadcasts like ``mf``; an id out of range scores NaN.

    A tower runs once for an id: over all ids where more are asked for than there are, over the asked ones otherwise.
    Features and the ids of bags are no parameters and ``apply`` has no place for them, so it closes over them.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        dim: length of the embeddings and of what the towers give.
        user_features: ``[n_users, d]``, or None.
        item_features: ``[n_items, d]``, or None.
        user_bags: int ``[n_users, m]`` by the bag's name, the ids of a user's values in a row, in any order, filled up
            with -1; or None. Ids count from 0; the largest one decides the size of the table. A row of -1 alone, an
            empty bag, gives the zero vector, and an id that stands twice counts twice.
        item_bags: int ``[n_items, m]`` by the bag's name, likewise, e.g. ``{"genres": [[0, 3], [2, -1]]}``.
        bag_reduction: ``"mean"`` of the vectors of a bag, or their ``"sum"``.
        hidden: widths of the hidden layers of each tower.
        ids: whether the towers see ids; without, pairs that nobody rated are scored by features and bags alone.
        bias: whether to add user, item and global biases, which start at 0.
        init_scale: standard deviation of the normal initialisation of embeddings and of the tables of bags; layers
            start with variance 1 / fan-in.
        normalize: whether what the towers give is divided by its length, so that the inner product is a cosine.
        temperature: :math:`\tau > 0`; cosines need one well below 1, e.g. 0.1, to give a sharp softmax.

    Returns:
        The model, with its towers; parameters ``user`` and ``item``, each with ``embedding [n, dim]``, ``layers`` and,
        of each bag, ``bags/<name> [n_values, dim]``, and the biases of ``mf``.

    Raises:
        ConfigError: a size is not a positive integer, the temperature not positive, features or bags do not fit or are
            larger than 16 MiB, or a tower has no input.
        ValueError: ``bag_reduction`` is unknown; (``apply``) users do not broadcast against items.
        TypeError: (``apply``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np
        >>> model = two_tower(3, 5, dim=2, user_features=np.eye(3), hidden=(8,))
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.arange(3)[:, None], jnp.arange(5)[None, :]).shape
        (3, 5)
        >>> genres = np.asarray([[0, 3], [2, -1], [-1, -1], [1, 3], [0, -1]])
        >>> model = two_tower(3, 5, dim=2, item_bags={"genres": genres})
        >>> model.init(jax.random.key(0))["item"]["bags"]["genres"].shape
        (4, 2)

    Source:
        Covington, Adams, Sargin, "Deep neural networks for YouTube recommendations" (RecSys 2016), whose bags are
        averaged likewise; Yi et al.,
        "Sampling-bias-corrected neural modeling for large corpus item recommendations" (RecSys 2019).
    """
    check_sizes(n_users=n_users, n_items=n_items, dim=dim)
    for position, width in enumerate(hidden):
        check_sizes(**{f"hidden[{position}]": width})
    check_choice(BAG_REDUCTIONS, bag_reduction=bag_reduction)
    sides = {
        "user": _inputs("user", n_users, user_features, user_bags, bag_reduction),
        "item": _inputs("item", n_items, item_features, item_bags, bag_reduction),
    }
    for side, inputs in sides.items():
        if inputs.features is None and not inputs.bags and not ids:
            raise ConfigError(
                f"the {side} tower has no input: give {side}_features or {side}_bags, or set ids=True"
            )
    if not temperature > 0:
        raise ConfigError(f"temperature must be positive, got {temperature}")
    towers = {
        side: lambda rngs, inputs=inputs: _Tower(inputs, dim, tuple(hidden), ids, init_scale, rngs=rngs)
        for side, inputs in sides.items()
    }
    template = from_nnx(lambda rngs: _TwoTowers(towers, n_users, n_items, bias, rngs=rngs))
    user_network, item_network = (from_nnx(tower) for tower in towers.values())

    def finished(vectors: Array, scale: float) -> Array:
        if normalize:
            vectors = vectors * jax.lax.rsqrt(jnp.sum(vectors**2, axis=-1, keepdims=True) + 1e-12)
        return vectors if scale == 1.0 else vectors * scale

    def users_of(params: Params, users: Array) -> Array:
        return finished(user_network.apply(params["user"], users, sides["user"]), 1.0 / temperature)

    def items_of(params: Params, items: Array) -> Array:
        return finished(item_network.apply(params["item"], items, sides["item"]), 1.0)

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


class _Inputs(NamedTuple):
    """What the tower of one side is given besides ids.

    Attributes:
        n_rows: users or items.
        features: float32 ``[n_rows, d]``, or None.
        bags: by name int32 ``[n_rows, m]`` ids, and float32 ``[n_rows, 1]`` what the sum of their vectors is multiplied
            by.
    """

    n_rows: int
    features: np.ndarray | None
    bags: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def tables(self) -> dict[str, int]:
        """Rows of the table of each bag."""
        return {name: int(values.max()) + 1 for name, (values, _) in self.bags.items()}


def _inputs(side, n_rows, features, bags, reduction) -> _Inputs:
    """The checked inputs of one side."""

    def factors(values):
        length = np.maximum(np.sum(values >= 0, axis=1, keepdims=True), 1)
        return np.asarray(1.0 / length if reduction == "mean" else np.ones(length.shape), np.float32)

    bags = check_bags(f"{side}_bags", bags, n_rows)
    return _Inputs(
        n_rows,
        check_features(f"{side}_features", features, n_rows),
        {name: (values, factors(values)) for name, values in bags.items()},
    )


class _Tower(nnx.Module):
    def __init__(self, inputs, dim, hidden, ids, init_scale, *, rngs):
        self.ids = ids
        if ids:
            self.embedding = param(rngs(), (inputs.n_rows, dim), init_scale)
        n_features = 0 if inputs.features is None else inputs.features.shape[1]
        widths = (dim * (ids + len(inputs.bags)) + n_features, *hidden, dim)
        self.layers = nnx.List([nnx.Linear(*pair, rngs=rngs) for pair in itertools.pairwise(widths)])
        if inputs.bags:
            self.bags = nnx.Dict(
                {name: param(rngs(), (rows, dim), init_scale) for name, rows in inputs.tables.items()}
            )

    def __call__(self, ids, inputs):
        if ids.size < inputs.n_rows:
            return self.network(self.read(inputs, ids))
        return lookup(self.network(self.read(inputs, None)), ids)

    def read(self, inputs, ids):
        """What the network reads of these ids, or of all with None."""

        def rows(table):
            return jnp.asarray(table) if ids is None else lookup(jnp.asarray(table), ids)

        parts = [rows(self.embedding[...])] if self.ids else []
        parts += [] if inputs.features is None else [rows(inputs.features)]
        for name, (values, factors) in inputs.bags.items():
            # Padding lies outside the table: it reads 0, and its gradient goes nowhere.
            vectors = _rows_or(0.0, self.bags[name][...], _rows_or(-1, jnp.asarray(values), ids))
            parts.append(jnp.sum(vectors, axis=-2) * rows(factors))
        return jnp.concatenate(parts, axis=-1)

    def network(self, x):
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def _rows_or(fill, table, ids):
    """Rows of a table, all of them with None, and ``fill`` for ids outside it."""
    return (
        table if ids is None else table.at[ids].get(mode="fill", fill_value=fill, wrap_negative_indices=False)
    )


class _TwoTowers(nnx.Module):
    """The parameters of both towers and the biases."""

    def __init__(self, towers, n_users, n_items, bias, *, rngs):
        self.user, self.item = towers["user"](rngs), towers["item"](rngs)
        if bias:
            self.user_bias = nnx.Param(jnp.zeros(n_users, jnp.float32))
            self.item_bias = nnx.Param(jnp.zeros(n_items, jnp.float32))
            self.global_bias = nnx.Param(jnp.zeros((), jnp.float32))
