"""Event logs for tests, and their order in time by Python's sort, which is stable."""

import numpy as np
from hypothesis import strategies as st

from debias_jax.data import Interactions

# Few distinct times, so that ties are common.
EVENTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=40)


def log_of(triples, n_users=None, n_items=None):
    """Interactions of (user, item, time) rows."""
    users, items, times = np.array(triples).T
    return Interactions(
        users,
        items,
        np.ones(len(users)),
        n_users or users.max() + 1,
        n_items or items.max() + 1,
        timestamps=times,
    )


def by_user(triples):
    """Row numbers of each user in time order, rows of equal time as they stand."""
    rows = {}
    for row in sorted(range(len(triples)), key=lambda row: triples[row][2]):
        rows.setdefault(triples[row][0], []).append(row)
    return rows
