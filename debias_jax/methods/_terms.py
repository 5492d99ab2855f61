"""Loss terms and small pieces that several methods share."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from debias_jax import losses
from debias_jax.errors import ConfigError
from debias_jax.methods.base import TrainState
from debias_jax.methods.recipes import ADAM_HPARAMS, Context, Group, LossTerm, adam, total_and_count
from debias_jax.models.base import Model
from debias_jax.types import Array, Params

ItemVectors = Callable[[Params, Array], Array]
"""``(prediction params, items) -> vectors [..., dim]``."""


def log_shares(counts: Array) -> Array:
    """Log share of each item in counts that may have any unit, ``[n]``; an item that has none counts as the rarest."""
    rarest = jnp.min(jnp.where(counts > 0, counts, jnp.inf))
    return jnp.log(jnp.where(counts > 0, counts, rarest)) - jnp.log(jnp.sum(counts))


def popularity_exposure(state: TrainState, data, users: Array, items: Array) -> Array:
    """theta_i as the exposure estimate of a ``Method``."""
    del state, users
    return data.popularity[items]


def bce_term(model: Model) -> LossTerm:
    """Cross-entropy of labels over a pair batch."""

    def term(params, context: Context, batch):
        logits = model.apply(params["prediction"], batch.users, batch.items)
        values = optax.losses.sigmoid_binary_cross_entropy(logits, batch.labels)
        return total_and_count(values, batch.where, batch.weights)

    return term


class ExposureTerms:
    """Terms of methods that learn relevance and exposure together (Biif eq. 10 and 14).

    Args:
        model: the relevance model, group ``"prediction"``.
        exposure_model: ``apply(params, users, item_vectors, popularity) -> probability``, group ``"exposure"``.
        item_vectors: item representations of the relevance model, shared with the exposure model.
        detach_items: whether the shared item vectors are constants inside the exposure (a ``stop_gradient``).
    """

    def __init__(self, model: Model, exposure_model: Model, *, item_vectors: ItemVectors, detach_items: bool):
        self.model = model
        self.exposure_model = exposure_model
        self.item_vectors = item_vectors
        self.detach_items = detach_items

    def probability(self, params: dict[str, Params], data, users: Array, items: Array) -> Array:
        """Estimated exposure of pairs."""
        vectors = self.item_vectors(params["prediction"], items)
        if self.detach_items:
            vectors = jax.lax.stop_gradient(vectors)
        return self.exposure_model.apply(params["exposure"], users, vectors, data.popularity[items])

    def clipped(self, params: dict[str, Params], context: Context, batch) -> Array:
        """Estimated exposure of a batch, not below ``min_exposure``; where that holds it there is no gradient."""
        exposure = self.probability(params, context.data, batch.users, batch.items)
        return jnp.maximum(exposure, context.hparams["min_exposure"])

    def umf(self, params: dict[str, Params], context: Context, batch) -> tuple[Array, Array]:
        """L2 on the training pairs with the estimated exposure."""
        logits = self.model.apply(params["prediction"], batch.users, batch.items)
        exposure = self.clipped(params, context, batch)
        values = losses.umf(logits, batch.labels, exposure=exposure, reduce_fn=None)
        return total_and_count(values, batch.where, batch.weights)

    def exposed_bce(
        self, params: dict[str, Params], context: Context, batch, *, n_drawn: int | None = None
    ) -> tuple[Array, Array]:
        """L2 with exposure 1, that is cross-entropy, on all "probably exposed" pairs or, for all, on ``n_drawn``."""
        del batch
        data = context.data
        pairs = (data.exposed_users, data.exposed_items, data.exposed_labels)
        n_pairs = data.exposed_users.shape[0]
        if n_pairs == 0:
            raise ConfigError(
                "this method learns exposure from 'probably exposed' pairs, and the training data has none; "
                "make them with data.splits.biif (config: data.split.name='biif')"
            )
        scale = 1.0
        if n_drawn is not None and n_drawn < n_pairs:
            # With replacement: a draw without would sort all pairs in each step, which costs more than it saves.
            drawn = jax.random.randint(context.key, (n_drawn,), 0, n_pairs)
            pairs, scale = tuple(column[drawn] for column in pairs), n_pairs / n_drawn
        users, items, labels = pairs
        logits = self.model.apply(params["prediction"], users, items)
        values = optax.losses.sigmoid_binary_cross_entropy(logits, labels)
        total, count = total_and_count(values, labels >= 0)
        return scale * total, scale * count

    def estimate(self, state: TrainState, data, users: Array, items: Array) -> Array:
        """The exposure function of a ``Method``, unclipped."""
        return self.probability(state.params, data, users, items)


EXPOSURE_HPARAMS = {**ADAM_HPARAMS, "outer_lr": 1e-3, "min_exposure": 0.0}
"""Hyperparameters of methods with an exposure group: ``outer_lr`` is its step size, ``min_exposure`` the lower clip of
the exposure in the losses of clicks."""


def exposure_group(exposure_model: Model) -> Group:
    """The exposure model with Adam on ``outer_lr``, without weight decay."""
    return Group(exposure_model.init, adam(lr="outer_lr", weight_decay=None))
