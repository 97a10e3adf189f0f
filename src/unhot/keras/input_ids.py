"""Checks of the ids that a Keras layer is given: errors where they are known, and never another row where they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import keras
import numpy as np
from keras import ops

from unhot.ids import LARGER, OutOfRange, as_ids, as_plain, in_range, no_integers, no_row, refuse_booleans, widened
from unhot.keras.kinds import Tensor

EXACT = {"float16": 2**11, "bfloat16": 2**8, "float32": 2**24, "float64": 2**53}
"""Up to here, a float dtype holds every integer."""


def require_exact(ids: Tensor, layer: Tensor) -> None:
    """Refuse dtypes that are no ids, and floats that cannot hold the number of every row."""
    if not hasattr(ids, "dtype"):
        raise TypeError(f"the ids of layer '{layer.name}' must be one array or tensor. Received: {type(ids).__name__}.")
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if dtype not in EXACT and not keras.backend.is_int_dtype(dtype):
        raise no_integers(f"the ids of layer '{layer.name}'", f"dtype {dtype}", "Convert them first.")
    if layer.input_dim > EXACT.get(dtype, layer.input_dim):
        raise TypeError(
            f"the ids of layer '{layer.name}' come as {dtype}, which holds every integer up to {EXACT[dtype]:,} only."
            f" Received: input_dim={layer.input_dim:,}. Let them come as integers: keras.Input(..., dtype='int32'), also as the"
            " first of a Sequential, which else makes an input of the dtype that its first layer computes in."
        )


def as_tensor(given: Tensor) -> Tensor:
    """An array as the backend's tensor, and anything else as it is."""
    if not hasattr(given, "__array__") or ops.is_tensor(given) or isinstance(given, keras.KerasTensor):
        return given
    return ops.convert_to_tensor(given)


def representable(ids: Tensor, rows: int, policy: OutOfRange) -> Tensor:
    """Ids that Keras is about to convert, which on some backends keeps the last 32 bits: those beyond become out of range."""
    if _holds_tensors(ids) or not (isinstance(ids, (list, tuple, int, float)) or hasattr(ids, "__array__")):
        return ids
    array = as_plain(ids, "ids")  # also of what is neither NumPy's nor the backend's, such as a column of a data frame
    if not array.size and (array.dtype.kind in "iu" or not isinstance(ids, np.ndarray)):  # NumPy makes floats of []
        return array.astype(np.int32)
    if not array.size or array.dtype.kind == "V":  # V: bfloat16, which no backend shortens
        return array
    if array.dtype.kind in "iuf":
        refuse_booleans(ids, array, "ids")
    ids = array if array.dtype.kind in "iuf" else as_ids(array)  # Python's integers, or an error
    if (ids.dtype.kind in "iu" and ids.dtype.itemsize <= 2) or ids.dtype == np.int32:
        return ids
    bad = _not_rows(widened(ids.reshape(-1)).reshape(ids.shape) if ids.dtype == object else ids, rows)
    if bad is None:
        return ids.astype(np.int64) if ids.dtype.kind in "uO" else ids  # PyTorch has no uint64
    if policy == "raise":
        _refuse(ids, bad, rows)
    return np.where(bad, -1, ids).astype(np.int64 if rows > 2**31 else np.int32)


def _holds_tensors(ids: Tensor) -> bool:
    if isinstance(ids, (list, tuple)):
        return any(_holds_tensors(i) for i in ids)
    return ops.is_tensor(ids) or isinstance(ids, (keras.Variable, keras.KerasTensor))


def _not_rows(ids: Tensor, rows: int) -> Tensor:
    """A mask of the ids that are no rows' numbers, or None if all are."""
    if ids.dtype.kind in "iu":
        bad = in_range(ids, rows, "zero")[1]  # takes a kernel, and less time than the comparisons below
        return None if bad is None else bad.reshape(ids.shape)
    with np.errstate(invalid="ignore"):
        bad = ~((ids >= 0) & (ids < rows) & (ids == np.floor(ids)))
    return bad if bad.any() else None


def _refuse(ids: Tensor, bad: Tensor, rows: int) -> NoReturn:
    first = tuple(int(i) for i in np.argwhere(bad)[0])
    fraction = ids.dtype.kind == "f" and ids[first] != np.floor(ids[first])
    raise no_row(ids[first], first, rows, LARGER, "is not an integer, and no row's number" if fraction else "is out of range")


def checked(ids: Tensor, rows: int, policy: OutOfRange, concrete: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """The ids as integers within the table; and a mask of those that were not, unless they now stand for another row.

    Raises: IndexError for an id out of range that is known now, where the policy is to raise it.
    """
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if dtype in ("float16", "bfloat16"):
        dtype, ids = "float32", ops.cast(ids, "float32")
    known = concrete(ids)
    if known is not None:
        bad = _not_rows(known, rows)
        if bad is None:
            return _integers(ids, rows), None
        if policy == "raise":
            _refuse(known, bad, rows)
    if dtype in EXACT:
        whole, last = ops.equal(ids, ops.floor(ids)), rows - 1
        within = ops.logical_and(whole, ops.logical_and(ids >= 0, ids <= last))
    else:
        ids = _integers(ids, rows)  # first: a comparison would take the number of rows for one of a small dtype
        last = min(rows, 2**31) - 1 if keras.backend.standardize_dtype(ids.dtype) == "int32" else rows - 1
        within = ops.logical_and(ids >= 0, ids <= last)
    instead = policy if isinstance(policy, int) else 0
    ids = _integers(ops.where(within, ids, ops.cast(instead, ids.dtype)), rows)
    return ids, None if isinstance(policy, int) else ops.logical_not(within)


def _integers(ids: Tensor, rows: int) -> Tensor:
    """As int32 or int64; what those cannot hold becomes negative."""
    dtype = keras.backend.standardize_dtype(ids.dtype)
    if dtype in ("int32", "int64"):
        return ids
    wide = dtype == "uint64" or (rows > 2**31 and dtype in ("uint32", "float64"))
    return ops.cast(ids, "int64" if wide else "int32")
