"""The process that measures one route. It reads a pickled job from standard input and prints a `Cost` as JSON."""

from __future__ import annotations

import json
import os
import pickle
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot import kernels
from unhot.comparison import task
from unhot.comparison.cost import Job
from unhot.comparison.dense import Dense, Gathered
from unhot.creation import initial_weights
from unhot.table import Table

Array = npt.NDArray[Any]

LEAST = 3
"""The least number of timed steps, if there is time for them."""

ENOUGH = 0.8
"""The seconds of steps that are enough, both before the timed steps and for them."""


def main() -> None:
    job: Job = pickle.load(sys.stdin.buffer)
    kernels.set_num_threads(job.threads)
    np.random.default_rng()  # loaded when first used: not a cost of either route
    memory_before, begun, cpu_before = resident("VmRSS"), time.monotonic(), others_cpu_seconds()
    try:
        times = step_times(job)
    except MemoryError as error:
        print(json.dumps({"not_run": str(error)}))
        return
    busy = max(0.0, (others_cpu_seconds() - cpu_before) / (time.monotonic() - begun))
    peak = resident("VmHWM")
    if peak is not None and memory_before is not None:
        peak -= memory_before
    found = {"seconds": float(np.median(times)), "peak_bytes": peak, "steps": len(times), "others_busy": round(busy, 2)}
    print(json.dumps(found))


def step_times(job: Job) -> list[float]:
    """Seconds of training steps: forward, gradient, update."""
    forward, train = route(job)
    rng = np.random.default_rng([job.seed, 3])
    target = task.targets(job.batch, job.dim, job.seed)

    def seconds() -> float:
        ids = rng.integers(job.rows, size=job.batch) if job.ids is None else job.ids[rng.integers(len(job.ids), size=job.batch)]
        before = time.perf_counter()
        train(ids, task.gradients(forward(ids), target))
        return time.perf_counter() - before

    half = job.patience / 2
    warm = repeat(seconds, min(ENOUGH, half), 1, half)
    return repeat(seconds, min(ENOUGH, half), LEAST, half) if sum(warm) < half else warm


def repeat(seconds: Callable[[], float], enough: float, least: int, end: float) -> list[float]:
    """Times until they sum to `enough` and are `least` in number, or sum to `end`."""
    times = [seconds()]
    total = times[0]
    while total < end and (total < enough or len(times) < least):
        times.append(seconds())
        total += times[-1]
    return times


def route(job: Job) -> tuple[Callable[[Array], Array], Callable[[Array, Array], None]]:
    """Forward and training step of the job's route."""
    if job.route != "table":
        kind = Dense if job.route == "dense" else Gathered
        generator = np.random.default_rng(job.seed)
        dense = kind(initial_weights("uniform", (job.rows, job.dim), np.dtype(np.float32), generator), job.optimizer)
        return dense.forward, dense.train
    table = Table(job.rows, job.dim, optimizer=job.optimizer, seed=job.seed)
    return table.lookup, table.step


def resident(name: str) -> int | None:
    """Bytes of this process in memory, VmRSS (now) or VmHWM (at most so far); elsewhere than on Linux only the latter."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def others_cpu_seconds() -> float:
    """CPU seconds that all other processes have used, up to a constant; 0 where the system does not say."""
    with suppress(OSError), open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _, _, irq, soft_irq, steal = (int(x) for x in file.readline().split()[1:9])
        return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK") - time.process_time()
    return 0.0
