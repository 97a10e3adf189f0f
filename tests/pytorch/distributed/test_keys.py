"""Keys that are spread over processes by their hashes, against one process."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.algorithms.join import Join

import unhot
import unhot.torch
from pytorch.distributed.ranks import OTHERS, beside_ddp
from unhot.torch.distributed import JoinTables, PeerError, ShardedKeyedEmbedding, load_table, save_table, shard

DIM = 3


def keys_of(kind: str, numbers: np.ndarray[Any, Any]) -> Any:
    """Keys of a kind."""
    if kind == "int":
        return torch.from_numpy(numbers.astype(np.int64) * 10**12 - 5)
    if kind == "large":
        return numbers.astype(np.uint64) * np.uint64(2**58) + np.uint64(3)
    words = [f"wörd-{'x' * (n % 30)}-{n}" if n else "" for n in numbers.tolist()]
    given: list[Any] = words if kind == "str" else [word.encode() for word in words]
    return [None if n == 3 else word for n, word in zip(numbers.tolist(), given, strict=True)]


def made(group: Any, rule: str = "Adam", **options: Any) -> tuple[Any, Any]:
    """A layer without keys, and an optimizer; in one process without a group."""
    vocabulary = unhot.Vocabulary(unknown="grow", missing="key")
    if group is None:
        layer: Any = unhot.torch.KeyedEmbedding(vocabulary, DIM, init=nn.init.ones_, **options)
    else:
        layer = ShardedKeyedEmbedding(vocabulary, DIM, init=nn.init.ones_, group=group, reduction="sum", **options)
    return layer, getattr(unhot.torch, rule)(layer.parameters(), lr=0.05)


def batches(group: Any, kind: str, count: int) -> Iterator[tuple[Any, torch.Tensor]]:
    """The keys of this process in each step, which are more and more, and the gradients of their vectors."""
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    rng = np.random.default_rng(4)
    for step in range(count):
        length = 0 if step % 6 == 2 else int(rng.integers(1, 40))
        numbers = rng.zipf(1.2, length) % (4 + 3 * step)
        gradients = torch.from_numpy(rng.normal(size=(length, DIM)).astype(np.float32))
        cuts = [round(length * (k / world) ** 2) for k in range(world + 1)]
        own = slice(cuts[rank], cuts[rank + 1])
        yield keys_of(kind, numbers[own]), gradients[own]


def train(layer: Any, optimizer: Any, steps: Iterable[tuple[Any, torch.Tensor]], ahead: bool = False) -> list[torch.Tensor]:
    """Train, and return all vectors that were looked up."""
    found, steps = [], list(steps)
    for step, (keys, gradients) in enumerate(steps):
        optimizer.zero_grad()
        vectors = layer(keys)
        if ahead and step + 1 < len(steps):
            given = copy.deepcopy(steps[step + 1][0])
            layer.prefetch(given)
            given[:] = given[::-1] if isinstance(given, list) else given.flip(0) if isinstance(given, torch.Tensor) else 7
        found.append(vectors.detach().clone())
        (vectors * gradients).sum().backward()
        optimizer.step()
    return found


def rows_of(layer: Any) -> dict[Any, np.ndarray[Any, Any]]:
    """The row of each key that is here."""
    local = getattr(layer, "local", layer)
    keys = list(local.vocabulary)
    return dict(zip(keys, local.weight.detach().numpy()[local.vocabulary.encode(keys)].copy(), strict=True)) if keys else {}


def trained(group: Any, kind: str, options: dict[str, Any], count: int) -> Any:
    """The vectors of all steps, and the keys with their rows at the end."""
    layer, optimizer = made(group, **options)
    return train(layer, optimizer, batches(group, kind, count), ahead=group is not None and kind != "int"), rows_of(layer)


@pytest.mark.parametrize("dedup", [False, True])
@pytest.mark.parametrize(("kind", "world"), [("int", 2), ("str", 3), ("bytes", 2), ("large", 3)])
def test_one_process(pool: Any, kind: str, world: int, dedup: bool) -> None:
    expected, rows = trained(None, kind, {}, 40)
    parts = pool.run(trained, kind, {"dedup": dedup}, 40, world=world)
    keys = [key for _, own in parts for key in own]
    assert sorted(keys, key=str) == sorted(rows, key=str)
    assert all(len(own) > len(rows) / world / 3 for _, own in parts)
    for _, own in parts:
        for key, row in own.items():
            np.testing.assert_allclose(row, rows[key], rtol=1e-5, atol=1e-6)
    for step, vectors in enumerate(expected):
        torch.testing.assert_close(torch.cat([found[step] for found, _ in parts]), vectors, rtol=1e-5, atol=1e-6)


def asked_for(group: Any) -> list[int]:
    """How many keys each of two layers is asked for, and the gradient of one that comes twice."""
    found = []
    for dedup in (False, True):
        words = unhot.Vocabulary(unknown="grow", missing="key")
        layer = ShardedKeyedEmbedding(words, DIM, group=group, dedup=dedup, reduction="sum")
        seen: list[int] = []
        layer.local.register_forward_hook(lambda module, given, vectors, seen=seen: seen.append(len(vectors)))
        layer([["owl", None, "owl"], [None, "cat", "owl"]]).sum().backward()
        assert layer([]).shape == (0, DIM)
        found.append(seen[0])
    return found


def test_each_key_is_sent_once(pool: Any) -> None:
    parts = pool.run(asked_for, world=2)
    assert [sum(counts) for counts in zip(*parts, strict=True)] == [12, 6]
    with pytest.raises(ValueError, match="with dedup=True, a key is not counted"):
        ShardedKeyedEmbedding(unhot.Vocabulary(unknown="grow"), DIM, dedup=True, scale_grad_by_freq=True)


def with_errors(group: Any) -> list[str]:
    """What lookups say of which one process has what is no key, an unknown key, or keys of another kind."""
    layer = ShardedKeyedEmbedding(unhot.Vocabulary(["a", "b", "c", "d", "e"]), DIM, group=group)
    assert torch.equal(layer(["a", "e"])[0], layer(["a"])[0])
    said = []
    for given in ([1.5], ["nobody"], [3], [None]):
        try:
            layer(given if group.rank() == 1 else ["a"])
        except (TypeError, ValueError, KeyError, PeerError) as error:
            said.append(f"{type(error).__name__}: {error}")
    assert layer(["a"]).shape == (1, DIM)
    return said


def test_errors(pool: Any) -> None:
    first, second = pool.run(with_errors, world=2)
    assert [text.partition(":")[0] for text in first] == ["PeerError", "KeyError", "TypeError", "PeerError"]
    assert [text.partition(":")[0] for text in second] == ["TypeError", "KeyError", "TypeError", "ValueError"]
    assert "nobody" in first[1] + second[1]
    assert "str in process 0, and int in process 1" in second[2]


def with_others_ahead(group: Any) -> str:
    """What a call with other keys than those of `prefetch` says, and what a later one finds."""
    layer = ShardedKeyedEmbedding(unhot.Vocabulary(unknown="grow"), DIM, group=group, init=nn.init.ones_)
    layer.prefetch(["a", "b"])
    said = ""
    try:
        layer(["b", "a"])
    except ValueError as error:
        said = str(error)
    assert torch.equal(layer(["b", "a"]), torch.ones(2, DIM))
    return said


def test_other_keys_than_those_ahead(pool: Any) -> None:
    for said in pool.run(with_others_ahead, world=2):
        assert "other ids than `prefetch` was" in said


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


def forget(layer: Any, kind: str) -> None:
    """Remove two frequent keys, if they are here; they come again, with new rows."""
    keys = keys_of(kind, np.array([1, 2]))
    layer.remove([key for key in (keys if isinstance(keys, list) else keys.tolist()) if key in layer.vocabulary])


def with_file(group: Any, kind: str, rule: str, source: str, target: str, first: int, stop: int) -> dict[Any, Any]:
    """Train on from a file, if there is one to begin with, and save to another."""
    layer, optimizer = made(group, rule, max_rows=1000)
    if source:
        load_table(layer, source, optimizer)
    train(layer, optimizer, list(batches(group, kind, stop))[first:])
    forget(layer.local, kind)
    save_table(layer, target, optimizer if stop else None)
    return rows_of(layer)


@pytest.mark.parametrize(("kind", "rule"), [("int", "Adam"), ("str", "NAdam"), ("bytes", "SGD"), ("large", "Adam")])
def test_files(pool: Any, tmp_path: Path, kind: str, rule: str) -> None:
    """Other numbers of processes go on with the keys, rows and the optimizer's state of a file, and so does `unhot.load`."""
    files = [str(tmp_path / f"{k}.safetensors") for k in range(3)]
    whole, optimizer = made(None, rule)
    steps = list(batches(None, kind, 40))
    for part in (steps[:15], steps[15:25], steps[25:]):
        train(whole, optimizer, part)
        forget(whole, kind)
    expected = rows_of(whole)
    pool.run(with_file, kind, rule, "", files[0], 0, 15, world=2)
    alone = unhot.load(files[0])
    assert isinstance(alone, unhot.Embedding)
    assert alone.vocabulary.unknown == "grow"
    pool.run(with_file, kind, rule, files[0], files[1], 15, 25, world=3)
    alone = unhot.load(files[1], init=np.ones)
    for keys, gradients in steps[25:33]:
        keys = keys.numpy() if isinstance(keys, torch.Tensor) else keys
        alone.lookup(keys)
        alone.step(keys, gradients.numpy())
    alone.save(files[1])
    parts = pool.run(with_file, kind, rule, files[1], files[2], 33, 40, world=2)
    found = {key: row for part in parts for key, row in part.items()}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        np.testing.assert_allclose(row, expected[key], rtol=1e-5, atol=1e-6)
    last = unhot.load(files[2])
    np.testing.assert_array_equal(last[list(found)], np.array(list(found.values())))
    assert last._keyed.limits == (1, 1000, None)


def test_files_of_few_keys(pool: Any, tmp_path: Path) -> None:
    """None at all, and one, which most processes have not."""
    none, one, two = (str(tmp_path / f"{name}.safetensors") for name in ("none", "one", "two"))
    pool.run(with_file, "str", "Adam", "", none, 0, 0, world=2)
    assert not len(unhot.load(none).vocabulary)
    pool.run(one_key, none, one, world=3)
    assert list(unhot.load(one).vocabulary) == ["owl"]
    pool.run(one_key, one, two, world=2)
    whole, optimizer = made(None)
    train(whole, optimizer, [(["owl"], torch.ones(1, DIM))] * 2)
    np.testing.assert_array_equal(unhot.load(two)["owl"], whole(["owl"])[0].detach())


def one_key(group: Any, source: str, target: str) -> None:
    """Train one key, which one process has."""
    layer, optimizer = made(group)
    load_table(layer, source, optimizer if source.endswith("/one.safetensors") else None)
    train(layer, optimizer, [(["owl"] if group.rank() == 0 else [], torch.ones(1 - min(group.rank(), 1), DIM))])
    save_table(layer, target, optimizer)


def with_wrong_files(group: Any, folder: str) -> list[str]:
    """What is said of files that do not fit, and whether the layer is as it was."""
    layer, optimizer = made(group)
    layer(["a", "b", "c"]).sum().backward()
    optimizer.step()
    before = rows_of(layer)
    said = []
    for name, given in (("rows", None), ("reserved", None), ("dim", None), ("rule", optimizer), ("nowhere", None)):
        try:
            load_table(layer, f"{folder}/{name}.safetensors", given)
        except (ValueError, OSError) as error:
            said.append(f"{type(error).__name__}: {error}")
    after = rows_of(layer)
    assert before.keys() == after.keys()
    assert all(np.array_equal(after[key], row) for key, row in before.items())
    return said


def test_files_that_do_not_fit(pool: Any, tmp_path: Path) -> None:
    unhot.Table(3, DIM).save(tmp_path / "rows.safetensors")
    unhot.Embedding(unhot.Vocabulary(["a"], unknown=0), DIM).save(tmp_path / "reserved.safetensors")
    unhot.Embedding(unhot.Vocabulary(["a"]), DIM + 1).save(tmp_path / "dim.safetensors")
    unhot.Embedding(unhot.Vocabulary(["a"]), DIM, optimizer=unhot.SGD()).save(tmp_path / "rule.safetensors")
    for said in pool.run(with_wrong_files, str(tmp_path), world=2):
        assert ["no keys" in said[0], "no reserved rows" in said[1], "4 numbers" in said[2], "SGD" in said[3]] == [True] * 4
        assert said[4].startswith("FileNotFoundError")


def given_model(seed: int = 0) -> Any:
    """A layer of one process with keys, some of which were removed and frozen, in a model."""
    torch.manual_seed(seed)
    vocabulary = unhot.Vocabulary([f"key {number}" for number in range(20)], unknown="grow")
    layer = unhot.torch.KeyedEmbedding(vocabulary, DIM, bias=True, init=nn.init.ones_, max_rows=40)
    with torch.no_grad():
        layer.weight.normal_()
    layer.remove(["key 3", "key 4"])
    layer.frozen = layer.encode(["key 7", "key 8"])
    return nn.Sequential(layer, nn.Linear(DIM, 1))


def trained_model(group: Any) -> Any:
    """What `shard` has replaced, and what training gives."""
    model: Any = given_model(0 if group is None else group.rank())
    done: Any = None
    if group is not None:
        done = shard(model, group, reduction="sum")
    optimizer = unhot.torch.Adam(model[0].parameters(), lr=0.1)
    rank, world = (0, 1) if group is None else (group.rank(), group.size())
    for step in range(6):
        keys = [f"key {(7 * step + number) % 29}" for number in range(9)]
        optimizer.zero_grad()
        model[0](keys[rank::world]).square().sum().backward()
        if model[0].bias.grad is not None and group is not None:
            torch.distributed.all_reduce(model[0].bias.grad, group=group)
        optimizer.step()
    return done and (done.replaced, done.left), rows_of(model[0]), model[0].bias.detach()


def test_layers_of_a_model(pool: Any) -> None:
    """`shard` spreads the first process's rows by their keys; frozen ones stay so."""
    _, expected, bias = trained_model(None)
    before = rows_of(given_model()[0])
    found = {}
    for report, rows, its_bias in pool.run(trained_model, world=3):
        assert report == ({"0": "KeyedEmbedding"}, {})
        torch.testing.assert_close(its_bias, bias)
        found |= rows
    assert found.keys() == expected.keys()
    for key, row in found.items():
        np.testing.assert_allclose(row, expected[key], rtol=1e-5, atol=1e-6)
    for key in ("key 7", "key 8"):
        np.testing.assert_array_equal(found[key], before[key])


def without_weights(group: Any) -> Any:
    """The rows of a model that was made on the "meta" device."""
    layer = unhot.torch.KeyedEmbedding(unhot.Vocabulary(list(range(20)), unknown="grow"), DIM, device="meta")
    model = shard(nn.Sequential(layer), group).model
    model(torch.arange(10, 30))
    return rows_of(model[0])


def test_layers_without_weights(pool: Any) -> None:
    """Each process draws its rows, none like another."""
    rows = np.array([row for part in pool.run(without_weights, world=2) for row in part.values()])
    assert len(np.unique(rows, axis=0)) == len(rows) == 30


def with_other_keys(group: Any) -> str:
    layer = unhot.torch.KeyedEmbedding(unhot.Vocabulary(["a", "b"] if group.rank() else ["b", "a"]), DIM)
    try:
        shard(nn.Sequential(layer), group)
    except ValueError as error:
        return str(error)
    return ""


def test_layers_of_other_keys(pool: Any) -> None:
    assert all("has other keys" in said for said in pool.run(with_other_keys, world=2))


class OfKeys(nn.Module):
    """Keys, and a dense part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.keys = unhot.torch.KeyedEmbedding(unhot.Vocabulary(unknown="grow"), DIM, init=nn.init.ones_)
        self.head = nn.Linear(DIM, 1)

    def forward(self, keys: list[str]) -> torch.Tensor:
        found: torch.Tensor = self.head(self.keys(keys))
        return found.square().mean()


COUNTS = (6, 2)
"""How many batches each process has."""


def keys_of_step(rank: int, step: int) -> list[str]:
    return [f"key {number % 7}" for number in range(2 * step + rank, 3 * step + 4)]


def joined(group: Any) -> Any:
    """What comes of unequal numbers of batches."""
    model: Any = OfKeys()
    shard(model, OTHERS[group.size()])
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.1)
    spread = nn.parallel.DistributedDataParallel(model, process_group=group)
    with Join([JoinTables(spread, optimizer), spread]):
        for step in range(COUNTS[group.rank()]):
            optimizer.zero_grad()
            spread(keys_of_step(group.rank(), step)).backward()
            optimizer.step()
    return rows_of(model.keys)


@beside_ddp
def test_unequal_numbers_of_steps(pool: Any) -> None:
    """A process without batches goes on to serve its keys."""
    model = OfKeys()
    optimizer = unhot.torch.Adam(model.parameters(), lr=0.1)
    for step in range(max(COUNTS)):
        optimizer.zero_grad()
        for rank, count in enumerate(COUNTS):
            if step < count:
                (model(keys_of_step(rank, step)) / 2).backward()
        optimizer.step()
    expected = rows_of(model.keys)
    found = {key: row for part in pool.run(joined, world=2) for key, row in part.items()}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        np.testing.assert_allclose(row, expected[key], rtol=1e-4, atol=1e-5)
