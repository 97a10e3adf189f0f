"""torch.nn.Embedding with Adam (dense gradients), or SparseAdam, Adagrad or SGD (sparse=True)."""

from __future__ import annotations

from typing import Any

import measure
import replay
from cases import Case

from rivals.torch_loss import loss


class Trained:
    def __init__(self, case: Case) -> None:
        import torch

        torch.set_num_threads(case.threads)
        torch.manual_seed(0)
        self.torch = torch
        weight = torch.empty(case.rows, case.dim).uniform_(-0.05, 0.05)
        sparse = not case.variant.startswith("adam_") and case.variant != "adam"
        self.embedding = torch.nn.Embedding(case.rows, case.dim, sparse=sparse, _weight=weight)
        parameters = self.embedding.parameters()
        make = {
            "adam": lambda: torch.optim.Adam(parameters, lr=replay.ADAM_RATE),
            "adam_fused": lambda: torch.optim.Adam(parameters, lr=replay.ADAM_RATE, fused=True),
            "sparse_adam": lambda: torch.optim.SparseAdam(parameters, lr=replay.ADAM_RATE),
            "adagrad": lambda: torch.optim.Adagrad(parameters, lr=replay.RATES["adagrad"]),
            "sgd": lambda: torch.optim.SGD(parameters, lr=replay.RATES["sgd"]),
        }
        self.optimizer = make[case.variant]()

    def preload(self) -> None:
        for state in self.optimizer.state.values():
            for value in state.values():
                if isinstance(value, self.torch.Tensor) and value.is_floating_point():
                    value.data.add_(0)  # no write that an optimizer would have to follow

    def tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array)

    def step(self, ids: Any, gradients: Any) -> None:
        self.embedding(ids).backward(gradients)
        self._update()

    def loop(self, ids: Any, gradients: Any) -> None:
        loss(self.embedding(ids), gradients).backward()
        self._update()

    def _update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self, rows: Any) -> Any:
        return self.embedding.weight.detach()[self.torch.from_numpy(rows)].numpy()


class Settled:
    def __init__(self, case: Case) -> None:
        import torch

        torch.set_num_threads(case.threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.table = torch.empty(case.rows, case.dim).uniform_(-0.05, 0.05)
        self._out = torch.zeros(case.ids, case.dim) if case.variant == "out" else None

    def tensor(self, array: Any) -> Any:
        return self.torch.from_numpy(array)

    def lookup(self, ids: Any) -> Any:
        if self._out is not None:
            return self.torch.index_select(self.table, 0, ids, out=self._out)
        return self.torch.nn.functional.embedding(ids, self.table)

    def weights(self, rows: Any) -> Any:
        return self.table.numpy()[rows]


def make(case: Case) -> Any:
    return Settled(case) if case.task == "lookup" else Trained(case)


def versions() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__}


if __name__ == "__main__":
    measure.main(make, versions)
