"""In-batch softmax without correction."""

from typing import Unpack

from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import IN_BATCH_VARIANTS, against_total
from debias_jax.methods._retrieval import RetrievalSettings, retrieval
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def ssl(model: Model, *, variant: str = "published", **settings: Unpack[RetrievalSettings]) -> Method:
    r"""Cross-entropy of each click among the items of its batch (``losses.in_batch_softmax``).

    .. math:: L = -\frac{1}{B} \sum_{(u, i)} \log \frac{e^{s_{ui}}}{\sum_{j \in B} e^{s_{uj}}}

    Negatives come in proportion to popularity: the scores learn the preference less the log popularity, so that popular
    items are recommended less than a full softmax would.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        variant: ``"published"``, or ``"released"``: the positive stands in the denominator twice.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``variant`` is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.ssl(models.mf(8, 6, dim=2), batch_size=4)
        >>> sorted(method.hparams)
        ['lr', 'weight_decay']

    Source:
        "SSL" in Chen et al., "Cache-augmented inbatch importance resampling for training recommender retriever",
        NeurIPS 2022.
    """
    check_choice(IN_BATCH_VARIANTS, variant=variant)

    def totals(rows, context):
        del context
        return rows.batch.log_total()

    def loss(clicks, total, context):
        del context
        return against_total(clicks.pos, total, variant)

    return retrieval(model, totals=totals, loss=loss, **settings)
