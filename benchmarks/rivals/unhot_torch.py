"""unhot's layer and optimizers for PyTorch, in torch's training loop; and what they cost over unhot's own lookup and step."""

from __future__ import annotations

import time
from typing import Any

import measure
import numpy as np
import replay
from cases import TABLES, Case
from workloads import Workload

from rivals import unhot_
from rivals.torch_loss import loss


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

    def loop(self, ids: Any, gradients: Any) -> None:
        loss(self.embedding(ids), gradients).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self, rows: Any) -> Any:
        with self.torch.no_grad():
            return self.embedding(self.torch.from_numpy(rows)).numpy()


class Tables:
    """Many tables in one model, in torch's training loop."""

    def __init__(self, case: Case, tables: int) -> None:
        import torch

        import unhot.torch

        torch.set_num_threads(case.threads)
        unhot.set_num_threads(case.threads)
        self.layers = torch.nn.ModuleList(unhot.torch.Embedding(case.rows, case.dim) for _ in range(tables))
        self.optimizer = unhot.torch.Adam(self.layers.parameters(), lr=replay.ADAM_RATE)

    def loop(self, ids: list[Any], gradients: Any) -> None:
        losses = [loss(layer(i), gradients) for layer, i in zip(self.layers, ids, strict=True)]
        sum(losses[1:], losses[0]).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class Core:
    """The same work without torch: unhot's own tables, and the loss in NumPy."""

    def __init__(self, case: Case, tables: int) -> None:
        import unhot

        rule = unhot.Adam(replay.ADAM_RATE, convention="torch")
        self.tables = [unhot.Table(case.rows, case.dim, optimizer=rule, seed=i) for i in range(tables)]

    def loop(self, ids: list[Any], gradients: Any) -> None:
        given = gradients.numpy()
        found = [table.lookup(i.numpy()) for table, i in zip(self.tables, ids, strict=True)]
        losses = [np.vdot(vectors, given) for vectors in found]
        backward = [np.ones_like(loss) * given for loss in losses]  # an array each, as torch's backward pass makes them
        for table, i, gradient in zip(self.tables, ids, backward, strict=True):
            table.step(i.numpy(), gradient)


class ByHand(Core):
    """The core's own lookups and steps around torch's loss and its backward pass, which `unhot.torch` spares its user."""

    def loop(self, ids: list[Any], gradients: Any) -> None:
        import torch

        found = [torch.from_numpy(t.lookup(i.numpy())).requires_grad_() for t, i in zip(self.tables, ids, strict=True)]
        losses = [loss(vectors, gradients) for vectors in found]
        sum(losses[1:], losses[0]).backward()
        for table, i, vectors in zip(self.tables, ids, found, strict=True):
            table.step(i.numpy(), vectors.grad.numpy())


class Empty:
    """Torch's loop with as little in it as can be: a function that looks up in `table`, and an optimizer that steps it."""

    def __init__(self, table: Any) -> None:
        import torch

        class Lookup(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, weight: Any, ids: Any) -> Any:
                return torch.from_numpy(table.lookup(ids.numpy()))

            @staticmethod
            def backward(ctx: Any, gradient: Any) -> Any:
                self.gradient = gradient
                return None, None

        class Layer(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = torch.nn.Parameter(torch.zeros(1))

            def forward(self, ids: Any) -> Any:
                return Lookup.apply(self.weight, ids)

        class Optimizer(torch.optim.Optimizer):
            def step(self, ids: Any, gradients: Any) -> None:  # type: ignore[override]
                table.step(ids.numpy(), gradients.numpy())

        self.layer = Layer()
        self.optimizer = Optimizer(self.layer.parameters(), {})

    def loop(self, ids: list[Any], gradients: Any) -> None:
        loss(self.layer(ids[0]), gradients).backward()
        self.optimizer.step(ids[0], self.gradient)
        self.optimizer.zero_grad()
        self.gradient = None


def overhead(case: Case, round_: int, seconds: float, make: Any) -> dict[str, Any]:
    """The time of a step of torch's loop over that of the others.

    They take turns, each for some steps in a row, the first of which are not counted: the others have had the caches.
    """
    import torch

    workload, tables = Workload(case, round_), TABLES if case.task == "tables" else 1
    given = torch.from_numpy(workload.gradients()[0])
    runs = {"loop": Tables(case, tables).loop, "by_hand": ByHand(case, tables).loop, "without_torch": Core(case, tables).loop}
    if tables == 1:
        runs["empty"] = Empty(Core(case, 1).tables[0]).loop
    for _ in range(3 * case.rows // case.ids):
        ids = [torch.from_numpy(workload.warm()) for _ in range(tables)]
        for run in runs.values():
            run(ids, given)
    names, (turns, steps, unused) = list(runs), (40, 20, 5) if tables == 1 else (16, 8, 2)
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for turn in range(turns):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            times[name].append([_timed(runs[name], workload, tables, given) for _ in range(steps)][unused:])
    middle = {name: np.median(of_turns, axis=1) for name, of_turns in times.items()}
    # Differences within a turn, since the machine's speed varies.
    over = {name: float(np.median(middle["loop"] - middle[name])) for name in runs}
    empty = {"empty": float(np.median(middle["empty"] - middle["by_hand"]))} if "empty" in runs else {}
    return {
        **measure.summary([seconds for turn in times["loop"] for seconds in turn]),
        "overhead": over["by_hand"],
        "over_without_torch": over["without_torch"],
        **empty,
        "others_busy": 0.0,
    }


def _timed(run: Any, workload: Workload, tables: int, gradients: Any) -> float:
    import torch

    ids = [torch.from_numpy(workload.timed()) for _ in range(tables)]
    before = time.perf_counter()
    run(ids, gradients)
    return time.perf_counter() - before


def versions() -> dict[str, str]:
    import torch

    return {**unhot_.versions(), "torch": torch.__version__}


if __name__ == "__main__":
    measure.main(Trained, versions, {"overhead": overhead, "tables": overhead})
