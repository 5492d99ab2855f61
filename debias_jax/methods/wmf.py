"""Weighted matrix factorisation: every pair counts, a click more than the rest."""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_sizes
from debias_jax.methods import _als
from debias_jax.methods.base import Method, Range
from debias_jax.methods.recipes import em, predict_logits
from debias_jax.models.base import Model

HPARAMS = {"alpha": 40.0, "regularization": 1.0}
"""``alpha``: a click weighs 1 + alpha, any other pair 1; 40 as in Hu et al. (on counts of television programmes).
``regularization``: lambda of the squared lengths, against a sum over all pairs; open, the paper cross-validates it and
prints no value."""


def wmf(model: Model, *, chunk_size: int = 1024) -> Method:
    r"""Least squares to the click matrix, by alternating least squares.

    .. math::
        L = \sum_{u,i} (1 + \alpha Y_{ui}) (Y_{ui} - x_u \cdot y_i)^2
        + \lambda \Big(\sum_u \|x_u\|^2 + \sum_i \|y_i\|^2\Big)

    An iteration solves for all users, then for all items, and is an epoch. The sum over all items is one Gram matrix
    that users share, and each user adds its clicks, so that the time is (clicks) x dim^2 + (U + I) x dim^3, whatever
    the number of pairs. The memory is (U + I) x dim^2 / 2 numbers. No exposure enters: that an item was not clicked is
    weak evidence of dislike, equally weak for items shown to all and to nobody.

    Args:
        model: ``models.mf`` without biases, which gives the start.
        chunk_size: rows whose matrices are held at once, and clicks added at once.

    Returns:
        The method; hyperparameters ``alpha``, ``regularization``. Scores are on the scale of the click, 0 to 1 or so,
        and no logits. Its ``loss`` is L over the number of pairs.

    Raises:
        ConfigError: the model has other parameters than user and item vectors, or ``chunk_size`` is below 1.

    Example:
        >>> import jax
        >>> from debias_jax import data, methods, models, training
        >>> log = training.train_data(data.synthetic.generate(seed=0, n_users=20, n_items=15))
        >>> method = methods.wmf(models.mf(20, 15, dim=2))
        >>> history = training.fit(method, log, jax.random.key(0), epochs=3).history
        >>> history[0]["loss"] > history[1]["loss"] > history[2]["loss"]
        True

    Source:
        Hu, Koren, Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008, eq. 3 to 5, with
        counts of 0 and 1. Open choice: the papers here do not say which weighted factorisation they compare with;
        Saito's programs weigh the zeros of a squared loss on sigma(s) instead and step it by Adam.
    """
    _als.check_factors("wmf", model)
    check_sizes(chunk_size=chunk_size)

    def clicked_sums(rows, columns, vectors, n_rows):
        """Sums over the clicks of each row of f f^T (packed) and of f."""
        size = min(chunk_size, rows.shape[0])
        padding = -rows.shape[0] % size
        # A row past the end is dropped.
        rows = jnp.pad(rows, (0, padding), constant_values=n_rows).reshape(-1, size)
        columns = jnp.pad(columns, (0, padding)).reshape(-1, size)

        def add(sums, clicks):
            own = vectors[clicks[1]]
            products = sums[0].at[clicks[0]].add(_als.packed_products(own), mode="drop")
            return (products, sums[1].at[clicks[0]].add(own, mode="drop")), None

        dim = vectors.shape[1]
        zeros = [jnp.zeros((n_rows, width), vectors.dtype) for width in (dim * (dim + 1) // 2, dim)]
        return jax.lax.scan(add, tuple(zeros), (rows, columns))[0]

    def distinct_clicks(data):
        """A pair that was logged twice is one click: rows and columns of the click matrix."""
        indptr, items = data.click_set
        users = jnp.arange(indptr.shape[0] - 1, dtype=jnp.int32)
        return jnp.repeat(users, jnp.diff(indptr), total_repeat_length=items.shape[0]), items

    def update(vectors, rows, columns, n_rows, hparams):
        products, sums = clicked_sums(rows, columns, vectors, n_rows)
        everything = (vectors.T @ vectors)[jnp.tril_indices(vectors.shape[1])]
        alpha = hparams["alpha"]
        return _als.solve_in_chunks(
            everything[None, :] + alpha * products,
            (1.0 + alpha) * sums,
            hparams["regularization"],
            chunk_size,
        )

    def update_users(params, _, data, hparams):
        users, items = distinct_clicks(data)
        vectors = params["prediction"]["item"]
        solved = update(vectors, users, items, data.matrix_size[0], hparams)
        return {"prediction": {"user": solved, "item": vectors}}

    def update_items(params, _, data, hparams):
        users, items = distinct_clicks(data)
        vectors = params["prediction"]["user"]
        solved = update(vectors, items, users, data.matrix_size[1], hparams)
        return {"prediction": {"user": vectors, "item": solved}}

    def objective(params, data, hparams):
        """With s^2 summed over all pairs as the inner product of the two Gram matrices."""
        (n_users, n_items), vectors = data.matrix_size, params["prediction"]
        users, items = distinct_clicks(data)
        scores = jnp.sum(vectors["user"][users] * vectors["item"][items], axis=-1)
        grams = [table.T @ table for table in (vectors["user"], vectors["item"])]
        total = jnp.sum(grams[0] * grams[1])
        total += jnp.sum((1.0 + hparams["alpha"]) * jnp.square(1.0 - scores) - jnp.square(scores))
        total += hparams["regularization"] * sum(jnp.sum(jnp.square(table)) for table in vectors.values())
        return total / (float(n_users) * float(n_items))

    return em(
        init=lambda key, hparams: {"prediction": model.init(key)},
        m_steps=(update_users, update_items),
        objective=objective,
        predict=predict_logits(model),
        hparams=HPARAMS,
        ranges={"alpha": Range(0.0)},
    )
