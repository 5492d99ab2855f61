"""Models of the probability that a user was exposed to an item."""

import jax
import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_float, check_same_shape, check_sizes
from debias_jax.models.base import Model, check_pairs, from_nnx, lookup, param


def biif_exposure(n_users: int, *, dim: int, init_scale: float = 0.1) -> Model:
    r"""Biif's exposure: a mixture of the user's affinity and the item's popularity, gated by the item.

    .. math::
        \bar m_{ui} = r(\omega_i)\, \sigma(e_u^\top \omega_i) + \big(1 - r(\omega_i)\big)\, \theta_i, \qquad
        r(\omega_i) = \sigma(a^\top \omega_i + b)

    ``apply(params, users, item_vectors, popularity)``: the item vectors :math:`\omega_i` are the
    recommender's and come in as an argument, so that the caller decides whether gradients flow into them (the
    paper's claim that a click gives no gradient to its own exposure, eq. 18, holds only if they do not).
    ``users [...]``, ``item_vectors [..., dim]`` and ``popularity [...]`` in [0, 1]; users broadcast against
    items axis by axis. The result is a probability in [0, 1], not a logit: a mixture has no simple one. A
    user id out of range gives NaN.

    Args:
        n_users: rows of the user table.
        dim: length of the recommender's item vectors.
        init_scale: standard deviation of the normal initialisation of :math:`e_u` and :math:`a`; :math:`b`
            starts at 0. The paper does not state its own.

    Returns:
        The model; parameters ``user [n_users, dim]``, ``gate_weight [dim]``, ``gate_bias []``.

    Raises:
        ConfigError: a size is not a positive integer.
        ValueError: (``apply``) shapes do not fit.
        TypeError: (``apply``) ids are not integers, or vectors or popularity not floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = biif_exposure(3, dim=2)
        >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
        >>> print(model.apply(params, jnp.asarray([0, 2]), jnp.ones((2, 2)), jnp.asarray([0.1, 0.9])))
        [0.3 0.7]

    Source:
        Biif, eq. 14; popularity :math:`\theta_i` is eq. 13.
    """
    check_sizes(n_users=n_users, dim=dim)
    return from_nnx(lambda rngs: _GatedExposure(n_users, dim, init_scale, rngs=rngs))


class _GatedExposure(nnx.Module):
    def __init__(self, n_users, dim, init_scale, *, rngs):
        self.user = param(rngs(), (n_users, dim), init_scale)
        self.gate_weight = param(rngs(), (dim,), init_scale)
        self.gate_bias = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, users, item_vectors, popularity):
        check_float(item_vectors=item_vectors, popularity=popularity)
        _check_dim(item_vectors, self.gate_weight[...])
        gate = jax.nn.sigmoid(item_vectors @ self.gate_weight[...] + self.gate_bias[...])
        check_same_shape(popularity=popularity, item_vectors_without_last_axis=gate)
        check_pairs(users, popularity)
        affinity = jnp.einsum("...d,...d->...", lookup(self.user[...], users), item_vectors)
        return gate * jax.nn.sigmoid(affinity) + (1 - gate) * popularity


def cjmf_exposure(*, dim: int, init_scale: float = 0.03) -> Model:
    r"""CJMF's exposure of an item, the same for all users: its popularity, mixed, and raised to a learnt power.

    .. math::
        \bar m_i = \big[w_i\, \sigma(c^\top \omega_i + d) + (1 - w_i)\, \mathrm{pop}_i\big]
                   ^{\sigma(e^\top \omega_i + f)}, \qquad w_i = \sigma(a^\top \omega_i + b)

    ``apply(params, item_vectors, popularity)``: the item vectors :math:`\omega_i` are the recommender's and come in as
    an argument, as in ``biif_exposure``. ``item_vectors [..., dim]`` and ``popularity [...]`` in (0, 1]; CJMF's is
    :math:`(c_i + 1) / (\max_j c_j + 1)` for click counts c, so that the power of an item without clicks has a
    derivative. The result is a probability.

    Args:
        dim: length of the recommender's item vectors.
        init_scale: standard deviation of the normal initialisation (the released program's is cut off at two).

    Returns:
        The model; parameters ``affinity_weight``, ``gate_weight``, ``power_weight`` ``[dim]`` (c, a, e) and
        ``affinity_bias``, ``gate_bias``, ``power_bias`` ``[]`` (d, b, f).

    Raises:
        ConfigError: ``dim`` is not a positive integer.
        ValueError: (``apply``) shapes do not fit.
        TypeError: (``apply``) vectors or popularity are not floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = cjmf_exposure(dim=2)
        >>> params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
        >>> print(model.apply(params, jnp.ones((2, 2)), jnp.asarray([0.22, 0.78])))   # (.5 * .5 + .5 * pop)^.5
        [0.6 0.8]

    Source:
        Zhu, He, Zhang, Caverlee, "Unbiased implicit recommendation and propensity estimation via combinational joint
        learning", RecSys 2020, and its released program.
    """
    check_sizes(dim=dim)
    return from_nnx(lambda rngs: _ItemExposure(dim, init_scale, rngs=rngs))


class _ItemExposure(nnx.Module):
    def __init__(self, dim, init_scale, *, rngs):
        self.affinity_weight = param(rngs(), (dim,), init_scale)
        self.affinity_bias = param(rngs(), (), init_scale)
        self.gate_weight = param(rngs(), (dim,), init_scale)
        self.gate_bias = param(rngs(), (), init_scale)
        self.power_weight = param(rngs(), (dim,), init_scale)
        self.power_bias = param(rngs(), (), init_scale)

    def __call__(self, item_vectors, popularity):
        check_float(item_vectors=item_vectors, popularity=popularity)
        _check_dim(item_vectors, self.gate_weight[...])
        gate = jax.nn.sigmoid(item_vectors @ self.gate_weight[...] + self.gate_bias[...])
        check_same_shape(popularity=popularity, item_vectors_without_last_axis=gate)
        affinity = jax.nn.sigmoid(item_vectors @ self.affinity_weight[...] + self.affinity_bias[...])
        power = jax.nn.sigmoid(item_vectors @ self.power_weight[...] + self.power_bias[...])
        return (gate * affinity + (1 - gate) * popularity) ** power


def _check_dim(item_vectors, weight) -> None:
    """Raises unless the item vectors are of the length that the exposure model was made for."""
    shape, dim = jnp.shape(item_vectors), weight.shape[0]
    if not shape or shape[-1] != dim:
        raise ValueError(
            f"item_vectors are of shape {shape}, and the exposure model is of dim={dim}; make it with the dim of the "
            "recommender's item vectors, their last axis"
        )
