"""What is done to `optimizer.state` from outside, with a table and its dense twin."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch

from .twins import _double, close, deferred, pair, train  # noqa: F401


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
@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "Adamax", "Adadelta", "RMSprop", "Adagrad"])
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


SLOTS = {"AdamW": "exp_avg", "NAdam": "mu_product", "Adam": "step", "SGD": "momentum_buffer"}


@pytest.mark.parametrize(("name", "slot"), SLOTS.items())
def test_a_settled_state_may_be_written_in_place(name: str, slot: str) -> None:
    twins = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    for layer, optimizer in twins:
        train(layer, optimizer)
        optimizer.state_dict()
        state_of(optimizer)[slot].mul_(0.5).round_()
        train(layer, optimizer, seed=1)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize(("name", "slot"), SLOTS.items())
def test_a_state_written_while_steps_are_deferred_is_refused(name: str, slot: str) -> None:
    """At the next step and where it would be saved, until a state is loaded."""
    (theirs, reference), (layer, optimizer) = pair(name, {"momentum": 0.9} if name == "SGD" else {})
    train(layer, optimizer)
    saved = copy.deepcopy((layer.state_dict(), optimizer.state_dict()))
    train(layer, optimizer)
    state_of(optimizer)[slot].zero_()
    layer(torch.tensor([1])).sum().backward()
    for use in (optimizer.step, optimizer.state_dict, lambda: pickle.dumps(optimizer), optimizer.step):
        with pytest.raises(RuntimeError, match=r"written in place while its rows had deferred steps.*state_dict"):
            use()
    for own, other in ((theirs, reference), (layer, optimizer)):
        own.load_state_dict(saved[0])
        other.load_state_dict(copy.deepcopy(saved[1]))
        train(own, other, seed=1)
    assert deferred(layer)
    close(layer.weight, theirs.weight)
