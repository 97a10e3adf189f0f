"""Replacing the embedding layers of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unhot.torch.layer import Embedding, EmbeddingBag
from unhot.torch.parameter import become_table


@dataclass
class Conversion:
    """What `convert` did, by module name.

    Args:
        swapped: the embedding layers that are now unhot's.
        left: the embedding layers left alone, and why.

    Raises: nothing.

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

    The weights remain the same parameters, tied weights stay tied, and hooks and names are kept. Create the optimizer
    afterwards: an unhot optimizer created earlier does not own the tables.

    Args:
        model: any module. It may itself be an embedding layer.

    Returns: which layers were replaced, and which were left alone and why.

    Raises: nothing of its own.

    Example:
        >>> import torch, unhot.torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 1))
        >>> unhot.torch.convert(model)
        swapped: 0
    """
    done = Conversion()
    for name, module in model.named_modules():
        kind = type(module)
        if isinstance(module, (Embedding, EmbeddingBag)) or not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            continue
        if kind not in (nn.Embedding, nn.EmbeddingBag):
            done.left[name] = f"{kind.__name__} is a subclass of torch's layer and may use its weight otherwise"
        elif not become_table(module._parameters.get("weight")):
            done.left[name] = f"its weight is no plain parameter but {type(module.weight).__name__}"
        else:
            _swap(module)
            done.swapped.append(name or kind.__name__)
    return done


def _swap(module: nn.Module) -> None:
    """Make `module`, whose weight is a table already, one of unhot's."""
    given: Any = module.__dict__.pop("sparse") or None
    module._given_sparse = given
    if isinstance(module, nn.EmbeddingBag):
        module.__class__ = EmbeddingBag
        return
    module.__class__ = Embedding
    module.register_parameter("bias", None)
    module.activation = None  # type: ignore[assignment]
    module.out_of_range = "raise"  # type: ignore[assignment]
