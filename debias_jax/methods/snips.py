"""Self-normalised inverse propensity scoring on observed (rated) pairs."""

from debias_jax import risks
from debias_jax.methods._propensity import propensity_risk
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def snips(
    model: Model, propensity_model: Model, *, batch_size: int = 1024, propensity: str = "estimated"
) -> Method:
    """``ips`` with the batch's weights normalised to sum 1 (``risks.snips``).

    L = sum e_ui / p_ui over sum 1 / p_ui: a constant factor in all propensities has no effect.

    Args:
        model: the prediction model.
        propensity_model: see ``ips``.
        batch_size: observed rows a step.
        propensity: see ``ips``.

    Returns:
        The method; hyperparameters as ``ips``.

    Raises:
        ValueError, ConfigError: see ``ips``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.snips(
        ...     models.mf(8, 6, dim=2), models.additive_logistic(8, 6), propensity="logged")
        >>> sorted(method.hparams)
        ['lr', 'min_propensity', 'propensity_lr', 'propensity_weight_decay', 'weight_decay']

    Source:
        Swaminathan and Joachims 2015; Schnabel et al. 2016.
    """
    return propensity_risk(
        model, propensity_model, risk=risks.snips, batch_size=batch_size, propensity=propensity
    )
