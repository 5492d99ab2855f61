"""Biif: exposure learnt bi-level, through one step of the relevance model."""

import functools

import jax.numpy as jnp

from debias_jax._checks import check_choice, check_sizes
from debias_jax.methods._terms import EXPOSURE_HPARAMS, ExposureTerms, ItemVectors, exposure_group
from debias_jax.methods.base import BatchesFn, Method, TrainData
from debias_jax.methods.batching import pair_frame, without_exposed
from debias_jax.methods.recipes import LossTerm, bilevel, predict_logits, prediction_group
from debias_jax.models.base import Model

HPARAMS = {**EXPOSURE_HPARAMS, "inner_lr": 1e-3}
"""``inner_lr``: eta of the virtual step (eq. 16); ``outer_lr``: eta' of the exposure (eq. 17); ``min_exposure``: lower
clip of the exposure in L2, which the paper tried at .01; below it the exposure gets no gradient."""


def biif(
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
    train_on_exposed: bool = True,
    exposed: str = "all",
    outer_batch_size: int | None = None,
) -> Method:
    """Learns relevance on L2 with exposure m(u, i), and m through what the step does to known pairs.

    Each step: (i) relevance steps on L_train = L2 of the batch (eq. 16); (ii) exposure steps down the gradient of
    L_val(w - eta grad_w L_train(w, alpha)) (eq. 17), where L_val is the cross-entropy over all "probably exposed"
    pairs, whose exposure is taken as 1. With one SGD step the gradient of a free m_ui is eq. 19, its four residuals
    taken after the step; it is zero for clicked pairs (eq. 18) only if ``detach_items``.

    The paper leaves four choices open; they are options here, and what they change on Coat is in docs/results.md:

    - ``inner_step``: ``"virtual_sgd"`` takes the hypergradient through an SGD step of size ``inner_lr`` and lets Adam
      move the relevance model; ``"adam"`` goes through Adam's own step, whose derivative with respect to a rarely seen
      entry is almost zero; ``"sgd"`` keeps the SGD step, reads neither ``lr`` nor ``weight_decay``, and learns slowly
      at this step size. The thrown-away step has no ``weight_decay``, the one that Adam keeps has. ``"adam"`` adds
      ``weight_decay`` to the reduced loss's gradient: against a sum it weighs as much less as the batch has rows.
    - ``detach_items``: whether the item vectors inside the exposure are constants. The theory of the paper
      (eq. 18, 19) needs it.
    - ``reduction``: with ``"sum"`` hypergradients stand above Adam's epsilon and the exposure moves by ``outer_lr``
      a step; with ``"mean"`` they can lie below it and the exposure stays near its start, theta mixed with 1/2. The
      log ``hypergradient_over_eps`` says which.
    - ``frame``: which zeros are drawn; see ``methods.batching``. With ``"clicks_and_negatives"`` the negative
      "probably exposed" pairs are training zeros of every method on that frame, not of this one alone.

    Args:
        model: the relevance model.
        exposure_model: e.g. ``models.biif_exposure``.
        item_vectors: ``(params, items) -> [..., dim]`` of ``model``, e.g. ``models.item_vectors``.
        batch_size: rows a step.
        n_negatives: uniform zeros drawn per click.
        frame: see ``methods.batching``.
        inner_step: see above.
        detach_items: see above.
        reduction: see above.
        train_on_exposed: whether the "probably exposed" pairs are training rows too; ``methods.ubo`` leaves them out.
        exposed: ``"all"`` of these pairs, or ``"positives"``: the others are explicit low ratings, which a log of
            clicks does not have, and are then neither in L_val nor, as known zeros, in L_train.
        outer_batch_size: of these pairs, how many a step draws for L_val (with replacement, scaled to all of them); the
            paper takes all, as does None. A log of many users has several batches of them, and each step goes through
            them twice.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``inner_lr``, ``outer_lr``, ``min_exposure``.

    Raises:
        ValueError: unknown ``inner_step``, ``reduction``, ``frame`` or ``exposed``; ``outer_batch_size`` below 1.
        ConfigError: (on training) the data has no "probably exposed" pairs.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.splits.biif(data.synthetic.generate(seed=0, n_users=8, n_items=6))
        >>> method = methods.biif(
        ...     models.mf(8, 6, dim=2), models.biif_exposure(8, dim=2), item_vectors=models.item_vectors)
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

    Source:
        Biif Algorithm 1 and eq. 10, 14, 16, 17; UBO (arXiv 2206.00147).
    """
    check_choice(("all", "positives"), exposed=exposed)
    batches = pair_frame(frame, batch_size=batch_size, n_negatives=n_negatives)
    batches = batches if train_on_exposed else without_exposed(batches)
    terms = ExposureTerms(model, exposure_model, item_vectors=item_vectors, detach_items=detach_items)
    outer_loss = terms.exposed_bce
    if outer_batch_size is not None:
        check_sizes(outer_batch_size=outer_batch_size)
        outer_loss = functools.partial(outer_loss, n_drawn=outer_batch_size)
    if exposed == "positives":
        batches, outer_loss = _on_positives(batches, outer_loss)
    return bilevel(
        prediction_group(model),
        exposure_group(exposure_model),
        names=("prediction", "exposure"),
        inner_loss=terms.umf,
        outer_loss=outer_loss,
        batches=batches,
        predict=predict_logits(model),
        hparams=HPARAMS,
        inner_step=inner_step,
        reduction=reduction,
        exposure=terms.estimate,
    )


def _on_positives(batches: BatchesFn, outer_loss: LossTerm) -> tuple[BatchesFn, LossTerm]:
    """Both on data whose negative "probably exposed" pairs count nowhere: their labels are below 0."""

    def of_data(data: TrainData) -> TrainData:
        labels = jnp.where(data.exposed_labels > 0, data.exposed_labels, -1.0)
        return data._replace(exposed_labels=labels)

    def own_loss(params, context, batch):
        return outer_loss(params, context._replace(data=of_data(context.data)), batch)

    return lambda data, key: batches(of_data(data), key), own_loss
