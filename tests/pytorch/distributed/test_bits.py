"""Training in several processes against one process with all ids: the same bits, for any layout and number of processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from selection import cover

import unhot.torch
from pytorch.distributed.programs import first_weights, made, put_together, sharded_training, whole_training

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {"lr": 0.05}), ("AdamW", {"lr": 0.05, "weight_decay": 0.1}), ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.01}), ("Adagrad", {"lr": 0.1}), ("NAdam", {"lr": 0.01}), ("RowwiseAdagrad", {"lr": 0.1}),
    ("Adadelta", {"lr": 1.0}), ("Adamax", {"lr": 0.01, "betas": (0.8, 0.999)}), ("RAdam", {"lr": 0.01}),
    ("LazyAdam", {"lr": 0.05}), ("Adam", {"lr": 0.05, "weight_decay": 0.1}), ("torch.Adam", {"lr": 0.05}),
]  # fmt: skip
"""The last two train densely."""

POOLINGS = ["", "sum", "mean", "weighted", "max"]

CASES = cover(
    [
        (world, layout, pooling, optimizer)
        for world in (1, 2, 3, 4)
        for layout in ("mod", "range", "hash")
        for pooling in POOLINGS
        for optimizer in OPTIMIZERS
    ],
    by=1,
    most=3,
)


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize(("world", "layout", "pooling", "optimizer"), CASES)
def test_one_process(pool: Any, world: int, layout: str, pooling: str, optimizer: Any) -> None:
    expected = whole_training(pooling, {}, optimizer, 120)
    weights, slots, vectors = put_together(pool.run(sharded_training, layout, pooling, {}, optimizer, 120, world=world))
    exact = (
        pooling in ("", "sum", "mean", "weighted")
        and not optimizer[0].startswith("torch.")
        and "weight_decay" not in optimizer[1]
    )
    close = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(weights, expected[1], **close)
    torch.testing.assert_close(vectors, expected[2], **close)
    torch.testing.assert_close(slots, expected[3], **close)


@pytest.mark.parametrize(("world", "pooling"), [(2, ""), (3, "mean"), (2, "weighted"), (2, "max"), (3, "sum")])
@pytest.mark.parametrize("kind", ["Adam", "torch.Adam"])
def test_each_id_sent_once(pool: Any, world: int, pooling: str, kind: str) -> None:
    """The same but for rounding."""
    optimizer = (kind, {"lr": 0.05})
    expected = whole_training(pooling, {}, optimizer, 60)
    found = put_together(pool.run(sharded_training, "mod", pooling, {"dedup": True}, optimizer, 60, world=world))
    for weights, whole in ((found[0], expected[1]), (found[2], expected[2]), (found[1], expected[3])):
        torch.testing.assert_close(weights, whole, rtol=2e-5, atol=2e-6)


LARGE = 1e20
"""Beside it, 1 is lost in float64 also: so the order of a sum is seen in it."""


def summed(group: Any, pooling: str) -> Any:
    """The weight of a row after a step with gradients that cancel, some of them in each process."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    layer = made(pooling, {}, group)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=1.0)
    ids, gradients = torch.zeros(6, dtype=torch.int64), torch.tensor([LARGE, 1.0, -LARGE, 4.0, 16.0, 64.0])
    own = slice(rank * 6 // world, (rank + 1) * 6 // world)
    vectors = layer(ids[own].unsqueeze(1)) if pooling else layer(ids[own])
    (vectors * gradients[own].unsqueeze(1)).sum().backward()
    optimizer.step()
    here = 0 if group is None else layer.shard.own(torch.tensor([0]))
    return layer.weight.detach()[here].clone()


@pytest.mark.parametrize("pooling", ["", "sum"])
def test_sums_in_the_order_of_the_processes(pool: Any, pooling: str) -> None:
    expected = summed(None, pooling)
    first, *_ = pool.run(summed, pooling, world=3)
    assert torch.equal(first[0], expected)
    assert (expected - first_weights()[0] + 84).abs().max() < 1e-4
