"""Which rows of a table's state are read as vectors, and what their keys are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from unhot.embedding import VOCABULARY
from unhot.formats.base import Array, Keys, Kind, Numbers, Options, numbers_from
from unhot.keys.column import Keys as Column
from unhot.keys.packing import unpack
from unhot.keys.state import import_state
from unhot.storage.tables import part

REMOVED = "removed"
"""What the numbers of removed rows are called by in a state."""


@dataclass(frozen=True)
class Read:
    """The rows that are read, and their keys: those of an embedding, or their numbers."""

    count: int
    numbers: Numbers | None
    """Of the rows, rising; None for all."""

    keys: Column | None
    """One for each of these rows; None for their numbers."""

    options: Options

    @property
    def kind(self) -> Kind:
        """Of the keys."""
        if self.keys is None or self.keys.kind == "int":
            return "numbers" if self.keys is None or self.keys.packed.large is None else "unsigned"
        return "text"

    def of(self, start: int, vectors: Array) -> tuple[Keys, Array]:
        """Keys and vectors of those among these rows that are read; the first of them is row `start`."""
        if self.numbers is None:
            return numbers_from(start, len(vectors)), vectors
        first, stop = np.searchsorted(self.numbers, [start, start + len(vectors)])
        numbers = self.numbers[first:stop]
        some = vectors if len(numbers) == len(vectors) else vectors[numbers - start]
        return (numbers if self.keys is None else self._named(self.keys, int(first), int(stop))), some

    def _named(self, keys: Column, first: int, stop: int) -> Keys:
        packed = keys.take(np.arange(first, stop)).packed
        if packed.offsets is None:
            return packed.data.view(np.uint64) if self.kind == "unsigned" else packed.data
        found = []
        for place, key in enumerate(unpack(packed)):
            try:
                found.append(key.decode("utf-8", self.options.errors) if isinstance(key, bytes) else str(key))
            except UnicodeDecodeError:
                raise ValueError(
                    f"the key {key!r}, number {first + place}, is not UTF-8. {self.options.read_all_the_same()}"
                ) from None
        return found


def rows_read(state: Mapping[str, Array], rows: int, options: Options) -> Read:
    """The rows of a table of so many that are read: all that are there, and of an embedding those of its keys.

    Args:
        state: of the table's state, the vocabulary's part, and the removed rows.
        rows: how many the table has.
        options: what happens to keys that are bytes and not UTF-8.

    Raises: ValueError for a state that no table can have, and for keys below 0 and of 2**63 or more in one.

    Example:
        >>> import unhot
        >>> words = unhot.Embedding(unhot.Vocabulary(["cat", "owl", "fox"], reserved=1), 2)
        >>> words.remove(["owl"])
        >>> state = words.state_dict()
        >>> found = rows_read(state, 4, Options())
        >>> found.of(0, state["weights"])[0]
        ['cat', 'fox']
    """
    removed = state.get(REMOVED, np.empty(0, np.int64))
    if removed.ndim != 1 or removed.dtype != np.int64 or (len(removed) and not (removed.min() >= 0 and removed.max() < rows)):
        raise ValueError(f"the state's {REMOVED!r} must be row numbers of a table of {rows} rows.")
    words = part(state, VOCABULARY)
    if not {"kind", "keys"} <= words.keys():
        if not len(removed):
            return Read(rows, None, None, options)
        numbers = np.setdiff1d(np.arange(rows), removed)
        return Read(len(numbers), numbers, None, options)
    held, policies = import_state(words)
    packed, free = held.export()
    total = policies.first + held.rows
    if rows < total:  # as for `unhot.load`; rows beyond have no keys yet
        raise ValueError(f"the vocabulary has {total} rows, and the table {rows}.")
    numbers = policies.first + np.setdiff1d(np.arange(held.rows), free)
    there = ~np.isin(numbers, removed)
    if packed.missing is not None:  # which no file of vectors has a key for
        there &= ~packed.missing
    if packed.large is not None and (packed.large & there).any():
        negative = (packed.data < 0) & ~packed.large & there
        if negative.any():
            places = np.array([np.flatnonzero(mask)[0] for mask in (negative, packed.large & there)])
            low, high = Column(packed).take(places).objects
            raise ValueError(
                f"there are keys below 0, such as {low!r}, and of 2**63 or more, such as {high!r}, and no array of integers"
                " holds both. unhot.load reads them."
            )
    places = np.flatnonzero(there)
    return Read(len(places), numbers[places], Column(packed).take(places), options)
