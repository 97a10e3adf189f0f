"""Rows that move from one layout to another, some at a time: no process holds more than what it has and gets, and a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unhot.layouts import Layout
from unhot.torch.distributed.peers import Peers

BUFFER = 1 << 24
"""The bytes that a process sends at a time."""


@dataclass(frozen=True)
class OnOne(Layout):
    """All rows in one shard."""

    index: int = 0

    def split(self, rows: Any) -> tuple[Any, Any]:
        return rows * 0 + self.index, rows

    def number_of(self, shard: int, local: Any) -> Any:
        return local

    def count(self, shard: int) -> int:
        return self.rows if shard == self.index else 0


def moved(peers: Peers, given: Tensor | None, of: Layout, to: Layout, out: Tensor, what: str) -> None:
    """Write the rows that this process has by the layout `to` into `out`; `given` holds those that it has by the layout `of`.

    A collective operation: all processes make it together. A process without rows may give None.
    """
    rank, dim = peers.rank, out.size(1)
    counts = [of.count(shard) for shard in range(peers.size)]
    step = max(1, BUFFER // max(1, dim * out.element_size()))
    for start in range(0, max(counts), step):
        own = torch.arange(min(start, counts[rank]), min(start + step, counts[rank]), device="cpu")
        shards, _ = to.split(of.number_of(rank, own))
        order = torch.argsort(shards, stable=True)
        sent = out.new_empty((0, dim)) if given is None else given[own[order].to(given.device)]
        numbers, received = [], []
        for shard, count in enumerate(counts):
            theirs = torch.arange(min(start, count), min(start + step, count), device="cpu")
            to_shard, local = to.split(of.number_of(shard, theirs))
            numbers.append(local[to_shard == rank])
            received.append(len(numbers[-1]) * dim)
        parts = torch.bincount(shards, minlength=peers.size) * dim
        got = out.new_empty((sum(received) // dim, dim))
        peers.exchange(got.view(-1), sent.to(out).reshape(-1), (received, parts.tolist()), what)
        out[torch.cat(numbers).to(out.device)] = got


def whole(peers: Peers, given: Tensor, of: Layout, rank: int | None) -> Tensor | None:
    """All rows, in this process if its rank is the given one, or in all processes; a collective operation."""
    found = None
    for to in range(peers.size) if rank is None else [rank]:
        out = given.new_empty((of.rows if peers.rank == to else 0, given.size(1)))
        moved(peers, given, of, OnOne(of.rows, of.shards, to), out, "the rows of a table")
        found = out if peers.rank == to else found
    return found
