"""The layers against torch's own: forward, gradients, what they add, and what becomes of copies."""

from __future__ import annotations

import copy
import io
import pickle
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import unhot.torch

from .twins import by_rows, unpublished

ROWS, DIM = 12, 3


def owned(layer: nn.Module) -> torch.optim.Optimizer:
    """An optimizer that owns the tables of `layer`, so that gradients are row-sparse."""
    return unhot.torch.SGD(layer.parameters(), lr=0.1)


def pair(kind: str, **options: Any) -> tuple[Any, Any]:
    """Torch's layer and ours, with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(ROWS, DIM, dtype=torch.float64, **options)
    ours = getattr(unhot.torch, kind)(ROWS, DIM, dtype=torch.float64, _weight=theirs.weight.detach().clone(), **options)
    return theirs, ours


def same(theirs: nn.Module, ours: nn.Module, *inputs: Any) -> None:
    """Outputs and gradients agree, before an optimizer owns the table and after."""
    for own in (False, True):
        if own:
            optimizer = owned(ours)
        results = []
        for layer in (theirs, ours):
            layer.zero_grad()
            out = layer(*inputs)
            (out * torch.linspace(-1, 2, out.numel(), dtype=out.dtype).reshape(out.shape)).sum().backward()
            gradient = layer.weight.grad
            assert isinstance(gradient, Tensor)
            assert by_rows(gradient) == (own and layer is ours)
            results.append((out.detach(), gradient.to_dense()))
        for a, b in zip(*results, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    del optimizer


@pytest.mark.parametrize("shape", [(5,), (2, 3), (), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_lookup(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    same(*pair("Embedding"), torch.randint(ROWS, shape).to(dtype))


OPTIONS: list[dict[str, Any]] = [
    {"padding_idx": 2},
    {"padding_idx": -1},
    {"scale_grad_by_freq": True},
    {"max_norm": 1.0},
    {"max_norm": 0.5, "norm_type": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_options(options: dict[str, Any]) -> None:
    same(*pair("Embedding", **options), torch.tensor([[1, 2, 2], [11, 5, 2]]))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"include_last_offset": True}, {"max_norm": 1.0}])
def test_bags(mode: str, options: dict[str, Any]) -> None:
    theirs, ours = pair("EmbeddingBag", mode=mode, **options)
    same(
        theirs,
        ours,
        torch.tensor([1, 2, 2, 11, 5]),
        torch.tensor([0, 2, 2, 5] if options.get("include_last_offset") else [0, 2, 2]),
    )
    same(*pair("EmbeddingBag", mode=mode, **options), torch.tensor([[1, 2, 2], [11, 5, 2]]))


@pytest.mark.parametrize("padding_idx", [None, 2])
def test_bags_with_factors(padding_idx: int | None) -> None:
    theirs, ours = pair("EmbeddingBag", mode="sum", padding_idx=padding_idx)
    factors = torch.linspace(-1, 1, 6, dtype=torch.float64)
    same(theirs, ours, torch.tensor([[1, 2, 2], [11, 5, 2]]), None, factors.reshape(2, 3))
    gradients = []
    for layer in (theirs, ours):
        leaf = factors.clone().requires_grad_()
        layer(torch.tensor([1, 2, 2, 11, 5, 0]), torch.tensor([0, 3]), leaf).pow(2).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_repr_and_attributes_are_torchs() -> None:
    for options in ({}, {"padding_idx": 2, "max_norm": 1.0, "scale_grad_by_freq": True}, {"sparse": True}):
        theirs, ours = pair("Embedding", **options)
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs, ours = pair("EmbeddingBag", mode="max")
    assert repr(ours) == repr(theirs)


def test_id_out_of_range_names_it() -> None:
    _, ours = pair("Embedding")
    optimizer = owned(ours)
    with pytest.raises(IndexError, match="id 12 at position"):
        ours(torch.tensor([[0], [12]]))
    del optimizer


def test_from_dense_and_back() -> None:
    linear = nn.Linear(ROWS, DIM, dtype=torch.float64)
    layer = unhot.torch.Embedding.from_dense(linear, activation=torch.tanh)
    ids = torch.tensor([3, 0, 3])
    one_hot = nn.functional.one_hot(ids, ROWS).double()
    torch.testing.assert_close(layer(ids), torch.tanh(linear(one_hot)))
    torch.testing.assert_close(layer.to_dense()(one_hot), linear(one_hot))
    assert "bias=True, activation=tanh" in repr(layer)


def test_out_of_range_policies() -> None:
    ids = torch.tensor([[1, -3], [ROWS, 4]])
    zero = unhot.torch.Embedding(ROWS, DIM, out_of_range="zero")
    optimizer = owned(zero)
    found = zero(ids)
    assert not found[0, 1].any()
    assert not found[1, 0].any()
    assert torch.equal(found[1, 1], zero.weight[4])
    found.sum().backward()
    assert torch.equal(zero.weight.grad.to_dense().sum(1).nonzero().reshape(-1), torch.tensor([1, 4]))
    del optimizer
    unknown = unhot.torch.Embedding(ROWS, DIM, out_of_range=7)
    assert torch.equal(unknown(ids)[0, 1], unknown.weight[7])
    with pytest.raises(ValueError, match="out_of_range"):
        unhot.torch.Embedding(ROWS, DIM, out_of_range=ROWS)


@pytest.mark.parametrize("options", [{}, {"scale_grad_by_freq": True}, {"max_norm": 0.5}], ids=str)
@pytest.mark.parametrize("own", [False, True])
def test_zero_looks_no_other_row_up(own: bool, options: dict[str, Any]) -> None:
    """Ids out of range are neither counted nor renormed, and those within are as torch has them."""
    theirs, ours = pair("Embedding", **options)
    ours.out_of_range = "zero"
    optimizer = owned(ours) if own else None
    often = 2 if "max_norm" in options else 0  # the row that a bad id must not renorm, or count for
    good, ids = torch.tensor([often, 1, often, 5]), torch.tensor([[often, -5, 1], [99, often, 5]])
    found, wanted = ours(ids), theirs(good)
    torch.testing.assert_close(found[torch.tensor([[True, False, True], [False, True, True]])], wanted)
    assert not found[0, 1].any()
    (found.sum() + 0 * ours(torch.tensor([-1, ROWS])).sum()).backward()
    wanted.sum().backward()
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad)
    torch.testing.assert_close(ours.weight.detach(), theirs.weight.detach())
    del optimizer


def test_rows_without_elements() -> None:
    layer = unhot.torch.Embedding(ROWS, 0)
    for optimizer in (unhot.torch.AdamW, unhot.torch.Adamax, unhot.torch.SGD):
        training = optimizer(layer.parameters(), lr=0.1)
        layer(torch.tensor([1, 1, 3])).sum().backward()
        training.step()
        assert layer.weight.shape == (ROWS, 0)
        del training


@unpublished
@pytest.mark.parametrize("mode", [nullcontext(), torch.device("cpu")], ids=["no mode", "a default device"])
def test_parameters_made_of_a_tables(mode: AbstractContextManager[object]) -> None:
    """They share its memory, as torch's do, and are as free as any new parameter."""
    layer = unhot.torch.Embedding(ROWS, DIM)
    optimizer = owned(layer)
    layer(torch.tensor([1])).sum().backward()
    optimizer.step()
    with mode:
        made = [
            nn.Parameter(layer.weight),
            nn.Embedding.from_pretrained(layer.weight, freeze=False).weight,
            unhot.torch.Embedding.from_pretrained(layer.weight).weight,
            unhot.torch.EmbeddingBag.from_pretrained(layer.weight).weight,
        ]
    for parameter, wanted in zip(made, (True, True, False, False), strict=True):
        assert isinstance(parameter, nn.Parameter)
        assert (parameter.is_leaf, parameter.requires_grad) == (True, wanted)
        assert torch.equal(parameter, layer.weight)
        assert parameter.data_ptr() == layer.weight.data_ptr()
        assert getattr(parameter, "training", None) is None
    assert type(layer.weight.detach()) is Tensor


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
def test_parametrized_weights_are_worked_out_once(kind: str) -> None:
    calls = 0

    class Count(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            return weight

    layer = getattr(unhot.torch, kind)(ROWS, DIM)
    nn.utils.parametrize.register_parametrization(layer, "weight", Count())
    calls = 0
    layer(torch.tensor([[1, 2]]))
    assert calls == 1


@pytest.mark.parametrize("norm_type", [2.0, 1.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.1, 100.0])
@pytest.mark.parametrize("sparse", [None, True])
def test_clipping_takes_the_dense_norm(sparse: bool | None, norm_type: float, max_norm: float) -> None:
    theirs, ours = pair("Embedding")
    ours.sparse = sparse
    optimizer = owned(ours)
    head = nn.Linear(DIM, 2, dtype=torch.float64)
    totals = []
    for layer, clip in ((theirs, nn.utils.clip_grad_norm_), (ours, unhot.torch.clip_grad_norm_)):
        head.zero_grad()
        head(layer(torch.tensor([1, 5, 1, 1]))).pow(2).sum().backward()
        totals.append(clip([*layer.parameters(), *head.parameters()], max_norm, norm_type))
    torch.testing.assert_close(totals[1], totals[0])
    torch.testing.assert_close(ours.weight.grad.to_dense(), theirs.weight.grad)
    del optimizer


def test_convert_keeps_weights_ties_and_hooks() -> None:
    class Odd(nn.Embedding):
        pass

    model = nn.Module()
    model.words = nn.Embedding(ROWS, DIM, padding_idx=1)
    model.bag = nn.EmbeddingBag(ROWS, DIM)
    model.head = nn.Linear(DIM, ROWS, bias=False)
    model.head.weight = model.words.weight
    model.odd = Odd(ROWS, DIM)
    called: list[int] = []
    model.words.register_forward_hook(lambda *_: called.append(1))
    words, before = model.words, model.words(torch.arange(ROWS)).detach()
    report = unhot.torch.convert(model)
    assert report.replaced == {"words": "Embedding", "bag": "EmbeddingBag"}
    assert report.model is model
    assert list(report.left) == ["odd"]
    assert model.words is words
    assert model.head.weight is model.words.weight
    assert len(list(model.parameters())) == 3
    assert torch.equal(model.words(torch.arange(ROWS)), before)
    assert len(called) == 2
    optimizer = unhot.torch.Adam(model.parameters())
    model.words(torch.tensor([3])).sum().backward()
    assert by_rows(model.words.weight.grad)
    optimizer.step()
    assert not unhot.torch.convert(model).replaced


def test_copies_are_settled_and_without_an_owner() -> None:
    layer = unhot.torch.Embedding(ROWS, DIM)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    for ids in ([1, 2], [3], [4]):
        optimizer.zero_grad()
        layer(torch.tensor(ids)).pow(2).sum().backward()
        optimizer.step()
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    weights = io.BytesIO()
    torch.save(layer.state_dict(), weights)
    weights.seek(0)
    plain = nn.Embedding(ROWS, DIM)
    plain.load_state_dict(torch.load(weights))
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(file, weights_only=False), plain]
    for other in copies:
        assert torch.equal(other.weight, layer.weight)
        assert getattr(other.weight, "training", None) is None
        assert other.weight.requires_grad
    assert all(type(other.weight) is type(layer.weight) for other in copies[:3])


def test_writes_win_over_deferred_steps() -> None:
    layer = unhot.torch.Embedding(ROWS, DIM)
    optimizer = unhot.torch.Adam(layer.parameters(), lr=0.1)
    layer(torch.tensor([1, 2])).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    layer(torch.tensor([5])).sum().backward()
    optimizer.step()
    layer.load_state_dict({"weight": torch.full((ROWS, DIM), 2.0)})
    assert (layer.weight == 2).all()
    assert (layer(torch.arange(ROWS)) == 2).all()
    with torch.no_grad():
        layer.weight.fill_(3.0)
    assert (layer(torch.arange(ROWS)) == 3).all()
    layer.weight.data = torch.full((ROWS, DIM), 4.0)
    assert (layer(torch.arange(ROWS)) == 4).all()
    optimizer.zero_grad()
    layer(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert not (layer.weight == 4).all()
