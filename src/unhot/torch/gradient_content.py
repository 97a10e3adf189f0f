"""What the gradient of a table holds: some rows, or a dense tensor that was made of them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from unhot.kernels import active as kernels
from unhot.layouts import Shard
from unhot.torch import _private
from unhot.training import warn_once

Array = np.ndarray[Any, np.dtype[Any]]
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


class Source(Protocol):
    """What rows are made of when somebody asks for them: a step takes it as it is."""

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype, and on the device, of the rows."""

    def expanded(self) -> Rows:
        """The rows."""

    def bagged(self) -> Bagged | None:
        """The same as the gradient of ids that were pooled, if it is one: its factors are not rounded yet."""


class OtherShards(Protocol):
    """The shards of the same table in other processes. Each method is a collective operation."""

    @property
    def shard(self) -> Shard | None:
        """Which rows of the table this process has; None where rows go by their keys."""

    def rows(self, own: int) -> int:
        """The number of rows of the whole table, of which this process has its own."""

    def total(self, own: Tensor) -> Tensor:
        """The sum over all shards of what each has."""

    def largest(self, own: Tensor) -> Tensor:
        """The largest of what each has."""

    def as_whole(self, own: Tensor) -> Tensor:
        """The rows of all shards, as one tensor that is spread over the processes in the order of the rows."""

    def own_rows(self, whole: Tensor, name: str) -> Tensor:
        """The rows of this shard, of such a tensor or of one with all rows."""


class Bagged(NamedTuple):
    """The gradient of ids that were pooled: each id has that of its bag, times a factor.

    Args:
        ids: row numbers, (n,), int64, to be summed where one repeats.
        values: the bags' gradients, (bags, dim).
        bags: the bag of each id, (n,), int64.
        factors: what each id's gradient is multiplied by, (n,), float64; None for 1.
    """

    ids: Tensor
    values: Tensor
    bags: Tensor
    factors: Tensor | None

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype, and on the device, of the gradient."""
        return self.values

    def bagged(self) -> Bagged | None:
        """Itself."""
        return self

    def expanded(self) -> Rows:
        """The same with a gradient for each id."""
        values = self.values[self.bags]
        if self.factors is not None:
            values = (values * self.factors.unsqueeze(1)).to(values.dtype)  # in float64, rounded once
        return Rows(self.ids, values)


def bags_of(starts: Tensor, mean: bool) -> tuple[Array, Array | None]:
    """The bag of each id, and what a mean multiplies its vector by; bag b holds the ids from starts[b] to starts[b + 1]."""
    counts = np.diff(starts.numpy())  # torch's operations wake all of its threads, also for a few
    return np.repeat(np.arange(len(counts)), counts), 1.0 / np.repeat(counts, counts) if mean else None


class Content:
    """What a `RowGradient` holds, shared by all that are aliases of each other (`detach`, `.data`).

    As long as there are `rows`, they are what counts, and `dense` is what has been made of them for a reader. Once something
    has had the memory to write to, there are no rows any more.
    """

    __slots__ = ("_rows", "dense", "notes", "reason", "shape", "source")

    def __init__(
        self,
        shape: torch.Size,
        rows: Rows | None,
        dense: Tensor | None = None,
        notes: Any = None,
        source: Source | None = None,
    ) -> None:
        self.shape, self._rows, self.dense, self.source = shape, rows, dense, source
        self.notes = notes
        """What is noted of the table whose gradient this is, if it is one's."""
        self.reason = ""
        """What has asked for the memory."""

    @property
    def rows(self) -> Rows | None:
        """The rows that are held; those of a source are made when somebody asks for them."""
        source = self.source
        if source is not None:
            self._rows = source.expanded()
            self.source = None
        return self._rows

    @property
    def like(self) -> Tensor:
        """A tensor of the dtype, and on the device, of what is held."""
        held = self.source.like if self.source is not None else self._rows.values if self._rows is not None else self.dense
        assert held is not None
        return held

    def summands(self) -> Rows | None:
        """The rows, if all others are 0, as in the gradient of a lookup."""
        return self.rows if self.rows is not None and self.rows.fill == 0 else None

    def distinct(self) -> Rows:
        """The rows, each named once."""
        rows = self.rows
        assert rows is not None
        if not rows.distinct:
            rows = Rows(*coalesced(rows.ids, rows.values), 0.0, True)
            self._rows = rows
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
            self._rows = self.source = None
        else:
            self._rows = new
            self.dense = self.source = None

    def made_dense(self) -> Tensor:
        """A new dense tensor that holds the same."""
        rows = self.distinct()
        made = torch.full(self.shape, rows.fill, dtype=rows.values.dtype, device=rows.values.device)
        return made.index_copy_(0, rows.ids, rows.values)


class HeldByRows(Tensor):
    """A tensor of which only a content is held. `RowGradient` is the one class of such tensors."""

    content: Content

    @staticmethod
    def __new__(cls, content: Content) -> Self:
        made = _private.without_memory(cls, content.shape, content.like)
        made.content = content
        return made


def coalesced(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct ids, and the sums of their values, in float64 where the device has it, rounded once."""
    if ids.is_cpu and values.dtype in (torch.float32, torch.float64):
        given = np.ascontiguousarray(values.numpy())
        plan = kernels.group(ids.numpy())
        out = values.new_empty((len(plan.rows), values.size(1)))
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
