"""An exception of a signal's handler at any bytecode of ours: each table is before or after what it interrupted, no lock taken.

Torch's own optimizers and layers, in float64, say where training is after it, with the interrupted step or without it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupts import everywhere
from torch import Tensor, nn

import unhot.torch
from unhot.torch.placement import KERNELS

from .twins import default_device, unpublished

ROWS, DIM = 20, 3
LIMIT = 20.0

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "AdamW": {"lr": 0.02, "weight_decay": 0.1, "amsgrad": True},
    "NAdam": {"lr": 0.02},
    "SGD": {"lr": 0.02, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.02, "momentum": 0.5, "centered": True},
    "Adamax": {"lr": 0.02},
}


class Model(nn.Module):
    """Two tables, whose rows are trained apart, and a dense parameter."""

    def __init__(self, kind: type[nn.Embedding]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tables = nn.ModuleList([kind(ROWS, DIM, dtype=torch.float64) for _ in range(2)])
        self.scale = nn.Parameter(torch.ones(DIM, dtype=torch.float64))

    def forward(self, ids: Tensor) -> Tensor:
        return sum((table(ids) - i).square().mul(self.scale).sum() for i, table in enumerate(self.tables))


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """Torch keeps NAdam's product of momenta in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


Pair = tuple[Model, torch.optim.Optimizer]


def batch(seed: int) -> Tensor:
    return torch.randint(ROWS - 3, (4,), generator=torch.Generator().manual_seed(seed))


def backward(pair: Pair, seed: int) -> None:
    pair[1].zero_grad()
    pair[0](batch(seed)).backward()


def train(pair: Pair, *seeds: int) -> None:
    for seed in seeds:
        backward(pair, seed)
        pair[1].step()


def ours(name: str, *seeds: int) -> Pair:
    model = Model(unhot.torch.Embedding)
    pair = model, getattr(unhot.torch, name)(model.parameters(), **OPTIMIZERS[name])
    train(pair, *seeds)
    return pair


def stock(name: str, *seeds: int) -> Pair:
    model = Model(nn.Embedding)
    pair = model, getattr(torch.optim, name)(model.parameters(), **OPTIMIZERS[name])
    train(pair, *seeds)
    return pair


@pytest.fixture(scope="module")
def others() -> Iterator[ThreadPoolExecutor]:
    """Other threads, which a lock left taken would keep waiting."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


def looked_up(pair: Pair) -> list[Tensor]:
    with torch.no_grad():
        return [table(torch.arange(ROWS)) for table in pair[0].tables]


def is_one_of(found: Tensor, candidates: list[Tensor]) -> bool:
    return any(torch.allclose(found, candidate, rtol=1e-9, atol=1e-12) for candidate in candidates)


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step(name: str, kernels: str, others: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, everything: bool) -> None:
    """Each table makes it or not, and then a further one; its gradient is there as long as torch's would be."""
    if kernels == "torch" and name != "AdamW":
        pytest.skip("the ways that kernels are called by are the same for all")
    monkeypatch.setenv(KERNELS, kernels)
    seeds = (1, 2, 3)
    before = ours(name, *seeds[:2])
    without, made = looked_up(stock(name, *seeds)), looked_up(stock(name, *seeds, 4))
    seen = set()

    def prepare() -> Pair:
        pair = copy.deepcopy(before)
        train(pair, seeds[2])
        backward(pair, 4)
        return pair

    for model, optimizer in everywhere(prepare, lambda pair: pair[1].step(), 17 if everything else 41):
        found = others.submit(looked_up, (model, optimizer)).result(LIMIT)
        for i, table in enumerate(model.tables):
            assert table.weight.grad is not None
            assert is_one_of(found[i], [without[i], made[i]])
            assert torch.allclose(table.weight.detach(), found[i], rtol=1e-12)
            seen.add((i, torch.allclose(found[i], made[i], rtol=1e-9)))
    assert seen == {(0, False), (0, True), (1, False), (1, True)}


@unpublished
def test_a_step_where_a_mode_is_told_of_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default device is a mode, whose Python code would otherwise run in the midst of a change."""
    monkeypatch.setenv(KERNELS, "torch")
    before = ours("AdamW", 1)
    without, made = looked_up(stock("AdamW", 1, 2)), looked_up(stock("AdamW", 1, 2, 4))

    def prepare() -> Pair:
        torch.set_grad_enabled(True)  # an exception in the midst of torch's own `finally` leaves gradients off
        pair = copy.deepcopy(before)
        train(pair, 2)
        backward(pair, 4)
        return pair

    files = (str(Path(torch.__file__).parent / "utils"),)
    try:
        with default_device("cpu"):
            for pair in everywhere(prepare, lambda pair: pair[1].step(), 61, files=files):
                for found, *candidates in zip(looked_up(pair), without, made, strict=True):
                    assert is_one_of(found, candidates)
    finally:
        torch.set_grad_enabled(True)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_training_after_an_interrupted_step(name: str, first: bool, others: ThreadPoolExecutor, everything: bool) -> None:
    """Also after the first, which makes the slots: with one table, what follows is dense training of one of two courses."""

    def single(pair: Pair) -> Pair:
        pair[1].param_groups[0]["params"] = [pair[0].tables[0].weight]
        return pair

    seeds = () if first else (1, 2)
    expected = [looked_up(single_trained(stock(name), single, (*seeds, *more)))[0] for more in ((5, 6), (4, 5, 6))]

    def prepare() -> Pair:
        pair = single_trained(ours(name), single, seeds)
        backward(pair, 4)
        return pair

    for pair in everywhere(prepare, lambda pair: pair[1].step(), 23 if everything else 67):
        train(pair, 5)
        others.submit(train, pair, 6).result(LIMIT)
        assert is_one_of(looked_up(pair)[0], expected)


def single_trained(pair: Pair, single: Callable[[Pair], Pair], seeds: tuple[int, ...]) -> Pair:
    train(single(pair), *seeds)
    return pair


READS: dict[str, Callable[[Pair], object]] = {
    "a lookup": lambda pair: pair[0].tables[0](batch(0)),
    "the weights": lambda pair: pair[0].tables[0].weight.detach(),
    "state_dict": lambda pair: pair[1].state_dict(),
    "zero_grad": lambda pair: pair[1].zero_grad(),
    "release": lambda pair: unhot.torch.release(pair[0].tables[0]),
    "the model's state_dict": lambda pair: pair[0].state_dict(),
    "a copy": copy.deepcopy,
}


@pytest.mark.parametrize("read", READS)
def test_what_leaves_a_table_as_it_is(read: str, others: ThreadPoolExecutor, everything: bool) -> None:
    before = ours("AdamW", 1)
    expected = looked_up(stock("AdamW", 1, 2, 5, 6))

    def prepare() -> Pair:
        pair = copy.deepcopy(before)
        train(pair, 2)
        return pair

    for pair in everywhere(prepare, READS[read], 11 if everything else 43):
        train(pair, 5)
        others.submit(train, pair, 6).result(LIMIT)
        for found, wanted in zip(looked_up(pair), expected, strict=True):
            assert is_one_of(found, [wanted])


def test_load_state_dict(everything: bool) -> None:
    """The optimizer's state is the one before or the one loaded."""
    before, saved = ours("AdamW", 1), stock("AdamW", 1, 2, 3)[1].state_dict()
    candidates = []
    for load in (False, True):
        pair = stock("AdamW", 1, 2)
        if load:
            pair[1].load_state_dict(copy.deepcopy(saved))  # which torch takes for its own
        train(pair, 5)
        candidates.append(looked_up(pair))

    def prepare() -> tuple[Model, torch.optim.Optimizer, dict[str, Any]]:
        pair = copy.deepcopy(before)
        train(pair, 2)
        return *pair, copy.deepcopy(saved)

    for *pair, _ in everywhere(prepare, lambda loading: loading[1].load_state_dict(loading[2]), 41 if everything else 97):
        train(pair, 5)
        found = looked_up(pair)
        for i in range(2):
            assert is_one_of(found[i], [candidate[i] for candidate in candidates])
