"""Bias, activation and ids out of range of bags: what `nn.Linear` on multi-hot vectors computes, and what it learns."""

from __future__ import annotations

import copy
import io
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from selection import slow
from torch import Tensor, nn

import unhot.torch

from .twins import _double, by_rows, close  # noqa: F401  (in float64)

pytestmark = pytest.mark.filterwarnings("error::unhot.DenseFallbackWarning")

ROWS, DIM = 9, 3

Policy = Any
MODES = ["sum", "mean", "max"]


class MultiHot(nn.Module):
    """A Linear layer on what bags of one-hot vectors come to, where an id out of range has a vector of zeros."""

    def __init__(self, layer: unhot.torch.EmbeddingBag) -> None:
        super().__init__()
        self.mode, self.padding_idx, self.policy, self.activation = (
            layer.mode, layer.padding_idx, layer.out_of_range, layer.activation,
        )  # fmt: skip
        self.linear = copy.deepcopy(layer.to_dense())

    def forward(self, ids: Tensor, offsets: Tensor | None = None, factors: Tensor | None = None) -> Tensor:
        if offsets is not None:
            bags = list(zip(offsets.tolist(), [*offsets.tolist()[1:], len(ids)], strict=True))
        else:
            bags = [(i * ids.size(1), (i + 1) * ids.size(1)) for i in range(ids.size(0))]
        factors = torch.ones(ids.numel()) if factors is None else factors.reshape(-1)
        made = [self.bag(ids.reshape(-1)[begin:end], factors[begin:end]) for begin, end in bags]
        found = torch.stack(made) if made else torch.zeros(0, DIM)
        found = found + 0 * self.linear.weight.sum()  # so that there is always something to differentiate
        if self.linear.bias is not None:
            found = found + self.linear.bias
        return found if self.activation is None else self.activation(found)

    def bag(self, ids: Tensor, factors: Tensor) -> Tensor:
        outside = (ids < 0) | (ids >= ROWS)
        if self.policy != "zero":
            ids, outside = ids.masked_fill(outside, int(self.policy)), torch.zeros_like(outside)
        if self.padding_idx is not None:
            kept = ids != self.padding_idx
            ids, outside, factors = ids[kept], outside[kept], factors[kept]
        x = nn.functional.one_hot(ids.masked_fill(outside, 0), ROWS).double() * ~outside.unsqueeze(1)
        if self.mode == "max":
            return (x @ self.linear.weight.T).max(0).values if len(x) else torch.zeros(DIM)
        row = factors @ x
        return (row / max(len(x), 1) if self.mode == "mean" else row) @ self.linear.weight.T


def layer_of(seed: int = 0, **options: Any) -> unhot.torch.EmbeddingBag:
    torch.manual_seed(seed)
    layer = unhot.torch.EmbeddingBag(ROWS, DIM, **options)
    with torch.no_grad():
        layer.weight.uniform_(-1, 1)
        if layer.bias is not None:
            layer.bias.uniform_(-1, 1)
    return layer


def bags(rng: np.random.Generator, weighted: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Ids in rows, or flat with offsets; empty bags and ids out of range among them."""
    shape = tuple(rng.integers([0, 1], 4)) if rng.random() < 0.4 else (int(rng.integers(0, 9)),)
    ids = torch.from_numpy(rng.integers(-2, ROWS + 2, size=shape))
    offsets = torch.tensor([0, *sorted(rng.integers(0, len(ids) + 1, size=rng.integers(0, 4)))]) if len(shape) == 1 else None
    return ids, offsets, torch.from_numpy(rng.normal(size=shape)) if weighted else None


@pytest.mark.parametrize("padding_idx", [None, 2])
@pytest.mark.parametrize("policy", ["zero", 4])
@pytest.mark.parametrize("mode", MODES)
def test_vectors_gradients_and_training(mode: str, policy: Policy, padding_idx: int | None) -> None:
    """Of layers that nothing owns, and of owned ones, whose gradient is by rows; trained, rows rest in most of the steps."""
    rng = np.random.default_rng(0)
    for own, activation, biased in product([False, True], [None, torch.tanh], [False, True]):
        ours = layer_of(mode=mode, padding_idx=padding_idx, bias=biased, activation=activation, out_of_range=policy)
        theirs = MultiHot(ours)
        kinds = (unhot.torch.AdamW if own else torch.optim.AdamW, torch.optim.AdamW)
        optimizers = [kind(layer.parameters(), lr=0.05) for kind, layer in zip(kinds, (ours, theirs), strict=True)]
        for _ in range(12):
            given = bags(rng, mode == "sum" and rng.random() < 0.5)
            found = []
            for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
                optimizer.zero_grad()
                out = layer(*given)
                (out * torch.linspace(-1, 2, out.numel()).reshape(out.shape)).sum().backward()
                found.append(out)
            close(*found)
            gradient = ours.weight.grad
            assert gradient is not None
            assert by_rows(gradient) is own
            assert theirs.linear.weight.grad is not None
            close(gradient.to_dense().clone(), theirs.linear.weight.grad.T)  # its own memory would make the step dense
            for optimizer in optimizers:
                optimizer.step()
        close(ours.weight, theirs.linear.weight.T)
        if biased:
            close(ours.bias, theirs.linear.bias)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("own", [False, True])
def test_gradients_of_factors_and_the_last_offset(mode: str, own: bool) -> None:
    """With the ids that are within, torch's own layer gives the same; what it refuses stays refused."""
    options = {"mode": mode, "include_last_offset": True}
    ours = layer_of(out_of_range="zero", **options)
    theirs = layer_of(**options)
    optimizer = unhot.torch.SGD(ours.parameters()) if own else None
    ids, offsets = torch.tensor([1, -5, 2, 2, 77, 3]), torch.tensor([0, 3, 3, 6])
    good, fewer = torch.tensor([1, 2, 2, 3]), torch.tensor([0, 2, 2, 4])
    if mode == "sum":
        factors = torch.linspace(1, 2, 6).requires_grad_()
        ours(ids, offsets, factors).square().sum().backward()
        others = factors.detach()[[0, 2, 3, 5]].requires_grad_()
        theirs(good, fewer, others).square().sum().backward()
        assert factors.grad is not None
        assert others.grad is not None
        close(factors.grad[[0, 2, 3, 5]], others.grad)
        close(factors.grad[[1, 4]], torch.zeros(2))
    else:
        found, wanted = ours(ids, offsets), theirs(good, fewer)
        share = torch.tensor([[2 / 3], [1], [2 / 3]])
        close(found, wanted * share if mode == "mean" else torch.where(share < 1, wanted.clamp(min=0), wanted))
    told = []
    for layer, given in ((ours, torch.tensor([-1, 2])), (theirs, torch.tensor([1, 2]))):
        with pytest.raises((ValueError, RuntimeError)) as error:
            layer(given, torch.tensor([1, 2]))
        told.append(str(error.value))
    assert told[0] == told[1]
    del optimizer


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
def test_ids_out_of_range_touch_no_row(kind: str) -> None:
    """`LazyAdam` moves the rows that are named; none stands in for an id that is out of range."""
    layer = getattr(unhot.torch, kind)(ROWS, DIM, out_of_range="zero")
    optimizer = unhot.torch.LazyAdam(layer.parameters(), lr=0.1)
    for ids in ([[0, 1]], [[-1, 2]], [[ROWS, -1]]):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        layer(torch.tensor(ids)).sum().backward()
        optimizer.step()
        moved = (layer.weight.detach() != before).any(1).nonzero().reshape(-1).tolist()
        assert moved == [row for row in ids[0] if 0 <= row < ROWS]


@pytest.mark.parametrize("options", [{"max_norm": 0.5}, {"scale_grad_by_freq": True}], ids=str)
@pytest.mark.parametrize("own", [False, True])
def test_zero_renorms_and_counts_no_row(own: bool, options: dict[str, Any]) -> None:
    ours, theirs = (layer_of(mode="sum", **options, **more) for more in ({"out_of_range": "zero"}, {}))
    optimizers = [unhot.torch.SGD(layer.parameters()) for layer in (ours, theirs)] if own else []
    found, wanted = ours(torch.tensor([[5, -1], [77, 6]])), theirs(torch.tensor([[5], [6]]))
    close(found, wanted)
    for out in (found, wanted):
        out.square().sum().backward()
    close(ours.weight.grad.to_dense(), theirs.weight.grad.to_dense())  # type: ignore[union-attr]
    close(ours.weight, theirs.weight)
    del optimizers


def test_from_dense_and_back() -> None:
    linear = nn.Linear(ROWS, DIM)
    layer = unhot.torch.EmbeddingBag.from_dense(linear, activation=torch.relu, out_of_range="zero")
    x = torch.zeros(2, ROWS)
    x[0, 3], x[0, 1], x[1, 5] = 2, 1, 1
    found = layer(torch.tensor([[3, 1, 3], [5, -1, ROWS]]))
    close(found, torch.relu(linear(x)))
    close(layer.to_dense()(x), linear(x))
    assert repr(layer) == "EmbeddingBag(9, 3, mode='sum', bias=True, activation=relu, out_of_range='zero')"
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert unhot.torch.EmbeddingBag.from_dense(nn.Linear(ROWS, DIM, bias=False), "mean").bias is None


def test_states_and_copies() -> None:
    layer = layer_of(bias=True, activation=nn.Tanh(), out_of_range=1)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    again = unhot.torch.EmbeddingBag(ROWS, DIM, bias=True, activation=nn.Tanh(), out_of_range=1)
    again.load_state_dict(layer.state_dict())
    ids = torch.tensor([[3, 99]])
    for other in (again, torch.load(file, weights_only=False), copy.deepcopy(layer)):
        close(other(ids), layer(ids))


def test_convert_leaves_what_torch_has_not() -> None:
    given: list[dict[str, Any]] = [{"bias": True}, {"activation": torch.relu}, {"out_of_range": "zero"}, {}]
    model = nn.Sequential(*(layer_of(**options) for options in given))
    done = unhot.torch.convert(model, to="stock")
    assert done.left == {
        "0": "torch.nn.EmbeddingBag has no bias", "1": "torch.nn.EmbeddingBag has no activation",
        "2": "torch.nn.EmbeddingBag has no out_of_range",
    }  # fmt: skip
    assert done.replaced == {"3": "unhot.torch.EmbeddingBag"}
    assert type(model[3]) is nn.EmbeddingBag
    assert vars(model[3]).keys() == vars(nn.EmbeddingBag(ROWS, DIM)).keys()


def test_layers_of_earlier_versions() -> None:
    """A pickled bag had none of these attributes."""
    layer = layer_of(mode="sum")
    for name in ("activation", "out_of_range"):
        del layer.__dict__[name]
    del layer._parameters["bias"]
    close(layer(torch.tensor([[1, 2]])), layer.weight[[1, 2]].sum(0, keepdim=True))
    assert repr(layer) == "EmbeddingBag(9, 3, mode='sum')"


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bias": "yes"}, "EmbeddingBag: `bias` must be"), ({"out_of_range": ROWS}, "`out_of_range` must be")],
)
def test_unusable_options(options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        unhot.torch.EmbeddingBag(ROWS, DIM, **options)


def test_a_layer_of_a_collection() -> None:
    """It is called by itself then, with all that it does."""
    tables = unhot.torch.EmbeddingBagCollection({"a": (ROWS, DIM), "b": (ROWS, DIM)})
    optimizer = unhot.torch.SGD(tables.parameters())
    tables.embedding_bags["a"].out_of_range = "zero"  # type: ignore[assignment]
    found = tables({"a": torch.tensor([[1, 99]]), "b": torch.tensor([[1, 2]])})
    close(found[:, :DIM], tables.embedding_bags["a"].weight[[1]])
    del optimizer


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_exported(mode: str, padding_idx: int | None) -> None:
    layer = layer_of(mode=mode, padding_idx=padding_idx, bias=True, activation=torch.tanh, out_of_range="zero").eval()
    ids = torch.tensor([[1, 99, 2], [2, 3, 2], [-1, 77, 2]])
    wanted = MultiHot(layer)(ids)
    exported = torch.export.export(layer, (ids[:, [0, 0, 0]],)).module()
    close(exported(ids), wanted)


@slow
@pytest.mark.parametrize("own", [False, True])
def test_compiled(own: bool) -> None:
    layer = layer_of(mode="mean", bias=True, activation=torch.tanh, out_of_range="zero")
    optimizer = unhot.torch.SGD(layer.parameters()) if own else None
    ids = torch.tensor([[1, 99], [2, 3]])
    close(torch.compile(layer, backend="eager")(ids), layer(ids))
    del optimizer
