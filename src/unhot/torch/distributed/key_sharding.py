"""A `KeyedEmbedding` of a model becomes one whose keys are spread over processes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unhot.keys.hashing import shards_of
from unhot.keys.packing import Packed
from unhot.keys.reading import read
from unhot.layouts import Layout
from unhot.torch.distributed.key_routing import words_of
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding
from unhot.torch.distributed.peers import Peers
from unhot.torch.distributed.sharded import Reduction
from unhot.torch.distributed.transfer import OnOne, moved
from unhot.torch.growth import freeze
from unhot.torch.keyed import KeyedEmbedding


@dataclass(frozen=True, eq=False)
class ByOwner(Layout):
    """Each row is that of a shard of its own, after those rows of the shard that come first."""

    owners: Tensor

    @cached_property
    def places(self) -> Tensor:
        """The number of each row among those of its shard."""
        found = torch.empty_like(self.owners)
        for shard in range(self.shards):
            found[self.owners == shard] = torch.arange(self.count(shard), device=found.device)
        return found

    def split(self, rows: Any) -> tuple[Any, Any]:
        return self.owners[rows], self.places[rows]

    def number_of(self, shard: int, local: Any) -> Any:
        return torch.nonzero(self.owners == shard).squeeze(1)[local]

    def count(self, shard: int) -> int:
        return int((self.owners == shard).sum())


def sharded_keys(module: KeyedEmbedding, peers: Peers, reduction: Reduction, dedup: bool) -> ShardedKeyedEmbedding:
    """The same layer with keys that are spread, and their rows of the first process's weight, or new ones if it has none.

    A collective operation.

    Raises: ValueError if processes have other keys.
    """
    vocabulary, (min_count, max_rows, max_idle) = module.vocabulary, module.keyed.limits
    keys = list(vocabulary)
    packed = read(keys, "keys").keys.packed
    require_same(peers, packed)
    weight = module.weight.detach()
    drawn = peers.any(peers.rank == 0 and weight.is_meta, "whether the first process's weights are there")
    made = ShardedKeyedEmbedding(
        vocabulary, module.embedding_dim, max_norm=module.max_norm, norm_type=module.norm_type,
        scale_grad_by_freq=module.scale_grad_by_freq, sparse=module._given_sparse,
        device=None if weight.is_meta else weight.device, dtype=weight.dtype,
        bias=module.bias is not None, activation=module.activation, init=module.init, min_count=min_count, max_rows=max_rows,
        max_idle=max_idle, group=peers, reduction=reduction, dedup=dedup,
    )  # fmt: skip
    if module.bias is not None:
        made.bias = module.bias
    rows = made.local.weight.requires_grad_(module.weight.requires_grad)
    if not keys:
        return made
    numbers = vocabulary.encode(keys)
    owners = torch.from_numpy(shards_of(packed, peers.size))
    if not drawn:
        given = None
        if peers.rank == 0:  # where all rows have keys, these are in the rows' order, and no copy is made
            given = weight if len(keys) == len(weight) else weight[torch.from_numpy(numbers).to(weight.device)]
        own = rows.detach()[: len(made.local.vocabulary)]
        to = ByOwner(len(keys), peers.size, owners)
        moved(peers, given, OnOne(len(keys), peers.size), to, own, "the rows of keys")
    mine = numbers[owners.numpy() == peers.rank]
    freeze(made.local._table(), np.flatnonzero(np.isin(mine, module._table().frozen_rows)))
    return made


def require_same(peers: Peers, keys: Packed) -> None:
    """Raise ValueError unless all processes have these keys in this order; a collective operation."""
    own = torch.tensor(float(zlib.crc32(words_of(keys).tobytes(), keys.kind)), dtype=torch.float64, device=peers.device)
    largest = peers.agreed(own, torch.distributed.ReduceOp.MAX, "whether all have the same keys")
    if peers.any(bool(largest != own), "whether all have the same keys"):
        raise ValueError(
            "a KeyedEmbedding has other keys, or the same in another order, in another process. Make it with the same"
            " vocabulary in all of them, or without keys."
        )
