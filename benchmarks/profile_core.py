"""Where the time of the core's lookup and step goes, in the steady state.

    python benchmarks/profile_core.py [--rule Adam --threads 2]

Medians in microseconds of the calls that an engine makes; what is left of `lookup` and `step` is Python. The timers' own time
is in them. A step after a lookup of the same ids finds them grouped. Rows are settled in turn in one of 16 steps.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from cases import Case
from measure import hold_to
from workloads import Workload

import unhot

STEPS = 600


def timed(owner: Any, name: str, times: list[float]) -> None:
    """Note the seconds that each call of a function takes, with those of the calls that it gives to be made later."""
    function: Callable[..., Any] = getattr(owner, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        result = function(*args, **kwargs)
        times.append(time.perf_counter() - begun)
        return [partial(later, given, len(times) - 1) for given in result] if isinstance(result, list) else result

    def later(given: Callable[[], Any], place: int) -> None:
        begun = time.perf_counter()
        given()
        times[place] += time.perf_counter() - begun

    setattr(owner, name, call)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="Adam")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    case = Case("unhot", given.rule.lower(), "step", rows=given.rows, dim=given.dim, ids=given.ids, threads=given.threads)
    hold_to(case.threads)
    unhot.set_num_threads(case.threads)
    workload = Workload(case, 0)
    gradients = workload.gradients()
    table = unhot.Table(case.rows, case.dim, optimizer=getattr(unhot, given.rule)(0.001), seed=0)
    for _ in range(3 * case.rows // case.ids):
        table.step(workload.warm(), gradients[0])
    engine = table._engine
    rows = engine._rows
    found: dict[str, tuple[Any, str]] = {"  grouping, last steps": (rows, "pending"), "  rows read": (rows, "gather_settled")}
    if engine.last is None:  # nothing is ever deferred
        found = {"  grouping": (engine.kernels, "group"), "  rows read": (rows, "gather")}
    watched = {
        "lookup": (table, "lookup"), **found, "  coefficients": (engine.clock, "coefficients"),
        "step": (table, "step"), "  scalars": (engine.clock, "scalars"), "  rows stepped": (rows, "step"),
        "  history": (engine.clock, "advance"), "  rows settled in turn": (rows, "settle"),
    }  # fmt: skip
    times: dict[str, list[float]] = {name: [] for name in watched}
    for name, (owner, function) in watched.items():
        timed(owner, function, times[name])
    out = np.empty((case.ids, case.dim), np.float32)
    for i in range(STEPS):
        ids = workload.timed()
        table.lookup(ids, out=out)
        table.step(ids, gradients[i % len(gradients)])
    for name, seconds in times.items():
        print(f"{name:24}{1e6 * median(seconds) if seconds else 0.0:8.0f}")


if __name__ == "__main__":
    main()
