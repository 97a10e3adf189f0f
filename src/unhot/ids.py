"""Checks of ids, which are integers of any shape; what happens to one outside the table; and the errors of all front ends."""

from __future__ import annotations

import array as typed_arrays
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unhot.kernels import active

Ids = npt.NDArray[np.int64]
OutOfRange = Literal["raise", "zero"] | int


def check_policy(out_of_range: Any, rows: int) -> OutOfRange:
    """`out_of_range` if it is "raise", "zero" or a row number; else an error."""
    if isinstance(out_of_range, str) and out_of_range in ("raise", "zero"):
        return "raise" if out_of_range == "raise" else "zero"
    if isinstance(out_of_range, (int, np.integer)) and not isinstance(out_of_range, bool) and 0 <= out_of_range < rows:
        return int(out_of_range)
    raise ValueError(f"`out_of_range` must be 'raise', 'zero' or a row number in [0, {rows}). Received: {out_of_range!r}.")


def as_plain(value: Any, name: str) -> npt.NDArray[Any]:
    """`value` as an array, without a subclass's meaning; ragged lists and masked entries are refused."""
    if isinstance(value, np.ndarray):
        if type(value) is not np.ndarray and np.any(getattr(value, "mask", False)):
            raise TypeError(f"`{name}` has masked entries, which are no values. Leave them out, or use its `filled(...)`.")
        return np.asarray(value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"`{name}` must be one rectangular array; its nested lists have unequal lengths. NumPy says: {error}"
        ) from error


def for_kernels(array: npt.NDArray[Any], dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """`array` as the kernels read it: of `dtype`, contiguous and aligned; itself if it is so already."""
    contiguous = np.ascontiguousarray(array, dtype=dtype)
    return contiguous if contiguous.flags.aligned else contiguous.copy()


def as_ids(ids: Any, name: str = "ids") -> npt.NDArray[Any]:
    """`ids` as an array of integers; floats, booleans and anything else are refused, never truncated.

    Its dtype is an integer one, or object where they are Python integers that no such dtype holds.
    """
    if type(ids) is np.ndarray and ids.dtype.kind in "iu":
        return ids
    array = as_plain(ids, name)
    if array.dtype.kind in "iu":
        refuse_booleans(ids, array, name)
        return array
    if array.size == 0 and not isinstance(ids, np.ndarray):
        return array.astype(np.int64)
    # NumPy makes floats of a list that holds both small integers and some of 2**63 and more.
    objects = np.array(ids, dtype=object) if array.dtype.kind == "f" and not isinstance(ids, np.ndarray) else array
    if objects.dtype.kind == "O" and objects.size and all(_is_int(x) for x in objects.flat):
        return objects
    received = f"dtype {array.dtype}, shape {array.shape}"
    raise no_integers(f"`{name}`", received, _remedy(array.reshape(-1), name))


def no_integers(what: str, received: str, remedy: str) -> TypeError:
    """The error for ids that are not integers: what they are called, what came instead, and what to do."""
    return TypeError(f"{what} must be integers. Received: {received}. {remedy}")


def _remedy(values: npt.NDArray[Any], name: str) -> str:
    """What to do with values that are no row numbers."""
    kind = values.dtype.kind
    if kind in "US" or (kind == "O" and any(isinstance(x, (str, bytes)) for x in values)):
        return (
            "Number the strings from 0 on: `vocabulary = unhot.Vocabulary().fit(strings)`, and then"
            " `ids = vocabulary.encode(strings)`. Where there is an embedding of strings, its `encode` gives their rows."
        )
    if kind == "b" or (kind == "O" and any(isinstance(x, (bool, np.bool_)) for x in values)):
        return MASKS
    if kind == "f":
        return f"If each of them is a whole number, write np.asarray({name}).astype(np.int64)."
    return ANY_INTEGERS


ANY_INTEGERS = "Row numbers are integers, of any integer dtype."
MASKS = "Booleans are not row numbers; np.flatnonzero(mask) gives the numbers of the rows that a mask marks."

LONG = 256
"""Ids from which on NumPy finds those that may be booleans sooner than Python looks at all of them."""

TYPED = (range, memoryview, typed_arrays.array)
"""Sequences whose elements are of one type, which NumPy knows."""


def refuse_booleans(ids: Any, array: npt.NDArray[Any], name: str) -> None:
    """Raise TypeError for a boolean among the numbers of a list, of which NumPy has made `array`.

    A boolean counts as 0 or 1 there, so in a long list only those places are looked at, unless they are many.
    """
    if not array.ndim or not _is_sequence(ids):
        return
    if array.size > LONG:
        small = (array == 0) | (array == 1)
        share = np.count_nonzero(small) / array.size
        if array.ndim == 1 and share < 0.5:
            ids = list(map(ids.__getitem__, np.flatnonzero(small).tolist()))
        elif share < 0.125:
            places = zip(*(axis.tolist() for axis in np.nonzero(small)), strict=True)
            ids = [_element(ids, place) for place in places]
    if _holds_booleans(ids):
        raise no_integers(f"`{name}`", f"a boolean among them, shape {array.shape}", MASKS)


def _is_sequence(x: Any) -> bool:
    if type(x) is np.ndarray:
        return False
    return type(x) is list or (isinstance(x, Sequence) and not isinstance(x, TYPED) and not hasattr(x, "__array__"))


def _element(ids: Any, place: Iterable[int]) -> Any:
    """What stands at a place of nested sequences: a number, or an array that holds the place."""
    for index in place:
        if not _is_sequence(ids):
            break
        ids = ids[index]
    return ids


def _holds_booleans(values: Any) -> bool:
    """Whether a boolean is among the elements of nested sequences and arrays."""
    kinds = set(map(type, values))
    if bool in kinds or np.bool_ in kinds:
        return True
    if all(issubclass(kind, (int, float, np.number)) for kind in kinds):
        return False
    if all(issubclass(kind, (list, tuple)) for kind in kinds):
        return _holds_booleans(list(chain.from_iterable(values)))
    return any(_holds_booleans(x) if _is_sequence(x) else np.asarray(x).dtype.kind == "b" for x in values)


def _is_int(x: object) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


LARGER = "Use a larger table, or out_of_range='zero' or a row number."
"""What to do about ids out of range, where the table has that policy."""


def in_range(
    ids: npt.NDArray[Any], rows: int, policy: OutOfRange, remedy: str = LARGER, whose: str = ""
) -> tuple[Ids, npt.NDArray[np.bool_] | None]:
    """The ids as a flat int64 array within [0, rows), and a mask of those that were not, or None.

    Under "raise" an id out of range is an IndexError, which names what the ids are those of, `whose`, if they have a name, and
    ends with that remedy; under a row number it becomes that row; under "zero" it becomes 0 and is marked in the mask.
    """
    if ids.dtype == np.int64:  # of whose values whoever holds them may change some between this check and the kernels
        flat = wide = ids.flatten()  # a copy
    else:
        flat = for_kernels(ids).reshape(-1)
        wide = widened(flat)
        if np.may_share_memory(wide, ids):
            wide = wide.copy()
    if flat.size == 0:
        return wide, None
    first = active.outside(wide, rows)
    if first < 0:
        return wide, None
    if policy == "raise":
        place = np.unravel_index(first, ids.shape) if ids.shape else ()
        raise no_row(int(flat[first]), place, rows, remedy, whose=whose)
    bad = wide.view(np.uint64) >= rows  # as uint64 a negative id is larger than any row number
    wide = np.where(bad, policy if isinstance(policy, int) else 0, wide)
    return wide, bad if policy == "zero" else None


def not_removed(
    flat: Ids,
    zero: npt.NDArray[np.bool_] | None,
    removed: npt.NDArray[np.bool_] | None,
    shape: tuple[int, ...],
    policy: OutOfRange,
) -> tuple[Ids, npt.NDArray[np.bool_] | None]:
    """What `in_range` gave, with the ids of removed rows treated as those out of range are; `removed` marks the rows."""
    if removed is None:
        return flat, zero
    bad = removed[flat] if zero is None else removed[flat] & ~zero
    if not bad.any():
        return flat, zero
    if policy == "raise":
        first = int(np.argmax(bad))
        place = np.unravel_index(first, shape) if shape else ()
        raise no_row(int(flat[first]), place, len(removed), "`grow` gives its number to a new row.", "is that of a removed row")
    flat = np.where(bad, policy if isinstance(policy, int) else 0, flat)
    if policy != "zero":
        return flat, zero
    return flat, bad if zero is None else bad | zero


def widened(flat: npt.NDArray[Any]) -> Ids:
    """`flat` as int64; what that cannot hold becomes negative, and is as much out of range."""
    if flat.dtype == object:
        return np.array([int(x) if 0 <= x < 2**63 else -1 for x in flat], dtype=np.int64)
    return flat.view(np.int64) if flat.dtype == np.uint64 else flat.astype(np.int64, copy=False)


def no_row(
    number: float, place: Iterable[Any] | None, rows: int, remedy: str, why: str = "is out of range", whose: str = ""
) -> IndexError:
    """The error for an id that is no row's number; `place` is where it stands among the ids, if that is known."""
    which = f"id {number} of {whose!r}" if whose else f"id {number}"
    if place is not None and (where := tuple(int(i) for i in place)):
        which = f"{which} at position {where[0] if len(where) == 1 else where}"
    return IndexError(
        f"{which} {why}: the table has rows 0 to {rows - 1}"
        + (" (negative ids are not counted from the end)." if number < 0 else ".")
        + (f" {remedy}" if remedy else "")
    )
