"""Models of the probability that a pair was observed."""

import jax
import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.errors import ConfigError
from debias_jax.models.base import Model, check_pairs, from_nnx, lookup, param


def additive_logistic(
    n_users: int, n_items: int, *, dim: int | None = None, init_scale: float = 0.0
) -> Model:
    r"""Logistic regression on one-hot user and item ids: the logit of a pair is additive.

    .. math:: \operatorname{logit} \hat p_{ui} = a_u + b_i + c

    ``apply(params, users, items)`` gives logits and broadcasts like ``mf``; an id out of range gives NaN.
    With the cross-entropy and no decay the fit is convex, and its solution reproduces the observed count of
    every user and every item.

    With ``dim`` the terms are factored as in the program released with BADR, which concatenates learnt embeddings
    into one linear layer:

    .. math:: a_u = w_{1:K}^\top P_u, \qquad b_i = w_{K+1:2K}^\top Q_i

    No product of user and item enters it, whatever K is, so it is the same set of functions. What does differ is the
    path of the training (and what weight decay shrinks), as the factors are trained instead of the sums.

    Args:
        n_users: length of the user term.
        n_items: length of the item term.
        dim: K of the released parametrisation; None trains the sums themselves.
        init_scale: without ``dim``, the standard deviation of the normal initialisation of :math:`a` and :math:`b`; 0
            starts at probability 1/2 everywhere. With ``dim`` the start is the released one, embeddings from N(0, 1),
            weights and bias uniform within :math:`\pm 1/\sqrt{2K}`, which gives both terms the standard deviation
            :math:`1/\sqrt 6 = 0.41`.

    Returns:
        The model; parameters ``user [n_users]``, ``item [n_items]``, ``bias []``; with ``dim`` they are ``user
        [n_users, dim]``, ``item [n_items, dim]``, ``weight [2 dim]``, ``bias []``.

    Raises:
        ConfigError: a size is not a positive integer, or ``init_scale`` is given beside ``dim``.
        ValueError: (``apply``) users do not broadcast against items.
        TypeError: (``apply``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = additive_logistic(2, 3)
        >>> params = model.init(jax.random.key(0))
        >>> params |= {"user": jnp.asarray([0.5, -1.0]), "bias": jnp.float32(0.25)}
        >>> print(model.apply(params, jnp.asarray([0, 1]), jnp.asarray([2, 2])))
        [ 0.75 -0.75]

    Source:
        BADR, section on propensity estimation (eq. 4), and its released program (HungPaan/DR-ALR).
    """
    check_sizes(n_users=n_users, n_items=n_items)
    if dim is None:
        return from_nnx(lambda rngs: _AdditiveLogistic(n_users, n_items, init_scale, rngs=rngs))
    check_sizes(dim=dim)
    if init_scale:
        raise ConfigError(
            f"init_scale = {init_scale!r} is of the sums; with dim the start is the released one"
        )
    return from_nnx(lambda rngs: _FactoredLogistic(n_users, n_items, dim, rngs=rngs))


class _AdditiveLogistic(nnx.Module):
    def __init__(self, n_users, n_items, init_scale, *, rngs):
        self.user = param(rngs(), (n_users,), init_scale)
        self.item = param(rngs(), (n_items,), init_scale)
        self.bias = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, users, items):
        check_pairs(users, items)
        return lookup(self.user[...], users) + lookup(self.item[...], items) + self.bias[...]


class _FactoredLogistic(nnx.Module):
    def __init__(self, n_users, n_items, dim, *, rngs):
        bound = (2 * dim) ** -0.5
        self.user = param(rngs(), (n_users, dim), 1.0)
        self.item = param(rngs(), (n_items, dim), 1.0)
        self.weight = nnx.Param(jax.random.uniform(rngs(), (2 * dim,), jnp.float32, -bound, bound))
        self.bias = nnx.Param(jax.random.uniform(rngs(), (), jnp.float32, -bound, bound))

    def __call__(self, users, items):
        check_pairs(users, items)
        user_weight, item_weight = jnp.split(self.weight[...], 2)
        # The sums of every id first: looking up numbers costs a batch less than looking up vectors.
        user_term, item_term = self.user[...] @ user_weight, self.item[...] @ item_weight
        return lookup(user_term, users) + lookup(item_term, items) + self.bias[...]
