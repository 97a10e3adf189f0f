"""Many tables in one model: CPU time of a training step in one thread, by turns, and what it is to be.

    python benchmarks/many_tables.py [--fbgemm-python PYTHON] [--only WORD ...]

Each entry trains the same tables by the same ids, in turns of a few steps. The ratio of two entries is the median of their
ratios in each round. All results are checked. See README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from bench import KEEP_MEMORY
from turns import Problem

HERE = Path(__file__).resolve().parent
UNCOUNTED = 2
"""Steps at the beginning of a turn that are not counted: other entries have used the caches meanwhile."""

CHUNK = 50
"""Steps that an entry makes in a row before the timed ones."""

OF_MOVEMENT = 1e-4
"""FBGEMM's weights may be this part of the way apart that the rows have moved."""

LABELS = {
    "one": "one table of all rows, unhot.torch.Embedding",
    "layers": "a layer for each table",
    "concatenated": "a layer for each table, and torch.cat",
    "collection": "unhot.torch.EmbeddingCollection",
    "fbgemm": "FBGEMM",
    "bags": "unhot.torch.EmbeddingBag, Adam",
    "sparse_bags": "torch.nn.EmbeddingBag, sparse, SparseAdam",
    "core_one": "one unhot.Table of all rows",
    "core_each": "a unhot.Table for each table, one by one",
    "core_call": "unhot.TableCollection",
    "keras_collection": "unhot.keras.EmbeddingCollection, on PyTorch",
    "keras_layers": "a unhot.keras.Embedding for each table",
}
HOMES = {"fbgemm": "many_fbgemm", "keras_collection": "many_keras", "keras_layers": "many_keras"}
"""In which module of `rivals` an entry is, if it is not in `many_unhot`."""


@dataclass(frozen=True)
class Target:
    """The CPU time of the entry `above` over that of `below` is to be at least, or at most, `limit`."""

    above: str
    below: str
    limit: float
    at_least: bool = False

    @property
    def text(self) -> str:
        return f"{LABELS[self.above]} over {LABELS[self.below]}"

    @property
    def goal(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.limit:.2f}"

    def reached(self, ratio: float) -> bool:
        return ratio >= self.limit if self.at_least else ratio <= self.limit


@dataclass(frozen=True)
class Comparison:
    """Entries that train the same problem; ratios are shown over the first of them."""

    name: str
    problem: Problem
    entries: tuple[str, ...]
    targets: tuple[Target, ...]


def _comparisons() -> list[Comparison]:
    ours = ("one", "layers", "concatenated", "collection")
    apart = Target("layers", "collection", 1.35)
    found = []
    for batch in (512, 2048):
        adam = (Target("collection", "one", 1.15), apart)
        found.append(Comparison(f"adam/{batch}", Problem(26, 20_000, 64, batch), ours, adam))
        adagrad = (Target("fbgemm", "collection", 1.5, at_least=True), apart)
        problem = Problem(26, 20_000, 64, batch, rule="adagrad")
        found.append(Comparison(f"adagrad/{batch}", problem, (*ours, "fbgemm"), adagrad))
    for batch, length in ((4096, 1), (2048, 20)):
        target = Target("sparse_bags", "bags", 1.2, at_least=True)
        problem = Problem(1, 1_000_000, 64, batch, length)
        found.append(Comparison(f"bags/{length}", problem, ("bags", "sparse_bags"), (target,)))
    for ids in (64, 256):
        core = [Target("core_call", "core_one", 1.3)]
        if ids == 64:
            core.append(Target("core_each", "core_one", 2.5))
        names = ("core_one", "core_each", "core_call")
        found.append(Comparison(f"core/{ids}", Problem(26, 50_000, 16, ids), names, tuple(core)))
    for length in (1, 5):
        target = Target("keras_layers", "keras_collection", 1.1, at_least=True)
        problem = Problem(26, 20_000, 64, 512, length)
        found.append(Comparison(f"keras/{length}", problem, ("keras_collection", "keras_layers"), (target,)))
    return found


class Process:
    """A process that has entries, with one thread on one CPU."""

    def __init__(self, python: str, module: str) -> None:
        environment = dict(os.environ, **KEEP_MEMORY)
        environment.pop("OPENBLAS_CORETYPE", None)
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = "1"
        command = [str(Path(python).absolute()), "-m", f"rivals.{module}"]
        pipe = subprocess.PIPE
        self.module, self._process = module, subprocess.Popen(
            command, cwd=HERE, env=environment, stdin=pipe, stdout=pipe, text=True
        )  # fmt: skip

    def ask(self, name: str, /, **arguments: Any) -> Any:
        """What a method of its `turns.Server` gives."""
        wire, answers = self._process.stdin, self._process.stdout
        assert wire is not None
        assert answers is not None
        wire.write(json.dumps([name, arguments]) + "\n")
        wire.flush()
        line = answers.readline()
        if not line:
            raise SystemExit(f"{self.module} ended with {self._process.wait()} when it was asked to {name}.")
        return json.loads(line)

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()


Times = dict[str, list[list[tuple[float, float]]]]
"""By entry: CPU and wall seconds of each counted step, by round."""


def measured(comparison: Comparison, processes: list[Process], rounds: int, steps: int) -> Times:
    """Train by turns; check what came out."""
    one = comparison.problem
    homes: dict[str, Process] = {}
    for process in processes:
        wanted = [name for name in comparison.entries if HOMES.get(name, "many_unhot") == process.module]
        if wanted:
            homes |= dict.fromkeys(process.ask("make", problem=asdict(one), names=wanted), process)
    names = [name for name in comparison.entries if name in homes]
    made, times = 0, Times()
    while made < one.warm_steps:
        count = min(CHUNK, one.warm_steps - made)
        for name in names:
            homes[name].ask("turn", entry=name, first=made, count=count)
        made += count
    for round_ in range(rounds):
        for i in range(len(names)):
            name = names[(i + round_) % len(names)]
            turn = homes[name].ask("turn", entry=name, first=made, count=UNCOUNTED + steps)
            times.setdefault(name, []).append(turn[UNCOUNTED:])
        made += UNCOUNTED + steps
    _check([process.ask("check") for process in processes if process in homes.values()])
    return {name: times[name] for name in names}


def _check(answers: list[dict[str, Any]]) -> None:
    """The sampled rows of all processes agree."""
    first = answers[0]
    for other in answers[1:]:
        apart = float(np.abs(np.subtract(first["rows"], other["rows"])).max())
        if apart > OF_MOVEMENT * first["moved"]:
            raise AssertionError(f"weights are {apart:.3g} from those of another process; they moved by {first['moved']:.3g}.")


def ratio(times: Times, above: str, below: str) -> tuple[float, float, float] | None:
    """The median, the least and the largest of the rounds' ratios of CPU time."""
    if above not in times or below not in times:
        return None
    rounds = zip(times[above], times[below], strict=True)
    ratios = [median(cpu for cpu, _ in a) / median(cpu for cpu, _ in b) for a, b in rounds]
    return median(ratios), min(ratios), max(ratios)


def shown(comparison: Comparison, times: Times) -> tuple[str, list[dict[str, Any]]]:
    """The table and the targets of a comparison, as text; the targets also as data."""
    one, base = comparison.problem, comparison.entries[0]
    bags = f"{one.batch:,} bags of {one.length}" if base == "bags" or one.length > 1 else f"{one.batch:,} ids each"
    tables = f"{one.tables} tables" if one.tables > 1 else "one table"
    rule = "" if base == "bags" else f", {one.rule.capitalize()}"
    lines = [f"{comparison.name}: {tables} of {one.rows:,} x {one.dim}, {bags}{rule}"]
    lines.append(f"{'':52}{'CPU ms':>8}{'least':>8}{'wall ms':>9}{'ratio':>7}  (rounds)")
    for name in comparison.entries:
        over = ratio(times, name, base)
        if over is None:
            lines.append(f"  {LABELS[name]:50}{'not there':>10}")
            continue
        cpus, walls = zip(*(step for turn in times[name] for step in turn), strict=True)
        figures = f"{1e3 * median(cpus):>8.2f}{1e3 * min(cpus):>8.2f}{1e3 * median(walls):>9.2f}{over[0]:>7.2f}"
        lines.append(f"  {LABELS[name]:50}{figures}  ({over[1]:.2f} to {over[2]:.2f})")
    targets = []
    for target in comparison.targets:
        over = ratio(times, target.above, target.below)
        reached = None if over is None else target.reached(over[0])
        state = {None: "not measured", True: "reached", False: "MISSED"}[reached]
        value = "" if over is None else f"{over[0]:.2f}  ({over[1]:.2f} to {over[2]:.2f})  "
        lines.append(f"  target: {target.text} {target.goal}: {value}{state}")
        found = None if over is None else over[0]
        targets.append({"target": target.text, "goal": target.goal, "measured": found, "reached": reached})
    return "\n".join(lines), targets


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fbgemm-python", default="", metavar="PYTHON", help="the interpreter that has FBGEMM")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only comparisons whose name contains one of these words")
    parser.add_argument("--list", action="store_true", help="print the names of the comparisons and stop")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=8, help="counted in a turn")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all times there")
    given = parser.parse_args()
    wanted = [one for one in _comparisons() if not given.only or any(word in one.name for word in given.only)]
    if given.list:
        print("\n".join(one.name for one in wanted))
        return 0
    processes = [Process(sys.executable, module) for module in ("many_unhot", "many_keras")]
    if given.fbgemm_python:
        processes.append(Process(given.fbgemm_python, "many_fbgemm"))
    run: dict[str, Any] = {"versions": {process.module: process.ask("versions") for process in processes}, "comparisons": {}}
    missed = False
    for comparison in wanted:
        times = measured(comparison, processes, given.rounds, given.steps)
        text, targets = shown(comparison, times)
        print(text + "\n", flush=True)
        missed |= any(target["reached"] is False for target in targets)
        run["comparisons"][comparison.name] = {"problem": asdict(comparison.problem), "times": times, "targets": targets}
    for process in processes:
        process.end()
    if given.json:
        given.json.write_text(json.dumps(run, indent=1) + "\n")
    return 1 if given.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
