"""Error imputation."""

from debias_jax import risks
from debias_jax.methods.base import Method
from debias_jax.methods.doubly_robust import doubly_robust
from debias_jax.models.base import Model


def eib(
    model: Model,
    imputation_model: Model,
    *,
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 4,
    weighting: str = "population",
    imputed_errors: str = "published",
    order: str = "imputation_first",
) -> Method:
    r"""The error where it was observed, the imputed one elsewhere (``risks.eib``); no propensities.

    .. math::
        L_r &= \frac{1}{N} \sum_D o\,e + (1 - o)\,\hat e \\
        L_e &= \frac{1}{N} \sum_D o\,(e - \hat e)^2

    Unbiased only where the imputed errors are right, and they are learnt from the observed pairs as they are.

    Freedom: the imputation model, as in ``dr_jl``. The program that later papers compare with (``MF_EIB``) is another
    method: it subtracts the imputed error from an error weighted by inverse propensity, and trains the imputation
    towards the predictions instead of towards the errors.

    Args:
        model: the prediction model, any pairwise model.
        imputation_model: the pseudo-label model, e.g. of the same kind.
        batch_size: observed rows a step.
        frame: ``"pairs"``, ``"block"``, ``"tiles"`` or ``"uniform"``; see ``methods.cvr_batches``.
        ratio: pairs of the population for each observed row.
        weighting: ``"population"`` or ``"batch"``; see ``methods.cvr_batches``.
        imputed_errors: ``"published"`` or ``"released"``; see ``methods.doubly_robust.DoublyRobustSettings``.
        order: ``"imputation_first"`` or ``"prediction_first"``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``imputation_lr``, ``imputation_weight_decay``,
        ``observed_weight``.

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> mf = models.mf(8, 6, dim=2)
        >>> method = methods.eib(mf, mf)
        >>> sorted(method.hparams)
        ['imputation_lr', 'imputation_weight_decay', 'lr', 'observed_weight', 'weight_decay']

    Source:
        Steck, "Training and testing of recommender systems on data missing not at random", KDD 2010; BADR, eq. 5.
    """
    return doubly_robust(
        model,
        imputation_model,
        None,
        prediction_loss=lambda errors, context: errors.risk(risks.eib),
        imputation_loss=lambda errors, context: errors.risk(risks.dr_jl),
        batch_size=batch_size,
        frame=frame,
        ratio=ratio,
        weighting=weighting,
        imputed_errors=imputed_errors,
        order=order,
    )
