r"""Binary losses that tell the positive from sampled noise: one sigmoid for each score, no sum over items.

Their normalising term is a product, :math:`Z = (1 + e^{s^+}) \prod_k (1 + e^{s^-_k})`, which grows exponentially with
the number of samples that score above 0: with many samples they move little until most scores have sunk below it.
"""

import jax
import jax.numpy as jnp

from debias_jax._checks import check_broadcastable
from debias_jax._reduce import fill_masked, safe_reduce
from debias_jax.losses.sampled import check_sampled, drawn, sum_of_softplus
from debias_jax.types import Array, ReduceFn


def noise_contrastive(
    pos: Array,
    neg: Array,
    *,
    c: float | Array,
    n_items: int | Array,
    counts: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Noise-contrastive estimation with uniform noise and a fixed normaliser (NCE).

    .. math:: \ell = -\log \sigma(s'^+) - \sum_k \log(1 - \sigma(s'^-_k)), \quad s' = s - c - \log \frac{K}{N}

    c stands for the log of the sum of :math:`e^s` over all items. If it is that, :math:`\sigma(s')` is the probability
    that an item is the positive and not one of the K draws, and the loss estimates a softmax; else its scores settle
    where their sum is :math:`e^c`. Large c lets few samples score above the threshold.

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of items drawn uniformly from all N.
        c: estimate of the log-normaliser, a scalar or ``[...]``; it may be traced, and is differentiated.
        n_items: N > 0, a scalar.
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out. K is then their sum. No gradient is taken.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked. An example whose counts
        are all 0 has the loss 0.

    Raises:
        TypeError: scores, ``counts`` or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, another shape does not fit, or ``n_items`` is
            not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.noise_contrastive(jnp.array([1.0]), jnp.array([[1.0, 1.0]]), c=1.0, n_items=2)
        >>> print(f"{loss:.4f}")  # s' = 0: 3 log 2
        2.0794

    References:
        Gutmann and Hyvarinen, "Noise-contrastive estimation: a new estimation principle for unnormalized statistical
        models", AISTATS 2010; Xu et al., "Understanding the role of cross-entropy loss in fairly evaluating large
        language model-based recommendation", 2024, Table 1 (section 4.2 prints +s_+ for -s'_+).
    """
    shape = check_sampled(pos, neg, counts, weights, where)
    _check_n_items(n_items, least=1)
    check_broadcastable(shape, c=c)
    dtype = jnp.result_type(neg)
    c = jnp.asarray(c, dtype)
    if c.ndim:
        c = fill_masked(c, where)
    pos, neg, counts = fill_masked(pos, where), fill_masked(neg, where), drawn(counts, where)
    shift = jnp.log(jnp.asarray(n_items, dtype)) - _log_n_samples(neg, counts) - c
    shift = jnp.broadcast_to(shift, shape)
    values = jax.nn.softplus(-(pos + shift)) + sum_of_softplus(neg + shift[..., None], counts)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def negative_sampling(
    pos: Array,
    neg: Array,
    *,
    counts: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Binary cross-entropy of the positive and the *sum* over sampled negatives (NEG).

    .. math:: \ell = -\log \sigma(s^+) - \sum_k \log(1 - \sigma(s^-_k))

    It is ``noise_contrastive`` with c = log(N / K). ``bce`` takes the mean over the samples instead.

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of the sampled items.
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out. No gradient is taken.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``counts`` or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, or another shape does not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.negative_sampling(jnp.array([0.0]), jnp.array([[0.0, 1.0]]))
        >>> print(f"{loss:.4f}")  # 2 log 2 + log(1 + e)
        2.6996

    References:
        Mikolov et al., "Distributed representations of words and phrases and their compositionality", NeurIPS 2013,
        eq. 4.
    """
    check_sampled(pos, neg, counts, weights, where)
    pos, neg, counts = fill_masked(pos, where), fill_masked(neg, where), drawn(counts, where)
    values = jax.nn.softplus(-pos) + sum_of_softplus(neg, counts)
    return safe_reduce(values, weights=weights, where=where, reduce_fn=reduce_fn)


def gbce(
    pos: Array,
    neg: Array,
    *,
    n_items: int | Array,
    t: float | Array = 0.75,
    counts: Array | None = None,
    weights: Array | None = None,
    where: Array | None = None,
    reduce_fn: ReduceFn | None = jnp.mean,
) -> Array:
    r"""Generalised binary cross-entropy: the positive's probability is raised to a power below 1 (gSASRec).

    .. math::
        \ell = -\frac{1}{K + 1} \Big( \beta \log \sigma(s^+) + \sum_k \log(1 - \sigma(s^-_k)) \Big), \quad
        \beta = 1 - t (1 - a), \quad a = \frac{K}{N - 1}

    Few of the N - 1 negatives are drawn, the share a, and a model trained on them by the plain loss is overconfident:
    it learns p / (p + a (1 - p)) for an item that is the next one with probability p. With ``t = 0`` this is the plain
    loss (a mean over all K + 1 scores), with ``t = 1`` the learnt probability is p itself.

    Args:
        pos: ``[...]`` scores of the positive items.
        neg: ``[..., K]`` scores of items drawn from the other N - 1.
        n_items: N > 1, a scalar.
        t: calibration from 0 to 1, a scalar; it may be traced.
        counts: ``[..., K]``, how often each was drawn; 0 leaves it out. K is then their sum. No gradient is taken.
        weights: factor of each example, a scalar or ``[...]``; a mean divides by the number of examples, not by the
            sum of the weights.
        where: boolean ``[...]``, False for padding.
        reduce_fn: ``jnp.mean``, ``jnp.sum``, or None for the values of the examples.

    Returns:
        The reduced loss, or ``[...]`` with ``reduce_fn=None``; 0 where everything is masked.

    Raises:
        TypeError: scores, ``counts`` or weights are not floating, ``where`` is not boolean.
        ValueError: ``neg`` is not ``pos.shape + (K,)`` with ``K >= 1``, another shape does not fit, ``n_items`` is
            below 2 or ``t`` not between 0 and 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from debias_jax import losses
        >>> loss = losses.gbce(jnp.array([0.0]), jnp.array([[0.0]]), n_items=5, t=1.0)
        >>> print(f"{loss:.4f}")  # (1/4 + 1) log 2 / 2
        0.4332

    References:
        Petrov and Macdonald, "gSASRec: reducing overconfidence in sequential recommendation trained with negative
        sampling", RecSys 2023.
    """
    check_sampled(pos, neg, counts, weights, where)
    _check_n_items(n_items, least=2)
    if isinstance(t, (int, float)) and not 0 <= t <= 1:
        raise ValueError(f"t must be between 0 and 1, got {t}")
    check_broadcastable((), t=t)
    dtype = jnp.result_type(neg)
    pos, neg, counts = fill_masked(pos, where), fill_masked(neg, where), drawn(counts, where)
    n_samples = jnp.asarray(neg.shape[-1], dtype) if counts is None else jnp.sum(counts, axis=-1)
    rate = n_samples / (jnp.asarray(n_items, dtype) - 1.0)
    beta = 1.0 - jnp.asarray(t, dtype) * (1.0 - rate)
    values = beta * jax.nn.softplus(-pos) + sum_of_softplus(neg, counts)
    return safe_reduce(values / (n_samples + 1.0), weights=weights, where=where, reduce_fn=reduce_fn)


def _check_n_items(n_items: int | Array, *, least: int) -> None:
    if isinstance(n_items, (int, float)) and n_items < least:
        raise ValueError(f"n_items must be at least {least}, got {n_items}")
    check_broadcastable((), n_items=n_items)


def _log_n_samples(neg: Array, counts: Array | None) -> Array:
    if counts is None:
        return jnp.log(jnp.asarray(neg.shape[-1], neg.dtype))
    return jnp.log(jnp.sum(counts, axis=-1))
