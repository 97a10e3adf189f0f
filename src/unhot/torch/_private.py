"""What `unhot.torch` needs of PyTorch and PyTorch does not publish: each a function, with a way around where it is missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch._C import DisableTorchFunctionSubclass

T = TypeVar("T")

_without: Any = getattr(torch._C, "_disabled_torch_function_impl", None)
"""Calls its first argument with the positional and named arguments that are its third and fourth."""


def without_torch_functions(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, in which tensors of a class with `__torch_function__` are treated as any others.

    A `with` statement would do the same, but for an exception of a signal's handler that comes between its block and its end.
    """
    if _without is None or torch.compiler.is_compiling():
        with DisableTorchFunctionSubclass():
            return function(*arguments)
    found: T = _without(function, (), arguments, {})
    return found
