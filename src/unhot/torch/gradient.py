"""The gradient of a table that is trained by rows: rows inside, and a dense tensor for all who ask."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unhot.kernels import active as kernels
from unhot.torch import _private
from unhot.training import warn_once

Number = float | int | bool


class Rows(NamedTuple):
    """What a tensor of shape (rows, dim) holds, most of whose rows are alike.

    Args:
        ids: row numbers, (n,), int64.
        values: what these rows hold, (n, dim); of a row that is named more than once, the sum.
        fill: what all other rows hold. It is 0 where `values` are to be summed.
        distinct: whether no row is named twice.
    """

    ids: Tensor
    values: Tensor
    fill: Number = 0.0
    distinct: bool = False


class Content:
    """What a `RowGradient` holds, shared by all that are aliases of each other (`detach`, `.data`).

    As long as there are `rows`, they are what counts, and `dense` is what has been made of them for a reader. Once something
    has had the memory to write to, there are no rows any more.
    """

    __slots__ = ("dense", "notes", "reason", "rows", "shape")

    def __init__(self, shape: torch.Size, rows: Rows | None, dense: Tensor | None = None, notes: Any = None) -> None:
        self.shape, self.rows, self.dense = shape, rows, dense
        self.notes = notes
        """What is noted of the table whose gradient this is, if it is one's."""
        self.reason = ""
        """What has asked for the memory."""

    def summands(self) -> Rows | None:
        """The rows, if all others are 0, as in the gradient of a lookup."""
        return self.rows if self.rows is not None and self.rows.fill == 0 else None

    def distinct(self) -> Rows:
        """The rows, each named once."""
        rows = self.rows
        assert rows is not None
        if not rows.distinct:
            rows = Rows(*coalesced(rows.ids, rows.values), 0.0, True)
            self.rows = rows
        return rows

    def read(self, reason: str) -> Tensor:
        """A dense tensor that holds the same, to be read."""
        if self.dense is None:
            warn_of_dense_gradient(self.notes, self.shape, reason)
            self.dense = self.made_dense()
        return self.dense

    def write(self, reason: str) -> Tensor:
        """The dense tensor that counts from now on."""
        if self.rows is not None:
            dense = self.made_dense() if self.dense is None else self.dense
            self.reason = reason
            self.replace(dense)
        assert self.dense is not None
        return self.dense

    def replace(self, new: Rows | Tensor) -> None:
        """Hold something else."""
        if isinstance(new, Tensor):
            self.dense = new  # before there are no rows any more, or for a moment there would be nothing
            self.rows = None
        else:
            self.rows = new
            self.dense = None

    def made_dense(self) -> Tensor:
        """A new dense tensor that holds the same."""
        rows = self.distinct()
        made = torch.full(self.shape, rows.fill, dtype=rows.values.dtype, device=rows.values.device)
        return made.index_copy_(0, rows.ids, rows.values)


class RowGradient(Tensor):
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

    content: Content

    @staticmethod
    def __new__(cls, content: Content) -> RowGradient:
        like = content.rows.values if content.rows is not None else content.dense
        assert like is not None
        made = _private.without_memory(cls, content.shape, like)
        made.content = content
        return made

    @classmethod
    def of(cls, ids: Tensor, values: Tensor, rows: int, notes: Any = None) -> RowGradient:
        """The gradient of a table of so many rows, to which values[i] contributes at the row ids[i]."""
        return cls(Content(torch.Size((rows, values.size(1))), Rows(ids, values), notes=notes))

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
        from unhot.torch import gradient_rules  # which is made of this class

        return gradient_rules.called(func, args, kwargs)

    # PyTorch's methods that hand out memory, or look at the class, without a call of an operator.

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


def coalesced(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ids, and the sums of their values, in float64 where the device has it, rounded once."""
    if ids.is_cpu and values.dtype in (torch.float32, torch.float64):
        given = np.ascontiguousarray(values.numpy())
        plan = kernels.group(ids.numpy())
        out = torch.empty((len(plan.rows), values.size(1)), dtype=values.dtype)
        kernels.pool(given, plan.order, plan.starts, None, "sum", out.numpy())
        return torch.from_numpy(plan.rows.copy()), out
    found, inverse = torch.unique(ids, return_inverse=True)
    real = values.is_floating_point() and values.device.type != "mps"
    wide = torch.float64 if real else values.dtype
    total = torch.zeros((len(found), values.size(1)), dtype=wide, device=values.device)
    return found, total.index_add_(0, inverse, values.to(wide)).to(values.dtype)


def warn_of_dense_gradient(notes: Any, shape: torch.Size, reason: str) -> None:
    """Warn, once for each table, that its gradient of all rows was made."""
    if notes is None:
        return
    warn_once(
        notes,
        f"A dense gradient of a table of shape {tuple(shape)} was made, at the cost of all its rows: {reason} needs it. Norms,"
        " sums, scaling and clamping cost only the rows that were looked up. Before an optimizer that is not unhot's trains the"
        " table, call `unhot.torch.release`.",
        stacklevel=3,
    )
