"""`ShardedKeyedEmbedding`: keys that come and go, each in the process that its hash says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from unhot.keys import errors
from unhot.keys.column import Column, as_column
from unhot.keys.hashing import shards_of
from unhot.keys.reading import KeysLike, read
from unhot.torch.backend import hide_from_compiler
from unhot.torch.distributed.drawing import DrawnApart
from unhot.torch.distributed.key_routing import KeyRoute, KeyRouter, words_of
from unhot.torch.distributed.lookup import Options, RowsSent, Wanted, by_torch, deduplicated, repeated
from unhot.torch.distributed.messages import Words
from unhot.torch.distributed.peers import Group, Peers
from unhot.torch.distributed.routing import Asked
from unhot.torch.distributed.sharded import OTHERS_AHEAD, Reduction
from unhot.torch.distributed.states import OtherProcesses
from unhot.torch.keyed import KeyedEmbedding, on_host
from unhot.torch.on_table import Activation
from unhot.vocabulary import Vocabulary


class OtherKeys(OtherProcesses):
    """The shards of other processes, whose rows are those of other keys."""

    shard = None

    def rows(self, own: int) -> int:
        """The number of rows in all processes."""
        return int(self.total(torch.tensor(own, device=self.peers.device)))

    def as_whole(self, own: Tensor) -> Tensor:
        """These rows, which have a name of their own in a state."""
        return own

    def own_rows(self, whole: Tensor, name: str) -> Tensor:
        """The rows that were saved under this process's name."""
        return whole


class Lookup(NamedTuple):
    """What was looked up, whatever becomes of the arrays that were given."""

    shape: tuple[int, ...]
    kind: int
    words: Words

    @classmethod
    def of(cls, column: Column) -> Lookup:
        """That of these keys."""
        packed = column.keys.packed
        return cls(column.shape, packed.kind, words_of(packed))

    def same(self, other: Lookup) -> bool:
        """Whether it is of the same keys."""
        return self[:2] == other[:2] and np.array_equal(self.words, other.words)


class Sent(NamedTuple):
    """A lookup on its way."""

    route: KeyRoute
    repeats: Wanted | None
    """Where each key occurs, if it is sent once; None if keys are sent as often as they occur."""


PLAIN = Options()
"""Of a lookup whose vectors the layer of this process gives."""


class ShardedKeyedEmbedding(nn.Module):
    """`unhot.torch.KeyedEmbedding` whose keys are spread over the processes of a group, by their hashes.

    Each process has the keys that their hashes give it, in a vocabulary of its own that grows there, and their rows. All
    processes make the layer, call it, go backward and step together, each with keys of its own. Vectors and weights are those
    of one process with all keys, but for rounding, if `init` gives all new rows the same.

    Args:
        vocabulary: an `unhot.Vocabulary` without reserved rows and buckets: empty and growing, or with all keys, of which each
            process takes its own.
        embedding_dim, max_norm, norm_type, scale_grad_by_freq, sparse, device, dtype, bias, activation, init: as for
            `unhot.torch.KeyedEmbedding`.
        capacity, max_rows: as for `unhot.torch.KeyedEmbedding`, in all processes together.
        min_count, max_idle: as for `unhot.torch.KeyedEmbedding`.
        group, reduction, dedup: as for `ShardedEmbedding`. With dedup=True, a key counts once in each process's lookup, for
            `min_count` and `max_rows`, too.

    Raises: what `unhot.torch.KeyedEmbedding` and `ShardedEmbedding` raise; ValueError for a vocabulary with reserved rows or
        buckets. A call raises KeyError in all processes for an unknown key of a vocabulary with unknown="raise".

    Example: with `torchrun --nproc-per-node=2`:

        layer = unhot.torch.distributed.ShardedKeyedEmbedding(unhot.Vocabulary(unknown="grow"), 64)
        layer(["cat", "owl"]).sum().backward()

    References: `unhot.torch.KeyedEmbedding`.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        embedding_dim: int,
        *,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool | None = None,
        device: Any = None,
        dtype: Any = None,
        bias: bool = False,
        activation: Activation | None = None,
        init: Callable[[Tensor], object] | None = None,
        capacity: int | None = None,
        min_count: int = 1,
        max_rows: int | None = None,
        max_idle: int | None = None,
        group: Group = None,
        reduction: Reduction = "mean",
        dedup: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(vocabulary, Vocabulary):
            raise TypeError(f"`vocabulary` must be an unhot.Vocabulary. Received: {vocabulary!r}.")
        if vocabulary.reserved or vocabulary.buckets:
            raise ValueError(
                "a vocabulary whose keys are spread over processes has no reserved rows and no buckets, which would be in each"
                f" of them. Use unknown='grow', -1 or 'raise'. Received: {vocabulary!r}."
            )
        if reduction not in ("mean", "sum"):
            raise ValueError(f"`reduction` must be 'mean' or 'sum'. Received: {reduction!r}.")
        if dedup and scale_grad_by_freq:
            raise ValueError("ShardedKeyedEmbedding: with dedup=True, a key is not counted. Leave out one of the two.")
        self.dedup = dedup
        self.peers = peers = group if isinstance(group, Peers) else Peers(group)
        self.reduction, self.embedding_dim, self.max_rows = reduction, embedding_dim, max_rows

        def share(count: int | None) -> int | None:
            return None if count is None else -(-count // peers.size)

        local = KeyedEmbedding(
            own_keys(vocabulary, peers), embedding_dim, max_norm=max_norm, norm_type=norm_type,
            scale_grad_by_freq=scale_grad_by_freq, sparse=sparse, device=device, dtype=dtype, init=DrawnApart(peers, init),
            capacity=share(capacity), min_count=min_count, max_rows=share(max_rows), max_idle=max_idle,
        )  # fmt: skip
        local._table().other_shards = OtherKeys(peers)
        self._name = f"process_{peers.rank}"  # in states, where each process has keys and rows of its own
        self.add_module(self._name, local)
        self.register_parameter("bias", nn.Parameter(local.weight.new_zeros(embedding_dim)) if bias else None)
        self.activation = activation
        self._router = KeyRouter(peers)
        self._ahead: deque[tuple[Lookup, Sent]] = deque()
        hide_from_compiler(ShardedKeyedEmbedding, "_spread")

    @property
    def local(self) -> KeyedEmbedding:
        """The keys and rows of this process."""
        found: Any = self._modules[self._name]
        layer: KeyedEmbedding = found
        return layer

    @property
    def weight(self) -> Tensor:
        """The rows of this process."""
        return self.local.weight

    def forward(self, input: KeysLike | Tensor) -> Tensor:
        """The vectors of keys: shape keys.shape + (embedding_dim,)."""
        found = self._spread(on_host(input))
        bias: Any = self.bias
        found = found if bias is None else found + bias
        return found if self.activation is None else self.activation(found)

    def look_up_nothing(self) -> list[Tensor]:
        """Take part in a lookup of the other processes, without keys of one's own."""
        return [self._spread([])]

    def prefetch(self, input: KeysLike | Tensor) -> None:
        """Begin to send the keys of a later call, which is made with the same ones; see `ShardedEmbedding.prefetch`.

        Args:
            input: what the layer is called with.

        Raises: as a call raises for what are no keys.

        Example: see `ShardedEmbedding`.
        """
        self.peers.require_all("a lookup begun by `prefetch`")
        column, sent = self._begin(on_host(input))
        self._ahead.append((Lookup.of(column), sent))

    def _begin(self, given: Any) -> tuple[Column, Sent]:
        """Begin a lookup. What is wrong with what is given here is told to the other processes first."""
        device = self.weight.device
        try:
            column = read(given, "keys")
            if column.keys.missing is not None and self.local.vocabulary.missing == "raise":
                raise errors.missing(column, "keys")
            distinct, places = each_once(column) if self.dedup else (column, None)
        except BaseException:
            self._router.start(None, device).finish_failed()
            raise
        repeats = None if places is None else deduplicated(Wanted("keys", self.local._table(), Asked(places.to(device)), PLAIN))
        return column, Sent(self._router.start(distinct, device), repeats)

    def _spread(self, given: Any) -> Tensor:
        """The vectors of keys, which processes exchange; not compiled."""
        if self._ahead:
            kept, sent = self._ahead.popleft()
            column = read(given, "keys")
            if not kept.same(Lookup.of(column)):
                raise ValueError(OTHERS_AHEAD)
        else:
            column, sent = self._begin(given)
        route, repeats = sent
        route.finish()
        rows = self._here(route)
        (found,) = RowsSent.apply(route, self.reduction == "mean", rows)  # type: ignore[no-untyped-call]
        if repeats is not None:
            found = repeated(repeats, found) if found.is_cpu else by_torch(repeats, found)
        vectors: Tensor = found.view(*column.shape, self.embedding_dim)
        return vectors

    def _here(self, route: KeyRoute) -> Tensor:
        """The vectors of the keys whose rows are here."""
        local, keys = self.local, route.keys
        given: Any = as_column(keys)
        if local.vocabulary.unknown != "raise":
            found: Tensor = local(given)
            return found
        error: KeyError | None = None
        rows = local.weight.new_zeros((0, self.embedding_dim))
        try:
            rows = local(given)
        except KeyError as raised:
            error = raised
        failed = self.peers.any(error is not None, "whether all keys are known")
        if error is not None:
            raise error
        if failed:
            raise KeyError("a key is not known; the process whose hash it has says which.")
        return rows

    def extra_repr(self) -> str:
        """Which of the processes this is."""
        return f"reduction={self.reduction!r}, process {self.peers.rank} of {self.peers.size}"


def each_once(column: Column) -> tuple[Column, Tensor]:
    """The distinct keys of a column, and which of them each key is, flat."""
    numbers = np.asarray(Vocabulary(unknown="grow", missing="key").encode(column)).reshape(-1)
    first = np.unique(numbers, return_index=True)[1]
    return as_column(column.keys.take(first if column.take is None else column.take[first])), torch.from_numpy(numbers)


def own_keys(vocabulary: Vocabulary, peers: Peers) -> Vocabulary:
    """A vocabulary of the same policies, with the keys that are this process's."""
    made = Vocabulary(unknown=vocabulary.unknown, missing=vocabulary.missing)
    if len(vocabulary):
        column = read(list(vocabulary), "keys")
        mine = np.flatnonzero(shards_of(column.keys.packed, peers.size) == peers.rank)
        made.extend(column.keys.take(mine).objects)
    return made
