"""Reductions of a `RowGradient` over all its elements, from the rows that are held."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unhot.torch.gradient_content import Content


def over_all(func: Any, args: Any, kwargs: Any) -> Any:
    """A reduction over all elements."""
    gradient, *rest = args
    content = gradient.content
    name = str(func.overloadpacket).removeprefix("aten.")
    positional = POSITIONAL.get(name, ("dim", "keepdim"))
    options = {**kwargs, **dict(zip(positional, rest, strict=False))}
    if content.rows is None or len(rest) > len(positional) or options.pop("keepdim", False) or "out" in options:
        return NotImplemented
    dims = options.pop("dim", None)
    if dims is not None and (isinstance(dims, int) or sorted(dim % 2 for dim in dims) not in ([], [0, 1])):
        return NotImplemented
    return REDUCTIONS[name](content, **options)


POSITIONAL: dict[str, tuple[str, ...]] = {
    "linalg_vector_norm": ("ord", "dim", "keepdim"), "var": ("dim",), "std": ("dim",), "max": (), "min": (),
}  # fmt: skip
"""The arguments after the tensor, of the operators that do not have `dim` and `keepdim`."""


def _others(content: Content) -> int:
    """How many elements are not held."""
    rows = content.distinct()
    return content.shape.numel() - rows.values.numel()


def _sum(content: Content, dtype: Any = None) -> Any:
    rows = content.rows
    assert rows is not None
    total = torch.sum(rows.values, dtype=dtype)
    return total + _others(content) * rows.fill if rows.fill else total


def _mean(content: Content, dtype: Any = None) -> Any:
    rows = content.rows
    if rows is None or not (rows.values.is_floating_point() or dtype is not None):
        return NotImplemented
    return _sum(content, dtype) / content.shape.numel()


def _var(content: Content, correction: float | None = 1) -> Any:
    rows, others = content.distinct(), _others(content)
    if not rows.values.is_floating_point() or rows.values.device.type == "mps":
        return NotImplemented
    values, count = rows.values.double(), content.shape.numel()
    mean = (values.sum() + others * rows.fill) / count
    squares = (values - mean).square().sum() + others * (rows.fill - mean).square()
    divisor = max(count - (1 if correction is None else correction), 0)
    return (squares / divisor).to(rows.values.dtype)


def _std(content: Content, correction: float | None = 1) -> Any:
    found = _var(content, correction)
    return found if found is NotImplemented else found.sqrt()


def _with_fill(content: Content, reduce: Callable[[Tensor], Tensor]) -> Any:
    """A reduction for which it makes no difference how often an element is there."""
    rows = content.distinct()
    values = rows.values.reshape(-1)
    if _others(content):
        values = torch.cat([values, values.new_full((1,), rows.fill)])
    return reduce(values)


def _norm(content: Content, ord: float = 2, dtype: Any = None) -> Any:
    rows = content.distinct()
    if rows.fill != 0 or not (ord > 0 or ord == 0):
        return NotImplemented
    values = rows.values if rows.values.numel() else rows.values.new_zeros(1)
    return torch.linalg.vector_norm(values, ord, dtype=dtype)


def _count(content: Content) -> Any:
    rows = content.distinct()
    found = torch.count_nonzero(rows.values)
    return found + _others(content) if rows.fill else found


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum, "mean": _mean, "var": _var, "std": _std, "linalg_vector_norm": _norm, "count_nonzero": _count,
    "all": lambda content: _with_fill(content, torch.all), "any": lambda content: _with_fill(content, torch.any),
    "max": lambda content: _with_fill(content, torch.max), "min": lambda content: _with_fill(content, torch.min),
    "amax": lambda content: _with_fill(content, torch.amax), "amin": lambda content: _with_fill(content, torch.amin),
}  # fmt: skip
"""By the name of the operator; what is passed on are its arguments beside `dim` and `keepdim`."""
