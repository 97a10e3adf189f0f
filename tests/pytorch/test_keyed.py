"""`KeyedEmbedding` against torch's own layer that has a row for each key from the start."""

from __future__ import annotations

import copy
import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unhot
import unhot.torch

DIM = 3


def grows(**options: Any) -> unhot.torch.KeyedEmbedding:
    vocabulary = unhot.Vocabulary(unknown="grow", reserved=options.pop("reserved", None))
    return unhot.torch.KeyedEmbedding(vocabulary, DIM, **options)


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, keys: Any) -> Tensor:
    optimizer.zero_grad()
    vectors: Tensor = layer(keys)
    (vectors.square().sum() + vectors.sum()).backward()
    optimizer.step()
    return vectors


@pytest.mark.parametrize("reserved", [0, 2])
@pytest.mark.parametrize(("name", "options"), [("AdamW", {"weight_decay": 0.1}), ("SGD", {"momentum": 0.9}), ("Adagrad", {})])
def test_keys_that_arrive_are_exact(name: str, options: dict[str, Any], reserved: int) -> None:
    """Each new key trains as if its row had been there from the start; the loss of the last step is still at hand."""
    start = torch.randn(40, DIM, dtype=torch.float64)
    given = iter(start[reserved:].unbind())
    layer = grows(dtype=torch.float64, reserved=reserved)
    layer.init = lambda rows: [row.copy_(next(given)) for row in rows.unbind()]
    with torch.no_grad():
        layer.weight[:reserved] = start[:reserved]
    stock = nn.Embedding(40, DIM, _weight=start.clone())
    parameter = layer.weight
    ours = getattr(unhot.torch, name)(layer.parameters(), lr=0.05, **options)
    theirs = getattr(torch.optim, name)(stock.parameters(), lr=0.05, **options)
    rng = np.random.default_rng(0)
    order: list[int] = []
    for number in range(60):
        keys = rng.integers(0, 4 + number // 2, (2, 3)) * 10**12 - 5
        order += [key for key in dict.fromkeys(keys.reshape(-1).tolist()) if key not in order]
        rows = torch.tensor([[reserved + order.index(key) for key in line] for line in keys.tolist()])
        vectors = step(layer, ours, torch.from_numpy(keys))
        torch.testing.assert_close(vectors.detach(), step(stock, theirs, rows).detach(), rtol=1e-9, atol=1e-11)
    assert layer.weight is parameter
    assert list(layer.vocabulary) == order
    torch.testing.assert_close(layer.weight.detach(), stock.weight.detach()[: len(layer.weight)], rtol=1e-9, atol=1e-11)


def test_evaluation_admits_no_key() -> None:
    """Unknown keys have the first reserved row there, or a zero vector."""
    for reserved in (0, 1):
        layer = grows(reserved=reserved)
        layer(["cat", "owl"])
        layer.eval()
        vector = layer(["dog"])[0]
        assert torch.equal(vector, layer.weight[0] if reserved else torch.zeros(DIM))
        assert list(layer.vocabulary) == ["cat", "owl"]
        assert layer.encode(["owl", "dog"]).tolist() == [reserved + 1, 0 if reserved else -1]


def test_a_fixed_vocabulary_with_bias_and_activation() -> None:
    """As an `Embedding` of the rows."""
    words = unhot.Vocabulary(np.array(["cat", "owl"]), unknown=0)
    layer = unhot.torch.KeyedEmbedding(words, DIM, bias=True, activation=torch.relu)
    plain = unhot.torch.Embedding(3, DIM, bias=True, activation=torch.relu)
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "extra" not in name})
    keys = [["cat", "dog"], ["owl", "cat"]]
    assert torch.equal(layer(keys), plain(torch.tensor([[1, 0], [2, 1]])))
    words.unknown = "raise"
    with pytest.raises(KeyError, match="dog"):
        layer(keys)


@pytest.mark.parametrize("trained", [True, False])
def test_checkpoints(trained: bool) -> None:
    """A new layer, without a key, takes the vocabulary and all rows, and goes on bit for bit; so do copies."""
    layer = grows()
    optimizer = unhot.torch.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for number in range(20):
        step(layer, optimizer, [f"key {number % 7}", f"key {number // 4}"])
    layer.remove(["key 2"])
    assert all(isinstance(value, Tensor) for value in layer.state_dict().values())  # as safetensors wants it
    file = io.BytesIO()
    torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    other = grows()
    resumed = unhot.torch.AdamW(other.parameters(), lr=0.1, weight_decay=0.1)
    if trained:
        step(other, resumed, ["x", "y"])
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    assert list(other.vocabulary) == list(layer.vocabulary)
    pairs = [(layer, optimizer), (other, resumed)]
    keys = list(layer.vocabulary)
    for number in range(10):
        for each in pairs:
            step(*each, keys[number % 3 :])
    assert torch.equal(other(keys), layer(keys))
    for each, owner in pairs:  # the removed key's row comes first
        torch.manual_seed(1)
        step(each, owner, ["key 2", "new"])
    assert other.encode(["key 2", "new"]).tolist() == layer.encode(["key 2", "new"]).tolist() == [2, 7]
    for made in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(made(keys), layer(keys))
        made(["another"])
        assert "another" not in layer.vocabulary


def test_keys_are_admitted_and_forgotten() -> None:
    """As in `unhot.Embedding`, where it is tested; no key goes while its row has a gradient."""
    layer = grows(min_count=2, max_idle=8, reserved=1)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1)
    step(layer, optimizer, ["once", "twice"])
    assert list(layer.vocabulary) == []
    step(layer, optimizer, ["twice"])
    assert list(layer.vocabulary) == ["twice"]
    for number in range(12):
        layer([f"key {number}"] * 2).sum().backward()  # gradients wait
    assert "twice" in layer.vocabulary
    optimizer.step()
    optimizer.zero_grad()
    for _ in range(12):
        step(layer, optimizer, ["key 11"])
    assert list(layer.vocabulary) == ["key 11"]
    assert len(layer.weight) == 14


def test_uses_before_a_state_was_loaded_do_not_count() -> None:
    """Of the keys that a state brings, the one goes that was used least since then."""
    saved = grows()
    saved(["a", "b"])
    layer = grows(max_rows=2)
    optimizer = unhot.torch.SGD(layer.parameters(), lr=0.1)
    for _ in range(5):
        step(layer, optimizer, ["x"])
    step(layer, optimizer, ["y"])
    layer.load_state_dict(saved.state_dict())
    step(layer, optimizer, ["b"])
    step(layer, optimizer, ["c"])
    assert sorted(layer.vocabulary) == ["b", "c"]


def test_errors() -> None:
    layer = grows()
    layer(torch.tensor([1, 2]))
    for call, kind, message in (
        (lambda: layer(["a"]), TypeError, "str"),
        (lambda: layer(torch.tensor([0.5])), TypeError, "float"),
        (lambda: layer.remove([3]), KeyError, "3"),
        (lambda: unhot.torch.KeyedEmbedding({"a": 1}, 2), TypeError, "`vocabulary` must be an unhot.Vocabulary"),  # type: ignore[arg-type]
        (lambda: unhot.torch.KeyedEmbedding(unhot.Vocabulary(), 2, max_rows=3), ValueError, "unknown='grow'"),
        (lambda: grows(init="zeros"), TypeError, "must be None or a function that fills a tensor"),
        (lambda: layer.grow(1, 0.5), TypeError, "such as torch.nn.init.zeros_"),  # type: ignore[arg-type]
    ):  # fmt: skip
        with pytest.raises(kind, match=re.escape(message)):
            call()
    assert list(layer.vocabulary) == [1, 2]
    assert repr(layer) == f"KeyedEmbedding({layer.vocabulary!r}, {DIM})"


def test_refused_rows_leave_no_keys() -> None:
    """In shared memory, a new key is an error each time; all else goes on."""
    layer = grows()
    layer(["a", "b"])
    layer.share_memory()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="memory that other processes share"):
            layer(["b", "c"])
        assert list(layer.vocabulary) == ["a", "b"]
    assert layer(["a"]).shape == (1, DIM)


def test_in_a_compiled_model() -> None:
    """The keys are encoded outside of graphs."""
    layer = grows()
    model = nn.Sequential(layer, nn.Linear(DIM, 1))
    compiled = torch.compile(model, backend="eager")
    for number in range(4):
        compiled(torch.tensor([number, 7])).sum().backward()
    assert list(layer.vocabulary) == [0, 7, 1, 2, 3]
