"""unhot.Vocabulary beside pandas and pyarrow, by turns, and what it is to reach.

    env -u OPENBLAS_CORETYPE python benchmarks/vocabulary.py [--only texts lookup memory pauses] [--rounds 5] [--scale 1.0]

Needs pandas and pyarrow beside unhot. Times are CPU times in one thread, so that other work on the machine counts little; for
texts the wall time with all threads stands beside them. Prints medians, and the ratio of each target as the median of the
rounds' ratios; ends with 1 if one is missed. `--scale` makes everything smaller, which checks the script and measures nothing.
Also printed is how many bytes have to be moved at least: the keys read once, one line of the table for each key, and the rows
written.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from cases import Case
from pyarrow import compute
from workloads import Workload

import unhot

LINE = 64
PR_SET_THP_DISABLE = 41
GIB = 2**30
MOST_BYTES = 3 * GIB


@dataclass(frozen=True)
class Target:
    """What was measured, and the most that it may be."""

    text: str
    value: float
    limit: float
    unit: str = "x"

    @property
    def reached(self) -> bool:
        return self.value <= self.limit

    def __str__(self) -> str:
        verdict = "reached" if self.reached else "MISSED"
        return f"{self.text}: {self.value:.2f} {self.unit}, at most {self.limit:.2f} {self.unit}: {verdict}"


def seconds(work: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[float, Any]:
    """The CPU seconds of a work, or those of another clock, and its result."""
    start = clock()
    result = work()
    return clock() - start, result


def by_turns(works: dict[str, Callable[[], Any]], expected: Any, rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round; whoever comes first in one comes last in the next. Every result is checked."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name in list(works)[:: 1 if turn % 2 else -1]:
            taken, found = seconds(works[name])
            np.testing.assert_array_equal(np.asarray(found), expected)
            if turn:  # the first fills caches, of the rivals too
                times[name].append(taken)
    return times


def texts(rounds: int, scale: float) -> Iterator[Target]:
    """Strings against a known vocabulary, as Arrow's column and as an array of Python's objects."""
    count, distinct = int(10_000_000 * scale), int(1_000_000 * scale)
    rng = np.random.default_rng(0)
    objects = np.array([f"user-{i:x}" for i in dict.fromkeys(rng.integers(0, 2**40, distinct).tolist())], object)
    rows = rng.integers(0, len(objects), count)
    known = pa.array(objects)
    column = known.take(pa.array(rows))
    data, words = objects[rows], unhot.Vocabulary(known)
    index, arrow_index = pd.Index(objects, dtype=object), pd.Index(objects, dtype="str")
    frame = pd.Series(pd.array(data, dtype="str"))
    threads = unhot.get_num_threads()
    print(f"\n{count:,} strings against {len(objects):,} known ones")
    moved = column.nbytes + count * (LINE + 8)
    print(f"  at least {moved / GIB:.2f} GiB to move; the vocabulary holds {known.nbytes / GIB:.3f} GiB of text")
    forms: dict[str, dict[str, Callable[[], Any]]] = {
        "Arrow's column": {
            "unhot": lambda: words.encode(column),
            "pyarrow index_in": lambda: compute.index_in(column, value_set=known),
            "pandas get_indexer (str)": lambda: arrow_index.get_indexer(frame),
        },
        "objects": {
            "unhot": lambda: words.encode(data),
            "pandas get_indexer (object)": lambda: index.get_indexer(data),
        },
    }
    for form, works in forms.items():
        unhot.set_num_threads(1)
        times = by_turns(works, rows, rounds)
        for name, taken in times.items():
            print(f"  {form:16} {name:28} {median(taken):7.3f} s  {1e9 * median(taken) / count:6.0f} ns a key")
        unhot.set_num_threads(threads)
        wall = median(seconds(works["unhot"], time.perf_counter)[0] for _ in range(rounds))
        print(f"  {form:16} unhot, {threads} threads, wall time   {wall:7.3f} s")
        rivals = [min(turn) for turn in zip(*(taken for name, taken in times.items() if name != "unhot"), strict=True)]
        ratio = median(ours / rival for ours, rival in zip(times["unhot"], rivals, strict=True))
        yield Target(f"{form}: unhot over the fastest rival", ratio, 1.0)


def lookup(rounds: int, scale: float) -> Iterator[Target]:
    """4,096 keys and the lookup of their rows, over the lookup of rows that are known."""
    rows, ids, dim, steps = int(1_000_000 * scale), 4_096, 64, 200
    keys = np.unique(np.random.default_rng(0).integers(0, 2**63, rows))
    keys = np.random.default_rng(1).permutation(keys)
    words, table = unhot.Vocabulary(keys), unhot.Table(len(keys), dim, seed=0)
    print(f"\n{ids:,} int64 keys of {len(keys):,}, and a lookup of {dim} float32 each")
    moved, of_rows = ids * (8 + LINE + 8), ids * dim * 8
    print(f"  at least {moved / 2**20:.2f} MiB to move for the keys, {of_rows / 2**20:.2f} MiB for the lookup")
    before = unhot.get_num_threads()
    unhot.set_num_threads(1)
    for distribution in ("zipf", "uniform"):
        case = Case("unhot", "adam", rows=len(keys), dim=dim, ids=ids, distribution=distribution)
        workload = Workload(case, 0)
        plain, whole = [], []
        for _ in range(rounds):
            first, second = [], []
            for _ in range(steps):
                batch, other = workload.timed(), keys[workload.timed()]
                first.append(seconds(partial(table.lookup, batch))[0])
                second.append(seconds(lambda other=other: table.lookup(words.encode(other)))[0])
            plain.append(median(first))
            whole.append(median(second))
        print(f"  {distribution:8} lookup {1e6 * median(plain):5.0f} us, with keys {1e6 * median(whole):5.0f} us")
        ratio = median(b / a for a, b in zip(plain, whole, strict=True))
        yield Target(f"{distribution}: keys and lookup over the lookup", ratio, 1.3)
    unhot.set_num_threads(before)


def resident() -> int:
    """The bytes of memory that this process has (Linux)."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


def memory(_: int, scale: float) -> Iterator[Target]:
    """Distinct integers, in a process of their own: the most memory at any time, and per key."""
    count = int(100_000_000 * scale)
    done = subprocess.run([sys.executable, __file__, "--fill", str(count)], capture_output=True, check=True, text=True)
    most, last, taken = json.loads(done.stdout)
    print(f"\n{count:,} distinct int64 keys: {last / count:.1f} bytes each, {taken:.0f} s")
    yield Target("memory of the process, at most", most / GIB, MOST_BYTES / GIB * max(scale, 0.05), "GiB")


def fill(count: int) -> None:
    """What `memory` runs: JSON of the most and the last bytes, and the seconds."""
    words, start, most, step = unhot.Vocabulary(), time.perf_counter(), 0, 1_000_000
    for first in range(0, count, step):
        drawn = np.arange(first, min(first + step, count), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        words.extend(drawn.view(np.int64))
        most = max(most, resident())
    assert len(words) == count
    print(json.dumps([most, resident(), time.perf_counter() - start]))


def pauses(_: int, scale: float) -> Iterator[Target]:
    """How long the slowest of many small extensions takes: nothing is done that grows with the vocabulary.

    What takes longest is the system's first touch of a large page. So all is done once more without these (Linux).
    """
    count, batch = int(10_000_000 * scale), 64
    print(f"\nextending by {batch} int64 keys, {count:,} in all; CPU time")
    drawn = (np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
    longest = 0.0
    for large in (True, False):
        ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 0 if large else 1, 0, 0, 0)
        words, times = unhot.Vocabulary(), []
        for first in range(0, count, batch):
            times.append(seconds(partial(words.extend, drawn[first : first + batch]), time.thread_time)[0])
        ordered = 1e6 * np.sort(times[1:])  # the first call of all loads code
        longest = float(ordered[-1]) / 1e3
        shown = ", ".join(f"{100 * part:g} % {ordered[int(part * len(ordered))]:.0f} us" for part in (0.5, 0.999))
        print(f"  {'with' if large else 'without'} large pages: {shown}, longest {longest:.2f} ms")
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)
    yield Target("the longest pause without large pages", longest, 5.0, "ms")


PARTS = {"texts": texts, "lookup": lookup, "memory": memory, "pauses": pauses}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--fill", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fill:
        fill(given.fill)
        return 0
    print(f"unhot {unhot.__version__} ({unhot.kernels.name}), pandas {pd.__version__}, pyarrow {pa.__version__}")
    targets = [target for name in given.only for target in PARTS[name](given.rounds, given.scale)]
    print("", *targets, sep="\n")
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
