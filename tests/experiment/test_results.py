"""The table at the end of a run: what its verdicts need."""

from types import SimpleNamespace

import pytest

from debias_jax.experiment import _results


def _scored(name):
    return SimpleNamespace(
        name=name,
        dataset="log",
        protocol={"name": "badr"},
        seeds=(0, 1),
        overlap=None,
        values=lambda: {"auc": [0.5, 0.6]},
    )


@pytest.mark.parametrize(
    ("p_users", "p_seeds", "difference", "verdict"),
    [
        (0.01, 0.02, 0.1, "better"),
        (0.01, 0.02, -0.1, "worse"),
        (0.01, 0.2, 0.1, "no difference shown"),
        # AUC is pooled over all rows and has no value of a user; one seed has no test over seeds.
        (None, 0.01, 0.1, "better"),
        (None, 0.3, 0.1, "no difference shown"),
        (None, None, -0.1, "not tested"),
    ],
)
def test_a_verdict_needs_every_test_that_there_is(p_users, p_seeds, difference, verdict):
    row = {
        "baseline": "mf",
        "variant": "ips",
        "difference": difference,
        "low": None,
        "high": None,
        "p_users": p_users,
        "p_seeds": p_seeds,
    }
    text = _results.table([_scored("mf"), _scored("ips")], [row], headline="auc")
    assert text.splitlines()[-1].endswith(f"  {verdict}")
