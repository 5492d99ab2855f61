"""GRU4Rec: a gated recurrent network over the history."""

import jax
import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.models._sequence import (
    Linear,
    check_rate,
    dropout,
    embed,
    product,
    sequence_model,
    uniform_start,
    xavier_normal,
    xavier_uniform,
)
from debias_jax.models.base import Model


def gru4rec(
    n_items: int,
    *,
    dim: int,
    max_len: int,
    hidden: int | None = None,
    n_layers: int = 1,
    dropout: float = 0.0,
) -> Model:
    r"""A recurrent recommender: gated recurrent units without biases, and a dense layer back to the items' space.

    .. math::
        r_t &= \sigma(W_r x_t + U_r h_{t-1}), \qquad z_t = \sigma(W_z x_t + U_z h_{t-1}) \\
        n_t &= \tanh(W_n x_t + r_t \odot (U_n h_{t-1})), \qquad h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1} \\
        s_{tv} &= (A h_t + b)^\top E_v

    with :math:`x_t = \operatorname{Dropout}(E_{i_t})` and :math:`h_0 = 0`. The input of a pad is zero, which leaves a
    state of zeros as it is, so that pads on the left change nothing.

    An id out of range makes the scores of its row NaN.

    Args:
        n_items: number of items; the pad id is ``n_items``.
        dim: length of the items' vectors.
        max_len: the longest history.
        hidden: length of the state; None takes ``dim``.
        n_layers: recurrent layers, each on the states of the one before.
        dropout: rate of the inputs, in [0, 1).

    Returns:
        The model; parameters ``item [n_items + 1, dim]``, ``layers`` with ``input [dim, 3 hidden]`` and ``state
        [hidden, 3 hidden]`` in the order r, z, n, and ``output``.

    Raises:
        ConfigError: a size is not a positive integer, or the rate is not in [0, 1).
        ValueError: (``apply``, ``encode``) the history is not ``[B, l]`` with ``l <= max_len``.
        TypeError: (``apply``, ``encode``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = gru4rec(10, dim=4, max_len=5, hidden=6)
        >>> params = model.init(jax.random.key(0))
        >>> history = jnp.asarray([[10, 3, 7], [1, 2, 9]])  # the first has two items
        >>> model.encode(params, history).shape, model.apply(params, history).shape
        ((2, 3, 4), (2, 10))

    Source:
        Hidasi et al., "Session-based recommendations with recurrent neural networks" (ICLR 2016), in the form of the
        program released with "Role of Cross-Entropy in Fairly Evaluating LLM-based Recommendation"
        (MTandHJ/CE-SCE-LLMRec).
    """
    hidden = dim if hidden is None else hidden
    check_sizes(n_items=n_items, dim=dim, max_len=max_len, hidden=hidden, n_layers=n_layers)
    check_rate(dropout=dropout)
    return sequence_model(
        lambda rngs: _GRU4Rec(n_items, dim, hidden, n_layers, dropout, rngs=rngs),
        n_items=n_items,
        max_len=max_len,
        resized=lambda size: gru4rec(
            size, dim=dim, max_len=max_len, hidden=hidden, n_layers=n_layers, dropout=dropout
        ),
    )


class _GRU4Rec(nnx.Module):
    def __init__(self, n_items, dim, hidden, n_layers, dropout, *, rngs):
        self.n_items, self.dropout = n_items, dropout
        self.item = nnx.Param(xavier_normal(rngs(), (n_items + 1, dim)))
        widths = [dim] + [hidden] * (n_layers - 1)
        self.layers = nnx.List([_Recurrent(width, hidden, rngs=rngs) for width in widths])
        start = uniform_start(hidden)
        self.output = Linear(hidden, dim, kernel_init=start, bias_init=start, rngs=rngs)

    def encode(self, history, users=None, rngs=None):
        del users
        table = self.item[...]
        x = embed(table, history, pad=self.n_items, pad_row=jnp.zeros(table.shape[1], table.dtype))
        x = dropout(x, self.dropout, rngs).swapaxes(0, 1)
        for layer in self.layers:
            x = layer(x)
        return self.output(x.swapaxes(0, 1))

    def output_table(self):
        return self.item[...][: self.n_items]


class _Recurrent(nnx.Module):
    """One layer over ``[l, B, width]``, the slots first."""

    def __init__(self, width, hidden, *, rngs):
        self.input = nnx.Param(xavier_uniform(rngs(), (width, 3 * hidden)))
        self.state = nnx.Param(xavier_uniform(rngs(), (hidden, 3 * hidden)))

    def __call__(self, x):
        kernel = self.state[...]
        hidden = kernel.shape[0]

        def slot(state, given):
            from_state = state @ kernel
            gates = jax.nn.sigmoid(given[:, : 2 * hidden] + from_state[:, : 2 * hidden])
            reset, update = jnp.split(gates, 2, axis=-1)
            new = jnp.tanh(given[:, 2 * hidden :] + reset * from_state[:, 2 * hidden :])
            state = (1.0 - update) * new + update * state
            return state, state

        start = jnp.zeros((x.shape[1], hidden), x.dtype)
        # What the inputs give does not wait for the state: one product for all slots.
        return jax.lax.scan(slot, start, product(x, self.input[...]))[1]
