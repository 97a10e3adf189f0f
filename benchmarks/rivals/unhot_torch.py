"""unhot's layer and optimizers for PyTorch, in torch's training loop; and what they cost over unhot's own lookup and step."""

from __future__ import annotations

import time
from typing import Any

import measure
import numpy as np
import replay
from cases import Case
from workloads import Workload

from rivals import unhot_

TABLES = 26


class Trained:
    """As `torch_.Trained`, with two names changed."""

    def __init__(self, case: Case) -> None:
        import torch

        import unhot.torch

        torch.set_num_threads(case.threads)
        unhot.set_num_threads(case.threads)
        torch.manual_seed(0)
        self.torch = torch
        weight = torch.empty(case.rows, case.dim).uniform_(-0.05, 0.05)
        self.embedding = unhot.torch.Embedding(case.rows, case.dim, _weight=weight)
        kind = {"adam": unhot.torch.Adam, "adagrad": unhot.torch.Adagrad, "sgd": unhot.torch.SGD}[case.variant]
        rate = replay.ADAM_RATE if case.variant == "adam" else replay.RATES[case.variant]
        self.optimizer = kind(self.embedding.parameters(), lr=rate)

    def preload(self) -> None:
        for state in self.optimizer.state.values():
            for value in state.values():
                value.add_(0)

    def tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array)

    def step(self, ids: Any, gradients: Any) -> None:
        self.embedding(ids).backward(gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self, rows: Any) -> Any:
        with self.torch.no_grad():
            return self.embedding(self.torch.from_numpy(rows)).numpy()


class Tables:
    """`TABLES` tables in one model, in torch's loop and as tables of unhot's own."""

    def __init__(self, case: Case) -> None:
        import torch

        import unhot.torch

        torch.set_num_threads(case.threads)
        unhot.set_num_threads(case.threads)
        self.layers = torch.nn.ModuleList(unhot.torch.Embedding(case.rows, case.dim) for _ in range(TABLES))
        self.optimizer = unhot.torch.Adam(self.layers.parameters(), lr=replay.ADAM_RATE)
        rule = unhot.Adam(replay.ADAM_RATE, convention="torch")
        self.tables = [unhot.Table(case.rows, case.dim, optimizer=rule, seed=i) for i in range(TABLES)]
        self.torch = torch

    def loop(self, ids: list[Any], gradients: Any) -> None:
        self.torch.autograd.backward([layer(i) for layer, i in zip(self.layers, ids, strict=True)], [gradients] * TABLES)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def core(self, ids: list[Any], gradients: Any) -> None:
        for table, i in zip(self.tables, ids, strict=True):
            table.lookup(i)
        for table, i in zip(self.tables, ids, strict=True):
            table.step(i, gradients)


def overhead(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    """The time of torch's loop less that of the same lookups and steps without torch, in microseconds; taken in turns."""
    workload = Workload(case, round_)
    gradients = workload.gradients()[0]
    if case.task == "tables":
        model = Tables(case)
        loop, core = model.loop, model.core
        batches = [[workload.timed() for _ in range(TABLES)] for _ in range(60)]
    else:
        trained, own = Trained(case), unhot_.Trained(Case("unhot", "adam_torch", rows=case.rows, dim=case.dim))
        loop, core = (lambda ids, g: trained.step(ids[0], g)), (lambda ids, g: own.step(ids[0], g))
        batches = [[workload.timed()] for _ in range(200)]
    import torch

    given = torch.from_numpy(gradients)
    warm = measure.warm_steps(case) if case.task == "overhead" else 3 * case.rows // case.ids
    for _ in range(warm):
        ids = [workload.warm() for _ in range(TABLES if case.task == "tables" else 1)]
        loop([torch.from_numpy(i) for i in ids], given)
        core(ids, gradients)
    times: dict[str, list[float]] = {"loop": [], "core": []}
    for ids in batches:
        tensors = [torch.from_numpy(i) for i in ids]
        for name, run, what, grads in (("loop", loop, tensors, given), ("core", core, ids, gradients)):
            before = time.perf_counter()
            run(what, grads)
            times[name].append(time.perf_counter() - before)
    difference = np.array(times["loop"]) - np.array(times["core"])
    return {
        **measure.summary(times["loop"]),
        "core_seconds": float(np.median(times["core"])),
        "overhead": float(np.median(difference)),
        "others_busy": 0.0,
    }


def versions() -> dict[str, str]:
    import torch

    return {**unhot_.versions(), "torch": torch.__version__}


if __name__ == "__main__":
    measure.main(Trained, versions, {"overhead": overhead, "tables": overhead})
