"""Functions of each value in the nested lists, tuples and dictionaries that PyTorch's functions take and give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of a value, or of each in a list, tuple or dictionary."""
    if type(value) in (list, tuple):
        return type(value)(mapped(function, item) for item in value)
    if type(value) is dict:
        return {key: mapped(function, item) for key, item in value.items()}
    return function(value)
