"""A multi-gate mixture of experts: one network with an output for each of several tasks."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.errors import ConfigError
from debias_jax.models.base import (
    Model,
    check_features,
    check_pairs,
    from_nnx,
    lookup,
    param,
)
from debias_jax.types import Array, Key, Params


def mmoe(
    n_users: int,
    n_items: int,
    *,
    dim: int,
    tasks: Sequence[str] = ("ctr", "cvr", "imputation"),
    n_experts: int = 4,
    expert_hidden: Sequence[int] = (64, 32),
    tower_hidden: Sequence[int] = (32,),
    init_scale: float = 0.1,
    user_features: np.ndarray | None = None,
    item_features: np.ndarray | None = None,
) -> Model:
    r"""Multi-gate mixture of experts: tasks share embeddings and experts, each has a gate and a tower of its own.

    .. math::
        x_{ui} = [\omega_u; x_u; \omega_i; x_i], \qquad
        s^t_{ui} = h^t\Big(\sum_e \operatorname{softmax}(W^t x_{ui})_e\, f_e(x_{ui})\Big)

    with embeddings :math:`\omega` and given features :math:`x`, if any.
    Experts :math:`f_e` have ReLU after each layer, towers :math:`h^t` after each but the last, which gives one number.
    ``apply(params, users, items) -> [..., n_tasks]`` gives logits in the order of ``tasks`` and broadcasts like ``mf``;
    an id out of range scores NaN in every task. Unlike an inner product the network runs for each pair, with
    ``n_experts * max(expert_hidden)`` numbers a pair in memory.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        dim: length of the embeddings.
        tasks: names, which only say what the outputs mean.
        n_experts: number of experts.
        expert_hidden: widths of the layers of each expert.
        tower_hidden: widths of the hidden layers of each tower.
        init_scale: standard deviation of the embeddings' normal initialisation; layers start with variance 1 / fan-in.
        user_features: ``[n_users, d]``, or None.
        item_features: ``[n_items, d]``, or None.

    Returns:
        The model; parameters ``user [n_users, dim]``, ``item [n_items, dim]``, ``gate [n_tasks, k, n_experts]`` with k
        numbers in :math:`x_{ui}`, ``experts`` and ``towers``, in whose layers all experts (tasks) are stacked on the
        first axis.

    Raises:
        ConfigError: a size is not a positive integer, there are no expert layers, the tasks are not distinct names, or
            features do not fit or are larger than 16 MiB.
        ValueError: (``apply``) users do not broadcast against items.
        TypeError: (``apply``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = mmoe(3, 5, dim=2, tasks=("ctr", "cvr"))
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.arange(3)[:, None], jnp.arange(5)[None, :]).shape
        (3, 5, 2)

    Source:
        Ma et al., "Modeling task relationships in multi-task learning with multi-gate mixture-of-experts" (KDD 2018),
        eq. 6-7; over propensity, conversion and imputation it is BADR's section 3.7.
    """
    check_sizes(n_users=n_users, n_items=n_items, dim=dim, n_experts=n_experts)
    for name, widths in (("expert_hidden", expert_hidden), ("tower_hidden", tower_hidden)):
        for position, width in enumerate(widths):
            check_sizes(**{f"{name}[{position}]": width})
    if not expert_hidden:
        raise ConfigError("expert_hidden is empty; an expert needs at least one layer")
    if isinstance(tasks, str) or not tasks or len(set(tasks)) != len(tasks):
        raise ConfigError(f"tasks must be distinct names, at least one, got {tasks!r}")
    user_features = check_features("user_features", user_features, n_users)
    item_features = check_features("item_features", item_features, n_items)
    n_inputs = 2 * dim + sum(each.shape[1] for each in (user_features, item_features) if each is not None)
    network = from_nnx(
        lambda rngs: _MultiGateMixture(
            n_users,
            n_items,
            dim,
            n_inputs,
            len(tasks),
            n_experts,
            tuple(expert_hidden),
            tuple(tower_hidden),
            init_scale,
            rngs=rngs,
        )
    )

    def apply(params: Params, users: Array, items: Array, *, key: Key | None = None) -> Array:
        return network.apply(params, users, items, user_features, item_features, key=key)

    return Model(network.init, apply)


class _StackedLinear(nnx.Module):
    """``n`` dense layers side by side: ``[..., n, a] -> [..., n, b]``."""

    def __init__(self, n, n_inputs, n_outputs, *, rngs):
        initial = jax.nn.initializers.lecun_normal(batch_axis=0)
        self.kernel = nnx.Param(initial(rngs(), (n, n_inputs, n_outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros((n, n_outputs), jnp.float32))

    def __call__(self, x):
        y = jnp.einsum("...na,nab->...nb", x, self.kernel[...])
        return y + jnp.broadcast_to(self.bias[...], y.shape)


def _stack(n, widths, *, rngs):
    return nnx.List([_StackedLinear(n, *pair, rngs=rngs) for pair in itertools.pairwise(widths)])


class _MultiGateMixture(nnx.Module):
    def __init__(
        self,
        n_users,
        n_items,
        dim,
        n_inputs,
        n_tasks,
        n_experts,
        expert_hidden,
        tower_hidden,
        init_scale,
        *,
        rngs,
    ):
        self.user = param(rngs(), (n_users, dim), init_scale)
        self.item = param(rngs(), (n_items, dim), init_scale)
        self.gate = param(rngs(), (n_tasks, n_inputs, n_experts), n_inputs**-0.5)
        self.experts = _stack(n_experts, (n_inputs, *expert_hidden), rngs=rngs)
        self.towers = _stack(n_tasks, (expert_hidden[-1], *tower_hidden, 1), rngs=rngs)
        self.n_experts = n_experts

    def __call__(self, users, items, user_features, item_features):
        check_pairs(users, items)
        shape = jnp.broadcast_shapes(users.shape, items.shape)
        sides = ((self.user, user_features, users), (self.item, item_features, items))
        vectors = []
        for embedding, features, ids in sides:
            vectors.append(lookup(embedding[...], ids))
            if features is not None:
                vectors.append(lookup(jnp.asarray(features), ids))
        x = jnp.concatenate([jnp.broadcast_to(each, (*shape, each.shape[-1])) for each in vectors], axis=-1)
        gates = jax.nn.softmax(jnp.einsum("...a,tae->...te", x, self.gate[...]), axis=-1)
        y = jnp.broadcast_to(x[..., None, :], (*shape, self.n_experts, x.shape[-1]))
        for layer in self.experts:
            y = jax.nn.relu(layer(y))
        y = jnp.einsum("...te,...eb->...tb", gates, y)
        for layer in self.towers[:-1]:
            y = jax.nn.relu(layer(y))
        return self.towers[-1](y)[..., 0]
