"""Gradients that others use too, in place: what scales and clips them, and in-place operations on what was looked up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unhot.torch
from unhot.torch.placement import KERNELS

from .twins import DIM, LR, OLD, ROWS, _double, batches, by_rows, close, deferred, layers, pair, train  # noqa: F401

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


class First(GivenTwice):
    """The first of two, which says so: it gives the second no gradient."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return first + 0 * second

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return grad, None


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


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("pooled", [False, True])
def test_vectors_that_get_no_gradient_make_no_step(pooled: bool, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their table rests, as in torch, where another would decay."""
    monkeypatch.setenv(KERNELS, kernels)
    tables = two_tables("AdamW", weight_decay=0.1)
    for first, second, optimizer in tables:
        for step, ids in enumerate(batches(0, 12)):
            optimizer.zero_grad()
            found = [
                nn.functional.embedding_bag(ids.view(-1, 2), table.weight, mode="sum") if pooled else table(ids)
                for table in (first, second)
            ]
            vectors = First.apply(*found) if step % 3 else found[0] + found[1]
            vectors.square().sum().backward()
            assert (second.weight.grad is None) == bool(step % 3)
            optimizer.step()
    for ours, theirs in zip(tables[1][:2], tables[0][:2], strict=True):
        close(ours.weight, theirs.weight)


def test_a_given_gradient_stays_as_it_was() -> None:
    for first, _, _ in two_tables():
        given = torch.ones(3, DIM)
        first(torch.tensor([1, 2, 1])).backward(given)
        first.weight.grad.mul_(5.0)
        assert torch.equal(given, torch.ones(3, DIM))


@pytest.mark.parametrize("shape", [(3, DIM), (-1,)], ids=["as it is", "view"])
def test_a_gradient_asked_for_beside_the_tables_stays_as_it_was(shape: tuple[int, ...]) -> None:
    for first, _, _ in two_tables():
        found = first(torch.tensor([1, 2, 1]))
        found = found if found.shape == shape else found.view(shape)
        asked, table = torch.autograd.grad(found.pow(2).sum(), [found, first.weight])
        before = asked.clone()
        table.mul_(5.0)
        assert torch.equal(asked, before)


@pytest.mark.parametrize("torchs", [False, True])
@pytest.mark.parametrize("ids", [[1], [1, 2, 1]], ids=str)
def test_clipping_scales_each_gradient_once(ids: list[int], torchs: bool) -> None:
    made = two_tables()
    for first, second, optimizer in made:
        (first(torch.tensor(ids)) + second(torch.tensor(ids))).pow(2).sum().backward()
        clip = torch.nn.utils.clip_grad_norm_ if type(first) is nn.Embedding or torchs else unhot.torch.clip_grad_norm_
        clip([first.weight, second.weight], 0.5)
        optimizer.step()
    for theirs, ours in zip(made[0][:2], made[1][:2], strict=True):
        close(ours.weight, theirs.weight)


MASK = (torch.arange(ROWS) >= 3).double().unsqueeze(1)


def set_rows(gradient: Tensor) -> None:
    gradient.data[torch.tensor([1, 4])] = 0.0


def set_slice(gradient: Tensor) -> None:
    gradient[:-5] = 0.0


BETWEEN: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "clip_grad_norm_": (lambda layer: nn.utils.clip_grad_norm_(layer.parameters(), 0.5), True),
    "clip_grad_norm_, foreach": (lambda layer: nn.utils.clip_grad_norm_(layer.parameters(), 0.5, 1.0, foreach=True), True),
    "clip_grad_norm_, single": (lambda layer: nn.utils.clip_grad_norm_(layer.weight, 0.5, float("inf"), foreach=False), True),
    "clip_grads_with_norm_": (
        lambda layer: nn.utils.clip_grads_with_norm_(layer.weight, 0.5, nn.utils.get_total_norm([layer.weight.grad])),
        True,
    ),
    "clip_grad_value_": (lambda layer: nn.utils.clip_grad_value_(layer.parameters(), 0.5), True),
    "clip_grad_value_, foreach": (lambda layer: nn.utils.clip_grad_value_(layer.parameters(), 0.5, foreach=True), True),
    "logging": (
        lambda layer: [f(layer.weight.grad) for f in (torch.mean, torch.std, lambda g: torch.isfinite(g).all(), torch.max)],
        True,
    ),
    "histogram": (lambda layer: torch.histc(layer.weight.grad), True),
    "a copy of it": (lambda layer: layer.weight.grad.clone().numpy(), True),
    "numpy": (lambda layer: layer.weight.grad.numpy(), False),
    "a vector": (lambda layer: nn.utils.parameters_to_vector([layer.weight.grad]), False),
    "scaled": (lambda layer: layer.weight.grad.mul_(0.5), True),
    "averaged": (lambda layer: setattr(layer.weight, "grad", layer.weight.grad / 3), True),
    "masked": (lambda layer: layer.weight.grad.mul_(MASK), True),
    "rows set": (lambda layer: set_rows(layer.weight.grad), True),
    "a slice set": (lambda layer: set_slice(layer.weight.grad), True),
    "centralized": (lambda layer: layer.weight.grad.sub_(layer.weight.grad.mean()), False),
    "noise": (lambda layer: layer.weight.grad.add_(torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM)), False),
    "coupled decay by hand": (lambda layer: layer.weight.grad.add_(layer.weight.detach(), alpha=0.1), False),
    "nothing": (lambda layer: layer.weight.grad.zero_(), True),
    "replaced": (lambda layer: setattr(layer.weight, "grad", torch.ones(ROWS, DIM)), False),
    "data replaced": (lambda layer: setattr(layer.weight.grad, "data", torch.ones(ROWS, DIM)), False),
    "another backward": (lambda layer: layer(torch.tensor([1, 0, 1])).pow(2).sum().backward(), True),
    "a penalty": (lambda layer: layer.weight.pow(2).sum().backward(), False),
}
"""What loops do between the backward pass and the step, and whether the step then goes by rows."""


@pytest.mark.parametrize("way", BETWEEN)
def test_between_backward_and_step(way: str) -> None:
    change, rows = BETWEEN[way]
    twins = pair("AdamW")
    for layer, optimizer in twins:
        for i, ids in enumerate(batches(0, 12)):
            optimizer.zero_grad()
            (layer(ids) - i).pow(2).sum().backward()
            if i >= 3:
                change(layer)
            assert layer.weight.grad.shape == (ROWS, DIM)
            optimizer.step()
    assert deferred(twins[1][0]) == rows
    close(twins[1][0].weight, twins[0][0].weight)


def set_item(gradient: Tensor) -> Tensor:
    gradient = gradient.clone()
    gradient[:3] = 0.0
    return gradient


HOOKS: dict[str, tuple[Callable[[Tensor], Tensor | None], bool]] = {
    "scaled": (lambda g: g * 0.5, True),
    "masked": (lambda g: g * MASK, True),
    "filled": (lambda g: g.masked_fill(MASK.bool(), 0), True),
    "clamped": (lambda g: g.clamp(-0.1, 0.1), True),
    "rows set": (set_item, True),
    "dense": (lambda g: g.to_dense() + 0.0 * MASK, False),
    "noise": (lambda g: g + torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM), False),
    "seen": (lambda g: None, True),
}


@pytest.mark.parametrize("after", [False, True], ids=["before it is accumulated", "after"])
@pytest.mark.parametrize("way", HOOKS)
def test_hooks(way: str, after: bool) -> None:
    hook, rows = HOOKS[way]

    def afterwards(parameter: Any) -> None:
        found = hook(parameter.grad)
        parameter.grad = parameter.grad if found is None else found

    twins = pair("AdamW")
    for layer, optimizer in twins:
        train(layer, optimizer, steps=3)
        if after:
            layer.weight.register_post_accumulate_grad_hook(afterwards)
        else:
            layer.weight.register_hook(hook)
        train(layer, optimizer, seed=1, steps=8)
    assert deferred(twins[1][0]) == rows
    close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_accumulated_over_micro_batches(clip: float | None) -> None:
    """With the optimizer's `zero_grad` of either kind."""
    for to_none in (True, False):
        twins = pair("AdamW")
        for layer, optimizer in twins:
            for i, ids in enumerate(batches(0, 18)):
                (layer(ids) / 3).pow(2).sum().backward()
                if i % 3 == 2:
                    if clip:
                        nn.utils.clip_grad_norm_(layer.parameters(), clip)
                    optimizer.step()
                    optimizer.zero_grad(set_to_none=to_none)
        assert deferred(twins[1][0])
        close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize("order", ["rows first", "dense first", "in one pass"])
def test_dense_and_row_gradients_of_one_table_add_up(order: str) -> None:
    twins = pair("AdamW")
    for layer, optimizer in twins:
        for ids in batches(0, 10):
            optimizer.zero_grad()
            parts = [layer(ids).pow(2).sum(), layer.weight.sin().sum()]
            if order == "in one pass":
                sum(parts).backward()
            else:
                for part in parts if order == "rows first" else parts[::-1]:
                    part.backward()
            optimizer.step()
    close(twins[1][0].weight, twins[0][0].weight)


STOCK: list[tuple[str, dict[str, Any]]] = [
    (name, {**given, way: True})
    for name, given in (("Adam", {}), ("SGD", {"momentum": 0.9}), ("Adagrad", {}), ("RMSprop", {}), ("NAdam", {}))
    for way in ("foreach", "fused", "capturable")
    if way == "foreach" or (way == "fused" and name in ("Adam", "SGD", "Adagrad"))
]


@pytest.mark.parametrize(("name", "given"), [*STOCK, ("Adam", {}), ("SGD", {}), ("Adamax", {}), ("ASGD", {}), ("LBFGS", {})])
def test_stock_optimizers_take_it(name: str, given: dict[str, Any]) -> None:
    """While an optimizer of ours owns the table, which then has nothing to settle."""
    theirs, ours = layers()
    owner = unhot.torch.AdamW(ours.parameters(), lr=LR)
    reference = torch.optim.AdamW(theirs.parameters(), lr=LR)
    for layer, own in ((theirs, reference), (ours, owner)):
        train(layer, own, steps=5)
        other = getattr(torch.optim, name)(layer.parameters(), lr=LR, **given)
        for ids in batches(1, 5):
            other.zero_grad()
            if name == "LBFGS":
                other.step(lambda layer=layer, ids=ids, other=other: closure(layer, ids, other))
            else:
                layer(ids).pow(2).sum().backward()
                other.step()
        train(layer, own, seed=2, steps=5)
    close(ours.weight, theirs.weight)


def closure(layer: Any, ids: Tensor, optimizer: Any) -> Tensor:
    optimizer.zero_grad()
    loss = layer(ids).pow(2).sum()
    loss.backward()
    return loss


def test_gradients_asked_for() -> None:
    """`autograd.grad`, also with a graph, for a penalty on the gradient; and of a backward pass with a graph."""
    found = []
    for layer, optimizer in pair("AdamW", padding_idx=1):
        for ids in batches(0, 6):
            optimizer.zero_grad()
            loss = layer(ids).pow(3).sum()
            (plain,) = torch.autograd.grad(loss, [layer.weight], retain_graph=True)
            (graphed,) = torch.autograd.grad(loss, [layer.weight], create_graph=True)
            close(plain.to_dense(), graphed)
            (loss + graphed.pow(2).sum()).backward()
            optimizer.step()
        optimizer.zero_grad()
        layer(batches(0, 1)[0]).pow(3).sum().backward(create_graph=True)
        assert layer.weight.grad.requires_grad
        layer.weight.grad.pow(2).sum().backward()
        found.append(layer.weight.grad.detach().clone())
        found.append(layer.weight.detach().clone())
    close(found[2], found[0])
    close(found[3], found[1])


def test_an_optimizer_in_the_backward_pass() -> None:
    """A step in a hook that comes once the gradient is accumulated."""
    twins = pair("AdamW")
    for layer, optimizer in twins:

        def step(parameter: Any, optimizer: Any = optimizer) -> None:
            optimizer.step()
            optimizer.zero_grad()

        layer.weight.register_post_accumulate_grad_hook(step)
        for ids in batches(0, 12):
            layer(ids).pow(2).sum().backward()
            assert layer.weight.grad is None
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_scaler_with_a_fused_optimizer(name: str) -> None:
    """Torch's fused steps unscale by themselves, and skip what is infinite; here the scaler does."""
    if OLD and name == "Adagrad":
        pytest.skip("torch's Adagrad begins its state when it is made, and then forgets new parameters")
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
    assert by_rows(grads[1])
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
    monkeypatch.setenv(KERNELS, kernels)
    layer = unhot.torch.Embedding.from_pretrained(torch.zeros(4, 1, dtype=torch.float32), freeze=False)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=1.0)
    factors = torch.tensor([[2.0**24], [1.0], [-(2.0**24)]], dtype=torch.float32)
    (layer(torch.tensor([1, 1, 1])) * factors).sum().backward()
    optimizer.step()
    assert layer.weight.tolist() == [[0.0], [-1.0], [0.0], [0.0]]
