"""Swapping the embedding layers of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unhot.torch.layer import Embedding, EmbeddingBag
from unhot.torch.parameter import TableParameter


@dataclass
class Conversion:
    """What `convert` did, by the modules' names.

    Args:
        swapped: the embedding layers that are unhot's now.
        left: those left alone, and why.

    Errors: none.

    Example:
        >>> import torch, unhot.torch
        >>> unhot.torch.convert(torch.nn.Embedding(10, 4)).swapped
        ['Embedding']
    """

    swapped: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [f"swapped: {', '.join(self.swapped) or 'nothing'}"]
        return "\n".join(lines + [f"left alone: {name}: {why}" for name, why in self.left.items()])


def convert(model: nn.Module) -> Conversion:
    """Turn every `nn.Embedding` and `nn.EmbeddingBag` of `model` into unhot's, in place.

    Weights stay where they are, tied ones stay tied, and hooks and names are kept.  Make the optimizer afterwards: one made
    before holds the old parameters.

    Args:
        model: any module; it may be an embedding layer itself.

    Returns: what was swapped, and what was left alone and why.

    Errors: none of its own.

    Example:
        >>> import torch, unhot.torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 1))
        >>> unhot.torch.convert(model)
        swapped: 0
    """
    done, tables = Conversion(), dict[int, TableParameter]()
    for name, module in model.named_modules():
        if type(module) in (nn.Embedding, nn.EmbeddingBag):
            _swap(module, tables)
            done.swapped.append(name or type(module).__name__)
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and not isinstance(module, (Embedding, EmbeddingBag)):
            done.left[name] = f"{type(module).__name__} is a subclass of torch's layer and may use its weight otherwise"
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and id(parameter) in tables:
                module._parameters[name] = tables[id(parameter)]
    return done


def _swap(module: nn.Module, tables: dict[int, TableParameter]) -> None:
    """Make `module` one of unhot's; its weight is replaced later, wherever it is used."""
    weight = module._parameters["weight"]
    assert weight is not None
    if not isinstance(weight, TableParameter) and id(weight) not in tables:
        tables[id(weight)] = TableParameter(weight.detach(), weight.requires_grad)
        tables[id(weight)].grad = weight.grad
    given: Any = module.__dict__.pop("sparse") or None
    module._given_sparse = given
    if isinstance(module, nn.EmbeddingBag):
        module.__class__ = EmbeddingBag
        return
    module.__class__ = Embedding
    module.register_parameter("bias", None)
    module.activation = None  # type: ignore[assignment]
    module.out_of_range = "raise"  # type: ignore[assignment]
