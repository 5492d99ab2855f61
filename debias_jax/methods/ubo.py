"""UBO: the first version of Biif, which does not train on the pairs that guide the exposure."""

from debias_jax.methods._terms import ItemVectors
from debias_jax.methods.base import Method
from debias_jax.methods.biif import biif
from debias_jax.models.base import Model


def ubo(
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
    """``biif`` with ``train_on_exposed=False``: the "probably exposed" pairs are in the outer loss alone.

    Freedom: UBO's text builds these pairs out of the training set and does not say that they stay in it; Biif, its
    later version, says that they are added, and prints the same numbers. So what UBO's program did is not known. This
    is the reading by the letter, and the ablation of Biif that tells what the added rows are worth.

    Args:
        model: see ``biif``, as for the rest.
        exposure_model: ditto.
        item_vectors: ditto.
        batch_size: ditto.
        n_negatives: ditto.
        frame: ditto.
        inner_step: ditto.
        detach_items: ditto.
        reduction: ditto.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``inner_lr``, ``outer_lr``, ``min_exposure``.

    Raises:
        ValueError: unknown ``inner_step``, ``reduction`` or ``frame``.
        ConfigError: (on training) the data has no "probably exposed" pairs.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.ubo(
        ...     models.mf(8, 6, dim=2), models.biif_exposure(8, dim=2), item_vectors=models.item_vectors)
        >>> sorted(method.hparams)
        ['inner_lr', 'lr', 'min_exposure', 'outer_lr', 'weight_decay']

    Source:
        UBO (arXiv 2206.00147, version 1).
    """
    return biif(
        model,
        exposure_model,
        item_vectors=item_vectors,
        batch_size=batch_size,
        n_negatives=n_negatives,
        frame=frame,
        inner_step=inner_step,
        detach_items=detach_items,
        reduction=reduction,
        train_on_exposed=False,
    )
