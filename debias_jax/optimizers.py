"""Optimisers as the released programs of the field use them, with hyperparameters that may be traced.

Thin chains of optax pieces. What they add: weight decay is *coupled* (L2 added to the gradient, PyTorch's
``weight_decay``, not AdamW's), and every state and update keeps the dtype of its parameter whatever the dtype
of the hyperparameters, so that a sweep over learning rate and weight decay runs in one compiled program.
"""

import optax

from debias_jax.types import Array

__all__ = ["adam", "sgd"]

ADAM_EPS = 1e-8
"""What ``adam`` adds to the root by default: a gradient far below it moves nothing."""


def adam(
    learning_rate: float | Array,
    *,
    weight_decay: float | Array = 0.0,
    b1: float | Array = 0.9,
    b2: float | Array = 0.999,
    eps: float | Array = ADAM_EPS,
    eps_root: float | Array = 0.0,
) -> optax.GradientTransformation:
    r"""Adam with coupled L2: the decay passes through both moments.

    .. math::
        g_t &= \nabla L(x_{t-1}) + \lambda x_{t-1} \\
        x_t &= x_{t-1} - \eta\, \hat m_t / (\sqrt{\hat v_t + \epsilon_{root}} + \epsilon)

    with the bias-corrected moments :math:`\hat m_t, \hat v_t` of :math:`g`. Equal to ``torch.optim.Adam``
    with the same ``weight_decay``. It is dense: a row of an embedding table that is not in the batch still
    decays and still moves by its momentum.

    Args:
        learning_rate: :math:`\eta`, a scalar; like all arguments it may be traced.
        weight_decay: :math:`\lambda`, a scalar.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: added outside the root.
        eps_root: added inside the root; must be positive where a gradient passes *through* the step
            (``hypergrad``), because the derivative of the root at 0 is infinite.

    Returns:
        The transformation; its ``update`` needs ``params``.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = adam(0.1, weight_decay=0.01)
        >>> params = {"w": jnp.asarray([1.0, -2.0], jnp.float32)}
        >>> updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init(params), params)
        >>> print(updates["w"].round(3))      # the decay alone: Adam's first step is -lr * sign(gradient)
        [-0.1  0.1]

    Source:
        Kingma and Ba, "Adam" (2015), Algorithm 1; PyTorch's ``weight_decay``.
    """
    return _keep_dtypes(
        optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def sgd(learning_rate: float | Array, *, weight_decay: float | Array = 0.0) -> optax.GradientTransformation:
    r"""Plain gradient descent with L2: :math:`x_t = x_{t-1} - \eta (\nabla L(x_{t-1}) + \lambda x_{t-1})`.

    Stateless, hence the cheapest inner step of a hypergradient, and the one of Biif's eq. 16.

    Args:
        learning_rate: :math:`\eta`, a scalar; may be traced.
        weight_decay: :math:`\lambda`, a scalar; may be traced.

    Returns:
        The transformation; its ``update`` needs ``params``.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = sgd(0.5, weight_decay=0.1)
        >>> params = jnp.asarray([1.0, 2.0], jnp.float32)
        >>> updates, _ = tx.update(jnp.asarray([1.0, 0.0], jnp.float32), tx.init(params), params)
        >>> print(optax.apply_updates(params, updates))      # 1 - .5 (1 + .1),  2 - .5 * .2
        [0.45 1.9 ]
    """
    return _keep_dtypes(
        optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
    )


def _keep_dtypes(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    # A hyperparameter that is a float32 array is not weakly typed: times a bfloat16 leaf it gives float32,
    # the moments change dtype after the first step, and a scan over steps refuses to trace.
    def update(updates, state, params=None):
        new_updates, new_state = tx.update(updates, state, params)
        return optax.tree.cast_like(new_updates, updates), optax.tree.cast_like(new_state, state)

    return optax.GradientTransformation(tx.init, update)
