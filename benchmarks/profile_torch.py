"""Where the time of torch's training loop goes, beside the same work without torch, by turns.

    python benchmarks/profile_torch.py [--tables 26 --rows 100000]

Medians in microseconds, for each table; the timers' own time is in them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from cases import Case
from measure import hold_to
from rivals.torch_loss import loss
from rivals.unhot_torch import Core, Tables
from workloads import Workload

from unhot.torch.backend import TorchBackend
from unhot.torch.clocks import Step
from unhot.torch.layer import Embedding
from unhot.torch.lookup import RowLookup

PARTS = (
    "forward", "  Embedding.forward", "    TorchBackend.lookup", "      TorchBackend.read",
    "loss", "backward", "  RowLookup.backward",
    "step", "  TorchBackend.prepare", "  Step.make", "    TorchBackend.gradients",
    "zero_grad", "letting go", "all",
)  # fmt: skip


class Clock:
    """The seconds that each part took in a turn; parts that come several times in a turn are added up."""

    def __init__(self) -> None:
        self.turns: list[dict[str, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            turn = self.turns[-1]
            turn[name] = turn.get(name, 0.0) + time.perf_counter() - begun

    def watch(self, kind: type, name: str, *, static: bool = False) -> None:
        """Time a method as a part of its own."""
        function: Callable[..., Any] = getattr(kind, name)
        label = next(part for part in PARTS if part.strip() == f"{kind.__name__}.{name}")

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(label):
                return function(*args, **kwargs)

        setattr(kind, name, staticmethod(timed) if static else timed)


def with_torch(clock: Clock, model: Tables, ids: list[Any], gradients: Any) -> None:
    """`Tables.loop`, in parts."""
    clock.turns.append({})
    with clock.part("all"):
        with clock.part("forward"):
            found = [layer(i) for layer, i in zip(model.layers, ids, strict=True)]
        with clock.part("loss"):
            losses = [loss(vectors, gradients) for vectors in found]
            total = sum(losses[1:], losses[0])
        with clock.part("backward"):
            total.backward()
        with clock.part("step"):
            model.optimizer.step()
        with clock.part("zero_grad"):
            model.optimizer.zero_grad()
        with clock.part("letting go"):
            del found, losses, total


def without(clock: Clock, core: Core, ids: list[Any], gradients: Any) -> None:
    """`Core.loop`, in parts."""
    clock.turns.append({})
    with clock.part("all"):
        given = gradients.numpy()
        with clock.part("forward"):
            found = [table.lookup(i.numpy()) for table, i in zip(core.tables, ids, strict=True)]
        with clock.part("loss"):
            losses = [np.vdot(vectors, given) for vectors in found]
        with clock.part("backward"):
            backward = [np.ones_like(one) * given for one in losses]
        with clock.part("step"):
            for table, i, gradient in zip(core.tables, ids, backward, strict=True):
                table.step(i.numpy(), gradient)
        with clock.part("letting go"):
            del found, losses, backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ids", type=int, default=4096)
    parser.add_argument("--turns", type=int, default=300)
    given = parser.parse_args()
    case = Case("unhot_torch", "adam", "overhead" if given.tables == 1 else "tables", rows=given.rows, ids=given.ids)
    hold_to(case.threads)
    workload, clocks = Workload(case, 0), (Clock(), Clock())
    gradients = torch.from_numpy(workload.gradients()[0])
    model, core = Tables(case, given.tables), Core(case, given.tables)
    clocks[0].watch(Embedding, "forward")
    for name in ("lookup", "read", "prepare", "gradients"):
        clocks[0].watch(TorchBackend, name)
    clocks[0].watch(Step, "make")
    clocks[0].watch(RowLookup, "backward", static=True)
    for turn in range(given.turns + 3 * given.rows // given.ids):
        ids = [torch.from_numpy(workload.warm()) for _ in range(given.tables)]
        for which in (0, 1) if turn % 2 else (1, 0):  # the first finds the gradients in memory, the second in the cache
            if which:
                without(clocks[1], core, ids, gradients)
            else:
                with_torch(clocks[0], model, ids, gradients)
    print(f"{'':28}{'torch':>8}{'core':>8}{'more':>8}")
    for part in PARTS:
        with_, core_ = (1e6 * median(t.get(part, 0.0) for t in c.turns[-given.turns :]) / given.tables for c in clocks)
        print(f"{part:28}{with_:>8.0f}" + ("" if part.startswith(" ") else f"{core_:>8.0f}{with_ - core_:>8.0f}"))


if __name__ == "__main__":
    main()
