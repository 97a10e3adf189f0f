"""Gradients that others use too, in place: what scales and clips them, and in-place operations on what was looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unhot.torch

from .twins import DIM, LR, ROWS, _double, batches, close, layers  # noqa: F401

SHAPES = {"flat": (6,), "nested": (3, 2)}


def two_tables(name: str = "SGD", **given: Any) -> list[tuple[Any, Any, Any]]:
    """Two tables and their optimizer: torch's, and ours of the same weights."""
    made = []
    for module, optim in ((nn, torch.optim), (unhot.torch, unhot.torch)):
        torch.manual_seed(0)
        first, second = (module.Embedding(ROWS, DIM) for _ in range(2))
        made.append((first, second, getattr(optim, name)([first.weight, second.weight], **{"lr": LR, **given})))
    return made


class GivenTwice(torch.autograd.Function):
    """A sum that hands the very same gradient on, twice."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return first + second

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, grad


class Detached(GivenTwice):
    """The same in two tensors."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, grad.detach()


def beside_a_view(viewed: Any, plain: Any, ids: Tensor, *, last: bool) -> Tensor:
    """A sum whose gradient goes to one table as it is and to the other as a view of it, which comes first or last."""
    found = None if last else plain(ids.flip(0).view(-1))
    view = viewed(ids).view(-1, DIM)
    return view + (plain(ids.flip(0).view(-1)) if found is None else found)


COMBINED: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "sum": lambda first, second, ids: first(ids) + second(ids.flip(0)),
    "one table twice": lambda first, second, ids: first(ids) + first(ids.flip(0)),
    "sum of views": lambda first, second, ids: (first(ids).view(-1) + second(ids.flip(0)).view(-1)).view(-1, DIM),
    "beside a view": lambda first, second, ids: beside_a_view(first, second, ids, last=False),
    "beside a view, reversed": lambda first, second, ids: beside_a_view(first, second, ids, last=True),
    "detached": lambda first, second, ids: Detached.apply(first(ids), second(ids.flip(0))),
    "pooled": lambda first, second, ids: first(ids).sum(-2),
    "views of a sum": lambda first, second, ids: (first(ids) + second(ids.flip(0))).view(-1).view(-1, DIM),
    "stacked": lambda first, second, ids: torch.stack([first(ids), second(ids)]) * torch.ones(()).to(first.weight),
    "in rows": lambda first, second, ids: torch.cat([first(ids), second(ids)]) * torch.ones(()).to(first.weight),
    "in columns": lambda first, second, ids: torch.cat([first(ids), second(ids)], -1) * torch.ones(()).to(first.weight),
    "given twice": lambda first, second, ids: GivenTwice.apply(first(ids).view(-1), second(ids.flip(0)).view(-1)),
    "skip": lambda first, second, ids: (
        first(ids) + first(ids).relu() @ torch.ones(DIM, DIM).to(first.weight.dtype) + second(ids)
    ),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("way", COMBINED)
def test_a_scaler_unscales_each_gradient_once(way: str, shape: tuple[int, ...]) -> None:
    """The sum of two tables hands one gradient to both."""
    made = two_tables()
    for first, second, optimizer in made:
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for ids in batches(0, 10):
            optimizer.zero_grad()
            scaler.scale(COMBINED[way](first, second, ids.reshape(shape)).pow(2).sum()).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    for theirs, ours in zip(made[0][:2], made[1][:2], strict=True):
        close(ours.weight, theirs.weight)


MODELS: dict[str, Callable[[Tensor], Tensor]] = {
    "squares": lambda found: found.pow(2).sum(),
    "flattened": lambda found: (found.flatten() * torch.arange(6 * DIM)).sum(),
    "a layer on sequences": lambda found: nn.functional.linear(found, torch.ones(2, DIM).to(found)).pow(2).sum(),
    "views of views": lambda found: nn.functional.linear(
        found.view(2, 3, DIM).flatten(0, 1), torch.ones(2, DIM).to(found)
    ).sum(),
    "beside numbers": lambda found: torch.cat([found.view(-1, DIM), torch.ones(3, DIM).to(found)]).pow(2).sum(),
}


@pytest.mark.parametrize("way", MODELS)
def test_a_gradient_of_its_own_is_not_copied(way: str) -> None:
    _, ours = layers()
    optimizer = unhot.torch.SGD(ours.parameters(), lr=LR)
    found, memory = ours(torch.arange(6).view(3, 2)), []
    found.register_hook(lambda grad: memory.append(grad.data_ptr()))
    MODELS[way](found).backward()
    assert memory == [ours.weight.grad._values().data_ptr()]
    optimizer.step()


def test_a_given_gradient_stays_as_it_was() -> None:
    for first, _, _ in two_tables():
        given = torch.ones(3, DIM)
        first(torch.tensor([1, 2, 1])).backward(given)
        (first.weight.grad._values() if first.weight.grad.is_sparse else first.weight.grad).mul_(5.0)
        assert torch.equal(given, torch.ones(3, DIM))


@pytest.mark.parametrize("shape", [(3, DIM), (-1,)], ids=["as it is", "view"])
def test_a_gradient_asked_for_beside_the_tables_stays_as_it_was(shape: tuple[int, ...]) -> None:
    for first, _, _ in two_tables():
        found = first(torch.tensor([1, 2, 1]))
        found = found if found.shape == shape else found.view(shape)
        asked, table = torch.autograd.grad(found.pow(2).sum(), [found, first.weight])
        before = asked.clone()
        (table._values() if table.is_sparse else table).mul_(5.0)
        assert torch.equal(asked, before)


@pytest.mark.parametrize("ids", [[1], [1, 2, 1]], ids=str)
def test_clipping_scales_each_gradient_once(ids: list[int]) -> None:
    made = two_tables()
    for first, second, optimizer in made:
        (first(torch.tensor(ids)) + second(torch.tensor(ids))).pow(2).sum().backward()
        clip = torch.nn.utils.clip_grad_norm_ if type(first) is nn.Embedding else unhot.torch.clip_grad_norm_
        clip([first.weight, second.weight], 0.5)
        optimizer.step()
    for theirs, ours in zip(made[0][:2], made[1][:2], strict=True):
        close(ours.weight, theirs.weight)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_scaler_with_a_fused_optimizer(name: str) -> None:
    """Torch's fused steps unscale by themselves, and skip what is infinite; here the scaler does."""
    made = two_tables(name, fused=True)
    for first, second, optimizer in made:
        head = nn.Linear(DIM, 1, bias=False, dtype=torch.float64)
        nn.init.ones_(head.weight)
        optimizer.add_param_group({"params": head.parameters()})
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for step, ids in enumerate(batches(0, 10)):
            optimizer.zero_grad()
            loss = head(first(ids) * second(ids)).pow(2).sum()
            scaler.scale(loss * float("inf") if step == 4 else loss).backward()
            scaler.step(optimizer)
            scaler.update()
    for theirs, ours in zip(made[0][:2], made[1][:2], strict=True):
        assert torch.isfinite(ours.weight).all()
        close(ours.weight, theirs.weight)


def test_a_fused_optimizer_without_tables_unscales_by_itself() -> None:
    assert unhot.torch.Adam(nn.Linear(2, 2).parameters(), fused=True)._step_supports_amp_scaling


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "add": lambda found: found.add_(1.5),
    "mul": lambda found: found.mul_(torch.tensor(2.0)),
    "set": lambda found: found[..., 0].zero_(),
    "fill": lambda found: found.masked_fill_(found > 0, 0.25),
    "relu": lambda found: found.relu_(),
}


@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 2, 3), ()], ids=str)
@pytest.mark.parametrize("way", IN_PLACE)
def test_in_place_operations_on_what_was_looked_up(way: str, shape: tuple[int, ...]) -> None:
    theirs, ours = layers()
    optimizer = unhot.torch.AdamW(ours.parameters(), lr=LR)
    grads = []
    for layer in (theirs, ours):
        found = layer(torch.arange(6)[: max(1, 6 * bool(shape))].reshape(shape))
        IN_PLACE[way](found)
        found.pow(3).sum().backward()
        grads.append(layer.weight.grad)
    assert grads[1].is_sparse
    close(grads[1].to_dense(), grads[0])
    del optimizer


def test_a_second_backward_needs_the_graph() -> None:
    for layer in layers():
        optimizer = unhot.torch.SGD(layer.parameters(), lr=LR)
        total = layer(torch.tensor([1, 2])).sum()
        total.backward()
        with pytest.raises(RuntimeError, match="backward through the graph a second time"):
            total.backward()
        del optimizer


@pytest.mark.parametrize("kernels", ["native", "torch"])
def test_sums_of_repeated_ids_are_rounded_once(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHOT_TORCH_KERNELS", kernels)
    layer = unhot.torch.Embedding.from_pretrained(torch.zeros(4, 1, dtype=torch.float32), freeze=False)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=1.0)
    factors = torch.tensor([[2.0**24], [1.0], [-(2.0**24)]], dtype=torch.float32)
    (layer(torch.tensor([1, 1, 1])) * factors).sum().backward()
    optimizer.step()
    assert layer.weight.tolist() == [[0.0], [-1.0], [0.0], [0.0]]
