"""What a model is: two pure functions over a nested dict of arrays, declared with NNX modules.

Flax is used to declare parameters and layers only. No module, generator or graph leaves a call: ``init``
gives plain dicts that optax, checkpoints and safetensors take as they are, and ``apply`` is a function of
those dicts.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, traverse_util

from debias_jax._checks import check_integer
from debias_jax.errors import ConfigError
from debias_jax.types import Array, Key, Params

MAX_FEATURE_BYTES = 16 * 2**20
"""The largest table of features or bags, which are compiled into every program that scores."""


class InitFn(Protocol):
    """``(key) -> params``."""

    def __call__(self, key: Key) -> Params:
        """Draws the parameters."""


class ApplyFn(Protocol):
    """``(params, *inputs, key=None) -> scores``; without a key there is no dropout."""

    def __call__(self, params: Params, *inputs: Array, key: Key | None = None) -> Array:
        """Evaluates the model."""


class EncodeFn(Protocol):
    """``(params, history, users=None, *, key=None) -> [B, l, d]``; without a key there is no dropout."""

    def __call__(
        self, params: Params, history: Array, users: Array | None = None, *, key: Key | None = None
    ) -> Array:
        """Encodes histories."""


class Model(NamedTuple):
    """A model: ``init`` and ``apply``, both safe under jit, vmap and grad.

    A model of pairs has ``apply(params, users, items)``. A model of sequences has ``apply(params, history, users=None,
    *, key=None) -> [B, n_items]``, the scores of the next item, and the fields from ``encode`` on. Its histories are
    int32 ``[B, l]`` of any static ``1 <= l <= max_len``, with the newest item in the last slot and the pad id
    ``n_items`` on the left; nothing depends on ``l`` as long as the history fits.

    Attributes:
        init: see ``InitFn``; float32 parameters as nested dicts with string keys.
        apply: see ``ApplyFn``.
        user_tower: ``(params, users) -> [..., d]`` of a model whose score of a pair is an inner product, biases and
            temperature included; None for others.
        item_tower: likewise, ``(params, items) -> [..., d]``: what an index of nearest neighbours holds.
        encode: see ``EncodeFn``; the vectors whose inner products with ``item_tower`` score the item after each slot
            (at each slot, of a model with a ``mask_id``). ``[B, 1, d]`` of a model that scores after the last slot
            only.
        output_table: ``(params) -> [n_items, d]``, what ``item_tower`` gives for every item.
        max_len: the longest history.
        mask_id: the id that stands for an item to be guessed; None for models that read from left to right.
        uses_users: whether ``encode`` needs users.
        last_slot_only: whether ``encode`` gives ``[B, 1, d]``.
        fills_up: whether ``encode`` computes on ``max_len`` slots however short the history, so that nothing is gained
            by sorting histories by length.
        resized: ``n_items -> Model``, the same model over another number of items: its parameters are of the same names
            and differ in the rows of items alone.
    """

    init: InitFn
    apply: ApplyFn
    user_tower: Callable[[Params, Array], Array] | None = None
    item_tower: Callable[[Params, Array], Array] | None = None
    encode: EncodeFn | None = None
    output_table: Callable[[Params], Array] | None = None
    max_len: int | None = None
    mask_id: int | None = None
    uses_users: bool = False
    last_slot_only: bool = False
    fills_up: bool = False
    resized: Callable[[int], "Model"] | None = None


def from_nnx(make: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """Turns an NNX module into a ``Model``.

    The module may hold ``nnx.Param`` variables only. A module with dropout takes ``rngs`` in its ``__call__``
    and hands it on, ``self.dropout(x, deterministic=rngs is None, rngs=rngs)``, after making the layer
    without ``rngs``; one whose ``__call__`` has no ``rngs`` argument is deterministic and ``apply`` ignores
    the key. Of a module without ``__call__``, a mere bundle of parts, only ``init`` is of use.

    Args:
        make: ``rngs -> module``; called to learn the structure without drawing numbers, and once in each
            ``init``.

    Returns:
        The model.

    Raises:
        TypeError: the module keeps state that is not a parameter (batch statistics, a dropout layer's
            generator).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import nnx
        >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
        >>> params = model.init(jax.random.key(0))
        >>> print(jax.tree.map(jnp.shape, params))
        {'bias': (2,), 'kernel': (3, 2)}
        >>> model.apply(params, jnp.ones((4, 3))).shape
        (4, 2)
    """
    init, (apply,) = pure_methods(make, "__call__")
    return Model(init, apply)


def pure_methods(make: Callable[[nnx.Rngs], nnx.Module], *names: str) -> tuple[InitFn, tuple[ApplyFn, ...]]:
    """Turns an NNX module into pure functions: one that draws its parameters, and one for each named method.

    Args:
        make: see ``from_nnx``.
        *names: methods; those with an argument ``rngs`` get a generator from ``key``, the others ignore it.

    Returns:
        ``init``, and ``(params, *inputs, key=None) -> output`` of each method.

    Raises:
        TypeError: the module keeps state that is not a parameter.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> init, (row,) = pure_methods(lambda rngs: nnx.Embed(3, 2, rngs=rngs), "__call__")
        >>> row(init(jax.random.key(0)), jax.numpy.asarray([2, 0])).shape
        (2, 2)
    """
    template = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    graphdef, declared, other = nnx.split(template, nnx.Param, ...)
    if extra := sorted("/".join(map(str, path)) for path, _ in nnx.to_flat_state(other)):
        raise TypeError(
            f"{type(template).__name__} keeps state that is not a parameter: {', '.join(extra)}; "
            "make dropout layers without rngs and pass rngs to their call, and use no batch statistics"
        )
    # Layers in a list have integer keys in flax; files and optimiser labels want strings.
    paths = {"/".join(map(str, path)): path for path, _ in nnx.to_flat_state(declared)}

    def init(key: Key) -> Params:
        drawn = dict(nnx.to_flat_state(nnx.state(make(nnx.Rngs(key)), nnx.Param)))
        return traverse_util.unflatten_dict(
            # With its dtype spelt out an array is strongly typed; a weak type would retrace the second step.
            {name: jnp.asarray(drawn[path][...], jnp.float32) for name, path in paths.items()},
            sep="/",
        )

    def method(name: str) -> ApplyFn:
        function = getattr(template, name, None)
        takes_rngs = callable(function) and "rngs" in inspect.signature(function).parameters

        def apply(params: Params, *inputs: Array, key: Key | None = None) -> Array:
            given = traverse_util.flatten_dict(params, sep="/")
            if given.keys() != paths.keys():
                raise ValueError(
                    f"params do not fit {type(template).__name__}: "
                    f"missing {sorted(paths.keys() - given.keys())}, "
                    f"unknown {sorted(given.keys() - paths.keys())}"
                )
            state = traverse_util.unflatten_dict({path: given[name] for name, path in paths.items()})
            bound = getattr(nnx.merge(graphdef, state), name)
            if not takes_rngs:
                return bound(*inputs)
            return bound(*inputs, rngs=None if key is None else nnx.Rngs(key))

        return apply

    return init, tuple(method(name) for name in names)


def lookup(table: Array, ids: Array) -> Array:
    """Rows of a table; an id outside ``[0, len(table))`` gives NaN and its gradient goes nowhere.

    Plain indexing would clamp the id to the last row, or wrap a negative one, without a word.

    Args:
        table: ``[n, ...]``.
        ids: int ``[...]``. Pad with a valid id and a mask, not with an id out of range.

    Returns:
        ``ids.shape + table.shape[1:]``.

    Raises:
        TypeError: ``ids`` is not of an integer dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> print(lookup(jnp.asarray([10.0, 20.0]), jnp.asarray([1, 2, -1])))
        [20. nan nan]
    """
    check_integer(ids=ids)
    return table.at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def inner_products(users: Array, items: Array) -> Array:
    """Inner products over the last axis of vectors that broadcast, as matrix products where they form blocks.

    Args:
        users: ``[..., dim]``.
        items: ``[..., dim]``.

    Returns:
        The products, of the broadcast shape without the last axis.

    Example:
        >>> import jax.numpy as jnp
        >>> inner_products(jnp.ones((3, 1, 2)), jnp.ones((1, 5, 2))).shape
        (3, 5)
        >>> inner_products(jnp.ones((7, 3, 1, 2)), jnp.ones((7, 1, 5, 2))).shape
        (7, 3, 5)
    """
    if users.ndim == items.ndim == 3 and users.shape[1] == items.shape[0] == 1:
        return users[:, 0] @ items[0].T
    if (
        users.ndim == items.ndim == 4
        and users.shape[2] == items.shape[1] == 1
        and users.shape[0] == items.shape[0]
    ):
        return users[:, :, 0] @ items[:, 0].mT
    # A product with a vector of ones: XLA's CPU code for it is three times as fast as for a sum over a short axis.
    return (users * items) @ jnp.ones(users.shape[-1], users.dtype)


def with_bias(vectors: Array, bias: Array, *, first: bool) -> Array:
    """Vectors with two more entries, by which an inner product of two such vectors has the biases of both added.

    Args:
        vectors: ``[..., dim]``.
        bias: ``[...]``.
        first: whether the bias stands before the 1; one side's vectors must have it so, the other's not.

    Returns:
        ``[..., dim + 2]``.

    Example:
        >>> import jax.numpy as jnp
        >>> user = with_bias(jnp.ones(2), jnp.asarray(3.0), first=True)
        >>> item = with_bias(jnp.ones(2), jnp.asarray(4.0), first=False)
        >>> float(user @ item)
        9.0
    """
    pair = (bias, jnp.ones_like(bias)) if first else (jnp.ones_like(bias), bias)
    return jnp.concatenate([vectors, jnp.stack(pair, axis=-1)], axis=-1)


def check_pairs(users: Array, items: Array) -> None:
    """Raises unless users broadcast against items axis by axis: equal ranks, sizes equal or 1."""
    left, right = jnp.shape(users), jnp.shape(items)
    if len(left) != len(right) or any(m != n and 1 not in (m, n) for m, n in zip(left, right, strict=True)):
        raise ValueError(
            f"users {left} do not broadcast against items {right}: give both the same number of axes, "
            "e.g. users[:, None] of shape (E, 1) with items of shape (E, C)"
        )


def check_features(name: str, features: np.ndarray | None, n_rows: int) -> np.ndarray | None:
    """Features as float32 ``[n_rows, d]``, or None.

    Args:
        name: the argument, for the message.
        features: to check.
        n_rows: users or items.

    Raises:
        ConfigError: they are of another shape, not finite, or larger than ``MAX_FEATURE_BYTES``.
    """
    if features is None:
        return None
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or features.shape[0] != n_rows or not features.shape[1]:
        raise ConfigError(f"{name} must be of shape ({n_rows}, d) with d >= 1, got {features.shape}")
    if not np.isfinite(features).all():
        raise ConfigError(f"{name} must be finite; replace what is missing, and add a column that says so")
    if features.nbytes > MAX_FEATURE_BYTES:
        raise ConfigError(
            f"{name} take {features.nbytes / 2**20:.0f} MiB and are compiled into the programs; at most "
            f"{MAX_FEATURE_BYTES // 2**20} MiB are taken, reduce their columns"
        )
    return features


def check_bags(name: str, bags: Mapping[str, np.ndarray] | None, n_rows: int) -> dict[str, np.ndarray]:
    """Bags of ids as int32 ``[n_rows, m]`` by name, none for None.

    Args:
        name: the argument, for the message.
        bags: to check; ids count from 0, -1 is padding.
        n_rows: users or items.

    Raises:
        ConfigError: a name cannot be that of a parameter, or ids are of another shape, no integers, below -1, none at
            all, or larger than ``MAX_FEATURE_BYTES``.
    """
    if bags is None:
        return {}
    if not isinstance(bags, Mapping):
        raise ConfigError(f"{name} must be a dict of arrays by the bag's name, got {type(bags).__name__}")
    return {bag: _check_bag(f"{name}[{bag!r}]", bag, ids, n_rows) for bag, ids in bags.items()}


def _check_bag(name: str, bag: str, ids: np.ndarray, n_rows: int) -> np.ndarray:
    if not isinstance(bag, str) or not bag or "/" in bag:
        raise ConfigError(f"{name}: the name of a bag must be a string that is not empty and has no '/'")
    try:
        ids = np.asarray(ids)
    except ValueError:
        raise ConfigError(f"{name} has rows of several lengths; fill them up with -1") from None
    if ids.ndim != 2 or ids.shape[0] != n_rows or not ids.shape[1]:
        raise ConfigError(f"{name} must be of shape ({n_rows}, m) with m >= 1, got {ids.shape}")
    if ids.dtype.kind not in "iu":
        raise ConfigError(
            f"{name} must be integers, got dtype {ids.dtype}; number the values from 0 and fill rows up with -1"
        )
    bad = np.argwhere((ids < -1) | (ids >= np.iinfo(np.int32).max))
    if len(bad):
        row, column = bad[0]
        raise ConfigError(
            f"{name}[{row}, {column}] = {ids[row, column]} is no id; number the values from 0 and fill rows up with -1"
        )
    if not (ids >= 0).any():
        raise ConfigError(f"{name} holds no id, only padding; leave the bag out")
    ids = ids.astype(np.int32)
    if ids.nbytes > MAX_FEATURE_BYTES:
        raise ConfigError(
            f"{name} takes {ids.nbytes / 2**20:.0f} MiB and is compiled into the programs; at most "
            f"{MAX_FEATURE_BYTES // 2**20} MiB are taken, keep fewer ids a row"
        )
    return ids


def param(key: Key, shape: tuple[int, ...], init_scale: float) -> nnx.Param:
    """A float32 parameter drawn from N(0, ``init_scale``^2); ``init_scale=0`` gives zeros."""
    return nnx.Param(init_scale * jax.random.normal(key, shape, jnp.float32))
