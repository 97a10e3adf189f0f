"""What is done to `optimizer.state` from outside, with a table and its dense twin."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import unhot.torch
from unhot.torch.placement import counter

from .twins import DIM, OLD, ROWS, _double, by_rows, close, default_device, deferred, pair, train, unpublished  # noqa: F401


def state_of(optimizer: Any) -> dict[str, Any]:
    (state,) = optimizer.state.values()
    return state


def cleared(optimizer: Any) -> None:
    optimizer.state.clear()


def anew(optimizer: Any) -> None:
    optimizer.state = defaultdict(dict)


def replaced(optimizer: Any) -> None:
    for name, tensor in state_of(optimizer).items():
        state_of(optimizer)[name] = torch.full_like(tensor, 0.5 if name == "mu_product" else 3.0)


REPLACED: dict[str, Callable[[Any], None]] = {"clear": cleared, "another": anew, "tensors": replaced}


@pytest.mark.parametrize("name", ["AdamW", "Adam", "NAdam", "Adagrad", "SGD"])
@pytest.mark.parametrize("way", REPLACED)
def test_a_state_that_was_replaced_is_begun_anew(way: str, name: str) -> None:
    if OLD and name == "Adagrad":
        pytest.skip("torch's Adagrad begins its state when it is made")
    twins = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    for layer, optimizer in twins:
        train(layer, optimizer)
        REPLACED[way](optimizer)
        train(layer, optimizer, seed=1)
    assert deferred(twins[1][0]) or name == "Adagrad"
    close(twins[1][0].weight, twins[0][0].weight)
    states = [optimizer.state_dict()["state"][0] for _, optimizer in twins]
    assert states[1].keys() == states[0].keys()
    for key, value in states[0].items():
        close(states[1][key], value)


@pytest.mark.parametrize("step", [-3.0, float("nan"), float("inf"), 2.5, 2.0**40], ids=str)
@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adadelta", "RMSprop", "Adagrad"])
def test_a_number_of_steps_that_is_none_is_refused(name: str, step: float) -> None:
    """At the next step, with nothing changed; a good state mends it."""
    (theirs, reference), (layer, optimizer) = pair(name, {})
    for own, other in ((theirs, reference), (layer, optimizer)):
        train(own, other)
    good = copy.deepcopy(optimizer.state_dict())
    broken = copy.deepcopy(good)
    broken["state"][0]["step"] = torch.tensor(step)
    optimizer.load_state_dict(broken)
    before = copy.deepcopy((layer.weight.detach(), state_of(optimizer)))
    optimizer.zero_grad()
    layer(torch.tensor([1])).sum().backward()
    for _ in range(2):
        with pytest.raises(
            ValueError, match=r"the 'step' in `optimizer\.state` .* whole number .* Received: .* Load a state"
        ) as caught:
            optimizer.step()
    assert "own names" not in str(caught.value)
    assert torch.equal(layer.weight, before[0])
    for key, value in before[1].items():
        torch.testing.assert_close(state_of(optimizer)[key], value, rtol=0, atol=0, equal_nan=True)
    optimizer.load_state_dict(good)
    for own, other in ((theirs, reference), (layer, optimizer)):
        train(own, other, seed=1)
    close(layer.weight, theirs.weight)


@pytest.mark.parametrize("given", [{}, {"fused": True}], ids=["plain", "fused"])
@pytest.mark.parametrize("default", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_number_of_steps_has_torchs_dtype(default: torch.dtype, given: dict[str, Any]) -> None:
    """Whatever dtype is the default: in bfloat16, it could not count beyond 256."""
    torch.set_default_dtype(default)
    for name in ("Adam", "AdamW") if given else ("Adam", "AdamW", "NAdam", "Adamax", "RMSprop", "Adadelta"):
        states = []
        for module, made in ((torch.optim, nn.Embedding), (unhot.torch, unhot.torch.Embedding)):
            layer = made(ROWS, DIM, dtype=torch.float64)
            optimizer = getattr(module, name)(layer.parameters(), **given)
            layer(torch.tensor([1])).sum().backward()
            optimizer.step()
            states.append(optimizer.state_dict()["state"][0])
        for key, value in states[0].items():
            assert states[1][key].dtype == value.dtype, (name, key)


ORDERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.9}), ("Adam", {"amsgrad": True}), ("NAdam", {}), ("RAdam", {}), ("Adamax", {}), ("Adagrad", {}),
    ("RMSprop", {"momentum": 0.9, "centered": True}), ("Adadelta", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "given"), ORDERS)
def test_the_state_has_torchs_order(name: str, given: dict[str, Any]) -> None:
    orders = []
    for layer, optimizer in pair(name, given):
        train(layer, optimizer, steps=2)
        orders.append(list(optimizer.state[layer.weight]))
    assert orders[0] == orders[1]


@pytest.mark.parametrize("given", [{}, {"fused": None, "capturable": False}, {"fused": True}, {"capturable": True}], ids=str)
def test_the_number_of_steps_is_where_torch_takes_it(given: dict[str, Any]) -> None:
    """Beside the table, if torch's step is fused or capturable. "meta" stands for a GPU."""
    table = torch.empty(2, 3, device="meta")
    assert counter(1.0, table, given).device.type == ("meta" if any(given.values()) else "cpu")
    with default_device("meta"):
        assert counter(1.0, table, given).device.type == ("meta" if any(given.values()) else "cpu")


SLOTS = {"AdamW": "exp_avg", "NAdam": "mu_product", "Adam": "step", "SGD": "momentum_buffer"}


@pytest.mark.parametrize(("name", "slot"), SLOTS.items())
def test_the_state_may_be_written_in_place(name: str, slot: str) -> None:
    """And is settled for whoever looks at it."""
    twins = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    for layer, optimizer in twins:
        train(layer, optimizer)
    for key, value in state_of(twins[0][1]).items():
        close(state_of(twins[1][1])[key], value)
    for layer, optimizer in twins:
        state_of(optimizer)[slot].mul_(0.5).round_()
        train(layer, optimizer, seed=1)
        optimizer.state_dict()["state"][0][slot].add_(1.0)
        train(layer, optimizer, seed=2)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize(("name", "slot"), SLOTS.items())
def test_tensors_of_the_state_may_be_replaced(name: str, slot: str) -> None:
    """Also in a dictionary that was taken out before."""
    twins = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    for layer, optimizer in twins:
        train(layer, optimizer)
        state = state_of(optimizer)
        train(layer, optimizer, seed=1)
        state[slot] = state[slot] * 0.5 if name == "NAdam" else torch.full_like(state[slot], 3.0)
        train(layer, optimizer, seed=2)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


@unpublished
@pytest.mark.parametrize(("name", "slot"), SLOTS.items())
def test_a_tensor_taken_out_before_a_step_is_not_written_after_it(name: str, slot: str) -> None:
    """Refused at the next step and where it would be saved, until a state is loaded."""
    (theirs, reference), (layer, optimizer) = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    train(layer, optimizer)
    saved = copy.deepcopy((layer.state_dict(), optimizer.state_dict()))
    taken = state_of(optimizer)[slot]
    train(layer, optimizer)
    taken.zero_()
    layer(torch.tensor([1])).sum().backward()
    for use in (optimizer.step, optimizer.state_dict, lambda: pickle.dumps(optimizer), optimizer.step):
        with pytest.raises(RuntimeError, match=r"was written in place.*deferred steps.*load_state_dict"):
            use()
    for own, other in ((theirs, reference), (layer, optimizer)):
        own.load_state_dict(saved[0])
        other.load_state_dict(copy.deepcopy(saved[1]))
        train(own, other, seed=1)
    assert deferred(layer)
    close(layer.weight, theirs.weight)


@pytest.mark.parametrize("order", ["b", "ba", "bab", "abab"])
@pytest.mark.parametrize("name", ["Adam", "NAdam", "SGD", "Adadelta"])
def test_a_loaded_state_is_a_copy(name: str, order: str) -> None:
    """Twins from one warm start, as population-based training has them, and dense ones with separate states."""
    found = []
    for copied in (True, False):
        first, second = pair(name, {"momentum": 0.9} if name == "SGD" else {}), pair(name)
        (a, of_a), (b, of_b) = (both[0 if copied else 1] for both in (first, second))
        of_b.param_groups[0].update(momentum=0.9) if name == "SGD" else None
        train(a, of_a)
        b.load_state_dict(a.state_dict())
        state = of_a.state_dict()
        of_b.load_state_dict(copy.deepcopy(state) if copied else state)
        for seed, which in enumerate(order):
            train(*{"a": (a, of_a), "b": (b, of_b)}[which], seed=seed + 1, steps=7)
        found.append((a.weight.detach().clone(), b.weight.detach().clone()))
    close(found[1][0], found[0][0])
    close(found[1][1], found[0][1])


def test_a_state_is_loaded_where_a_step_was_torn() -> None:
    """By a fork, say: nothing is settled then, and training goes on from what is loaded, as the error says."""
    twins = pair("AdamW")
    for layer, optimizer in twins:
        train(layer, optimizer)
        saved = copy.deepcopy((layer.state_dict(), optimizer.state_dict()))
        train(layer, optimizer, seed=1)
        if optimizer is twins[1][1]:
            layer.weight.ownership.backend.engine._version._numbers.clear()
            with pytest.raises(RuntimeError, match="in the midst of a step"):
                layer(torch.tensor([0]))
        optimizer.load_state_dict(saved[1])
        layer.load_state_dict(saved[0])
        train(layer, optimizer, seed=2)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def test_a_new_parameter_in_the_groups() -> None:
    """Vocabulary surgery: a larger table in the group, with the state of the old one in its rows."""
    twins = pair("AdamW")
    for layer, optimizer in twins:
        train(layer, optimizer)
        old, more = layer.weight, torch.linspace(-1, 1, 4 * DIM).reshape(4, DIM)
        layer.weight = nn.Parameter(torch.cat([old.detach(), more]))
        optimizer.param_groups[0]["params"][0] = layer.weight
        state = optimizer.state.pop(old)
        optimizer.state[layer.weight] = {
            key: torch.cat([value, torch.zeros(4, DIM)]) if value.dim() == 2 else value for key, value in state.items()
        }
        train(layer, optimizer, seed=1)
        train(lambda ids, layer=layer: layer(ids + 4), optimizer, seed=2)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)
    assert by_rows(twins[1][0].weight.grad)


@pytest.mark.parametrize("tied", [False, pytest.param(True, marks=unpublished)])
def test_parameters_swapped_on_conversion(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.__future__.set_swap_module_params_on_conversion`: another class and other memory for the same object."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        twins = pair("AdamW")
        for layer, optimizer in twins:
            model = nn.Sequential(layer, nn.Linear(DIM, ROWS, bias=False)) if tied else layer
            if tied:
                model[1].weight = layer.weight
            weight = layer.weight
            train(layer, optimizer)
            optimizer.zero_grad()
            model.load_state_dict({key: value * 0.5 for key, value in model.state_dict().items()})
            train(layer, optimizer, seed=1)
            optimizer.zero_grad()
            model.to(torch.float32).to(torch.float64)
            train(layer, optimizer, seed=2)
            assert layer.weight is weight
        assert deferred(twins[1][0])
        close(twins[1][0].weight, twins[0][0].weight)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
