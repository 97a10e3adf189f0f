"""Whose a model's tables are, and how they are trained: `release` and `report`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from unhot.reports import TableReport, TrainingReport
from unhot.torch._private import without_torch_functions
from unhot.torch.backend import TorchBackend
from unhot.torch.optim import Described
from unhot.torch.parameter import TableParameter
from unhot.torch.stepping import RowOptimizer
from unhot.training import ownership_of


def release(model: nn.Module | torch.Tensor) -> None:
    """Apply the deferred steps of a model's tables, and let go of them: no optimizer owns them any more.

    Call it before something that is not from `unhot.torch` trains the tables: it spares that the dense copies of gradients by
    rows. A new optimizer of `unhot.torch` takes tables over by itself. So does an old one that makes another step: it then owns
    the table again, and continues from its own state.

    Args:
        model: a module, or the weight of a layer.

    Raises: TypeError for anything else.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters())
        >>> layer(torch.tensor([3, 7])).sum().backward()
        >>> optimizer.step()
        >>> unhot.torch.release(layer)
        >>> unhot.torch.report(layer).densely
        {'weight': 'no optimizer of unhot.torch has it. Make one with the parameters of the model'}
    """
    if not isinstance(model, (nn.Module, torch.Tensor)):
        raise TypeError(f"`release` takes a module or a parameter. Received: {model!r} (of type {type(model).__name__}).")
    for _, table in tables_in(model):
        tie = ownership_of(table)
        if tie is not None:
            tie.release()


def report(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> TrainingReport:
    """How each table of a model is trained: by rows, or densely and why.

    Args:
        model: a module.
        optimizer: the optimizer that is to train it. If None, the report is on whoever owns the tables now.

    Returns: a `TrainingReport`, also on torch's own embedding layers. A parameter that several layers share is named once.

    Raises: TypeError for anything but a module.

    Example:
        >>> import torch, unhot.torch
        >>> model = torch.nn.Sequential(unhot.torch.Embedding(1000, 4), torch.nn.Linear(4, 1))
        >>> optimizer = unhot.torch.Adam(model.parameters())
        >>> unhot.torch.report(model, optimizer)
        0.weight (1,000 x 4): by rows
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`report` takes a module. Received: {model!r} (of type {type(model).__name__}).")
    return without_torch_functions(_report, model, optimizer)


def _report(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> TrainingReport:
    stock = {
        id(module.weight): f"torch.nn.{type(module).__name__}" if type(module).__module__.startswith("torch.") else "a subclass"
        for module in model.modules()
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    found = []
    for name, parameter in model.named_parameters():
        if isinstance(parameter, TableParameter) or id(parameter) in stock:
            reason = _reason_for_dense(parameter, stock.get(id(parameter), ""), optimizer)
            found.append(TableReport(name, parameter.size(0), parameter.size(1), not reason, reason))
    return TrainingReport(tuple(found))


def _reason_for_dense(table: nn.Parameter, layer: str, optimizer: Any) -> str:
    if not isinstance(table, TableParameter):
        return f"it is of {layer}, which unhot.torch.convert replaces"
    if not table.requires_grad:
        return "it is frozen"
    tie = ownership_of(table)
    if optimizer is None:
        if tie is None:
            return "no optimizer of unhot.torch has it. Make one with the parameters of the model"
        optimizer = tie.owner
    if not isinstance(optimizer, RowOptimizer):
        kind = type(optimizer).__name__
        ours = {subclass.__name__ for subclass in Described.__subclasses__()}
        return f"{kind} is no optimizer of unhot.torch" + (f": use unhot.torch.{kind}" if kind in ours else "")
    group = next((group for group in optimizer.param_groups if any(table is given for given in group["params"])), None)
    if group is None:
        return f"the {type(optimizer).__name__} does not have it. Add it to its parameters"
    return TorchBackend.reason_for_dense(table, optimizer, group) or table.notes.reason_for_dense


def tables_in(model: nn.Module | torch.Tensor) -> Iterator[tuple[str, TableParameter]]:
    """The tables of a model, each once, with their names; or the given one."""
    named = model.named_parameters() if isinstance(model, nn.Module) else [("", model)]
    for name, parameter in named:
        if isinstance(parameter, TableParameter):
            yield name, parameter
