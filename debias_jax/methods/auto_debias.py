"""AutoDebias: weights of observed and imputed pairs, and the imputed labels, learnt from a small unbiased set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from debias_jax import optimizers, sampling
from debias_jax._checks import check_choice
from debias_jax._reduce import safe_divide
from debias_jax.errors import ConfigError
from debias_jax.methods.base import Method, TrainData
from debias_jax.methods.recipes import (
    ADAM_HPARAMS,
    Context,
    Group,
    as_term,
    bilevel,
    predict_logits,
    prediction_group,
    total_and_count,
)
from debias_jax.models.base import Model
from debias_jax.types import Array, Key, Params

VARIANTS = ("published", "released")

_RATES = {
    "observed_lr": 1e-3,
    "observed_weight_decay": 1e-4,
    "imputed_lr": 1e-3,
    "imputed_weight_decay": 1e-3,
    "imputation_lr": 1e-1,
    "imputation_weight_decay": 1e-4,
}

HPARAMS = {
    "published": {
        **ADAM_HPARAMS,
        "inner_lr": 1e-2,
        "imputation_weight": 1.0,
        **_RATES,
        "weight_delay": 0.0,
    },
    "released": {
        "inner_lr": 1e-3,
        "imputation_weight": 0.05,
        "l2": 1.0,
        **_RATES,
        "weight_delay": 500.0,
    },
}
"""By variant. ``inner_lr``: of the step that the outer parameters are learnt through; ``l2``: see ``auto_debias``;
``observed_*``, ``imputed_*`` and ``imputation_*``: Adam of w1, of w2 and of the imputed labels; ``weight_delay``: steps
before w1 and w2 move. Of ``"released"`` they are the program's for Coat (20 epochs of 25 blocks of delay)."""

_TEMPERATURE = {"published": 1.0, "released": 5.0}


class BlockBatch(NamedTuple):
    """All pairs of some users and some items: ``users [a, 1]``, ``items [1, b]`` int32, ``where`` bool ``[a, b]``."""

    users: Array
    items: Array
    where: Array


def blocks(size: tuple[int, int]) -> Callable[[TrainData, Key], BlockBatch]:
    """Frame of an epoch in which each pair of the matrix is in one block, users and items in random order.

    Args:
        size: users and items of a block; the last blocks are padded.
    """

    def batches(data: TrainData, key: Key) -> BlockBatch:
        (users, in_users), (items, in_items) = (
            sampling.epoch_batches(jax.random.fold_in(key, axis), n, batch_size=min(length, n))
            for axis, (n, length) in enumerate(zip(data.matrix_size, size, strict=True))
        )

        def each(of_users: Array, of_items: Array) -> tuple[Array, Array]:
            """Every combination of a row of users with a row of items."""
            n_users, n_items = of_users.shape[0], of_items.shape[0]
            return jnp.repeat(of_users, n_items, axis=0)[:, :, None], jnp.tile(of_items, (n_users, 1))[
                :, None, :
            ]

        in_users, in_items = each(in_users, in_items)
        return BlockBatch(*each(users, items), in_users & in_items)

    return batches


def auto_debias(
    model: Model,
    *,
    user_vectors: Callable[[Params, Array], Array],
    item_vectors: Callable[[Params, Array], Array],
    feedback: str = "clicks",
    block: tuple[int, int] = (64, 64),
    variant: str = "published",
) -> Method:
    r"""Fits scores to labels of -1 and 1 by a weighted risk whose weights do well on an unbiased set.

    .. math::
        L_T = \frac{1}{|D_T|} \sum_{D_T} w^{(1)}_{ui} (s_{ui} - y_{ui})^2
              + \frac{\lambda}{N M} \sum_{u, i} w^{(2)}_{ui} (s_{ui} - m_{ui})^2, \qquad
        w^{(1)} = e^{a_u + b_i}, \; w^{(2)} = e^{c_u + d_i + g_{o}}, \; m = \tanh h_{r}

    with o whether the pair is in the log and r what the log says of it. Each step takes a block of users x items and
    (i) makes a virtual SGD step of size ``inner_lr`` on its L_T; (ii) steps a .. h down the gradient, through (i), of
    the mean squared error on all "probably exposed" pairs, which stand for the paper's pairs of a random policy; (iii)
    steps the scores on L_T at the new weights. All weights start at 1 and all imputed labels at 0.

    Freedom: the paper gives the imputed sum over all pairs; a block is an unbiased sample of it and of the observed
    sum. Where the set is Biif's, as in its tables, and not of a random policy, the weights make up for the difference
    to that set, which leans to active users and popular items.

    Args:
        model: any pairwise model with vectors, as a rule ``models.mf(..., bias=True)``; its scores are not logits but
            rank alike.
        user_vectors: ``(params, users) -> [..., dim]`` of ``model``, for ``l2``; e.g. ``models.user_vectors``.
        item_vectors: likewise.
        feedback: ``"clicks"``: the log is its clicks, all of label 1; ``"ratings"``: all rated pairs, with labels 1
            and -1, whose w1 should become the inverse of their propensity up to a factor.
        block: users and items of a block, 64 x 64 (Coat) or 6000 x 500 (Yahoo! R3) in the released program.
        variant: ``"published"``: means, as above, and Adam on ``lr`` and ``weight_decay`` for (iii). ``"released"``:
            sums over the block and over the "probably exposed" pairs; :math:`w = e^{(\cdot)/5}`; ``l2`` / 2 times the
            squared vectors of the block's users and items; and SGD of size ``inner_lr`` in (iii) as in (i). Its
            default settings are those for Coat; for Yahoo! R3 see ``configs/yahoo_r3.py``.

    Returns:
        The method; hyperparameters as in ``HPARAMS[variant]``: ``lr`` and ``weight_decay`` of ``"published"`` only,
        ``l2`` of ``"released"`` only. Group ``"debias"`` holds a .. h.

    Raises:
        ValueError: unknown ``feedback`` or ``variant``.
        ConfigError: a block is not two sizes of at least 1; (on training) the data has no "probably exposed" pairs.

    Example:
        >>> import jax
        >>> from debias_jax import data, methods, models, training
        >>> log = data.splits.biif(data.synthetic.generate(seed=0, n_users=8, n_items=6))
        >>> method = methods.auto_debias(
        ...     models.mf(8, 6, dim=2, bias=True), user_vectors=models.user_vectors,
        ...     item_vectors=models.item_vectors, block=(4, 3))
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=2).state
        >>> sorted(state.params["debias"])
        ['imputation', 'imputed', 'observed']

    Source:
        Chen, Dong, Qiu, He, Xin, Chen, Lin, Yang, "AutoDebias: learning to debias for recommendation", SIGIR 2021;
        released program DongHande/AutoDebias.
    """
    check_choice(("clicks", "ratings"), feedback=feedback)
    check_choice(VARIANTS, variant=variant)
    if not isinstance(block, tuple | list) or len(block) != 2 or min(block) < 1:
        raise ConfigError(f"block must be two sizes of at least 1, users and items, got {block!r}")
    released = variant == "released"

    def observations(data: TrainData, users: Array, items: Array) -> tuple[Array, Array]:
        """Which pairs are in the log, and their labels of -1 or 1."""
        if feedback == "clicks":
            observed = sampling.contains(data.click_set, users, items)
            return observed, jnp.ones(observed.shape, jnp.float32)
        position = sampling.find(data.observed_set, users, items)
        return position >= 0, 2.0 * data.observed_labels[position] - 1.0

    def inner(params, context: Context, batch: BlockBatch):
        data, hparams, learnt = context.data, context.hparams, params["debias"]
        observed, labels = observations(data, batch.users, batch.items)
        scores = model.apply(params["prediction"], batch.users, batch.items)

        def weight(name: str) -> Array:
            part = learnt[name]
            logs = part["user"][batch.users] + part["item"][batch.items]
            if "observed" in part:
                logs = logs + part["observed"][observed.astype(jnp.int32)]
            return jnp.exp(logs / _TEMPERATURE[variant])

        # 0: not in the log, 1: rated low, 2: rated high or clicked.
        known = jnp.where(observed, 1 + (labels > 0), 0)
        imputed = jnp.tanh(learnt["imputation"]["label"])[known]
        of_log, _ = total_and_count(weight("observed") * jnp.square(scores - labels), batch.where & observed)
        of_all, n_pairs = total_and_count(weight("imputed") * jnp.square(scores - imputed), batch.where)
        if released:
            vectors = jnp.sum(jnp.square(user_vectors(params["prediction"], batch.users)), axis=-1)
            of_users = jnp.sum(jnp.where(jnp.any(batch.where, axis=1, keepdims=True), vectors, 0.0))
            vectors = jnp.sum(jnp.square(item_vectors(params["prediction"], batch.items)), axis=-1)
            of_items = jnp.sum(jnp.where(jnp.any(batch.where, axis=0, keepdims=True), vectors, 0.0))
            penalty = 0.5 * hparams["l2"] * (of_users + of_items)
            return as_term(of_log + hparams["imputation_weight"] * of_all + penalty)
        n_users, n_items = data.matrix_size
        # Distinct pairs, as ``observed`` knows them: one that was logged twice is in D_T once.
        log_size = (data.click_set if feedback == "clicks" else data.observed_set).items.shape[0]
        # The share of the log in the block is in expectation the block's share of all pairs.
        of_log = of_log * (float(n_users) * float(n_items) / log_size)
        return as_term((of_log + hparams["imputation_weight"] * of_all) / jnp.maximum(n_pairs, 1.0))

    def outer(params, context: Context, batch: BlockBatch):
        del batch
        data = context.data
        if data.exposed_users.shape[0] == 0:
            raise ConfigError(
                "auto_debias learns its weights from 'probably exposed' (or random) pairs, and the training data has "
                "none; make them with data.splits.biif (config: data.split.name='biif')"
            )
        scores = model.apply(params["prediction"], data.exposed_users, data.exposed_items)
        errors = jnp.square(scores - (2.0 * data.exposed_labels - 1.0))
        total, count = total_and_count(errors, data.exposed_labels >= 0)
        return as_term(total if released else safe_divide(total, count))

    return bilevel(
        prediction_group(model),
        Group(None, _debias_optimizer, fit=_start),
        names=("prediction", "debias"),
        inner_loss=inner,
        outer_loss=outer,
        batches=blocks(block),
        predict=predict_logits(model),
        hparams=HPARAMS[variant],
        inner_step="sgd" if released else "virtual_sgd",
        inner_last=True,
    )


def _start(key: Key, data: TrainData, hparams: dict[str, Array]) -> Params:
    del key, hparams
    n_users, n_items = data.matrix_size

    def zeros(**sizes: int) -> Params:
        return {name: jnp.zeros(size, jnp.float32) for name, size in sizes.items()}

    return {
        "observed": zeros(user=n_users, item=n_items),
        "imputed": zeros(user=n_users, item=n_items, observed=2),
        "imputation": zeros(label=3),
    }


def _debias_optimizer(hparams: dict[str, Array]) -> optax.GradientTransformation:
    """Adam for each part, that of the weights at rest for ``weight_delay`` steps."""
    parts = {
        name: optimizers.adam(hparams[f"{name}_lr"], weight_decay=hparams[f"{name}_weight_decay"])
        for name in ("observed", "imputed", "imputation")
    }
    for name in ("observed", "imputed"):
        parts[name] = optax.conditionally_mask(parts[name], lambda step: step >= hparams["weight_delay"])
    return optax.partition(parts, {name: name for name in parts})
