"""What is wrong in one process is an error in all of them at once: none waits for a lookup that does not come."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
import torch
import torch.distributed as dist
from workers import FailedError

from pytorch.distributed.programs import DIM, ROWS, collection_of, first_weights, made
from pytorch.distributed.ranks import Ranks
from unhot.torch.distributed import PeerError, ShardedEmbedding


def look_up(group: Any, by_rank: dict[int, Any], fine: Any, pooling: str = "") -> tuple[str, str, Any]:
    """The error of a lookup; and what the next one, which is fine, finds."""
    layer = made(pooling, {}, group)
    said = ("", "")
    try:
        layer(by_rank.get(group.rank(), fine))
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        said = type(error).__name__, str(error)
    return *said, layer(fine).detach()


@pytest.mark.parametrize("pooling", ["", "sum"])
@pytest.mark.parametrize("bad", [-1, ROWS, 2**40])
def test_id_out_of_range_in_one_process(pool: Any, bad: int, pooling: str) -> None:
    fine = torch.tensor([[1, 2], [3, 4]])
    found = pool.run(look_up, {1: torch.tensor([[1, 2], [bad, 4]])}, fine, pooling, world=3)
    for rank, (kind, text, vectors) in enumerate(found):
        assert kind == "IndexError"
        assert f"id {bad} of 'ids'" in text
        assert ("process 1" in text) == (rank != 1)
        assert torch.equal(vectors, found[0][2])


def test_wrong_ids_in_one_process(pool: Any) -> None:
    fine = torch.tensor([1, 2])
    found = pool.run(look_up, {0: torch.tensor([1.0, 2.0])}, fine, world=2)
    assert found[0][0] == "RuntimeError"
    assert "Long, Int" in found[0][1]
    assert found[1][0] == "PeerError"
    assert "process 0 has an error" in found[1][1]
    assert torch.equal(found[0][2], found[1][2])


def look_up_features(group: Any) -> str:
    """The error of a collection's lookup of which one process has a bad id."""
    layer = collection_of(False, group)
    ids = torch.tensor([1, 2])
    features = {"user": ids, "friend": ids, "item": torch.tensor([1, 99 if group.rank() == 1 else 3]), "kind": ids}
    try:
        layer(features)
    except IndexError as error:
        return str(error)
    return ""


def test_id_out_of_range_of_a_feature(pool: Any) -> None:
    first, second = pool.run(look_up_features, world=2)
    assert "id 99 of 'item'" in first
    assert "process 1" in first
    assert "id 99 of 'item' at position 1" in second


def of_many_sizes(group: Any) -> bool:
    """Whether lookups of few and many ids find what they should; the messages grow and shrink."""
    layer = made("", {}, group)
    generator = torch.Generator().manual_seed(group.rank())
    rooms = set()
    for size in [3, 5000, 2, *[1] * 40, 700, *range(0, 200, 17)]:
        ids = torch.randint(ROWS, (size * (1 + group.rank()),), generator=generator)
        with torch.no_grad():
            found = layer(ids)
        assert torch.equal(found, first_weights()[ids])
        rooms.add(layer._router.mail.room)
    return len(rooms) >= 3


def test_lookups_of_any_size(pool: Any) -> None:
    assert all(pool.run(of_many_sizes, world=3))


def left_alone(group: Any) -> str:
    """What a process says whose peer does not look up."""
    alone = dist.new_group([0, 1], timeout=timedelta(seconds=2))
    if group.rank() == 1:
        time.sleep(4)
        return ""
    layer = ShardedEmbedding(ROWS, DIM, group=alone)
    try:
        layer(torch.tensor([1]))
    except PeerError as error:
        return str(error)
    return "no error"


def test_peer_that_does_not_answer() -> None:
    """A clear error within the group's timeout. These processes cannot go on together."""
    with Ranks(2) as own:
        said, _ = own.run_in(2, left_alone)
    assert "waited for the ids of 'ids' of the other processes" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "rows"}, "`layout` must be one of"),
        ({"reduction": "max"}, "`reduction` must be"),
        ({"group": 3}, "process group"),
    ],
)
def test_bad_arguments(pool: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FailedError, match=message):
        pool.run(bad_arguments, options, world=1)


def bad_arguments(group: Any, options: dict[str, Any]) -> None:
    ShardedEmbedding(ROWS, DIM, **{"group": group, **options})


def test_without_a_group() -> None:
    with pytest.raises(RuntimeError, match="torchrun"):
        ShardedEmbedding(ROWS, DIM)
