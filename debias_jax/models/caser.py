"""Caser: convolutions over the last few items, beside a vector of the user."""

import jax
import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.models._sequence import (
    check_rate,
    dropout,
    embed,
    sequence_model,
    uniform_start,
    xavier_normal,
)
from debias_jax.models.base import Model, lookup, param


def caser(
    n_users: int,
    n_items: int,
    *,
    dim: int,
    max_len: int = 5,
    n_vertical: int = 4,
    n_horizontal: int = 16,
    dropout: float = 0.0,
) -> Model:
    r"""Convolutional sequence embedding: filters over the matrix of the last L items, and a user's own vector.

    .. math::
        v_f &= \sum_t a_{ft} E_{i_t} + c_f, \qquad
        o_{hg} = \max_t \operatorname{ReLU}(\langle F_{hg}, E_{i_t .. i_{t+h-1}} \rangle + c_{hg}), \quad h = 1 .. L \\
        z &= \operatorname{ReLU}(W_1 [v; o] + b_1), \qquad s_{uv} = W_{2,v}^\top [z; U_u] + b_{2,v}

    with dropout of :math:`[v; o]`. Items are scored against a table of their own. A history shorter than L is filled up
    with pads, whose row of the table the filters read; it has no gradient, and only weight decay moves it. ``encode``
    gives one vector for a history, with a 1 at its end, as ``item_tower`` has the bias there.

    An id out of range makes the scores of its row NaN.

    Args:
        n_users: rows of the user table.
        n_items: number of items; the pad id is ``n_items``.
        dim: length of the vectors.
        max_len: L, the number of items that are read and the height of the highest filter.
        n_vertical: filters over single columns.
        n_horizontal: filters of each height.
        dropout: rate, in [0, 1).

    Returns:
        The model, which needs users; parameters ``user [n_users, dim]``, ``item [n_items + 1, dim]``, ``vertical``,
        ``horizontal``, ``hidden``, ``output [n_items + 1, 2 dim]`` and ``output_bias [n_items + 1]``, whose last rows
        are unused, as released.

    Raises:
        ConfigError: a size is not a positive integer, or the rate is not in [0, 1).
        ValueError: (``apply``, ``encode``) the history is not ``[B, l]`` with ``l <= max_len``, or the users are not
            ``[B]``.
        TypeError: (``apply``, ``encode``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = caser(3, 10, dim=4)
        >>> params = model.init(jax.random.key(0))
        >>> history, users = jnp.asarray([[10, 3, 7], [1, 2, 9]]), jnp.asarray([0, 2])
        >>> model.encode(params, history, users).shape, model.apply(params, history, users).shape
        ((2, 1, 9), (2, 10))

    Source:
        Tang and Wang, "Personalized top-N sequential recommendation via convolutional sequence embedding" (WSDM 2018),
        in the form of the program released with "Role of Cross-Entropy in Fairly Evaluating LLM-based Recommendation"
        (MTandHJ/CE-SCE-LLMRec), which has one target a window.
    """
    check_sizes(
        n_users=n_users,
        n_items=n_items,
        dim=dim,
        max_len=max_len,
        n_vertical=n_vertical,
        n_horizontal=n_horizontal,
    )
    check_rate(dropout=dropout)
    return sequence_model(
        lambda rngs: _Caser(n_users, n_items, dim, max_len, n_vertical, n_horizontal, dropout, rngs=rngs),
        n_items=n_items,
        max_len=max_len,
        uses_users=True,
        last_slot_only=True,
        fills_up=True,
        resized=lambda size: caser(
            n_users,
            size,
            dim=dim,
            max_len=max_len,
            n_vertical=n_vertical,
            n_horizontal=n_horizontal,
            dropout=dropout,
        ),
    )


class _Caser(nnx.Module):
    def __init__(self, n_users, n_items, dim, max_len, n_vertical, n_horizontal, dropout, *, rngs):
        self.n_items, self.max_len, self.dropout = n_items, max_len, dropout
        self.user = param(rngs(), (n_users, dim), 1.0 / dim)
        self.item = param(rngs(), (n_items + 1, dim), 1.0 / dim)

        def filters(size, number):
            start = uniform_start(size)
            return nnx.Linear(size, number, kernel_init=start, bias_init=start, rngs=rngs)

        self.vertical = filters(max_len, n_vertical)
        self.horizontal = nnx.List([filters(h * dim, n_horizontal) for h in range(1, max_len + 1)])
        n_features = n_vertical * dim + n_horizontal * max_len
        self.hidden = nnx.Linear(n_features, dim, kernel_init=xavier_normal, rngs=rngs)
        self.output = param(rngs(), (n_items + 1, 2 * dim), 1.0 / dim)
        self.output_bias = nnx.Param(jnp.zeros(n_items + 1, jnp.float32))

    def encode(self, history, users, rngs=None):
        n_missing = self.max_len - history.shape[1]
        history = jnp.pad(history, ((0, 0), (n_missing, 0)), constant_values=self.n_items)
        table = self.item[...]
        x = embed(table, history, pad=self.n_items, pad_row=table[self.n_items])
        # [B, dim, filters], flattened filter by filter as released.
        vertical = self.vertical(x.mT).mT.reshape(x.shape[0], -1)
        features = [vertical, *(self.strongest(x, filters) for filters in self.horizontal)]
        hidden = self.hidden(dropout(jnp.concatenate(features, axis=-1), self.dropout, rngs))
        user = lookup(self.user[...], users)
        ones = jnp.ones((x.shape[0], 1), x.dtype)
        return jnp.concatenate([jax.nn.relu(hidden), user, ones], axis=-1)[:, None]

    def strongest(self, x, filters):
        """The largest response of each filter over its places, ``[B, n]``."""
        height = filters.kernel.shape[0] // x.shape[-1]
        places = range(x.shape[1] - height + 1)
        windows = jnp.stack([x[:, t : t + height].reshape(x.shape[0], -1) for t in places], axis=1)
        return jnp.max(jax.nn.relu(filters(windows)), axis=1)

    def output_table(self):
        return jnp.concatenate([self.output[...], self.output_bias[...][:, None]], axis=-1)[: self.n_items]
