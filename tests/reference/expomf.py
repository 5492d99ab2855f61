"""ExpoMF pair by pair in plain numpy, from the model: joint probabilities, posteriors and normal equations."""

import numpy as np


def density(y, score, precision, variant):
    """N(y; score, 1 / precision), with the constant of the released program if asked."""
    constant = precision / (2 * np.pi) if variant == "corrected" else precision * np.pi / 2
    return np.sqrt(constant) * np.exp(-precision * (y - score) ** 2 / 2)


def posterior(clicks, user, item, prior, precision, variant):
    """P(a = 1 | y) of every pair: Bayes' rule with the likelihood 1 or 0 of "no click" where unexposed."""
    q = np.ones(clicks.shape)
    for u, i in np.ndindex(*clicks.shape):
        if not clicks[u, i]:
            exposed = prior[i] * density(0.0, user[u] @ item[i], precision, variant)
            q[u, i] = exposed / (exposed + 1 - prior[i])
    return q


def log_posterior(clicks, user, item, prior, hparams, variant):
    """log p(clicks, vectors, prior), without the constants of the priors."""
    total = 0.0
    for u, i in np.ndindex(*clicks.shape):
        exposed = prior[i] * density(clicks[u, i], user[u] @ item[i], hparams["precision"], variant)
        total += np.log(exposed if clicks[u, i] else exposed + 1 - prior[i])
    total -= hparams["regularization"] / 2 * (np.sum(user**2) + np.sum(item**2))
    total += np.sum((hparams["prior_exposed"] - 1) * np.log(prior))
    return total + np.sum((hparams["prior_unexposed"] - 1) * np.log(1 - prior))


def regress(clicks, q, others, ridge):
    """The vector of each row: argmin over x of sum_j q_j (y_j - x . f_j)^2 + ridge |x|^2."""
    rows = []
    for y, weight in zip(clicks, q, strict=True):
        gram, right = ridge * np.eye(others.shape[1]), np.zeros(others.shape[1])
        for value, w, vector in zip(y, weight, others, strict=True):
            gram += w * np.outer(vector, vector)
            right += w * value * vector
        rows.append(np.linalg.solve(gram, right))
    return np.array(rows)


def iterate(clicks, user, item, prior, hparams, variant):
    """One iteration: users, items, prior, the posterior taken anew before each."""
    precision, ridge = hparams["precision"], hparams["regularization"] / hparams["precision"]
    user = regress(clicks, posterior(clicks, user, item, prior, precision, variant), item, ridge)
    q = posterior(clicks, user, item, prior, precision, variant)
    item = regress(clicks.T, q.T, user, ridge)
    q = posterior(clicks, user, item, prior, precision, variant)
    above, below = hparams["prior_exposed"], hparams["prior_unexposed"]
    return user, item, (above + q.sum(axis=0) - 1) / (above + below + clicks.shape[0] - 2)
