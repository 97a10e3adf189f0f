"""Parameters in the same memory: one of them must not read or step rows of which another has steps deferred."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from unhot.torch._private import is_transformed

ALIASED = (
    "another parameter lies in the same memory, and would read rows with deferred steps. Share the parameter itself, as in"
    " `other.weight = layer.weight`, to train by rows"
)


class Holder(Protocol):
    """What trains the rows of a table parameter."""

    aliased: bool
    """Whether another parameter lies in the table's memory."""

    @property
    def pointer(self) -> int:
        """The address at which the table's memory began when it was last looked at."""

    @property
    def parameter(self) -> nn.Parameter | None:
        """The table, or None once it is gone."""

    def settle(self) -> None:
        """Apply all deferred steps."""

    def hand_over(self) -> None:
        """Settle, and let go of the memory."""


HOLDERS: WeakValueDictionary[int, Holder] = WeakValueDictionary()
"""What trains the tables that optimizers own, by the addresses at which their memory begins."""


def settle_memory(weight: Tensor) -> None:
    """Settle what an optimizer trains in the memory of a weight that no optimizer owns."""
    if not HOLDERS or torch.compiler.is_compiling() or is_transformed():
        return
    pointer = address_of(weight)
    holder = HOLDERS.get(pointer)
    if holder is not None and holder.pointer == pointer and holder.parameter is not weight:
        holder.settle()


def is_aliased(holder: Holder, table: nn.Parameter, groups: Iterable[Mapping[str, Any]]) -> bool:
    """Note the holder of a table, which has other memory now; whether another parameter, of these groups or owned, is there."""
    pointer = table.data_ptr()
    if not pointer:
        return False
    aliased = any(overlap(table, other) for group in groups for other in group["params"] if other is not table)
    other = HOLDERS.get(pointer)
    if other is not None and other is not holder and other.pointer == pointer:
        parameter = other.parameter
        if parameter is not None and parameter is not table:
            other.aliased = aliased = True
            other.hand_over()
    HOLDERS[pointer] = holder
    return aliased


def overlap(table: Tensor, other: Tensor) -> bool:
    """Whether two tensors have memory in common."""
    start, others = table.data_ptr(), address_of(other)
    if not others or other.device != table.device:
        return False
    return others < start + table.numel() * table.element_size() and start < others + other.numel() * other.element_size()


def address_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 for one without memory of its own."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
