"""CVIB: the mean prediction over unobserved pairs is held near that over observed ones; no propensities."""

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
    as_term,
    predict_logits,
    prediction_group,
    supervised,
)
from debias_jax.models.base import Model

HPARAMS = {**ADAM_HPARAMS, "contrast_weight": 0.1, "confidence_weight": 0.01}
"""``contrast_weight``: alpha; ``confidence_weight``: gamma."""


def cvib(
    model: Model,
    *,
    variant: str = "published",
    batch_size: int = 1024,
    frame: str = "pairs",
    ratio: int = 1,
) -> Method:
    r"""Cross-entropy of the observed rows, a contrast between mean predictions, and a confidence penalty.

    .. math::
        L = \frac{1}{|O|} \sum_O \mathrm{CE}(\hat r; r)
            - \alpha \big[ m_O \log m_U + (1 - m_O) \log (1 - m_U) \big]
            + \frac{\gamma}{|O|} \sum_O \hat r \log \hat r

    with :math:`m_O, m_U` the mean predictions :math:`\hat r = \sigma(s)` over the observed rows and over the
    population sample of the step. The gradient goes through both means.

    ``variant="released"`` has what the official program computes instead of the contrast: its second logarithm is
    that of :math:`\hat r` where it should be that of :math:`1 - \hat r`, so that the predictions of the population
    cancel and :math:`-\frac{\alpha}{|O|} \sum_O \log \hat r` is left, which raises every observed prediction.

    Freedom: the paper contrasts with pairs that were not observed; here they are a sample of all pairs, of which the
    observed ones are a small share.

    Args:
        model: any pairwise model.
        variant: ``"published"`` or ``"released"``.
        batch_size: observed rows a step.
        frame: ``"pairs"``, ``"block"``, ``"tiles"`` or ``"uniform"``; see ``methods.cvr_batches``.
        ratio: pairs of the population for each observed row.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``contrast_weight``, ``confidence_weight``.

    Raises:
        ValueError: an option is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.cvib(models.mf(8, 6, dim=2))
        >>> sorted(method.hparams)
        ['confidence_weight', 'contrast_weight', 'lr', 'weight_decay']

    Source:
        Wang et al., "Information theoretic counterfactual learning from missing-not-at-random feedback", NeurIPS 2020;
        the released form follows RyanWangZf/CVIB-Rec.
    """
    check_choice(("published", "released"), variant=variant)

    def term(params, context: Context, batch: CvrBatch):
        rows, sample, observed = batch.rows, batch.sample, batch.observed_rows
        logits = model.apply(params["prediction"], rows.users, rows.items)

        def observed_mean(values):
            return safe_reduce(values, where=observed)

        if variant == "released":
            contrast = observed_mean(jax.nn.softplus(-logits))
        else:
            sample_logits = model.apply(params["prediction"], sample.users, sample.items)
            positive = observed_mean(jax.nn.sigmoid(logits))
            # 1 - mean as a mean of its own: a mean that rounds to 1 would leave the logarithm of 0.
            contrast = -positive * jnp.log(jnp.mean(jax.nn.sigmoid(sample_logits)))
            contrast -= (1.0 - positive) * jnp.log(jnp.mean(jax.nn.sigmoid(-sample_logits)))
        confidence = observed_mean(jax.nn.sigmoid(logits) * jax.nn.log_sigmoid(logits))
        loss = observed_mean(cross_entropy(logits, rows.labels))
        loss += context.hparams["contrast_weight"] * contrast
        loss += context.hparams["confidence_weight"] * confidence
        return *as_term(loss), {"contrast": contrast}

    return supervised(
        {"prediction": prediction_group(model)},
        loss=term,
        batches=cvr_batches(frame, batch_size=batch_size, ratio=ratio),
        predict=predict_logits(model),
        hparams=HPARAMS,
    )
