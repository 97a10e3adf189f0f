"""Part 3: milliseconds of a step by the size of the table, by turns with what is compared.

A step is a lookup, a loss, its backward pass and an optimizer's step, with new ids each time (workloads.py). CUDA events time
it. Every result is checked against a replay of some rows in NumPy and float64 (replay.py). Where all rivals make the same
steps, the vectors of unhot are compared with those of dense training, too.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from math import ceil
from statistics import median
from typing import Any

import machine
import numpy as np
import replay
import torch
from cases import Case
from workloads import Workload

from on_gpu.loops import DIM, Loop, wait
from on_gpu.names import RIVALS
from on_gpu.record import Budget, Record, said

UNCOUNTED = 5
"""Steps at the beginning of a turn that are not timed: the other rivals have had the caches in the meantime."""

MOST_WARM = 2000
"""Steps before the timed ones, at most. Tables of more than three million rows would need more for most rows of a batch to have
been touched before. How many steps there were is in the file."""

WARM_DENSE = 5
ALL_ALIKE = 1_000_000
"""Up to so many rows, all rivals make the same steps."""

SPARE = 1 << 30
"""Bytes of the device's memory that are left for what a step needs beside the tables."""

Ids = Any


class Work:
    """The ids and gradients of all steps with a table of one size."""

    def __init__(self, rows: int, ids: int, rounds: int, steps: int, device: str) -> None:
        workload = Workload(Case("unhot_torch", "adam", "loop", rows=rows, dim=DIM, ids=ids), 0)
        self.rows, self.ids, self.device = rows, ids, device
        self.warm = [workload.warm() for _ in range(min(MOST_WARM, max(30, ceil(3 * rows / ids))))]
        self.turns = [[workload.timed() for _ in range(UNCOUNTED + steps)] for _ in range(rounds)]
        self.gradients = workload.gradients()
        self.given = [torch.from_numpy(array).to(device) for array in self.gradients]
        self.sample = workload.sample([batch for turn in self.turns for batch in turn])
        self.probe = np.unique(np.concatenate([self.sample, self.turns[-1][-1]]))

    def warm_steps(self, name: str) -> int:
        """How many steps a rival makes before the first turn."""
        return len(self.warm) if name == "unhot" or self.rows <= ALL_ALIKE else WARM_DENSE


class Trained:
    """A rival that trains, and what its result is checked by."""

    def __init__(self, name: str, work: Work) -> None:
        self.name, self.work = name, work
        self.loop = Loop(name, work.rows, work.device)
        self.log = replay.Log(work.rows, work.sample, DIM)
        self.start, self.before = self.loop.vectors(work.sample), self.loop.vectors(work.probe)
        for ids in work.warm[: work.warm_steps(name)]:
            self.loop(torch.from_numpy(ids).to(work.device), work.given[self.log.steps % len(work.given)])
            self.note(ids)
        wait(work.device)

    def note(self, ids: Ids) -> None:
        gradients = self.work.gradients
        self.log.add(ids, gradients[self.log.steps % len(gradients)])

    def turn(self, batches: Sequence[Ids]) -> list[float]:
        """Make these steps: the milliseconds of each that counts."""
        work = self.work
        first = self.log.steps
        given = [
            (torch.from_numpy(ids).to(work.device), work.given[(first + i) % len(work.given)]) for i, ids in enumerate(batches)
        ]
        wait(work.device)
        marks = [mark(work.device)]
        for step in given:
            self.loop(*step)
            marks.append(mark(work.device))
        wait(work.device)
        for ids in batches:
            self.note(ids)
        return [between(a, b) for a, b in pairwise(marks)][UNCOUNTED:]

    def check(self) -> dict[str, float]:
        """How far the result is from dense training of some rows; AssertionError if it is too far."""
        rival = RIVALS[self.name]
        got = self.loop.vectors(self.work.sample)
        return replay.check(self.log, rival.rule, self.start, got, exact=self.name == "unhot", dense=rival.dense)

    def settle(self) -> float:
        """The milliseconds that it takes to bring all rows up to date, as for saving them."""
        wait(self.work.device)
        begun = time.perf_counter()
        self.loop.layer.weight.detach()
        wait(self.work.device)
        return 1e3 * (time.perf_counter() - begun)


def mark(device: str) -> Any:
    """This moment: on a GPU, that at which it has done what it was given so far."""
    if device == "cpu":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def between(a: Any, b: Any) -> float:
    """Milliseconds from one mark to another."""
    return 1e3 * (b - a) if isinstance(a, float) else float(a.elapsed_time(b))


# ---------------------------------------------------------------- sizes


def run(record: Record, device: str, budget: Budget, sizes: Sequence[int], ids: int, rounds: int, steps: int) -> bool:
    """Time the rivals at each size, the small ones first, until the time is over. Whether nothing went wrong."""
    result: dict[str, Any] = {"ids": ids, "dim": DIM, "rounds": rounds, "steps": steps, "sizes": []}
    record.data["times"] = result
    for rows in sorted(sizes):
        told: dict[str, Any] = {"rows": rows, "rivals": {}}
        result["sizes"].append(told)
        if budget.out:
            told["not_run"] = "the time was over"
        else:
            Size(told, record, budget, Work(rows, ids, rounds, steps, device)).run()
        collect(device)
        result["seconds"] = budget.used
        record.save()
    return not any("error" in found for told in result["sizes"] for found in (told, *told["rivals"].values()))


class Size:
    """The measurement at one size of table."""

    def __init__(self, told: dict[str, Any], record: Record, budget: Budget, work: Work) -> None:
        self.told, self.record, self.budget, self.work = told, record, budget, work
        self.held: dict[str, Trained] = {}
        free = memory_free(work.device)
        self.names = []
        for name in RIVALS:
            need = bytes_needed(name, work.rows)
            told["rivals"][name] = {"warm_steps": work.warm_steps(name), "medians": []}
            if need > free:
                told["rivals"][name]["not_run"] = f"needs {need / 2**30:.0f} GiB, {free / 2**30:.0f} are free"
            else:
                self.names.append(name)
        # All at once if there is room, and otherwise made anew for each turn.
        self.keep = told["made_once"] = sum(bytes_needed(name, work.rows) for name in self.names) <= free

    def run(self) -> None:
        for number, batches in enumerate(self.work.turns):
            for place in range(len(self.names)):
                name = self.names[(place + number) % len(self.names)]
                if "error" in self.told["rivals"][name] or (self.budget.out and number):
                    continue
                try:
                    self._turn(name, batches)
                except Exception as error:
                    self.told["rivals"][name]["error"] = said(error)
                if not self.keep:
                    collect(self.work.device)
            self.record.save()
        try:
            if {"dense", "unhot"} <= self.held.keys() and self.work.rows <= ALL_ALIKE:
                self.told["largest_difference"] = self._difference()
            if "unhot" in self.held:
                self._settle(self.held["unhot"])
        except Exception as error:
            self.told["error"] = said(error)
        self.held.clear()

    def _turn(self, name: str, batches: Sequence[Ids]) -> None:
        found = self.told["rivals"][name]
        trained = self.held.pop(name, None) or Trained(name, self.work)
        times = trained.turn(batches)
        found["check"] = trained.check()
        found["medians"].append(median(times))
        found["milliseconds"] = median(found["medians"])
        if self.keep:
            self.held[name] = trained
        elif name == "unhot" and "settle_all_milliseconds" not in found:
            self._settle(trained)

    def _settle(self, trained: Trained) -> None:
        """Not before the last step of a table: rows that are settled have no deferred steps."""
        self.told["rivals"]["unhot"]["settle_all_milliseconds"] = trained.settle()

    def _difference(self) -> float:
        """The largest distance of unhot's vectors from dense training's; AssertionError if it is more than both may be away."""
        dense, ours = self.held["dense"], self.held["unhot"]
        assert dense.log.steps == ours.log.steps, "they did not make the same steps"
        theirs, got = (trained.loop.vectors(self.work.probe).astype(np.float64) for trained in (dense, ours))
        moved = np.abs(theirs - dense.before).max(axis=1)
        unit = np.spacing(np.abs(theirs).max(axis=1).astype(np.float32)).astype(np.float64)
        allowed = 2 * (replay.OF_MOVEMENT * moved + (8 + dense.log.steps / 2) * unit)
        distance = np.abs(got - theirs).max(axis=1)
        worst = int(np.argmax(distance / allowed))
        assert distance[worst] <= allowed[worst], (
            f"row {self.work.probe[worst]} of unhot is {distance[worst]:.3g} away from dense training after {dense.log.steps}"
            f" steps; {allowed[worst]:.3g} is allowed"
        )
        return float(distance.max())


def bytes_needed(name: str, rows: int) -> int:
    return RIVALS[name].tables * rows * DIM * 4 + 8 * rows


def memory_free(device: str) -> int:
    """Bytes that tables may take."""
    if device == "cpu":
        return (machine.memory_available() or (4 << 30)) - SPARE
    return int(torch.cuda.mem_get_info(device)[0]) - SPARE


def collect(device: str) -> None:
    """Give back what is no longer used."""
    gc.collect()
    if device != "cpu":
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
