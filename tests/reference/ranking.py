"""Metrics as their definitions read, one list at a time, in float64 Python."""

import math

import numpy as np


def order(scores, labels, ties="pessimistic"):
    """Positions of a list from the first rank to the last; NaN scores last."""
    keys = []
    for position, (score, label) in enumerate(zip(scores, labels, strict=True)):
        score = -math.inf if math.isnan(score) else float(score)
        keys.append((-score, float(label) if ties == "pessimistic" else 0.0, position))
    return [key[2] for key in sorted(keys)]


def _ranked(scores, labels, ties):
    return [float(labels[position]) for position in order(scores, labels, ties)]


def _discount(rank, discount):
    if discount == "log2":
        return 1 / math.log2(rank + 1)
    return 1.0 if rank == 1 else 1 / math.log2(rank)


def _gain(label, gain):
    return label if gain == "linear" else 2.0**label - 1


def dcg(scores, labels, *, k=None, gain="linear", discount="log2", ties="pessimistic"):
    top = _ranked(scores, labels, ties)[:k]
    return sum(_gain(label, gain) * _discount(rank, discount) for rank, label in enumerate(top, start=1))


def ndcg(scores, labels, *, k=None, gain="linear", discount="log2", ideal="top_k", ties="pessimistic"):
    best = dcg(labels, labels, k=k if ideal == "top_k" else None, gain=gain, discount=discount)
    return 0.0 if best == 0 else dcg(scores, labels, k=k, gain=gain, discount=discount, ties=ties) / best


def average_precision(scores, labels, *, k=None, normaliser="positives", ties="pessimistic"):
    top = _ranked(scores, labels, ties)[:k]
    total, hits = 0.0, 0
    for rank, label in enumerate(top, start=1):
        if label >= 0.5:
            hits += 1
            total += sum(top[:rank]) / rank
    positives = sum(label >= 0.5 for label in labels)
    divisor = {
        "positives": positives,
        "min_k": positives if k is None else min(k, positives),
        "hits": hits,
        "none": 1,
    }[normaliser]
    return 0.0 if divisor == 0 else total / divisor


def recall(scores, labels, *, k=None, denominator="positives", ties="pessimistic"):
    total = sum(labels)
    if denominator == "min_k" and k is not None:
        total = min(k, total)
    return 0.0 if total == 0 else sum(_ranked(scores, labels, ties)[:k]) / total


def precision(scores, labels, *, k=None, denominator="k", ties="pessimistic"):
    n = len(scores)
    divisor = n if k is None else (k if denominator == "k" else min(k, n))
    return 0.0 if divisor == 0 else sum(_ranked(scores, labels, ties)[:k]) / divisor


def hit_rate(scores, labels, *, k=None, ties="pessimistic"):
    return float(any(label >= 0.5 for label in _ranked(scores, labels, ties)[:k]))


def mrr(scores, labels, *, k=None, ties="pessimistic"):
    for rank, label in enumerate(_ranked(scores, labels, ties)[:k], start=1):
        if label >= 0.5:
            return 1 / rank
    return 0.0


def snips_dcg(scores, labels, propensity, *, k=None, discount="log2", ties="pessimistic"):
    """None for a list without a positive of positive propensity."""
    ranks = {position: rank for rank, position in enumerate(order(scores, labels, ties), start=1)}
    held_out = [i for i, label in enumerate(labels) if label > 0 and propensity[i] > 0]
    if not held_out:
        return None
    gained = sum(
        _discount(ranks[i], discount) / propensity[i] for i in held_out if k is None or ranks[i] <= k
    )
    return gained / sum(1 / propensity[i] for i in held_out)


def auc(scores, labels):
    """The share of (positive, negative) pairs in the right order, ties one half."""
    scores, labels = np.asarray(scores, np.float64), np.asarray(labels)
    positives, negatives = scores[labels >= 0.5], scores[labels < 0.5]
    wins = (positives[:, None] > negatives[None, :]).mean()
    return wins + 0.5 * (positives[:, None] == negatives[None, :]).mean()
