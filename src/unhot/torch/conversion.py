"""Replacing the embedding layers of a model by unhot's, and by torch's own again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from unhot.reports import Conversion
from unhot.torch.collection import Collection
from unhot.torch.gradient import RowGradient
from unhot.torch.layer import Embedding, EmbeddingBag
from unhot.torch.parameter import TableParameter, become_table, made_plain

M = TypeVar("M", bound=nn.Module)

PARAMETRIZED = "its weight is parametrized; torch.nn.utils.parametrize.remove_parametrizations makes a plain one of it"


def convert(model: M, to: Literal["unhot", "stock"] = "unhot") -> Conversion[M]:
    """Turn every `nn.Embedding` and `nn.EmbeddingBag` of a model into unhot's, or unhot's back into those, in place.

    The weights remain the same parameters, tied weights stay tied, and hooks and names are kept. An unhot optimizer that was
    created earlier owns the tables from its next step on, and that step is dense.

    With `to="stock"`, all deferred steps are applied, and no optimizer owns the tables any more. If no layer had to be left
    alone, nothing of unhot remains in the model: it is saved, loaded, exported, scripted and quantized as any model of torch,
    also where unhot is not installed. Layers that torch has no equal of stay as they are: those with a bias, an activation or
    `out_of_range`, what shares a weight with them, and collections, but not the layers in these.

    Args:
        model: any module. It may itself be an embedding layer.
        to: "unhot", or "stock" for torch's own layers.

    Returns: a `Conversion` with the model, which layers were replaced, and which were left alone and why.

    Raises: TypeError for anything but a module; ValueError for another `to`.

    Example:
        >>> import torch, unhot.torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 1))
        >>> unhot.torch.convert(model)
        replaced: 0 (Embedding)
        >>> unhot.torch.convert(model, to="stock")
        replaced: 0 (unhot.torch.Embedding)
        >>> model[0]
        Embedding(10, 4)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`convert` takes a module of torch. Received: {type(model).__name__}.")
    if to not in ("unhot", "stock"):
        raise ValueError(f"`to` is 'unhot' or 'stock'. Received: {to!r}.")
    done = Conversion(model, in_place=True)
    (_to_unhot if to == "unhot" else _to_stock)(model, done)
    return done


def _to_unhot(model: nn.Module, done: Conversion[Any]) -> None:
    for name, module in _layers(model):
        if isinstance(module, (Embedding, EmbeddingBag)):
            continue
        if is_parametrized(module):
            done.left[name] = PARAMETRIZED
        elif type(module) not in (nn.Embedding, nn.EmbeddingBag):
            done.left[name] = f"{type(module).__name__} is a subclass of torch's layer and may use its weight otherwise"
        elif not become_table(module._parameters.get("weight")):
            done.left[name] = f"its weight is no plain parameter but {type(module.weight).__name__}"
        else:
            done.replaced[name] = type(module).__name__
            _become_unhot(module)


def _become_unhot(module: nn.Module) -> None:
    """Make one of unhot's of `module`, whose weight is a table already.

    Others hold the module and may have hooked it, so it has to stay the object that it is.
    """
    given: Any = module.__dict__.pop("sparse") or None
    module._given_sparse = given
    module.__class__ = EmbeddingBag if isinstance(module, nn.EmbeddingBag) else Embedding
    module.register_parameter("bias", None)
    module.activation = None  # type: ignore[assignment]
    module.out_of_range = "raise"  # type: ignore[assignment]


def _to_stock(model: nn.Module, done: Conversion[Any]) -> None:
    ours = {name: module for name, module in _layers(model) if isinstance(module, (Embedding, EmbeddingBag))}
    done.left.update((name, why) for name, module in ours.items() if (why := _beyond_stock(module)))
    for name, parameter in model.named_parameters():
        if isinstance(parameter, TableParameter) and parameter.other_shards is not None:
            done.left[name] = "its rows are spread over processes"
    kept = {id(parameter): name for name in done.left if name in ours for parameter in ours[name].parameters()}
    kept |= {id(parameter): name for name, parameter in model.named_parameters() if name in done.left}
    for name, module in ours.items():
        if name in done.left:
            continue
        other = kept.get(id(module._parameters.get("weight")))
        if other is not None:
            done.left[name] = f"it shares its weight with {other}, which is left alone"
            continue
        done.replaced[name] = f"unhot.torch.{type(module).__name__}"
        _become_stock(module)
    for name, collection in model.named_modules():
        if isinstance(collection, Collection):
            done.left[name or type(collection).__name__] = (
                f"torch has no {type(collection).__name__}. It calls the layers inside"
            )
    for parameter in model.parameters():  # also of layers that are none of ours, as a tied head
        if isinstance(parameter, TableParameter) and id(parameter) not in kept:
            _become_plain(parameter)


def _beyond_stock(module: Embedding | EmbeddingBag) -> str | None:
    """What torch's layer cannot express."""
    if is_parametrized(module):
        return PARAMETRIZED
    if type(module) not in (Embedding, EmbeddingBag):
        return f"{type(module).__name__} is a subclass of unhot's layer and may use its weight otherwise"
    named = {"bias": getattr(module, "bias", None) is not None, "activation": module.activation is not None}
    has = [name for name, given in (named | {"out_of_range": module.out_of_range != "raise"}).items() if given]
    return f"torch.nn.{type(module).__name__} has no {' and no '.join(has)}" if has else None


def _become_stock(module: Any) -> None:
    """Make one of torch's of one of unhot's, as `_become_unhot` does the other way round."""
    given = bool(module.__dict__.pop("_given_sparse", None))
    del module.bias, module.activation, module.out_of_range
    module.__class__ = nn.EmbeddingBag if isinstance(module, nn.EmbeddingBag) else nn.Embedding
    module.sparse = given


def _become_plain(parameter: TableParameter) -> None:
    """Settle a table, end its ownership, and make a parameter like any other of it."""
    if parameter.ownership is not None:
        parameter.ownership.release()
        if isinstance(parameter.grad, RowGradient):
            parameter.grad = parameter.grad.content.write("`convert`")  # as torch's layer would have left it
        elif parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.to_dense()
    for name in TableParameter.uncopied:
        parameter.__dict__.pop(name, None)
    # In place: optimizers, `state_dict`s and other modules hold this object, and go on with it.
    parameter.__class__ = nn.Parameter  # type: ignore[assignment]
    made_plain[id(parameter)] = parameter


def _layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The embedding layers of a model, each once, with its name; that of a layer that is the whole model is its class."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield name or type(module).__name__, module
