"""Where the vectors of a lookup are written: to a new array, or to the caller's `out`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot import memory

Array = npt.NDArray[Any]


def as_output(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """`out` if it is a writeable array of `shape` and `dtype`, else an error; a new array if it is None."""
    if out is None:
        memory.require(math.prod(shape) * dtype.itemsize, f"a result of shape {shape}")
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype or not out.flags.writeable:
        got = f"shape {out.shape}, dtype {out.dtype}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ValueError(f"`out` must be a writeable array of shape {shape} and dtype {dtype}. Received: {got}.")
    return out


def target_of(out: Array, *read: Array | None) -> Array:
    """What the kernels write: `out`, or a buffer for it where they cannot, or would overwrite what they read."""
    shared = any(array is not None and np.may_share_memory(out, array) for array in read)
    direct = out.flags.c_contiguous and out.flags.aligned and not shared
    return out if direct else np.empty(out.shape, out.dtype)
