r"""Gradients of an outer loss through one optimiser step on an inner loss.

A bi-level method minimises an outer loss over outer parameters :math:`\alpha` (Biif: the exposure model) at
the inner parameters :math:`\omega` (the recommender) that minimise an inner loss, and replaces that minimum
by one step:

.. math::
    \omega^+(\alpha) = \omega + \mathrm{tx}\big(\nabla_\omega L_{in}(\omega, \alpha)\big), \qquad
    g = \partial_\alpha L_{out}(\omega^+, \alpha)
        + \Big(\frac{\partial \omega^+}{\partial \alpha}\Big)^{\top} \nabla_\omega L_{out}(\omega^+, \alpha).

For an SGD step of size :math:`\eta` the Jacobian is the mixed second derivative
:math:`-\eta\, \partial^2 L_{in} / \partial\alpha\,\partial\omega`; no Hessian inverse enters. The computation
is exact, reverse mode over reverse mode, for any optax transformation. Three facts decide whether it is
of use:

- :math:`\omega` reaches the outer loss only through the inner *gradient*. A first-order truncation, which
  holds that gradient constant, is therefore not an approximation: its second term is exactly 0.
- The derivative of Adam's root at 0 is infinite. A pair in the batch whose vectors get a gradient of exactly
  0 (a padded row, an exposure of 0) turns the hypergradient into NaN, while the step itself looks sound,
  unless ``eps_root > 0`` (``optimizers.adam(..., eps_root=1e-8)``).
- On Adam's first step the update is :math:`-\eta\, g / \sqrt{g^2 + \epsilon_{root}}`, the sign of :math:`g`;
  its derivative, :math:`-\eta\, \epsilon_{root} / (g^2 + \epsilon_{root})^{3/2}`, is about 0 wherever
  :math:`g^2 \gg \epsilon_{root}`. Outer parameters then do not move until the moments have filled.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from debias_jax.types import Array, PyTree

__all__ = ["HyperStep", "hypergradient", "lookahead"]


class HyperStep(NamedTuple):
    """What one hypergradient computes, the inner step included: a method that keeps the step takes it once.

    Attributes:
        grads: gradient of ``value``, shaped like the outer parameters.
        value: outer loss after the inner step, a scalar.
        inner_value: inner loss before the inner step, a scalar.
        inner_grads: gradient of the inner loss before the step, shaped like the inner parameters; for a
            method that differentiates through one optimiser and trains with another.
        inner_params: inner parameters after the step.
        opt_state: state of ``tx`` after the step.
    """

    grads: PyTree
    value: Array
    inner_value: Array
    inner_grads: PyTree
    inner_params: PyTree
    opt_state: PyTree


def lookahead(
    inner_loss: Callable[..., Array], tx: optax.GradientTransformation
) -> Callable[..., tuple[PyTree, PyTree]]:
    r"""One optimiser step as a function that can be differentiated with respect to the outer parameters.

    :math:`\omega^+ = \omega + \mathrm{tx}(\nabla_\omega L_{in}(\omega, \alpha))`, with the optimiser state
    taken from the run. Random draws of the inner loss (dropout, sampling) belong in ``args``, so that the
    step that is differentiated is the step that is taken.

    Args:
        inner_loss: ``(inner_params, outer_params, *args) -> scalar``.
        tx: any optax transformation; adaptive ones need ``eps_root > 0``, see the module's text.

    Returns:
        ``(inner_params, opt_state, outer_params, *args) -> (new_inner_params, new_opt_state)``.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> step = lookahead(lambda w, a: 0.5 * a * w**2, optax.sgd(0.1))
        >>> stepped = lambda a: step(jnp.float32(3.0), optax.sgd(0.1).init(0.0), a)[0]
        >>> value, slope = jax.value_and_grad(stepped)(jnp.float32(2.0))
        >>> print(f"{value:.2f} {slope:.2f}")          # 3 - .1 * 2 * 3,  -.1 * 3
        2.40 -0.30

    Source:
        Biif (A Bi-level Framework for Debiasing Implicit Feedback with Low Variance), eq. 16.
    """

    def step(inner_params, opt_state, outer_params, *args):
        inner_params, opt_state, _, _ = _step(inner_loss, tx, inner_params, opt_state, outer_params, args)
        return inner_params, opt_state

    return step


def hypergradient(
    inner_loss: Callable[..., Array], outer_loss: Callable[..., Array], tx: optax.GradientTransformation
) -> Callable[..., HyperStep]:
    r"""Gradient of an outer loss at the stepped inner parameters with respect to the outer parameters.

    The total derivative: the outer loss may depend on the outer parameters both through the step and directly
    (BiOpt2 does; Biif's validation loss takes exposure as 1 and has no direct part). Nothing is detached
    here; a loss that wants a part held constant says so with ``stop_gradient``.

    Args:
        inner_loss: ``(inner_params, outer_params, *inner_args) -> scalar``.
        outer_loss: ``(stepped_inner_params, outer_params, *outer_args) -> scalar``.
        tx: the inner step, any optax transformation; adaptive ones need ``eps_root > 0``, see the module's
            text.

    Returns:
        ``(inner_params, opt_state, outer_params, inner_args=(), outer_args=()) -> HyperStep``. The scale of
        ``grads`` follows both reductions and the inner step size; an outer Adam hides all three until
        ``grads`` comes near its ``eps``.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> tx = optax.sgd(0.1)
        >>> hyper = hypergradient(lambda w, a: 0.5 * a * w**2, lambda w, a: 0.5 * w**2, tx)
        >>> out = hyper(jnp.float32(3.0), tx.init(0.0), jnp.float32(2.0))
        >>> print(f"{out.inner_params:.2f} {out.value:.2f} {out.grads:.2f}")  # 2.4, 2.4^2/2, 2.4 * -.3
        2.40 2.88 -0.72

    Source:
        Biif, eqs. 16 and 17; its closed form for one SGD step and free exposures is eq. 19.
    """

    def compute(inner_params, opt_state, outer_params, inner_args=(), outer_args=()):
        def objective(outer_params):
            stepped, new_opt_state, inner_value, inner_grads = _step(
                inner_loss, tx, inner_params, opt_state, outer_params, inner_args
            )
            value = outer_loss(stepped, outer_params, *outer_args)
            return value, (inner_value, inner_grads, stepped, new_opt_state)

        (value, rest), grads = jax.value_and_grad(objective, has_aux=True)(outer_params)
        return HyperStep(grads, value, *rest)

    return compute


def _step(inner_loss, tx, inner_params, opt_state, outer_params, args):
    value, grads = jax.value_and_grad(inner_loss)(inner_params, outer_params, *args)
    updates, opt_state = tx.update(grads, opt_state, inner_params)
    return optax.apply_updates(inner_params, updates), opt_state, value, grads
