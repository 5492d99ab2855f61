"""In-batch softmax with item frequencies that are estimated as the batches come by."""

import math
from collections.abc import Sequence
from typing import Unpack

import jax.numpy as jnp

from debias_jax import sampling
from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import IN_BATCH_VARIANTS, against_total
from debias_jax.methods._retrieval import BATCH_SIZE, RetrievalSettings, retrieval
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def g_tower(
    model: Model,
    *,
    table_sizes: Sequence[int] | None = None,
    initial_interval: float | None = None,
    variant: str = "published",
    **settings: Unpack[RetrievalSettings],
) -> Method:
    r"""``ssl_pop`` for a stream: the popularity is one over the estimated steps between two sights of an item.

    The estimates are a part of the state (``sampling.update_frequency``), with :math:`\alpha` the hyperparameter
    ``frequency_rate``. A step counts its batch first and then corrects by what it knows.

    Freedom: where the estimates start, which shows until an item has been seen some :math:`1/\alpha` times. One over
    the interval is the share of *batches* that hold an item, at most 1: an item that stands in every other batch or
    more is corrected by too little, which counts of the log (``ssl_pop``) are not.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        table_sizes: see ``sampling.init_frequency``; default one table that keeps all items apart. The released program
            has five of 4993 to 5011.
        initial_interval: see ``sampling.init_frequency``; default that of items that are all equally popular. The
            released program has 1, so that with its rate of 1e-4 all estimates stay near 1 and it behaves as ``ssl``.
        variant: ``"published"``, or ``"released"``: the positive stands in the denominator twice.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``frequency_rate``.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``variant`` is unknown, or a table size is below 1.

    Example:
        >>> from debias_jax import methods, models
        >>> method = methods.g_tower(models.mf(8, 6, dim=2), batch_size=4)
        >>> sorted(method.hparams)
        ['frequency_rate', 'lr', 'weight_decay']

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019,
        algorithm 2.
    """
    check_choice(IN_BATCH_VARIANTS, variant=variant)
    batch_size = settings.get("batch_size", BATCH_SIZE)

    def fit(key, data, hparams):
        del key, hparams
        n_items = data.matrix_size[1]
        interval = initial_interval
        if interval is None:
            interval = 1.0 / -math.expm1(batch_size * math.log1p(-1.0 / max(n_items, 2)))
        sizes = [n_items] if table_sizes is None else table_sizes
        return sampling.init_frequency(sizes, initial_interval=interval)

    def prepare(params, context, batch):
        del params
        # Padding stands for the first click, of which several sights in a batch are one.
        items = jnp.where(batch.where, batch.items, batch.items[0])
        state = sampling.update_frequency(context.extra, items, rate=context.hparams["frequency_rate"])
        return state, state

    def totals(rows, context):
        return rows.batch.log_total(sampling.log_frequency(context.extra, rows.batch.items))

    def loss(clicks, total, context):
        pos = clicks.pos - sampling.log_frequency(context.extra, clicks.items)
        return against_total(pos, total, variant)

    return retrieval(
        model,
        totals=totals,
        loss=loss,
        fit=fit,
        prepare=prepare,
        hparams={"frequency_rate": 1e-2},
        **settings,
    )
