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

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import measure
import numpy as np
from cases import FLOOR_TABLE_BYTES, Case
from workloads import Workload

ARRAYS = {"sgd": 1, "adagrad": 2, "adam": 3}
REPEATS = 15


def _bandwidth(threads: int, moved: int, work: Callable[[int], Any]) -> float:
    """Bytes per second: the median of several runs of `work` in `threads` threads that move `moved` bytes together."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
        times = []
        for _ in range(REPEATS):
            before = time.perf_counter()
            list(pool.map(work, range(threads)))
            times.append(time.perf_counter() - before)
    return moved / float(np.median(times))


def copy_bandwidth(threads: int) -> float:
    source = np.ones(FLOOR_TABLE_BYTES // 2, np.uint8)
    target = np.zeros_like(source)
    parts = [(a, b) for a, b in zip(np.array_split(source, threads), np.array_split(target, threads), strict=True)]
    return _bandwidth(threads, 2 * source.nbytes, lambda i: np.copyto(parts[i][1], parts[i][0]))


def row_bandwidth(threads: int, dim: int) -> float:
    table = np.ones((FLOOR_TABLE_BYTES // (4 * dim), dim), np.float32)
    ids = np.random.default_rng(0).integers(0, len(table), (threads, 32_768))
    outs = np.zeros((*ids.shape, dim), np.float32)
    return _bandwidth(threads, 2 * outs.nbytes, lambda i: np.take(table, ids[i], axis=0, out=outs[i], mode="clip"))


def floor(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    workload = Workload(case, round_)
    distinct = float(np.mean([len(np.unique(workload.timed())) for _ in range(10)]))
    row = case.dim * 4
    moved = case.ids * row + distinct * row
    if case.task == "step":
        moved = 2 * case.ids * row + 2 * ARRAYS[case.variant] * distinct * row
    copying, rows = copy_bandwidth(case.threads), row_bandwidth(case.threads, case.dim)
    return {
        "seconds": moved / copying,
        "seconds_random_rows": moved / rows,
        "bytes": moved,
        "distinct_rows": distinct,
        "copy_bandwidth": copying,
        "random_row_bandwidth": rows,
        "others_busy": 0.0,
    }


if __name__ == "__main__":
    measure.main(lambda case: None, dict, {"step": floor, "lookup": floor})
