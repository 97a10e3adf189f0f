"""Keys as a vocabulary works with them: of one kind, flat, as arrays for the native map or as Python's objects."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

Key: TypeAlias = int | str | bytes
Kind: TypeAlias = Literal["int", "str", "bytes"]

KINDS: tuple[Kind | None, ...] = (None, "int", "str", "bytes")
"""By their numbers in the native map. None is that of keys all of which are missing."""

LARGE = 1 << 63
"""Integers from here on lie outside of int64."""

FLOATS = "If each of them is a whole number, write np.asarray(keys).astype(np.int64), or .astype('Int64') in pandas."
"""What to do about floats."""


class Packed(NamedTuple):
    """Keys as arrays.

    `data` holds integers as int64, those of 2**63 and more less 2**64 and marked in `large`; or the bytes of all texts one
    after the other, UTF-8 for str, as uint8. Then `offsets`, int32 or int64, says where each begins, and where the last ends.
    Masks are None where nothing is marked.
    """

    kind: int
    data: Array
    offsets: Array | None = None
    large: Mask | None = None
    missing: Mask | None = None


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
        return len(self._packed.data) if self._packed.offsets is None else len(self._packed.offsets) - 1

    @property
    def packed(self) -> Packed:
        """Them as arrays."""
        if self._packed is None:
            self._packed = _pack(self.objects, self.kind)
        return self._packed

    @property
    def objects(self) -> Sequence[Key | None]:
        """Them as Python's int, str or bytes, and None for a missing one."""
        if self._objects is None:
            assert self._packed is not None
            self._objects = unpacked(self._packed)
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


def marked(mask: Sequence[bool] | Mask) -> Mask | None:
    """The mask, or None if it marks nothing."""
    array = np.asarray(mask, np.bool_)
    return array if array.any() else None


def of_integers(flat: npt.NDArray[Any], missing: Mask | None = None) -> Packed:
    """A flat array of integers of any integer dtype, packed."""
    if flat.dtype.kind == "u" and flat.dtype.itemsize == 8:
        data = np.ascontiguousarray(flat, np.uint64)
        return Packed(1, data.view(np.int64), None, marked(data >= LARGE), missing)
    return Packed(1, np.ascontiguousarray(flat, np.int64), None, None, missing)


def is_text(key: str) -> bool:
    """Whether UTF-8 can hold it: not with a surrogate, half of a character."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pack(objects: Sequence[Key | None], kind: Kind | None) -> Packed:
    missing = marked([key is None for key in objects])
    number = KINDS.index(kind)
    if kind == "int":
        integers = [key if isinstance(key, int) else 0 for key in objects]
        large = marked([key >= LARGE for key in integers])
        data = np.array([key - 2 * LARGE if key >= LARGE else key for key in integers], np.int64)
        return Packed(number, data, None, large, missing)
    texts = [key.encode() if isinstance(key, str) else key if isinstance(key, bytes) else b"" for key in objects]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=offsets[1:])
    return Packed(number, np.frombuffer(b"".join(texts), np.uint8), offsets, None, missing)


def unpacked(packed: Packed) -> list[Key | None]:
    """The keys of the arrays, as Python's objects."""
    objects: list[Key | None]
    if packed.offsets is None:
        integers = packed.data.tolist()
        if packed.large is not None:
            for place in np.flatnonzero(packed.large).tolist():
                integers[place] += 2 * LARGE
        objects = integers
    else:
        whole, offsets = packed.data.tobytes(), packed.offsets.tolist()
        texts = [whole[start:end] for start, end in pairwise(offsets)]
        # Bytes that are no UTF-8 become surrogates, which no key has.
        objects = [text.decode(errors="surrogateescape") for text in texts] if KINDS[packed.kind] == "str" else list(texts)
    if packed.missing is not None:
        for place in np.flatnonzero(packed.missing).tolist():
            objects[place] = None
    return objects


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
