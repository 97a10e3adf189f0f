"""What are the gradients of some ids: checks and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unhot.arraylike import IdsLike, RealsLike
from unhot.ids import as_ids, as_plain, for_kernels, in_range

if TYPE_CHECKING:
    from unhot.table import Table

Array = npt.NDArray[Any]


def with_gradients(table: Table, ids: IdsLike, grads: RealsLike) -> tuple[Array, Array]:
    """The flat ids that lie in `table`, and their gradients, (n, dim) in its dtype."""
    array = as_ids(ids)
    gradients = as_plain(grads, "grads")
    if gradients.dtype.kind != "f" and gradients.size:
        raise TypeError(f"`grads` must be real floating point numbers. Received: dtype {gradients.dtype}.")
    wanted = (*array.shape, table.dim)
    if gradients.shape != wanted and (gradients.size or array.size):
        raise ValueError(f"`grads` must have shape ids.shape + (dim,) = {wanted}. Received: shape {gradients.shape}.")
    flat, zero = in_range(array, table.rows, table.out_of_range)
    with np.errstate(over="ignore"):
        gradients = for_kernels(gradients, table.dtype).reshape(-1, table.dim)
    return (flat, gradients) if zero is None else (flat[~zero], gradients[~zero])
