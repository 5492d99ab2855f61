"""FMLP-Rec: the transforms, and how the parameters start."""

import jax
import numpy as np
import pytest
from reference.starts import check_constant, check_normal

from debias_jax import models
from debias_jax.models.fmlp import _filter, _fourier


@pytest.mark.parametrize("length", [1, 2, 5, 6, 50])
def test_transforms_are_the_orthonormal_real_ones(rng, length):
    to_frequencies, to_slots = _fourier(length)
    x = rng.normal(size=(length, 3))
    spectrum = np.fft.rfft(x, axis=0, norm="ortho")
    real, imaginary = np.split(to_frequencies @ x, 2)
    np.testing.assert_allclose(real + 1j * imaginary, spectrum, atol=1e-12)
    np.testing.assert_allclose(to_slots @ to_frequencies, np.eye(length), atol=1e-12)
    # Any spectrum, also one whose first and last frequency have an imaginary part, which is not read.
    spectrum = rng.normal(size=(2, *spectrum.shape))
    expected = np.fft.irfft(spectrum[0] + 1j * spectrum[1], n=length, axis=0, norm="ortho")
    np.testing.assert_allclose(to_slots @ spectrum.reshape(-1, 3), expected, atol=1e-12)


def test_a_filter_of_the_last_slots_only(rng):
    x = rng.normal(size=(2, 6, 3)).astype(np.float32)
    weights = rng.normal(size=(2, 4, 3)).astype(np.float32)
    every = _filter(x, weights, 6)
    np.testing.assert_allclose(_filter(x, weights, 2), every[:, -2:], rtol=1e-5, atol=1e-6)


def test_start():
    params = jax.jit(models.fmlp_rec(2000, dim=32, max_len=50).init)(jax.random.key(1))
    check_normal(params["item"], 0.02)
    check_normal(params["position"], 0.02)
    assert sorted(params["blocks"]) == ["0", "1", "2", "3"]
    first = params["blocks"]["0"]
    assert first["filter"].shape == (2, 26, 32)
    check_normal(first["filter"], 0.02)
    for number, block in params["blocks"].items():
        np.testing.assert_array_equal(block["filter"], first["filter"])
        for layer in ("hidden", "output"):
            check_normal(block[layer]["kernel"], 0.02)
            check_constant(block[layer]["bias"], 0.0)
            assert number == "0" or (block[layer]["kernel"] != first[layer]["kernel"]).any()
