"""Whatever shows a table's weights shows what dense training would, and whatever writes them wins over deferred steps.

Every test trains a table and its dense twin by the same stream, does the same to both, goes on, and compares.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import unhot.torch

from .twins import DIM, LR, ROWS, _double, batches, close, pair, train  # noqa: F401


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file)


def averaged(layer: nn.Embedding, multi: Any = None) -> Tensor:
    model = torch.optim.swa_utils.AveragedModel(layer, multi_avg_fn=multi)
    model.update_parameters(layer)
    return model.module.weight


def inference(layer: nn.Embedding) -> Tensor:
    with torch.inference_mode():
        found = layer(torch.arange(ROWS))
    return found.clone()


def without_grad(layer: nn.Embedding) -> Tensor:
    with torch.no_grad():
        return layer(torch.arange(ROWS))


READS: dict[str, Callable[[nn.Embedding], Any]] = {
    "weight": lambda layer: layer.weight + 0,
    "data": lambda layer: layer.weight.data,
    "detach": lambda layer: layer.weight.detach(),
    "parameters": lambda layer: next(iter(layer.parameters())) * 1,
    "named_parameters": lambda layer: dict(layer.named_parameters())["weight"].clone(),
    "state_dict": lambda layer: layer.state_dict()["weight"],
    "state_dict keep_vars": lambda layer: layer.state_dict(keep_vars=True)["weight"][:],
    "deepcopy": lambda layer: copy.deepcopy(layer).weight,
    "deepcopy of the parameter": lambda layer: copy.deepcopy(layer.weight),
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)).weight,
    "pickle of the parameter": lambda layer: pickle.loads(pickle.dumps(layer.weight)),
    "torch.save": lambda layer: saved(layer.state_dict())["weight"],
    "torch.save of the parameter": lambda layer: saved(layer.weight),
    "parameters_to_vector": lambda layer: nn.utils.parameters_to_vector(layer.parameters()).reshape(ROWS, DIM),
    "double": lambda layer: copy.deepcopy(layer).float().double().weight.float(),
    "to": lambda layer: layer.weight.to("cpu", torch.float32),
    "numpy": lambda layer: layer.weight.detach().numpy(),
    "array": lambda layer: np.asarray(layer.weight.detach()),
    "tolist": lambda layer: torch.tensor(layer.weight.tolist()),
    "item": lambda layer: torch.tensor([[x.item() for x in row] for row in layer.weight]),
    "repr": lambda layer: repr(layer.weight),
    "dlpack": lambda layer: torch.from_dlpack(layer.weight.detach()),
    "cat": lambda layer: torch.cat([layer.weight]),
    "stack": lambda layer: torch.stack([layer.weight])[0],
    "einsum": lambda layer: torch.einsum("vd,de->ve", layer.weight, torch.eye(DIM)),
    "linear": lambda layer: nn.functional.linear(torch.eye(DIM), layer.weight).T,
    "foreach": lambda layer: torch._foreach_add([layer.weight], 0.0)[0],
    "average": averaged,
    "ema": lambda layer: averaged(layer, torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)),
    "functional_call": lambda layer: torch.func.functional_call(layer, dict(layer.named_parameters()), torch.arange(ROWS)),
    "lookup": lambda layer: layer(torch.arange(ROWS)),
    "lookup without grad": without_grad,
    "lookup in inference mode": inference,
    "lookup in evaluation": lambda layer: copy.deepcopy(layer).eval()(torch.arange(ROWS)),
    "F.embedding": lambda layer: nn.functional.embedding(torch.arange(ROWS), layer.weight),
    "torch.embedding": lambda layer: torch.embedding(layer.weight, torch.arange(ROWS)),
    "index_select": lambda layer: layer.weight.index_select(0, torch.arange(ROWS)),
    "iteration": lambda layer: torch.stack(list(layer.weight)),
}


@pytest.mark.parametrize("read", READS)
def test_reads_are_settled(read: str) -> None:
    """And training goes on as if nothing had been read."""
    (theirs, reference), (ours, optimizer) = pair()
    train(theirs, reference)
    train(ours, optimizer)
    a, b = READS[read](ours), READS[read](theirs)
    if read == "repr":
        assert a == b
    else:
        close(a, b)
    train(theirs, reference, seed=1)
    train(ours, optimizer, seed=1)
    close(ours.weight, theirs.weight)


def no_grad(write: Callable[[nn.Embedding], Any]) -> Callable[[nn.Embedding], Any]:
    def run(layer: nn.Embedding) -> None:
        with torch.no_grad():
            write(layer)

    return run


def put(layer: nn.Embedding) -> None:
    layer.weight[3] = 7.0


def new_data(layer: nn.Embedding) -> None:
    layer.weight.data = torch.full((ROWS, DIM), 0.25)


WRITES: dict[str, Callable[[nn.Embedding], Any]] = {
    "fill_": no_grad(lambda layer: layer.weight.fill_(0.5)),
    "init": lambda layer: nn.init.constant_(layer.weight, 0.5),
    "copy_": no_grad(lambda layer: layer.weight.copy_(torch.ones(ROWS, DIM))),
    "data.fill_": lambda layer: layer.weight.data.fill_(0.5),
    "data": new_data,
    "a row": no_grad(put),
    "load_state_dict": lambda layer: layer.load_state_dict({"weight": torch.linspace(0, 1, ROWS * DIM).reshape(ROWS, DIM)}),
    "mul_": no_grad(lambda layer: layer.weight.mul_(0.5)),
    "clamp_": no_grad(lambda layer: layer.weight.clamp_(-0.1, 0.1)),
    "foreach": no_grad(lambda layer: torch._foreach_mul_([layer.weight], 0.5)),
    "vector_to_parameters": lambda layer: nn.utils.vector_to_parameters(torch.ones(ROWS * DIM), layer.parameters()),
    "lerp_": no_grad(lambda layer: layer.weight.lerp_(torch.zeros(ROWS, DIM), 0.5)),
    "rounded": lambda layer: layer.float().double(),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_win_over_deferred_steps(write: str) -> None:
    """The slots stay, so the rows go on moving from what was written, as dense ones do."""
    twins = pair()
    for layer, optimizer in twins:
        train(layer, optimizer)
        WRITES[write](layer)
    close(twins[1][0].weight, twins[0][0].weight)
    for layer, optimizer in twins:
        train(layer, optimizer, seed=1)
    close(twins[1][0].weight, twins[0][0].weight)


class Twice(nn.Module):
    """Two layers that share a table, one of which is used twice; and, if tied, a head that has the table too."""

    def __init__(self, kind: type[nn.Embedding], tied: bool) -> None:
        super().__init__()
        self.first, self.second = kind(ROWS, DIM), kind(ROWS, DIM)
        self.second.weight = self.first.weight
        self.head = nn.Linear(DIM, ROWS if tied else 1, bias=False)
        if tied:
            self.head.weight = self.first.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.first(ids) * self.second(ids.flip(0)) + self.first(ids[:1]))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_one_table_in_several_places(tied: bool, name: str) -> None:
    models = []
    for kind, module in ((nn.Embedding, torch.optim), (unhot.torch.Embedding, unhot.torch)):
        torch.manual_seed(3)
        model = Twice(kind, tied)
        assert len(list(model.parameters())) == (1 if tied else 2)
        optimizer = getattr(module, name)(model.parameters(), lr=LR, **({"momentum": 0.9} if name == "SGD" else {}))
        train(model, optimizer)
        models.append(model)
    for a, b in zip(models[1].parameters(), models[0].parameters(), strict=True):
        close(a, b)


def test_frozen_and_thawed() -> None:
    """A frozen parameter has no gradient, and torch skips it: its rows, momentum and clock stand still."""
    twins = pair()
    for layer, optimizer in twins:
        other = nn.Parameter(torch.ones(DIM))
        optimizer.add_param_group({"params": [other], "lr": 0.1})
        train(layer, optimizer)
        layer.weight.requires_grad_(False)
        for ids in batches(2, 20):
            optimizer.zero_grad()
            (layer(ids) * other).sum().backward()
            assert layer.weight.grad is None
            optimizer.step()
        layer.weight.requires_grad_(True)
        train(layer, optimizer, seed=1)
    close(twins[1][0].weight, twins[0][0].weight)


def test_a_group_added_later_with_its_own_hyperparameters() -> None:
    models = []
    for kind, module in ((nn.Embedding, torch.optim), (unhot.torch.Embedding, unhot.torch)):
        torch.manual_seed(4)
        first, second = kind(ROWS, DIM), kind(ROWS, DIM)
        optimizer = module.AdamW(first.parameters(), lr=LR)
        train(first, optimizer)
        optimizer.add_param_group({"params": second.parameters(), "lr": 0.2, "betas": (0.8, 0.99), "weight_decay": 0.1})
        train(lambda ids, a=first, b=second: a(ids) + b(ids), optimizer, seed=1)
        models.append((first, second))
    for a, b in zip(models[1], models[0], strict=True):
        close(a.weight, b.weight)


def test_a_step_without_a_gradient_is_none() -> None:
    """`zero_grad` and `step` without `backward`: torch skips the parameter, and its momentum does not move it."""
    twins = pair()
    for layer, optimizer in twins:
        train(layer, optimizer)
        for _ in range(5):
            optimizer.zero_grad()
            optimizer.step()
        train(layer, optimizer, seed=1)
    close(twins[1][0].weight, twins[0][0].weight)


def test_an_optimizer_that_is_gone_leaves_an_exact_table() -> None:
    (theirs, reference), (ours, optimizer) = pair()
    train(theirs, reference)
    train(ours, optimizer)
    del optimizer
    close(ours.weight, theirs.weight)
    close(ours(torch.arange(ROWS)), theirs(torch.arange(ROWS)))


def test_closures_and_hooks_run_once() -> None:
    (_, _), (ours, optimizer) = pair()
    calls = dict.fromkeys(("pre", "post", "closure"), 0)

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    optimizer.register_step_pre_hook(count("pre"))
    optimizer.register_step_post_hook(count("post"))

    def closure() -> Tensor:
        count("closure")()
        optimizer.zero_grad()
        loss = ours(torch.tensor([1, 2])).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss is not None
    assert calls == {"pre": 1, "post": 1, "closure": 1}
    closure()
    optimizer.step()
    assert calls == {"pre": 2, "post": 2, "closure": 2}


def test_hooks_are_told_what_step_was_given() -> None:
    told = []
    for layer, optimizer in pair():
        seen: list[Any] = []
        optimizer.register_step_pre_hook(lambda _, args, kwargs, seen=seen: seen.append((len(args), kwargs)))
        layer(torch.tensor([1])).sum().backward()
        optimizer.step()
        optimizer.step(lambda: None)
        told.append(seen)
    assert told[1] == told[0]


def test_a_parameter_keeps_its_users_attributes() -> None:
    _, (layer, optimizer) = pair()
    train(layer, optimizer)
    layer.weight.tag = "items"
    again = pickle.loads(pickle.dumps(layer)).weight
    assert again.tag == "items"
    assert again.ownership is None


def test_hooks_of_all_optimizers_and_profilers_are_told() -> None:
    (_, _), (ours, optimizer) = pair()
    calls = []
    handle = register_optimizer_step_post_hook(lambda *_: calls.append(1))
    train(ours, optimizer)
    told = len(calls)
    handle.remove()
    train(ours, optimizer)
    assert len(calls) == told > 0
    with torch.profiler.profile() as profile:
        train(ours, optimizer)
    assert f"Optimizer.step#{type(optimizer).__name__}.step" in [event.key for event in profile.key_averages()]


def test_differentiable_steps_are_torchs() -> None:
    """Which refuses those of leaves."""
    for layer, optimizer in pair("SGD", {"differentiable": True}):
        layer(torch.tensor([1])).sum().backward()
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            optimizer.step()
