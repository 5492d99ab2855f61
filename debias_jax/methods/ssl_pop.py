"""In-batch softmax with the popularity of the items taken out."""

from typing import Unpack

from debias_jax._checks import check_choice
from debias_jax.losses.in_batch import IN_BATCH_VARIANTS, against_total
from debias_jax.methods._cross_batch import cross_batch
from debias_jax.methods._retrieval import RetrievalSettings, log_popularity, retrieval
from debias_jax.methods.base import Method
from debias_jax.models.base import Model


def ssl_pop(
    model: Model,
    *,
    variant: str = "published",
    sharpness: float = 1.0,
    cache_size: int = 0,
    cache: str = "recomputed",
    **settings: Unpack[RetrievalSettings],
) -> Method:
    r"""Cross-entropy of each click among the items of its batch, less their log popularity (the logQ correction).

    .. math:: L = -\frac{1}{\beta B} \sum_{(u, i)} \log
              \frac{e^{\beta s_{ui}} / \mathrm{pop}(i)}{\sum_{j \in B} e^{\beta s_{uj}} / \mathrm{pop}(j)}

    With :math:`\beta = 1` its gradient approaches that of the softmax over all items as 1 / B, or as 1 / (B + K) with a
    cache: the items of the last K clicks of earlier batches are columns as those of the batch are, and as popular.

    Args:
        model: a model with towers, e.g. ``models.mf`` or ``models.two_tower``.
        variant: ``"published"``, or ``"released"``: the positive stands in the denominator twice.
        sharpness: :math:`\beta`; 2 is the limit of ``bir`` without its noise.
        cache_size: K; 0 for no cache. Slots that no click has filled yet do not count.
        cache: ``"recomputed"``: cached items are embedded anew in every step and receive gradients; ``"stale"``: their
            vectors are kept from the step that had the click, and are constants: no tower is run for them. What users
            learn is the same but for the vectors' age; items are pulled as often as they are clicked and pushed B / (B
            + K) as much as by the softmax, so that K should not be many times B.
        **settings: see ``methods._retrieval.RetrievalSettings``.

    Returns:
        The method; hyperparameters ``lr``, ``weight_decay``, ``popularity_power``, a factor of the log popularity (1;
        0.75 is another usual choice, 0 is ``ssl``), and with a cache ``cache_warmup``, the steps before it is used (0).
        Vectors change fast at first; a stale cache may wait for them.

    Raises:
        ConfigError: the model has no towers, or ``chunk`` does not divide ``batch_size``.
        ValueError: ``variant`` or ``cache`` is unknown, ``sharpness`` is not positive, or ``cache_size`` is negative.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic.generate(seed=0, n_users=8, n_items=6)
        >>> method = methods.ssl_pop(models.mf(8, 6, dim=2), batch_size=4)
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

    Source:
        Yi et al., "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019, eq.
        4-5, with the popularity in the training log; "SSL-Pop" in Chen et al., NeurIPS 2022. The stale cache: Wang et
        al., "Cross-batch memory for embedding learning", CVPR 2020; Wang, Zhu and He, "Cross-batch negative sampling
        for training two-tower recommenders", SIGIR 2021.
    """
    check_choice(IN_BATCH_VARIANTS, variant=variant)
    if not sharpness > 0:
        raise ValueError(f"sharpness must be positive, got {sharpness}")

    def log_q(context, items):
        return context.hparams["popularity_power"] * log_popularity(context.data)[items]

    def totals(rows, context):
        return rows.log_total(lambda items: log_q(context, items), sharpness)

    def loss(clicks, total, context):
        pos = sharpness * clicks.pos - log_q(context, clicks.items)
        return against_total(pos, total, variant) / sharpness

    recent = cross_batch(model, cache_size=cache_size, cache=cache)
    recent["hparams"] = {"popularity_power": 1.0, **recent["hparams"]}
    return retrieval(model, totals=totals, loss=loss, **recent, **settings)
