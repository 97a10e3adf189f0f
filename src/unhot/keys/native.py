"""The native map from keys to rows; `unhot.keys.maps.KeyMap` says what it does."""

from __future__ import annotations

from functools import partial

import numpy as np

from unhot import _native
from unhot.atomic import Version
from unhot.keys.column import Keys
from unhot.keys.freed import Freed
from unhot.keys.maps import REASONS, Export, RefusedError, Rows
from unhot.keys.packing import KINDS, Ids, Kind, Mask, Packed

__all__ = ["KeyMap"]


class KeyMap:
    """See `unhot.keys.maps.KeyMap`. Each method is one call of a C function, which lets other threads run meanwhile."""

    def __init__(self) -> None:
        self._native = _native.KeyMap()
        self.freed = Freed(Version())

    @property
    def kind(self) -> Kind | None:
        return KINDS[self._native.counts()[0]]

    @property
    def signs(self) -> tuple[bool, bool]:
        signs = self._native.counts()[3]
        return bool(signs & 1), bool(signs & 2)

    @property
    def rows(self) -> int:
        return self._native.counts()[2]

    def __len__(self) -> int:
        return self._native.counts()[1]

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the map has taken."""
        return self._native.bytes()

    def find(self, keys: Keys, rows: Rows, out: Ids) -> int:
        return self._native.find(keys.packed, rows, out)

    def add(self, keys: Keys, rows: Rows, out: Ids, *, unique: bool = False, empty: bool = False) -> None:
        _check(self._native.add(keys.packed, rows, out, unique, empty))

    def remove(self, keys: Keys, rows: Rows, out: Ids) -> int:
        return self.freed.removing(partial(self._native.remove, keys.packed, rows), rows.first, out)

    def take(self, numbers: Ids) -> tuple[Keys, Mask | None]:
        packed, absent = self._native.take(numbers)
        return Keys(_plain(Packed(*packed))), absent

    def export(self) -> Export:
        packed, free = self._native.take_all()
        return Export(_plain(Packed(*packed)), free.view(np.int64))

    def load(self, export: Export) -> None:
        _check(self._native.load(export.packed, export.free))


def _plain(packed: Packed) -> Packed:
    """The same, its integers with NumPy's own dtype of 64 bits: C has two, and NumPy shows the other one beside them."""
    if packed.offsets is None:
        return packed._replace(data=packed.data.view(np.int64))
    return packed._replace(offsets=packed.offsets.view(np.int64))


def _check(outcome: tuple[int, int]) -> None:
    refusal, place = outcome
    if refusal:
        raise RefusedError(REASONS[refusal], place)
