"""The layer and the optimizers against torch's own, in loops whose gradient is a function of the rows just looked up."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unhot.torch

from .twins import by_rows

ROWS, DIM, IDS = 40, 3, 6

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.01, "initial_accumulator_value": 0.2}),
    ("RMSprop", {"lr": 0.01}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}),
    ("Adadelta", {}),
    ("Adam", {"lr": 0.05}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.01, "decoupled_weight_decay": True, "maximize": True}),
    ("AdamW", {"lr": 0.05}),
    ("Adamax", {"lr": 0.05}),
    ("NAdam", {"lr": 0.05}),
    ("NAdam", {"lr": 0.05, "weight_decay": 0.01, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.05}),
    ("RAdam", {"lr": 0.05, "weight_decay": 0.01, "decoupled_weight_decay": True}),
]


def settings() -> Any:
    return pytest.mark.parametrize(
        ("name", "options"), SETTINGS, ids=lambda x: x if isinstance(x, str) else "-".join(x) or "plain"
    )


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """torch.optim.NAdam keeps a product in the default dtype: it is to be as exact as the weights."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def layers(dtype: torch.dtype) -> tuple[nn.Embedding, unhot.torch.Embedding]:
    torch.manual_seed(0)
    theirs = nn.Embedding(ROWS, DIM, dtype=dtype)
    return theirs, unhot.torch.Embedding.from_pretrained(theirs.weight.detach().clone(), freeze=False)


def stream(steps: int) -> list[Tensor]:
    """Batches with repeated ids; half of the rows rest for a long time."""
    rng = np.random.default_rng(1)
    return [torch.from_numpy(rng.integers(ROWS if i % 50 == 0 else ROWS // 4, size=IDS)) for i in range(steps)]


def train(
    layer: nn.Embedding,
    optimizer: torch.optim.Optimizer,
    batches: list[Tensor],
    change: Callable[[int, Any], None] | None = None,
) -> None:
    """Towards a vector for each row, that moves a little: gradients that vanish would leave only their rounding."""
    wanted = torch.linspace(-1, 1, ROWS * DIM, dtype=layer.weight.dtype).reshape(ROWS, DIM)
    for i, ids in enumerate(batches):
        if change is not None:
            change(i, optimizer)
        optimizer.zero_grad()
        ((layer(ids) - wanted[ids] - 0.1 * np.sin(i)) ** 2).sum().backward()
        assert layer.weight.grad is not None
        assert by_rows(layer.weight.grad) == isinstance(layer, unhot.torch.Embedding)
        optimizer.step()


def close(ours: Any, theirs: Any) -> None:
    """In float64, as far as the definition of exact asks."""
    a, b = ours.detach().numpy(), theirs.detach().numpy()
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, np.abs(b).max()))


@settings()
def test_trains_as_torch_does(name: str, options: dict[str, Any]) -> None:
    theirs, ours = layers(torch.float64)
    batches = stream(200)
    train(theirs, getattr(torch.optim, name)(theirs.parameters(), **options), batches)
    train(ours, getattr(unhot.torch, name)(ours.parameters(), **options), batches)
    close(ours.weight, theirs.weight)


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_schedulers_that_change_momentum(name: str) -> None:
    """OneCycleLR moves rate and momentum at every step."""
    options = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    theirs, ours = layers(torch.float64)
    batches = stream(100)
    for layer, module in ((theirs, torch.optim), (ours, unhot.torch)):
        optimizer = getattr(module, name)(layer.parameters(), **options)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=len(batches) + 1)
        train(layer, optimizer, batches, lambda i, _, scheduler=scheduler: scheduler.step() if i else None)
    close(ours.weight, theirs.weight)


@settings()
def test_state_goes_to_torch_and_back(name: str, options: dict[str, Any]) -> None:
    """Trained here, then by torch on the whole table, then here again."""
    theirs, ours = layers(torch.float64)
    first, second, third = stream(40), stream(30), stream(50)
    train(theirs, getattr(torch.optim, name)(theirs.parameters(), **options), first)
    before = getattr(unhot.torch, name)(ours.parameters(), **options)
    train(ours, before, first)
    reference = getattr(torch.optim, name)(theirs.parameters(), **options)
    dense = nn.Embedding.from_pretrained(ours.weight.detach().clone(), freeze=False)
    between = getattr(torch.optim, name)(dense.parameters(), **options)
    between.load_state_dict(copy.deepcopy(before.state_dict()))
    reference.load_state_dict(copy.deepcopy(before.state_dict()))
    close(dense.weight, theirs.weight)
    train(theirs, reference, second)
    train(dense, between, second)
    again = unhot.torch.Embedding.from_pretrained(dense.weight.detach().clone(), freeze=False)
    after = getattr(unhot.torch, name)(again.parameters(), **options)
    after.load_state_dict(copy.deepcopy(between.state_dict()))
    train(theirs, reference, third)
    train(again, after, third)
    close(again.weight, theirs.weight)


@settings()
def test_dense_gradients_in_between(name: str, options: dict[str, Any]) -> None:
    """A regulariser on the whole of one table makes some of its steps dense; the other table goes on by rows."""
    theirs, ours = (nn.ModuleList(both) for both in zip(layers(torch.float64), layers(torch.float64), strict=True))
    for both, module in ((theirs, torch.optim), (ours, unhot.torch)):
        optimizer = getattr(module, name)(both.parameters(), **options)
        for i, ids in enumerate(stream(60)):
            optimizer.zero_grad()
            loss = sum(layer(ids).pow(2).sum() for layer in both)
            if i % 7 == 3:
                loss = loss + 0.01 * both[0].weight.pow(2).sum()
            loss.backward()
            optimizer.step()
    for our, their in zip(ours, theirs, strict=True):
        close(our.weight, their.weight)


def test_the_gradient_is_row_sparse_once_owned() -> None:
    layer = unhot.torch.Embedding(ROWS, DIM)
    layer(torch.tensor([1, 1])).sum().backward()
    assert layer.weight.grad is not None
    assert not by_rows(layer.weight.grad)
    layer.zero_grad()
    optimizer = unhot.torch.Adam(layer.parameters())
    layer(torch.tensor([1, 1])).sum().backward()
    assert by_rows(layer.weight.grad)
    optimizer.step()
    optimizer.zero_grad()
    assert not layer.sparse
    del optimizer
    layer(torch.tensor([1, 1])).sum().backward()
    assert not by_rows(layer.weight.grad)


READS: dict[str, Callable[[unhot.torch.Embedding], Tensor]] = {
    "weight": lambda layer: layer.weight + 0,
    "data": lambda layer: layer.weight.data,
    "detach": lambda layer: layer.weight.detach(),
    "parameters": lambda layer: next(iter(layer.parameters())) * 1,
    "state_dict": lambda layer: layer.state_dict()["weight"],
    "deepcopy": lambda layer: copy.deepcopy(layer).weight.detach(),
    "index": lambda layer: layer.weight[:],
    "numpy": lambda layer: torch.from_numpy(layer.weight.detach().numpy()),
    "lookup": lambda layer: layer(torch.arange(ROWS)),
    "cat": lambda layer: torch.cat([layer.weight]),
    "tolist": lambda layer: torch.tensor(layer.weight.tolist(), dtype=torch.float64),
    "clone": lambda layer: layer.weight.clone(),
}


@pytest.mark.parametrize("read", READS)
def test_whatever_shows_the_weights_is_settled(read: str) -> None:
    theirs, ours = layers(torch.float64)
    batches = stream(30)
    train(theirs, torch.optim.Adam(theirs.parameters(), lr=0.05), batches)
    train(ours, unhot.torch.Adam(ours.parameters(), lr=0.05), batches)
    close(READS[read](ours), theirs.weight)
