"""Collections in several processes against one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from selection import cover

import unhot.torch
from pytorch.distributed.programs import collection_of, made, train_collection
from unhot.torch.distributed.peers import Peers

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


def operations(group: Any, kind: str) -> list[int]:
    """How many collective operations each step makes, all lookups included."""
    layer: Any
    if kind == "collection":
        layer = collection_of(True, group)
        batch: Any = {name: torch.arange(9).view(3, 3) % 3 for name in layer.features}
    else:
        layer = made("" if kind == "layer" else "mean", {}, group)
        batch = torch.arange(12).view(4, 3)
    optimizer = unhot.torch.Adam(layer.parameters())
    counts = []
    made_before = Peers.begin, Peers.agreed

    def counted(function: Any) -> Any:
        def called(*arguments: Any) -> Any:
            counts[-1] += 1
            return function(*arguments)

        return called

    Peers.begin, Peers.agreed = map(counted, made_before)  # type: ignore[method-assign]
    try:
        for _ in range(3):
            counts.append(0)
            layer(batch).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    finally:
        Peers.begin, Peers.agreed = made_before  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize("kind", ["layer", "bag", "collection"])
def test_three_operations(pool: Any, kind: str) -> None:
    """For ids, vectors and gradients; the first lookups may need one more for the ids, until all know how many there are."""
    for counts in pool.run(operations, kind, world=3):
        assert counts[0] <= 4
        assert counts[1:] == [3, 3]
