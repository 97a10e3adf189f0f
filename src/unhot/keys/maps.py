"""What a map from keys to rows offers: the native one in `native`, and Python's dict in `reference`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from unhot.keys.column import Keys
from unhot.keys.freed import Freed
from unhot.keys.packing import Ids, Kind, Mask, Packed

AS_KEY = -2
"""Given as the row of missing values: they are a key like others."""

MOST_ROWS = 2**31 - 1
"""Rows that a map can number."""

LONGEST = 2**24 - 1
"""Bytes of the longest key."""


class Rows(NamedTuple):
    """Which rows are written for what: a key's number in the map comes after `first` other rows.

    `missing` is the row of missing values, or AS_KEY. `unknown` is that of unknown keys; with `buckets`, it is the first of so
    many.
    """

    first: int
    unknown: int
    missing: int
    buckets: int = 0


class RefusedError(ValueError):
    """Keys that a map cannot take; `place` is that of the first such key, and the map is as it was."""

    def __init__(self, why: str, place: int) -> None:
        super().__init__(f"{why} at place {place}")
        self.why, self.place = why, place


REASONS = ("", "kind", "text", "long", "rows", "known", "filled")
"""Of a refusal: another kind of key; bytes that are no UTF-8; more than LONGEST bytes; more than MOST_ROWS rows; a key that is
there already, where all are to be new; or a map that is not empty, where it is to be."""


class Export(NamedTuple):
    """All keys in the order of their numbers, and the numbers in between that are free, rising."""

    packed: Packed
    free: Ids


class KeyMap(Protocol):
    """Numbers keys from 0 on, and keeps their numbers until they are removed.

    Each method is one change, or reads one moment: an exception of a signal's handler finds it made or not, other threads too.
    """

    freed: Freed
    """Which numbers were freed, and when."""

    @property
    def kind(self) -> Kind | None:
        """Of the keys that there are or have been."""

    @property
    def signs(self) -> tuple[bool, bool]:
        """Whether there are or have been negative integers, and such of 2**63 and more."""

    @property
    def rows(self) -> int:
        """How many numbers have been given, those that are free again included."""

    def __len__(self) -> int:
        """How many keys there are."""

    def find(self, keys: Keys, rows: Rows, out: Ids) -> int:
        """Writes the rows of the keys; returns the place of the first unknown one, or -1.

        A missing value that has a row is known.
        """

    def add(self, keys: Keys, rows: Rows, out: Ids, *, unique: bool = False, empty: bool = False) -> None:
        """Gives a number to each unknown key whose place in `out` is negative, in their order; writes the rows of such places.

        The lowest free numbers come first. With `unique`, no key may be known or come twice; with `empty`, the map must be
        empty.

        Raises: RefusedError. The map is then as it was.
        """

    def remove(self, keys: Keys, rows: Rows, out: Ids) -> int:
        """Removes the keys, and writes what was their rows; returns -1.

        If there are unknown ones, it removes none, and returns the place of the first.
        """

    def take(self, numbers: Ids) -> tuple[Keys, Mask | None]:
        """The keys of numbers, and which of them have none."""

    def export(self) -> Export:
        """Everything that the map holds."""

    def load(self, export: Export) -> None:
        """Fill a map that was just made with what another has exported. Raises: RefusedError, where a key comes twice, say."""
