"""Raw ids to dense integers and back."""

import itertools
from collections.abc import Iterable, Sequence

import numpy as np

from debias_jax.errors import DataError


class Vocabulary:
    """An ordered set of raw string ids; the position is the integer code.

    Ids are kept as strings exactly as they stand ("007" is not "7"). Immutable.

    Args:
        ids: the raw ids in code order, distinct.
        kind: "user" or "item", for messages.

    Raises:
        DataError: an id occurs twice or is empty.

    >>> users = Vocabulary(["007", "7", "zoë"], kind="user")
    >>> users.encode(["zoë", "7"]).tolist()
    [2, 1]
    >>> users.decode([0])
    ['007']
    """

    def __init__(self, ids: Iterable[str], *, kind: str = "id"):
        self.ids: tuple[str, ...] = tuple(str(raw) for raw in ids)
        self.kind = kind
        self._codes = {raw: code for code, raw in enumerate(self.ids)}
        if len(self._codes) != len(self.ids):
            seen: set[str] = set()
            twice = next(raw for raw in self.ids if raw in seen or seen.add(raw))
            raise DataError(f"{kind} id {twice!r} occurs twice in the vocabulary")
        if "" in self._codes:
            raise DataError(f"{kind} id number {self._codes['']} is empty")

    @classmethod
    def range(cls, n: int, *, start: int = 0, kind: str = "id") -> "Vocabulary":
        """The ids ``start .. start + n - 1`` as strings, for data that is already integer-coded."""
        return cls((str(i) for i in range(start, start + n)), kind=kind)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, raw: object) -> bool:
        return str(raw) in self._codes

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.ids == other.ids

    def __hash__(self) -> int:
        return hash(self.ids)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} {self.kind}s)"

    def encode(self, raw: Sequence[object]) -> np.ndarray:
        """Codes of raw ids, int32 ``[len(raw)]``; an id that is no string is looked up as ``str(id)``.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        # Python scalars hash and format several times faster than numpy's.
        values = raw.tolist() if isinstance(raw, np.ndarray) else raw
        found = map(self._codes.get, map(str, values), itertools.repeat(-1))
        codes = np.fromiter(found, np.int32, count=len(values))
        unknown = np.flatnonzero(codes < 0)
        if unknown.size:
            row = int(unknown[0])
            raise DataError(
                f"{self.kind} {str(values[row])!r} (row {row}) is not among "
                f"the {len(self)} known {self.kind}s"
            )
        return codes

    def decode(self, codes: Sequence[int]) -> list[str]:
        """Raw ids of codes.

        Raises:
            DataError: a code is outside ``[0, len(self))``.
        """
        for code in codes:
            if not 0 <= int(code) < len(self):
                raise DataError(f"{self.kind} code {int(code)} is outside [0, {len(self)})")
        return [self.ids[int(code)] for code in codes]
