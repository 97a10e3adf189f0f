"""The history of a sharded table is as long as that of the whole table, so that rows are settled at the same steps."""

from __future__ import annotations

from typing import Any

import torch

import unhot.torch
from unhot.torch.distributed import ShardedEmbedding

ROWS = 400_000


def period(group: Any) -> int:
    """Within how many steps each row is settled; in one process without a group."""
    layer: Any = unhot.torch.Embedding(ROWS, 1) if group is None else ShardedEmbedding(ROWS, 1, group=group)
    optimizer = unhot.torch.Adam(layer.parameters())
    layer(torch.tensor([3])).sum().backward()
    optimizer.step()
    engine = layer.weight.ownership.backend.engine
    found: int = engine.clock.period
    return found


def test_period(pool: Any) -> None:
    expected = period(None)
    assert expected > 5000
    assert pool.run(period, world=3) == [expected] * 3
