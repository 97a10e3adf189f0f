"""The parameter of a table on Keras's PyTorch backend, and its row-sparse gradient as loss-scale optimizers need it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from unhot.torch._private import without_torch_functions
from unhot.torch.parameter import METADATA, TableParameter

GRAD: Any = Tensor.grad
"""The property that `KerasParameter.grad` stands before."""

DIVISIONS = (torch.divide, torch.div, torch.true_divide, Tensor.__truediv__)


class KerasParameter(TableParameter):
    """A table parameter whose row-sparse gradient is seen as a `RowSparse`."""

    shown: RowSparse | None = None
    """The gradient as it was last seen, for all who ask whether there is one."""

    uncopied = TableParameter.uncopied | {"shown"}

    @property
    def grad(self) -> Tensor | None:
        gradient: Tensor | None = without_torch_functions(GRAD.__get__, self)  # as `__torch_function__` would, later
        if gradient is None or not gradient.is_sparse:
            return gradient
        if self.shown is None or self.shown.held is not gradient:
            self.shown = RowSparse(gradient)
        return self.shown

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self.shown = None  # or it would hold the memory
        without_torch_functions(GRAD.__set__, self, value.held if isinstance(value, RowSparse) else value)


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
        return without_torch_functions(cls._called, func, args, kwargs or {})

    @classmethod
    def _called(cls, func: Any, args: Any, kwargs: Any) -> Any:
        if func in METADATA:
            return func(*args, **kwargs)
        if func is torch.isfinite:
            return torch.isfinite(args[0].held._values())
        changed = args[0] if func.__name__.endswith("_") and args else None
        if any(isinstance(gradient, cls) for gradient in (changed if isinstance(changed, (list, tuple)) else [changed])):
            return _change(func, changed, args[1:], kwargs)
        if func in DIVISIONS and isinstance(args[0], RowSparse) and getattr(args[1], "ndim", 0) == 0:
            return cls(args[0].held / args[1])
        return func(*tree_map(_dense, args), **tree_map(_dense, kwargs))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return func(*tree_map(_dense, args), **tree_map(_dense, kwargs or {}))


SCALINGS: dict[Any, Any] = {
    Tensor.mul_: Tensor.mul_, Tensor.multiply_: Tensor.mul_, Tensor.__imul__: Tensor.mul_, torch._foreach_mul_: Tensor.mul_,
    Tensor.div_: Tensor.div_, Tensor.divide_: Tensor.div_, Tensor.__itruediv__: Tensor.div_, torch._foreach_div_: Tensor.div_,
    Tensor.zero_: Tensor.zero_,
}  # fmt: skip
"""What may be done in place to a row-sparse gradient, and by what to the values of its rows."""


def _change(func: Any, changed: Any, rest: Any, kwargs: Any) -> Any:
    """Scale gradients in place, as clipping by a norm does; refuse all else, which may concern rows that are not there."""
    scaled = SCALINGS.get(func)
    if func is Tensor.detach_:
        return changed
    single = all(getattr(other, "ndim", 0) == 0 and not isinstance(other, (list, tuple)) for other in rest)
    if scaled is None or not single or kwargs:
        raise RuntimeError(
            "the row-sparse gradient of a table can only be scaled in place (mul_, div_, zero_, and clipping by a norm)."
            f" Received: {func.__name__}. Use the optimizer's `clipvalue`, or compute a new gradient and assign it, which costs"
            " what a dense one does: `parameter.grad = parameter.grad.clamp(-1, 1)`."
        )
    for gradient in changed if isinstance(changed, (list, tuple)) else [changed]:
        scaled(gradient.held._values() if isinstance(gradient, RowSparse) else gradient, *rest)
    return changed


def _dense(value: Any) -> Any:
    return value.held.to_dense() if isinstance(value, RowSparse) else value
