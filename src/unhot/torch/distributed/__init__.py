"""Tables whose rows are spread over the processes of `torch.distributed`, with the trained weights of one process."""

from __future__ import annotations

from unhot.torch.distributed.collection import ShardedEmbeddingBagCollection, ShardedEmbeddingCollection
from unhot.torch.distributed.files import load_table, save_table
from unhot.torch.distributed.join import JoinTables
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding
from unhot.torch.distributed.layer import ShardedEmbedding, ShardedEmbeddingBag
from unhot.torch.distributed.peers import PeerError
from unhot.torch.distributed.sharding import shard, tables

__all__ = [
    "JoinTables", "PeerError", "ShardedEmbedding", "ShardedEmbeddingBag", "ShardedEmbeddingBagCollection",
    "ShardedEmbeddingCollection", "ShardedKeyedEmbedding", "load_table", "save_table", "shard", "tables",
]  # fmt: skip
