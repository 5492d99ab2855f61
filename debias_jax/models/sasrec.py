"""SASRec: causal self-attention over the history."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from debias_jax._checks import check_choice, check_sizes
from debias_jax.models._sequence import (
    HIDDEN,
    LayerNorm,
    Linear,
    SelfAttention,
    check_heads,
    check_rate,
    dropout,
    embed,
    sequence_model,
    uniform_start,
    xavier_normal,
)
from debias_jax.models.base import Model

EPSILON = 1e-8


def sasrec(
    n_items: int,
    *,
    dim: int,
    max_len: int,
    n_heads: int = 1,
    n_blocks: int = 2,
    dropout: float = 0.0,
    norm: str = "query",
    pad_keys: str = "attended",
    tied: bool = True,
) -> Model:
    r"""Self-attentive sequential recommendation: each slot attends to itself and what came before.

    .. math::
        x_t &= \sqrt d\, E_{i_t} + P_t, \qquad s_{tv} = \operatorname{LN}(x_t)^\top E_v \\
        h &= \operatorname{LN}(x + \operatorname{MHA}(\operatorname{LN}(x), x, x)), \qquad
        x \leftarrow h + W_2 \operatorname{ReLU}(W_1 h + b_1) + b_2

    in each block, as released with the scaled cross-entropy: only the queries are normalised, the feed-forward's
    residual starts from its normalised input, and slots of pads are vectors of zeros, which no mask hides from the
    attention. Missing slots of a history shorter than ``max_len`` are such pads too: one more key with
    :math:`\log(L - l)` added to its logit stands for all, so that short histories cost little and give the same.
    Dropout acts on the embeddings, the attention weights, and before the ReLU and after the second layer.

    An id out of range makes the scores of its row NaN.

    Args:
        n_items: number of items; the pad id is ``n_items``.
        dim: length of the vectors.
        max_len: L, the longest history and the number of positions; the newest item has the last.
        n_heads: attention heads, which share ``dim``.
        n_blocks: number of blocks.
        dropout: rate, in [0, 1).
        norm: ``"query"`` is the above. ``"pre"`` are the usual pre-norm blocks, which add MHA(LN(x)) and then
            FFN(LN(x)) to x, with dropout of what the attention gives too.
        pad_keys: ``"attended"``, or ``"masked"``: pads are hidden from the attention.
        tied: whether items are scored against the table that is read; otherwise there is a second one, ``output``.

    Returns:
        The model; parameters ``item [n_items + 1, dim]``, ``position [max_len, dim]``, ``blocks`` and ``norm``.

    Raises:
        ConfigError: a size is not a positive integer, the rate is not in [0, 1), or the heads do not divide ``dim``.
        ValueError: an unknown option; (``apply``, ``encode``) the history is not ``[B, l]`` with ``l <= max_len``.
        TypeError: (``apply``, ``encode``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = sasrec(10, dim=4, max_len=5)
        >>> params = model.init(jax.random.key(0))
        >>> history = jnp.asarray([[10, 3, 7], [1, 2, 9]])  # the first has two items
        >>> model.encode(params, history).shape, model.apply(params, history).shape
        ((2, 3, 4), (2, 10))

    Source:
        Kang and McAuley, "Self-attentive sequential recommendation" (ICDM 2018), in the form of the program released
        with "Role of Cross-Entropy in Fairly Evaluating LLM-based Recommendation" (MTandHJ/CE-SCE-LLMRec).
    """
    check_sizes(n_items=n_items, dim=dim, max_len=max_len, n_heads=n_heads, n_blocks=n_blocks)
    check_rate(dropout=dropout)
    check_heads(dim, n_heads)
    check_choice(("query", "pre"), norm=norm)
    check_choice(("attended", "masked"), pad_keys=pad_keys)
    return sequence_model(
        lambda rngs: _SASRec(
            n_items,
            dim,
            max_len,
            n_heads,
            n_blocks,
            dropout,
            norm == "pre",
            pad_keys == "masked",
            tied,
            rngs=rngs,
        ),
        n_items=n_items,
        max_len=max_len,
        resized=lambda size: sasrec(
            size,
            dim=dim,
            max_len=max_len,
            n_heads=n_heads,
            n_blocks=n_blocks,
            dropout=dropout,
            norm=norm,
            pad_keys=pad_keys,
            tied=tied,
        ),
    )


class _SASRec(nnx.Module):
    def __init__(self, n_items, dim, max_len, n_heads, n_blocks, dropout, pre_norm, mask_pads, tied, *, rngs):
        self.n_items, self.max_len, self.dropout = n_items, max_len, dropout
        self.mask_pads, self.tied = mask_pads, tied
        self.item = nnx.Param(xavier_normal(rngs(), (n_items + 1, dim)))
        self.position = nnx.Param(xavier_normal(rngs(), (max_len, dim)))
        self.blocks = nnx.List([_Block(dim, n_heads, dropout, pre_norm, rngs=rngs) for _ in range(n_blocks)])
        self.norm = LayerNorm(dim, EPSILON)
        if not tied:
            self.output = nnx.Param(xavier_normal(rngs(), (n_items, dim)))

    def encode(self, history, users=None, rngs=None):
        del users
        n_slots = history.shape[1]
        table, dim = self.item[...], self.item.shape[1]
        valid = history != self.n_items
        shown = valid[..., None]
        # A pad is a vector of zeros after every layer.
        x = embed(table, history, pad=self.n_items, pad_row=jnp.zeros(dim, table.dtype)) * dim**0.5
        x = x + jnp.broadcast_to(self.position[...][self.max_len - n_slots :], x.shape)
        x = jnp.where(shown, dropout(x, self.dropout, rngs), 0.0)
        n_missing = 0 if self.mask_pads else self.max_len - n_slots
        bias = jnp.asarray(_causal_bias(n_slots, n_missing), x.dtype)
        if self.mask_pads:
            bias = jnp.where(valid[:, None], bias, jnp.asarray(HIDDEN, x.dtype))
        for block in self.blocks:
            x = jnp.where(shown, block(x, bias, n_missing, rngs), 0.0)
        return self.norm(x)

    def output_table(self):
        return self.item[...][: self.n_items] if self.tied else self.output[...]


def _causal_bias(n_slots: int, n_missing: int) -> np.ndarray:
    """``[1, l, l]``, or ``[1, l, 1 + l]`` where the first column stands for the missing pads."""
    bias = np.triu(np.full((n_slots, n_slots), HIDDEN), 1)
    if n_missing:
        bias = np.concatenate([np.full((n_slots, 1), np.log(n_missing)), bias], axis=1)
    return bias[None]


class _Block(nnx.Module):
    def __init__(self, dim, n_heads, dropout, pre_norm, *, rngs):
        self.dropout, self.pre_norm = dropout, pre_norm
        self.attention_norm = LayerNorm(dim, EPSILON)
        self.attention = SelfAttention(dim, n_heads, dropout, rngs=rngs)
        self.forward_norm = LayerNorm(dim, EPSILON)
        start = uniform_start(dim)
        self.hidden = Linear(dim, dim, kernel_init=start, bias_init=start, rngs=rngs)
        self.output = Linear(dim, dim, kernel_init=start, bias_init=start, rngs=rngs)

    def __call__(self, x, bias, n_missing, rngs):
        normal = self.attention_norm(x)
        memory = normal if self.pre_norm else x
        # What a slot of zeros gives the attention to read.
        pad = self.attention_norm.bias[...] if self.pre_norm else jnp.zeros(x.shape[-1], x.dtype)
        attended = self.attention(normal, memory, bias, rngs, before=pad if n_missing else None)
        if self.pre_norm:
            x = x + dropout(attended, self.dropout, rngs)
            return x + self.feed_forward(self.forward_norm(x), rngs)
        normal = self.forward_norm(x + attended)
        return normal + self.feed_forward(normal, rngs)

    def feed_forward(self, x, rngs):
        hidden = jax.nn.relu(dropout(self.hidden(x), self.dropout, rngs))
        return dropout(self.output(hidden), self.dropout, rngs)
