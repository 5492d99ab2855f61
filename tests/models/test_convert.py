"""Released parameters: both ways, and what is said of arrays that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from debias_jax import models
from debias_jax.errors import DataError
from debias_jax.models import convert

BUILD = {
    "sasrec": lambda: models.sasrec(9, dim=4, max_len=5, n_blocks=3),
    "gru4rec": lambda: models.gru4rec(9, dim=4, max_len=5, hidden=6, n_layers=2),
    "caser": lambda: models.caser(3, 9, dim=4, max_len=3, n_vertical=2, n_horizontal=5),
    "bert4rec": lambda: models.bert4rec(9, dim=4, max_len=5, hidden=7, n_blocks=1),
    "fmlp_rec": lambda: models.fmlp_rec(9, dim=4, max_len=5, n_blocks=2, hidden=7),
}


def arrays_of(name):
    params = jax.jit(BUILD[name]().init)(jax.random.key(0))
    return params, convert.to_released(name, params)


@pytest.mark.parametrize("name", BUILD)
def test_there_and_back(name):
    params, arrays = arrays_of(name)
    assert all(isinstance(array, np.ndarray) for array in arrays.values())
    back = convert.from_released(name, {key: array.astype(np.float64) for key, array in arrays.items()})
    assert jax.tree.structure(back) == jax.tree.structure(params)
    assert {(leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(back)} == {(jnp.dtype("float32"), False)}
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_layouts():
    """A few entries by hand: special rows first, [out, in], filters with their axes."""
    params, arrays = arrays_of("bert4rec")
    table = arrays["Item.embeddings.weight"]
    np.testing.assert_array_equal(table[0], params["item"][9])
    np.testing.assert_array_equal(table[1], params["item"][10])
    np.testing.assert_array_equal(table[2:], params["item"][:9])
    linear = arrays["encoder.layers.0.linear1.weight"]
    assert linear[6, 1] == params["blocks"]["0"]["hidden"]["kernel"][1, 6]
    params, arrays = arrays_of("caser")
    assert arrays["horizs.1.weight"][4, 0, 1, 2] == params["horizontal"]["1"]["kernel"][1 * 4 + 2, 4]
    assert arrays["vert.weight"][1, 0, 2, 0] == params["vertical"]["kernel"][2, 1]
    assert arrays["b2.weight"].shape == (10, 1)
    params, arrays = arrays_of("fmlp_rec")
    weight = arrays["itemEncoder.layer.1.filterlayer.complex_weight"]
    assert weight[0, 2, 3, 1] == params["blocks"]["1"]["filter"][1, 2, 3]


def test_everything_wrong_is_named():
    _, arrays = arrays_of("sasrec")
    with pytest.raises(ValueError, match="unknown name 'sas'; there are sasrec, gru4rec"):
        convert.from_released("sas", arrays)
    without = {key: array for key, array in arrays.items() if key != "fwdLayers.1.conv2.bias"}
    with pytest.raises(
        DataError, match=r"released sasrec: missing \['fwdLayers.1.conv2.bias'\], unknown \['attnMask'\]"
    ):
        convert.from_released("sasrec", without | {"attnMask": np.zeros(3)})
    with pytest.raises(
        DataError, match=r"lastLN.bias is \(5,\), not \(4,\); Position.weight is \(5, 3\), not \(5, 4\)"
    ):
        convert.from_released(
            "sasrec",
            {"lastLN.bias": np.zeros(5), "Position.weight": np.zeros((5, 3))}
            | {key: array for key, array in arrays.items() if key not in ("lastLN.bias", "Position.weight")},
        )
    with pytest.raises(DataError, match="fwdLayers.0.conv1.weight has 2 axes, not 3"):
        convert.from_released("sasrec", arrays | {"fwdLayers.0.conv1.weight": np.zeros((4, 4))})
    with pytest.raises(DataError, match="Position.weight is int64, not floating"):
        convert.from_released("sasrec", arrays | {"Position.weight": np.zeros((5, 4), np.int64)})


def test_parameters_that_were_never_released_are_named():
    params = models.sasrec(9, dim=4, max_len=5, tied=False).init(jax.random.key(0))
    with pytest.raises(DataError, match=r"parameters of sasrec: missing \[\], unknown \['output'\]"):
        convert.to_released("sasrec", params)
