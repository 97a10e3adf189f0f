"""The keys of a sharded table in its file: those of all processes one after the other, and back to where their hashes say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unhot.embedding import LIMITS, VOCABULARY
from unhot.keys.column import Keys, as_column
from unhot.keys.reading import read
from unhot.layouts import Layout
from unhot.storage.tables import Parts
from unhot.torch.distributed.key_routing import joined, keys_of, words_of
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding, own_keys
from unhot.vocabulary import Vocabulary

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class InTurn(Layout):
    """The rows of the first shard, then those of the second, and so on; so many of each."""

    counts: tuple[int, ...] = ()

    def split(self, rows: Any) -> tuple[Any, Any]:
        counts = torch.tensor(self.counts, device=rows.device)
        stops = counts.cumsum(0)
        shards = torch.searchsorted(stops, rows, right=True)
        return shards, rows - (stops - counts)[shards]

    def number_of(self, shard: int, local: Any) -> Any:
        return local + sum(self.counts[:shard])

    def count(self, shard: int) -> int:
        return self.counts[shard]


def with_keys(layer: ShardedKeyedEmbedding) -> tuple[Tensor, Layout, Parts]:
    """Which of the rows here have keys, where they are in the file, and, in the first process, what the file says of all keys.

    A collective operation.
    """
    peers, vocabulary = layer.peers, layer.local.vocabulary
    rows = np.setdiff1d(np.arange(vocabulary.rows), vocabulary.free)
    keys = read(vocabulary.decode(rows), "keys").keys
    words = torch.from_numpy(words_of(keys.packed)).to(layer.weight.device)
    header = torch.tensor([keys.packed.kind, len(rows), len(words)], device=words.device)
    headers = header.new_empty((peers.size, len(header)))
    peers.exchange(headers.view(-1), header.repeat(peers.size), None, "the numbers of keys")
    kinds, counts, lengths = headers.T.tolist()
    received = lengths if peers.rank == 0 else [0] * peers.size
    out = words.new_empty(sum(received))
    peers.exchange(out, words, (received, [len(words)] + [0] * (peers.size - 1)), "the keys of a table for a file")
    parts: Parts = {}
    if peers.rank == 0:
        kind = max(kinds)
        every = zip(np.split(out.cpu().numpy(), np.cumsum(received)[:-1]), counts, strict=True)
        found = joined([keys_of(piece, kind, count) for piece, count in every], kind)
        made = Vocabulary(unknown=vocabulary.unknown, missing=vocabulary.missing)
        made.extend(as_column(Keys(found)))
        least, _, idle = layer.local.keyed.limits
        limits = {name: np.array(value or 0) for name, value in zip(LIMITS, (least, layer.max_rows, idle), strict=True)}
        parts = {VOCABULARY: made.state_dict() | limits}
    return torch.from_numpy(rows), InTurn(sum(counts), peers.size, tuple(counts)), parts


def own_part(layer: ShardedKeyedEmbedding, words: Mapping[str, Any], rows: int) -> tuple[Vocabulary, Ids]:
    """Those of a file's keys that are this process's, and the numbers of their rows in the file; row 0 if there are none.

    Raises: ValueError for a file without keys, or with rows that no process has, or too few.
    """
    if not {"kind", "keys"} <= words.keys():
        raise ValueError("the file has no keys. Load it into a ShardedEmbedding.")
    whole = Vocabulary()
    whole.load_state_dict(words)
    if whole.reserved or whole.buckets:
        raise ValueError(f"keys that are spread over processes have no reserved rows and no buckets. Received: {whole!r}.")
    if rows < whole.rows:
        raise ValueError(f"the vocabulary has {whole.rows} rows, and the table {rows}.")
    own = own_keys(whole, layer.peers)
    return own, np.asarray(whole.encode(list(own))) if len(own) else np.zeros(1, np.int64)
