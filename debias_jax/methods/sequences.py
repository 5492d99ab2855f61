"""What a method learns from that reads histories: samples of the users' sequences as positions, cut out inside jit."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from debias_jax import sampling
from debias_jax._checks import check_sizes
from debias_jax.errors import ConfigError
from debias_jax.sampling import PairSet
from debias_jax.types import Array, Key

SAMPLES = ("windows", "prefixes", "cloze", "events")
"""Kinds of training samples, see ``SequenceFrame.samples``."""


class SequenceFrame(NamedTuple):
    """Which samples a method takes from each user's history, and in arrays of which lengths it wants them.

    Attributes:
        samples: ``"windows"``: one a user, the last items of the history, the next item after each of them as targets;
            ``"prefixes"``: one a prefix of the history, its last item as the only target; ``"cloze"``: one a user, the
            last items of the history, of which the method hides some; ``"events"``: one an event, as the target,
            without any history.
        max_len: items that are read at most.
        edges: lengths of the arrays, ascending, the last one ``max_len``; a sample lies in the shortest that it fits.
        truncate: whether prefixes are taken of the last ``max_len`` items of each history alone.
        min_items: items of the shortest prefix, its target included; a user of fewer gives the whole history.
    """

    samples: str
    max_len: int
    edges: tuple[int, ...]
    truncate: bool = False
    min_items: int = 2


class SampleSet(NamedTuple):
    """Samples of one length, as positions in ``SequenceData.items``.

    Attributes:
        users: int32 ``[m]``.
        starts: int32 ``[m]``, the first position that may be read.
        ends: int32 ``[m]``, position of the sample's last item.
    """

    users: Array
    starts: Array
    ends: Array


class SequenceData(NamedTuple):
    """Everything that a method of sequences learns from, on the device; an argument of every jitted function.

    Attributes:
        items: int32 ``[n]``, all histories one behind the other, each in the order of time.
        samples: the samples in the order of ``SequenceFrame.edges``.
        seen: the same pairs of user and item for membership tests.
        counts: float32 ``[n_items]``, how often each item stands in ``items``.
        target_counts: float32 ``[n_items]``, at how many positions of an epoch each item is the target, or of
            ``"cloze"`` may be.
    """

    items: Array
    samples: tuple[SampleSet, ...]
    seen: PairSet
    counts: Array
    target_counts: Array


class SampleBatch(NamedTuple):
    """Samples of one length, drawn for a step: those of ``SampleSet`` ``[B]``, and bool ``where`` ``[B]``."""

    users: Array
    starts: Array
    ends: Array
    where: Array


class Sequences(NamedTuple):
    """Histories cut out for a step.

    Attributes:
        users: int32 ``[B]``.
        histories: int32 ``[B, l]``, the newest item last, padded on the left.
        targets: int32 ``[B, l]``, or ``[B, 1]`` if only the last slot has one.
        where: bool of the shape of ``targets``.
    """

    users: Array
    histories: Array
    targets: Array
    where: Array


def check_frame(frame: SequenceFrame) -> SequenceFrame:
    """The frame, if it is sound.

    Raises:
        ConfigError: it is not.
    """
    if frame.samples not in SAMPLES:
        raise ConfigError(f"samples must be one of {', '.join(SAMPLES)}, got {frame.samples!r}")
    if list(frame.edges) != sorted(set(frame.edges)) or not frame.edges or frame.edges[0] < 1:
        raise ConfigError(f"edges must ascend from at least 1, got {frame.edges}")
    if frame.edges[-1] != frame.max_len:
        raise ConfigError(f"the last of edges {frame.edges} must be max_len = {frame.max_len}")
    check_sizes(min_items=frame.min_items)
    return frame


def lengths_up_to(max_len: int) -> tuple[int, ...]:
    """Lengths of arrays for histories of up to ``max_len`` items: 4, 8, 16, 32 ..., and ``max_len``.

    Example:
        >>> lengths_up_to(50), lengths_up_to(3)
        ((4, 8, 16, 32, 50), (3,))
    """
    powers = [2**power for power in range(2, max_len.bit_length()) if 2**power < max_len]
    return (*powers, max_len)


def sequence_batches(batch_size: int):
    """``(data, key) -> batches``: every sample once an epoch, each batch with the lengths in the same shares.

    Args:
        batch_size: samples a step, of all lengths together.

    Returns:
        A function that gives a ``SampleBatch`` with leading axes ``[steps, B_l]`` for each length that has samples,
        by its number among the edges of the frame.

    Raises:
        ValueError: ``batch_size`` is below 1.
    """
    check_sizes(batch_size=batch_size)

    def batches(data: SequenceData, key: Key) -> dict[str, SampleBatch]:
        sizes = [samples.ends.shape[0] for samples in data.samples]
        drawn = sampling.stratified_batches(key, sizes, batch_size=batch_size)
        return {
            str(number): SampleBatch(*jax.tree.map(lambda column, index=index: column[index], samples), where)
            for number, (samples, (index, where)) in enumerate(zip(data.samples, drawn, strict=True))
            if samples.ends.shape[0]
        }

    return batches


def cut(data: SequenceData, batch: SampleBatch, *, samples: str, length: int) -> Sequences:
    """Cuts the histories of a batch out of ``data.items``.

    Args:
        data: the training data.
        batch: which.
        samples: see ``SequenceFrame``; of ``"cloze"`` the targets are the items themselves.
        length: l; what is older is left out.

    Returns:
        The histories; pads are the id that follows the last item, ``n_items``.
    """
    n_items = data.counts.shape[0]
    first = batch.ends - length + (1 if samples == "cloze" else 0)
    slots = first[:, None] + jnp.arange(length, dtype=jnp.int32)[None, :]
    inside = (slots >= batch.starts[:, None]) & batch.where[:, None]
    histories = jnp.where(inside, data.items[jnp.maximum(slots, 0)], n_items)
    if samples in ("prefixes", "events"):
        return Sequences(batch.users, histories, data.items[batch.ends][:, None], batch.where[:, None])
    targets = histories if samples == "cloze" else data.items[jnp.maximum(slots + 1, 0)]
    return Sequences(batch.users, histories, jnp.where(inside, targets, 0), inside)
