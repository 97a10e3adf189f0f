"""What sharded layers of rows have in common: a weight that is a shard, its states, and what is looked up ahead."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from unhot.creation import as_size
from unhot.layouts import LayoutName, Shard, layout_of
from unhot.torch.distributed.drawing import DrawnApart
from unhot.torch.distributed.peers import Group, Peers
from unhot.torch.distributed.states import OtherShards
from unhot.torch.growing import NewRows, new_rows
from unhot.torch.growth import add_rows
from unhot.torch.nested import mapped
from unhot.torch.on_table import room_for
from unhot.torch.parameter import TableParameter, become_table

Reduction = Literal["mean", "sum"]

NONE = np.empty(0, np.int64)
"""No rows."""


class Sharded(nn.Module):
    """A table of which this process has some rows."""

    weight: TableParameter
    num_embeddings: int
    embedding_dim: int

    def _spread(
        self, rows: Any, dim: Any, group: Group, layout: LayoutName, reduction: Reduction, device: Any, dtype: Any
    ) -> None:
        """Make the parameter of the rows that are here."""
        kind = type(self).__name__
        self.num_embeddings, self.embedding_dim = as_size("num_embeddings", rows), as_size("embedding_dim", dim)
        if reduction not in ("mean", "sum"):
            raise ValueError(f"{kind}: `reduction` must be 'mean' or 'sum'. Received: {reduction!r}.")
        self.reduction = reduction
        rule = layout_of(layout, self.num_embeddings, 1)
        peers = group if isinstance(group, Peers) else Peers(group)
        self._others = OtherShards(peers, replace(rule, shards=peers.size))
        here = self.shard.rows
        room = room_for(here, self.embedding_dim, device, dtype)
        weight = torch.empty((here, self.embedding_dim), device=device, dtype=dtype) if room is None else room
        self.register_parameter("weight", nn.Parameter(weight))

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As torch's; a parameter that is put in the weight's place becomes a shard, and stays the object it is."""
        super().register_parameter(name, param)
        if name == "weight":
            self._mark_weight()

    def _mark_weight(self) -> None:
        """Make a shard of the weight, which torch may have exchanged."""
        weight = self._parameters.get("weight")
        become_table(weight)
        if isinstance(weight, TableParameter):
            weight.other_shards = self._others

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As torch's, which may make another parameter."""
        module: Any = super()
        made: Any = module._apply(fn, recurse)
        self._mark_weight()
        return made

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """As torch's, with the whole table, spread over the processes as a `DTensor`; all of them ask for it together."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self._others.as_whole(self.weight.detach())

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """As torch's, of a tensor that `state_dict` gave, whatever the layout was, or of one with all rows."""
        name = f"{prefix}weight"
        if name in state_dict:
            state_dict = {**state_dict, name: self._others.own_rows(state_dict[name], name)}
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._mark_weight()

    @property
    def peers(self) -> Peers:
        """The processes over which the rows are spread."""
        return self._others.peers

    @property
    def shard(self) -> Shard:
        """Which rows are here."""
        return self._others.shard

    @property
    def layout(self) -> LayoutName:
        """How rows are spread: "mod", "range" or "hash"."""
        return self.shard.layout.name

    def rows_here(self) -> Tensor:
        """The numbers, in the whole table, of the rows that are in `weight`, in their order there."""
        found: Tensor = self.shard.numbers(torch.arange(self.shard.rows, device="cpu"))
        return found

    def reset_parameters(self) -> None:
        """Draw new weights, by numbers that differ from one process to the other even if all have the same seed."""
        if self.weight.is_meta:
            return
        with torch.no_grad():
            DrawnApart(self.peers)(self.weight)
            padding_idx = getattr(self, "padding_idx", None)
            if padding_idx is not None:
                self.weight[self.shard.own(torch.tensor([padding_idx], device="cpu"))] = 0

    def grow(self, rows: int, init: NewRows | None = None) -> Tensor:
        """Add rows after the last one, and return their numbers; see `unhot.torch.Embedding.grow`.

        All processes call it together, between steps, and each adds its share. It costs a pass over the share, in which rows
        make the steps that they had deferred. A table in the layout "range" or "hash" would have to move all of its rows, and
        cannot grow.

        Args:
            rows: how many, in all processes together.
            init: as for `unhot.torch.Embedding.grow`: None, a function, "mean", or all of the new rows.

        Raises: what `unhot.torch.Embedding.grow` raises; ValueError for another layout.

        Example: with `torchrun --nproc-per-node=2`:

            layer.grow(1000, torch.nn.init.zeros_)
        """
        count, layout, weight = as_size("rows", rows), self.shard.layout, self.weight
        if layout.name != "mod":
            raise ValueError(f"only a table that is spread with layout='mod' can grow. Received: {layout.name!r}.")
        larger = replace(layout, rows=layout.rows + count)
        numbers = torch.arange(layout.rows, larger.rows, device="cpu")
        mine = larger.split(numbers)[0] == self.peers.rank
        given = new_rows(init, (count, self.embedding_dim))
        with torch.no_grad():
            if isinstance(given, Tensor):
                own = given[mine.to(given.device)].to(weight)
            elif isinstance(given, str):
                total = self._others.total(weight.detach().double().sum(0))
                own = (total / layout.rows).to(weight).expand(int(mine.sum()), -1)
            else:
                own = weight.new_empty((int(mine.sum()), self.embedding_dim))
                DrawnApart(self.peers, given)(own)
        others = OtherShards(self.peers, larger)
        add_rows(weight, NONE, own, NONE, from_the_start=not isinstance(given, (str, Tensor)), others=others)
        self._others, self.num_embeddings = others, larger.rows
        return numbers if weight.is_meta else numbers.to(weight.device)

    def extra_repr(self) -> str:
        """The arguments, and which of the rows are here."""
        return (
            f"{self.num_embeddings}, {self.embedding_dim}, layout={self.layout!r}, reduction={self.reduction!r},"
            f" process {self.peers.rank} of {self.peers.size}"
        )


OTHERS_AHEAD = "this is called with other ids than `prefetch` was. Call it in the order of the prefetches."
"""The error of a lookup that was not begun by `prefetch`, where another one was."""

Begun = TypeVar("Begun")


class Ahead(Generic[Begun]):
    """Lookups that were begun by `prefetch`, in their order."""

    def __init__(self) -> None:
        self._begun: deque[tuple[Any, Begun]] = deque()

    def add(self, given: Any, begun: Begun) -> None:
        """Keep a lookup of these arguments, whatever becomes of them."""
        self._begun.append((mapped(lambda part: part.clone() if isinstance(part, Tensor) else part, given), begun))

    def take(self, given: Any) -> Begun | None:
        """The first lookup, or None if there is none.

        Raises: ValueError if it is one of other arguments.
        """
        if not self._begun:
            return None
        kept, begun = self._begun.popleft()
        if not same(kept, given):
            raise ValueError(OTHERS_AHEAD)
        return begun


def same(first: Any, second: Any) -> bool:
    """Whether nested lists, tuples and dictionaries hold equal tensors."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and torch.equal(first, second)
    if type(first) is not type(second):
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
