"""Ways to train many tables with unhot, and torch's sparse EmbeddingBag: entries for `many_tables.py`."""

from __future__ import annotations

from typing import Any

import numpy as np
import replay
import torch
import turns
from turns import Problem, Vectors
from workloads import Ids

import unhot.torch
from rivals import unhot_torch

RULES = {"adam": "adam_torch", "adagrad": "adagrad"}


class InTorch:
    """What the entries in torch's training loop have in common."""

    exact = True

    def __init__(self, problem: Problem, start: Vectors) -> None:
        self.problem, self.rule = problem, RULES[problem.rule]
        self.gradient = torch.from_numpy(problem.gradient())
        self.optimizer: Any = None

    def optimize(self, module: torch.nn.Module) -> None:
        """Make the optimizer."""
        kind = {"adam": unhot.torch.Adam, "adagrad": unhot.torch.Adagrad}[self.problem.rule]
        rate = replay.RATES.get(self.problem.rule, replay.ADAM_RATE)
        self.optimizer = kind(module.parameters(), lr=rate)

    def forward(self, given: Any) -> Any:
        """(batch, tables * dim)."""
        raise NotImplementedError

    def train(self, given: Any) -> None:
        self.forward(given).backward(self.gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def vectors(self, given: Any) -> Vectors:
        with torch.no_grad():
            found: Vectors = self.forward(given).numpy()
        return found


class OneTable(InTorch):
    """One layer that has the rows of all tables: the caller adds to each id where its table begins."""

    def __init__(self, problem: Problem, start: Vectors) -> None:
        super().__init__(problem, start)
        rows = torch.from_numpy(start.reshape(-1, problem.dim)).clone()
        self.layer = unhot.torch.Embedding(len(rows), problem.dim, _weight=rows)
        self.optimize(self.layer)
        self.begins = problem.rows * torch.arange(problem.tables)

    def prepared(self, ids: Ids) -> Any:
        return torch.from_numpy(np.ascontiguousarray(ids.T))

    def forward(self, given: Any) -> Any:
        return self.layer(given + self.begins).view(len(given), -1)

    def weights(self) -> Vectors:
        found: Vectors = self.layer.weight.detach().numpy().reshape(self.problem.tables, -1, self.problem.dim)
        return found


class Layers(InTorch):
    """A layer for each table, whose vectors go their own ways."""

    def __init__(self, problem: Problem, start: Vectors) -> None:
        super().__init__(problem, start)
        made = (unhot.torch.Embedding(problem.rows, problem.dim, _weight=torch.from_numpy(table).clone()) for table in start)
        self.layers = torch.nn.ModuleList(made)
        self.optimize(self.layers)
        self.gradients = [part.contiguous() for part in self.gradient.chunk(problem.tables, dim=1)]

    def prepared(self, ids: Ids) -> Any:
        return [torch.from_numpy(one) for one in ids]

    def each(self, given: Any) -> list[Any]:
        """What each table gives."""
        return [layer(ids) for layer, ids in zip(self.layers, given, strict=True)]

    def forward(self, given: Any) -> Any:
        return torch.cat(self.each(given), dim=1)

    def train(self, given: Any) -> None:
        torch.autograd.backward(self.each(given), self.gradients)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def weights(self) -> Vectors:
        layers: Any = self.layers
        return np.stack([layer.weight.detach().numpy() for layer in layers])


class Concatenated(Layers):
    """The same, with the vectors of all tables in one tensor, as the other entries give it."""

    train = InTorch.train


class Collection(InTorch):
    """`unhot.torch.EmbeddingCollection`."""

    def __init__(self, problem: Problem, start: Vectors) -> None:
        super().__init__(problem, start)
        self.names = [f"t{table}" for table in range(problem.tables)]
        self.collection = unhot.torch.EmbeddingCollection(dict.fromkeys(self.names, (problem.rows, problem.dim)))
        with torch.no_grad():
            for parameter, table in zip(self.collection.parameters(), start, strict=True):
                parameter.copy_(torch.from_numpy(table))
        self.optimize(self.collection)

    def prepared(self, ids: Ids) -> Any:
        return {name: torch.from_numpy(one) for name, one in zip(self.names, ids, strict=True)}

    def forward(self, given: Any) -> Any:
        return self.collection(given)

    def weights(self) -> Vectors:
        return np.stack([parameter.detach().numpy() for parameter in self.collection.parameters()])


class Bags(InTorch):
    """`EmbeddingBag`, of one table."""

    layer: torch.nn.EmbeddingBag

    def __init__(self, problem: Problem, start: Vectors) -> None:
        super().__init__(problem, start)
        rows = torch.from_numpy(start[0]).clone()
        self.offsets = torch.arange(0, problem.ids, problem.length)
        self.layer = self.make(rows)

    def make(self, rows: torch.Tensor) -> torch.nn.EmbeddingBag:
        """The layer; and its optimizer."""
        layer = unhot.torch.EmbeddingBag(self.problem.rows, self.problem.dim, mode="sum", _weight=rows)
        self.optimize(layer)
        return layer

    def prepared(self, ids: Ids) -> Any:
        return torch.from_numpy(ids[0])

    def forward(self, given: Any) -> Any:
        return self.layer(given, self.offsets)

    def weights(self) -> Vectors:
        found: Vectors = self.layer.weight.detach().numpy()[None]
        return found


class SparseBags(Bags):
    """The same with torch's own layer and SparseAdam, which is another algorithm than Adam."""

    exact = False

    def make(self, rows: torch.Tensor) -> torch.nn.EmbeddingBag:
        layer = torch.nn.EmbeddingBag(self.problem.rows, self.problem.dim, mode="sum", sparse=True, _weight=rows)
        self.optimizer = torch.optim.SparseAdam(layer.parameters(), lr=replay.ADAM_RATE)
        self.rule = "adam_masked"
        return layer


class OneByOne:
    """The core alone: a `unhot.Table` for each table."""

    exact, rule = True, "adam_torch"

    def __init__(self, problem: Problem, start: Vectors) -> None:
        self.problem = problem
        optimizer = unhot.Adam(replay.ADAM_RATE, convention="torch")
        self.tables = [unhot.Table.from_array(table, optimizer=optimizer) for table in start]
        each = problem.gradient().reshape(problem.batch, problem.tables, problem.dim).swapaxes(0, 1)
        self.gradients = list(np.ascontiguousarray(each))

    def prepared(self, ids: Ids) -> Any:
        return list(ids)

    def lookup(self, given: Any) -> Any:
        """The vectors of each table."""
        return [table.lookup(ids) for table, ids in zip(self.tables, given, strict=True)]

    def train(self, given: Any) -> None:
        self.lookup(given)
        for table, ids, gradients in zip(self.tables, given, self.gradients, strict=True):
            table.step(ids, gradients)

    def vectors(self, given: Any) -> Vectors:
        return np.concatenate(list(self.lookup(given)), axis=1)

    def weights(self) -> Vectors:
        return np.stack([table.array for table in self.tables])


class InOne:
    """The core alone: one `unhot.Table` that has the rows of all."""

    exact, rule = True, "adam_torch"

    def __init__(self, problem: Problem, start: Vectors) -> None:
        self.problem = problem
        optimizer = unhot.Adam(replay.ADAM_RATE, convention="torch")
        self.table = unhot.Table.from_array(start.reshape(-1, problem.dim), optimizer=optimizer)
        self.begins = problem.rows * np.arange(problem.tables)
        self.gradients = problem.gradient().reshape(problem.batch, problem.tables, problem.dim)

    def prepared(self, ids: Ids) -> Any:
        return np.ascontiguousarray(ids.T)

    def train(self, given: Any) -> None:
        ids = given + self.begins
        self.table.lookup(ids)
        self.table.step(ids, self.gradients)

    def vectors(self, given: Any) -> Vectors:
        return self.table.lookup(given + self.begins).reshape(len(given), -1)

    def weights(self) -> Vectors:
        return self.table.array.reshape(self.problem.tables, -1, self.problem.dim)


class OneCall:
    """`unhot.TableCollection`: the tables of `OneByOne`, through one call for all."""

    exact, rule = True, "adam_torch"

    def __init__(self, problem: Problem, start: Vectors) -> None:
        tables = iter(start)
        self.tables = unhot.TableCollection(
            {f"t{table}": (problem.rows, problem.dim) for table in range(problem.tables)},
            optimizer=unhot.Adam(replay.ADAM_RATE, convention="torch"),
            init=lambda shape: next(tables),
        )
        self.gradients = problem.gradient().reshape(problem.batch, -1)

    def prepared(self, ids: Ids) -> Any:
        return np.ascontiguousarray(ids.T)

    def train(self, given: Any) -> None:
        self.tables.lookup(given)
        self.tables.step(given, self.gradients)

    def vectors(self, given: Any) -> Vectors:
        return self.tables.lookup(given)

    def weights(self) -> Vectors:
        return np.stack([self.tables.array(name) for name in self.tables])


MAKERS: dict[str, turns.Make] = {
    "one": OneTable, "layers": Layers, "concatenated": Concatenated, "bags": Bags, "sparse_bags": SparseBags,
    "core_one": InOne, "core_each": OneByOne, "core_call": OneCall, "collection": Collection,
}  # fmt: skip

if __name__ == "__main__":
    torch.set_num_threads(1)
    unhot.set_num_threads(1)
    turns.serve(MAKERS, unhot_torch.versions)
