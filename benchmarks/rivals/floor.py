"""The memory floor: the bytes that a step must move, divided by the bandwidth of a copy.

A step must read and write the distinct rows of the weights and of each slot once, read the gradients and write the output; a
lookup must read the distinct rows and write the output.  Ids, bookkeeping and the read of a cache line that is about to be
overwritten are not counted.  Two bandwidths are measured, each with as many threads as the rivals have:

- of a copy of a large array (bytes read + bytes written): the floor;
- of copying random rows of a large table with numpy.take: what random access leaves of it without prefetching.

Where the rows or buffers stay in the cache from step to step (few rows, a Zipf law, a reused output), a rival can be faster
than both.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import measure
import numpy as np
from cases import FLOOR_TABLE_BYTES, Case
from workloads import Workload

ARRAYS = {"sgd": 1, "adagrad": 2, "adam": 3}
REPEATS = 15


def _bandwidth(threads: int, moved: int, work: Callable[[int], Any]) -> tuple[float, float]:
    """Bytes per second, the median of several runs of `work` in `threads` threads that move `moved` bytes together; and the
    CPUs that other processes kept busy meanwhile.
    """
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
        times, busy = measure.timed(lambda _: list(pool.map(work, range(threads))), REPEATS, float("inf"))
    return moved / float(np.median(times)), busy


def copy_bandwidth(threads: int) -> tuple[float, float]:
    source = np.ones(FLOOR_TABLE_BYTES // 2, np.uint8)
    target = np.zeros_like(source)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    return _bandwidth(threads, 2 * source.nbytes, lambda i: np.copyto(*parts[i]))


def row_bandwidth(threads: int, dim: int) -> tuple[float, float]:
    table = np.ones((FLOOR_TABLE_BYTES // (4 * dim), dim), np.float32)
    ids = np.random.default_rng(0).integers(0, len(table), (threads, 32_768))
    outs = np.zeros((*ids.shape, dim), np.float32)
    return _bandwidth(threads, 2 * outs.nbytes, lambda i: np.take(table, ids[i], axis=0, out=outs[i], mode="clip"))


def floor(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    """The floor of one case; its result has no rows to check."""
    workload = Workload(case, round_)
    distinct = float(np.mean([len(np.unique(workload.timed())) for _ in range(10)]))
    row = case.dim * 4
    moved = case.ids * row + distinct * row
    if case.task == "step":
        moved = 2 * case.ids * row + 2 * ARRAYS[case.variant] * distinct * row
    (copying, busy), (rows, also_busy) = copy_bandwidth(case.threads), row_bandwidth(case.threads, case.dim)
    return {
        "seconds": moved / copying,
        "seconds_random_rows": moved / rows,
        "bytes": moved,
        "distinct_rows": distinct,
        "copy_bandwidth": copying,
        "random_row_bandwidth": rows,
        "others_busy": max(busy, also_busy),
    }


if __name__ == "__main__":
    measure.main(lambda case: None, dict, {"step": floor, "lookup": floor})
