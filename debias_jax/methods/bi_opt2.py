"""BiOpt2: Biif's bi-level step without its validation set."""

from debias_jax.methods._terms import ExposureTerms, ItemVectors, exposure_group
from debias_jax.methods.base import Method
from debias_jax.methods.batching import pair_frame
from debias_jax.methods.biif import HPARAMS
from debias_jax.methods.recipes import bilevel, predict_logits, prediction_group
from debias_jax.models.base import Model


def bi_opt2(
    model: Model,
    exposure_model: Model,
    *,
    item_vectors: ItemVectors,
    batch_size: int = 1024,
    n_negatives: int = 5,
    frame: str = "clicks_and_negatives",
    inner_step: str = "virtual_sgd",
    detach_items: bool = True,
    reduction: str = "sum",
) -> Method:
    """Like ``biif``, with the training batch in the place of the "probably exposed" pairs.

    The exposure follows the total derivative of L_train(w+(alpha), alpha): the explicit term at the stepped relevance
    plus the term through the step. Open choice: the outer batch is the inner one.

    Args:
        model: the relevance model.
        exposure_model: see ``biif``.
        item_vectors: see ``biif``.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``.
        inner_step: see ``biif``.
        detach_items: see ``biif``.
        reduction: see ``biif``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``inner_lr``, ``outer_lr``, ``min_exposure``.

    Raises:
        ValueError: unknown ``inner_step``, ``reduction`` or ``frame``.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.bi_opt2(
        ...     models.mf(8, 6, dim=2), models.biif_exposure(8, dim=2), item_vectors=models.item_vectors)
        >>> sorted(method.hparams)
        ['inner_lr', 'lr', 'min_exposure', 'outer_lr', 'weight_decay']

    Source:
        Biif section 3.3 (1BiOpt2, 2BiOpt2), after Ma et al. 2020.
    """
    terms = ExposureTerms(model, exposure_model, item_vectors=item_vectors, detach_items=detach_items)
    return bilevel(
        prediction_group(model),
        exposure_group(exposure_model),
        names=("prediction", "exposure"),
        inner_loss=terms.umf,
        outer_loss=terms.umf,
        batches=pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives),
        predict=predict_logits(model),
        hparams=HPARAMS,
        inner_step=inner_step,
        reduction=reduction,
        exposure=terms.estimate,
    )
