"""Two names are changed and nothing else: signatures, errors, schedulers, and torch's own code for dense parameters."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import unhot.torch

from .twins import DIM, LR, ROWS, _double, batches, close, deferred, pair, train  # noqa: F401

OPTIMIZERS = ["Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD"]
LAYERS = ["Embedding", "EmbeddingBag"]


def taken(function: Any) -> dict[str, Any]:
    """Names, kinds and defaults of the arguments, but for the default of `sparse`, which is for the optimizer to decide."""
    found = {name: (given.kind, given.default) for name, given in inspect.signature(function).parameters.items()}
    if "sparse" in found:
        assert found["sparse"][1] in (None, False)
        found["sparse"] = (found["sparse"][0], None)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_are_torchs(name: str) -> None:
    ours, theirs = getattr(unhot.torch, name), getattr(torch.optim, name)
    assert issubclass(ours, theirs)
    assert taken(ours) == taken(theirs)
    for method in ("step", "zero_grad", "state_dict", "load_state_dict", "add_param_group"):
        assert list(taken(getattr(ours, method))) == list(taken(getattr(theirs, method)))
    parameter = nn.Parameter(torch.ones(2))
    given = {name: default for name, (_, default) in taken(theirs).items() if default is not inspect.Parameter.empty}
    assert ours([parameter], **given).defaults == theirs([parameter], **given).defaults
    assert repr(ours([parameter])) == repr(theirs([parameter]))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_what_torchs_take(name: str) -> None:
    ours, theirs = getattr(unhot.torch, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    for method in ("__init__", "from_pretrained", "forward", "reset_parameters", "extra_repr"):
        own, wanted = taken(getattr(ours, method)), taken(getattr(theirs, method))
        added = {argument: own.pop(argument) for argument in set(own) - set(wanted)}
        assert list(own.items()) == list(wanted.items())
        assert all(kind is inspect.Parameter.KEYWORD_ONLY for kind, _ in added.values())
    made = [getattr(module, name)(ROWS, DIM) for module in (unhot.torch, nn)]
    assert set(dir(made[1])) <= set(dir(made[0]))
    for attribute in made[1].__constants__:
        assert getattr(made[0], attribute) == getattr(made[1], attribute)


WRONG: dict[str, Callable[[Any], Any]] = {
    "padding beyond": lambda names: names.Embedding(3, 2, padding_idx=3),
    "padding before": lambda names: names.Embedding(3, 2, padding_idx=-4),
    "weights of another shape": lambda names: names.Embedding(3, 2, _weight=torch.ones(2, 2)),
    "pretrained vector": lambda names: names.Embedding.from_pretrained(torch.ones(3)),
    "pretrained, padding beyond": lambda names: names.Embedding.from_pretrained(torch.ones(3, 2), padding_idx=3),
    "no rows": lambda names: names.Embedding(-1, 2),
    "no number": lambda names: names.Embedding("3", 2),
    "too few arguments": lambda names: names.Embedding(3).forward(),
    "integer weights": lambda names: names.Embedding(3, 2, dtype=torch.int64),
    "bag: padding beyond": lambda names: names.EmbeddingBag(3, 2, padding_idx=3),
    "bag: weights of another shape": lambda names: names.EmbeddingBag(3, 2, _weight=torch.ones(2, 2)),
    "bag: pretrained vector": lambda names: names.EmbeddingBag.from_pretrained(torch.ones(3)),
    "bag: mode": lambda names: names.EmbeddingBag(3, 2, mode="median")(torch.tensor([[1]])),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_of_layers_are_torchs(name: str) -> None:
    """Their type, and their words but for the path to the class."""
    told = []
    for names in (nn, unhot.torch):
        with pytest.raises((ValueError, RuntimeError, AssertionError, TypeError, NotImplementedError)) as error:
            WRONG[name](names)
        told.append((error.type, str(error.value)))
    assert told[1] == told[0]


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 1 / (1 + step)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.97),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 7),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [5, 11]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 10),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=20),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.95),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 8),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 30),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 5), lr_scheduler.ExponentialLR(o, 0.9)], milestones=[8]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler([SCHEDULERS["StepLR"](o), SCHEDULERS["ExponentialLR"](o)]),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=6, cycle_momentum=True),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=60),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=2),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.02, anneal_epochs=10),
}


@pytest.mark.parametrize(("optimizer", "given"), [("AdamW", {}), ("SGD", {"momentum": 0.9}), ("NAdam", {})], ids=str)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str, optimizer: str, given: dict[str, Any]) -> None:
    """Those that move rates at every step, and those that move betas or momentum too."""
    twins = pair(optimizer, given)
    for layer, own in twins:
        scheduler = SCHEDULERS[name](own)
        for i, ids in enumerate(batches(0, 50)):
            own.zero_grad()
            loss = (layer(ids) - torch.sin(ids.double() + i).unsqueeze(-1)).pow(2).sum()
            loss.backward()
            own.step()
            scheduler.step(*([loss.item()] if name == "ReduceLROnPlateau" else []))
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


def test_every_optimizer_of_ours_is_tried() -> None:
    assert {name for name in unhot.torch.__all__ if hasattr(torch.optim, name)} == set(OPTIMIZERS)


def test_every_scheduler_of_torch_is_tried() -> None:
    known = {name for name, made in vars(lr_scheduler).items() if inspect.isclass(made) and name.endswith(("LR", "Restarts"))}
    public = known - {"_LRScheduler", "LRScheduler"}
    assert public - {"SWALR"} <= set(SCHEDULERS)


def test_the_rate_as_a_tensor() -> None:
    twins = pair("Adam")
    for layer, optimizer in twins:
        optimizer.param_groups[0]["lr"] = rate = torch.tensor(LR)
        train(layer, optimizer)
        rate.fill_(LR / 2)
        train(layer, optimizer, seed=1)
    assert deferred(twins[1][0])
    close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize(
    ("given", "function"),
    [({"foreach": True}, "_multi_tensor_adam"), ({"fused": True}, "_fused_adam"), ({"foreach": False}, "_single_tensor_adam")],
    ids=["foreach", "fused", "one by one"],
)
def test_dense_parameters_go_through_torchs_own_code(given: dict[str, Any], function: str) -> None:
    """One call for all of them, tables left out, and in the implementation that was asked for."""
    layer, head = unhot.torch.Embedding(ROWS, DIM), nn.Linear(DIM, 2)
    optimizer = unhot.torch.Adam([*layer.parameters(), *head.parameters()], **given)
    before = [parameter.detach().clone() for parameter in optimizer.param_groups[0]["params"]]
    head(layer(torch.tensor([1, 2]))).sum().backward()
    module = importlib.import_module("torch.optim.adam")
    with mock.patch.object(module, function, wraps=getattr(module, function)) as called:
        optimizer.step()
    assert called.call_count == 1
    assert [id(tensor) for tensor in called.call_args.args[0]] == [id(parameter) for parameter in head.parameters()]
    for now, then in zip(optimizer.param_groups[0]["params"], before, strict=True):
        assert not torch.equal(now, then)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tables_are_trained_in_place(name: str) -> None:
    """Weights and slots stay where torch has them, which is what the kernels work on."""
    layer = unhot.torch.Embedding(ROWS, DIM)
    optimizer = getattr(unhot.torch, name)(layer.parameters(), **({"momentum": 0.9} if name in ("SGD", "RMSprop") else {}))
    before = layer.weight.data_ptr()
    train(layer, optimizer, steps=3)
    engine: Any = layer.weight.ownership.backend.engine
    slots = [optimizer.held_state[layer.weight][optimizer.slots[slot]] for slot in engine.clock.slots]
    held = [slot.data_ptr() for slot in slots]
    assert held
    train(layer, optimizer, seed=1)
    assert layer.weight.ownership.backend.engine is engine
    assert layer.weight.data_ptr() == before == engine.stores[0].weights.ctypes.data
    for slot, array, pointer in zip(slots, engine.stores[0].slots, held, strict=True):
        assert slot.data_ptr() == pointer == array.ctypes.data
        assert np.shares_memory(array, slot.numpy())


def test_libraries_that_list_optimizers_find_each_name_once() -> None:
    """As pykeen's resolver does: subclasses of subclasses, each if it is from the package of the class above it."""

    def below(kind: type) -> list[type]:
        found = []
        for sub in kind.__subclasses__():
            found += below(sub)
            if sub.__module__.split(".")[0] == kind.__module__.split(".")[0]:
                found.append(sub)
        return found

    names = [kind.__name__ for kind in below(torch.optim.Optimizer) if not kind.__name__.startswith("_")]
    assert "Adam" in names
    assert len(set(names)) == len(names)
