"""A dataset's training part as device arrays."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from debias_jax import sampling
from debias_jax.data import sequences
from debias_jax.data.types import Dataset, Interactions
from debias_jax.errors import DataError
from debias_jax.methods.base import Method, TrainData
from debias_jax.methods.sequences import SampleSet, SequenceData, SequenceFrame
from debias_jax.types import Array


def item_popularity(clicked_items: np.ndarray, n_items: int, *, power: float = 0.5) -> np.ndarray:
    r"""How popular items are beside the most popular one.

    .. math:: \theta_i = \left( \frac{c_i}{\max_j c_j} \right)^{\text{power}}

    Args:
        clicked_items: ``[clicks]``, the item of each click; it counts c.
        n_items: size of the item vocabulary.
        power: at least 0; 0 makes all items alike, unclicked ones included.

    Returns:
        float32 ``[n_items]``, in [0, 1]; 0 for unclicked items, where ``power`` is above 0.

    Source:
        Biif, eq. 13, with a power of 1/2.

    Example:
        >>> item_popularity(np.array([0, 0, 0, 0, 1]), 3).tolist()
        [1.0, 0.5, 0.0]
    """
    counts = np.bincount(clicked_items, minlength=n_items).astype(np.float64)
    return ((counts / max(counts.max(initial=0.0), 1.0)) ** power).astype(np.float32)


def _labels_of_distinct_pairs(rows: Interactions) -> np.ndarray:
    """The labels of the distinct pairs, sorted by user and item; of a repeated pair the last row's."""
    # The first occurrence in the reversed rows is the last row.
    _, last = np.unique(rows.pair_keys[::-1], return_index=True)
    return rows.labels[::-1][last]


def train_data(dataset: Dataset) -> TrainData:
    """The arrays that methods learn from.

    Args:
        dataset: its ``train`` rows, and its ``probably_exposed`` pairs where it has them.

    Returns:
        The training data on the default device.

    Raises:
        DataError: there is no training row, or no row with a positive label.

    Example:
        >>> from debias_jax import data, training
        >>> training.train_data(data.synthetic.generate(seed=0, n_users=20, n_items=15)).popularity.shape
        (15,)
    """
    train = dataset.train
    if not len(train):
        raise DataError(f"{dataset.name}: the training part has no row")
    clicks = train.positives
    if not len(clicks):
        raise DataError(
            f"{dataset.name}: none of the {len(train)} training rows has a positive label; check the threshold"
        )
    exposed = dataset.probably_exposed

    def column(name: str, dtype) -> jnp.ndarray:
        return jnp.asarray(np.zeros(0, dtype) if exposed is None else getattr(exposed, name), dtype)

    observed_set = sampling.pair_set(train.users, train.items, n_users=train.n_users)
    return TrainData(
        users=jnp.asarray(train.users, jnp.int32),
        items=jnp.asarray(train.items, jnp.int32),
        labels=jnp.asarray(train.labels, jnp.float32),
        propensities=None if train.propensities is None else jnp.asarray(train.propensities, jnp.float32),
        clicks=(jnp.asarray(clicks.users, jnp.int32), jnp.asarray(clicks.items, jnp.int32)),
        click_set=sampling.pair_set(clicks.users, clicks.items, n_users=train.n_users),
        observed_set=observed_set,
        observed_labels=jnp.asarray(_labels_of_distinct_pairs(train), jnp.float32),
        popularity=jnp.asarray(item_popularity(clicks.items, train.n_items), jnp.float32),
        exposed_users=column("users", np.int32),
        exposed_items=column("items", np.int32),
        exposed_labels=column("labels", np.float32),
    )


def data_for(method: Method, dataset: Dataset) -> TrainData | SequenceData:
    """What a method learns from: ``sequence_data`` for one that reads histories, else ``train_data``.

    Args:
        method: the method; its ``frame`` says which.
        dataset: its training part.

    Returns:
        The training data on the default device.

    Raises:
        DataError: there is nothing to learn from.

    Example:
        >>> from debias_jax import data, methods
        >>> data_for(methods.mean_logit(), data.synthetic.generate(seed=0, n_users=20, n_items=15)).matrix_size
        (20, 15)
    """
    return train_data(dataset) if method.frame is None else sequence_data(dataset, method.frame)


def sequence_data(dataset: Dataset, frame: SequenceFrame) -> SequenceData:
    """The training histories, and the samples that a method takes from them.

    Args:
        dataset: its ``train`` rows with a positive label are the events, in the order of their timestamps, of rows
            where there are none.
        frame: ``method.frame``.

    Returns:
        The training data on the default device.

    Raises:
        DataError: there is no sample, as no user has enough events.

    Example:
        >>> from debias_jax import data, training
        >>> from debias_jax.methods.sequences import SequenceFrame
        >>> log = data.synthetic_sequences.generate(seed=0, n_users=20, n_items=12)
        >>> found = training.sequence_data(log, SequenceFrame("windows", 8, (4, 8)))
        >>> sum(len(each.ends) for each in found.samples)
        20
    """
    events = dataset.train.positives
    histories = sequences.histories(events)
    if frame.samples == "windows":
        samples = sequences.windows(histories, max_len=frame.max_len)
    elif frame.samples == "cloze":
        samples = sequences.cloze(histories, max_len=frame.max_len)
    elif frame.samples == "events":
        ends = np.arange(len(histories.items), dtype=np.int32)
        users = np.repeat(np.arange(dataset.n_users, dtype=np.int32), np.diff(histories.indptr))
        samples = sequences.Samples(users, ends, ends)
    else:
        first_cut = frame.max_len if frame.truncate else None
        samples = sequences.prefixes(
            histories, max_len=frame.max_len, first_cut=first_cut, min_items=frame.min_items
        )
    if not len(samples.ends):
        raise DataError(
            f"{dataset.name}: no user has the events that a sample of kind {frame.samples!r} takes; there are "
            f"{len(events)} training events of {dataset.n_users} users"
        )
    lengths = samples.ends - samples.starts + (1 if frame.samples in ("cloze", "events") else 0)
    buckets = sequences.bucketed(samples, lengths=lengths, edges=frame.edges)
    return SequenceData(
        items=jnp.asarray(histories.items, jnp.int32),
        samples=tuple(SampleSet(*map(jnp.asarray, bucket)) for bucket in buckets),
        seen=sampling.pair_set(events.users, events.items, n_users=dataset.n_users),
        counts=jnp.asarray(np.bincount(events.items, minlength=dataset.n_items), jnp.float32),
        target_counts=jnp.asarray(
            _target_counts(samples, frame.samples, histories.items, dataset.n_items), jnp.float32
        ),
    )


def _target_counts(samples: sequences.Samples, kind: str, items: np.ndarray, n_items: int) -> np.ndarray:
    """``[n_items]`` positions of all samples of which each item is the target."""
    first = {"windows": samples.starts + 1, "cloze": samples.starts}.get(kind, samples.ends)
    n_events = len(items)
    changes = np.bincount(first, minlength=n_events + 1) - np.bincount(
        samples.ends + 1, minlength=n_events + 1
    )
    return np.bincount(items, weights=np.cumsum(changes)[:n_events], minlength=n_items)


def histories_of(events: Interactions, users: Sequence[int], *, length: int) -> Array:
    """The last events of some users, as models of histories read them.

    Args:
        events: rows with a positive label count, in the order of their timestamps or else of the rows.
        users: codes.
        length: slots.

    Returns:
        int32 ``[len(users), length]``, the newest item last, padded on the left with ``n_items``.

    Example:
        >>> rows = Interactions(np.array([0, 0, 1]), np.array([2, 0, 1]), np.ones(3), 3, 3)
        >>> histories_of(rows, [0, 1, 2], length=3).tolist()
        [[3, 2, 0], [3, 3, 1], [3, 3, 3]]
    """
    return jnp.asarray(
        padded_histories(*sequences.histories(events.positives), users, length, fill=events.n_items)
    )


def padded_histories(
    indptr: np.ndarray, items: np.ndarray, users: Sequence[int], length: int, *, fill: int
) -> np.ndarray:
    """``histories_of`` of histories that are at hand already, on the host.

    Args:
        indptr: ``[n_users + 1]``; the history of user u is ``items[indptr[u] : indptr[u + 1]]``, the newest item last.
        items: codes.
        users: codes of the users that are asked for.
        length: slots; of a longer history the newest items are taken.
        fill: what stands in the slots before a shorter one.

    Returns:
        int32 ``[len(users), length]``.

    Example:
        >>> padded_histories(np.array([0, 3, 4]), np.array([5, 6, 7, 8]), [0, 1], 2, fill=9).tolist()
        [[6, 7], [9, 8]]
    """
    users = np.asarray(users, np.int64)
    slots = indptr[users + 1][:, None] - length + np.arange(length)[None, :]
    inside = slots >= indptr[users][:, None]
    padded = np.full(slots.shape, fill, np.int32)
    padded[inside] = items[slots[inside]]
    return padded
