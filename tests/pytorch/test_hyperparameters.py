"""Hyperparameters that change what an optimizer keeps, those it refuses, and what is left when it has refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import unhot.torch

from .twins import DIM, LR, ROWS, _double, by_rows, close, deferred, pair, train  # noqa: F401


@pytest.mark.parametrize("between", [0, 10])
@pytest.mark.parametrize("given", [{}, {"dampening": 0.3}, {"weight_decay": 0.1}], ids=str)
def test_momentum_begun_late(given: dict[str, Any], between: int) -> None:
    """A schedule that warms momentum up from 0, to which it may come back: torch's buffer then waits."""
    twins = pair("SGD", given)
    for layer, optimizer in twins:
        train(layer, optimizer)
        for momentum in (0.9, 0.0, 0.5):
            optimizer.param_groups[0]["momentum"] = momentum
            train(layer, optimizer, seed=1, steps=20 if momentum else between)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)
    close(*(optimizer.state_dict()["state"][0]["momentum_buffer"] for _, optimizer in reversed(twins)))


def test_amsgrad_for_a_while() -> None:
    """The largest second moment waits where it is."""
    twins = pair("Adam", {"amsgrad": True})
    for layer, optimizer in twins:
        for amsgrad in (True, False, True):
            optimizer.param_groups[0]["amsgrad"] = amsgrad
            train(layer, optimizer, seed=int(amsgrad))
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


FLAGS = [("SGD", "nesterov", {"momentum": 0.9}), ("Adam", "amsgrad", {}), ("AdamW", "amsgrad", {}), ("RMSprop", "centered", {})]


@pytest.mark.parametrize("value", [1, 0, 0.5, "no", ""], ids=repr)
@pytest.mark.parametrize(("name", "flag", "given"), FLAGS, ids=[name for name, _, _ in FLAGS])
def test_what_torch_takes_for_true_or_false(name: str, flag: str, given: dict[str, Any], value: Any) -> None:
    """Whatever it is, it is here what it is there."""
    twins = pair(name, {**given, flag: value})
    for layer, optimizer in twins:
        train(layer, optimizer)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def two_tables(momentum: float = 0.9) -> Any:
    """An optimizer of two tables in two groups, of which the second can be refused."""
    torch.manual_seed(0)
    first, second = (unhot.torch.Embedding(ROWS, DIM) for _ in range(2))
    groups = [{"params": layer.parameters()} for layer in (first, second)]
    return first, second, unhot.torch.SGD(groups, lr=LR, momentum=momentum)


def test_a_step_refused_for_one_table_is_none_for_another() -> None:
    """No momentum has begun, here or in torch's optimizer that the state is loaded into."""
    first, second, optimizer = two_tables()
    (first(torch.tensor([1, 2])) + second(torch.tensor([3, 4]))).sum().backward()
    before = first.weight.detach().clone()
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="learning_rate"):
        optimizer.step()
    assert torch.equal(first.weight, before)
    state = copy.deepcopy(optimizer.state_dict()["state"])
    assert all(slots.get("momentum_buffer") is None for slots in state.values())
    optimizer.param_groups[1]["lr"] = LR
    dense = [nn.Embedding.from_pretrained(layer.weight.detach().clone(), freeze=False) for layer in (first, second)]
    reference = torch.optim.SGD([{"params": layer.parameters()} for layer in dense], lr=LR, momentum=0.9)
    reference.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for layers, own in (((first, second), optimizer), (dense, reference)):
        train(lambda ids, layers=layers: layers[0](ids) * layers[1](ids), own)
    for ours, theirs in zip((first, second), dense, strict=True):
        close(ours.weight, theirs.weight)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *(("SGD", what) for what in ({"lr": -1.0}, {"momentum": -0.5}, {"momentum": 1.0}, {"lr": float("nan")})),
        ("Adam", {"betas": (0.99999, 0.999)}),  # refused by what settles, not by its range
    ],
    ids=str,
)
def test_training_goes_on_once_refused_hyperparameters_are_put_back(name: str, what: dict[str, Any]) -> None:
    twins = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    for layer, optimizer in twins:
        train(layer, optimizer)
    layer, optimizer = twins[1]
    group = optimizer.param_groups[0]
    usual = {name: group[name] for name in what}
    layer(torch.tensor([1])).sum().backward()
    group.update(what)
    for _ in range(2):  # the second finds no hyperparameter changed
        with pytest.raises(ValueError, match="sparse=False"):
            optimizer.step()
    group.update(usual)
    for own, other in twins:
        train(own, other, seed=1)
    close(layer.weight, twins[0][0].weight)


COUPLED = ["Adam", "NAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta"]


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_decay_is_refused_with_a_remedy_that_works(name: str) -> None:
    """A layer with sparse=False takes torch's dense path, under the same optimizer."""
    twins = pair(name, {"weight_decay": 0.1})
    layer, optimizer = twins[1]
    before = layer.weight.detach().clone()
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"weight_decay(.|\n)*sparse=False"):
        optimizer.step()
    assert torch.equal(layer.weight, before)
    layer.sparse = False
    for own, other in twins:
        train(own, other)
    assert not by_rows(layer.weight.grad)
    close(layer.weight, twins[0][0].weight)


@pytest.mark.parametrize(("name", "given"), [("SGD", {"weight_decay": 0.1}), ("AdamW", {"weight_decay": 0.1})])
def test_decay_that_is_exact_is_taken(name: str, given: dict[str, Any]) -> None:
    twins = pair(name, given)
    for layer, optimizer in twins:
        train(layer, optimizer)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def test_a_sparse_gradient_of_single_numbers_is_torchs() -> None:
    """Somebody may set one, whose indices are not rows alone."""
    twins = pair("SGD")
    for layer, optimizer in twins:
        train(layer, optimizer)
        layer.weight.grad = torch.sparse_coo_tensor([[1, 1, 4], [0, 2, 1]], [1.0, 2.0, 3.0], (ROWS, DIM))
        optimizer.step()
        train(layer, optimizer, seed=1)
    close(twins[1][0].weight, twins[0][0].weight)
