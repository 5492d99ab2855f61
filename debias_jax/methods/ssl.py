"""In-batch softmax without correction."""

from typing import Unpack

from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import IN_BATCH_VARIANTS, against_total
from debias_jax.methods._cross_batch import cross_batch
from debias_jax.methods._retrieval import RetrievalSettings, retrieval
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def ssl(
    model: Model,
    *,
    variant: str = "published",
    cache_size: int = 0,
    cache: str = "recomputed",
    **settings: Unpack[RetrievalSettings],
) -> Method:
    r"""Cross-entropy of each click among the items of its batch (``losses.in_batch_softmax``).

    .. math:: L = -\frac{1}{B} \sum_{(u, i)} \log \frac{e^{s_{ui}}}{\sum_{j \in B} e^{s_{uj}}}

    Negatives come in proportion to popularity: the scores learn the preference less the log popularity, so that popular
    items are recommended less than a full softmax would.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        variant: ``"published"``, or ``"released"``: the positive stands in the denominator twice.
        cache_size: items of the last batches as further negatives, see ``ssl_pop``.
        cache: ``"recomputed"`` or ``"stale"``, ditto.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, and ``cache_warmup`` with a cache.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``variant`` or ``cache`` is unknown, or ``cache_size`` is negative.

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
        return rows.log_total()

    def loss(clicks, total, context):
        del context
        return against_total(clicks.pos, total, variant)

    recent = cross_batch(model, cache_size=cache_size, cache=cache)
    return retrieval(model, totals=totals, loss=loss, **recent, **settings)
