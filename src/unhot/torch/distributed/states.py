"""The rows of a sharded table as a `DTensor` in their order, whatever the layout is: what states and checkpoints hold."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from unhot.layouts import Layout, Range
from unhot.layouts import Shard as RowsHere
from unhot.torch.distributed.peers import Peers
from unhot.torch.distributed.transfer import moved


class OtherProcesses:
    """The shards of a table in other processes. Each method is a collective operation, which all processes make together."""

    def __init__(self, peers: Peers) -> None:
        self.peers = peers

    def total(self, own: Tensor) -> Tensor:
        """The sum over all processes."""
        return self._reduced(own, dist.ReduceOp.SUM)

    def largest(self, own: Tensor) -> Tensor:
        """The largest of all processes."""
        return self._reduced(own, dist.ReduceOp.MAX)

    def _reduced(self, own: Tensor, operation: Any) -> Tensor:
        self.peers.require_all("a reduction of a table's gradient, such as clipping its norm and `GradScaler` make")
        return self.peers.agreed(own, operation, "a reduction of a table's gradient")


class OtherShards(OtherProcesses):
    """The same, of a table whose rows are spread by a layout."""

    def __init__(self, peers: Peers, layout: Layout) -> None:
        super().__init__(peers)
        self.layout = layout

    @property
    def shard(self) -> RowsHere:
        """Which rows this process has."""
        return RowsHere(self.layout, self.peers.rank)

    def rows(self, own: int) -> int:
        """The number of rows of the whole table."""
        return self.layout.rows

    def as_whole(self, own: Tensor) -> Tensor:
        """The rows of all shards as one tensor, in their order, of which each process holds some that follow each other."""
        ordered = Range(self.layout.rows, self.peers.size)
        if isinstance(self.layout, Range):
            here = own.clone()
        else:
            here = own.new_empty((ordered.count(self.peers.rank), own.size(1)))
            moved(self.peers, own, self.layout, ordered, here, "the rows of a table for a state")
        mesh = self.peers.mesh(own.device.type)
        shape = torch.Size((self.layout.rows, own.size(1)))
        return DTensor.from_local(here, mesh, [Shard(0)], run_check=False, shape=shape, stride=(own.size(1), 1))

    def own_rows(self, whole: Tensor, name: str) -> Tensor:
        """The rows of this shard, of a tensor that `as_whole` gave, or of one that has all rows.

        Raises: ValueError for a tensor of another shape.
        """
        if whole.dim() != 2 or whole.size(0) != self.layout.rows:
            raise ValueError(
                f"{name!r} must have the {self.layout.rows} rows of the whole table, as `state_dict` gives them. Received:"
                f" shape {tuple(whole.shape)}."
            )
        shard = self.shard
        if isinstance(whole, DTensor):
            placed = whole.placements == (Shard(0),) and whole.device_mesh.size() == self.peers.size
            if placed:
                out = whole.to_local().new_empty((shard.rows, whole.size(1)))
                ordered = Range(self.layout.rows, self.peers.size)
                moved(self.peers, whole.to_local().detach(), ordered, self.layout, out, f"the rows of {name!r}")
                return out
            whole = whole.full_tensor()
        return whole.detach()[shard.numbers(torch.arange(shard.rows, device="cpu")).to(whole.device)]
