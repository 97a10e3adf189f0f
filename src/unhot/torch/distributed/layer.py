"""`ShardedEmbedding` and `ShardedEmbeddingBag`: layers whose rows are spread over processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unhot.ids import OutOfRange, check_policy
from unhot.layouts import LayoutName
from unhot.torch._private import without_torch_functions
from unhot.torch.backend import hide_from_compiler, require_indices
from unhot.torch.distributed.lookup import Options, Wanted, asked_of, deduplicated, look_up
from unhot.torch.distributed.peers import Group
from unhot.torch.distributed.routing import Asked, Route, Router, first_outside
from unhot.torch.distributed.sharded import Ahead, Reduction, Sharded
from unhot.torch.layer import before
from unhot.torch.lookup import bag_starts, without_padding
from unhot.torch.on_table import Activation


class ShardedLayer(Sharded):
    """What both layers do."""

    padding_idx: int | None
    pooled = False

    def _set_up(
        self,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool | None,
        bias: bool,
        activation: Activation | None,
        out_of_range: OutOfRange,
        dedup: bool,
    ) -> None:
        if dedup and scale_grad_by_freq:
            raise ValueError(f"{type(self).__name__}: with dedup=True, an id is not counted. Leave out one of the two.")
        self.dedup = dedup
        rows = self.num_embeddings
        if padding_idx is not None:
            if not -rows <= padding_idx < rows:
                raise AssertionError("Padding_idx must be within num_embeddings")
            padding_idx %= rows
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, max_norm, norm_type
        self.scale_grad_by_freq, self.sparse = scale_grad_by_freq, sparse
        self.register_parameter("bias", nn.Parameter(self.weight.new_zeros(self.embedding_dim)) if bias else None)
        self.activation = activation
        self.out_of_range = check_policy(out_of_range, rows)
        hide_from_compiler(ShardedLayer, "_vectors")
        self._ahead = Ahead[tuple[Wanted, Route]]()
        self._router = Router(self.peers, [self], ["ids"], pooled=self.pooled and not dedup)

    def call_ids(self, name: str) -> None:
        """Let errors call the ids by this name."""
        self._router.names = [name]

    @property
    def _options(self) -> Options:
        padding_idx = -1
        if self.padding_idx is not None and not self.pooled:
            own = self.shard.own(torch.tensor([self.padding_idx], device="cpu"))
            padding_idx = int(own[0]) if len(own) else -1
        return Options(padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq, self.sparse)

    def _wanted(self, *given: Any) -> Wanted:
        raise NotImplementedError

    def _begin(self, *given: Any) -> tuple[Wanted, Route]:
        """Begin a lookup. What is wrong with what is given here is told to the other processes first."""
        try:
            wanted = self._wanted(*given)
        except BaseException:
            route = self._router.start([self._nothing()], failed=True)
            route.finish_failed()
            raise
        bad = first_outside(wanted.asked.ids, self.num_embeddings)
        if self.dedup and bad is None:
            wanted = deduplicated(wanted)
        asked = wanted.asked if bad is None else self._nothing()
        return wanted, self._router.start([asked], bad)

    def _nothing(self) -> Asked:
        none = torch.empty(0, dtype=torch.int64, device=self.weight.device)
        return Asked(none, none, none.double()) if self._router.pooled else Asked(none)

    def _prefetch(self, *given: Any) -> None:
        """Begin the lookup of a later call of `_vectors` with these arguments."""
        self.peers.require_all("a lookup begun by `prefetch`")
        self._ahead.add(given, self._begin(*given))

    def _within(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """The flat ids as `out_of_range` has them, and which of them are left, if not all are."""
        if self.out_of_range == "raise":
            return ids, None
        bad = (ids < 0) | (ids >= self.num_embeddings)
        if self.out_of_range == "zero":
            return (ids[~bad], ~bad) if bool(bad.any()) else (ids, None)
        return ids.masked_fill(bad, self.out_of_range), None

    def _vectors(self, *given: Any) -> tuple[Tensor, Wanted]:
        """The vectors of the ids, and what was looked up."""
        return without_torch_functions(self._looked_up, *given)

    def _looked_up(self, *given: Any) -> tuple[Tensor, Wanted]:
        wanted, route = self._ahead.take(given) or self._begin(*given)
        route.finish()
        return look_up([wanted], route, self.reduction == "mean")[0], wanted

    def look_up_nothing(self) -> list[Tensor]:
        """Take part in a lookup of the other processes, without ids of one's own."""
        return without_torch_functions(self._nothing_looked_up)

    def _nothing_looked_up(self) -> list[Tensor]:
        nothing = self._nothing()
        starts = nothing.ids.new_zeros(1) if self.pooled else None
        wanted = Wanted("ids", self.weight, nothing, self._options, starts, getattr(self, "mode", ""))
        wanted = deduplicated(wanted) if self.dedup else wanted
        route = self._router.start([nothing])
        route.finish()
        return look_up([wanted], route, self.reduction == "mean")

    def _with_dense_parts(self, found: Tensor) -> Tensor:
        bias: Any = self.bias
        found = found if bias is None else found + bias
        return found if self.activation is None else self.activation(found)


class ShardedEmbedding(ShardedLayer):
    """`unhot.torch.Embedding` whose rows are spread over the processes of a group: each holds and trains its share.

    All processes make the layer, call it, and go backward and step together, each with ids of its own. The vectors and trained
    weights are those of one process with all ids. The layer's weight is the share of this process, and no part of
    DistributedDataParallel: see `shard`.

    Args: those of `unhot.torch.Embedding` but `frozen`, and
        group: a process group, a one-dimensional DeviceMesh, or None for all processes.
        layout: where the rows are: "mod" (row r in process r % processes), "range" (rows that follow each other) or "hash".
        reduction: "mean" divides the gradients, summed over the processes, by their number, as DistributedDataParallel does;
            "sum" does not.
        dedup: whether each process sends an id once, however often it has it, and its gradients summed. That is less to send
            where ids repeat, and the same but for rounding.

    Raises: what `unhot.torch.Embedding` raises; RuntimeError where there is no process group yet. A call raises IndexError in
        all processes for an id out of range in one of them, and PeerError if another process does not do its part.

    Example: with `torchrun --nproc-per-node=2`:

        torch.distributed.init_process_group("gloo")
        layer = unhot.torch.distributed.ShardedEmbedding(1_000_000, 64)
        optimizer = unhot.torch.Adam(layer.parameters())
        layer(ids).sum().backward()
        optimizer.step()

    References: torchrec/distributed/embedding.py.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = False,
        activation: Activation | None = None,
        out_of_range: OutOfRange = "raise",
        group: Group = None,
        layout: LayoutName = "mod",
        reduction: Reduction = "mean",
        dedup: bool = False,
    ) -> None:
        super().__init__()
        self._spread(num_embeddings, embedding_dim, group, layout, reduction, device, dtype)
        self._set_up(padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, bias, activation, out_of_range, dedup)
        self.reset_parameters()

    def _wanted(self, ids: Tensor) -> Wanted:
        require_indices(ids)
        flat, kept = self._within(ids.detach().reshape(-1).to(self.weight.device, torch.int64))
        return Wanted("ids", self.weight, Asked(flat), self._options, kept=kept)

    def prefetch(self, input: Tensor) -> None:
        """Begin to send the ids of a later call, which is made with the same arguments.

        The call finds the ids where they have to be. All processes make this call together, as they do a lookup. Several
        lookups may be begun; they are made in the same order.

        Args:
            input: what the layer is called with.

        Raises: nothing of its own: an id that is out of range is an IndexError of the call.

        Example: see `ShardedEmbedding`.
        """
        self._prefetch(input)

    def forward(self, input: Tensor) -> Tensor:
        """The vectors of the ids in `input`: shape input.shape + (embedding_dim,)."""
        found, wanted = self._vectors(input)
        if wanted.kept is not None:
            none = found.new_zeros((input.numel(), self.embedding_dim))
            found = none.masked_scatter(wanted.kept.unsqueeze(1), found)
        return self._with_dense_parts(found.view(*input.shape, self.embedding_dim))


class ShardedEmbeddingBag(ShardedLayer):
    """`unhot.torch.EmbeddingBag` whose rows are spread over the processes of a group: each holds and trains its share.

    Args: those of `unhot.torch.EmbeddingBag` but `frozen`, and `group`, `layout`, `reduction` and `dedup` as for
        `ShardedEmbedding`.

    Raises: what `unhot.torch.EmbeddingBag` and `ShardedEmbedding` raise.

    Example: with `torchrun --nproc-per-node=2`:

        layer = unhot.torch.distributed.ShardedEmbeddingBag(1_000_000, 64, mode="sum")
        layer(ids, offsets).sum().backward()

    References: torchrec/distributed/embeddingbag.py.
    """

    pooled = True

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool | None = None,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = False,
        activation: Activation | None = None,
        out_of_range: OutOfRange = "raise",
        group: Group = None,
        layout: LayoutName = "mod",
        reduction: Reduction = "mean",
        dedup: bool = False,
    ) -> None:
        super().__init__()
        if mode not in ("sum", "mean", "max"):
            raise ValueError(f"ShardedEmbeddingBag: `mode` must be 'sum', 'mean' or 'max'. Received: {mode!r}.")
        if mode == "max" and scale_grad_by_freq:
            raise ValueError("max mode does not support scaling the gradient by the frequency")
        self.mode, self.include_last_offset = mode, include_last_offset
        self._spread(num_embeddings, embedding_dim, group, layout, reduction, device, dtype)
        self._set_up(padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse, bias, activation, out_of_range, dedup)
        self.reset_parameters()

    def _wanted(self, ids: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Wanted:
        require_indices(ids)
        if per_sample_weights is not None and self.mode != "sum":
            raise NotImplementedError(f"per_sample_weights go with mode='sum'. Received: mode={self.mode!r}.")
        starts = bag_starts(ids, offsets, self.include_last_offset, "sum", None)
        if starts is None and offsets is not None and not ids.numel() and not offsets.numel():  # of a process without a share
            starts = offsets.new_zeros(1, dtype=torch.int64)
        if starts is None:
            raise ValueError(
                "bags are ids of shape (bags, length), or flat ids with offsets that begin with 0, never fall, and end at or"
                f" before the number of ids. Received: ids of shape {tuple(ids.shape)}, offsets {offsets}."
            )
        if per_sample_weights is not None and per_sample_weights.shape != ids.shape:
            raise ValueError(
                f"per_sample_weights must have the shape of the ids, {tuple(ids.shape)}. Received:"
                f" {tuple(per_sample_weights.shape)}."
            )
        flat, kept = self._within(ids.detach().reshape(-1))
        factors = None if per_sample_weights is None else per_sample_weights.reshape(-1)
        missing = None
        if kept is not None:
            missing = before(~kept)[starts].diff()
            starts, factors = before(kept)[starts], None if factors is None else factors[kept]
        if self.padding_idx is not None:
            flat, starts, factors = without_padding(flat, starts, factors, self.padding_idx)
        asked = asked_of(flat, starts, self.mode, factors, self.weight.device)
        return Wanted("ids", self.weight, asked, self._options, starts, self.mode, factors, kept, missing)

    def prefetch(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> None:
        """Begin to send the ids of a later call, which is made with the same arguments; see `ShardedEmbedding.prefetch`.

        Args:
            input, offsets, per_sample_weights: what the layer is called with.

        Raises: nothing of its own: an id that is out of range is an IndexError of the call.

        Example: see `ShardedEmbedding`.
        """
        self._prefetch(input, offsets, per_sample_weights)

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """The pooled vectors of the bags of ids: shape (bags, embedding_dim)."""
        found, wanted = self._vectors(input, offsets, per_sample_weights)
        if wanted.missing is not None and wanted.starts is not None:
            missing = wanted.missing.unsqueeze(1)
            if self.mode == "max":
                found = torch.where(missing > 0, found.clamp(min=0), found)
            elif self.mode == "mean":
                left = wanted.starts.diff().unsqueeze(1)
                found = found * (left / (left + missing).clamp(min=1)).to(found.dtype)
        return self._with_dense_parts(found)
