"""The losses as their papers write them, one pair at a time, in 200 decimal digits.

So many digits make the published forms usable where a float has none left: 1 - sigmoid(80) is 1.8e-35.
"""

import decimal
from collections.abc import Sequence
from decimal import Decimal

_CONTEXT = decimal.Context(prec=200)


def _sigmoid(s: float) -> Decimal:
    return 1 / (1 + (-Decimal(s)).exp())


def relmf(logit: float, click: float, exposure: float) -> float:
    """Eq. 4 of the Biif paper: -[(Y/m) log p + (1 - Y/m) log(1 - p)]."""
    with decimal.localcontext(_CONTEXT):
        p, ratio = _sigmoid(logit), Decimal(click) / Decimal(exposure)
        return float(-(ratio * p.ln() + (1 - ratio) * (1 - p).ln()))


def umf(logit: float, click: float, exposure: float) -> float:
    """Eq. 10 of the Biif paper, for a click of 0 or 1: -log(m p) or -log(1 - m p)."""
    with decimal.localcontext(_CONTEXT):
        clicked = Decimal(exposure) * _sigmoid(logit)
        return float(-(clicked if click else 1 - clicked).ln())


def umf_gradient(logit: float, click: float, exposure: float) -> tuple[float, float]:
    """Derivatives of eq. 10 in s and in m: eq. 11 times dp/ds = p (1 - p), and -(Y - m p) / (m (1 - m p))."""
    with decimal.localcontext(_CONTEXT):
        p, y, m = _sigmoid(logit), Decimal(click), Decimal(exposure)
        # At a click Y - m p = 1 - m p cancels, also at m = 1 and p = 1.
        in_p = -1 / p if click else -(y - m * p) / (p * (1 - m * p))
        in_m = -1 / m if click else p / (1 - m * p)
        return float(in_p * p * (1 - p)), float(in_m)


def umf_mixed_derivative(logit: float, exposure: float) -> float:
    """d2/(dm ds) of -log(1 - m p): p (1 - p) / (1 - m p)^2, which a hypergradient multiplies."""
    with decimal.localcontext(_CONTEXT):
        p = _sigmoid(logit)
        return float(p * (1 - p) / (1 - Decimal(exposure) * p) ** 2)


def bpr(pos: float, neg: Sequence[float]) -> float:
    """Mean over the samples of -log sigmoid(pos - neg)."""
    with decimal.localcontext(_CONTEXT):
        return float(sum(-_sigmoid(Decimal(pos) - Decimal(n)).ln() for n in neg) / len(neg))


def bce(pos: float, neg: Sequence[float]) -> float:
    """-log sigmoid(pos) minus the mean over the samples of log(1 - sigmoid(neg))."""
    with decimal.localcontext(_CONTEXT):
        return float(-_sigmoid(pos).ln() - sum((1 - _sigmoid(n)).ln() for n in neg) / len(neg))


def _log_sum(scores: Sequence[float]) -> Decimal:
    return sum((Decimal(s).exp() for s in scores), Decimal(0)).ln()


def cross_entropy(scores: Sequence[float], target: int) -> float:
    """Eq. 1 of Xu et al.: -s+ + log sum e^s."""
    with decimal.localcontext(_CONTEXT):
        return float(_log_sum(scores) - Decimal(scores[target]))


def rank(scores: Sequence[float], item: int) -> int:
    """How many items score at least as high, the item included."""
    return sum(s >= scores[item] for s in scores)


def top_cross_entropy(scores: Sequence[float], target: int, n: int) -> float:
    """Eq. 2 of Xu et al. with -s+: the sum runs over items of rank n or less."""
    with decimal.localcontext(_CONTEXT):
        kept = [s for item, s in enumerate(scores) if rank(scores, item) <= n]
        return float(_log_sum(kept) - Decimal(scores[target]))


def truncated_cross_entropy(scores: Sequence[float], target: int, eta: float) -> float:
    """Eq. 3 of Xu et al. with -s+: the sum runs over items not more than eta |s+| below the target."""
    with decimal.localcontext(_CONTEXT):
        pos = Decimal(scores[target])
        kept = [s for s in scores if Decimal(s) - pos >= -Decimal(eta) * abs(pos)]
        return float(_log_sum(kept) - pos)


def scaled_cross_entropy(pos: float, neg: Sequence[float], alpha: float) -> float:
    """Eq. 6 of Xu et al.: -s+ + log(e^s+ + alpha sum e^s-)."""
    with decimal.localcontext(_CONTEXT):
        total = Decimal(pos).exp() + Decimal(alpha) * sum(Decimal(n).exp() for n in neg)
        return float(total.ln() - Decimal(pos))


def importance_sampled(
    pos: float, neg: Sequence[float], log_q_pos: float, log_q_neg: Sequence[float]
) -> float:
    """Table 1 of Xu et al.: the positive is not in the sum."""
    with decimal.localcontext(_CONTEXT):
        logits = [Decimal(n) - Decimal(q) for n, q in zip(neg, log_q_neg, strict=True)]
        return float(_log_sum(logits) - (Decimal(pos) - Decimal(log_q_pos)))


def negative_sampling(pos: float, neg: Sequence[float]) -> float:
    """-log sigmoid(s+) - sum of log(1 - sigmoid(s-))."""
    with decimal.localcontext(_CONTEXT):
        return float(-_sigmoid(pos).ln() - sum((1 - _sigmoid(n)).ln() for n in neg))


def noise_contrastive(pos: float, neg: Sequence[float], c: float, n_items: int) -> float:
    """The same of s - c - log(K / N)."""
    with decimal.localcontext(_CONTEXT):
        shift = -Decimal(c) - (Decimal(len(neg)) / n_items).ln()
        moved = [Decimal(s) + shift for s in (pos, *neg)]
        return float(-_sigmoid(moved[0]).ln() - sum((1 - _sigmoid(n)).ln() for n in moved[1:]))


def gbce(pos: float, neg: Sequence[float], n_items: int, t: float) -> float:
    """-(log sigmoid(s+)^beta + sum of log(1 - sigmoid(s-))) / (K + 1), beta as the gSASRec paper writes it."""
    with decimal.localcontext(_CONTEXT):
        rate, t = Decimal(len(neg)) / (n_items - 1), Decimal(t)
        beta = rate * (t * (1 - 1 / rate) + 1 / rate)
        total = (_sigmoid(pos) ** beta).ln() + sum((1 - _sigmoid(n)).ln() for n in neg)
        return float(-total / (len(neg) + 1))
