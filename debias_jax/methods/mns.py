"""Mixed negative sampling: the batch's items and uniform ones."""

from typing import Unpack

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import against_total
from debias_jax.methods._retrieval import BATCH_SIZE, RetrievalSettings, log_popularity, retrieval, size_or
from debias_jax.methods._score_matrix import FurtherItems
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def mns(
    model: Model,
    *,
    n_uniform: int | None = None,
    variant: str = "published",
    **settings: Unpack[RetrievalSettings],
) -> Method:
    r"""Cross-entropy of each click among the items of its batch and K uniform ones, which all rows share.

    .. math:: L = -\frac{1}{B} \sum_{(u, i)} \log
              \frac{e^{s_{ui}} / q_i}{\sum_{j \in B \cup U} e^{s_{uj}} / q_j}, \qquad
              q_j = \frac{B\, \mathrm{pop}(j) + K / N}{B + K}

    q is the law of a column (B the clicks of the batch, fewer in an epoch's last one), so that every item has its
    correction and rare items come by, too.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        n_uniform: K; default B.
        variant: ``"published"``, or ``"released"``: the shares of q are exchanged (no matter for K = B), the positive
            is divided by its popularity and not by q, and stands in the denominator twice.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``n_uniform`` is below 1, or ``variant`` is unknown.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.mns(models.mf(8, 6, dim=2), batch_size=4, n_uniform=4)
        >>> sorted(method.hparams)
        ['lr', 'weight_decay']

    Source:
        Yang et al., "Mixed negative sampling for learning two-tower neural networks in recommendations", WWW 2020.
    """
    check_choice(("published", "released"), variant=variant)
    n_drawn = size_or(settings.get("batch_size", BATCH_SIZE), n_uniform=n_uniform)

    def uniform(context):
        n_items = context.data.matrix_size[1]
        key = jax.random.fold_in(context.key, 0)
        return FurtherItems(sampling.uniform_items(key, (n_drawn,), n_items=n_items))

    def log_q(context, items, n_clicks):
        # Of the columns that count: padding of an epoch's last batch is none.
        share = n_clicks / (n_clicks + n_drawn)
        if variant == "released":
            share = 1.0 - share
        law = share * jnp.exp(log_popularity(context.data)) + (1.0 - share) / context.data.matrix_size[1]
        return jnp.log(law)[items]

    def totals(rows, context):
        return rows.log_total(lambda items: log_q(context, items, rows.n_clicks))

    def loss(clicks, total, context):
        if variant == "released":
            log_q_pos = log_popularity(context.data)[clicks.items]
        else:
            log_q_pos = log_q(context, clicks.items, clicks.n_clicks)
        return against_total(clicks.pos - log_q_pos, total, variant)

    return retrieval(model, totals=totals, loss=loss, further=uniform, **settings)
