"""What the processes of the tests run, and the same in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import unhot.torch
from unhot.torch.distributed import (
    ShardedEmbedding,
    ShardedEmbeddingBag,
    ShardedEmbeddingBagCollection,
    ShardedEmbeddingCollection,
)

ROWS, DIM = 300, 4


class Step(NamedTuple):
    """The ids of a batch and the gradients of their vectors, or those of bags that begin at `starts`."""

    ids: Tensor
    gradients: Tensor
    starts: Tensor
    factors: Tensor


def steps(count: int, seed: int = 1, most: int = 60, rows: int = ROWS, dim: int = DIM) -> Iterator[Step]:
    """Batches of different sizes, some of them empty, whose ids repeat."""
    rng = np.random.default_rng(seed)
    for step in range(count):
        length = 0 if step % 7 == 3 else int(rng.integers(1, most))
        ids = torch.from_numpy((rng.zipf(1.3, length) % rows).astype(np.int64))
        bags = int(rng.integers(1, 12))
        starts = torch.from_numpy(np.sort(np.append(rng.integers(0, length + 1, bags), [0, length])))
        gradients = torch.from_numpy(rng.normal(size=(max(length, len(starts) - 1), dim)).astype(np.float32))
        yield Step(ids, gradients, starts, torch.from_numpy(rng.normal(size=length).astype(np.float32)))


def first_weights(rows: int = ROWS, dim: int = DIM) -> Tensor:
    """What training begins with."""
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32))


def share(step: Step, rank: int, world: int, of_bags: bool) -> Step:
    """One process's part of a batch: some ids that follow each other, or some bags. Parts are of different sizes."""
    lines = len(step.starts) - 1 if of_bags else len(step.ids)
    cuts = [round(lines * (k / world) ** 2) for k in range(world + 1)]
    a, b = cuts[rank], cuts[rank + 1]
    if not of_bags:
        return Step(step.ids[a:b], step.gradients[a:b], step.starts, step.factors[a:b])
    starts = step.starts[a : b + 1]
    own = slice(int(starts[0]), int(starts[-1]))
    return Step(step.ids[own], step.gradients[a:b], starts - starts[0], step.factors[own])


def vectors_of(layer: Any, step: Step, pooling: str) -> Tensor:
    """A lookup; `pooling` is "", a mode, or "weighted"."""
    if not pooling:
        found: Tensor = layer(step.ids)
    elif pooling == "weighted":
        found = layer(step.ids, step.starts[:-1], step.factors)
    else:
        found = layer(step.ids, step.starts[:-1])
    return found


def train(layer: Any, optimizer: Any, batches: Sequence[Step], pooling: str) -> list[Tensor]:
    """Train, and return all vectors that were looked up."""
    found = []
    for step in batches:
        optimizer.zero_grad()
        vectors = vectors_of(layer, step, pooling)
        found.append(vectors.detach().clone())
        (vectors * step.gradients[: len(vectors)]).sum().backward()
        optimizer.step()
    return found


def made(pooling: str, options: Mapping[str, Any], group: Any = None, **sharding: Any) -> Any:
    """A layer with the first weights; sharded ones in a group."""
    modes = {"mode": "sum" if pooling == "weighted" else pooling} if pooling else {}
    if group is None:
        kind = unhot.torch.EmbeddingBag if pooling else unhot.torch.Embedding
        layer: Any = kind(ROWS, DIM, **modes, **options)
        weights = first_weights()
    else:
        sharded: Any = ShardedEmbeddingBag if pooling else ShardedEmbedding
        layer = sharded(ROWS, DIM, group=group, reduction="sum", **sharding, **modes, **options)
        weights = first_weights()[layer.rows_here()]
    with torch.no_grad():
        layer.weight.copy_(weights)
    return layer


def optimizer_of(layer: Any, name: str, options: Mapping[str, Any]) -> Any:
    """An optimizer of unhot's or torch's."""
    kind = getattr(torch.optim if name.startswith("torch.") else unhot.torch, name.removeprefix("torch."))
    return kind(layer.parameters(), **options)


def sharded_training(
    group: Any, layout: str, pooling: str, options: Mapping[str, Any], optimizer: tuple[str, Mapping[str, Any]], count: int
) -> Any:
    """What one process has at the end: its rows, their weights and slots, and what it has looked up."""
    layer = made(pooling, options, group, layout=layout)
    rank, world = group.rank(), group.size()
    trainer = optimizer_of(layer, *optimizer)
    batches = [share(step, rank, world, bool(pooling)) for step in steps(count)]
    found = train(layer, trainer, batches, pooling)
    slots = {name: slot for name, slot in trainer.state.get(layer.weight, {}).items() if slot.dim() == 2}
    return layer.rows_here(), layer.weight.detach().clone(), found, slots


def whole_training(pooling: str, options: Mapping[str, Any], optimizer: tuple[str, Mapping[str, Any]], count: int) -> Any:
    """The same in one process."""
    layer = made(pooling, options)
    trainer = optimizer_of(layer, *optimizer)
    batches = [share(step, 0, 1, bool(pooling)) for step in steps(count)]
    found = train(layer, trainer, batches, pooling)
    slots = {name: slot for name, slot in trainer.state.get(layer.weight, {}).items() if slot.dim() == 2}
    return torch.arange(ROWS), layer.weight.detach().clone(), found, slots


def put_together(parts: Sequence[Any]) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    """The whole table, its slots, and the vectors of whole batches, from those of all processes."""
    rows = torch.cat([part[0] for part in parts])
    assert sorted(rows.tolist()) == list(range(ROWS))
    order = torch.argsort(rows)
    weights = torch.cat([part[1] for part in parts])[order]
    slots = {name: torch.cat([part[3][name] for part in parts])[order] for name in parts[0][3]}
    return weights, slots, [torch.cat(vectors) for vectors in zip(*(part[2] for part in parts), strict=True)]


# ------------------------------------------------------------------ collections

TABLES = [("user", 300, 4, ["user", "friend"]), ("item", 57, 8, ["item"]), ("kind", 3, 2, ["kind"])]
"""The last one has fewer rows than there may be processes."""


def collection_of(pooled: bool, group: Any = None, **sharding: Any) -> Any:
    """A collection with first weights of its own; sharded ones in a group."""
    if pooled:
        tables: list[Any] = [
            unhot.torch.EmbeddingBagConfig(rows, dim, name, features, pooling="mean" if name == "item" else "sum")
            for name, rows, dim, features in TABLES
        ]
        kind: Any = unhot.torch.EmbeddingBagCollection if group is None else ShardedEmbeddingBagCollection
    else:
        tables = [unhot.torch.EmbeddingConfig(rows, dim, name, features) for name, rows, dim, features in TABLES]
        kind = unhot.torch.EmbeddingCollection if group is None else ShardedEmbeddingCollection
    options = {} if group is None else {"group": group, "reduction": "sum", **sharding}
    made = kind(tables, **options)
    for layer, (_, rows, dim, _) in zip(made.layers.values(), TABLES, strict=True):
        weights = first_weights(rows, dim)
        with torch.no_grad():
            layer.weight.copy_(weights if group is None else weights[layer.rows_here()])
    return made


def train_collection(group: Any, pooled: bool, layout: str, count: int, prefetched: bool = False) -> Any:
    """The rows and weights of each table at the end, and all vectors; of one process without a group."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    layer = collection_of(pooled, group, layout=layout)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.05)
    rng = np.random.default_rng(5)
    batches = []
    for k in range(count):
        samples = 0 if k % 9 == 5 else int(rng.integers(1, 40))
        cuts = [round(samples * (r / world) ** 2) for r in range(world + 1)]
        features: dict[str, Any] = {}
        own = slice(cuts[rank], cuts[rank + 1])
        for table, rows, _, names in TABLES:
            for name in names:
                ids = torch.from_numpy((rng.zipf(1.3, (samples, 3)) % rows).astype(np.int64))
                features[name] = (ids if pooled else ids[:, 0])[own]
            if pooled and table != "item":  # with a sum, the last feature has weights
                factors = torch.from_numpy(rng.normal(size=(samples, 3)).astype(np.float32))
                features[name] = (features[name], None, factors[own])
        batches.append(
            (features, torch.from_numpy(rng.normal(size=(samples, 18)).astype(np.float32))[cuts[rank] : cuts[rank + 1]])
        )
    found = []
    for k, (features, gradients) in enumerate(batches):
        optimizer.zero_grad()
        vectors = layer(features)
        if prefetched and k + 1 < count:
            layer.prefetch(batches[k + 1][0])
        found.append(vectors.detach().clone())
        (vectors * gradients).sum().backward()
        optimizer.step()
    rows = [torch.arange(len(one.weight)) if group is None else one.rows_here() for one in layer.layers.values()]
    return rows, [one.weight.detach().clone() for one in layer.layers.values()], found
