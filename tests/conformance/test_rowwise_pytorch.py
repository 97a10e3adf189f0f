"""`unhot.torch.RowwiseAdagrad`, which torch has not: against dense training in NumPy, and beside torch's Adagrad."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import unhot
import unhot.torch
from unhot.torch.held_state import StateError
from unhot.torch.placement import KERNELS

from .dense import Array
from .registry import RULES, Rule
from .streams import make
from .torch_layer import DENSE_EVERY, LayerCopy
from .training import agree, dense_copy, train, versions

LINES = [rule for rule in RULES if rule.name == "RowwiseAdagrad"]
NAMES = {"learning_rate": "lr", "epsilon": "eps"}


class RowwiseCopy(LayerCopy):
    """A layer under the optimizer; `dense_every` as for `LayerCopy`."""

    def __init__(self, rule: Rule, weights: Array, dtype: str, dense_every: int) -> None:
        self.layer = unhot.torch.Embedding.from_pretrained(torch.tensor(weights.astype(dtype)), freeze=False)
        given = {NAMES.get(name, name): value for name, value in {"learning_rate": rule.rate, **rule.hyper}.items()}
        self.optimizer = unhot.torch.RowwiseAdagrad(self.layer.parameters(), **given)
        self.dtype, self.device, self.dense_every = dtype, "cpu", dense_every
        self.steps = self.looks = 0

    def assign(self, hyper: dict[str, Any]) -> None:
        self.optimizer.param_groups[0]["lr"] = hyper["learning_rate"]


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("dense_every", [0, DENSE_EVERY, 1])
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("stream", ["closed", "mixed", "tiny"])
@pytest.mark.parametrize("rule", LINES, ids=lambda rule: rule.id)
def test_as_dense_training(rule: Rule, stream: str, kernels: str, dense_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows, with dense steps in between, and with dense steps alone."""
    monkeypatch.setenv(KERNELS, kernels)
    given = make(stream, "wandering", rule.rate)
    layers = [RowwiseCopy(rule, given.weights, dtype, dense_every) for dtype in ("float32", "float64")]
    dense = dense_copy(rule, given.weights, "float32")
    train(given, dense_copy(rule, versions(given.weights), "float64"), [dense, *layers], agree)
    for layer in layers:
        (state,) = layer.optimizer.state_dict()["state"].values()
        assert state["sum"].shape == (len(given.weights), 1)
        assert state["step"] == len(given.steps)
        assert dense_every == 1 or layer.optimizer._owned(), "it is trained by rows"


ROWS = 12


def model(dim: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(unhot.torch.Embedding(ROWS, dim), nn.Linear(dim, 2))


def trained(layers: Any, optimizer: torch.optim.Optimizer, seed: int, steps: int = 9, *, whole: bool = False) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        ids = torch.randint(0, ROWS, (5,), generator=generator)
        optimizer.zero_grad()
        loss = (layers(ids) - 1).square().sum()
        (loss + layers[0].weight.square().sum() if whole else loss).backward()
        optimizer.step()


def by_state_dict(layers: Any, optimizer: Any) -> tuple[Any, Any]:
    other = model()
    other.load_state_dict(layers.state_dict())
    made = unhot.torch.RowwiseAdagrad(other.parameters())
    held = io.BytesIO()
    torch.save(optimizer.state_dict(), held)
    held.seek(0)
    made.load_state_dict(torch.load(held))
    return other, made


COPIES: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "state_dict": by_state_dict,
    "deepcopy": lambda layers, optimizer: copy.deepcopy((layers, optimizer)),
    "pickle": lambda layers, optimizer: pickle.loads(pickle.dumps((layers, optimizer))),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_goes_on(way: str) -> None:
    """Bit for bit, from deferred rows too."""
    layers = model()
    optimizer = unhot.torch.RowwiseAdagrad(layers.parameters(), lr=0.1, weight_decay=0.1, initial_accumulator_value=0.2)
    trained(layers, optimizer, 0)
    copied = COPIES[way](layers, optimizer)
    for pair in ((layers, optimizer), copied):
        trained(*pair, 1)
    for mine, other in zip(copied[0].parameters(), layers.parameters(), strict=True):
        torch.testing.assert_close(mine.detach(), other.detach(), rtol=0, atol=0)
    states = [pair[1].state_dict() for pair in ((layers, optimizer), copied)]
    assert [state["sum"].shape for state in states[0]["state"].values()] == [(ROWS, 1), (2, 4), (2,)]
    for number, state in states[0]["state"].items():
        torch.testing.assert_close(states[1]["state"][number], state, rtol=0, atol=0)


def test_tables_of_one_group() -> None:
    """Of any widths, with steps of one call, and one that skips steps: each as it would be on its own, bit for bit."""
    sizes, options = ((9, 4), (20, 1), (5, 7)), {"lr": 0.1, "weight_decay": 0.1}
    weights = [torch.randn(*size, generator=torch.Generator().manual_seed(0)) for size in sizes]
    groups = [[unhot.torch.Embedding.from_pretrained(w.clone(), freeze=False) for w in weights] for _ in range(2)]
    together = [unhot.torch.RowwiseAdagrad([layer.weight for layer in groups[0]], **options)]
    apart = [unhot.torch.RowwiseAdagrad(layer.parameters(), **options) for layer in groups[1]]
    for number in range(30):
        for layers, optimizers in zip(groups, (together, apart), strict=True):
            generator = torch.Generator().manual_seed(number)
            for optimizer in optimizers:
                optimizer.zero_grad()
            for place, layer in enumerate(layers):
                ids = torch.randint(0, len(layer.weight), (4,), generator=generator)
                if place != 1 or number % 7:
                    layer(ids).square().sum().backward()
            for optimizer in optimizers:
                optimizer.step()
    for mine, other in zip(*groups, strict=True):
        torch.testing.assert_close(mine.weight.detach(), other.weight.detach(), rtol=0, atol=0)


def test_what_is_no_table_is_trained_by_adagrad() -> None:
    """After a decoupled decay. A stock embedding layer is none, either, nor one with sparse gradients."""
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Embedding(ROWS, 4), nn.Linear(4, 2)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    theirs = torch.optim.Adagrad(models[0].parameters(), lr=0.1, eps=1e-8, initial_accumulator_value=0.2)
    ours = unhot.torch.RowwiseAdagrad(models[1].parameters(), lr=0.1, weight_decay=0.5, initial_accumulator_value=0.2)
    for seed in range(8):
        for layers, optimizer in zip(models, (theirs, ours), strict=True):
            if optimizer is theirs:
                kept = [parameter.detach().clone() for parameter in layers.parameters()]
            trained(layers, optimizer, seed, 1)
            if optimizer is theirs:  # what a decay before the step makes of it: the gradient is that of the weights before
                for parameter, before in zip(layers.parameters(), kept, strict=True):
                    parameter.detach().add_(before * (1 - 0.1 * 0.5) - before)
        for mine, other in zip(models[1].parameters(), models[0].parameters(), strict=True):
            torch.testing.assert_close(mine.detach(), other.detach())
    for mine, other in zip(ours.state.values(), theirs.state.values(), strict=True):
        torch.testing.assert_close(mine, other)


def test_a_dense_gradient_warns_and_is_rowwise() -> None:
    layers = model()
    optimizer = unhot.torch.RowwiseAdagrad(layers.parameters(), lr=0.1)
    with pytest.warns(unhot.DenseFallbackWarning, match="its gradient is dense"):
        trained(layers, optimizer, 0, whole=True)
    assert optimizer.state[layers[0].weight]["sum"].shape == (ROWS, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dtypes_that_are_not_trained_by_rows(dtype: torch.dtype) -> None:
    layer = unhot.torch.Embedding(ROWS, 4, dtype=dtype)
    optimizer = unhot.torch.RowwiseAdagrad(layer.parameters(), lr=0.1)
    before = layer.weight.detach().float()
    layer(torch.tensor([1, 3, 3])).sum().backward()
    optimizer.step()
    assert optimizer.state[layer.weight]["sum"][[1, 3, 5], 0].tolist() == [1, 4, 0]
    moved = before - layer.weight.detach().float()
    torch.testing.assert_close(moved[[1, 3]], torch.full((2, 4), 0.1), rtol=0.1, atol=0.01)
    assert not moved[[0, 2]].any()


def test_a_table_that_becomes_a_plain_parameter_stays_rowwise() -> None:
    """`convert` makes plain layers of ours: their state stays, and says how they are trained."""
    layers = model()
    optimizer = unhot.torch.RowwiseAdagrad(layers.parameters(), lr=0.1)
    trained(layers, optimizer, 0)
    twin, other = copy.deepcopy((layers, optimizer))
    unhot.torch.convert(layers, to="stock")
    assert type(layers[0]) is nn.Embedding
    for pair in ((layers, optimizer), (twin, other)):
        trained(*pair, 1)
    torch.testing.assert_close(layers[0].weight.detach(), twin[0].weight.detach())


@pytest.mark.parametrize("whole", [False, True])
def test_a_state_of_adagrad_is_refused(whole: bool) -> None:
    """Its sums are of elements; before anything has changed."""
    layers = model()
    trained(layers, torch.optim.Adagrad(layers.parameters(), lr=0.1), 0)
    state = torch.optim.Adagrad(layers.parameters()).state_dict()
    optimizer = unhot.torch.RowwiseAdagrad(layers.parameters(), weight_decay=0.1)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state["state"] or {0: {"sum": torch.ones(ROWS, 4)}}})
    if not optimizer.state[layers[0].weight]:
        optimizer.state[layers[0].weight].update(step=torch.tensor(1.0), sum=torch.ones(ROWS, 4))
    before = layers[0].weight.detach().clone()
    with pytest.raises(StateError, match=r"'sum' in `optimizer\.state` of a table must have shape \(12, 1\)"):
        trained(layers, optimizer, 1, whole=whole)
    torch.testing.assert_close(layers[0].weight.detach(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["lr", "eps", "initial_accumulator_value", "weight_decay"])
def test_hyperparameters_below_0(name: str) -> None:
    for value in (-0.1, float("nan")):
        with pytest.raises(ValueError, match=f"Invalid {name} value"):
            unhot.torch.RowwiseAdagrad(model().parameters(), **{name: value})


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
def test_maximize_and_an_epsilon_of_0() -> None:
    """By rows, and densely: the rows' own needs an epsilon above 0."""
    for options, whole in (({}, False), ({}, True), ({"eps": 0.0}, False)):
        pair = []
        for maximize in (False, True):
            layers = model()
            optimizer = unhot.torch.RowwiseAdagrad(layers.parameters(), lr=0.1, maximize=maximize, **options)
            ids, sign = torch.tensor([1, 2, 2]), -1.0 if maximize else 1.0
            for _ in range(3):
                optimizer.zero_grad()
                (sign * (layers(ids).square().sum() + (layers[0].weight.sum() if whole else 0.0))).backward()
                optimizer.step()
            pair.append(layers[0].weight.detach().numpy().copy())
        np.testing.assert_array_equal(*pair)
