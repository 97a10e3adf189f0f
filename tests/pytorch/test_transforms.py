"""Tables of an optimizer under what traces or transforms torch's operations: settled weights, by torch's own lookup."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import unhot.torch
from unhot.torch.placement import KERNELS

from .twins import DIM, OLD, ROWS, _double, batches, by_rows, close, deferred, pair, train, unpublished  # noqa: F401

IDS = torch.tensor([7, 8, 3, 8])
ONES = torch.ones(DIM, dtype=torch.float64)


def parameters(layer: nn.Embedding) -> dict[str, Any]:
    """Those of the layer as they are: what torch.func makes of them is told to nobody."""
    return dict(layer.named_parameters())


def squares(weights: dict[str, Tensor], layer: nn.Embedding) -> Tensor:
    return functional_call(layer, weights, IDS).pow(2).sum()


def dual(layer: nn.Embedding) -> Tensor:
    with forward_ad.dual_level():
        twin = forward_ad.make_dual(layer.weight, torch.ones(ROWS, DIM))
        found = forward_ad.unpack_dual(nn.functional.embedding(IDS, twin))
        assert found.tangent is not None
        return found.primal + found.tangent


def traced(layer: nn.Embedding) -> Tensor:
    """Traced with some ids, and called with others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(layer, (torch.tensor([1, 2]),))(IDS)


def bag(layer: nn.Embedding) -> Tensor:
    return torch.func.vmap(lambda one: nn.functional.embedding_bag(one[None], layer.weight, mode="sum"))(IDS.reshape(2, 2))


def bag_called(layer: nn.Embedding) -> Tensor:
    """The gradient of a bag whose weight is the layer's parameter, put in its place by `functional_call`."""
    kind = unhot.torch.EmbeddingBag if isinstance(layer, unhot.torch.Embedding) else nn.EmbeddingBag
    other = kind(ROWS, DIM, mode="sum")
    return torch.func.grad(lambda p: functional_call(other, p, IDS.reshape(2, 2)).pow(2).sum())(parameters(layer))["weight"]


LOOKUPS: dict[str, Callable[[nn.Embedding], Any]] = {
    "vmap": lambda layer: torch.func.vmap(layer)(IDS),
    "grad": lambda layer: torch.func.grad(lambda x: (layer(IDS) * x).sum())(ONES),
    "jacrev": lambda layer: torch.func.jacrev(lambda x: layer(IDS) * x)(ONES),
    "jacfwd": lambda layer: torch.func.jacfwd(lambda x: layer(IDS) * x)(ONES),
    "hessian": lambda layer: torch.func.hessian(lambda x: (layer(IDS) * x).sum().pow(2))(ONES),
    "the whole weight": lambda layer: torch.func.grad(lambda x: (layer.weight * x).sum())(ONES),
    "bag": bag,
    "functional_call": lambda layer: torch.func.grad(squares)(parameters(layer), layer)["weight"],
    "functional_call of a bag": bag_called,
    "functional_call, twice": lambda layer: torch.func.jacrev(torch.func.grad(squares))(parameters(layer), layer)["weight"][
        "weight"
    ],
    "vjp": lambda layer: torch.func.vjp(lambda p: functional_call(layer, p, IDS), parameters(layer))[0],
    "jvp": lambda layer: torch.func.jvp(
        lambda p: functional_call(layer, p, IDS), (parameters(layer),), ({"weight": torch.ones(ROWS, DIM)},)
    )[0],
    "ensemble": lambda layer: torch.func.stack_module_state([layer])[0]["weight"][0],
    "functionalize": lambda layer: torch.func.functionalize(layer)(IDS),
    "forward AD": dual,
    "jit.trace": traced,
    "fx": lambda layer: torch.fx.symbolic_trace(nn.Sequential(layer))(IDS),
}


@unpublished
@pytest.mark.parametrize("kernels", ["native", "torch"])
@pytest.mark.parametrize("name", LOOKUPS)
def test_as_torch(name: str, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And training goes on as if nothing had been read."""
    monkeypatch.setenv(KERNELS, kernels)
    (theirs, reference), (ours, optimizer) = pair()
    for layer, own in ((theirs, reference), (ours, optimizer)):
        train(layer, own)
    assert deferred(ours)
    close(LOOKUPS[name](ours), LOOKUPS[name](theirs))
    for layer, own in ((theirs, reference), (ours, optimizer)):
        train(layer, own, seed=1)
    close(ours.weight, theirs.weight)


@unpublished
def test_training_through_vmap() -> None:
    """The gradient is dense then, and the step torch's own."""
    twins = pair()
    for layer, optimizer in twins:
        train(layer, optimizer)
        train(torch.func.vmap(layer), optimizer, seed=1)
        assert layer.weight.grad is not None
        assert not by_rows(layer.weight.grad)
        train(layer, optimizer, seed=2)
    close(twins[1][0].weight, twins[0][0].weight)


@unpublished
@pytest.mark.skipif(OLD, reason="FakeTensorMode refuses all subclasses")
def test_fake_tensors() -> None:
    """Shapes without numbers: the table is left as it is."""
    _, (layer, optimizer) = pair()
    train(layer, optimizer)
    before = copy.deepcopy(layer.weight).detach()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert layer(IDS).shape == (len(IDS), DIM)
    assert torch.equal(layer.weight, before)


@unpublished
@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("owned", [False, True])
def test_make_fx(owned: bool, pre_dispatch: bool) -> None:
    """The graph has torch's own operations on settled weights; also on those of a table that nobody owns."""
    layer, optimizer = pair()[1]
    train(layer, optimizer)
    if not owned:
        del optimizer
    for function in (
        layer,
        lambda ids: (layer.weight * 2)[ids],
        lambda ids: nn.functional.embedding_bag(ids[None], layer.weight),
    ):
        if owned:
            train(layer, optimizer)
            assert deferred(layer)
        graph = make_fx(function, pre_dispatch=pre_dispatch)(torch.tensor([1, 2]))
        close(graph(IDS[:2]), function(IDS[:2]))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("what", ["step", "everything"])
def test_compiled_steps(what: str, backend: str) -> None:
    """An optimizer's step in a graph would take tables for plain tensors; a dense parameter is stepped beside one."""
    twins = pair()
    for layer, optimizer in twins:
        torch._dynamo.reset()
        torch.manual_seed(1)
        dense = nn.Linear(DIM, 2)
        optimizer.add_param_group({"params": dense.parameters()})

        def backward(ids: Tensor, layer: Any = layer, optimizer: Any = optimizer, dense: Any = dense) -> None:
            optimizer.zero_grad()
            (dense(layer(ids)) - 1).pow(2).sum().backward()

        def everything(ids: Tensor, backward: Any = backward, optimizer: Any = optimizer) -> None:
            backward(ids)
            optimizer.step()

        step = torch.compile(optimizer.step, backend=backend)
        compiled = torch.compile(everything, backend=backend)
        for ids in batches(0, 30):
            if what == "step":
                backward(ids)
                step()
            else:
                compiled(ids)
    assert by_rows(twins[1][0].weight.grad)
    close(twins[1][0].weight, twins[0][0].weight)


@pytest.mark.parametrize("strict", [False, True])
def test_export_while_owned(strict: bool) -> None:
    """The graph holds torch's own operations and settled weights, and training goes on."""
    _, (layer, optimizer) = pair()
    train(layer, optimizer)
    program = torch.export.export(layer.eval(), (IDS,), strict=strict)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert called == ["aten.embedding.default"]
    np.testing.assert_array_equal(program.module()(IDS).detach(), layer(IDS).detach())
    train(layer, optimizer, seed=1)
    assert deferred(layer)


@pytest.mark.parametrize("by", ["is_grads_batched", "vmap"])
@pytest.mark.parametrize("kind", ["Embedding", "padded", "scaled", "sum", "mean", "collection"])
def test_many_gradients_at_once(kind: str, by: str) -> None:
    """`is_grads_batched`, and `vmap` of `autograd.grad`, as for gradients of single samples or tasks."""
    ids = torch.tensor([[1, 3], [3, 3], [0, 2]])
    torch.manual_seed(0)
    weights, found = torch.randn(6, 2), []
    for module in (nn, unhot.torch):
        if kind == "collection":
            if module is nn:
                layer: Any = nn.EmbeddingBag.from_pretrained(weights.clone(), mode="sum", freeze=False)
                look_up = layer
            else:
                config = unhot.torch.EmbeddingBagConfig(
                    num_embeddings=6, embedding_dim=2, name="a", feature_names=["a"], pooling="sum"
                )
                layer = unhot.torch.EmbeddingBagCollection([config])
                with torch.no_grad():
                    next(layer.parameters()).copy_(weights)
                look_up = lambda given, layer=layer: layer({"a": given})  # noqa: E731
        else:
            options = {"padded": {"padding_idx": 3}, "scaled": {"scale_grad_by_freq": True}}.get(kind, {})
            if kind in ("sum", "mean"):
                layer = module.EmbeddingBag.from_pretrained(weights.clone(), mode=kind, freeze=False)
            else:
                layer = module.Embedding.from_pretrained(weights.clone(), freeze=False, **options)
            look_up = layer
        (weight,) = layer.parameters()
        if module is unhot.torch:
            optimizer = unhot.torch.Adam(layer.parameters(), lr=0.0)
            look_up(ids).sum().backward()
            optimizer.step()
        vectors = look_up(ids)
        many = torch.randn(4, *vectors.shape, generator=torch.Generator().manual_seed(1))
        if by == "vmap":
            gradient = partial(torch.autograd.grad, vectors, [weight], retain_graph=True)
            found.append(torch.func.vmap(lambda given, gradient=gradient: gradient(given)[0])(many))
        else:
            found.append(torch.autograd.grad(vectors, weight, many, is_grads_batched=True)[0])
    torch.testing.assert_close(*found)
