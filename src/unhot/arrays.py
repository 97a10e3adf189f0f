"""How arrays are allocated: they begin at a cache line, and large ones lie in large pages.

NumPy's begin anywhere: a row of 256 bytes then lies on five cache lines, and a lookup reads all five.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LINE = 64
PAGE = 4096

LARGE = 1 << 22
"""Bytes from which NumPy asks for large pages."""

MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""For memory that is not counted before it is used."""

MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25
"""For the future, and (from Linux 6.1 on) at once."""


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of zeros, whose memory the system gives only once it is used."""
    return _within(np.zeros(_room(shape, dtype), np.uint8), shape, dtype)


def reserved(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of zeros that may be larger than the memory there is, of which only what is used must be there."""
    try:
        return zeros(shape, dtype)
    except MemoryError:
        if not sys.platform.startswith("linux"):
            raise
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    try:
        memory = mmap.mmap(-1, _room(shape, dtype), flags=private)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"an array of shape {shape} does not fit into the address space.") from error
    return np.frombuffer(memory, dtype, math.prod(shape)).reshape(shape)


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


def into_large_pages(address: int, size: int) -> None:
    """Ask the system to move this memory into large pages; it goes on holding the same where that cannot be done.

    Rows lie anywhere in a table: with pages of 4 KiB, finding the page costs as much as reading the row.  NumPy asks for large
    pages where it allocates; this is for memory from elsewhere that is in use already.
    """
    if not sys.platform.startswith("linux") or size < LARGE:
        return
    start = -(-address // PAGE) * PAGE
    length = (address + size) // PAGE * PAGE - start
    system = ctypes.CDLL(None)
    for advice in (MADV_HUGEPAGE, MADV_COLLAPSE):
        system.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), advice)


def _room(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize + LINE


def _within(room: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The array at the first cache line in `room`."""
    first = -room.ctypes.data % LINE
    return room[first : first + len(room) - LINE].view(dtype).reshape(shape)


def side_by_side(shapes: Sequence[tuple[int, ...]], dtype: np.dtype[Any]) -> list[Array]:
    """Arrays of zeros in one block of memory, of which large pages hold more than of many; each begins at a cache line."""
    line = LINE // dtype.itemsize
    sizes = [-(-math.prod(shape) // line) * line for shape in shapes]
    block = zeros((sum(sizes),), dtype)
    starts = itertools.accumulate(sizes, initial=0)
    return [block[start : start + math.prod(shape)].reshape(shape) for start, shape in zip(starts, shapes, strict=False)]
