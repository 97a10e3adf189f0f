"""Several tables of one optimizer, which share a clock for as long as all of them make each step, against torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unhot.torch
from unhot.clock.measure import MeasureClock
from unhot.torch.placement import KERNELS

from .twins import ROWS, _double, by_rows, close, deferred  # noqa: F401

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Adagrad": {"lr": 0.1, "lr_decay": 0.01},
    "AdamW": {"lr": 0.05, "amsgrad": True},
    "Adam": {"lr": 0.05, "maximize": True},
    "NAdam": {"lr": 0.02},
    "Adamax": {"lr": 0.02},
}
TABLES = 5


class Model(nn.Module):
    """Two tables of rows and three of bags, of different sizes."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList(
            [
                module.Embedding(ROWS, 3),
                module.EmbeddingBag(ROWS - 7, 2, mode="sum"),
                module.Embedding(ROWS, 2, padding_idx=1),
                module.EmbeddingBag(ROWS, 3, mode="mean"),
                module.EmbeddingBag(9, 3, mode="sum"),
            ]
        )

    def loss(self, used: list[int], seed: int) -> Tensor:
        """Of a few rows of the tables that are used; bags of 0 to 3 ids, with factors in one of the tables."""
        rng = np.random.default_rng(seed)
        total = torch.zeros(())
        for place in used:
            table: Any = self.tables[place]
            ids = torch.from_numpy(rng.integers(len(table.weight) if seed % 20 == 0 else 5, size=6))
            if isinstance(table, nn.EmbeddingBag):
                starts = torch.tensor([0, *sorted(rng.integers(0, 7, size=3))])
                factors = torch.from_numpy(rng.normal(size=6)) if place == 1 else None
                found = table(ids, starts, factors)
            else:
                found = table(ids)
            total = total + (found - np.sin(seed + place)).square().sum()
        return total


Pair = tuple[Model, torch.optim.Optimizer]


def pairs(name: str) -> Iterator[Pair]:
    """Torch's and ours, each with the tables in two groups."""
    for layers, optimizers in ((nn, torch.optim), (unhot.torch, unhot.torch)):
        model = Model(layers)
        weights = [table.weight for table in model.tables]
        groups: Any = [{"params": weights[:3]}, {"params": weights[3:], "lr": 0.03}]
        yield model, getattr(optimizers, name)(groups, **OPTIMIZERS[name])


def step(pair: Pair, used: list[int], seed: int, penalty: int | None = None) -> None:
    """Of the tables that are used: others have no gradient. `penalty` is the table that has a dense one."""
    model, optimizer = pair
    optimizer.zero_grad()
    loss = model.loss(used, seed)
    if penalty is not None:
        loss = loss + 0.1 * model.tables[penalty].weight.square().sum()
    sign = -1 if optimizer.param_groups[0].get("maximize") else 1
    (sign * loss).backward()
    optimizer.step()


def meanwhile(pair: Pair, what: int, place: int) -> None:
    """What may happen between two steps: a table is read, or a group is given another rate, or the state is asked for."""
    model, optimizer = pair
    if what == 0:
        model.tables[place].weight.detach().sum()
    elif what == 1:
        optimizer.param_groups[place % 2]["lr"] *= 0.9 + 0.05 * place
    elif what == 2 and place == 0:
        optimizer.state_dict()
    elif what == 3:
        assert optimizer.state[model.tables[place].weight] is not None


def engines(model: Model) -> list[Any]:
    """What trains each of the tables, some of which may share one."""
    return [table.weight.ownership.backend.engine for table in model.tables]


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tables_skip_steps_now_and_then(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In between they are read, stepped densely and given other rates, at random; each is in the end where torch has it."""
    monkeypatch.setenv(KERNELS, kernels)
    theirs, ours = pairs(name)
    rng = np.random.default_rng(0)
    shared = apart = 0
    for seed in range(100):
        used = [place for place in range(TABLES) if seed < 5 or rng.random() < 0.9]
        penalty = int(rng.choice(used)) if used and rng.random() < 0.05 else None
        what, place = int(rng.integers(20)), int(rng.integers(TABLES))
        for pair in (theirs, ours):
            meanwhile(pair, what, place)
            step(pair, used, seed, penalty)
        found = [engine for engine in engines(ours[0]) if engine is not None]
        shared += len(found) > len(set(map(id, found)))
        apart += len(set(map(id, found))) > 2
        for a, b in zip(ours[0].tables, theirs[0].tables, strict=True):
            if rng.random() < 0.1:
                ids = torch.arange(len(a.weight))[:, None] if isinstance(a, nn.EmbeddingBag) else torch.arange(len(a.weight))
                with torch.no_grad():
                    close(a(ids), b(ids))
    assert apart > 9
    assert shared > 9 or kernels == "torch"
    assert any(deferred(table) for table in ours[0].tables) or name == "Adagrad"
    for a, b in zip(ours[0].tables, theirs[0].tables, strict=True):
        close(a.weight, b.weight)
    states = [[pair[1].state_dict()["state"][place] for place in range(TABLES)] for pair in (ours, theirs)]
    for mine, other in zip(*states, strict=True):
        assert mine.keys() == other.keys()
        for key in mine:
            close(mine[key], other[key])


def test_a_table_that_was_released_is_let_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others, whose rows are settled in turn, go on without it."""
    monkeypatch.setattr(MeasureClock, "period", property(lambda clock: 32))
    _, (ours, optimizer) = pairs("AdamW")
    for seed in range(4):
        step((ours, optimizer), list(range(TABLES)), seed, None)
    table = ours.tables[2]
    unhot.torch.release(table)
    with torch.no_grad():
        table.weight.fill_(7.0)
    for seed in range(4, 70):
        step((ours, optimizer), [0, 1, 3, 4], seed, None)
    assert bool((table.weight == 7.0).all())
