"""Many tables as one layer: one lookup, one node of autograd and one step for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unhot.torch._private import is_hooked, is_transformed
from unhot.torch.collection_lookup import Feature, all_step, joint_lookup
from unhot.torch.layer import Embedding, EmbeddingBag
from unhot.torch.lookup import without_padding

Ids = Tensor | tuple[Tensor, Tensor] | tuple[Tensor, Tensor | None, Tensor]
"""Ids of a batch: one for each sample, (batch,), or several, (batch, length); or flat ids, with the offset of each sample. With
weights, ids, offsets (or None) and a weight for each id."""

Output = Literal["concatenated", "dict"]


@dataclass
class EmbeddingConfig:
    """A table of an `EmbeddingCollection`.

    Args:
        num_embeddings: the number of rows.
        embedding_dim: the length of a row's vector.
        name: the table's name, by which its weight stands in `state_dict`.
        feature_names: the features that are looked up in it. Default: one of the table's name.

    Raises: nothing; a collection checks its tables.

    Example:
        >>> import unhot.torch
        >>> unhot.torch.EmbeddingConfig(1000, 16, "user", ["user", "friend"]).feature_names
        ['user', 'friend']

    References: torchrec/modules/embedding_configs.py.
    """

    num_embeddings: int
    embedding_dim: int
    name: str
    feature_names: Sequence[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feature_names = list(self.feature_names) or [self.name]


@dataclass
class EmbeddingBagConfig(EmbeddingConfig):
    """A table of an `EmbeddingBagCollection`.

    Args: those of `EmbeddingConfig`, and
        pooling: "sum" or "mean" of the vectors of a sample's ids.
        padding_idx: an id that fills up short rows of padded ids, and does not count.

    Raises: nothing; a collection checks its tables.

    Example:
        >>> import unhot.torch
        >>> unhot.torch.EmbeddingBagConfig(1000, 16, "words", pooling="mean", padding_idx=0).pooling
        'mean'

    References: torchrec/modules/embedding_configs.py.
    """

    pooling: str = "sum"
    padding_idx: int | None = None


Tables = Sequence[Any] | Mapping[str, tuple[int, int]]
"""Configurations (TorchRec's have the same attributes), or (num_embeddings, embedding_dim) by name."""


class Collection(nn.Module):
    """What both collections do."""

    config: ClassVar[type[EmbeddingConfig]]

    modules_name: ClassVar[str]
    """Under which name the tables stand in `state_dict`, as in TorchRec."""

    @property
    def layers(self) -> nn.ModuleDict:
        """The tables' layers by name."""
        found: nn.ModuleDict = getattr(self, self.modules_name)
        return found

    def __init__(self, tables: Tables, output: Output, device: Any, dtype: Any) -> None:
        super().__init__()
        kind = type(self).__name__
        if output not in ("concatenated", "dict"):
            raise ValueError(f"{kind}: `output` must be 'concatenated' or 'dict'. Received: {output!r}.")
        if isinstance(tables, Mapping) and any(
            not isinstance(size, (tuple, list)) or len(size) != 2 for size in tables.values()
        ):
            raise TypeError(f"{kind}: tables must be (num_embeddings, embedding_dim) by name. Received: {tables!r}.")
        configs = [self.config(*size, name) for name, size in tables.items()] if isinstance(tables, Mapping) else list(tables)
        if not configs:
            raise ValueError(f"{kind}: there must be at least one table.")
        self.output = output
        layers = nn.ModuleDict()
        self.add_module(self.modules_name, layers)
        self.features: dict[str, str] = {}
        """The table of each feature, in the order of the output."""
        for config in configs:
            if config.name in layers:
                raise ValueError(f"{kind}: two tables have the name {config.name!r}. Give each its own.")
            if not config.name or "." in config.name or hasattr(layers, config.name):
                raise ValueError(
                    f"{kind}: PyTorch's modules cannot have the name {config.name!r}. Give the table another, and"
                    f" feature_names=[{config.name!r}]."
                )
            layers[config.name] = self._layer(config, device, dtype)
            for feature in config.feature_names:
                if feature in self.features:
                    raise ValueError(
                        f"{kind}: the feature {feature!r} is that of {self.features[feature]!r} and {config.name!r}. A feature"
                        " is looked up in one table."
                    )
                self.features[feature] = config.name

    def _layer(self, config: Any, device: Any, dtype: Any) -> nn.Module:
        raise NotImplementedError

    def _feature(self, name: str, ids: Any) -> Feature:
        raise NotImplementedError

    @property
    def embedding_dim(self) -> int:
        """The length of a concatenated vector: the sum of the features' dims."""
        layers: Any = self.layers  # mypy takes all attributes of modules for tensors or modules
        return sum(layers[table].embedding_dim for table in self.features.values())

    def forward(self, features: Mapping[str, Ids]) -> Tensor | dict[str, Tensor]:
        """The vectors of all features: one tensor, (batch, sum of dims) in the order of `features`, or one for each."""
        self._require_features(features)
        return self._vectors(features)

    def _require_features(self, features: Mapping[str, Ids]) -> None:
        """Raise TypeError or KeyError if not each feature is given."""
        if not hasattr(features, "keys"):
            raise TypeError(
                f"{type(self).__name__}: ids must be given in a dict, by feature. Received: {type(features).__name__}."
            )
        missing = [name for name in self.features if name not in features]
        if missing or len(features) > len(self.features):
            unknown = [name for name in features if name not in self.features]
            raise KeyError(
                f"{type(self).__name__}: ids must be given for each feature. Missing: {missing}; unknown: {unknown}."
            )

    def _vectors(self, features: Mapping[str, Ids]) -> Tensor | dict[str, Tensor]:
        """The vectors of all features, of which each is given."""
        if torch.compiler.is_compiling() or is_transformed():
            return self._together(self._one_by_one(features))
        found: Tensor | Sequence[Tensor] | None = None
        if all(map(only_looks_up, self.layers.values())):
            given = [self._feature(name, features[name]) for name in self.features]
            self._require_alike(given)
            found = joint_lookup(given, self.output == "concatenated")
        if found is None:
            apart = self._one_by_one(features)
            if self.output == "concatenated":  # whose gradient is one of all features
                return self._together(apart)
            layers: Any = self.layers
            tables = [by_rows(layers[self.features[name]]) for name in apart]
            found = all_step(list(zip(tables, apart.values(), strict=True)))
        if isinstance(found, Tensor):
            return found
        return dict(zip(self.features, found, strict=True))

    def _require_alike(self, given: Sequence[Feature]) -> None:
        """Raise ValueError if the vectors are to be concatenated, and cannot be."""
        if self.output == "concatenated" and len({feature.shape for feature in given}) > 1:
            shapes = {feature.name: tuple(feature.shape) for feature in given}
            raise ValueError(
                f"{type(self).__name__}: vectors are concatenated sample by sample, so all features must have the same number"
                f" of samples. Received: {shapes}. Use output='dict' otherwise."
            )

    def _one_by_one(self, features: Mapping[str, Ids]) -> dict[str, Tensor]:
        """By calls of the layers: where no optimizer of unhot's trains them, something traces, or one does more."""
        return {name: self._apart(name, features[name]) for name in self.features}

    def _together(self, found: dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
        """The vectors of the features in the form of the output."""
        return torch.cat(list(found.values()), -1) if self.output == "concatenated" else found

    def _apart(self, name: str, ids: Any) -> Tensor:
        """The vectors of one feature."""
        raise NotImplementedError


def pooling_of(config: Any) -> str:
    """The mode of a configuration."""
    pooling = str(getattr(config.pooling, "value", config.pooling)).lower()  # TorchRec's is an enumeration
    if pooling not in ("sum", "mean"):
        raise ValueError(f"EmbeddingBagCollection: `pooling` must be 'sum' or 'mean'. Received: {config.pooling!r}.")
    return pooling


def by_rows(layer: Any) -> Any:
    """The layer's weight, if the layer may give gradients of unhot's; with `sparse` given, they are those of torch's layers."""
    return getattr(layer, "weight", None) if getattr(layer, "_given_sparse", None) is None else None


def only_looks_up(layer: nn.Module) -> bool:
    """Whether a call of the layer is the lookup alone: users may hook it, set its options, or put another in its place."""
    if type(layer) not in (Embedding, EmbeddingBag):
        return False
    own = vars(layer)
    if is_hooked(layer) or own["max_norm"] is not None or own["scale_grad_by_freq"] or own["_given_sparse"] is not None:
        return False
    more = (own["_parameters"].get("bias"), own.get("activation"))  # a module is among the modules
    if any(given is not None for given in more) or own["_modules"] or own.get("out_of_range", "raise") != "raise":
        return False
    if isinstance(layer, EmbeddingBag):
        return own["mode"] in ("sum", "mean") and not own["include_last_offset"]
    return own["padding_idx"] is None


class EmbeddingCollection(Collection):
    """Tables of any sizes and dims whose features are looked up together, a vector for each id.

    The lookup of all features is one call, and so is the step of all tables: a step costs little more than that of one table
    with the same rows. Every table makes every step, but where `torch.compile` compiles the collection.

    Args:
        tables: (num_embeddings, embedding_dim) for each table by name, or a list of `EmbeddingConfig`, where features may share
            a table. Objects with the same attributes work, too, such as TorchRec's configurations.
        output: "concatenated" for one tensor with the features' vectors side by side, or "dict" for a tensor by feature.
        device, dtype: as for `torch.nn.Embedding`.

    Raises: ValueError for tables without a meaning; KeyError or ValueError for ids that do not fit the features; what
        `torch.nn.Embedding` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.EmbeddingCollection({"user": (1000, 16), "item": (500, 8)})
        >>> optimizer = unhot.torch.Adam(layer.parameters())
        >>> vectors = layer({"user": torch.tensor([3, 7]), "item": torch.tensor([5, 5])})
        >>> vectors.shape
        torch.Size([2, 24])
        >>> vectors.sum().backward()
        >>> optimizer.step()
        >>> sorted(layer.state_dict())
        ['embeddings.item.weight', 'embeddings.user.weight']

    References: torchrec/modules/embedding_modules.py.
    """

    config = EmbeddingConfig
    modules_name = "embeddings"

    embeddings: nn.ModuleDict
    """The tables, each an `unhot.torch.Embedding`, by name."""

    def __init__(self, tables: Tables, *, output: Output = "concatenated", device: Any = None, dtype: Any = None) -> None:
        super().__init__(tables, output, device, dtype)

    def _layer(self, config: Any, device: Any, dtype: Any) -> nn.Module:
        return Embedding(config.num_embeddings, config.embedding_dim, device=device, dtype=dtype)

    def _feature(self, name: str, ids: Any) -> Feature:
        if not isinstance(ids, Tensor):
            raise TypeError(f"EmbeddingCollection: the ids of {name!r} must be a tensor. Received: {type(ids).__name__}.")
        return Feature(name, self.layers[self.features[name]].weight, ids, ids.shape)

    def _apart(self, name: str, ids: Any) -> Tensor:
        found: Tensor = self.layers[self.features[name]](ids)
        return found


class EmbeddingBagCollection(Collection):
    """Tables of any sizes and dims whose features are looked up together, with several ids a sample, which are pooled.

    The lookup of all features is one call, and so is the step of all tables. The vectors are pooled where the rows are: neither
    the vectors of all ids nor their gradients are made. Every table makes every step, but where `torch.compile` compiles the
    collection.

    Args:
        tables: (num_embeddings, embedding_dim) for each table by name, or a list of `EmbeddingBagConfig`, where features may
            share a table. Objects with the same attributes work, too, such as TorchRec's configurations.
        output: "concatenated" for one tensor with the features' vectors side by side, or "dict" for a tensor by feature.
        device, dtype: as for `torch.nn.EmbeddingBag`.

    Ids are given by feature: padded, (batch, length); or flat with the offsets at which the samples begin, (ids, offsets). With
    pooling "sum", a weight for each id may come with them: (ids, None, weights) or (ids, offsets, weights).

    Raises: ValueError for tables without a meaning; KeyError, TypeError or ValueError for ids that do not fit the features;
        what `torch.nn.EmbeddingBag` raises.

    Example:
        >>> import torch, unhot.torch
        >>> layer = unhot.torch.EmbeddingBagCollection({"user": (1000, 16), "words": (500, 8)})
        >>> optimizer = unhot.torch.Adam(layer.parameters())
        >>> words = torch.tensor([5, 5, 7]), torch.tensor([0, 2])  # the second sample begins at 2
        >>> vectors = layer({"user": torch.tensor([[3], [7]]), "words": words})
        >>> vectors.shape
        torch.Size([2, 24])
        >>> vectors.sum().backward()
        >>> optimizer.step()

    References: torchrec/modules/embedding_modules.py.
    """

    config = EmbeddingBagConfig
    modules_name = "embedding_bags"

    embedding_bags: nn.ModuleDict
    """The tables, each an `unhot.torch.EmbeddingBag`, by name."""

    def __init__(self, tables: Tables, *, output: Output = "concatenated", device: Any = None, dtype: Any = None) -> None:
        super().__init__(tables, output, device, dtype)

    def _layer(self, config: Any, device: Any, dtype: Any) -> nn.Module:
        return EmbeddingBag(
            config.num_embeddings, config.embedding_dim, mode=pooling_of(config),
            padding_idx=getattr(config, "padding_idx", None), device=device, dtype=dtype,
        )  # fmt: skip

    def _feature(self, name: str, ids: Any) -> Feature:
        layer: Any = self.layers[self.features[name]]
        flat, offsets, factors = self._parts(name, ids)
        if factors is not None and layer.mode != "sum":
            raise ValueError(f"EmbeddingBagCollection: weights need pooling 'sum'. Received: {layer.mode!r} for {name!r}.")
        if offsets is None:
            starts = torch.arange(flat.size(0) + 1, device=flat.device) * flat.size(1)
        else:
            starts = torch.cat([offsets.to(torch.int64), offsets.new_full((1,), len(flat), dtype=torch.int64)])
            if int(starts[0]) != 0 or bool((starts[1:] < starts[:-1]).any()):
                raise ValueError(
                    f"EmbeddingBagCollection: the offsets of {name!r} must begin with 0, never fall, and end at or before the"
                    f" number of ids, {len(flat)}. Received: {offsets}."
                )
        flat, factors = flat.reshape(-1), None if factors is None else factors.reshape(-1)
        if layer.padding_idx is not None:
            flat, starts, factors = without_padding(flat, starts, factors, layer.padding_idx)
        given = ids if isinstance(ids, Tensor) else ids[0]
        size = torch.Size((len(starts) - 1,))
        return Feature(name, layer.weight, flat, size, starts, layer.mode, given, factors=factors)

    def _parts(self, name: str, ids: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Ids, offsets and weights of a feature; padded ids have no offsets."""
        several = isinstance(ids, (tuple, list)) and len(ids) in (2, 3)
        flat, offsets, factors = (*ids, None)[:3] if several else (ids, None, None)
        if isinstance(flat, Tensor) and (factors is None or getattr(factors, "shape", None) == flat.shape):
            if offsets is None and flat.dim() == 1:
                return flat.unsqueeze(1), None, None if factors is None else factors.unsqueeze(1)
            if flat.dim() == (2 if offsets is None else 1) and (offsets is None or offsets.dim() == 1):
                return flat, offsets, factors
        raise TypeError(
            f"EmbeddingBagCollection: the ids of {name!r} must be a tensor of shape (batch,) or (batch, length), or flat ids"
            " with offsets, two tensors; or, with weights of the shape of the ids, (ids, offsets or None, weights). Received:"
            f" {ids!r}."
        )

    def _apart(self, name: str, ids: Any) -> Tensor:
        found: Tensor = self.layers[self.features[name]](*self._parts(name, ids))
        return found
