"""A model with tables and a dense part, in several processes and in one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import unhot.torch
from unhot.torch.distributed import shard
from unhot.torch.distributed.transfer import whole

ROWS = 200


class Recommender(nn.Module):
    """Two layers, a collection, and a dense part; with a layer that no lookup uses."""

    def __init__(self, seed: int, device: str = "cpu", unused: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        with torch.device(device):
            self.words = unhot.torch.Embedding(ROWS, 4, padding_idx=0)
            self.tags = unhot.torch.EmbeddingBag(ROWS, 4, mode="mean", bias=True)
            self.sides = unhot.torch.EmbeddingCollection({"user": (50, 3), "item": (7, 2)})
            if unused:
                self.unused = unhot.torch.Embedding(10, 2)
            self.head = nn.Sequential(nn.Linear(13, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        parts = [self.words(batch["word"]), self.tags(batch["tags"]), self.sides({k: batch[k] for k in ("user", "item")})]
        found: Tensor = self.head(torch.cat(parts, -1)).squeeze(-1)
        return found


def batches(count: int, samples: int = 24) -> list[dict[str, Tensor]]:
    """Batches of a task, with a target."""
    rng = np.random.default_rng(3)

    def ids(rows: int, *shape: int) -> Tensor:
        return torch.from_numpy((rng.zipf(1.4, shape) % rows).astype(np.int64))

    made = []
    for _ in range(count):
        batch = {"word": ids(ROWS, samples), "tags": ids(ROWS, samples, 3), "user": ids(50, samples), "item": ids(7, samples)}
        made.append(batch | {"target": torch.from_numpy(rng.normal(size=samples).astype(np.float32))})
    return made


def part(batch: dict[str, Tensor], rank: int, world: int) -> dict[str, Tensor]:
    """A process's equal share of a batch."""
    return {name: given.tensor_split(world)[rank] for name, given in batch.items()}


def weights_of(model: nn.Module, group: Any) -> dict[str, Tensor]:
    """All weights of a model whose tables are sharded, under the names that they have in one process."""
    shards = {name: module for name, module in model.named_modules() if hasattr(module, "shard")}
    found = {}
    for name, parameter in model.named_parameters():
        owner = shards.get(name.rpartition(".")[0])
        if owner is not None and name.endswith(".weight"):
            full = whole(owner.peers, parameter.detach(), owner.shard.layout, None)
            assert full is not None
            found[name.removeprefix("module.")] = full.clone()
        else:
            found[name.removeprefix("module.")] = parameter.detach().clone()
    return found


def train(model: nn.Module, optimizer: Any, rank: int, world: int, count: int, after: Any = None) -> None:
    """Some steps."""
    for batch in batches(count):
        own = part(batch, rank, world)
        optimizer.zero_grad()
        nn.functional.mse_loss(model(own), own["target"]).backward()
        if after is not None:
            after(model)
        optimizer.step()


def in_one_process(count: int, after: Any = None, kind: str = "Adam", *, unused: bool = False) -> dict[str, Tensor]:
    """The weights after training in one process."""
    model = Recommender(0, unused=unused)
    train(model, getattr(unhot.torch, kind)(model.parameters(), lr=0.01), 0, 1, count, after)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def in_many(group: Any, layout: str, count: int, device: str = "cpu", **wrapping: Any) -> Any:
    """The weights after training in several; the first process's weights count."""
    torch.manual_seed(7)
    model: Any = Recommender(group.rank(), device if group.rank() else "cpu", unused=True)
    done = shard(model, group, layout=layout)
    for module in model.modules():  # the dense parts were on the "meta" device
        if device == "meta" and group.rank() and isinstance(module, nn.Linear):
            module.to_empty(device="cpu")
    if device == "meta" and group.rank():
        model.tags.bias = nn.Parameter(torch.zeros(4))
    model = nn.parallel.DistributedDataParallel(model, process_group=group, **wrapping)
    train(model, unhot.torch.Adam(model.parameters(), lr=0.01), group.rank(), group.size(), count)
    return done.replaced, done.left, weights_of(model, group)
