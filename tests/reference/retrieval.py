"""The small log and model of the retrieval methods' tests."""

import numpy as np

from debias_jax import data, models, training

N_USERS, N_ITEMS, DIM, BATCH = 14, 9, 3, 8
MF = models.mf(N_USERS, N_ITEMS, dim=DIM, init_scale=0.7)


def small_log():
    """More clicks than two batches hold."""
    return training.train_data(
        data.synthetic.generate(seed=11, n_users=N_USERS, n_items=N_ITEMS, mean_exposure=0.6)
    )


def popularity(log):
    """Share of each item among the clicks; an item without clicks counts as one."""
    counts = np.bincount(np.asarray(log.clicks[1]), minlength=N_ITEMS)
    return np.maximum(counts, 1) / counts.sum()
