"""The history of a sharded table is as long as that of the whole table, so that rows are settled at the same steps."""

from __future__ import annotations

from typing import Any

import torch

import unhot.torch
from unhot.torch.distributed import ShardedEmbedding

ROWS = 400_000


def period(group: Any, rows: int, more: int = 0) -> tuple[int, int]:
    """Within how many steps each row is settled, and the number of rows whose turns come; in one process without a group."""
    layer: Any = unhot.torch.Embedding(rows, 1) if group is None else ShardedEmbedding(rows, 1, group=group)
    optimizer = unhot.torch.Adam(layer.parameters())
    for grown in range(2 if more else 1):
        if grown:
            layer.grow(more)
        layer(torch.tensor([3])).sum().backward()
        optimizer.step()
    engine = layer.weight.ownership.backend.engine
    return engine.clock.period, engine.stores[0].whole_rows


def test_period(pool: Any) -> None:
    expected = period(None, ROWS)
    assert expected[0] > 5000
    assert pool.run(period, ROWS, world=3) == [expected] * 3
    assert pool.run(period, ROWS // 2, ROWS // 2, world=3) == [expected] * 3
