"""FMLP-Rec: learnt filters in the frequency domain in place of attention."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from debias_jax._checks import check_sizes
from debias_jax.models._sequence import LayerNorm, Linear, check_rate, dropout, embed, gelu, sequence_model
from debias_jax.models.base import Model, param

EPSILON = 1e-12
INIT_SCALE = 0.02


def fmlp_rec(
    n_items: int,
    *,
    dim: int,
    max_len: int,
    n_blocks: int = 4,
    dropout: float = 0.0,
    hidden: int | None = None,
) -> Model:
    r"""Filter-enhanced MLP: each block filters the sequence by frequency, then mixes the dimensions.

    .. math::
        x &= \operatorname{LN}(E_i + P), \qquad s_v = x_L^\top E_v \\
        h &= \operatorname{LN}(x + \mathcal F^{-1}(W \odot \mathcal F(x))), \qquad
        x \leftarrow \operatorname{LN}(h + W_2 \operatorname{GELU}(W_1 h + b_1) + b_2)

    with the real Fourier transform :math:`\mathcal F` along the slots and complex weights :math:`W`. Dropout acts on
    the embeddings and on what each filter and each feed-forward gives. A filter is circular: every slot sees every
    other, so that only the last is scored, and ``encode`` gives one vector for a history. A history shorter than L is
    filled up with pads, which are seen too; their row of the table has no gradient, and only weight decay moves it.

    An id out of range makes the scores of its row NaN.

    Args:
        n_items: number of items; the pad id is ``n_items``.
        dim: length of the vectors.
        max_len: L, the length over which the transforms run.
        n_blocks: number of blocks.
        dropout: rate, in [0, 1).
        hidden: width of the feed-forward layers; None takes ``4 dim``.

    Returns:
        The model; parameters ``item [n_items + 1, dim]``, ``position [max_len, dim]``, ``norm`` and ``blocks``, each
        with the real and imaginary weights ``filter [2, max_len // 2 + 1, dim]``.

    Raises:
        ConfigError: a size is not a positive integer, or the rate is not in [0, 1).
        ValueError: (``apply``, ``encode``) the history is not ``[B, l]`` with ``l <= max_len``.
        TypeError: (``apply``, ``encode``) ids are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = fmlp_rec(10, dim=4, max_len=5)
        >>> params = model.init(jax.random.key(0))
        >>> history = jnp.asarray([[10, 3, 7], [1, 2, 9]])  # the first has two items
        >>> model.encode(params, history).shape, model.apply(params, history).shape
        ((2, 1, 4), (2, 10))

    Source:
        Zhou et al., "Filter-enhanced MLP is all you need for sequential recommendation" (WWW 2022), in the form of the
        program released with "Role of Cross-Entropy in Fairly Evaluating LLM-based Recommendation"
        (MTandHJ/CE-SCE-LLMRec).
    """
    hidden = 4 * dim if hidden is None else hidden
    check_sizes(n_items=n_items, dim=dim, max_len=max_len, n_blocks=n_blocks, hidden=hidden)
    check_rate(dropout=dropout)
    return sequence_model(
        lambda rngs: _FMLPRec(n_items, dim, max_len, n_blocks, dropout, hidden, rngs=rngs),
        n_items=n_items,
        max_len=max_len,
        last_slot_only=True,
        fills_up=True,
        resized=lambda size: fmlp_rec(
            size, dim=dim, max_len=max_len, n_blocks=n_blocks, dropout=dropout, hidden=hidden
        ),
    )


def _start(key, shape, dtype=jnp.float32):
    return INIT_SCALE * jax.random.normal(key, shape, dtype)


class _FMLPRec(nnx.Module):
    def __init__(self, n_items, dim, max_len, n_blocks, dropout, hidden, *, rngs):
        self.n_items, self.max_len, self.dropout = n_items, max_len, dropout
        self.item = param(rngs(), (n_items + 1, dim), INIT_SCALE)
        self.position = param(rngs(), (max_len, dim), INIT_SCALE)
        self.norm = LayerNorm(dim, EPSILON)
        # The released blocks are copies of one, of which only the filters are not drawn anew.
        weights = _start(rngs(), (2, max_len // 2 + 1, dim))
        self.blocks = nnx.List([_Block(dim, dropout, hidden, weights, rngs=rngs) for _ in range(n_blocks)])

    def encode(self, history, users=None, rngs=None):
        del users
        return self.hidden_states(history, rngs=rngs, last_slots=1)

    def hidden_states(self, history, rngs=None, last_slots=None):
        """``[B, L, dim]`` after all blocks, or of the last slots only, for which the last block is cheaper."""
        n_missing = self.max_len - history.shape[1]
        history = jnp.pad(history, ((0, 0), (n_missing, 0)), constant_values=self.n_items)
        table = self.item[...]
        x = embed(table, history, pad=self.n_items, pad_row=table[self.n_items])
        x = dropout(self.norm(x + jnp.broadcast_to(self.position[...], x.shape)), self.dropout, rngs)
        for block in self.blocks[:-1]:
            x = block(x, self.max_len, rngs)
        return self.blocks[-1](x, last_slots or self.max_len, rngs)

    def output_table(self):
        return self.item[...][: self.n_items]


class _Block(nnx.Module):
    def __init__(self, dim, dropout, hidden, weights, *, rngs):
        self.dropout = dropout
        self.filter = nnx.Param(weights)
        self.filter_norm = LayerNorm(dim, EPSILON)
        self.hidden = Linear(dim, hidden, kernel_init=_start, rngs=rngs)
        self.output = Linear(hidden, dim, kernel_init=_start, rngs=rngs)
        self.forward_norm = LayerNorm(dim, EPSILON)

    def __call__(self, x, n_slots, rngs):
        """The last ``n_slots`` slots."""
        filtered = _filter(x, self.filter[...], n_slots)
        x = self.filter_norm(x[:, -n_slots:] + dropout(filtered, self.dropout, rngs))
        return self.forward_norm(x + dropout(self.output(gelu(self.hidden(x))), self.dropout, rngs))


def _filter(x, weights, n_slots):
    """The last ``n_slots`` slots of irfft(weights * rfft(x)) along the slots, ``weights`` [2, frequencies, dim]."""
    to_frequencies, to_slots = (jnp.asarray(matrix, x.dtype) for matrix in _fourier(x.shape[1]))
    # Products with the matrices of the transforms: at such lengths a quarter of the time of an FFT along this axis.
    real, imaginary = jnp.split(to_frequencies @ x, 2, axis=1)
    weight_real, weight_imaginary = (jnp.broadcast_to(part, real.shape) for part in weights)
    filtered = [
        real * weight_real - imaginary * weight_imaginary,
        real * weight_imaginary + imaginary * weight_real,
    ]
    return to_slots[-n_slots:] @ jnp.concatenate(filtered, axis=1)


def _fourier(length: int) -> tuple[np.ndarray, np.ndarray]:
    """The orthonormal real Fourier transform ``[2 F, L]`` (real parts, then imaginary) and its inverse ``[L, 2 F]``."""
    frequencies, slots = np.arange(length // 2 + 1), np.arange(length)
    angle = 2.0 * np.pi / length * (np.outer(frequencies, slots) % length)
    cosine, sine = np.cos(angle), np.sin(angle)
    # The first frequency is real and, at an even length, the last: what is imaginary there is not read back.
    real_only = frequencies * 2 % length == 0
    sine[real_only] = 0.0
    twice = np.where(real_only, 1.0, 2.0)[:, None]
    analysis = np.concatenate([cosine, -sine]) / np.sqrt(length)
    synthesis = np.concatenate([twice * cosine, -twice * sine]).T / np.sqrt(length)
    return analysis, synthesis
