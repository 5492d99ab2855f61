"""DAMF: an adversary measures how far a prediction may be off where nothing was observed; no propensities."""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_choice
from debias_jax._reduce import safe_reduce
from debias_jax.methods.base import CvrBatch, Method
from debias_jax.methods.cvr_batches import cvr_batches
from debias_jax.methods.doubly_robust import cross_entropy
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    Group,
    adam,
    alternating,
    as_term,
    predict_logits,
    prediction_group,
)
from debias_jax.models.base import Model
from debias_jax.types import Array

HPARAMS = {
    **ADAM_HPARAMS,
    "adversary_lr": 1e-2,
    "adversary_weight_decay": 1e-3,
    "discrepancy_weight": 0.05,
}
"""``discrepancy_weight``: beta."""

LABEL_LOSSES = ("squared", "cross_entropy")


def damf(
    biased_model: Model,
    adversary_model: Model,
    *,
    label_loss: str = "squared",
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 1,
) -> Method:
    r"""Fits the observed labels, and stays where a second model that agrees on observed pairs must agree elsewhere.

    .. math::
        \mathrm{PMD} &= \frac{1}{|U|} \sum_U (h - f)^2 - \frac{1}{|O|} \sum_O (h - f)^2 \\
        L_f &= \frac{1}{|O|} \sum_O (r - f)^2 + \beta\, \mathrm{PMD}, \qquad L_h = -\mathrm{PMD}

    f is the prediction and h the adversary, both sigmoids of a model's logit; each is a constant in the other's step.
    U is the population sample of the step.

    Freedom: the paper has ratings and unbounded predictions; for labels in [0, 1] both are probabilities here, which
    also bounds PMD by 1. ``label_loss="cross_entropy"`` keeps PMD and fits the labels by cross-entropy. The program
    alternates 20 steps of f with 20 of h, here every batch gives one of each; its weight decay of h is 0.1, on a rating
    scale.

    Args:
        biased_model: the prediction f, by the paper a factorisation with biases.
        adversary_model: the adversary h, by the paper a factorisation without.
        label_loss: ``"squared"`` or ``"cross_entropy"``.
        batch_size: observed rows a step.
        frame: ``"pairs"``, ``"block"``, ``"tiles"`` or ``"uniform"``; see ``methods.cvr_batches``.
        ratio: pairs of the population for each observed row.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``adversary_lr``, ``adversary_weight_decay``,
        ``discrepancy_weight``.

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.damf(models.mf(8, 6, dim=2, bias=True), models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['adversary_lr', 'adversary_weight_decay', 'discrepancy_weight', 'lr', 'weight_decay']

    Source:
        Saito and Nomura, "Towards resolving propensity contradiction in offline recommender learning", IJCAI 2022,
        and its program (usaito/ijcai2022-adversarial-mf).
    """
    check_choice(LABEL_LOSSES, label_loss=label_loss)

    def discrepancy(params, batch: CvrBatch) -> Array:
        rows, sample = batch.rows, batch.sample

        def squares(users, items):
            f = jax.nn.sigmoid(biased_model.apply(params["prediction"], users, items))
            h = jax.nn.sigmoid(adversary_model.apply(params["adversary"], users, items))
            return (h - f) ** 2

        on_observed = safe_reduce(squares(rows.users, rows.items), where=batch.observed_rows)
        return jnp.mean(squares(sample.users, sample.items)) - on_observed

    def prediction(params, context: Context, batch: CvrBatch):
        rows = batch.rows
        logits = biased_model.apply(params["prediction"], rows.users, rows.items)
        if label_loss == "squared":
            values = (rows.labels - jax.nn.sigmoid(logits)) ** 2
        else:
            values = cross_entropy(logits, rows.labels)
        fit = safe_reduce(values, where=batch.observed_rows)
        pmd = discrepancy(params, batch)
        return *as_term(fit + context.hparams["discrepancy_weight"] * pmd), {"discrepancy": pmd}

    def adversary(params, context: Context, batch: CvrBatch):
        del context
        return as_term(-discrepancy(params, batch))

    return alternating(
        {
            "prediction": prediction_group(biased_model),
            "adversary": Group(
                adversary_model.init, adam(lr="adversary_lr", weight_decay="adversary_weight_decay")
            ),
        },
        losses={"prediction": prediction, "adversary": adversary},
        batches=cvr_batches(frame, batch_size=batch_size, ratio=ratio),
        predict=predict_logits(biased_model),
        hparams=HPARAMS,
    )
