"""Rows that are added to layers in training, given back and frozen, against torch's layer with all rows from the start."""

from __future__ import annotations

import copy
import io
import pickle
import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from interrupts import everywhere
from selection import product, slow, some
from torch import Tensor, nn

import unhot.torch
from unhot.torch import _private

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    "Adamax": {"lr": 0.01},
    "SGD": {"lr": 0.1},
    "SGD momentum": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "nesterov": True},
    "Adagrad": {"lr": 0.1, "initial_accumulator_value": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True},
    "Adadelta": {"lr": 1.0},
}
ROWS, DIM, FIRST = 14, 3, 6


def optimizer_of(name: str, module: Any, layer: nn.Module) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = getattr(module, name.split()[0])(layer.parameters(), **OPTIMIZERS[name])
    return made


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, ids: list[int], factor: float = 1.0) -> None:
    optimizer.zero_grad()
    (factor * layer(torch.tensor(ids)).square().sum() + layer(torch.tensor(ids[:1])).sum()).backward()
    optimizer.step()


def start() -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def of(weights: Tensor) -> Callable[[Tensor], object]:
    """An initializer that fills new rows with these."""
    return lambda rows: rows.copy_(weights)


@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_if_all_rows_had_been_there(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and state of every optimizer, which then goes on in torch's own; the parameter stays the object that it is."""
    monkeypatch.setenv("UNHOT_TORCH_KERNELS", kernels)
    weights = start()
    stock = nn.Embedding(ROWS, DIM, _weight=weights.clone())
    layer = unhot.torch.Embedding(FIRST, DIM, _weight=weights[:FIRST].clone())
    theirs, ours = optimizer_of(name, torch.optim, stock), optimizer_of(name, unhot.torch, layer)
    parameter = layer.weight
    for number in range(90):
        if number in (0, 1, 30, 60):
            rows = len(layer.weight)
            assert layer.grow(2, of(weights[rows : rows + 2])).tolist() == [rows, rows + 1]
        if number == 45 and kernels == "native":
            ours.state_dict()  # which settles all rows and lets go of the history
        ids = [number * 5 % len(layer.weight), 3, number % 3]
        step(layer, ours, ids)
        step(stock, theirs, ids)
    assert layer.weight is parameter
    assert layer.num_embeddings == ROWS
    torch.testing.assert_close(layer.weight.detach(), stock.weight.detach(), rtol=1e-8, atol=1e-10)
    plain = nn.Embedding(ROWS, DIM, _weight=layer.weight.detach().clone())
    resumed = optimizer_of(name, torch.optim, plain)
    resumed.load_state_dict(ours.state_dict())
    for number in range(20):
        step(plain, resumed, [number % ROWS, 1])
        step(stock, theirs, [number % ROWS, 1])
    torch.testing.assert_close(plain.weight.detach(), stock.weight.detach(), rtol=1e-8, atol=1e-10)


COUPLED = ["Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta"]
"""Optimizers whose steps with coupled decay are torch's own, densely."""


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize(("name", "decays"), product(COUPLED, ["throughout", "later", "at first", "at times"]))
def test_coupled_decay_acts_on_rows_that_come_later(
    name: str, decays: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such decay does to a row depends on its weights and on all steps so far, whose rates change."""
    monkeypatch.setenv("UNHOT_TORCH_KERNELS", kernels)
    weights = start()
    stock = nn.Embedding(ROWS, DIM, _weight=weights.clone())
    layer = unhot.torch.Embedding(FIRST, DIM, _weight=weights[:FIRST].clone())
    theirs, ours = (
        getattr(module, name)([{"params": given.parameters(), "weight_decay": 0.1}], **OPTIMIZERS[name])
        for module, given in ((torch.optim, stock), (unhot.torch, layer))
    )
    on = {"throughout": range(60), "later": range(20, 60), "at first": range(20), "at times": [*range(9, 15), 33]}[decays]
    for number in range(60):
        for optimizer in (theirs, ours):
            (group,) = optimizer.param_groups
            group["weight_decay"] = 0.1 * (number in on)
            group["lr"] *= 0.9 if number % 7 == 3 else 1.0
        if number in (2, 25, 50):
            rows = len(layer.weight)
            layer.grow(2, of(weights[rows : rows + 2]))
            torch.testing.assert_close(layer.weight.detach(), stock.weight.detach()[: rows + 2], rtol=1e-7, atol=1e-8)
        ids = [number * 5 % len(layer.weight), 3, number % 3]
        step(layer, ours, ids)
        step(stock, theirs, ids)
    layer.grow(2, of(weights[-2:]))
    torch.testing.assert_close(layer.weight.detach(), stock.weight.detach(), rtol=1e-7, atol=1e-8)
    state, expected = (dict(next(iter(one.state_dict()["state"].values()))) for one in (ours, theirs))
    assert state.keys() == expected.keys()
    for key, held in expected.items():
        torch.testing.assert_close(state[key].to(held.dtype), held, rtol=1e-6, atol=1e-8)


def test_many_steps_made_again_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unhot.torch.replay.MANY", 7)
    layer = unhot.torch.Embedding(4, DIM)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1, weight_decay=0.1)
    told = []
    for _ in range(6):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            step(layer, optimizer, [1])
            layer.grow(1)
        told += [str(one.message) for one in found if "made again" in str(one.message)]
    assert len(told) == 1, "1 + 2 + 3 + 4 steps are more than 7"
    assert told[0].startswith("10 steps")
    assert "decouple the decay" in told[0]


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
def test_coupled_decay_since_the_state_was_loaded() -> None:
    """Steps from before the state was loaded are not known to the optimizer; a step that failed counts as none."""
    layer, other = (unhot.torch.Embedding(4, DIM, _weight=start()[:4].clone()) for _ in range(2))
    optimizer, resumed = (unhot.torch.Adam(one.parameters(), lr=0.1, weight_decay=0.1) for one in (layer, other))
    for _ in range(5):
        step(layer, optimizer, [1])
    resumed.load_state_dict(optimizer.state_dict())
    row = other.grow(1, nn.init.ones_)
    assert torch.equal(other(row), torch.ones(1, DIM, dtype=other.weight.dtype))
    plain = nn.Parameter(torch.ones(1, DIM, dtype=other.weight.dtype))
    theirs = torch.optim.Adam([plain], lr=0.1, weight_decay=0.1)
    theirs.state[plain] = {"step": torch.tensor(5.0), "exp_avg": torch.zeros_like(plain), "exp_avg_sq": torch.zeros_like(plain)}
    for number in range(3):
        if number == 1:
            resumed.param_groups[0]["betas"] = None
            with pytest.raises(TypeError):
                step(other, resumed, [1])
            resumed.param_groups[0]["betas"] = (0.9, 0.999)
        step(other, resumed, [1])
        plain.grad = torch.zeros_like(plain)
        theirs.step()
    assert torch.equal(other(other.grow(1, nn.init.ones_)), plain)


@pytest.mark.parametrize("name", ["AdamW", "SGD momentum"])
def test_removed_rows_begin_anew(name: str) -> None:
    """Their numbers are used again, with a new state; others train as before."""
    weights = start()
    stock = nn.Embedding(ROWS, DIM, _weight=weights.clone())
    layer = unhot.torch.Embedding(ROWS, DIM, _weight=weights.clone())
    theirs, ours = optimizer_of(name, torch.optim, stock), optimizer_of(name, unhot.torch, layer)
    for number in range(20):
        step(stock, theirs, [number % 4])
        step(layer, ours, [number % 4, 7, 9][: 1 + 2 * (number < 10)])
        if number == 10:
            layer.remove([[9], [7]])
            assert not layer.weight[[7, 9]].any()
            assert copy.deepcopy(layer).grow(1).tolist() == [7]
            assert layer.grow(2, of(weights[[7, 9]])).tolist() == [7, 9]
    torch.testing.assert_close(layer.weight.detach(), stock.weight.detach(), rtol=1e-8, atol=1e-10)


def test_rows_that_are_given_and_the_mean() -> None:
    """They hold what is given, whatever decay has done to the others."""
    layer = unhot.torch.Embedding(4, DIM)
    optimizer = optimizer_of("AdamW", unhot.torch, layer)
    step(layer, optimizer, [1, 2])
    given = torch.arange(6.0).reshape(2, 3)
    rows = layer.grow(2, given)
    assert torch.equal(layer(rows), given)
    mean = layer.weight.detach().double().mean(0).float()
    assert torch.equal(layer(layer.grow(1, "mean"))[0], mean)
    torch.manual_seed(3)
    drawn = layer(layer.grow(2))
    torch.manual_seed(3)
    factor = 1 - 0.01 * 0.1
    torch.testing.assert_close(drawn.detach(), torch.randn(2, DIM) * factor)


def test_layers_that_share_a_weight_and_gradients_that_wait() -> None:
    """The rows come to both layers; a gradient that is there gets zeros for them, and a graph from before can go backward."""
    layer = unhot.torch.Embedding(4, DIM)
    bag = unhot.torch.EmbeddingBag(4, DIM, mode="sum", _weight=layer.weight.detach())
    bag.weight = layer.weight
    optimizer = unhot.torch.SGD([layer.weight], lr=1.0)
    step(layer, optimizer, [0])
    before = layer.weight.detach().clone()
    optimizer.zero_grad()
    layer(torch.tensor([1])).sum().backward()
    waiting = layer(torch.tensor([2])).sum()
    new = bag.grow(2, nn.init.zeros_)
    assert layer.num_embeddings == bag.num_embeddings == 6
    assert layer.weight.grad.shape == (6, DIM)
    assert "6, 3" in repr(layer)
    bag(new[None]).sum().backward()
    optimizer.step()
    expected = torch.cat([before, torch.zeros(2, DIM)])
    expected[[1, 4, 5]] -= 1
    assert torch.equal(layer.weight.detach(), expected)
    optimizer.zero_grad()
    waiting.backward()
    optimizer.step()
    expected[2] -= 1
    assert torch.equal(layer.weight.detach(), expected)


@pytest.mark.parametrize("sparse", [None, False, True])
def test_before_and_without_an_optimizer(sparse: bool | None) -> None:
    """A layer that nobody trains, and one that torch's own optimizer trains afterwards."""
    layer = unhot.torch.Embedding(4, DIM, padding_idx=0, sparse=sparse)
    layer(torch.tensor([1])).sum().backward()
    layer.grow(3)
    assert layer.weight.grad.shape == (7, DIM)
    layer.zero_grad()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before = layer.weight.detach().clone()
    layer(torch.tensor([6, 0])).sum().backward()
    optimizer.step()
    assert (layer.weight != before).any(1).tolist() == [False] * 6 + [True]


@pytest.mark.parametrize(("name", "way"), product(OPTIMIZERS, ["rows", "dense", "both"]))
def test_frozen_rows(name: str, way: str) -> None:
    """No step changes a bit of them or of their slots, by rows or densely; all others train as in torch's own layer."""
    weights = start()
    stock = nn.Embedding(ROWS, DIM, _weight=weights.clone())
    layer = unhot.torch.Embedding(ROWS, DIM, _weight=weights.clone(), sparse=False if way == "dense" else None)
    theirs, ours = optimizer_of(name, torch.optim, stock), optimizer_of(name, unhot.torch, layer)
    frozen, others = [1, 4], [row for row in range(ROWS) if row not in (1, 4)]

    def held() -> list[Any]:
        state = ours.state_dict()["state"].get(0, {})
        slots = [slot for slot in state.values() if isinstance(slot, Tensor) and slot.shape == layer.weight.shape]
        return [tensor[frozen].tolist() for tensor in (layer.weight.detach(), *slots)]

    for number in range(40):
        ids = [number % ROWS, 4, 3]
        if number == 10:
            layer.frozen = frozen
            kept = held()
        if way == "both" and number == 20:
            ours.zero_grad()
            ours.state_dict()
        step(layer, ours, ids)
        step(stock, theirs, ids)
        if number >= 10:
            assert held() == kept
    torch.testing.assert_close(layer.weight.detach()[others], stock.weight.detach()[others], rtol=1e-8, atol=1e-10)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert other.frozen.tolist() == frozen
    for kind in (unhot.torch.Embedding, unhot.torch.EmbeddingBag):
        assert kind(ROWS, DIM, frozen=frozen).frozen.tolist() == frozen
    layer.only_train(layer.grow(2))
    assert layer.frozen.tolist() == list(range(ROWS))
    layer.frozen = None
    assert layer.frozen.tolist() == []


@pytest.mark.parametrize("sparse", [None, False, True])
@pytest.mark.parametrize("kind", ["rows", "bags"])
@pytest.mark.parametrize("owned", [False, True])
def test_lookups_do_not_renorm_frozen_rows(kind: str, sparse: bool | None, owned: bool) -> None:
    """With `max_norm`, all other rows are what torch's own layer makes of them; errors are torch's, too."""
    weights = start()
    ours, theirs = (unhot.torch.EmbeddingBag, nn.EmbeddingBag) if kind == "bags" else (unhot.torch.Embedding, nn.Embedding)
    layer: Any = ours(ROWS, DIM, _weight=weights.clone(), max_norm=0.3, norm_type=3.0, sparse=sparse, frozen=[1, 4, ROWS - 1])
    stock: Any = theirs(ROWS, DIM, _weight=weights.clone(), max_norm=0.3, norm_type=3.0)
    optimizers = [] if not owned else [unhot.torch.SGD(layer.parameters(), lr=0.1), torch.optim.SGD(stock.parameters(), lr=0.1)]
    for ids in (torch.tensor([[0, 4], [2, 4]]), torch.tensor([[ROWS - 1, 1]]), torch.tensor([[3, 1, 0]], dtype=torch.int32)):
        for optimizer in optimizers:
            optimizer.zero_grad()
        layer(ids).sum().backward()
        stock(ids).sum().backward()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(layer.weight.detach()[[1, 4, ROWS - 1]], weights[[1, 4, ROWS - 1]])
        others = [0, 2, 3, *range(5, ROWS - 1)]
        torch.testing.assert_close(layer.weight.detach()[others], stock.weight.detach()[others], rtol=1e-12, atol=1e-14)
    for id in (ROWS, -1):
        with pytest.raises((IndexError, RuntimeError)):
            layer(torch.tensor([[id, 4]]))
    assert torch.equal(layer.weight.detach()[[1, 4, ROWS - 1]], weights[[1, 4, ROWS - 1]])


def test_a_collection_grows_table_by_table() -> None:
    """Its tables share a clock, and their rows are numbered anew where those of one do not suffice."""
    sizes = {"user": (5, DIM), "item": (4, DIM)}
    large, small = (unhot.torch.EmbeddingCollection(given) for given in (dict.fromkeys(sizes, (12, DIM)), sizes))
    first = {name: large.embeddings[name].weight.detach().clone() for name in sizes}
    with torch.no_grad():
        for name, (rows, _) in sizes.items():
            small.embeddings[name].weight.copy_(first[name][:rows])
    optimizers = [unhot.torch.AdamW(layer.parameters(), lr=0.01, weight_decay=0.1) for layer in (large, small)]
    for number in range(60):
        if number in (10, 30, 40):
            for name in sizes:
                rows = len(small.embeddings[name].weight)
                small.embeddings[name].grow(2, of(first[name][rows : rows + 2]))
        ids = {name: torch.tensor([number % len(small.embeddings[name].weight), 2]) for name in sizes}
        for layer, optimizer in zip((large, small), optimizers, strict=True):
            optimizer.zero_grad()
            layer(ids).square().sum().backward()
            optimizer.step()
    for name in sizes:
        grown = small.embeddings[name].weight.detach()
        torch.testing.assert_close(grown, large.embeddings[name].weight.detach()[: len(grown)], rtol=1e-5, atol=1e-6)


def test_checkpoints_of_a_grown_layer() -> None:
    """A layer of the new size takes weights and optimizer's state, and goes on as the grown one."""
    layer = unhot.torch.Embedding(4, DIM)
    optimizer = optimizer_of("AdamW", unhot.torch, layer)
    step(layer, optimizer, [1])
    layer.grow(3)
    step(layer, optimizer, [6])
    file = io.BytesIO()
    torch.save({"model": layer.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file)
    other = unhot.torch.Embedding(7, DIM)
    resumed = optimizer_of("AdamW", unhot.torch, other)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for pair in ((layer, optimizer), (other, resumed)):
        step(*pair, [5, 6])
    assert torch.equal(layer.weight.detach(), other.weight.detach())


def test_memory_is_copied_seldom() -> None:
    """A row at a time, the weights move to new memory as often as their number doubles."""
    layer = unhot.torch.Embedding(1, DIM)
    optimizer = optimizer_of("Adam", unhot.torch, layer)
    places = set()
    for number in range(100):
        step(layer, optimizer, [number])
        layer.grow(1)
        places.add(layer.weight.data_ptr())
    assert len(places) <= 9
    assert len(layer.weight) == 101


@pytest.mark.parametrize("capacity", [None, 1 << 20])
@pytest.mark.parametrize("step_before", [True, False])
def test_files_hold_the_rows_that_are_there(capacity: int | None, step_before: bool) -> None:
    """Not the room for others: PyTorch writes the memory that a tensor is a part of."""

    def size(held: Any) -> int:
        file = io.BytesIO()
        torch.save(held, file)
        return file.tell()

    words = unhot.Vocabulary(range(100), unknown="grow")
    layer = unhot.torch.KeyedEmbedding(words, 64, capacity=capacity)
    optimizer = unhot.torch.Adam(layer.parameters())
    for number in range(2):
        if step_before or number:
            layer([number]).sum().backward()
            optimizer.step()
        if not number:
            layer.grow(28)
            words.extend(range(100, 128))
    assert len(layer.weight) == 128
    for held, count in ((layer.state_dict(), 1), (layer, 1), (optimizer.state_dict(), 2)):
        assert 0 <= size(held) - count * 128 * 64 * 4 < 8000
    copied = copy.deepcopy(layer)
    assert copied.weight.untyped_storage().nbytes() == 128 * 64 * 4


def test_errors() -> None:
    """They name what is wrong, and the layer stays as it was."""
    layer = unhot.torch.Embedding(4, DIM)
    layer.remove(2)
    before = layer.weight.detach().clone()
    for call, kind, message in (
        (lambda: layer.grow(0), ValueError, "`rows` must be a positive integer. Received: 0."),
        (lambda: layer.grow(2, torch.ones(1, 3)), ValueError, "`init` must have shape (rows, dim) = (2, 3). Received: (1, 3)"),
        (lambda: layer.grow(2, "ones"), TypeError, "`init` must be 'mean', a tensor, or a function"),
        (lambda: layer.remove(4), IndexError, "id 4 is out of range"),
        (lambda: layer.remove([1, 2]), IndexError, "id 2 at position 1 is that of a removed row"),
        (lambda: layer.remove(torch.tensor([0.5])), TypeError, "`rows` must be integers"),
        (lambda: setattr(layer, "frozen", [True]), ValueError, "must have shape (4,). Received: `frozen` of shape (1,)."),
    ):  # fmt: skip
        with pytest.raises(kind, match=re.escape(message)):
            call()
        assert torch.equal(layer.weight.detach(), before)
    if _private.ON:  # without, PyTorch refuses to parametrize a table
        torch.nn.utils.parametrizations.weight_norm(layer)
        with pytest.raises(TypeError, match="only a table that is the layer's own parameter has rows that come, go or freeze"):
            layer.grow(1)


CHANGES: dict[str, Callable[[unhot.torch.Embedding], object]] = {
    "grow": lambda layer: layer.grow(3, nn.init.ones_),
    "grow, in rows that were removed": lambda layer: layer.grow(1, nn.init.ones_),
    "remove": lambda layer: layer.remove([1, 3]),
    "remove a frozen row": lambda layer: layer.remove([2]),
    "freeze": lambda layer: setattr(layer, "frozen", [0, 1]),
    "only_train": lambda layer: layer.only_train([4]),
}
SOME_CHANGES = ["grow", "remove a frozen row", "freeze"]


@pytest.mark.parametrize("kernels", ["native", pytest.param("torch", marks=slow)])
@pytest.mark.parametrize("change", some(CHANGES, SOME_CHANGES))
def test_interrupted_changes(change: str, kernels: str, monkeypatch: pytest.MonkeyPatch, everything: bool) -> None:
    """An exception at any bytecode leaves layer and optimizer before or after the change, and training goes on from there."""
    monkeypatch.setenv("UNHOT_TORCH_KERNELS", kernels)

    def prepare() -> tuple[unhot.torch.Embedding, torch.optim.Optimizer]:
        layer = unhot.torch.Embedding(8, DIM, _weight=start()[:8].clone())
        optimizer = optimizer_of("AdamW", unhot.torch, layer)
        for number in range(4):
            step(layer, optimizer, [number, 4])
        layer.remove([5])
        layer.frozen = torch.tensor([2])
        layer.weight.grad = None
        layer(torch.tensor([0, 4])).sum().backward()
        return layer, optimizer

    def seen(layer: unhot.torch.Embedding) -> tuple[Any, ...]:
        return layer.num_embeddings, *layer.frozen.tolist(), "removed", *layer._table().removed_rows.tolist()

    def trained(layer: unhot.torch.Embedding, optimizer: torch.optim.Optimizer) -> list[Tensor]:
        optimizer.step()
        step(layer, optimizer, [0, 6])
        return [layer.weight.detach().clone(), *(optimizer.state[layer.weight][name] for name in ("exp_avg", "max_exp_avg_sq"))]

    expected = {}
    for change_it in (False, True):
        pair = prepare()
        if change_it:
            CHANGES[change](pair[0])
        expected[seen(pair[0])] = trained(*pair)
    found = set()
    stride = 13 if everything or change == "freeze" else 47  # which is soon over, and has few bytecodes after the change
    for pair in everywhere(prepare, lambda pair: CHANGES[change](pair[0]), stride):
        torch.set_grad_enabled(True)  # an exception at the end of a block of `torch.no_grad` leaves gradients off
        state = seen(pair[0])
        found.add(state)
        for tensor, wanted in zip(trained(*pair), expected[state], strict=True):
            torch.testing.assert_close(tensor, wanted, rtol=1e-12, atol=1e-14)
        pair[0].grow(1)
    assert found == set(expected)


@pytest.mark.parametrize("sparse", [None, False, True])
@pytest.mark.parametrize("name", [None, "SGD", "SGD momentum", "AdamW"])
def test_a_loss_with_lookups_from_before_a_growth(name: str | None, sparse: bool | None) -> None:
    """Its gradient is that of all its lookups, also after several growths, and of a graph that is older than `.grad`."""
    weights = start()
    stock = nn.Embedding(ROWS, DIM, _weight=weights.clone())
    layer = unhot.torch.Embedding(4, DIM, _weight=weights[:4].clone(), sparse=sparse)
    bag = unhot.torch.EmbeddingBag(4, DIM, mode="sum", sparse=sparse)
    bag.weight = layer.weight
    if name is not None:
        theirs, ours = optimizer_of(name, torch.optim, stock), optimizer_of(name, unhot.torch, layer)
    for turn in range(2):
        size = len(layer.weight)
        older = layer(torch.tensor([1])).square().sum()
        first = (layer(torch.tensor([0, 1])) * bag(torch.tensor([[2, 3, 2]]))).sum()
        layer.grow(2, of(weights[size : size + 2]))
        second = layer(torch.tensor([size, 1])).square().sum()
        layer.grow(1, of(weights[size + 2 : size + 3]))
        (first * 3 + second + layer(torch.tensor([size + 2])).sum()).backward()
        older.backward()
        rows = stock.weight
        loss = (rows[[0, 1]] * (2 * rows[[2]] + rows[[3]])).sum() * 3 + rows[[size, 1]].square().sum() + rows[size + 2].sum()
        (loss + rows[1].square().sum()).backward()
        assert layer.weight.grad is not None
        assert stock.weight.grad is not None
        found = layer.weight.grad.to_dense() if layer.weight.grad.is_sparse else layer.weight.grad
        torch.testing.assert_close(found.clone(), stock.weight.grad[: len(layer.weight)], rtol=1e-12, atol=1e-12)
        if name is not None and not (sparse and name == "AdamW"):
            for optimizer in (theirs, ours):
                optimizer.step()
                optimizer.zero_grad()
        layer.weight.grad = stock.weight.grad = None
        if turn:
            torch.testing.assert_close(layer.weight.detach(), stock.weight.detach()[: len(layer.weight)], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", some(range(40), range(8)))
def test_growth_at_any_moment(seed: int) -> None:
    """Before and after the optimizer is made, between `backward` and step, with room and without."""
    random = np.random.default_rng(seed)
    weights = torch.randn(400, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    stock = nn.Embedding(400, DIM, _weight=weights.clone())
    rows = int(random.integers(1, 12))
    layer = unhot.torch.Embedding(rows, DIM, _weight=weights[:rows].clone())

    def grow() -> None:
        rows, more = len(layer.weight), int(random.choice([0, 0, 1, 2, 5]))
        if more:
            layer.grow(more, of(weights[rows : rows + more]))

    grow()
    theirs, ours = (optimizer_of("AdamW", module, each) for module, each in ((torch.optim, stock), (unhot.torch, layer)))
    for _ in range(15):
        for optimizer in (theirs, ours):
            optimizer.zero_grad()
        for _ in range(int(random.integers(1, 3))):
            grow()
            ids = torch.from_numpy(random.integers(0, len(layer.weight), 3))
            for each in (stock, layer):
                each(ids).square().sum().backward()
        grow()
        for optimizer in (theirs, ours):
            optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), stock.weight.detach()[: len(layer.weight)], rtol=1e-9, atol=1e-12)


def test_states_say_which_rows_are_frozen_or_removed() -> None:
    layer = unhot.torch.Embedding(6, DIM)
    assert list(layer.state_dict()) == ["weight"]
    layer.frozen = torch.tensor([1, 4])
    layer.remove([2])
    model, other = nn.Sequential(layer), nn.Sequential(unhot.torch.Embedding(6, DIM))
    state = model.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    other.load_state_dict(state)
    assert (other[0].frozen.tolist(), other[0].grow(2).tolist()) == ([1, 4], [2, 6])
    layer.grow(1)
    frozen = unhot.torch.Embedding(7, DIM, frozen=[0])
    frozen.load_state_dict({"weight": torch.zeros(7, DIM)})
    assert frozen.frozen.tolist() == [0]
    with pytest.raises(IndexError, match="id 7 at position 0 is out of range"):
        frozen.load_state_dict({"weight": torch.zeros(7, DIM), "frozen_rows": torch.tensor([7])})


def test_rows_that_cannot_go_or_come() -> None:
    padded = unhot.torch.Embedding(4, DIM, padding_idx=-1)
    with pytest.raises(ValueError, match="row 3 cannot be removed: it is the layer's `padding_idx`"):
        padded.remove([0, 3])
    standing_in = unhot.torch.EmbeddingBag(4, DIM, out_of_range=1)
    with pytest.raises(ValueError, match="row 1 cannot be removed: it is the layer's `out_of_range`"):
        standing_in.remove([1])
    padded.remove([1])
    padded.share_memory()
    with pytest.raises(RuntimeError, match="memory that other processes share"):
        padded.grow(2)
    assert padded.grow(1).tolist() == [1]
    assert padded.weight.is_shared()
