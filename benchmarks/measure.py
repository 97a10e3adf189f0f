"""What every rival's process does: warm up to the steady state, time, check the result, and print one line of JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from math import ceil
from typing import Any, Protocol

import numpy as np
from cases import KINDS, Case
from replay import Log, check
from workloads import Workload

WARM_DENSE = 2
WARM_SPARSE = 30
LEAST_TIMED = 4
EXACT = ("unhot", "unhot_torch", "unhot_jax", "unhot_keras")
"""The rivals that defer steps, and keep the promise of exactness."""


class Stepper(Protocol):
    """A rival that trains."""

    def preload(self) -> None:
        """Called after the first step: bring every page of the state into memory, as a long training would have."""

    def tensor(self, array: Any) -> Any:
        """Ids or gradients as the rival takes them; not timed."""

    def step(self, ids: Any, gradients: Any) -> None:
        """Look the ids up, and apply an update with the gradients of what was looked up; timed.

        Task "loop" calls `loop` instead, where a loss gives the gradients.
        """

    def weights(self, rows: Any) -> Any:
        """These rows as a NumPy array."""


class Reader(Protocol):
    """A rival that looks settled rows up."""

    def tensor(self, array: Any) -> Any:
        """Ids as the rival takes them; not timed."""

    def lookup(self, ids: Any) -> Any:
        """The rows; timed."""

    def weights(self, rows: Any) -> Any:
        """These rows as a NumPy array, got in another way."""


def warm_steps(case: Case) -> int:
    """Steps before the timed ones.

    Where steps are deferred: three for each time that the ids would fill the table, so that most rows touched have been
    touched before, many of them long ago.  A dense step costs the same in every state, and so does a sparse one once its
    state is in memory.
    """
    kind = KINDS[case.rival, case.variant]
    if kind.dense:
        return WARM_DENSE
    deferring = case.rival in EXACT and kind.rule.startswith("adam")
    return max(WARM_SPARSE, ceil(3 * case.rows / case.ids)) if deferring else WARM_SPARSE


def timed_steps(case: Case) -> int:
    """Steps timed at most."""
    return int(np.clip(200 * 4096 // case.ids, 40, 200))


def step_times(case: Case, round_: int, seconds: float, make: Callable[[Case], Stepper]) -> dict[str, Any]:
    """Time and check steps."""
    workload = Workload(case, round_)
    batches = [workload.timed() for _ in range(timed_steps(case))]
    gradients = workload.gradients()
    sample = workload.sample(batches)
    log = Log(case.rows, sample, case.dim)

    rival = make(case)
    step = getattr(rival, "loop" if case.task == "loop" else "step")
    start = np.array(rival.weights(sample))
    given = [rival.tensor(array) for array in gradients]
    warm = warm_steps(case)
    for i in range(warm):
        ids = workload.warm()
        log.add(ids, gradients[i % len(gradients)])
        step(rival.tensor(ids), given[i % len(gradients)])
        if i == 0:
            rival.preload()

    prepared = [rival.tensor(ids) for ids in batches]
    times, busy = timed(lambda i: step(prepared[i], given[i % len(given)]), len(batches), seconds)
    for i in range(len(times)):
        log.add(batches[i], gradients[i % len(gradients)])
    kind = KINDS[case.rival, case.variant]
    checked = check(log, kind.rule, start, np.array(rival.weights(sample)), exact=case.rival in EXACT)
    return {**summary(times), "others_busy": busy, "warm_steps": warm, "check": checked}


def lookup_times(case: Case, round_: int, seconds: float, make: Callable[[Case], Reader]) -> dict[str, Any]:
    """Time and check lookups."""
    workload = Workload(case, round_)
    batches = [workload.timed() for _ in range(timed_steps(case))]
    rival = make(case)
    prepared = [rival.tensor(ids) for ids in batches]
    for ids in prepared[:5]:
        rival.lookup(ids)
    times, busy = timed(lambda i: rival.lookup(prepared[i]), len(batches), seconds)
    got = np.array(rival.lookup(prepared[0]))
    if got.shape != (case.ids, case.dim) or not np.array_equal(got, rival.weights(batches[0])):
        raise AssertionError("the lookup did not give the rows of the table.")
    return {**summary(times), "others_busy": busy, "check": {"rows_compared": float(case.ids)}}


def timed(run: Callable[[int], Any], most: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each run, until there are `most` or they took `seconds`; and the CPUs that other processes kept busy."""
    times: list[float] = []
    begun = time.perf_counter()
    busy, own = _cpu_seconds(), time.process_time()
    while len(times) < most and (len(times) < LEAST_TIMED or time.perf_counter() - begun < seconds):
        before = time.perf_counter()
        run(len(times))
        times.append(time.perf_counter() - before)
    wall = time.perf_counter() - begun
    others = (_cpu_seconds() - busy) - (time.process_time() - own)
    return times, round(max(0.0, others) / max(wall, 0.1), 3)


def _cpu_seconds() -> float:
    """CPU seconds that all processes have used together, where the system tells."""
    try:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, irq, soft_irq, steal = (int(x) for x in stat.readline().split()[1:9])
    except (OSError, ValueError):
        return time.process_time()
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK")


def summary(times: list[float]) -> dict[str, Any]:
    low, middle, high = np.percentile(times, [25, 50, 75])
    return {
        "seconds": float(middle),
        "quartiles": [float(low), float(high)],
        "mean": float(np.mean(times)),
        "fastest": float(np.min(times)),
        "timed": len(times),
    }


def median_and_error(values: Any) -> tuple[float, float]:
    """The median and its standard error, which outliers do not change."""
    middle = float(np.median(values))
    deviation = 1.48 * float(np.median(np.abs(np.asarray(values) - middle)))  # a standard deviation, if outliers are left out
    return middle, float(1.25 * deviation / np.sqrt(len(values)))


def main(
    make: Callable[[Case], Any],
    versions: Callable[[], dict[str, str]],
    tasks: dict[str, Callable[..., dict[str, Any]]] | None = None,
) -> None:
    """Run the case given as JSON in the first argument; `make` and `versions` import the framework."""
    request = json.loads(sys.argv[1])
    case = Case(**request["case"])
    hold_to(case.threads)
    known = {"step": step_times, "loop": step_times, "lookup": lookup_times, **(tasks or {})}
    result = known[case.task](case, request["round"], request["seconds"], make)
    result["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    result["versions"] = {"python": sys.version.split()[0], "numpy": np.__version__, **versions()}
    print(json.dumps(result))


def hold_to(threads: int) -> None:
    """Keep this process on as many CPUs as it may use threads: some rivals know no other bound."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
