"""Two builds of the native kernels, by turns in one process: for differences smaller than the machine's own.

    cmake -S . -B build/other -DPython_EXECUTABLE=.venv-bench/bin/python -DUNHOT_DOMAIN=other && cmake --build build/other
    python benchmarks/compare_kernels.py build/other/_native*.so [installed.so] [--rows 1000000 --dim 64 --rule Adam]

The first is the new one, the second the old one: the installed one, if none is named. Prints the medians in microseconds, and
the median ratio of neighbouring turns with its standard error. Each trains a table of its own, by the same steps from the same
state; whether they hold the same numbers in the end is printed, too.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import time
from importlib.machinery import ExtensionFileLoader
from typing import Any

import numpy as np
from cases import Case
from workloads import Workload

import unhot
from unhot.kernels import native

STEPS = 5
"""Of a turn; the first is not counted, since the other build has had the caches."""


def loaded(path: str) -> Any:
    """The native module in this file, beside others of the same name."""
    if path == native._native.__file__:
        return native._native
    spec = importlib.util.spec_from_file_location("_native", path, loader=ExtensionFileLoader("_native", path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("new")
    parser.add_argument("old", nargs="?", default=native._native.__file__)
    parser.add_argument("--rule", default="Adam")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=400)
    given = parser.parse_args()
    modules = [loaded(given.old), loaded(given.new)]
    if modules[0].StoresFloat32 is modules[1].StoresFloat32:
        parser.error("both builds would share one class: configure the other one with -DUNHOT_DOMAIN=other.")
    for module in modules:
        module.set_threads(given.threads)
    case = Case("unhot", given.rule.lower(), "step", rows=given.rows, dim=given.dim, ids=given.ids)
    workload = Workload(case, 0)
    table = unhot.Table(given.rows, given.dim, optimizer=getattr(unhot, given.rule)(0.001), seed=0)
    gradients = workload.gradients()
    out = np.empty((given.ids, given.dim), np.float32)
    for _ in range(3 * given.rows // given.ids + 50):
        table.step(workload.warm(), gradients[0])
    tables = []
    for module in modules:
        native._native = module  # of which the copy gets what works on its rows
        tables.append(copy.deepcopy(table))
    del table
    times = np.empty((given.turns, 2, STEPS, 2))
    for turn in range(given.turns):
        batches = [workload.timed() for _ in range(STEPS)]
        for which in (0, 1) if turn % 2 else (1, 0):
            native._native, table = modules[which], tables[which]
            for step, ids in enumerate(batches):
                begun = time.perf_counter()
                table.lookup(ids, out=out)
                between = time.perf_counter()
                table.step(ids, gradients[step % len(gradients)])
                times[turn, which, step] = between - begun, time.perf_counter() - between
    middle = np.median(times[:, :, 1:], axis=2)
    for part, name in enumerate(("lookup", "step")):
        old, new = middle[:, 0, part], middle[:, 1, part]
        error = 1.25 * np.std(new / old) / np.sqrt(given.turns)
        print(
            f"{name:7} old {1e6 * np.median(old):6.0f}   new {1e6 * np.median(new):6.0f}"
            f"   new over old {np.median(new / old):.3f} +- {error:.3f}"
        )
    states = zip(*(table._engine.stores[0].state for table in tables), strict=True)
    print("The numbers are", "the same." if all(np.array_equal(old, new) for old, new in states) else "NOT the same.")


if __name__ == "__main__":
    main()
