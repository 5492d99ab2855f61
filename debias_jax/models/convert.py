"""Parameters of the released sequence models, to and from this library's."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from debias_jax._checks import check_choice
from debias_jax.errors import DataError
from debias_jax.types import Array, Params


class _Kind(NamedTuple):
    """How an array is laid out here and there: from the released layout, and back, which is told the layer."""

    ours: Callable[[np.ndarray], np.ndarray]
    released: Callable[[np.ndarray, int | None], np.ndarray]


class _Entry(NamedTuple):
    """One array: its released name and shape, and its path in ``params``; ``{l}`` stands for the layer."""

    released: str
    ours: str
    shape: tuple[int | str, ...]
    kind: _Kind


class _Layout(NamedTuple):
    """The arrays of a model, and which axes tell its sizes."""

    entries: tuple[_Entry, ...]
    sizes: dict[str, tuple[str, int]]


def _kind(ours: Callable[[np.ndarray], np.ndarray], released: Callable[[np.ndarray], np.ndarray]) -> _Kind:
    """A layout that is the same in every layer."""
    return _Kind(ours, lambda x, layer: released(x))


def _specials_last(n_specials: int) -> _Kind:
    """A table whose special rows stand before the items there, behind them here."""
    return _kind(lambda x: np.roll(x, -n_specials, axis=0), lambda x: np.roll(x, n_specials, axis=0))


_SAME = _kind(lambda x: x, lambda x: x)
# [out, in] there, [in, out] here.
_DENSE = _kind(np.transpose, np.transpose)
_POINTWISE = _kind(lambda x: x[..., 0].T, lambda x: x.T[..., None])
_VERTICAL = _kind(lambda x: x[:, 0, :, 0].T, lambda x: x.T[:, None, :, None])
_HORIZONTAL = _Kind(
    lambda x: x.reshape(len(x), -1).T, lambda x, layer: x.T.reshape(x.shape[1], 1, layer + 1, -1)
)
_FILTER = _kind(lambda x: np.moveaxis(x[0], -1, 0), lambda x: np.moveaxis(x, 0, -1)[None])
_BIAS_COLUMN = _kind(lambda x: np.roll(x[:, 0], -1), lambda x: np.roll(x, 1)[:, None])


def _norm(released: str, ours: str) -> list[_Entry]:
    return [
        _Entry(f"{released}.weight", f"{ours}/scale", ("dim",), _SAME),
        _Entry(f"{released}.bias", f"{ours}/bias", ("dim",), _SAME),
    ]


def _dense(released: str, ours: str, n_in: str, n_out: str, kind: _Kind = _DENSE) -> list[_Entry]:
    shape = (n_out, n_in, 1) if kind is _POINTWISE else (n_out, n_in)
    return [
        _Entry(f"{released}.weight", f"{ours}/kernel", shape, kind),
        _Entry(f"{released}.bias", f"{ours}/bias", (n_out,), _SAME),
    ]


def _attention(released: str) -> list[_Entry]:
    ours = "blocks/{l}/attention/in_projection"
    return [
        _Entry(f"{released}.in_proj_weight", f"{ours}/kernel", ("3dim", "dim"), _DENSE),
        _Entry(f"{released}.in_proj_bias", f"{ours}/bias", ("3dim",), _SAME),
        *_dense(f"{released}.out_proj", "blocks/{l}/attention/out_projection", "dim", "dim"),
    ]


def _tables(n_specials: int = 1, *, positions: bool = True) -> list[_Entry]:
    item = _Entry("Item.embeddings.weight", "item", ("rows", "dim"), _specials_last(n_specials))
    return [item, _Entry("Position.weight", "position", ("len", "dim"), _SAME)] if positions else [item]


_ITEM_SIZES = {"rows": ("Item.embeddings.weight", 0), "dim": ("Item.embeddings.weight", 1)}
_BERT_LAYER = "encoder.layers.{l}"
_FMLP_LAYER = "itemEncoder.layer.{l}"

_LAYOUTS = {
    "sasrec": _Layout(
        (
            *_tables(),
            *_norm("attnLNs.{l}", "blocks/{l}/attention_norm"),
            *_attention("attnLayers.{l}"),
            *_norm("fwdLNs.{l}", "blocks/{l}/forward_norm"),
            *_dense("fwdLayers.{l}.conv1", "blocks/{l}/hidden", "dim", "dim", _POINTWISE),
            *_dense("fwdLayers.{l}.conv2", "blocks/{l}/output", "dim", "dim", _POINTWISE),
            *_norm("lastLN", "norm"),
        ),
        _ITEM_SIZES | {"len": ("Position.weight", 0)},
    ),
    "gru4rec": _Layout(
        (
            *_tables(positions=False),
            _Entry("gru.weight_ih_l{l}", "layers/{l}/input", ("3hidden", "below"), _DENSE),
            _Entry("gru.weight_hh_l{l}", "layers/{l}/state", ("3hidden", "hidden"), _DENSE),
            *_dense("dense", "output", "hidden", "dim"),
        ),
        _ITEM_SIZES | {"hidden": ("gru.weight_hh_l0", 1)},
    ),
    "caser": _Layout(
        (
            *_tables(positions=False),
            _Entry("User.embeddings.weight", "user", ("users", "dim"), _SAME),
            _Entry("vert.weight", "vertical/kernel", ("n_vertical", 1, "len", 1), _VERTICAL),
            _Entry("vert.bias", "vertical/bias", ("n_vertical",), _SAME),
            _Entry(
                "horizs.{l}.weight",
                "horizontal/{l}/kernel",
                ("n_horizontal", 1, "height", "dim"),
                _HORIZONTAL,
            ),
            _Entry("horizs.{l}.bias", "horizontal/{l}/bias", ("n_horizontal",), _SAME),
            *_dense("fc1", "hidden", "features", "dim"),
            _Entry("W2.weight", "output", ("rows", "2dim"), _specials_last(1)),
            _Entry("b2.weight", "output_bias", ("rows", 1), _BIAS_COLUMN),
        ),
        _ITEM_SIZES
        | {
            "users": ("User.embeddings.weight", 0),
            "n_vertical": ("vert.weight", 0),
            "len": ("vert.weight", 2),
            "n_horizontal": ("horizs.0.weight", 0),
        },
    ),
    "bert4rec": _Layout(
        (
            *_tables(2),
            *_norm("layernorm", "norm"),
            *_attention(f"{_BERT_LAYER}.self_attn"),
            *_dense(f"{_BERT_LAYER}.linear1", "blocks/{l}/hidden", "dim", "hidden"),
            *_dense(f"{_BERT_LAYER}.linear2", "blocks/{l}/output", "hidden", "dim"),
            *_norm(f"{_BERT_LAYER}.norm1", "blocks/{l}/attention_norm"),
            *_norm(f"{_BERT_LAYER}.norm2", "blocks/{l}/forward_norm"),
        ),
        _ITEM_SIZES | {"len": ("Position.weight", 0), "hidden": ("encoder.layers.0.linear1.weight", 0)},
    ),
    "fmlp_rec": _Layout(
        (
            *_tables(),
            *_norm("layerNorm", "norm"),
            _Entry(
                f"{_FMLP_LAYER}.filterlayer.complex_weight",
                "blocks/{l}/filter",
                (1, "frequencies", "dim", 2),
                _FILTER,
            ),
            *_norm(f"{_FMLP_LAYER}.filterlayer.LayerNorm", "blocks/{l}/filter_norm"),
            *_dense(f"{_FMLP_LAYER}.intermediate.dense_1", "blocks/{l}/hidden", "dim", "hidden"),
            *_dense(f"{_FMLP_LAYER}.intermediate.dense_2", "blocks/{l}/output", "hidden", "dim"),
            *_norm(f"{_FMLP_LAYER}.intermediate.LayerNorm", "blocks/{l}/forward_norm"),
        ),
        _ITEM_SIZES
        | {"len": ("Position.weight", 0), "hidden": ("itemEncoder.layer.0.intermediate.dense_1.weight", 0)},
    ),
}


def from_released(name: str, arrays: Mapping[str, np.ndarray | Array]) -> Params:
    """Parameters of a model from the arrays of the released program.

    The released names and layouts are those of MTandHJ/CE-SCE-LLMRec; there the pad (and the mask token) stand before
    the items. Sizes and the number of layers are read off the arrays. Build the model with the same ones, and the
    heads, which no array tells.

    A torch checkpoint is a pickle, which this library does not read. Where torch is installed, save its parameters (not
    its buffers) in a format without code, and read that here::

        numpy.savez("sasrec.npz", **{n: p.detach().cpu().numpy() for n, p in model.named_parameters()})
        params = from_released("sasrec", numpy.load("sasrec.npz", allow_pickle=False))

    or likewise with ``safetensors.torch.save_file`` and ``safetensors.numpy.load_file``.

    Args:
        name: ``sasrec``, ``gru4rec``, ``caser``, ``bert4rec`` or ``fmlp_rec``.
        arrays: all parameters by their released names.

    Returns:
        Parameters of the model of that name, in float32.

    Raises:
        ValueError: an unknown name.
        DataError: arrays are missing, unknown, of another shape or not floating; all of them are named.

    Example:
        >>> import jax
        >>> from debias_jax import models
        >>> model = models.gru4rec(10, dim=4, max_len=5)
        >>> arrays = to_released("gru4rec", model.init(jax.random.key(0)))
        >>> arrays["gru.weight_ih_l0"].shape
        (12, 4)
        >>> sorted(from_released("gru4rec", arrays))
        ['item', 'layers', 'output']
    """
    check_choice(_LAYOUTS, name=name)
    arrays = {released: np.asarray(arrays[released]) for released in arrays}
    entries = _entries(name, arrays, "released")
    _check_names(f"arrays of the released {name}", arrays, entries)
    _check_shapes(name, arrays, entries)
    params = {
        entry.ours.format(l=layer): jnp.asarray(entry.kind.ours(arrays[released]), jnp.float32)
        for released, (entry, layer) in entries.items()
    }
    return traverse_util.unflatten_dict(params, sep="/")


def to_released(name: str, params: Params) -> dict[str, np.ndarray]:
    """The inverse of ``from_released``.

    It takes gradients too, and everything else that has the structure of the parameters.

    Args:
        name: ``sasrec``, ``gru4rec``, ``caser``, ``bert4rec`` or ``fmlp_rec``, with its published options.
        params: parameters of the model of that name.

    Returns:
        Arrays by their released names.

    Raises:
        ValueError: an unknown name.
        DataError: parameters are missing, unknown or of another shape; all of them are named.

    Example:
        >>> import jax
        >>> from debias_jax import models
        >>> params = models.sasrec(10, dim=4, max_len=5).init(jax.random.key(0))
        >>> arrays = to_released("sasrec", params)
        >>> bool((arrays["Item.embeddings.weight"][0] == params["item"][10]).all())  # the pad
        True
    """
    check_choice(_LAYOUTS, name=name)
    given = {path: np.asarray(x) for path, x in traverse_util.flatten_dict(params, sep="/").items()}
    entries = _entries(name, given, "ours")
    _check_names(f"parameters of {name}", given, entries)
    arrays = {
        entry.released.format(l=layer): entry.kind.released(given[path], layer)
        for path, (entry, layer) in entries.items()
    }
    _check_shapes(name, arrays, _entries(name, arrays, "released"))
    return arrays


def _entries(name: str, given: Mapping[str, np.ndarray], side: str) -> dict[str, tuple[_Entry, int | None]]:
    """Every array that a model with as many layers as ``given`` has, by its name on one side."""
    entries = _LAYOUTS[name].entries
    layers = {0}
    for entry in entries:
        before, *after = getattr(entry, side).split("{l}")
        if after:
            pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after[0]))
            layers |= {int(match[1]) for match in map(pattern.fullmatch, given) if match}
    found = {}
    for entry in entries:
        template = getattr(entry, side)
        for layer in range(max(layers) + 1) if "{l}" in template else [None]:
            found[template.format(l=layer)] = entry, layer
    return found


def _check_names(what: str, given: Mapping[str, np.ndarray], expected: Mapping[str, object]) -> None:
    missing, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    if missing or unknown:
        raise DataError(f"{what}: missing {missing}, unknown {unknown}")


def _check_shapes(
    name: str, arrays: Mapping[str, np.ndarray], entries: Mapping[str, tuple[_Entry, int | None]]
) -> None:
    wrong = []
    for released, array in arrays.items():
        rank = len(entries[released][0].shape)
        if array.ndim != rank:
            wrong.append(f"{released} has {array.ndim} axes, not {rank}")
        if not np.issubdtype(array.dtype, np.floating):
            wrong.append(f"{released} is {array.dtype}, not floating")
    if not wrong:
        sizes = {
            size: arrays[released].shape[axis] for size, (released, axis) in _LAYOUTS[name].sizes.items()
        }
        for released, array in arrays.items():
            entry, layer = entries[released]
            shape = _shape(entry.shape, sizes, layer)
            if array.shape != shape:
                wrong.append(f"{released} is {array.shape}, not {shape}")
    if wrong:
        raise DataError(f"arrays of the released {name}: " + "; ".join(wrong))


def _shape(shape: tuple[int | str, ...], sizes: dict[str, int], layer: int | None) -> tuple[int, ...]:
    def size(axis: int | str) -> int:
        match axis:
            case int():
                return axis
            case "2dim":
                return 2 * sizes["dim"]
            case "3dim":
                return 3 * sizes["dim"]
            case "3hidden":
                return 3 * sizes["hidden"]
            case "below":
                return sizes["hidden" if layer else "dim"]
            case "frequencies":
                return sizes["len"] // 2 + 1
            case "height":
                return layer + 1
            case "features":
                return sizes["n_vertical"] * sizes["dim"] + sizes["n_horizontal"] * sizes["len"]
        return sizes[axis]

    return tuple(size(axis) for axis in shape)
