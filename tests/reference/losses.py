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
