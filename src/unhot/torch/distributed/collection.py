"""Collections whose tables are spread over processes: one exchange for the lookup of all features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unhot.layouts import LayoutName
from unhot.torch._private import without_torch_functions
from unhot.torch.backend import hide_from_compiler, require_indices
from unhot.torch.collection import (
    Collection,
    EmbeddingBagCollection,
    EmbeddingCollection,
    Ids,
    Output,
    Tables,
    pooling_of,
)
from unhot.torch.collection_lookup import Feature
from unhot.torch.distributed.layer import ShardedEmbedding, ShardedEmbeddingBag
from unhot.torch.distributed.lookup import Options, Wanted, asked_of, deduplicated, look_up
from unhot.torch.distributed.peers import Group, Peers
from unhot.torch.distributed.routing import Asked, BadId, Route, Router, first_outside
from unhot.torch.distributed.sharded import Ahead, Reduction


class ShardedCollection(Collection):
    """What both collections do."""

    pooled = False
    _peers: Peers
    reduction: Reduction
    dedup: bool

    def __init__(
        self,
        tables: Tables,
        *,
        output: Output = "concatenated",
        device: Any = None,
        dtype: Any = None,
        group: Group = None,
        layout: LayoutName = "mod",
        reduction: Reduction = "mean",
        dedup: bool = False,
    ) -> None:
        peers = group if isinstance(group, Peers) else Peers(group)
        self.__dict__.update(_peers=peers, _layout=layout, reduction=reduction, dedup=dedup)  # of which the layers are made
        super().__init__(tables, output=output, device=device, dtype=dtype)
        layers = [self._layer_of(name) for name in self.features]
        self._router = Router(self._peers, layers, list(self.features), pooled=self.pooled and not dedup)
        hide_from_compiler(ShardedCollection, "_looked_up")
        self._ahead = Ahead[tuple[list[Feature], list[Wanted], Route]]()

    @property
    def peers(self) -> Peers:
        """The processes over which the tables are spread."""
        return self._peers

    @property
    def _sharding(self) -> dict[str, Any]:
        """The arguments of the layers."""
        return {"group": self._peers, "layout": self._layout, "reduction": self.reduction}

    def _layer_of(self, feature: str) -> Any:
        return self.layers[self.features[feature]]

    def _nothing(self) -> list[Asked]:
        device = next(iter(self.layers.parameters())).device
        none = torch.empty(0, dtype=torch.int64, device=device)
        return [Asked(none, none, none.double()) if self._router.pooled else Asked(none)] * len(self.features)

    def _begin(self, features: Mapping[str, Ids]) -> tuple[list[Feature], list[Wanted], Route]:
        """Begin a lookup. What is wrong with what is given here is told to the other processes first."""
        try:
            self._require_features(features)
            given = [self._feature(name, features[name]) for name in self.features]
            self._require_alike(given)
            for feature in given:
                require_indices(feature.ids)
            asked = [asked_of(part.ids, part.starts, part.mode, part.factors, part.weight.device) for part in given]
        except BaseException:
            self._router.start(self._nothing(), failed=True).finish_failed()
            raise
        bad: BadId | None = None
        for k, (feature, ids) in enumerate(zip(given, asked, strict=True)):
            found = first_outside(ids.ids, self._layer_of(feature.name).num_embeddings)
            if found is not None and bad is None:
                bad = found._replace(feature=k)
        wanted = [
            Wanted(feature.name, feature.weight, ids, Options(), feature.starts, feature.mode, feature.factors)
            for feature, ids in zip(given, asked, strict=True)
        ]
        if bad is not None:
            return given, wanted, self._router.start(self._nothing(), bad)
        if self.dedup:
            wanted = [deduplicated(feature) for feature in wanted]
        return given, wanted, self._router.start([feature.asked for feature in wanted])

    def look_up_nothing(self) -> list[Tensor]:
        """Take part in a lookup of the other processes, without ids of one's own."""
        return without_torch_functions(self._nothing_looked_up)

    def _nothing_looked_up(self) -> list[Tensor]:
        asked = self._nothing()
        starts = asked[0].ids.new_zeros(1) if self.pooled else None
        wanted = [
            Wanted(name, self._layer_of(name).weight, asked[0], Options(), starts, getattr(self._layer_of(name), "mode", ""))
            for name in self.features
        ]
        wanted = [deduplicated(feature) for feature in wanted] if self.dedup else wanted
        route = self._router.start(asked)
        route.finish()
        return look_up(wanted, route, self.reduction == "mean")

    def prefetch(self, features: Mapping[str, Ids]) -> None:
        """Begin to send the ids of a later call, which is made with the same arguments; see `ShardedEmbedding.prefetch`.

        Args:
            features: what the collection is called with.

        Raises: nothing of its own: an id that is out of range is an IndexError of the call.

        Example: see `ShardedEmbedding`.
        """
        self.peers.require_all("a lookup begun by `prefetch`")
        self._ahead.add(features, self._begin(features))

    def forward(self, features: Mapping[str, Ids]) -> Tensor | dict[str, Tensor]:
        """The vectors of all features: one tensor, (batch, sum of dims) in the order of `features`, or one for each."""
        return self._looked_up(features)

    def _looked_up(self, features: Mapping[str, Ids]) -> Tensor | dict[str, Tensor]:
        """The same, which is not compiled."""
        return without_torch_functions(self._vectors, features)

    def _vectors(self, features: Mapping[str, Ids]) -> Tensor | dict[str, Tensor]:
        given, wanted, route = self._ahead.take(features) or self._begin(features)
        route.finish()
        vectors = look_up(wanted, route, self.reduction == "mean")
        shaped = [found.view(*feature.shape, found.size(-1)) for feature, found in zip(given, vectors, strict=True)]
        return torch.cat(shaped, -1) if self.output == "concatenated" else dict(zip(self.features, shaped, strict=True))


class ShardedEmbeddingCollection(ShardedCollection, EmbeddingCollection):
    """`unhot.torch.EmbeddingCollection` whose tables are spread over processes, with one exchange for all of them.

    Args: those of `unhot.torch.EmbeddingCollection`, and `group`, `layout`, `reduction` and `dedup` as for `ShardedEmbedding`.

    Raises: what `unhot.torch.EmbeddingCollection` and `ShardedEmbedding` raise.

    Example: with `torchrun --nproc-per-node=2`:

        layer = unhot.torch.distributed.ShardedEmbeddingCollection({"user": (1_000_000, 64), "item": (100_000, 32)})
        layer({"user": users, "item": items}).sum().backward()

    References: torchrec/distributed/embedding.py.
    """

    def _layer(self, config: Any, device: Any, dtype: Any) -> nn.Module:
        return ShardedEmbedding(config.num_embeddings, config.embedding_dim, device=device, dtype=dtype, **self._sharding)


class ShardedEmbeddingBagCollection(ShardedCollection, EmbeddingBagCollection):
    """`unhot.torch.EmbeddingBagCollection` whose tables are spread over processes, with one exchange for all of them.

    Args: those of `unhot.torch.EmbeddingBagCollection`, and `group`, `layout`, `reduction` and `dedup` as for
        `ShardedEmbedding`.

    Raises: what `unhot.torch.EmbeddingBagCollection` and `ShardedEmbedding` raise.

    Example: with `torchrun --nproc-per-node=2`:

        layer = unhot.torch.distributed.ShardedEmbeddingBagCollection({"user": (1_000_000, 64), "words": (100_000, 32)})
        layer({"user": users, "words": (words, offsets)}).sum().backward()

    References: torchrec/distributed/embeddingbag.py.
    """

    pooled = True

    def _layer(self, config: Any, device: Any, dtype: Any) -> nn.Module:
        return ShardedEmbeddingBag(
            config.num_embeddings, config.embedding_dim, mode=pooling_of(config),
            padding_idx=getattr(config, "padding_idx", None), device=device, dtype=dtype, **self._sharding,
        )  # fmt: skip
