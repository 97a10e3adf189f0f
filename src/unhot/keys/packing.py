"""Keys as arrays, as the native map takes them, and lists of Python's objects as such arrays and back."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from unhot import kernels

Array = npt.NDArray[Any]
Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

Key: TypeAlias = int | str | bytes
Kind: TypeAlias = Literal["int", "str", "bytes"]

KINDS: tuple[Kind | None, ...] = (None, "int", "str", "bytes")
"""By their numbers in the native map. None is that of keys all of which are missing."""

LARGE = 1 << 63
"""Integers from here on lie outside of int64."""

NATIVE: ModuleType | None = None if kernels.name == "numpy" else import_module("unhot._native")
"""What packs and unpacks quickly, if it is there."""


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

    @property
    def length(self) -> int:
        """The number of keys."""
        return len(self.data) if self.offsets is None else len(self.offsets) - 1


def marked(mask: Sequence[bool] | Mask) -> Mask | None:
    """The mask, or None if it marks nothing."""
    array = np.asarray(mask, np.bool_)
    return array if array.any() else None


def typed(packed: Packed) -> Packed:
    """The same, without a kind where all keys are missing, or where there is none."""
    if packed.kind == 0 or (packed.length and (packed.missing is None or not packed.missing.all())):
        return packed
    return Packed(0, np.empty(0, np.uint8), np.zeros(packed.length + 1, np.int64), None, packed.missing)


def of_integers(flat: npt.NDArray[Any], missing: Mask | None = None) -> Packed:
    """A flat array of integers of any integer dtype, packed."""
    if flat.dtype.kind == "u" and flat.dtype.itemsize == 8:
        data = np.ascontiguousarray(flat, np.uint64)
        return typed(Packed(1, data.view(np.int64), None, marked(data >= LARGE), missing))
    return typed(Packed(1, np.ascontiguousarray(flat, np.int64), None, None, missing))


def is_text(key: str) -> bool:
    """Whether UTF-8 can hold it: not with a surrogate, half of a character."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return True


def missing_values() -> list[object]:
    """NumPy's masked entry and pandas' own missing values, if they are loaded: nobody can have one otherwise."""
    masked, pandas = sys.modules.get("numpy.ma"), sys.modules.get("pandas")
    found = (getattr(masked, "masked", None), getattr(pandas, "NA", None), getattr(pandas, "NaT", None))
    return [value for value in found if value is not None]


def pack_quickly(values: list[Any] | Array) -> Packed | None:
    """The objects of a list or a flat array; None if Python has to look at them, since one may be no key."""
    packed = None if NATIVE is None else NATIVE.pack(values, missing_values())
    return None if packed is None else Packed(*packed)


def pack(objects: Sequence[Key | None], kind: Kind | None) -> Packed:
    """Keys of one kind, and None for missing ones, as arrays."""
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


def unpack(packed: Packed) -> list[Key | None]:
    """The keys of the arrays, as Python's objects."""
    objects: list[Key | None]
    if NATIVE is not None:
        objects = NATIVE.unpack(packed)
        return objects
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
