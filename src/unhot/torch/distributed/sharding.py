"""`shard`: the layers of a model become layers whose rows are spread over processes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from unhot.layouts import LayoutName
from unhot.reports import Conversion
from unhot.torch._private import ignored_in_data_parallel
from unhot.torch.collection import Collection, EmbeddingBagCollection, EmbeddingCollection, only_looks_up
from unhot.torch.conversion import PARAMETRIZED
from unhot.torch.distributed.collection import ShardedCollection, ShardedEmbeddingBagCollection, ShardedEmbeddingCollection
from unhot.torch.distributed.key_sharding import sharded_keys
from unhot.torch.distributed.keyed import ShardedKeyedEmbedding
from unhot.torch.distributed.layer import ShardedEmbedding, ShardedEmbeddingBag, ShardedLayer
from unhot.torch.distributed.peers import Group, Peers
from unhot.torch.distributed.sharded import Reduction, Sharded
from unhot.torch.distributed.transfer import OnOne, moved
from unhot.torch.keyed import KeyedEmbedding
from unhot.torch.layer import Embedding, EmbeddingBag

M = TypeVar("M", bound=nn.Module)


def shard(
    model: M,
    group: Group = None,
    *,
    layout: LayoutName = "mod",
    reduction: Reduction = "mean",
    dedup: bool = False,
    timeout: timedelta | None = None,
) -> Conversion[M]:
    """Spread the rows of a model's unhot layers over the processes of a group, in place.

    Every process calls it with its own copy of the model, before it makes an optimizer and before
    `DistributedDataParallel(model)`. Each gets its share of the first process's weights, a few megabytes at a time. If the
    model was made on the "meta" device, each process draws its share. DistributedDataParallel leaves the tables alone; to FSDP,
    say it: `fully_shard(model, ignored_params=unhot.torch.distributed.tables(model))`.

    Args:
        model: any module of which some layers are unhot's: `Embedding`, `EmbeddingBag`, the collections, and `KeyedEmbedding`,
            which has the same keys in all processes. (`convert` makes unhot's of torch's.)
        group: a process group, a one-dimensional DeviceMesh, or None for all processes. Give it a group in which nothing else
            goes on at the same time.
        layout, reduction, dedup: as for `ShardedEmbedding`; keys are spread by their hashes.
        timeout: how long to wait for other processes; None for the timeout of all processes. Only where `group` is None.

    Returns: a `Conversion` with the model, which layers were replaced, and which were left alone and why.

    Raises: TypeError for anything but a module; ValueError for a table that an optimizer trains already, or for keys that
        differ between processes; RuntimeError where there is no process group yet; PeerError if another process does not do
        its part.

    Example: with `torchrun --nproc-per-node=2`:

        torch.distributed.init_process_group("gloo")
        model = Model()
        unhot.torch.distributed.shard(model)
        model = torch.nn.parallel.DistributedDataParallel(model)
        optimizer = unhot.torch.Adam(model.parameters())

    References: torchrec/distributed/model_parallel.py.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`shard` takes a module of torch. Received: {type(model).__name__}.")
    done = Conversion(model, in_place=True)
    sharder = _Sharder(Peers(group, timeout), layout, reduction, dedup)
    used = uses(model)
    for name, module in found(model):
        why = reason_to_leave(module, used)
        if why:
            done.left[name or type(module).__name__] = why
            continue
        made = sharder.sharded(module)
        if isinstance(made, ShardedLayer):
            made.call_ids(name or "ids")
        done.replaced[name or type(module).__name__] = type(module).__name__
        if module is model:
            done.model, done.in_place = made, False
        else:
            put(model, module, made)
    for _, inner in done.model.named_modules():
        own = {id(table) for table in tables(inner)}
        names = [name for name, parameter in inner.named_parameters(remove_duplicate=False) if id(parameter) in own]
        if names:
            ignored_in_data_parallel(inner, names)
    return done


def tables(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of a model's sharded tables: those that are no part of DistributedDataParallel or FSDP.

    Args:
        model: any module.

    Raises: nothing.

    Example:
        >>> import torch, unhot.torch.distributed
        >>> unhot.torch.distributed.tables(torch.nn.Linear(2, 2))
        set()
    """
    return {module.weight for module in model.modules() if isinstance(module, (Sharded, ShardedKeyedEmbedding))}  # type: ignore[misc]


def found(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The embedding layers with their names, unhot's and PyTorch's; of collections only themselves."""
    inside: set[int] = set()
    for name, module in list(model.named_modules()):
        if id(module) in inside or isinstance(module, (Sharded, ShardedCollection)):
            continue
        if isinstance(module, ShardedKeyedEmbedding):
            inside |= {id(inner) for inner in module.modules()}
        elif isinstance(module, (Collection, nn.Embedding, nn.EmbeddingBag)):  # of which unhot's are subclasses
            inside |= {id(inner) for inner in module.modules()}
            yield name, module


def uses(model: nn.Module) -> dict[int, int]:
    """How many modules have each parameter, by its identity."""
    counts: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            counts[id(parameter)] = counts.get(id(parameter), 0) + 1
    return counts


def reason_to_leave(module: Any, used: dict[int, int]) -> str:
    """Why a layer's rows cannot be spread, or nothing.

    Raises: ValueError if an optimizer trains them already.
    """
    if not isinstance(module, (Collection, Embedding, EmbeddingBag)):
        return "it is not unhot's: call `unhot.torch.convert` first"
    if type(module) not in (Embedding, EmbeddingBag, KeyedEmbedding, EmbeddingCollection, EmbeddingBagCollection):
        return f"{type(module).__name__} is a class of its own, and may use its weight otherwise"
    layers: list[Any] = list(module.layers.values()) if isinstance(module, Collection) else [module]
    for layer in layers:
        if type(layer) not in (Embedding, EmbeddingBag, KeyedEmbedding):
            return f"it holds a {type(layer).__name__}"
        keyed = isinstance(layer, KeyedEmbedding)
        if keyed and (layer.vocabulary.reserved or layer.vocabulary.buckets):
            return "its vocabulary has reserved rows or buckets, which would be in each process"
        if layer is not module and not only_looks_up(layer):
            return "a layer in it has hooks or options that a collection has not"
        if is_parametrized(layer):
            return PARAMETRIZED
        if used[id(layer.weight)] > 1:
            return "its weight is that of another module, too"
        if len(layer.weight.removed_rows) and not keyed:
            return "rows have been removed"
        if layer.weight.ownership is not None:
            raise ValueError("an optimizer trains a table of the model already. Call `shard` before you make the optimizer.")
    return ""


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in the place of another, wherever that is."""
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)


class _Sharder:
    """Makes the layers of one call of `shard`."""

    def __init__(self, peers: Peers, layout: LayoutName, reduction: Reduction, dedup: bool) -> None:
        self.peers = peers
        self.sharding: dict[str, Any] = {"group": peers, "layout": layout, "reduction": reduction, "dedup": dedup}

    def sharded(self, module: Any) -> Any:
        """The same with rows that are spread."""
        if isinstance(module, Collection):
            return self._collection(module)
        if isinstance(module, KeyedEmbedding):
            keyed = sharded_keys(module, self.peers, self.sharding["reduction"], self.sharding["dedup"])
            self._take_hooks(keyed, module)
            return keyed
        weight = module.weight
        options: dict[str, Any] = {
            "max_norm": module.max_norm, "norm_type": module.norm_type, "scale_grad_by_freq": module.scale_grad_by_freq,
            "padding_idx": module.padding_idx, "bias": module.bias is not None, "activation": module.activation,
            "out_of_range": module.out_of_range, "sparse": module._given_sparse, "dtype": weight.dtype,
        }  # fmt: skip
        kind: Any = ShardedEmbedding
        if isinstance(module, EmbeddingBag):
            kind = ShardedEmbeddingBag
            options |= {"mode": module.mode, "include_last_offset": module.include_last_offset}
        made = kind(module.num_embeddings, module.embedding_dim, device="meta", **options, **self.sharding)
        self._fill(made, weight)
        if module.bias is not None:
            made.bias = module.bias
        self._take_hooks(made, module)
        return made

    def _collection(self, module: Any) -> Any:
        configs, bags = [], isinstance(module, EmbeddingBagCollection)
        for name, layer in module.layers.items():
            features = [feature for feature, table in module.features.items() if table == name]
            more = {"pooling": layer.mode, "padding_idx": layer.padding_idx} if bags else {}
            configs.append(module.config(layer.num_embeddings, layer.embedding_dim, name, features, **more))
        kind: Any = ShardedEmbeddingBagCollection if bags else ShardedEmbeddingCollection
        made = kind(configs, output=module.output, device="meta", **self.sharding)
        for name, layer in module.layers.items():
            self._fill(made.layers[name], layer.weight)
        self._take_hooks(made, module)
        return made

    def _fill(self, layer: Any, weight: Any) -> None:
        """Give the layer its rows of the first process's weight."""
        mine = layer.shard
        drawn = self.peers.any(self.peers.rank == 0 and weight.is_meta, "whether the first process's weights are there")
        device = None if weight.is_meta else weight.device
        rows: Tensor = torch.empty((mine.rows, layer.embedding_dim), dtype=weight.dtype, device=device)
        parameter = nn.Parameter(rows, requires_grad=weight.requires_grad)
        layer.register_parameter("weight", parameter)
        if drawn:
            layer.reset_parameters()
        else:
            given = weight.detach() if self.peers.rank == 0 else None
            moved(
                self.peers, given, OnOne(mine.layout.rows, self.peers.size), mine.layout, parameter.detach(), "a table's rows"
            )
        frozen = torch.from_numpy(weight.frozen_rows)
        layer.weight.__dict__["_frozen_rows"] = torch.sort(mine.own(frozen))[0].numpy()

    @staticmethod
    def _take_hooks(made: nn.Module, module: nn.Module) -> None:
        """The hooks of the layer that was there, but for those of its state, and its mode."""
        for name in module.__dict__:
            if name.startswith(("_forward_", "_backward_")):
                made.__dict__[name] = module.__dict__[name]
        made.training = module.training
