"""The log and the trial that known exposure and relevance give rise to."""

import numpy as np

from debias_jax.data.types import Interactions


def draw(
    exposure: np.ndarray,
    relevance: np.ndarray,
    exposure_rng: np.random.Generator,
    relevance_rng: np.random.Generator,
    test_rng: np.random.Generator,
) -> tuple[Interactions, Interactions]:
    """O ~ Bern(m), R ~ Bern(gamma), Y = O R.

    Args:
        exposure: float32 ``[n_users, n_items]``, m.
        relevance: float32 ``[n_users, n_items]``, gamma.
        exposure_rng: of O.
        relevance_rng: of R.
        test_rng: of the trial's relevance.

    Returns:
        The exposed pairs with labels R and propensities m, and every pair without a click with a fresh draw of its
        relevance, both by user and item. (R itself would not do for the trial: an exposed pair without a click has
        R = 0 for certain.)
    """
    n_users, n_items = exposure.shape
    observed = exposure_rng.random(exposure.shape) < exposure
    label = relevance_rng.random(exposure.shape) < relevance
    users, items = np.nonzero(observed)
    log = Interactions(
        users, items, label[users, items], n_users, n_items, propensities=exposure[users, items]
    )
    users, items = np.nonzero(~(observed & label))
    fresh = test_rng.random(exposure.shape) < relevance
    return log, Interactions(users, items, fresh[users, items], n_users, n_items)
