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
    assert other.weight.ownership.owner is again
    close(ours.weight, theirs.weight)
    train(theirs, reference, seed=1)
    close(other.weight, theirs.weight)
    train(ours, optimizer, seed=1)
    assert deferred(ours)
    close(ours.weight, theirs.weight)


def phases(layer: Any, make: Callable[[float], Any], rates: tuple[float, ...]) -> None:
    """One optimizer after the other under the same name."""
    for seed, lr in enumerate(rates):
        optimizer = make(lr)
        train(layer, optimizer, seed=seed, steps=9)


def rerun_cell(layer: Any, module: Any) -> None:
    """The old optimizer lives until the new one is made."""
    optimizer = module.Adam(layer.parameters(), lr=LR)
    for seed in range(3):
        train(layer, optimizer, seed=seed, steps=9)
        optimizer = module.AdamW(layer.parameters(), lr=LR / (seed + 2))
    train(layer, optimizer, seed=3)


def by_turns(layer: Any, module: Any, steps: int = 1) -> None:
    """Two heads that share a table, each with its optimizer: a GAN, or two tasks."""
    optimizers = [module.AdamW(layer.parameters(), lr=LR), module.RMSprop(layer.parameters(), lr=LR / 5, momentum=0.5)]
    for seed in range(8):
        train(layer, optimizers[seed % 2], seed=seed, steps=steps)


def in_one_pass(layer: Any, module: Any) -> None:
    """Two optimizers that step one after the other with the same gradients."""
    optimizers = [module.AdamW(layer.parameters(), lr=LR), module.SGD(layer.parameters(), lr=LR / 9, momentum=0.9)]
    for seed in range(8):
        optimizers[0].zero_grad()
        layer(torch.tensor([seed, 3, seed])).pow(2).sum().backward()
        for optimizer in optimizers[:: 1 if seed % 3 else -1]:
            optimizer.step()


def lr_find(layer: Any, module: Any) -> None:
    """Try rates on the model, put weights and state back, and train with the optimizer from before."""
    optimizer = module.AdamW(layer.parameters(), lr=LR)
    train(layer, optimizer, steps=9)
    saved = copy.deepcopy((layer.state_dict(), optimizer.state_dict()))
    train(layer, module.SGD(layer.parameters(), lr=1.0), seed=1, steps=5)
    layer.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(layer, optimizer, seed=2)


def group_of_another(layer: Any, module: Any) -> None:
    """`add_param_group` of a parameter that another optimizer has."""
    first = module.AdamW(layer.parameters(), lr=LR)
    train(layer, first, steps=9)
    second = module.SGD(nn.Linear(2, 2).parameters(), lr=LR)
    second.add_param_group({"params": layer.parameters(), "momentum": 0.9})
    train(layer, second, seed=1, steps=9)
    train(layer, first, seed=2, steps=9)


def stock_after(layer: Any, module: Any) -> None:
    train(layer, module.AdamW(layer.parameters(), lr=LR), steps=9)
    train(layer, torch.optim.RMSprop(layer.parameters(), lr=LR / 5), seed=1, steps=9)


def stock_beside(layer: Any, module: Any) -> None:
    """With the owner alive, and by turns."""
    stock, own = torch.optim.Adam(layer.parameters(), lr=LR), module.AdamW(layer.parameters(), lr=LR)
    for seed in range(4):
        train(layer, own, seed=seed, steps=5)
        train(layer, stock, seed=seed + 9, steps=5)


def released(layer: Any, module: Any) -> None:
    """To a stock optimizer and back."""
    stock, own = torch.optim.Adam(layer.parameters(), lr=LR), module.AdamW(layer.parameters(), lr=LR)
    for seed in range(3):
        train(layer, own, seed=seed, steps=5)
        if isinstance(layer, unhot.torch.Embedding):
            unhot.torch.release(layer if seed else layer.weight)
            assert layer.weight.ownership is None
            assert not unhot.torch.report(layer).by_rows
        train(layer, stock, seed=seed + 9, steps=5)
        assert not by_rows(layer.weight.grad)
    train(layer, own, seed=20)


TAKING_OVER: dict[str, tuple[Callable[[Any, Any], None], bool]] = {
    "phases": (lambda layer, m: phases(layer, lambda lr: m.Adam(layer.parameters(), lr=lr), (0.1, 0.01, 0.03)), True),
    "kinds": (
        lambda layer, m: phases(
            layer, lambda lr: (m.SGD if lr > 0.05 else m.NAdam)(layer.parameters(), lr=lr), (0.1, 0.01, 0.07, 0.02)
        ),
        True,
    ),
    "a cell run again": (rerun_cell, True),
    "by turns": (by_turns, True),
    "by turns of many steps": (lambda layer, module: by_turns(layer, module, 7), True),
    "in one pass": (in_one_pass, True),
    "lr_find": (lr_find, True),
    "a group of another": (group_of_another, True),
    "a stock optimizer after ours": (stock_after, False),
    "a stock optimizer beside ours": (stock_beside, False),
    "released": (released, True),
}


@pytest.mark.parametrize("way", TAKING_OVER)
def test_a_new_optimizer_takes_over(way: str) -> None:
    run, rows = TAKING_OVER[way]
    theirs, ours = layers()
    run(theirs, torch.optim)
    run(ours, unhot.torch)
    assert deferred(ours) == rows
    close(ours.weight, theirs.weight)


def test_states_of_optimizers_that_lost_their_table() -> None:
    """They stay in torch's names, settled up to when the table was lost."""
    twins = pair("AdamW")
    others = []
    for (layer, optimizer), module in zip(twins, (torch.optim, unhot.torch), strict=True):
        train(layer, optimizer)
        others.append(module.Adamax(layer.parameters(), lr=LR))
        train(layer, others[-1], seed=1)
    for name, value in twins[0][1].state_dict()["state"][0].items():
        close(twins[1][1].state_dict()["state"][0][name], value)
    assert twins[1][0].weight.ownership.owner is others[1]
    assert deferred(twins[1][0])


def test_release_takes_what_has_tables() -> None:
    with pytest.raises(TypeError, match="`release` takes a module or a parameter"):
        unhot.torch.release([1])  # type: ignore[arg-type]
    unhot.torch.release(nn.Linear(2, 2))


def test_report() -> None:
    model = nn.ModuleDict(
        {
            "a": unhot.torch.Embedding(ROWS, DIM), "b": unhot.torch.EmbeddingBag(ROWS, DIM), "stock": nn.Embedding(ROWS, DIM),
            "frozen": unhot.torch.Embedding(ROWS, DIM, _freeze=True),
            "short": unhot.torch.Embedding(ROWS, DIM, dtype=torch.half),
        }
    )  # fmt: skip
    first = unhot.torch.Adam(model["a"].parameters())
    found = unhot.torch.report(model)
    assert found.by_rows == ["a.weight"]
    told = {
        "b.weight": "no optimizer of unhot.torch has it", "stock.weight": "it is of torch.nn.Embedding",
        "frozen.weight": "it is frozen", "short.weight": "no optimizer",
    }  # fmt: skip
    for name, reason in told.items():
        assert found.densely[name].startswith(reason)
    assert "does not have it" in unhot.torch.report(model, first).densely["b.weight"]
    assert "use unhot.torch.Adam" in unhot.torch.report(model, torch.optim.Adam(model.parameters())).densely["a.weight"]
    second = unhot.torch.AdamW(model.parameters(), eps=0.0)
    found = unhot.torch.report(model, second)
    assert "`eps` must" in found.densely["a.weight"]
    assert "torch.float16" in found.densely["short.weight"]
    second.param_groups[0]["eps"] = 1e-8
    assert unhot.torch.report(model, second).by_rows == ["a.weight", "b.weight"]
    with pytest.raises(TypeError, match="`report` takes a module"):
        unhot.torch.report(3)  # type: ignore[arg-type]


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
    """A stock optimizer made before goes on as if nothing had happened; one of ours takes the new table at its next step."""
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
        assert deferred(other) == (module is unhot.torch)
        close(other.weight, theirs.weight)


def test_an_older_optimizer_takes_the_table_of_another() -> None:
    twins = []
    for module, converts in ((torch.optim, False), (unhot.torch, True)):
        layer = layers()[0]
        older = module.Adam(layer.parameters(), lr=LR)
        if converts:
            unhot.torch.convert(layer)
        train(layer, module.Adamax(layer.parameters(), lr=LR))
        train(layer, older, seed=1)
        twins.append(layer)
    assert deferred(twins[1])
    close(twins[1].weight, twins[0].weight)


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
