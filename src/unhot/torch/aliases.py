"""Parameters in the same memory: one of them must not read or step rows of which another has steps deferred."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from weakref import ReferenceType, ref

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


HOLDERS: dict[int, tuple[ReferenceType[Holder], ...]] = {}
"""What trains the tables that optimizers own, by where their memory was when it was last looked at (`places_of`)."""


def settle_memory(weight: Tensor) -> None:
    """Settle what an optimizer trains in the memory of a weight that no optimizer owns."""
    if not HOLDERS or torch.compiler.is_compiling() or is_transformed():
        return
    for holder in holders_of_others(weight):
        holder.settle()


def is_aliased(holder: Holder, table: nn.Parameter, groups: Iterable[Mapping[str, Any]]) -> bool:
    """Note the holder of a table; whether another parameter, of these groups or owned, lies in its memory."""
    if not address_of(table):
        return False
    others = holders_of_others(table)
    for other in others:
        other.aliased = True
        other.hand_over()
    for place, known in list(HOLDERS.items()):
        if all(one() is None for one in known):
            HOLDERS.pop(place, None)
    for place in places_of(table):
        kept = [known for known in HOLDERS.get(place, ()) if known() not in (None, holder)]
        HOLDERS[place] = (*kept, ref(holder))
    return bool(others) or any(overlap(table, other) for group in groups for other in group["params"] if other is not table)


def holders_of_others(weight: Tensor) -> list[Holder]:
    """What trains other parameters in the memory of this one, or in a part of it."""
    found: dict[int, Holder] = {}
    for known in itertools.chain.from_iterable(HOLDERS.get(place, ()) for place in places_of(weight)):
        holder = known()
        parameter = None if holder is None else holder.parameter
        if holder is not None and parameter is not None and parameter is not weight and overlap(weight, parameter):
            found[id(holder)] = holder  # which may have moved since, and then there is no overlap
    return list(found.values())


def places_of(tensor: Tensor) -> set[int]:
    """Where a tensor's memory begins, and where the memory begins of which it may be a part."""
    try:
        return {tensor.data_ptr(), tensor.untyped_storage().data_ptr()} - {0}
    except (RuntimeError, NotImplementedError):
        return set()


def overlap(table: Tensor, other: Tensor) -> bool:
    """Whether two tensors have memory in common."""
    start, others = address_of(table), address_of(other)
    if not others or other.device != table.device:
        return False
    return others < start + table.numel() * table.element_size() and start < others + other.numel() * other.element_size()


def has_memory(gradient: Tensor) -> bool:
    """Whether this is one gradient, and not many of which `vmap` or `is_grads_batched` makes one."""
    try:
        gradient.data_ptr()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def address_of(tensor: Tensor) -> int:
    """Where a tensor's memory begins; 0 for one without memory of its own."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
