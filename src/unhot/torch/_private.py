"""What `unhot.torch` needs of PyTorch and PyTorch does not publish, each as a function that says what it needs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch._C import DisableTorchFunction, DisableTorchFunctionSubclass
from torch.utils._python_dispatch import _disable_current_modes

from unhot.atomic import within

T = TypeVar("T")


def without_torch_functions(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, in which tensors of a class with `__torch_function__` are treated as any others."""
    if torch.compiler.is_compiling():
        with DisableTorchFunctionSubclass():
            return function(*arguments)
    return _inside(DisableTorchFunctionSubclass(), partial(function, *arguments))


def without_modes(function: Callable[[], T]) -> T:
    """`function()`, in which no mode (`torch.set_default_device`, say) is told of operations: that would be Python code."""
    return _inside(DisableTorchFunction(), partial(_inside, _disable_current_modes(), function))


def _inside(manager: Any, function: Callable[[], T]) -> T:
    """`with manager: return function()`, whatever exception comes when (see `atomic.within`)."""
    return within(manager.__enter__, function, partial(manager.__exit__, None, None, None))
