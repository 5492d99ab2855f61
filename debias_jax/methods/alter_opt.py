"""AlterOpt: relevance and exposure fitted in turn to the clicks."""

from debias_jax.methods._terms import EXPOSURE_HPARAMS, ExposureTerms, ItemVectors, exposure_group
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.recipes import alternating, predict_logits, prediction_group
from debias_jax.models.base import Model


def alter_opt(
    model: Model,
    exposure_model: Model,
    *,
    item_vectors: ItemVectors,
    batch_size: int = 1024,
    n_negatives: int = 5,
    frame: str = "clicks_and_negatives",
    detach_items: bool = True,
) -> Method:
    """Minimises L2 by a relevance step with the exposure fixed, then an exposure step with the relevance fixed.

    Both steps see the same batch. What ``joint_opt`` says of identification holds here too.

    Args:
        model: the relevance model.
        exposure_model: see ``biif``.
        item_vectors: see ``biif``.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``.
        detach_items: see ``biif``; it matters to the relevance step.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``outer_lr`` (of the exposure), ``min_exposure`` (see
        ``biif``).

    Raises:
        ValueError: unknown ``frame``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.alter_opt(
        ...     models.mf(8, 6, dim=2), models.biif_exposure(8, dim=2), item_vectors=models.item_vectors)
        >>> sorted(method.hparams)
        ['lr', 'min_exposure', 'outer_lr', 'weight_decay']

    Source:
        Biif section 3.3.
    """
    terms = ExposureTerms(model, exposure_model, item_vectors=item_vectors, detach_items=detach_items)
    return alternating(
        {"prediction": prediction_group(model), "exposure": exposure_group(exposure_model)},
        losses={"prediction": terms.umf, "exposure": terms.umf},
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=EXPOSURE_HPARAMS,
        exposure=terms.estimate,
    )
