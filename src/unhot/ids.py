"""What is an id: any integer, of any shape; and what happens to one that lies outside the table."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
OutOfRange = Literal["raise", "zero"] | int


def check_policy(out_of_range: Any, rows: int) -> OutOfRange:
    """`out_of_range` if it is "raise", "zero" or a row number; else an error."""
    if isinstance(out_of_range, str) and out_of_range in ("raise", "zero"):
        return "raise" if out_of_range == "raise" else "zero"
    if isinstance(out_of_range, (int, np.integer)) and not isinstance(out_of_range, bool) and 0 <= out_of_range < rows:
        return int(out_of_range)
    raise ValueError(
        f"`out_of_range` must be 'raise', 'zero' or a row number in [0, {rows}). Received: {out_of_range!r}."
    )


def as_ids(ids: Any, name: str = "ids") -> npt.NDArray[Any]:
    """`ids` as an integer array; floats, booleans and anything else are refused, never truncated."""
    array = ids if isinstance(ids, np.ndarray) else np.asarray(ids)
    if array.dtype.kind in "iu":
        return array
    if array.size == 0 and not isinstance(ids, np.ndarray):
        return array.astype(np.int64)
    if array.dtype.kind == "O" and array.size and all(_is_int(x) for x in array.flat):
        too_large = next(i for i, x in enumerate(array.flat) if not -(2**63) <= int(x) < 2**64)
        raise IndexError(
            f"`{name}` holds an integer that no row number can be: {array.flat[too_large]!r} at position"
            f" {_position(too_large, array.shape)}."
        )
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
    flat = np.ascontiguousarray(ids).reshape(-1)
    if flat.size == 0:
        return flat.astype(np.int64), None
    # As uint64 a negative id is larger than any row number, so one comparison finds both kinds.
    if flat.dtype != np.int64:
        wide = flat.astype(np.int64) if flat.dtype != np.uint64 else flat.view(np.int64)
    else:
        wide = flat
    if int(wide.view(np.uint64).max()) < rows:
        return wide, None
    bad = wide.view(np.uint64) >= rows
    if policy == "raise":
        _raise(ids, flat, int(np.argmax(bad)), rows)
    wide = np.where(bad, policy if isinstance(policy, int) else 0, wide)
    return wide, bad if policy == "zero" else None


def _raise(ids: npt.NDArray[Any], flat: npt.NDArray[Any], first: int, rows: int) -> NoReturn:
    raise IndexError(
        f"id {int(flat[first])} at position {_position(first, ids.shape)} is out of range: the table has rows 0 to {rows - 1}"
        + (" (negative ids are not counted from the end)." if flat[first] < 0 else ".")
        + " Use a larger table, or out_of_range='zero' or a row number."
    )


def _position(index: int, shape: tuple[int, ...]) -> str:
    where = np.unravel_index(index, shape) if shape else ()
    return str(tuple(int(i) for i in where)) if len(where) != 1 else str(int(where[0]))
