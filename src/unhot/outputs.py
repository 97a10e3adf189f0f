"""Where the vectors of a lookup are written: to a new array, or to the caller's `out`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot import memory

Array = npt.NDArray[Any]


def new_output(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array, if there is memory for it."""
    memory.require(math.prod(shape) * dtype.itemsize, f"a result of shape {shape}")
    return np.empty(shape, dtype)


def as_output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], *read: Array | None) -> tuple[Array, Array]:
    """`out`, a writeable array of `shape` and `dtype`, or a new one if it is None; and what the kernels write.

    That is `out`, or a buffer for it where they cannot write it, or would overwrite what they read. Else an error.
    """
    if out is None:
        made = new_output(shape, dtype)
        return made, made
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        got = f"shape {out.shape}, dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"`out` must be a writeable array of shape {shape} and dtype {dtype}. Received: {got}.")
    shared = any(array is not None and np.may_share_memory(out, array) for array in read)
    direct = out.flags.c_contiguous and out.flags.aligned and not shared
    return out, out if direct else np.empty(shape, dtype)
