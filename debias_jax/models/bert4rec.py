"""BERT4Rec: attention in both directions, and items guessed where a mask token stands."""

import jax.numpy as jnp
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.models._sequence import (
    HIDDEN,
    LayerNorm,
    Linear,
    SelfAttention,
    check_heads,
    check_rate,
    dropout,
    embed,
    gelu,
    sequence_model,
    xavier_normal,
    xavier_uniform,
)
from debias_jax.models.base import Model

EPSILON = 1e-5
LARGEST_START = 0.02


def bert4rec(
    n_items: int,
    *,
    dim: int,
    max_len: int,
    n_heads: int = 4,
    n_blocks: int = 2,
    dropout: float = 0.0,
    hidden: int | None = None,
) -> Model:
    r"""A bidirectional transformer that guesses masked items.

    .. math::
        x &= \operatorname{LN}(E_i + P), \qquad s_{tv} = x_t^\top E_v \\
        h &= \operatorname{LN}(x + \operatorname{MHA}(x)), \qquad
        x \leftarrow \operatorname{LN}(h + W_2 \operatorname{GELU}(W_1 h + b_1) + b_2)

    Pads are hidden from the attention. Dropout acts on the embeddings, the attention weights, what the attention and
    the feed-forward layers give, and between those two. ``encode`` scores the item **at** each slot: put the mask token
    ``Model.mask_id`` (``n_items + 1``) where the items to be guessed stand. ``apply`` scores the next item: it appends
    the token, and drops the oldest of ``max_len`` items for it.

    An id out of range makes the scores of its row NaN.

    Args:
        n_items: number of items; the pad id is ``n_items``, the mask id ``n_items + 1``.
        dim: length of the vectors.
        max_len: L, the longest history and the number of positions; the last slot has the last.
        n_heads: attention heads, which share ``dim``.
        n_blocks: number of blocks.
        dropout: rate, in [0, 1).
        hidden: width of the feed-forward layers; None takes ``4 dim``.

    Returns:
        The model; parameters ``item [n_items + 2, dim]``, ``position [max_len, dim]``, ``norm`` and ``blocks``.

    Raises:
        ConfigError: a size is not a positive integer, the rate is not in [0, 1), or the heads do not divide ``dim``.
        ValueError: (``apply``, ``encode``) the history is not ``[B, l]`` with ``l <= max_len``.
        TypeError: (``apply``, ``encode``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = bert4rec(10, dim=8, max_len=5)
        >>> params = model.init(jax.random.key(0))
        >>> masked = jnp.asarray([[10, 3, model.mask_id], [1, model.mask_id, 9]])
        >>> model.encode(params, masked).shape, model.apply(params, jnp.asarray([[10, 3, 7]])).shape
        ((2, 3, 8), (1, 10))

    Source:
        Sun et al., "BERT4Rec: sequential recommendation with bidirectional encoder representations from transformer"
        (CIKM 2019), in the form of the program released with "Role of Cross-Entropy in Fairly Evaluating LLM-based
        Recommendation" (MTandHJ/CE-SCE-LLMRec), which scores without a projection head or a bias.
    """
    hidden = 4 * dim if hidden is None else hidden
    check_sizes(n_items=n_items, dim=dim, max_len=max_len, n_heads=n_heads, n_blocks=n_blocks, hidden=hidden)
    check_rate(dropout=dropout)
    check_heads(dim, n_heads)
    return sequence_model(
        lambda rngs: _BERT4Rec(n_items, dim, max_len, n_heads, n_blocks, dropout, hidden, rngs=rngs),
        n_items=n_items,
        max_len=max_len,
        mask_id=n_items + 1,
    )


def _start(key, shape, dtype=jnp.float32):
    """Xavier normal, what lies beyond 0.02 moved there."""
    return jnp.clip(xavier_normal(key, shape, dtype), -LARGEST_START, LARGEST_START)


class _BERT4Rec(nnx.Module):
    def __init__(self, n_items, dim, max_len, n_heads, n_blocks, dropout, hidden, *, rngs):
        self.n_items, self.max_len, self.dropout = n_items, max_len, dropout
        self.item = nnx.Param(_start(rngs(), (n_items + 2, dim)))
        self.position = nnx.Param(_start(rngs(), (max_len, dim)))
        self.norm = LayerNorm(dim, EPSILON)
        # The released layers are copies of one, of which only this matrix is not drawn anew.
        in_projection = xavier_uniform(rngs(), (dim, 3 * dim))
        self.blocks = nnx.List(
            [_Block(dim, n_heads, dropout, hidden, in_projection, rngs=rngs) for _ in range(n_blocks)]
        )

    def encode(self, history, users=None, rngs=None):
        del users
        table = self.item[...]
        x = embed(table, history, pad=self.n_items, pad_row=table[self.n_items])
        x = x + jnp.broadcast_to(self.position[...][self.max_len - history.shape[1] :], x.shape)
        x = dropout(self.norm(x), self.dropout, rngs)
        bias = jnp.where((history == self.n_items)[:, None], jnp.asarray(HIDDEN, x.dtype), 0.0)
        for block in self.blocks:
            x = block(x, bias, rngs)
        return x

    def output_table(self):
        return self.item[...][: self.n_items]


class _Block(nnx.Module):
    def __init__(self, dim, n_heads, dropout, hidden, in_projection, *, rngs):
        self.dropout = dropout
        self.attention = SelfAttention(dim, n_heads, dropout, out_start=_start, rngs=rngs)
        self.attention.in_projection.kernel = nnx.Param(in_projection)
        self.attention_norm = LayerNorm(dim, EPSILON)
        self.hidden = Linear(dim, hidden, kernel_init=_start, rngs=rngs)
        self.output = Linear(hidden, dim, kernel_init=_start, rngs=rngs)
        self.forward_norm = LayerNorm(dim, EPSILON)

    def __call__(self, x, bias, rngs):
        x = self.attention_norm(x + dropout(self.attention(x, x, bias, rngs), self.dropout, rngs))
        hidden = dropout(gelu(self.hidden(x)), self.dropout, rngs)
        return self.forward_norm(x + dropout(self.output(hidden), self.dropout, rngs))
