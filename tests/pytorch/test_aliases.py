"""Two parameters, or two layers, in the same memory: what is done to one is seen by the other, as with torch's layers."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import unhot.torch

from .twins import _double, close  # noqa: F401

ROWS, DIM = 30, 3
MODULES = ((nn, torch.optim), (unhot.torch, unhot.torch))
"""Where layers and optimizers come from: torch, and the package under test."""


def assigned(module: Any, layer: nn.Embedding) -> nn.Embedding:
    other: nn.Embedding = module.Embedding(ROWS, DIM)
    other.load_state_dict(layer.state_dict(), assign=True)
    return other


def frozen(module: Any, layer: nn.Embedding) -> nn.Embedding:
    made: nn.Embedding = module.Embedding.from_pretrained(layer.weight.data)
    return made


def pretrained(module: Any, layer: nn.Embedding) -> nn.Embedding:
    made: nn.Embedding = module.Embedding.from_pretrained(layer.weight.detach(), freeze=False)
    return made


def data(module: Any, layer: nn.Embedding) -> nn.Embedding:
    other: nn.Embedding = module.Embedding(ROWS, DIM)
    other.weight.data = layer.weight.data
    return other


def parameter(module: Any, layer: nn.Embedding) -> nn.Embedding:
    other: nn.Embedding = module.Embedding(ROWS, DIM)
    other.weight = nn.Parameter(layer.weight.data)
    return other


def pooled(module: Any, layer: nn.Embedding) -> nn.Module:
    made: nn.Module = module.EmbeddingBag.from_pretrained(layer.weight.data, mode="sum")
    return lambda ids: made(ids.unsqueeze(1))  # type: ignore[return-value]


def called_with_values(module: Any, layer: nn.Embedding) -> Callable[[torch.Tensor], Any]:
    other, values = module.Embedding(ROWS, DIM), {"weight": layer.weight.detach()}
    return lambda ids: torch.func.functional_call(other, values, ids)


WAYS = [assigned, frozen, pretrained, data, parameter, pooled, called_with_values]


def steps(layer: Any, optimizer: Any, first: int = 0, count: int = 6) -> None:
    for step in range(first, first + count):
        optimizer.zero_grad()
        layer(torch.tensor([step, step, 2 * step])).square().sum().backward()
        optimizer.step()


def program(module: Any, optim: Any, way: Callable[..., Any]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    layer = module.Embedding(ROWS, DIM)
    other = way(module, layer)
    optimizer = optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    found = []
    for first in (0, 6):
        steps(layer, optimizer, first)
        found.append(other(torch.arange(ROWS)).detach().clone())
        if isinstance(other, nn.Embedding):
            found.append(other.weight.detach().clone())
    if module is unhot.torch:
        assert unhot.torch.report(layer).densely == {}
    return [*found, layer.weight.detach()]


@pytest.mark.parametrize("way", WAYS)
def test_another_layer_reads_the_rows(way: Callable[..., Any]) -> None:
    """All steps are applied before; and rows are trained apart all the while."""
    for ours, theirs in zip(*(program(*modules, way) for modules in reversed(MODULES)), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("way", [assigned, pretrained, data, parameter])
@pytest.mark.parametrize("together", [True, False])
def test_both_are_trained(way: Callable[..., nn.Embedding], together: bool) -> None:
    """By one optimizer or by two, which is dense, with a warning."""

    def both(module: Any, optim: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        layer = module.Embedding(ROWS, DIM)
        first = optim.Adam(layer.parameters(), lr=0.1)
        if not together:
            steps(layer, first)
        other = way(module, layer)
        optimizers = [first, optim.Adam(other.parameters(), lr=0.05)]
        if together:
            optimizers = [optim.Adam([*layer.parameters(), *other.parameters()], lr=0.1)]
        for step in range(6):
            for optimizer in optimizers:
                optimizer.zero_grad()
            ids = torch.tensor([step, step, 2 * step])
            (layer(ids) * other(ids + 1)).sum().backward()
            for optimizer in optimizers:
                optimizer.step()
        return [layer.weight.detach(), other.weight.detach()]

    expected = both(*MODULES[0])
    with pytest.warns(unhot.DenseFallbackWarning, match=r"another parameter lies in the same memory.*`other\.weight = "):
        found = both(*MODULES[1])
    for ours, theirs in zip(found, expected, strict=True):
        close(ours, theirs)


def test_a_head_that_is_tied_by_its_data() -> None:
    """A Linear whose weight is another parameter in the table's memory."""

    def program(module: Any, optim: Any) -> torch.Tensor:
        torch.manual_seed(0)
        layer, head = module.Embedding(ROWS, DIM), nn.Linear(DIM, ROWS, bias=False)
        head.weight.data = layer.weight.data
        optimizer = optim.Adam([*layer.parameters(), *head.parameters()], lr=0.05)
        for step in range(6):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(layer(torch.tensor([step, 2 * step]))), torch.tensor([1, step])).backward()
            optimizer.step()
        return layer.weight.detach()  # type: ignore[no-any-return]

    expected = program(*MODULES[0])
    with pytest.warns(unhot.DenseFallbackWarning, match="same memory"):
        close(program(*MODULES[1]), expected)


def test_parameters_side_by_side_are_not_tied() -> None:
    """Parts of one piece of memory, as FSDP makes them, are trained by rows."""
    layer = unhot.torch.Embedding(ROWS, DIM)
    head = nn.Linear(DIM, 1)
    flat = torch.randn(ROWS * DIM + DIM + 1)
    layer.weight.data = flat[: ROWS * DIM].view(ROWS, DIM)
    head.weight.data, head.bias.data = flat[ROWS * DIM : -1].view(1, DIM), flat[-1:]
    model = nn.Sequential(layer, head)
    optimizer = unhot.torch.Adam(model.parameters())
    steps(model, optimizer)
    assert unhot.torch.report(model).densely == {}
    assert layer.weight.ownership.backend.has_deferred_steps()  # type: ignore[union-attr]


def test_memory_that_the_other_has_no_more() -> None:
    """Rows are trained apart again once the table has memory of its own; what is gone ties nothing."""
    layer = unhot.torch.Embedding(ROWS, DIM)
    other = data(unhot.torch, layer)
    optimizer = unhot.torch.Adam([*layer.parameters(), *other.parameters()])
    with pytest.warns(unhot.DenseFallbackWarning, match="same memory"):
        steps(layer, optimizer)
    other.weight.data = other.weight.data.clone()
    steps(layer, optimizer)
    assert layer.weight.ownership.backend.has_deferred_steps()  # type: ignore[union-attr]
    gone = unhot.torch.Embedding(ROWS, DIM)
    also = unhot.torch.Adam(gone.parameters())
    steps(gone, also)
    values = copy.deepcopy(gone.weight.data)
    weight = gone.weight.data
    del gone, also
    left = unhot.torch.Embedding.from_pretrained(weight)
    close(left(torch.arange(ROWS)).detach(), values)


@pytest.mark.filterwarnings("error::unhot.DenseFallbackWarning")
def test_memory_that_a_table_has_left_is_free_for_another() -> None:
    """Also before the first one has noticed that it lies elsewhere."""
    memory = torch.randn(ROWS, DIM)
    layers = [unhot.torch.Embedding(ROWS, DIM) for _ in range(2)]
    optimizers = [unhot.torch.Adam(layer.parameters()) for layer in layers]
    layers[0].weight.data = memory
    steps(layers[0], optimizers[0])
    layers[0].weight.data = layers[0].weight.data.clone()
    layers[1].weight.data = memory
    steps(layers[1], optimizers[1])
    steps(layers[0], optimizers[0])
    assert unhot.torch.report(nn.ModuleList(layers)).densely == {}


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, ids: list[int]) -> None:
    optimizer.zero_grad()
    layer(torch.tensor(ids)).square().sum().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("part", [slice(None), slice(0, 5), slice(4, 9)])
@pytest.mark.parametrize("trained", [False, True])
def test_layers_in_the_same_memory_in_turns(part: slice, trained: bool) -> None:
    """However often one of them steps before the other does, both show the same rows: all of them, or some."""
    found: list[list[torch.Tensor]] = []
    for module, optim in MODULES:
        torch.manual_seed(0)
        layer = module.Embedding(ROWS, DIM)
        optimizer = optim.Adam(layer.parameters(), lr=0.1)
        for ids in ([0, 1], [5, 3]):
            step(layer, optimizer, ids)
        other = module.Embedding.from_pretrained(layer.weight.data[part], freeze=not trained)
        others = optim.Adam(other.parameters(), lr=0.02) if trained else None
        read = []
        for turn, ids in enumerate(([1, 2], [3], [4], [0], [2, 4], [1], [3])):
            if others is not None and turn not in (3, 5):
                step(other, others, ids)
            else:
                step(layer, optimizer, ids)
            read += [other(torch.arange(5)).detach().clone(), layer(torch.arange(ROWS)).detach().clone()]
        found.append([*read, layer.weight.detach().clone(), other.weight.detach().clone()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("read", [lambda layer: layer(torch.arange(ROWS)), lambda layer: layer.weight])
def test_a_layer_whose_optimizer_is_gone(read: Callable[[Any], torch.Tensor]) -> None:
    """It shows what another one trains in its memory, at the first look, too."""
    found = []
    for module, optim in MODULES:
        torch.manual_seed(0)
        layer = module.Embedding(ROWS, DIM)
        first = optim.Adam(layer.parameters(), lr=0.1)
        step(layer, first, [0, 1])
        other = module.Embedding.from_pretrained(layer.weight.data, freeze=False)
        del first
        gc.collect()
        optimizer = optim.Adam(other.parameters(), lr=0.1)
        for ids in ([1, 6], [7], [8]):
            step(other, optimizer, ids)
        found.append(read(layer).detach().clone())
    torch.testing.assert_close(*found)
