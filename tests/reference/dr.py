"""The doubly robust family as its papers write it, one pair at a time, in float64.

Every function takes lists: ``e`` errors, ``h`` imputed errors, ``o`` observation, ``p`` propensities, ``s`` sampling
weights of the rows, and ``everyone``, the imputed errors of the sample of all pairs (``h`` itself in the paper's
frame).
"""

import numpy as np


def _bracket(e, h, o, p, s, everyone, released=False):
    total = 0.0
    for imputed in everyone:
        total += imputed
    for i in range(len(e)):
        if o[i]:
            total += s[i] * (e[i] / p[i] - (h[i] if released else h[i] / p[i]))
    return total


def _inverse(o, p, s):
    return [s[i] / p[i] if o[i] else 0.0 for i in range(len(o))]


def eib(e, h, o, p, s, everyone):
    """Eq. 5 of the BADR paper, observed rows weighted by s."""
    return (sum(everyone) + sum(s[i] * (e[i] - h[i]) for i in range(len(e)) if o[i])) / len(everyone)


def dr(e, h, o, p, s, everyone, released=False):
    """Eq. 7 of the BADR paper, and what its program computes before dividing by the sum of weights."""
    return _bracket(e, h, o, p, s, everyone, released) / len(everyone)


def sndr(e, h, o, p, s, everyone):
    w = _inverse(o, p, s)
    correction = sum(w[i] * (e[i] - h[i]) for i in range(len(e)) if o[i])
    return sum(everyone) / len(everyone) + correction / sum(w)


def badr(e, h, o, p, s, everyone, released=False):
    """Eq. 13 of the BADR paper."""
    return _bracket(e, h, o, p, s, everyone, released) / sum(_inverse(o, p, s))


def dynamic_propensity(p, variance_weight, grid=200_001):
    """The weight q in [1, 1/p] with the least (1 - q p)^2 + variance_weight p (1 - p) q^2, by trying them all."""
    q = np.linspace(1.0, 1.0 / p, grid)
    cost = (1 - q * p) ** 2 + variance_weight * p * (1 - p) * q**2
    return 1.0 / q[np.argmin(cost)]


def tdr(e, h, o, p, s, everyone, everyone_p):
    """A least-squares fit of the observed residuals on 1/p - 1, then DR with the moved imputed errors."""
    seen = [i for i in range(len(e)) if o[i]]
    design = np.array([[np.sqrt(s[i]) * (1 / p[i] - 1)] for i in seen])
    residual = np.array([np.sqrt(s[i]) * (e[i] - h[i]) for i in seen])
    slope = np.linalg.lstsq(design, residual, rcond=None)[0][0]
    moved = [h[i] + slope * (1 / p[i] - 1) for i in range(len(h))]
    moved_everyone = [x + slope * (1 / q - 1) for x, q in zip(everyone, everyone_p, strict=True)]
    return dr(e, moved, o, p, s, moved_everyone)


def imputation(e, h, o, p, s, factor):
    """(1/m) sum s o factor(o, p) (h - e)^2."""
    return sum(s[i] * o[i] * factor(o[i], p[i]) * (h[i] - e[i]) ** 2 for i in range(len(e))) / len(e)


def badr_eq32(e, h, o, p, s, everyone, keep=lambda p: 1.0):
    """Eq. 32 of the BADR paper as printed, each pair times ``keep`` of its propensity."""
    w = _inverse(o, p, s)
    level = sum(everyone) / sum(w)
    value = badr(e, h, o, p, s, everyone)
    total = 0.0
    for i in range(len(e)):
        if o[i]:
            total += w[i] ** 2 * keep(p[i]) * (e[i] - h[i] + level - value) ** 2
    return total / sum(w) ** 2


def badr_eq32_gradient_with_constant_value(e, h, o, p, s, everyone):
    """Gradients of eq. 32 in ``h`` and in ``everyone`` when L_c is a constant."""
    w = _inverse(o, p, s)
    level, value = sum(everyone) / sum(w), badr(e, h, o, p, s, everyone)
    slopes = [
        2 * w[i] ** 2 * (e[i] - h[i] + level - value) / sum(w) ** 2 if o[i] else 0.0 for i in range(len(e))
    ]
    return [-x for x in slopes], [sum(slopes) / sum(w)] * len(everyone)


def badr_corrected(e, h, o, p, s, everyone):
    """Theorem 3.5 with the deviation from L_c itself and the factor 1 - p."""
    w, value = _inverse(o, p, s), badr(e, h, o, p, s, everyone)
    seen = [i for i in range(len(e)) if o[i]]
    return sum(w[i] ** 2 * (1 - p[i]) * (e[i] - h[i] - value) ** 2 for i in seen) / sum(w) ** 2


def badr_released(e, h, o, p, s, everyone):
    """The loss of the released program, and its only gradient: that of the mean over ``everyone``."""
    w, value = _inverse(o, p, s), badr(e, h, o, p, s, everyone, released=True)
    mean = sum(everyone) / len(everyone)
    seen = [i for i in range(len(e)) if o[i]]
    loss = sum(w[i] ** 2 * (e[i] - h[i] + mean - value) ** 2 for i in seen) / len(everyone)
    slope = sum(2 * w[i] ** 2 * (e[i] - h[i] + mean - value) for i in seen) / len(everyone)
    return loss, slope / len(everyone)
