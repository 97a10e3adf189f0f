"""What is an id: any integer, of any shape; and what happens to one that lies outside the table."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

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
    array = as_plain(ids, name)
    if array.dtype.kind in "iu":
        return array
    if array.size == 0 and not isinstance(ids, np.ndarray):
        return array.astype(np.int64)
    # NumPy makes floats of a list that holds both small integers and some of 2**63 and more.
    objects = np.array(ids, dtype=object) if array.dtype.kind == "f" and not isinstance(ids, np.ndarray) else array
    if objects.dtype.kind == "O" and objects.size and all(_is_int(x) for x in objects.flat):
        return objects
    raise TypeError(
        f"`{name}` must be integers. Received: dtype {array.dtype}, shape {array.shape}. Booleans and floats are not row"
        " numbers; convert them yourself (e.g. ids.astype(np.int64)) if every value is one."
    )


def _is_int(x: object) -> bool:
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def in_range(ids: npt.NDArray[Any], rows: int, policy: OutOfRange) -> tuple[Ids, npt.NDArray[np.bool_] | None]:
    """The ids as a flat int64 array within [0, rows), and a mask of those that were not, or None.

    Under "raise" an id out of range is an IndexError; under a row number it becomes that row; under "zero" it becomes 0
    and is marked in the mask.
    """
    flat = for_kernels(ids).reshape(-1)
    wide = widened(flat)
    if flat.size == 0:
        return wide, None
    first = active.outside(wide, rows)
    if first < 0:
        return wide, None
    if policy == "raise":
        _raise(ids, flat, first, rows)
    bad = wide.view(np.uint64) >= rows  # as uint64 a negative id is larger than any row number
    wide = np.where(bad, policy if isinstance(policy, int) else 0, wide)
    return wide, bad if policy == "zero" else None


def widened(flat: npt.NDArray[Any]) -> Ids:
    """`flat` as int64; what that cannot hold becomes negative, and is as much out of range."""
    if flat.dtype == object:
        return np.array([int(x) if 0 <= x < 2**63 else -1 for x in flat], dtype=np.int64)
    return flat.view(np.int64) if flat.dtype == np.uint64 else flat.astype(np.int64, copy=False)


def _raise(ids: npt.NDArray[Any], flat: npt.NDArray[Any], first: int, rows: int) -> NoReturn:
    raise IndexError(
        f"id {int(flat[first])} at position {_position(first, ids.shape)} is out of range: the table has rows 0 to {rows - 1}"
        + (" (negative ids are not counted from the end)." if flat[first] < 0 else ".")
        + " Use a larger table, or out_of_range='zero' or a row number."
    )


def _position(index: int, shape: tuple[int, ...]) -> str:
    where = np.unravel_index(index, shape) if shape else ()
    return str(tuple(int(i) for i in where)) if len(where) != 1 else str(int(where[0]))
