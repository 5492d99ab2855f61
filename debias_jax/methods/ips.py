"""Inverse propensity scoring on observed (rated) pairs."""

from debias_jax import risks
from debias_jax.methods._propensity import propensity_risk
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def ips(
    model: Model, propensity_model: Model, *, batch_size: int = 1024, propensity: str = "estimated"
) -> Method:
    """Cross-entropy over observed rows, each weighted by the inverse of its propensity (``risks.ips``).

    L = mean over the batch of e_ui / p_ui. Needs rows with both labels: a click log alone has none.

    Args:
        model: the prediction model.
        propensity_model: fitted to "observed or not" before training, e.g. ``models.additive_logistic``.
        batch_size: observed rows a step.
        propensity: ``"estimated"`` (``propensity_model``), ``"logged"`` (``TrainData.propensities``),
            ``"popularity"`` ((n_i / max_j n_j)^(1/2), n_i the observed rows of item i), or another source of
            ``methods.doubly_robust.DoublyRobustSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity`` (0: no clipping) and those of the
        propensity fit.

    Raises:
        ValueError: unknown ``propensity``.
        ConfigError: (on training) ``"logged"``, and the data has no propensities.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.ips(
        ...     models.mf(8, 6, dim=2), models.additive_logistic(8, 6), propensity="logged")
        >>> sorted(method.hparams)
        ['lr', 'min_propensity', 'propensity_lr', 'propensity_weight_decay', 'weight_decay']

    Source:
        Schnabel et al. 2016, section 4; a baseline of the BADR paper.
    """
    return propensity_risk(
        model, propensity_model, risk=risks.ips, batch_size=batch_size, propensity=propensity
    )
