"""User mean plus item mean, in logits: the baseline without an embedding."""

import jax.numpy as jnp

from debias_jax._checks import check_choice
from debias_jax.methods.base import Method, TrainData
from debias_jax.methods.recipes import closed_form

HPARAMS = {"pseudo_count": 5.0}
"""``pseudo_count``: rows at the global rate added to every user and item."""


def _logit(p):
    return jnp.log(p) - jnp.log1p(-p)


def mean_logit(*, feedback: str = "clicks") -> Method:
    """Scores s_ui = logit(mean of u) + logit(mean of i) - logit(global mean), the means smoothed.

    The mean of a user is (positives + a g) / (rows + a) with a = ``pseudo_count`` and g the global rate; the same for
    an item. Within one user it ranks by the item mean alone.

    Args:
        feedback: ``"clicks"``: a row is any of the user's (item's) pairs, so the item mean is its popularity;
            ``"ratings"``: a row is an observed row, so the item mean is the share of its ratings that are positive.

    Returns:
        The method; hyperparameter ``pseudo_count``.

    Raises:
        ValueError: unknown ``feedback``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from debias_jax import data, methods, models, training
        >>> log = data.synthetic.generate(seed=0, n_users=8, n_items=6)
        >>> method = methods.mean_logit()
        >>> state = training.fit(method, training.train_data(log), jax.random.key(0), epochs=1).state
        >>> method.predict(state, jnp.arange(8)[:, None], jnp.arange(6)[None, :]).shape
        (8, 6)

    Source:
        No paper here compares with it. On Coat's fixed split (ratings >= 3), protocol ``badr``, ``"ratings"`` has an
        AUC of .7715; the BADR paper prints .7694 for BADR.
    """
    check_choice(("clicks", "ratings"), feedback=feedback)

    def fit(data: TrainData, hparams):
        n_users, n_items = data.click_set.indptr.shape[0] - 1, data.popularity.shape[0]
        positives = (data.labels > 0).astype(jnp.float32)
        rows = jnp.ones(data.users.shape, jnp.float32)

        def smoothed(codes, size, other_size):
            positive = jnp.zeros(size, jnp.float32).at[codes].add(positives)
            if feedback == "clicks":
                count = jnp.full(size, other_size, jnp.float32)
                rate = jnp.sum(positives) / (float(n_users) * float(n_items))
            else:
                count = jnp.zeros(size, jnp.float32).at[codes].add(rows)
                rate = jnp.mean(positives)
            # A log without a single positive, or without a negative, has no finite logit; stay inside (0, 1).
            rate = jnp.clip(rate, 1e-6, 1 - 1e-6)
            mean = (positive + hparams["pseudo_count"] * rate) / (count + hparams["pseudo_count"])
            return _logit(mean), _logit(rate)

        user_logit, global_logit = smoothed(data.users, n_users, n_items)
        item_logit, _ = smoothed(data.items, n_items, n_users)
        return {"user": user_logit, "item": item_logit, "bias": global_logit}

    def predict(state, users, items):
        params = state.params["prediction"]
        return params["user"][users] + params["item"][items] - params["bias"]

    return closed_form(fit=fit, predict=predict, hparams=HPARAMS)
