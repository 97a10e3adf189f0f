"""Where the time of the core's lookup and step goes, in the steady state.

    python benchmarks/profile_core.py [--rule Adam --threads 2 --isa avx2]

Medians in microseconds of the calls that an engine makes; what is left of `lookup` and `step` is Python. The timers' own time
is in them. A step after a lookup of the same ids finds them grouped. Rows are settled in turn in one of 16 steps.

The last lines compare with moving the same bytes: as many random rows of the weights and of each slot are copied for the
lookup; and for the step they are read and written, by steps of SGD.
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
from unhot import _native
from unhot.kernels import active
from unhot.kernels.structs import Plan, Segment, StepNumbers
from unhot.settling import clock_of

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


class Movement:
    """Moves rows of all arrays of a table, and computes next to nothing."""

    def __init__(self, table: unhot.Table) -> None:
        store = table._engine.stores[0]
        self.arrays = [active.stores([[array]], [0], None) for array in store.state]
        rule, clock = clock_of(unhot.SGD(0.0), table.dtype, table.rows)
        self.formula, self.numbers = clock.formula(), StepNumbers(1, clock.scalars(1, rule.read(1)))

    def move(self, ids: Any, vectors: Any) -> tuple[float, float]:
        """The seconds that reading takes, and reading and writing."""
        rows = active.group(ids).rows.copy()
        plan = Plan(rows, np.arange(len(rows)), np.arange(len(rows) + 1))
        part = [Segment(0, vectors[: len(rows)])]
        begun = time.perf_counter()
        for array in self.arrays:
            array.gather(rows, part)
        read = time.perf_counter()
        for array in self.arrays:
            for call in array.step(self.formula, plan, None, self.numbers, part):
                call()
        return read - begun, time.perf_counter() - read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="Adam")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", choices=_native.isas(), default=_native.isa(), help="the instruction set")
    given = parser.parse_args()
    _native.use(given.isa)
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
    movement, moved = Movement(table), []
    for i in range(STEPS):
        ids = workload.timed()
        table.lookup(ids, out=out)
        table.step(ids, gradients[i % len(gradients)])
        moved.append(movement.move(workload.timed(), out))
    for name, seconds in times.items():
        print(f"{name:24}{1e6 * median(seconds) if seconds else 0.0:8.0f}")
    both = [median(seconds) for seconds in zip(*moved, strict=True)]
    print(f"rows read, as bytes     {1e6 * both[0]:8.0f}\nread and written        {1e6 * both[1]:8.0f}")
    ratio = (median(times["lookup"]) + median(times["step"])) / sum(both)
    print(f"lookup and step over bytes moved, {given.isa}, {given.threads} threads: {ratio:.2f}")


if __name__ == "__main__":
    main()
