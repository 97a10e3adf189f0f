"""A table whose memory is replaced, reshaped or looked at in another order, in the midst of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from selection import product
from torch import nn

import unhot.torch
from unhot.torch.placement import KERNELS

from .twins import DIM, ROWS, _double, close, deferred, pair, train  # noqa: F401


def transpose(layer: nn.Embedding) -> None:
    """The same memory by columns; of a square table, so that everything else keeps its shape."""
    layer.weight.data = layer.weight.data.T


def by_columns(layer: nn.Embedding) -> None:
    """Other memory, by columns."""
    layer.weight.data = layer.weight.data.T.contiguous().T


def every_other(layer: nn.Embedding) -> None:
    layer.weight.data = torch.stack([layer.weight.data] * 2, dim=1)[:, 1]


def set_(layer: nn.Embedding) -> None:
    with torch.no_grad():
        layer.weight.set_(layer.weight.detach().clone() + 1)


def shared(layer: nn.Embedding) -> None:
    layer.share_memory()


MOVES: dict[str, Callable[[nn.Embedding], None]] = {
    "transposed": transpose, "by columns": by_columns, "every other": every_other, "set_": set_, "shared": shared,
}  # fmt: skip


@pytest.mark.parametrize(("move", "before", "kernels"), product(MOVES, [0, 45], ["native", "torch"]))
def test_training_goes_on(move: str, before: int, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the slots as they were, as torch's do. Shared memory is trained densely."""
    monkeypatch.setenv(KERNELS, kernels)
    twins = pair(dim=ROWS)
    for layer, optimizer in twins:
        train(layer, optimizer, steps=before)
        MOVES[move](layer)
    close(twins[1][0](torch.arange(ROWS)), twins[0][0](torch.arange(ROWS)))
    for layer, optimizer in twins:
        train(layer, optimizer, seed=1)
    assert deferred(twins[1][0]) == (move != "shared")
    close(twins[1][0].weight, twins[0][0].weight)
    close(twins[1][1].state_dict()["state"][0]["exp_avg"], twins[0][1].state_dict()["state"][0]["exp_avg"])


def test_rows_lost() -> None:
    """A smaller table in the same memory: ids beyond it are refused, the others are what they were."""
    (layer, optimizer) = pair()[1]
    train(layer, optimizer)
    kept = layer.weight.detach()[: ROWS // 2].clone()
    layer.weight.data = layer.weight.data[: ROWS // 2]
    close(layer(torch.arange(ROWS // 2)), kept)
    with pytest.raises(IndexError, match=f"id {ROWS // 2} at position"):
        layer(torch.tensor([0, ROWS // 2]))


@pytest.mark.parametrize("inference", [False, True])
def test_weights_given_by_columns(inference: bool) -> None:
    """As a Linear's transposed are; the first lookup may be one in inference mode."""
    given = torch.randn(DIM, ROWS).T
    layers = [kind.from_pretrained(given.clone(), freeze=False) for kind in (nn.Embedding, unhot.torch.Embedding)]
    for layer, module in zip(layers, (torch.optim, unhot.torch), strict=True):
        layer.weight.data = layer.weight.data.T.contiguous().T
        optimizer = module.Adam(layer.parameters(), lr=0.05)
        if inference:
            with torch.inference_mode():
                layer(torch.tensor([1, 2]))
        (torch.eye(ROWS, requires_grad=True) @ layer.weight).sum().backward()  # saves the weights; not those of inference
        train(layer, optimizer)
        del optimizer
    close(layers[1].weight, layers[0].weight)


UNSEEN: dict[str, Callable[[Any], Any]] = {
    "shape": lambda weight: weight.shape,
    "zeros_like": torch.zeros_like,
    "empty_like": torch.empty_like,
    "full_like": lambda weight: torch.full_like(weight, 2.0),
    "new_zeros": lambda weight: weight.new_zeros(3),
    "is_shared": lambda weight: weight.is_shared(),
    "is_pinned": lambda weight: weight.is_pinned(),
    "ndimension": lambda weight: weight.ndimension(),
    "grad_dtype": lambda weight: getattr(weight, "grad_dtype", None),
    "requires_grad_": lambda weight: weight.requires_grad_(),
    "len": len,
    "hash": hash,
    "grad": lambda weight: weight.grad,
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_shows_no_number_settles_nothing(name: str) -> None:
    layer, optimizer = pair()[1]
    train(layer, optimizer)
    UNSEEN[name](layer.weight)
    assert deferred(layer)
