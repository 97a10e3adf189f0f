"""`shard` on a model whose dense part is DistributedDataParallel's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import unhot.torch
from pytorch.distributed.models import in_many, in_one_process
from pytorch.distributed.ranks import beside_ddp
from unhot.torch.distributed import shard


@beside_ddp
@pytest.mark.parametrize(("world", "layout", "device"), [(2, "mod", "cpu"), (3, "hash", "meta"), (4, "range", "cpu")])
def test_trains_as_one_process(pool: Any, world: int, layout: str, device: str) -> None:
    """With a table that no lookup uses; `find_unused_parameters` does not mind it. Only the first process had weights."""
    expected = in_one_process(25, unused=True)
    for replaced, left, weights in pool.run(in_many, layout, 25, device, world=world):
        assert replaced == {"words": "Embedding", "tags": "EmbeddingBag", "sides": "EmbeddingCollection", "unused": "Embedding"}
        assert not left
        assert weights.keys() == expected.keys()
        for name, found in weights.items():
            torch.testing.assert_close(
                found, expected[name], rtol=1e-5, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def of_torch(group: Any) -> tuple[Any, Any]:
    """What is said of a model with layers of both kinds."""
    model = nn.ModuleDict({"stock": nn.Embedding(9, 2), "bags": nn.EmbeddingBag(9, 2), "own": unhot.torch.Embedding(9, 2)})
    done = shard(model, group)
    assert type(model["stock"]) is nn.Embedding
    return done.replaced, done.left


def test_layers_of_torch_are_named(pool: Any) -> None:
    for replaced, left in pool.run(of_torch, world=2):
        assert replaced == {"own": "Embedding"}
        assert left.keys() == {"stock", "bags"}
        assert all("unhot.torch.convert" in why for why in left.values())
