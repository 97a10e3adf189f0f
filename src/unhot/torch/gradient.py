"""The gradient of a table that is trained by rows: rows inside, and a dense tensor for all who ask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unhot.torch import _private, gradient_rules
from unhot.torch.gradient_assignment import fills_rows
from unhot.torch.gradient_content import Content, HeldByRows, Rows, Source


class RowGradient(HeldByRows):
    """The gradient of a table, of which only the rows that were looked up are held. It behaves as a dense tensor.

    Norms, sums and other reductions over all elements, scaling, clamping and other elementwise functions, and sums of two such
    gradients cost only the rows that are held. Everything else (an index, a view, `numpy()`) also works, but makes a dense
    tensor. If that was written, or may have been, the next step is dense, too. Both come with one `DenseFallbackWarning`.

    Args:
        content: the rows that are held. You get such gradients from lookups, and need not make one.

    Raises: nothing of its own.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.Embedding(1000, 4)
        >>> optimizer = unhot.torch.Adam(layer.parameters())
        >>> layer(torch.tensor([3, 3, 7])).sum().backward()
        >>> layer.weight.grad.ids
        tensor([3, 3, 7])
        >>> layer.weight.grad.shape, layer.weight.grad.norm()
        (torch.Size([1000, 4]), tensor(4.4721))
    """

    @classmethod
    def of(cls, ids: Tensor, values: Tensor, rows: int, notes: Any = None) -> RowGradient:
        """The gradient of a table of so many rows, to which values[i] contributes at the row ids[i]."""
        return cls(Content(torch.Size((rows, values.size(1))), Rows(ids, values), notes=notes))

    @classmethod
    def made_of(cls, source: Source, shape: torch.Size, notes: Any = None) -> RowGradient:
        """The gradient of a table of that shape, whose rows are made when somebody asks for them."""
        return cls(Content(shape, None, notes=notes, source=source))

    @property
    def ids(self) -> Tensor | None:
        """The rows that have a gradient, possibly repeated, (n,); None once the gradient is dense."""
        rows = self.content.summands()
        return None if rows is None else rows.ids

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]  # of sparse tensors, which this is not
        """The gradients of the rows `ids`, (n, dim); None once the gradient is dense."""
        rows = self.content.summands()
        return None if rows is None else rows.values

    __torch_function__ = _private.not_a_torch_function

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return RowGradient._called(func, args, kwargs or {})

    @staticmethod
    def _called(func: Any, args: Any, kwargs: Any) -> Any:
        return gradient_rules.called(func, args, kwargs)  # in a function that `torch.compile` is told not to trace

    # PyTorch's methods that hand out memory, or look at the class, without a call of an operator.

    def __setitem__(self, key: Any, value: Any) -> None:
        """As torch's; zeros in whole rows are written by rows."""
        if not fills_rows(self, key, value):
            super().__setitem__(key, value)

    def numpy(self, *, force: bool = False) -> Any:
        """As `Tensor.numpy`; the array shares memory with the gradient, which is dense from now on."""
        return self.content.write("`numpy`").numpy(force=force)

    def tolist(self) -> Any:
        """As `Tensor.tolist`."""
        return self.content.read("`tolist`").tolist()

    def data_ptr(self) -> int:
        """As `Tensor.data_ptr`, of a gradient that is dense from now on."""
        return self.content.write("`data_ptr`").data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        """As `Tensor.untyped_storage`, of a gradient that is dense from now on."""
        if _private.in_tracing():  # which asks for the size only
            return torch.empty(self.shape, dtype=self.dtype, device="meta").untyped_storage()
        return self.content.write("`untyped_storage`").untyped_storage()

    def __dlpack__(self, **options: Any) -> Any:
        return self.content.write("`__dlpack__`").__dlpack__(**options)

    @property
    def data(self) -> Tensor:
        """An alias of the gradient; what is assigned takes the place of what it holds."""
        found: Tensor = _DATA.__get__(self)
        return found

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, RowGradient):
            value = RowGradient(Content(value.shape, None, value.detach(), self.content.notes))
            value.content.reason = "an assignment to `data`"
        _DATA.__set__(self, value)  # of which this is shape, dtype and device
        self.content = value.content

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        rows = self.content.rows
        if rows is None:
            return f"RowGradient({self.content.dense!r})"
        fill = f", fill={rows.fill}" if rows.fill else ""
        return f"RowGradient(shape={tuple(self.shape)}, ids={rows.ids!r}, values={rows.values!r}{fill})"

    def __deepcopy__(self, memo: dict[int, Any]) -> RowGradient:
        if id(self) not in memo:
            memo[id(self)] = self.clone()
        made: RowGradient = memo[id(self)]
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        rows = self.content.rows
        held = (self.content.dense,) if rows is None else tuple(rows)
        return rebuilt, (tuple(self.shape), *held)


_DATA: Any = Tensor.data


def rebuilt(shape: tuple[int, ...], *held: Any) -> RowGradient:
    """A gradient that was saved, from its rows or from a dense tensor."""
    if len(held) == 1:
        return RowGradient(Content(torch.Size(shape), None, held[0]))
    return RowGradient(Content(torch.Size(shape), Rows(*held)))
