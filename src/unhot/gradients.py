"""Checks of the gradients that come with a batch of ids."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from unhot.arraylike import IdsLike, RealsLike
from unhot.ids import OutOfRange, as_ids, as_plain, for_kernels, in_range, not_removed

Array = npt.NDArray[Any]


class Sized(Protocol):
    """What has to be known of a table."""

    @property
    def rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def out_of_range(self) -> OutOfRange: ...


def as_gradients(grads: RealsLike, wanted: tuple[int, ...], dtype: np.dtype[Any], named: str = "") -> Array:
    """Gradients of the wanted shape, as the kernels read them; else an error, in which `named` says what that shape is."""
    if type(grads) is np.ndarray and grads.dtype == dtype and grads.shape == wanted:
        flags = grads.flags
        if flags.c_contiguous and flags.aligned:
            return grads
    gradients = as_plain(grads, "grads")
    if gradients.dtype.kind != "f" and gradients.size:
        remedy = " Write np.asarray(grads, float)." if gradients.dtype.kind in "iu" else ""
        raise TypeError(f"`grads` must be real floating point numbers. Received: dtype {gradients.dtype}.{remedy}")
    if gradients.shape != wanted and (gradients.size or 0 not in wanted):
        raise ValueError(f"`grads` must have shape {named}{wanted}. Received: shape {gradients.shape}.")
    with np.errstate(over="ignore"):
        return for_kernels(gradients, dtype)


def with_gradients(
    table: Sized, ids: IdsLike, grads: RealsLike, removed: npt.NDArray[np.bool_] | None = None
) -> tuple[Array, Array]:
    """The flat ids that lie in `table`, and their gradients, (n, dim) in its dtype; `removed` marks rows that it has not."""
    array, dim, policy = as_ids(ids), table.dim, table.out_of_range
    gradients = as_gradients(grads, (*array.shape, dim), table.dtype, "ids.shape + (dim,) = ").reshape(-1, dim)
    flat, zero = in_range(array, table.rows, policy, whose=getattr(table, "name", ""))
    if removed is not None:
        flat, zero = not_removed(flat, zero, removed, array.shape, policy)
    return (flat, gradients) if zero is None else (flat[~zero], gradients[~zero])
