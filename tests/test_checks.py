import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import _checks
from debias_jax.errors import ConfigError


def test_dtype_checks_name_the_argument():
    _checks.check_float(a=jnp.ones(2), b=np.ones(2), c=0.5, d=None)
    _checks.check_integer(a=jnp.ones(2, jnp.int32), b=np.arange(3), c=2, d=None)
    _checks.check_indicator(a=jnp.ones(2, bool), b=jnp.ones(2), c=None)
    with pytest.raises(TypeError, match="b must be of a floating dtype, got int32"):
        _checks.check_float(a=jnp.ones(2), b=jnp.ones(2, jnp.int32))
    with pytest.raises(TypeError, match="b must be of an integer dtype, got bool"):
        _checks.check_integer(b=jnp.ones(2, bool))
    with pytest.raises(TypeError, match="o must be boolean or of a floating dtype, got int32"):
        _checks.check_indicator(o=jnp.ones(2, jnp.int32))


def test_shape_checks_name_every_shape():
    _checks.check_same_shape(a=jnp.ones(2), b=np.ones(2), c=None)
    _checks.check_broadcastable((2,), a=1.0, b=jnp.ones(2), c=None)
    _checks.check_samples((2,), a=jnp.ones((2, 5)))
    _checks.check_samples((), a=jnp.ones(5))
    with pytest.raises(ValueError, match=r"shapes must be equal, got a \(2,\), b \(2, 1\)"):
        _checks.check_same_shape(a=jnp.ones(2), b=jnp.ones((2, 1)))
    with pytest.raises(ValueError, match=r"b must be a scalar or of shape \(2,\), got \(1,\)"):
        _checks.check_broadcastable((2,), b=jnp.ones(1))
    with pytest.raises(ValueError, match=r"neg must be of shape \(K\) with K >= 1, got \(\)"):
        _checks.check_samples((), neg=jnp.ones(()))
    with pytest.raises(ValueError, match=r"neg must be of shape \(2, K\) with K >= 1, got \(2, 0\)"):
        _checks.check_samples((2,), neg=jnp.ones((2, 0)))


def test_mask_check():
    _checks.check_mask(None, (3,))
    _checks.check_mask(np.ones(3, bool), (3,))
    with pytest.raises(TypeError, match="where must be boolean, got float32"):
        _checks.check_mask(jnp.ones(3), (3,))
    with pytest.raises(ValueError, match=r"where must be of shape \(3,\), got \(3, 1\)"):
        _checks.check_mask(jnp.ones((3, 1), bool), (3,))


def test_checks_run_while_tracing():
    with pytest.raises(ValueError, match="shapes must be equal"):
        jax.eval_shape(lambda a, b: _checks.check_same_shape(a=a, b=b), jnp.ones(2), jnp.ones(3))


def test_sizes_are_positive_integers():
    for value in (0, -1, 2.0, None, True):
        with pytest.raises(ConfigError, match=f"dim must be an integer of at least 1, got {value!r}"):
            _checks.check_sizes(dim=value)
    _checks.check_sizes(dim=1, k=np.int64(3))
