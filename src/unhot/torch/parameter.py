"""The parameter of a table: whatever shows its weights settles them first, but for lookups, which settle what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from unhot.layouts import Shard
from unhot.torch._private import (
    beneath_transforms,
    constructs_parameter,
    is_traced_by_proxies,
    without_torch_functions,
)
from unhot.torch.aliases import settle_memory
from unhot.torch.backend import TorchBackend
from unhot.torch.gradient_content import OtherShards
from unhot.torch.lookup import bag_lookup, known_to_tracers, lookup
from unhot.torch.nested import mapped
from unhot.torch.rooms import Rooms
from unhot.training import Ownership

PROPERTIES = (
    "shape", "dtype", "device", "layout", "ndim", "grad", "grad_fn", "requires_grad", "is_leaf", "retains_grad", "names",
    "name", "output_nr", "_version", "_backward_hooks", "_post_accumulate_grad_hooks", "is_sparse", "is_sparse_csr",
    "is_quantized", "is_meta", "is_cpu", "is_cuda", "is_mps", "is_xpu", "is_xla", "is_ipu", "is_mkldnn", "is_vulkan",
    "is_nested", "itemsize", "nbytes", "is_maia", "is_mtia", "grad_dtype",
)  # fmt: skip
METHODS = (
    "size", "dim", "numel", "nelement", "element_size", "stride", "storage_offset", "is_floating_point", "is_complex",
    "is_signed", "is_contiguous", "requires_grad_", "register_hook", "register_post_accumulate_grad_hook", "get_device",
    "has_names", "retain_grad", "__len__", "__hash__", "ndimension", "is_shared", "is_pinned", "is_inference", "is_conj",
    "is_neg", "new_empty", "new_zeros", "new_ones", "new_full",
)  # fmt: skip
LIKE = (torch.empty_like, torch.zeros_like, torch.ones_like, torch.full_like, torch.rand_like, torch.randn_like)


def _metadata() -> frozenset[Callable[..., Any]]:
    """The functions of a tensor that show none of its numbers, as `__torch_function__` is told them."""
    found: set[Callable[..., Any]] = {getattr(torch.Tensor, name) for name in METHODS if hasattr(torch.Tensor, name)}
    for name in PROPERTIES:
        described = getattr(torch.Tensor, name, None)
        for access in ("__get__", "__set__", "__delete__"):
            if hasattr(described, access):
                found.add(getattr(described, access))
    return frozenset(found | {torch.numel, torch.is_floating_point, torch.is_complex, *LIKE})


METADATA = _metadata()


class Notes:
    """What is noted of a table beside who owns it. It stays with the parameter, whose class and memory may be exchanged."""

    reason_for_dense = ""
    """Why the last step was dense, or the last lookup torch's own; empty if rows are trained apart."""

    warned_of_dense_training = False
    """Whether the user was warned of it."""

    def __init__(self, other_shards: OtherShards | None = None) -> None:
        self.rooms = Rooms()
        """Memory with rows to spare, where there is such."""
        self.other_shards = other_shards
        """The shards of the same table in other processes, if there are such."""


ROW_NUMBERS = ("_frozen_rows", "_removed_rows")
"""Attributes that say something of rows."""

COPIED = (*ROW_NUMBERS, "_other_shards")
"""Attributes that every copy of a table has, too."""


class TableParameter(nn.Parameter):
    """An `nn.Parameter` whose rows an unhot optimizer may leave behind; until one owns it, it is as any other."""

    ownership: Ownership[TorchBackend] | None = None
    """Whose it is."""

    uncopied: ClassVar[frozenset[str]] = frozenset({"ownership", "_notes", "_is_param"})
    """Attributes that no copy takes along."""

    @property
    def frozen_rows(self) -> npt.NDArray[np.int64]:
        """The numbers of the rows that do not train, in rising order; copies of the table have the same."""
        return np.asarray(self.__dict__.get("_frozen_rows", ()), np.int64)

    @property
    def removed_rows(self) -> npt.NDArray[np.int64]:
        """The numbers of rows that have been given back, in rising order; copies of the table have the same."""
        return np.asarray(self.__dict__.get("_removed_rows", ()), np.int64)

    @property
    def shard(self) -> Shard | None:
        """Of which table the rows are some; copies are so, too. None where they are all rows."""
        others = self.other_shards
        return None if others is None else others.shard

    @property
    def other_shards(self) -> OtherShards | None:
        """The shards of the same table in other processes, if there are such; those of copies are the same."""
        found: OtherShards | None = self.__dict__.get("_other_shards")
        return found

    @other_shards.setter
    def other_shards(self, given: OtherShards) -> None:
        self.__dict__["_other_shards"] = self.notes.other_shards = given

    @property
    def notes(self) -> Notes:
        """What is noted of this table."""
        found: Notes | None = self.__dict__.get("_notes")
        if found is None:
            found = self.__dict__["_notes"] = Notes(self.other_shards)
        return found

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        constructed = func is torch.Tensor.detach and constructs_parameter()
        return without_torch_functions(cls._called, func, args, kwargs or {}, constructed)

    @classmethod
    def _called(cls, func: Any, args: Any, kwargs: Any, constructed: bool) -> Any:
        """`func(*args, **kwargs)`, of which tables are arguments."""
        if func in METADATA:
            return func(*args, **kwargs)
        if func is nn.functional.embedding:
            return lookup(*args, **kwargs)
        if func is nn.functional.embedding_bag:
            return bag_lookup(*args, **kwargs)
        owned = []
        for table in tables_among((args, kwargs)):
            if table.ownership is None:
                settle_memory(table)
            else:
                owned.append((table, table.ownership))
        for table, tie in owned:
            if tie.owner is None:
                tie.release()
                settle_memory(table)
            else:
                tie.backend.settle()
        if is_traced_by_proxies():
            args, kwargs = mapped(known_to_tracers, (args, kwargs))
        result = func(*args, **kwargs)
        if constructed:
            result = result.as_subclass(cls)
        for _, tie in owned:
            tie.backend.follow_memory()
        return result

    def __repr__(self) -> str:  # type: ignore[override]
        shown = self.detach().requires_grad_(self.requires_grad)
        return f"Parameter containing:\n{shown!r}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        made: Any = super().__deepcopy__(memo)  # type: ignore[no-untyped-call]
        made.__dict__.update({name: self.__dict__[name] for name in COPIED if name in self.__dict__})
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        own = {name: value for name, value in self.__dict__.items() if name not in self.uncopied}
        return rebuilt, (self.detach(), self.requires_grad, own)


def rebuilt(data: torch.Tensor, requires_grad: bool, attributes: dict[str, Any] | None = None) -> TableParameter:
    """A parameter read back from a file or a copy, with the attributes that its user had given it."""
    parameter = TableParameter(data, requires_grad)
    parameter.__dict__.update(attributes or {})
    return parameter


made_plain: WeakValueDictionary[int, nn.Parameter] = WeakValueDictionary()
"""By their ids, what were tables until `convert` made stock layers: optimizers that had them leave them alone."""


def become_table(parameter: nn.Parameter | None) -> bool:
    """Make a table of a plain parameter, which stays the object that others hold; whether it is a table now."""
    made_plain.pop(id(parameter), None)
    if type(parameter) is nn.Parameter:  # which others may hold, as a tied head does, so another object would not do
        parameter.__class__ = TableParameter
    return isinstance(parameter, TableParameter)


def settle_beneath(tensor: Any) -> None:
    """Settle the table that `torch.func` has wrapped into `tensor`, without telling it, or whose memory `tensor` shows."""
    if torch.compiler.is_compiling() or not isinstance(tensor, torch.Tensor):
        return
    tensor = beneath_transforms(tensor)
    if isinstance(tensor, TableParameter) and tensor.ownership is not None:
        tensor.ownership.settle()
    else:
        without_torch_functions(settle_memory, tensor)


def tables_among(value: Any) -> Iterator[TableParameter]:
    """The table parameters in nested lists, tuples and dictionaries."""
    if isinstance(value, TableParameter):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tables_among(item)
    elif isinstance(value, dict):
        yield from tables_among(list(value.values()))
