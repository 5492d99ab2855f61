"""Models of the probability that a pair was observed."""

import jax.numpy as jnp
from flax import nnx

from debias_jax.models.base import Model, check_pairs, check_sizes, from_nnx, lookup, param


def additive_logistic(n_users: int, n_items: int, *, init_scale: float = 0.0) -> Model:
    r"""Logistic regression on one-hot user and item ids: the logit of a pair is additive.

    .. math:: \operatorname{logit} \hat p_{ui} = a_u + b_i + c

    ``apply(params, users, items)`` gives logits and broadcasts like ``mf``; an id out of range gives NaN.
    With the cross-entropy and no decay the fit is convex, and its solution reproduces the observed count of
    every user and every item.

    The program released with BADR writes it as :math:`w^\top [P_u; Q_i] + c`, learnt K-dimensional embeddings
    concatenated into one linear layer. With :math:`a_u = w_{1:K}^\top P_u` and :math:`b_i = w_{K+1:2K}^\top
    Q_i` that is this function: no product of user and item enters it, whatever K is. What does differ is the
    path of the training (and what weight decay shrinks), as the factors are trained instead of the sums.

    Args:
        n_users: length of the user term.
        n_items: length of the item term.
        init_scale: standard deviation of the normal initialisation of :math:`a` and :math:`b`; 0 starts at
            probability 1/2 everywhere. The released initialisation (embeddings from N(0, 1), weights uniform
            within :math:`\pm 1/\sqrt{2K}`) gives both terms the standard deviation :math:`1/\sqrt 6 = 0.41`.

    Returns:
        The model; parameters ``user [n_users]``, ``item [n_items]``, ``bias []``.

    Raises:
        ConfigError: a size is not a positive integer.
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
    return from_nnx(lambda rngs: _AdditiveLogistic(n_users, n_items, init_scale, rngs=rngs))


class _AdditiveLogistic(nnx.Module):
    def __init__(self, n_users, n_items, init_scale, *, rngs):
        self.user = param(rngs(), (n_users,), init_scale)
        self.item = param(rngs(), (n_items,), init_scale)
        self.bias = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(self, users, items):
        check_pairs(users, items)
        return lookup(self.user[...], users) + lookup(self.item[...], items) + self.bias[...]
