"""What tests of a method's steps, written out, have in common."""

import jax
import numpy as np


def close(ours, expected, rtol=2e-4, atol=1e-6):
    """Asserts that two trees agree leaf by leaf."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected)


def pairs_of(users, items, where):
    """The pairs of a batch that are no padding."""
    keep = np.asarray(where).ravel()
    users, items = (np.asarray(ids).ravel()[keep] for ids in (users, items))
    return list(zip(users.tolist(), items.tolist(), strict=True))
