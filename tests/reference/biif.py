"""Biif's one-step hypergradient of a free exposure, term by term as in its eq. 19, in plain numpy."""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def sgd_step(user, item, batch, exposure, eta):
    """Eq. 16, 27, 28: one SGD step on the summed L2 of a batch of (user, item, click)."""
    user_after, item_after = user.copy(), item.copy()
    for (u, i, click), m in zip(batch, exposure, strict=True):
        p = sigmoid(user[u] @ item[i])
        slope = -(1 - p) if click else m * p * (1 - p) / (1 - m * p)
        user_after[u] -= eta * slope * item[i]
        item_after[i] -= eta * slope * user[u]
    return user_after, item_after


def eq19(
    user, item, batch, exposure, validation, eta, *, residuals_after=True, negative_residual=sigmoid, own=True
):
    """dL_val / dm of every batch entry, L_val the summed cross-entropy of (user, item, label) rows.

    Args:
        user: ``[n_users, dim]`` before the step.
        item: ``[n_items, dim]`` before the step.
        batch: rows (user, item, click), each pair once.
        exposure: m of each batch row.
        validation: rows (user, item, label).
        eta: step size.
        residuals_after: whether the residuals sigma(.) and the neighbours' vectors are those after the step.
        negative_residual: the factor of a negative pair, sigma(+R); eq. 35's first line prints sigma(-R).
        own: whether a validation pair that is the batch pair itself counts, which eq. 29 leaves out.
    """
    user_after, item_after = sgd_step(user, item, batch, exposure, eta)
    user_val, item_val = (user_after, item_after) if residuals_after else (user, item)
    grads = []
    for (u, i, click), m in zip(batch, exposure, strict=True):
        if click:
            grads.append(0.0)  # eq. 18
            continue
        p = sigmoid(user[u] @ item[i])
        total = 0.0
        for v, j, label in validation:
            logit = user_val[v] @ item_val[j]
            residual = sigmoid(-logit) if label else -negative_residual(logit)
            if (v, j) == (u, i) and not own:
                continue
            if v == u:
                total += residual * (item_val[j] @ item[i])
            if j == i:
                total += residual * (user_val[v] @ user[u])
        grads.append(eta * p * (1 - p) / (1 - m * p) ** 2 * total)
    return np.asarray(grads)
