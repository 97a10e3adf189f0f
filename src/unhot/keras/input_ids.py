"""The ids that a layer is given: checked where they are known, and never another row's where they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from unhot.ids import OutOfRange, in_range

EXACT = {"float16": 2**11, "bfloat16": 2**8, "float32": 2**24, "float64": 2**53}
"""Up to here, a float dtype holds every integer."""


def require_exact(ids: Any, layer: Any) -> None:
    """Refuse dtypes that are no ids, and floats that cannot hold the number of every row."""
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if dtype == "bool" or dtype == "string":
        raise TypeError(f"the ids of layer '{layer.name}' must be integers. Received: dtype {dtype}. Convert them first.")
    if layer.input_dim > EXACT.get(dtype, layer.input_dim):
        raise TypeError(
            f"the ids of layer '{layer.name}' come as {dtype}, which holds every integer up to {EXACT[dtype]:,} only."
            f" Received: input_dim={layer.input_dim:,}. Let them come as integers: keras.Input(..., dtype='int32'), or"
            " an InputLayer with that dtype as the first of a Sequential."
        )


def representable(ids: Any, rows: int, policy: OutOfRange) -> Any:
    """Ids that Keras is about to convert, which on some backends keeps the last 32 bits: those beyond become out of range."""
    if isinstance(ids, (list, tuple, int, float, np.generic)) and not _holds_tensors(ids):
        ids = np.asarray(ids)
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iuf" or not ids.size:
        return ids
    if ids.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            bad = ~((ids >= 0) & (ids < rows) & (ids == np.floor(ids)))
        return _without(ids, bad, policy, rows) if bad.any() else ids
    if ids.dtype.itemsize <= 2 or (ids.dtype.itemsize == 4 and ids.dtype.kind == "i"):
        return ids
    bad = (ids < 0) | (ids >= rows)
    return _without(ids, bad, policy, rows) if bad.any() else ids


def _holds_tensors(ids: Any) -> bool:
    return isinstance(ids, (list, tuple)) and any(_holds_tensors(i) or hasattr(i, "dtype") for i in ids)


def _without(ids: Any, bad: Any, policy: OutOfRange, rows: int) -> Any:
    if policy == "raise":
        _refuse(ids, bad, rows)
    return np.where(bad, -1, ids).astype(np.int64 if rows > 2**31 else np.int32)


def _refuse(ids: Any, bad: Any, rows: int) -> None:
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    if ids.dtype.kind == "f" and ids[first] != np.floor(ids[first]):
        raise IndexError(f"id {ids[first]} at position {first} is not an integer, and no row's number.")
    in_range(np.where(np.abs(ids) < 2**62, ids, -1).astype(np.int64) if ids.dtype.kind == "f" else ids, rows, "raise")


def checked(ids: Any, rows: int, policy: OutOfRange, concrete: Callable[[Any], Any]) -> tuple[Any, Any]:
    """The ids as integers within the table; and a mask of those that were not, unless they now stand for another row.

    Errors: IndexError for an id out of range that is known now, where the policy is to raise it.
    """
    known = concrete(ids)
    if known is not None:
        with np.errstate(invalid="ignore"):
            bad = ~((known >= 0) & (known < rows))
            if known.dtype.kind == "f":
                bad |= known != np.floor(known)
        if not bad.any():
            return _integers(ids), None
        if policy == "raise":
            _refuse(known, bad, rows)
    outside = ops.logical_not(ops.logical_and(ids >= 0, ids < rows))
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(ids.dtype)):
        outside = ops.logical_or(outside, ops.not_equal(ids, ops.floor(ids)))
    instead = policy if isinstance(policy, int) else 0
    within = ops.where(outside, ops.cast(instead, ids.dtype), ids)
    return _integers(within), None if isinstance(policy, int) else outside


def _integers(ids: Any) -> Any:
    dtype = keras.backend.standardize_dtype(ids.dtype)
    return ids if dtype in ("int32", "int64") else ops.cast(ids, "int64" if dtype in ("uint32", "uint64") else "int32")
