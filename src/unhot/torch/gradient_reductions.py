"""Reductions of a `RowGradient` over all its elements, from the rows that are held."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unhot.torch.gradient_content import Content, Number, OtherShards


def over_all(func: Any, args: Any, kwargs: Any) -> Any:
    """A reduction over all elements. Where the table is spread over processes, it is that of the whole gradient."""
    gradient, *rest = args
    content = gradient.content
    name = str(func.overloadpacket).removeprefix("aten.")
    positional = POSITIONAL.get(name, ("dim", "keepdim"))
    options = {**kwargs, **dict(zip(positional, rest, strict=False))}
    spread = shards_of(content) is not None
    if (
        (content.rows is None and not spread)
        or len(rest) > len(positional)
        or options.pop("keepdim", False)
        or "out" in options
    ):
        return NotImplemented
    dims = options.pop("dim", None)
    if dims is not None and (isinstance(dims, int) or sorted(dim % 2 for dim in dims) not in ([], [0, 1])):
        return NotImplemented
    return REDUCTIONS[name](content, **options)


POSITIONAL: dict[str, tuple[str, ...]] = {
    "linalg_vector_norm": ("ord", "dim", "keepdim"), "var": ("dim",), "std": ("dim",), "max": (), "min": (),
}  # fmt: skip
"""The arguments after the tensor, of the operators that do not have `dim` and `keepdim`."""


def shards_of(content: Content) -> OtherShards | None:
    """The other shards of the table, if it is spread over processes."""
    found: OtherShards | None = getattr(content.notes, "other_shards", None)
    return found


def _held(content: Content) -> tuple[Tensor, int, Number]:
    """The elements that are held here, and how many more there are, which hold the same number."""
    if content.rows is None:
        assert content.dense is not None
        return content.dense, 0, 0.0
    rows = content.distinct()
    return rows.values, content.shape.numel() - rows.values.numel(), rows.fill


def _count_of(content: Content) -> int:
    """How many elements the gradient has."""
    shards = shards_of(content)
    return content.shape.numel() if shards is None else shards.rows(content.shape[0]) * content.shape[1]


def _total(content: Content, own: Tensor) -> Tensor:
    """The sum over the shards."""
    shards = shards_of(content)
    return own if shards is None else shards.total(own)


def _sum(content: Content, dtype: Any = None) -> Any:
    summands = content.summands()
    if summands is not None:
        return _total(content, torch.sum(summands.values, dtype=dtype))
    values, others, fill = _held(content)
    return _total(content, torch.sum(values, dtype=dtype) + others * fill)


def _mean(content: Content, dtype: Any = None) -> Any:
    if not (content.like.is_floating_point() or dtype is not None):
        return NotImplemented
    return _sum(content, dtype) / _count_of(content)


def _var(content: Content, correction: float | None = 1) -> Any:
    values, others, fill = _held(content)
    if not values.is_floating_point() or values.device.type == "mps":
        return NotImplemented
    dtype, values, count = values.dtype, values.double(), _count_of(content)
    mean = _total(content, values.sum() + others * fill) / count
    squares = _total(content, (values - mean).square().sum() + others * (fill - mean).square())
    divisor = max(count - (1 if correction is None else correction), 0)
    return (squares / divisor).to(dtype)


def _std(content: Content, correction: float | None = 1) -> Any:
    found = _var(content, correction)
    return found if found is NotImplemented else found.sqrt()


def _with_fill(content: Content, reduce: Callable[[Tensor], Tensor], sign: int) -> Any:
    """A reduction for which it makes no difference how often an element is there: the largest, or the smallest with sign -1."""
    held, others, fill = _held(content)
    values = held.reshape(-1)
    if others:
        values = torch.cat([values, values.new_full((1,), fill)])
    shards = shards_of(content)
    if shards is None:
        return reduce(values)
    if not len(values):  # a shard without rows is neither the largest nor the smallest
        values = values.new_full((1,), sign < 0 if values.dtype == torch.bool else -sign * torch.inf)
    own = reduce(values)
    return (shards.largest(own.double() * sign) * sign).to(own.dtype)


def _norm(content: Content, ord: float = 2, dtype: Any = None) -> Any:
    held, others, fill = _held(content)
    if (others and fill != 0) or not (ord > 0 or ord == 0):
        return NotImplemented
    values = held if held.numel() else held.new_zeros(1)
    own = torch.linalg.vector_norm(values, ord, dtype=dtype)
    shards = shards_of(content)
    if shards is None:
        return own
    if ord in (0, math.inf):
        return shards.total(own) if ord == 0 else shards.largest(own)
    return (shards.total(own.double() ** ord) ** (1 / ord)).to(own.dtype)


def _count(content: Content) -> Any:
    values, others, fill = _held(content)
    found = torch.count_nonzero(values)
    return _total(content, found + others if fill else found)


def _extreme(name: str, sign: int) -> Callable[[Content], Any]:
    reduce = getattr(torch, name)
    return lambda content: _with_fill(content, reduce, sign)


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum, "mean": _mean, "var": _var, "std": _std, "linalg_vector_norm": _norm, "count_nonzero": _count,
    **{name: _extreme(name, 1) for name in ("any", "max", "amax")},
    **{name: _extreme(name, -1) for name in ("all", "min", "amin")},
}  # fmt: skip
"""By the name of the operator; what is passed on are its arguments beside `dim` and `keepdim`."""
