"""Collections in several processes against one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from selection import cover

from pytorch.distributed.programs import train_collection

CASES = cover(
    [
        (world, layout, pooled, prefetched)
        for world in (1, 2, 4)
        for layout in ("mod", "range", "hash")
        for pooled in (False, True)
        for prefetched in (False, True)
    ],
    by=1,
)


@pytest.mark.parametrize(("world", "layout", "pooled", "prefetched"), CASES)
def test_one_process(pool: Any, world: int, layout: str, pooled: bool, prefetched: bool) -> None:
    """Also where a table has fewer rows than there are processes."""
    _, expected, expected_vectors = train_collection(None, pooled, layout, 60)
    parts = pool.run(train_collection, pooled, layout, 60, prefetched, world=world)
    for table, weights in enumerate(expected):
        order = torch.argsort(torch.cat([rows[table] for rows, _, _ in parts]))
        assert torch.equal(torch.cat([own[table] for _, own, _ in parts])[order], weights)
    for step, vectors in enumerate(expected_vectors):
        assert torch.equal(torch.cat([found[step] for _, _, found in parts]), vectors)
