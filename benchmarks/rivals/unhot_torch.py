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
                value.data.add_(0)  # no write that the optimizer would have to follow

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
        found = [table.lookup(i.numpy()) for table, i in zip(self.tables, ids, strict=True)]
        for table, i in zip(self.tables, ids, strict=True):
            table.step(i.numpy(), gradients.numpy())
        del found  # kept until here, as a model keeps them


class Empty:
    """Torch's loop with as little in it as can be: a function that looks up in `own`, and an optimizer that steps it."""

    def __init__(self, own: unhot_.Trained) -> None:
        import torch

        class Lookup(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, weight: Any, ids: Any) -> Any:
                return torch.from_numpy(own.table.lookup(ids.numpy()))

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                return None, None

        class Layer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, ids: Any) -> Any:
                return Lookup.apply(self.weight, ids)

        class Optimizer(torch.optim.Optimizer):
            def step(self, ids: Any, gradients: Any) -> None:  # type: ignore[override]
                own.table.step(ids.numpy(), gradients.numpy())

        self.layer = Layer()
        self.optimizer = Optimizer(self.layer.parameters(), {})

    def step(self, ids: Any, gradients: Any) -> None:
        self.layer(ids).backward(gradients)
        self.optimizer.step(ids, gradients)
        self.optimizer.zero_grad()


def overhead(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    """The time of torch's loop less that of the same lookups and steps without torch, in microseconds; taken in turns."""
    workload = Workload(case, round_)
    gradients = workload.gradients()[0]
    import torch

    tables, runs = 1, {}
    if case.task == "tables":
        model, tables = Tables(case), TABLES
        runs = {"loop": model.loop, "core": model.core}
    else:
        trained, own = Trained(case), unhot_.Trained(Case("unhot", "adam_torch", rows=case.rows, dim=case.dim))
        empty = Empty(own)
        runs["loop"] = lambda ids, given: trained.step(ids[0], given)
        runs["core"] = lambda ids, given: own.step(ids[0].numpy(), given.numpy())
        runs["empty"] = lambda ids, given: empty.step(ids[0], given)
    given = torch.from_numpy(gradients)
    for _ in range(measure.warm_steps(case) if case.task == "overhead" else 3 * case.rows // case.ids):
        ids = [torch.from_numpy(workload.warm()) for _ in range(tables)]
        runs["loop"](ids, given)
        runs["core"](ids, given)
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(200 if tables == 1 else 60):
        for i in range(len(names)):  # in turns, since the first finds the gradients in memory, the others in the cache
            name = names[(i + turn) % len(names)]
            ids = [torch.from_numpy(workload.timed()) for _ in range(tables)]
            before = time.perf_counter()
            runs[name](ids, given)
            times[name].append(time.perf_counter() - before)
    core = float(np.median(times["core"]))
    over = {name: float(np.median(times[name])) - core for name in names}
    return {
        **measure.summary(times["loop"]),
        "core_seconds": core,
        "overhead": over["loop"],
        **({"empty": over["empty"]} if "empty" in over else {}),
        "others_busy": 0.0,
    }


def versions() -> dict[str, str]:
    import torch

    return {**unhot_.versions(), "torch": torch.__version__}


if __name__ == "__main__":
    measure.main(Trained, versions, {"overhead": overhead, "tables": overhead})
