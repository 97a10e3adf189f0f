"""Checks of the arguments of pooled lookups: bags of ids, and sparse matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.arraylike import IdsLike, RealsLike
from unhot.ids import as_ids, as_plain, for_kernels, widened

Array = npt.NDArray[Any]


def as_bags(
    ids: Array, offsets: IdsLike | None, weights: RealsLike | None, mode: str, dtype: np.dtype[Any]
) -> tuple[Array, Array | None]:
    """Where each bag starts among the flat ids, with their number at the end, and the flat weights."""
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"`mode` must be 'sum', 'mean' or 'max'. Received: {mode!r}.")
    if offsets is None:
        if ids.ndim != 2:
            raise ValueError(f"`ids` must be (bags, length), or flat with `offsets`. Received: shape {ids.shape}.")
        starts = np.arange(ids.shape[0] + 1, dtype=np.int64) * ids.shape[1]
    else:
        starts = _starts(ids, as_ids(offsets, "offsets"))
    if weights is None:
        return starts, None
    factors = as_plain(weights, "weights")
    if mode == "max":
        raise ValueError("`weights` do not go with mode='max'. Use 'sum' or 'mean', or leave them out.")
    if factors.dtype.kind not in "fiu" or factors.shape != ids.shape:
        raise ValueError(
            f"`weights` must be real numbers of the shape of the ids, {ids.shape}. Received: shape {factors.shape}, dtype"
            f" {factors.dtype}."
        )
    return starts, for_kernels(factors, np.float64).reshape(-1)


def _starts(ids: Array, offsets: Array) -> Array:
    if ids.ndim != 1 or offsets.ndim != 1:
        raise ValueError(f"`offsets` go with flat ids and are flat. Received: shapes {offsets.shape} and {ids.shape}.")
    if len(offsets) == 0:
        if len(ids):
            raise ValueError(f"`offsets` is empty, so no bag holds the {len(ids)} ids. Begin with the offset 0.")
        return np.zeros(1, np.int64)
    starts = np.append(widened(offsets), len(ids))
    if starts[0] != 0 or (starts[1:] < starts[:-1]).any():  # differences could overflow
        raise ValueError(
            f"`offsets` must begin with 0, never fall, and end at or before the number of ids, {len(ids)}. Received: {offsets}."
        )
    return starts


def as_sparse(x: Any, rows: int, dtype: np.dtype[Any]) -> tuple[Array, Array, Array]:
    """The rows of a (n, rows) matrix as (starts, columns, values), without its zeros."""
    if hasattr(x, "tocsr"):
        x = x.tocsr()
        _check_matrix(x.shape, x.data.dtype, rows)
        return _without_zeros(*_csr(x))
    dense = as_plain(x, "x")
    _check_matrix(dense.shape, dense.dtype, rows)
    row, columns = np.nonzero(dense)
    starts = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(dense)))]).astype(np.int64)
    return starts, for_kernels(columns), dense[row, columns].astype(np.float64)


def _csr(x: Any) -> tuple[Array, Array, Array]:
    """The arrays of a SciPy CSR matrix, whose indices SciPy has not checked."""
    starts, columns, values = for_kernels(x.indptr, np.int64), for_kernels(x.indices, np.int64), for_kernels(x.data, np.float64)
    count = min(len(columns), len(values))
    if len(starts) != x.shape[0] + 1 or starts[0] != 0 or (starts[1:] < starts[:-1]).any() or starts[-1] > count:
        raise ValueError(f"`x` is not a CSR matrix: its indptr must rise from 0 to at most {count}. Received: {starts}.")
    columns, values = columns[: starts[-1]], values[: starts[-1]]
    bad = (columns < 0) | (columns >= x.shape[1])
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"`x` is not a CSR matrix: its entry {first} is in column {columns[first]} of {x.shape[1]}.")
    return starts, columns, values


def _without_zeros(starts: Array, columns: Array, values: Array) -> tuple[Array, Array, Array]:
    if values.all():
        return starts, columns, values
    kept = values != 0
    return np.concatenate([[0], np.cumsum(kept)])[starts], columns[kept], values[kept]


def _check_matrix(shape: tuple[int, ...], dtype: Any, rows: int) -> None:
    if len(shape) != 2 or shape[1] != rows:
        raise ValueError(f"`x` must have shape (n, {rows}), one column for each row of the table. Received: shape {shape}.")
    if np.dtype(dtype).kind not in "fiub":
        raise TypeError(f"`x` must be real numbers. Received: dtype {dtype}.")
