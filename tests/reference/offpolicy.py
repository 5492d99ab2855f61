"""Off-policy values as their definitions read: loops over users and items, orders of tied items enumerated."""

import itertools
import math

import numpy as np


def _by_rank(rank, n, metric, k, discount):
    if metric == "auc":
        return 1 - (rank - 1) / n
    if k is not None and rank > k:
        return 0.0
    if metric == "precision":
        return 1 / (n if k is None else k)
    if metric == "recall":
        return 1.0
    if discount == "log2":
        return 1 / math.log2(rank + 1)
    return 1.0 if rank == 1 else 1 / math.log2(rank)


def gains(scores, *, metric, k=None, discount="log2", ties="mean"):
    """Of each item of one list: the mean over all orders by descending score, or the first of them by position."""
    n = len(scores)
    keys = [-math.inf if math.isnan(score) else score for score in scores]
    orders = [
        order
        for order in itertools.permutations(range(n))
        if all(keys[a] >= keys[b] for a, b in itertools.pairwise(order))
    ]
    orders = orders[:1] if ties == "by_index" else orders
    total = np.zeros(n)
    for order in orders:
        for rank, item in enumerate(order, start=1):
            total[item] += _by_rank(rank, n, metric, k, discount)
    return total / len(orders)


def value(lists, users=None, *, estimator, metric, k=None, discount="log2", ties="mean"):
    """The estimate from dicts of one user's scores, labels, observed, propensity, imputed; with user weights."""
    users = np.ones(len(lists)) if users is None else users
    log_weight = sum(
        w * sum(o / p for o, p in zip(one["observed"], one["propensity"], strict=True) if o)
        for w, one in zip(users, lists, strict=True)
    )
    n_pairs = sum(w * len(one["scores"]) for w, one in zip(users, lists, strict=True))
    numerator = denominator = 0.0
    for w, one in zip(users, lists, strict=True):
        of_item = gains(one["scores"], metric=metric, k=k, discount=discount, ties=ties)
        gained = relevant = 0.0
        for i, gain in enumerate(of_item):
            weight = 1 / one["propensity"][i] if one["observed"][i] else 0.0
            label = one["labels"][i] if one["observed"][i] else 0.0
            if estimator == "dr":
                relevance = one["imputed"][i] + weight * (label - one["imputed"][i])
            else:
                relevance = weight * label * (n_pairs / log_weight if estimator == "snips" else 1.0)
            gained += gain * relevance
            relevant += relevance
        numerator += w * gained
        if metric == "recall":
            denominator += w * relevant
        elif metric == "ndcg":
            cut = len(of_item) if k is None else min(k, len(of_item))
            for rank in range(1, cut + 1):
                present = min(1.0, max(0.0, relevant - (rank - 1)))
                denominator += w * present * _by_rank(rank, len(of_item), metric, k, discount)
        else:
            denominator += w
    return numerator / denominator


def standard_error(lists, **options):
    """Delta method: the value's slopes in the users' weights, by central differences."""
    n, step = len(lists), 1e-5
    slopes = []
    for user in range(n):
        high, low = np.ones(n), np.ones(n)
        high[user] += step
        low[user] -= step
        slopes.append((value(lists, high, **options) - value(lists, low, **options)) / (2 * step))
    return math.sqrt(sum(slope**2 for slope in slopes) * n / (n - 1))
