"""Keys that are spread over processes by their hashes, against one process."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import unhot
import unhot.torch
from unhot.torch.distributed import PeerError, ShardedKeyedEmbedding

DIM = 3


def keys_of(kind: str, numbers: np.ndarray[Any, Any]) -> Any:
    """Keys of a kind."""
    if kind == "int":
        return torch.from_numpy(numbers.astype(np.int64) * 10**12 - 5)
    if kind == "large":
        return numbers.astype(np.uint64) * np.uint64(2**58) + np.uint64(3)
    words = [f"wörd-{'x' * (n % 30)}-{n}" if n else "" for n in numbers.tolist()]
    return words if kind == "str" else [word.encode() for word in words]


def trained(group: Any, kind: str, options: dict[str, Any], count: int) -> Any:
    """The vectors of all steps, and the keys with their rows at the end; in one process without a group."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    vocabulary = unhot.Vocabulary(unknown="grow")
    if group is None:
        layer: Any = unhot.torch.KeyedEmbedding(vocabulary, DIM, init=nn.init.ones_, **options)
    else:
        layer = ShardedKeyedEmbedding(vocabulary, DIM, init=nn.init.ones_, group=group, reduction="sum", **options)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.05)
    rng = np.random.default_rng(4)
    found = []
    for step in range(count):
        length = 0 if step % 6 == 2 else int(rng.integers(1, 40))
        numbers = rng.zipf(1.2, length) % (4 + 3 * step)
        gradients = torch.from_numpy(rng.normal(size=(length, DIM)).astype(np.float32))
        cuts = [round(length * (k / world) ** 2) for k in range(world + 1)]
        own = slice(cuts[rank], cuts[rank + 1])
        optimizer.zero_grad()
        vectors = layer(keys_of(kind, numbers[own]))
        found.append(vectors.detach().clone())
        (vectors * gradients[own]).sum().backward()
        optimizer.step()
    local = layer if group is None else layer.local
    return found, dict(zip(local.vocabulary, local.weight.detach().numpy().copy(), strict=False))


@pytest.mark.parametrize(("kind", "world"), [("int", 2), ("str", 3), ("bytes", 2), ("large", 3)])
def test_one_process(pool: Any, kind: str, world: int) -> None:
    expected, rows = trained(None, kind, {}, 40)
    parts = pool.run(trained, kind, {}, 40, world=world)
    keys = [key for _, own in parts for key in own]
    assert sorted(keys, key=str) == sorted(rows, key=str)
    assert all(len(own) > len(rows) / world / 3 for _, own in parts)
    for _, own in parts:
        for key, row in own.items():
            np.testing.assert_allclose(row, rows[key], rtol=1e-5, atol=1e-6)
    for step, vectors in enumerate(expected):
        torch.testing.assert_close(torch.cat([found[step] for found, _ in parts]), vectors, rtol=1e-5, atol=1e-6)


def with_errors(group: Any) -> list[str]:
    """What lookups say of which one process has what is no key, an unknown key, or keys of another kind."""
    layer = ShardedKeyedEmbedding(unhot.Vocabulary(["a", "b", "c", "d", "e"]), DIM, group=group)
    assert torch.equal(layer(["a", "e"])[0], layer(["a"])[0])
    said = []
    for given in ([1.5], ["nobody"], [3]):
        try:
            layer(given if group.rank() == 1 else ["a"])
        except (TypeError, KeyError, PeerError) as error:
            said.append(f"{type(error).__name__}: {error}")
    assert layer(["a"]).shape == (1, DIM)
    return said


def test_errors(pool: Any) -> None:
    first, second = pool.run(with_errors, world=2)
    assert [text.partition(":")[0] for text in first] == ["PeerError", "KeyError", "TypeError"]
    assert [text.partition(":")[0] for text in second] == ["TypeError", "KeyError", "TypeError"]
    assert "nobody" in first[1] + second[1]
    assert "str in process 0, and int in process 1" in second[2]


def in_evaluation(group: Any) -> Any:
    """The vectors of known and unknown keys, of which none is admitted."""
    layer = ShardedKeyedEmbedding(unhot.Vocabulary(unknown="grow"), DIM, group=group, init=nn.init.ones_)
    layer([10, 20, 30] if group.rank() else [40])
    layer.eval()
    found = layer([[10, 50], [40, 60]])
    return found.detach(), len(layer.local.vocabulary)


def test_unknown_keys_in_evaluation(pool: Any) -> None:
    parts = pool.run(in_evaluation, world=3)
    assert sum(count for _, count in parts) == 4
    for found, _ in parts:
        assert torch.equal(found[:, 0], torch.ones(2, DIM))
        assert not found[:, 1].any()


def test_vocabularies_that_cannot_be_spread() -> None:
    with pytest.raises(ValueError, match="no reserved rows"):
        ShardedKeyedEmbedding(unhot.Vocabulary(unknown=0), DIM)


def drawn(group: Any) -> Any:
    """The rows of keys that came in the first lookups, where all processes have the same seed."""
    torch.manual_seed(3)
    layer = ShardedKeyedEmbedding(unhot.Vocabulary(list(range(20)), unknown="grow"), DIM, group=group)
    layer(torch.arange(100, 130))
    layer(torch.arange(200, 210))
    return layer.local.weight.detach().clone()


def test_no_row_is_like_another(pool: Any) -> None:
    rows = torch.cat(pool.run(drawn, world=2))
    assert len(rows) == 60
    assert len(torch.unique(rows, dim=0)) == 60
