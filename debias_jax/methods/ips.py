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
        propensity: ``"estimated"`` (``propensity_model``), ``"logged"`` (``TrainData.propensities``) or
            ``"popularity"`` (theta_i).

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity`` (0: no clipping) and those of the
        propensity fit.

    Source:
        Schnabel et al. 2016; cvr specification of the BADR paper's baseline (its Table 1).
    """
    return propensity_risk(
        model, propensity_model, risk=risks.ips, batch_size=batch_size, propensity=propensity
    )
