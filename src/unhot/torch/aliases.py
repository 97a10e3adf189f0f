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
    def parameter(self) -> nn.Parameter | None:
        """The table, or None once it is gone."""

    def settle(self) -> None:
        """Apply all deferred steps."""

    def hand_over(self) -> None:
        """Settle, and let go of the memory."""


HOLDERS: WeakValueDictionary[int, Holder] = WeakValueDictionary()
"""What trains the tables that optimizers own, by the addresses at which their memory began when it was last looked at."""


def settle_memory(weight: Tensor) -> None:
    """Settle what an optimizer trains in the memory of a weight that no optimizer owns."""
    if not HOLDERS or torch.compiler.is_compiling() or is_transformed():
        return
    holder = holder_of_others(weight)
    if holder is not None:
        holder.settle()


def is_aliased(holder: Holder, table: nn.Parameter, groups: Iterable[Mapping[str, Any]]) -> bool:
    """Note the holder of a table; whether another parameter, of these groups or owned, lies in its memory."""
    if not address_of(table):
        return False
    aliased = any(overlap(table, other) for group in groups for other in group["params"] if other is not table)
    other = holder_of_others(table)
    if other is not None:
        other.aliased = aliased = True
        other.hand_over()
    HOLDERS[address_of(table)] = holder
    return aliased


def holder_of_others(weight: Tensor) -> Holder | None:
    """What trains another parameter in the memory of this one."""
    holder = HOLDERS.get(address_of(weight))
    parameter = None if holder is None else holder.parameter
    if parameter is None or parameter is weight or address_of(parameter) != address_of(weight):  # it may have moved since
        return None
    return holder


def overlap(table: Tensor, other: Tensor) -> bool:
    """Whether two tensors have memory in common."""
    start, others = address_of(table), address_of(other)
    if not others or other.device != table.device:
        return False
    return others < start + table.numel() * table.element_size() and start < others + other.numel() * other.element_size()


def address_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 for one without memory of its own."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
