"""Arrays that begin at a cache line.

NumPy's begin anywhere: a row of 256 bytes then lies on five cache lines, and a lookup reads all five.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LINE = 64


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of zeros, whose memory the system gives only once it is used."""
    return _within(np.zeros(_room(shape, dtype), np.uint8), shape, dtype)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return _within(np.empty(_room(shape, dtype), np.uint8), shape, dtype)


def full(shape: tuple[int, ...], dtype: np.dtype[Any], value: float) -> Array:
    """An array of `value`; lazily, as `zeros`, where that is 0."""
    if value == 0:
        return zeros(shape, dtype)
    array = empty(shape, dtype)
    array.fill(value)
    return array


def copied(given: npt.ArrayLike, dtype: np.dtype[Any]) -> Array:
    """A copy of `given` as an array of `dtype`."""
    source = np.asarray(given)
    array = empty(source.shape, dtype)
    np.copyto(array, source, casting="unsafe")
    return array


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize + LINE


def _within(room: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The array at the first cache line in `room`."""
    first = -room.ctypes.data % LINE
    return room[first : first + len(room) - LINE].view(dtype).reshape(shape)
