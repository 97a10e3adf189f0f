"""What becomes a table, and whose it is: parameters put in a layer's place, conversions, copies of optimizers, refusals."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import unhot.torch
from unhot.torch.parameter import TableParameter

from .twins import DIM, LR, ROWS, _double, by_rows, close, deferred, layers, pair, train  # noqa: F401


def saved(both: Any) -> Any:
    file = io.BytesIO()
    torch.save(both, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda both: pickle.loads(pickle.dumps(both)),
    "torch.save": saved,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize(("name", "given"), [("AdamW", {}), ("SGD", {"momentum": 0.9})])
def test_a_copied_optimizer_owns_the_copied_table(way: str, name: str, given: dict[str, Any]) -> None:
    """Both go on, each by itself and by rows."""
    (theirs, reference), (ours, optimizer) = pair(name, given)
    train(theirs, reference)
    train(ours, optimizer)
    other, again = COPIES[way]((ours, optimizer))
    assert other.weight is again.param_groups[0]["params"][0]
    train(other, again, seed=1)
    assert deferred(other)
    assert other.weight.training.owner is again
    close(ours.weight, theirs.weight)
    train(theirs, reference, seed=1)
    close(other.weight, theirs.weight)
    train(ours, optimizer, seed=1)
    assert deferred(ours)
    close(ours.weight, theirs.weight)
    with pytest.raises(ValueError, match="another optimizer"):
        unhot.torch.SGD(other.parameters())


def test_a_refused_group_changes_nothing() -> None:
    first, second, free = (unhot.torch.Embedding(ROWS, DIM) for _ in range(3))
    owner = unhot.torch.Adam(first.parameters())
    optimizer = unhot.torch.Adam(second.parameters())
    with pytest.raises(ValueError, match="trained by another optimizer already"):
        optimizer.add_param_group({"params": [free.weight, first.weight]})
    assert len(optimizer.param_groups) == 1
    assert free.weight.training is None
    assert first.weight.training.owner is owner
    optimizer.add_param_group({"params": [free.weight]})
    train(lambda ids: second(ids) + free(ids), optimizer)
    assert deferred(second)
    assert deferred(free)


def assigned(layer: Any) -> None:
    layer.weight = nn.Parameter(torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM))


def loaded(layer: Any) -> None:
    layer.load_state_dict({"weight": torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM)}, assign=True)


def from_meta(layer: Any) -> None:
    layer.to("meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, ROWS * DIM).reshape(ROWS, DIM))


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize("put", [assigned, loaded, from_meta])
def test_a_parameter_in_the_place_of_the_weight_is_a_table(put: Callable[[Any], None], kind: str) -> None:
    found = []
    for module, optimizers in ((nn, torch.optim), (unhot.torch, unhot.torch)):
        layer = getattr(module, kind)(ROWS, DIM)
        put(layer)
        optimizer = optimizers.AdamW(layer.parameters(), lr=LR)
        train(layer if kind == "Embedding" else lambda ids, layer=layer: layer(ids[:, None]), optimizer)
        found.append(layer.weight)
        assert module is nn or deferred(layer)
        close(layer.weight, found[0])


def test_an_assigned_parameter_stays_the_object_it_is() -> None:
    """A head that has it too, and optimizers that were made for it."""
    head = nn.Linear(DIM, ROWS, bias=False)
    weight = head.weight
    layer = unhot.torch.Embedding(ROWS, DIM)
    layer.weight = head.weight
    assert layer.weight is head.weight is weight
    assert type(weight) is TableParameter


def test_convert_keeps_the_parameters_that_others_hold() -> None:
    """A stock optimizer made before goes on as if nothing had happened, and so does one of ours, densely."""
    for module in (torch.optim, unhot.torch):
        theirs, other = layers()[0], layers()[0]
        reference = torch.optim.AdamW(theirs.parameters(), lr=LR)
        optimizer = module.AdamW(other.parameters(), lr=LR)
        train(theirs, reference)
        train(other, optimizer)
        weight = other.weight
        assert list(unhot.torch.convert(other).replaced) == ["Embedding"]
        assert other.weight is weight
        train(theirs, reference, seed=1)
        train(other, optimizer, seed=1)
        assert not by_rows(other.weight.grad)
        close(other.weight, theirs.weight)


def test_an_older_optimizer_does_not_step_the_rows_of_another() -> None:
    layer = layers()[0]
    older = unhot.torch.Adam(layer.parameters(), lr=LR)
    unhot.torch.convert(layer)
    owner = unhot.torch.Adamax(layer.parameters(), lr=LR)
    train(layer, owner)
    before = layer.weight.detach().clone()
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match=r"a step of a Adam; the table is a Adamax's"):
        older.step()
    assert torch.equal(layer.weight, before)
    assert not older.state


def test_groups_made_anew() -> None:
    """The same optimizer may own the table in another group; its state goes on."""
    twins = pair("Adam")
    for layer, optimizer in twins:
        train(layer, optimizer)
        optimizer.param_groups.clear()
        optimizer.add_param_group({"params": [layer.weight], "lr": LR / 2})
        train(layer, optimizer, seed=1)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def test_convert_leaves_parameters_of_other_kinds() -> None:
    class Special(nn.Parameter):
        pass

    model = nn.Sequential(nn.Embedding(ROWS, DIM), nn.Embedding(ROWS, DIM))
    model[1].weight = Special(torch.ones(ROWS, DIM))
    report = unhot.torch.convert(model)
    assert list(report.replaced) == ["0"]
    assert "Special" in report.left["1"]
    assert type(model[1]) is nn.Embedding
    assert type(model[1].weight) is Special
    assert "Special" in str(report)


def test_convert_keeps_gradients_and_what_is_frozen() -> None:
    layer = nn.Embedding(ROWS, DIM)
    layer(torch.tensor([1])).sum().backward()
    frozen = nn.Embedding(ROWS, DIM, _freeze=True)
    gradient = layer.weight.grad
    unhot.torch.convert(nn.Sequential(layer, frozen))
    assert layer.weight.grad is gradient
    assert not frozen.weight.requires_grad


@pytest.mark.parametrize("ids", [[1, 2], torch.tensor([1.0]), torch.tensor([1], dtype=torch.int16)], ids=str)
def test_ids_that_are_none(ids: Any) -> None:
    """Torch's error, in its words."""
    told = []
    for layer, optimizer in pair():
        with pytest.raises((TypeError, RuntimeError)) as error:
            layer(ids)
        told.append((error.type, str(error.value)))
        del optimizer
    assert told[1] == told[0]
