"""The parameter of a table on Keras's PyTorch backend, and its row-sparse gradient as loss-scale optimizers need it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.utils._pytree import tree_map

from unhot.torch.parameter import METADATA, TableParameter

DIVISIONS = (torch.divide, torch.div, torch.true_divide, Tensor.__truediv__)


class KerasParameter(TableParameter):
    """A table parameter whose row-sparse gradient is seen as a `RowSparse`."""

    @property
    def grad(self) -> Tensor | None:
        gradient = super().grad
        return gradient if gradient is None or not gradient.is_sparse else RowSparse(gradient)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        base: Any = TableParameter
        base.grad.__set__(self, value.held if isinstance(value, RowSparse) else value)


class RowSparse(Tensor):
    """A gradient that is sparse for what asks whether it is finite, divides it or knows it; a dense tensor for all others."""

    held: Tensor
    """The sparse COO tensor."""

    @staticmethod
    def __new__(cls, held: Tensor) -> RowSparse:
        make: Any = Tensor._make_wrapper_subclass
        made: RowSparse = make(cls, held.shape, dtype=held.dtype, device=held.device)
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with DisableTorchFunctionSubclass():
            if func in METADATA:
                return func(*args, **(kwargs or {}))
            if func is torch.isfinite:
                return torch.isfinite(args[0].held._values())
            if func in DIVISIONS and isinstance(args[0], RowSparse) and getattr(args[1], "ndim", 0) == 0:
                return cls(args[0].held / args[1])
            return func(*tree_map(_dense, args), **tree_map(_dense, kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*tree_map(_dense, args), **tree_map(_dense, kwargs or {}))


def _dense(value: Any) -> Any:
    return value.held.to_dense() if isinstance(value, RowSparse) else value
