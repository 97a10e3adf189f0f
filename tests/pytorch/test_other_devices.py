"""What can be known of other devices where there is none: nothing relies on the default device, and laws work on tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unhot
import unhot.torch
from unhot.laws import LAWS, Law
from unhot.torch.kernels import Namespace
from unhot.torch.placement import KERNELS

from .twins import OLD

ROWS, DIM = 30, 4


def given(*numbers: Any) -> Tensor:
    """A tensor in host memory, whatever the default device is."""
    return torch.from_numpy(np.array(numbers))


def weights(rows: int = ROWS) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, DIM)).astype(np.float32))


def train(layer: nn.Module, inputs: Any, steps: int = 12, kind: str = "AdamW") -> Any:
    """Make some steps; `inputs(k)` is what the layer is called with."""
    optimizer = getattr(unhot.torch, kind)(layer.parameters(), lr=0.05)
    for step in range(steps):
        optimizer.zero_grad()
        found = layer(*inputs(step))
        parts = found.values() if isinstance(found, dict) else [found]
        torch.stack([part.square().sum() for part in parts]).sum().backward()
        unhot.torch.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    return optimizer


def rows_apart(**options: Any) -> Callable[[], Tensor]:
    def run() -> Tensor:
        layer = unhot.torch.Embedding(ROWS, DIM, _weight=weights(), device="cpu", **options)
        train(layer, lambda k: [given(k, 3, k + 5, 3)])
        return layer.weight.detach()

    return run


def bags(**options: Any) -> Callable[[], Tensor]:
    def run() -> Tensor:
        layer = unhot.torch.EmbeddingBag(ROWS, DIM, _weight=weights(), device="cpu", **options)
        train(layer, lambda k: [given([k, 3], [k + 5, 3])])
        train(layer, lambda k: [given(k, 3, k + 5), given(0, 2)])
        if options.get("mode") == "sum":
            train(layer, lambda k: [given(k, 3, k + 5), given(0, 2), given(0.5, 2.0, 1.0).float()])
        return layer.weight.detach()

    return run


def collection() -> Tensor:
    tables = {"a": (ROWS, DIM), "b": (7, DIM)}
    layer = unhot.torch.EmbeddingCollection(tables, output="dict", device="cpu")
    pooled = unhot.torch.EmbeddingBagCollection(tables, device="cpu")
    with torch.no_grad():
        for parameter in (*layer.parameters(), *pooled.parameters()):
            parameter.copy_(weights(len(parameter)))
    train(layer, lambda k: [{"a": given(k, 3), "b": given(k % 7, 1)}])
    train(pooled, lambda k: [{"a": given([k, 3], [3, 4]), "b": (given(1, k % 7), given(0, 1))}])
    return torch.cat([parameter.detach() for parameter in (*layer.parameters(), *pooled.parameters())])


def keys() -> Tensor:
    layer = unhot.torch.KeyedEmbedding(unhot.Vocabulary(unknown="grow"), DIM, init=nn.init.ones_, device="cpu")
    train(layer, lambda k: [given(10**12 + k, 7, -k)])
    layer.remove(given(7))
    train(layer, lambda k: [[7, -k]])
    return layer.weight.detach()


def growth() -> Tensor:
    layer = unhot.torch.Embedding(ROWS, DIM, _weight=weights(), device="cpu")
    layer.frozen = given(1, 4)
    train(layer, lambda k: [given(k, 3)])
    layer.remove([2, 8])
    added = layer.grow(3, [[1.0] * DIM] * 3)
    layer.grow(1, "mean")
    layer.grow(1, nn.init.zeros_)
    train(layer, lambda k: [added])
    layer.only_train(added)
    train(layer, lambda k: [layer.frozen])
    copy = unhot.torch.Embedding(len(layer.weight), DIM, device="cpu")
    copy.load_state_dict(layer.state_dict())
    return copy.weight.detach()


def converted() -> Tensor:
    stock = nn.Embedding(ROWS, DIM, _weight=weights(), device="cpu")
    layer: Any = unhot.torch.convert(nn.Sequential(stock)).model
    optimizer = train(layer, lambda k: [given(k, 3)], kind="Adam")
    again = unhot.torch.Adam(layer.parameters(), lr=0.05)
    again.load_state_dict(optimizer.state_dict())
    weight: Tensor = layer[0].weight.detach()
    return weight


PROGRAMS = {
    "rows": rows_apart(), "sparse": rows_apart(sparse=True), "norms": rows_apart(max_norm=1.0),
    "ids out of range": rows_apart(out_of_range="zero"), "bias": rows_apart(bias=True),
    "sums": bags(mode="sum"), "means": bags(mode="mean", padding_idx=3), "largest": bags(mode="max"),
    "collections": collection, "keys": keys, "growth": growth, "converted": converted,
}  # fmt: skip


@pytest.fixture(params=["native", "torch"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(KERNELS, request.param)
    asked: str = request.param
    return asked


@pytest.mark.filterwarnings("ignore::unhot.DenseFallbackWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_tables_are_elsewhere_than_new_tensors(name: str, kernels: str) -> None:
    """With a default device on which nothing can be read, tables on the CPU train as before."""
    if name == "bias" and OLD:
        pytest.skip("PyTorch's own optimizers do not step a parameter that is elsewhere than new tensors")
    expected = PROGRAMS[name]()
    with torch.device("meta"):
        found = PROGRAMS[name]()
    assert torch.equal(found, expected)


def numbers_of(names: Any, rng: np.random.Generator) -> Any:
    """Numbers for the coefficients or the scalars of a law."""
    return names(*(abs(rng.normal()) + 0.1 for _ in names._fields))


@pytest.mark.parametrize("law", [law for kind in LAWS for law in kind.variants()], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_laws_on_tensors(law: Law, dtype: Any) -> None:
    """They are on torch's operations what they are on NumPy's, but for rounding.

    Laws that settle rows by panels and the like are tested by training (tests/conformance).
    """
    rng = np.random.default_rng(0)
    arrays = [np.abs(rng.normal(size=(6, law.slot_width(name, DIM)))).astype(dtype) for name in ("", *law.slots)]
    gradient, lines = rng.normal(size=(6, DIM)).astype(dtype), np.abs(rng.normal(size=(6, law.width))) + 0.1
    shared, scalars = numbers_of(law.Shared, rng), numbers_of(law.Scalars, rng)
    rows, tensors = tuple(arrays), tuple(map(torch.from_numpy, arrays))
    of_tensors = type(scalars)(*(torch.tensor(number, dtype=torch.float64) for number in scalars))
    expected = law.update(np, rows, gradient, scalars, shared)
    found = law.update(Namespace, tensors, torch.from_numpy(gradient), of_tensors, shared)
    if not law.native_settle:
        expected += law.settle(np, rows, law.columns(lines), shared)
        found += law.settle(Namespace, tensors, law.columns(torch.from_numpy(lines)), shared)
    for ours, theirs in zip(found, expected, strict=True):
        tolerance = 64 * np.finfo(dtype).eps  # of a few operations of numbers near 1
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=tolerance, atol=tolerance)
