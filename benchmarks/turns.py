"""Entries that train the same tables by turns in one process, which `many_tables.py` asks over its standard input."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import measure
import numpy as np
import numpy.typing as npt
import replay
from cases import Case
from workloads import Ids, Workload

Vectors = npt.NDArray[np.float32]

REPLAYED = 64
"""Rows whose training is replayed."""

OF_ROUNDING = 8
"""Entries with the same kernels may be this many units in the last place apart: they settle rows at different steps."""


@dataclass(frozen=True)
class Problem:
    """What is trained: `tables` tables of (rows, dim), each with `batch` bags of `length` ids in a step."""

    tables: int
    rows: int
    dim: int
    batch: int
    length: int = 1
    rule: str = "adam"

    @property
    def ids(self) -> int:
        """The ids of a table in a step."""
        return self.batch * self.length

    @property
    def warm_steps(self) -> int:
        """Steps before the timed ones: the ids then fill each table three times, so that most rows have deferred steps."""
        return max(30, -(-3 * self.rows // self.ids))

    def start(self) -> Vectors:
        """The weights before the first step, (tables, rows, dim)."""
        drawn = np.random.default_rng(0).random((self.tables, self.rows, self.dim), dtype=np.float32)
        drawn -= np.float32(0.5)
        drawn *= np.float32(0.1)
        return drawn

    def gradient(self) -> Vectors:
        """The gradient of what is looked up, (batch, tables * dim), the same in each step."""
        drawn = np.random.default_rng(1).standard_normal((self.batch, self.tables * self.dim), dtype=np.float32)
        return drawn * np.float32(0.01)


class Entry(Protocol):
    """One way to train all tables of a problem."""

    rule: str
    """The replay that its weights are checked against."""

    exact: bool
    """Whether it keeps unhot's promise of exactness."""

    def prepared(self, ids: Ids) -> Any:
        """The ids of a step, (tables, batch * length), as the entry takes them; not timed."""

    def vectors(self, given: Any) -> Vectors:
        """What is looked up, (batch, tables * dim)."""

    def train(self, given: Any) -> None:
        """Look up, go backward with the given gradient and make the step; timed."""

    def weights(self) -> Vectors:
        """All weights, settled: (tables, rows, dim)."""


Make = Callable[[Problem, Vectors], Entry]


class Server:
    """Makes entries, lets them take turns on the same ids, and checks what they trained."""

    def __init__(self, makers: Mapping[str, Make]) -> None:
        self._makers = makers

    def make(self, problem: dict[str, Any], names: list[str]) -> list[str]:
        """Make those of the entries that there are here; their names."""
        self._problem = Problem(**problem)
        one = self._problem
        sizes = Case("", "", rows=one.rows, dim=one.dim, ids=one.ids)
        self._draws = [Workload(sizes, table) for table in range(one.tables)]
        self._gradient = one.gradient()
        start = one.start()
        self._entries: dict[str, Entry] = {}  # those of the last problem are gone before the new ones come
        self._entries = {name: self._makers[name](one, start) for name in names if name in self._makers}
        self._span, self._batches = (0, 0), [self._drawn()]
        self._sample = self._sampled(self._batches[0])
        self._start = start.reshape(-1, one.dim)[self._sample]
        self._log = replay.Log(one.tables * one.rows, self._sample, one.dim)
        return list(self._entries)

    def turn(self, entry: str, first: int, count: int) -> list[tuple[float, float]]:
        """Train one entry by the steps from `first` on; CPU and wall seconds of each."""
        trained, times = self._entries[entry], []
        for given in [trained.prepared(ids) for ids in self._steps(first, first + count)]:
            wall, cpu = time.perf_counter(), time.process_time()
            trained.train(given)
            times.append((time.process_time() - cpu, time.perf_counter() - wall))
        return times

    def check(self) -> dict[str, Any]:
        """Compare vectors and weights of all entries; return the sampled rows of the first, and how far they have moved."""
        ids = self._drawn()
        held: dict[tuple[str, bool], Vectors] = {}
        kept: Vectors | None = None
        for name, entry in self._entries.items():
            found = entry.vectors(entry.prepared(ids))  # before `weights` settles all rows
            weights = entry.weights()
            self._check_vectors(name, found, weights, ids)
            rows = weights.reshape(-1, self._problem.dim)[self._sample]
            replay.check(self._log, entry.rule, self._start, rows, exact=entry.exact)
            first = held.setdefault((entry.rule, entry.exact), weights)
            apart = float(np.abs(weights - first).max() / np.spacing(np.abs(first).max()))
            if apart > OF_ROUNDING:
                raise AssertionError(f"{name}: weights are {apart:.0f} units in the last place from those of the first entry.")
            kept = rows if kept is None else kept
        assert kept is not None
        return {"rows": kept.tolist(), "moved": float(np.abs(kept - self._start).max())}

    def _check_vectors(self, name: str, found: Vectors, weights: Vectors, ids: Ids) -> None:
        """The vectors looked up are the sums of the weights' rows."""
        one = self._problem
        bags = ids.reshape(one.tables, one.batch, one.length)
        for table in range(one.tables):
            want = weights[table][bags[table]].sum(axis=1, dtype=np.float64)
            got = found[:, table * one.dim : (table + 1) * one.dim]
            if not np.abs(got - want).max() <= 4 * one.length * np.spacing(np.abs(want).max().astype(np.float32)):
                raise AssertionError(f"{name}: the vectors looked up in table {table} are not those of its weights.")

    def _drawn(self) -> Ids:
        return np.stack([workload.timed() for workload in self._draws])

    def _steps(self, start: int, stop: int) -> list[Ids]:
        """The ids of these steps: those of the last turn, or the next ones."""
        if (start, stop) != self._span:
            if start != self._span[1]:
                raise AssertionError(f"steps from {start} on, after those to {self._span[1]}.")
            self._span, self._batches = (start, stop), [self._drawn() for _ in range(start, stop)]
            gradients = self._of_each_id()
            for ids in self._batches:
                self._log.add(self._in_one(ids), gradients)
        return self._batches

    def _of_each_id(self) -> Vectors:
        """The gradient of each id, in the order of `_in_one`."""
        one = self._problem
        each = self._gradient.reshape(one.batch, one.tables, one.dim).swapaxes(0, 1)
        return np.repeat(each, one.length, axis=1).reshape(-1, one.dim)

    def _in_one(self, ids: Ids) -> Ids:
        """The ids in one table that has the rows of all."""
        return (ids + self._problem.rows * np.arange(self._problem.tables)[:, None]).reshape(-1)

    def _sampled(self, ids: Ids) -> Ids:
        """Distinct rows: most of them of a first batch, which are frequent ones, and some of all rows."""
        generator = np.random.default_rng(2)
        often = generator.choice(self._in_one(ids), REPLAYED - REPLAYED // 4)
        any_ = generator.integers(0, self._problem.tables * self._problem.rows, REPLAYED // 4)
        return np.unique(np.concatenate([often, any_]))


def serve(makers: Mapping[str, Make], versions: Callable[[], dict[str, str]]) -> None:
    """Answer requests, each a line of JSON with the name of a method and its arguments, until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    measure.hold_to(1)
    server = Server(makers)
    known: dict[str, Callable[..., Any]] = {"make": server.make, "turn": server.turn, "check": server.check}
    known["versions"] = lambda: {"python": sys.version.split()[0], "numpy": np.__version__, **versions()}
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(known[name](**arguments)), file=answers, flush=True)
