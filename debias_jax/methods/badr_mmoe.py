"""BADR on towers that share their embeddings."""

from typing import Unpack

from debias_jax import risks
from debias_jax._checks import check_choice
from debias_jax.methods.badr import VARIANTS
from debias_jax.methods.base import Method
from debias_jax.methods.multitask import MultitaskSettings, multitask, shared_towers
from debias_jax.methods.recipes import Context
from debias_jax.models.base import Model


def badr_mmoe(
    multitask_model: Model, *, variant: str = "published", **settings: Unpack[MultitaskSettings]
) -> Method:
    r"""Click loss, batch-adaptive doubly robust risk and its imputation loss, on the towers of one model.

    .. math:: L = \lambda_p \frac{1}{N} \sum_D \mathrm{CE}(\hat p; o) + \lambda_c L_r + \lambda_e L_e
              + \lambda_g \frac{1}{N} \sum_D \mathrm{CE}(\hat p\,\hat r; o\,r)

    with :math:`L_r` and :math:`L_e` of ``badr``. On the same batch and parameters :math:`L_r` has m / W times the
    gradient of the risk of ``escm2_dr``, m the pairs of the batch and W its sum of inverse propensities.

    Freedom: the paper names the architecture and no losses. Here the sum above, by default without its last term;
    propensities and pseudo-labels are constants in :math:`L_r`, propensities and predictions are constants in
    :math:`L_e`, so that each tower learns its own task and the tasks meet in what the towers share.

    Args:
        multitask_model: e.g. ``models.mmoe`` with three towers: logits of propensity, prediction and imputation along
            the last axis.
        variant: of both losses, see ``badr``: ``"published"``, ``"detached"``, ``"corrected"`` or ``"released"``.
        **settings: see ``methods.multitask.MultitaskSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``min_propensity``, ``ctr_weight``, ``cvr_weight``,
        ``imputation_weight``, ``ctcvr_weight``.

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.badr_mmoe(models.mmoe(8, 6, dim=4))
        >>> sorted(method.hparams)
        ['ctcvr_weight', 'ctr_weight', 'cvr_weight', 'imputation_weight', 'lr', 'min_propensity', 'weight_decay']

    Source:
        BADR, section 3.7; Ma et al., "Modeling task relationships in multi-task learning with multi-gate
        mixture-of-experts", KDD 2018.
    """
    check_choice(VARIANTS, variant=variant)
    risk_variant = "released" if variant == "released" else "published"

    def terms(batch, context: Context):
        errors = batch.prediction_errors(context, detach_propensity=True)
        imputation_errors = batch.imputation_errors(context)
        return {
            "cvr": errors.risk(risks.badr, variant=risk_variant),
            "imputation": imputation_errors.risk(risks.badr_imputation, variant=variant),
        }

    return multitask(
        shared_towers(multitask_model, imputation=True),
        terms=terms,
        weights={"ctr": 1.0, "cvr": 1.0, "imputation": 1.0, "ctcvr": 0.0},
        **settings,
    )
