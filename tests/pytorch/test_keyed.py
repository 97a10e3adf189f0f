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


def test_frozen_keys() -> None:
    """They keep every bit while all others train."""
    words = unhot.Vocabulary([7, -1, 3], unknown="grow", reserved=1)
    vectors = torch.randn(3, DIM)
    layer = unhot.torch.KeyedEmbedding.from_vectors(
        torch.tensor([3, 7, 10**12]), vectors, words, frozen=torch.tensor([10**12, 3])
    )
    assert layer.frozen.tolist() == sorted(layer.encode([10**12, 3]).tolist())
    optimizer = unhot.torch.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        step(layer, optimizer, torch.tensor([3, 7, -1, 10**12, 8]))
    torch.testing.assert_close(layer([3, 10**12]).detach(), vectors[[0, 2]], rtol=0, atol=0)
    assert (layer([7]) != vectors[1]).all()
    with pytest.raises(KeyError, match=r"9.*position 1"):
        unhot.torch.KeyedEmbedding(words, 2, frozen=[3, 9])


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


@pytest.mark.parametrize("unknown", ["grow", 0, "raise"])
@pytest.mark.parametrize("training", [True, False])
def test_keys_that_the_vocabulary_has_changed(unknown: Any, training: bool) -> None:
    """They have rows of their own in the next lookup, in training and evaluation; a row that was another key's begins anew."""
    words = unhot.Vocabulary(["a", "b"], unknown=unknown, reserved=1)
    layer = unhot.torch.KeyedEmbedding(words, DIM, init=nn.init.zeros_)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    step(layer, optimizer, ["a", "b"])
    layer.train(training)
    words.extend(["new"])
    with torch.inference_mode(not training):
        assert not layer(["new"]).any()
    layer.remove(["a"])
    words.remove(["b"])
    words.extend(["x", "y", "z"])  # two of which have the rows of "a" and "b"
    assert layer.state_dict()["weight"].shape == (5, DIM)
    layer = copy.deepcopy(layer)
    assert not layer(["x", "y", "z", "new"]).any()
    assert not layer._table().removed_rows.size
    layer.train()
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    step(layer, optimizer, ["x", "y", "z", "new"])
    torch.testing.assert_close(layer(["x", "y", "z", "new"]).detach(), torch.full((4, DIM), -0.1))


@pytest.mark.parametrize("limits", [{}, {"max_rows": 4}, {"max_idle": 3}])
def test_layers_of_one_vocabulary(limits: dict[str, Any]) -> None:
    """What one of them admits or forgets, the other does, too; each key trains alone, and begins anew when it comes again."""
    words = unhot.Vocabulary(unknown="grow")
    towers = [unhot.torch.KeyedEmbedding(words, DIM, init=nn.init.zeros_, **given) for given in (limits, {})]
    optimizers = [unhot.torch.SGD(tower.parameters(), lr=1.0) for tower in towers]
    expected: list[dict[str, float]] = [{}, {}]
    remove = words.remove

    def forget(keys: Any) -> Any:
        for key in keys.keys.objects if hasattr(keys, "keys") else keys:
            for each in expected:
                each.pop(key, None)
        return remove(keys)

    words.remove = forget  # type: ignore[method-assign]
    rng = np.random.default_rng(0)
    for number in range(60):
        for tower, optimizer, values in zip(towers, optimizers, expected, strict=True):
            keys = [f"key {k}" for k in dict.fromkeys((number // 5 + rng.integers(0, 6, 2)).tolist())]
            optimizer.zero_grad()
            found = tower(keys)
            assert found[:, 0].tolist() == [values.get(key, 0.0) for key in keys]
            found.sum().backward()
            optimizer.step()
            for key in keys:
                values[key] = values.get(key, 0.0) - 1.0
        if number % 7 == 0:
            towers[number % 2].remove([str(next(iter(words)))])
    assert len(towers[1].weight) < (90 if not limits else 40)


def test_keys_that_are_read_once() -> None:
    """Iterators and views of dictionaries are keys, also where they are counted."""
    for least in (1, 2):
        layer = grows(min_count=least)
        for _ in range(least):
            layer(key for key in ["a", "b", "a"][:2])
        layer({"a": 1, "b": 2}.keys())
        assert list(layer.vocabulary) == ["a", "b"]


def test_vectors_that_are_given() -> None:
    """Aligned by key, as in `unhot.Embedding.from_vectors`; rows without keys are an error that says so."""
    vectors = torch.arange(9.0, dtype=torch.float64).reshape(3, DIM)
    words = unhot.Vocabulary(["dog", "owl", "cat"], unknown=0)
    layer = unhot.torch.KeyedEmbedding.from_vectors(["cat", "elk", "dog"], vectors, words, init=nn.init.zeros_)
    assert torch.equal(layer(["dog", "cat", "owl"]), torch.stack([vectors[2], vectors[0], torch.zeros(DIM).double()]))
    assert layer.weight.requires_grad
    growing = unhot.Vocabulary(["elk"], unknown="grow")
    layer = unhot.torch.KeyedEmbedding.from_vectors(torch.tensor([5, 2**60]), np.ones((2, DIM), np.float32))
    assert layer.weight.dtype == torch.float32
    for call, kind, message in (
        (lambda: unhot.torch.KeyedEmbedding.from_pretrained(vectors), TypeError, "KeyedEmbedding.from_vectors(keys, vectors)"),
        (lambda: layer.from_vectors(["a"], vectors), ValueError, "one vector for each of 1 keys. Received: (3, 3)"),
        (lambda: layer.from_vectors(["a", "b", "a"], vectors, growing), ValueError, "the key 'a' at position 2 a second time"),
        (lambda: layer.from_vectors(["a", "b", "c"], vectors, growing, wrong=1), TypeError, "wrong"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            call()
    assert list(growing) == ["elk"]


def test_uses_before_a_state_was_loaded_do_not_count() -> None:
    """Of the keys that a state without uses brings, the one goes that was used least since then."""
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


@pytest.mark.parametrize(
    "options", [{"min_count": 3}, {"max_rows": 8}, {"max_idle": 9}, {"min_count": 2, "max_idle": 30}], ids=str
)
def test_limits_go_on(options: dict[str, Any]) -> None:
    """A layer whose state is loaded every few steps admits and forgets the same keys as one that goes on."""
    options = {"init": torch.nn.init.ones_, **options}
    once, daily = grows(**options), grows(**options)
    optimizers = [unhot.torch.Adam(layer.parameters(), lr=0.1) for layer in (once, daily)]
    rng = np.random.default_rng(0)
    counts = set()
    for number in range(120):
        keys = [f"key {k}" for k in number // 8 + np.minimum(rng.geometric(0.15, 3), 20)]
        step(once, optimizers[0], keys)
        step(daily, optimizers[1], keys)
        counts.add(len(once.vocabulary))
        if number % 14 == 0:  # others are saved after a step
            once(keys), daily(keys)
        if number % 7 == 0:
            states = daily.state_dict(), optimizers[1].state_dict()
            once.state_dict(), optimizers[0].state_dict()  # which settle all rows, too
            daily = grows(**options)
            optimizers[1] = unhot.torch.Adam(daily.parameters(), lr=0.1)
            daily.load_state_dict(states[0])
            optimizers[1].load_state_dict(states[1])
    assert len(counts) > 3
    assert list(daily.vocabulary) == list(once.vocabulary)
    with torch.no_grad():
        daily.eval(), once.eval()
        assert torch.equal(daily(list(once.vocabulary)), once(list(once.vocabulary)))


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
