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


class OtherShards:
    """The shards of a table in other processes. Each method is a collective operation, which all processes make together."""

    def __init__(self, peers: Peers, layout: Layout) -> None:
        self.peers, self.layout = peers, layout

    @property
    def rows(self) -> int:
        """The number of rows of the whole table."""
        return self.layout.rows

    def total(self, own: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.peers.agreed(own, dist.ReduceOp.SUM, "a reduction of a table's gradient")

    def largest(self, own: Tensor) -> Tensor:
        """The largest of all processes."""
        return self.peers.agreed(own, dist.ReduceOp.MAX, "a reduction of a table's gradient")

    def as_whole(self, own: Tensor) -> Tensor:
        """The rows of all shards as one tensor, in their order, of which each process holds some that follow each other."""
        ordered = Range(self.rows, self.peers.size)
        if isinstance(self.layout, Range):
            here = own.clone()
        else:
            here = own.new_empty((ordered.count(self.peers.rank), own.size(1)))
            moved(self.peers, own, self.layout, ordered, here, "the rows of a table for a state")
        mesh = self.peers.mesh(own.device.type)
        shape = torch.Size((self.rows, own.size(1)))
        return DTensor.from_local(here, mesh, [Shard(0)], run_check=False, shape=shape, stride=(own.size(1), 1))

    def own_rows(self, whole: Tensor, name: str) -> Tensor:
        """The rows of this shard, of a tensor that `as_whole` gave, or of one that has all rows.

        Raises: ValueError for a tensor of another shape.
        """
        if whole.dim() != 2 or whole.size(0) != self.rows:
            raise ValueError(
                f"{name!r} must have the {self.rows} rows of the whole table, as `state_dict` gives them. Received: shape"
                f" {tuple(whole.shape)}."
            )
        shard = RowsHere(self.layout, self.peers.rank)
        if isinstance(whole, DTensor):
            placed = whole.placements == (Shard(0),) and whole.device_mesh.size() == self.peers.size
            if placed:
                out = whole.to_local().new_empty((shard.rows, whole.size(1)))
                ordered = Range(self.rows, self.peers.size)
                moved(self.peers, whole.to_local().detach(), ordered, self.layout, out, f"the rows of {name!r}")
                return out
            whole = whole.full_tensor()
        numbers: Any = shard.layout.number_of(shard.rank, torch.arange(shard.rows))
        return whole.detach()[numbers.to(whole.device)]
