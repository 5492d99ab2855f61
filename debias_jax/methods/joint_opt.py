"""JointOpt: relevance and exposure fitted at once to the clicks."""

from debias_jax.methods._terms import EXPOSURE_HPARAMS, ExposureTerms, ItemVectors, exposure_group
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.recipes import predict_logits, prediction_group, supervised
from debias_jax.models.base import Model


def joint_opt(
    model: Model,
    exposure_model: Model,
    *,
    item_vectors: ItemVectors,
    batch_size: int = 1024,
    n_negatives: int = 5,
    frame: str = "clicks_and_negatives",
    detach_items: bool = True,
) -> Method:
    """Minimises L2 over relevance and exposure in the same step.

    Only the product m p is identified: m c and p / c have the same loss for every c. What keeps the two apart is the
    structure of the models alone.

    Freedom: the paper minimises L2(w, alpha) over both at once, and its exposure reads the item vectors in w. The full
    gradient is ``detach_items=False`` (the variant ``joint_opt_attached``). The default cuts it there, as in ``biif``,
    so that the two differ in the outer step alone; the rows of docs/results.md were measured with it.

    Args:
        model: the relevance model.
        exposure_model: see ``biif``.
        item_vectors: see ``biif``.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``.
        detach_items: see ``biif``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``outer_lr`` (of the exposure), ``min_exposure`` (see
        ``biif``).

    Raises:
        ValueError: unknown ``frame``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.joint_opt(
        ...     models.mf(8, 6, dim=2), models.biif_exposure(8, dim=2), item_vectors=models.item_vectors)
        >>> sorted(method.hparams)
        ['lr', 'min_exposure', 'outer_lr', 'weight_decay']

    Source:
        Biif section 3.3.
    """
    terms = ExposureTerms(model, exposure_model, item_vectors=item_vectors, detach_items=detach_items)
    return supervised(
        {"prediction": prediction_group(model), "exposure": exposure_group(exposure_model)},
        loss=terms.umf,
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=EXPOSURE_HPARAMS,
        exposure=terms.estimate,
    )
