"""Keys as a vocabulary works with them: of one kind, flat, as arrays for the native map or as Python's objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot.keys.packing import KINDS, Array, Ids, Key, Kind, Mask, Packed, marked, pack, unpack

FLOATS = (
    "If each of them is a whole number, write np.asarray(keys).astype(np.int64); in pandas, .astype('Int64'), which keeps"
    " missing values."
)
"""What to do about floats."""


class Keys:
    """Some keys of one kind, of which some may be missing; made of arrays or of objects, and the other on demand."""

    def __init__(
        self, packed: Packed | None = None, objects: Sequence[Key | None] | None = None, kind: Kind | None = None
    ) -> None:
        self._packed, self._objects = packed, objects
        self.kind: Kind | None = kind if packed is None else KINDS[packed.kind]

    def __len__(self) -> int:
        if self._packed is None:
            return len(self._objects or ())
        return self._packed.length

    @property
    def packed(self) -> Packed:
        """Them as arrays."""
        if self._packed is None:
            self._packed = pack(self.objects, self.kind)
        return self._packed

    @property
    def objects(self) -> Sequence[Key | None]:
        """Them as Python's int, str or bytes, and None for a missing one."""
        if self._objects is None:
            assert self._packed is not None
            self._objects = unpack(self._packed)
        return self._objects

    @property
    def missing(self) -> Mask | None:
        """Which of them are missing, or None if none is."""
        if self._packed is not None:
            return self._packed.missing
        return marked([key is None for key in self.objects])

    def __getitem__(self, place: int) -> Key | None:
        if self._objects is not None:
            return self._objects[place]
        return self.take(np.array([place])).objects[0]

    def take(self, places: Ids) -> Keys:
        """Those at `places`."""
        if self._packed is None:
            objects = self.objects
            return Keys(objects=[objects[place] for place in places.tolist()], kind=self.kind)
        packed = self._packed
        large, missing = (None if mask is None else marked(mask[places]) for mask in (packed.large, packed.missing))
        if packed.offsets is None:
            return Keys(Packed(packed.kind, packed.data[places], None, large, missing))
        starts = packed.offsets[:-1][places].astype(np.int64)
        lengths = packed.offsets[1:][places] - starts
        offsets = np.zeros(len(places) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        within = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Keys(Packed(packed.kind, packed.data[within], offsets, large, missing))


class Column(NamedTuple):
    """A column as read: its keys, or the distinct ones that it uses, of which `take` names that of each place."""

    keys: Keys
    shape: tuple[int, ...]
    take: Ids | None = None
    firsts: Ids | None = None
    """The places at which each of `keys` is first used; rising."""

    def spread(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Values of the keys as those of the column, in its shape."""
        return (values if self.take is None else values[self.take]).reshape(self.shape)

    def where(self, place: int) -> str:
        """How an error names the place of one of `keys`."""
        return position(place if self.firsts is None else int(self.firsts[place]), self.shape)


def position(place: int, shape: tuple[int, ...]) -> str:
    """ " at position ...", in the words of errors; nothing for a key alone."""
    if not shape:
        return ""
    where = tuple(int(i) for i in np.unravel_index(place, shape))
    return f" at position {where[0] if len(where) == 1 else where}"


def as_column(keys: Keys) -> Column:
    """Flat keys as a column."""
    return Column(keys, (len(keys),))


def decoded(keys: Keys, absent: Mask | None, default: object, signs: tuple[bool, bool]) -> Array:
    """Keys as users get them: integers as int64 or uint64 if that holds all of such signs, all else as objects."""
    if keys.kind == "int" and absent is None and keys.missing is None and signs != (True, True):
        return keys.packed.data.view(np.uint64) if signs[1] else keys.packed.data
    made = np.empty(len(keys), object)
    made[:] = keys.objects
    if absent is not None:
        for place in np.flatnonzero(absent).tolist():
            made[place] = default
    return made
