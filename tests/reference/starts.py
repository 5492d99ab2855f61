"""Whether drawn parameters have the distribution that they should, within five standard errors."""

import numpy as np


def check_normal(x, deviation):
    x = np.asarray(x, np.float64)
    assert abs(x.mean()) < 5 * deviation / x.size**0.5
    assert abs(x.std() - deviation) < 5 * deviation / (2 * x.size) ** 0.5
    # Not truncated: of a normal distribution one number in 22 lies beyond two deviations.
    beyond = (abs(x) > 2 * deviation).mean()
    assert abs(beyond - 0.0455) < 5 * (0.0455 * 0.9545 / x.size) ** 0.5


def check_uniform(x, bound):
    x = np.asarray(x, np.float64)
    assert abs(x).max() <= bound
    assert abs(x.mean()) < 5 * bound / (3 * x.size) ** 0.5
    # Var(x^2) = 4 bound^4 / 45.
    assert abs((x**2).mean() - bound**2 / 3) < 5 * (4 / 45 / x.size) ** 0.5 * bound**2


def check_constant(x, value):
    np.testing.assert_array_equal(x, np.full_like(x, value))
