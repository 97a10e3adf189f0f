"""A table and its dense twin, trained by the same stream: what several test modules compare with each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import unhot.torch
from unhot.torch._private import ON
from unhot.training import State

unpublished = pytest.mark.skipif(not ON, reason="needs names that PyTorch does not publish")
"""For tests of what has no fallback in `unhot.torch._private`."""

OLD = torch.__version__ < (2, 10)  # torch's version is a string that compares with tuples
"""Whether PyTorch is one of those whose own classes do less than 2.10: what they cannot do is not asked of ours."""


@contextmanager
def default_device(name: str) -> Iterator[None]:
    """New tensors are made there, where nothing else is said."""
    torch.set_default_device(name)
    try:
        yield
    finally:
        torch.set_default_device(None)
        vars(torch._GLOBAL_DEVICE_CONTEXT).clear()  # or PyTorch 2.8 goes on asking it


ROWS, DIM = 30, 3
LR = 0.05


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    """In float64, also what optimizers keep in the default dtype."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def batches(seed: int, steps: int) -> list[Tensor]:
    """Most of the rows rest for long, some of them for ever."""
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.integers(ROWS - 3 if i % 20 == 0 else 5, size=6)) for i in range(steps)]


def train(layer: Any, optimizer: torch.optim.Optimizer, seed: int = 0, steps: int = 45) -> None:
    for i, ids in enumerate(batches(seed, steps)):
        optimizer.zero_grad()
        (layer(ids) - torch.sin(ids.double() + i).unsqueeze(-1)).pow(2).sum().backward()
        optimizer.step()


def layers(dim: int = DIM, **options: Any) -> tuple[nn.Embedding, unhot.torch.Embedding]:
    """The dense twin and the table, with the same weights."""
    torch.manual_seed(0)
    theirs, ours = nn.Embedding(ROWS, dim, **options), unhot.torch.Embedding(ROWS, dim, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def pair(name: str = "AdamW", given: dict[str, Any] | None = None, **options: Any) -> list[tuple[Any, torch.optim.Optimizer]]:
    """Both, each with its optimizer; AdamW's momentum and decay move every row at every step."""
    return [
        (layer, getattr(module, name)(layer.parameters(), **{"lr": LR, **(given or {})}))
        for layer, module in zip(layers(**options), (torch.optim, unhot.torch), strict=True)
    ]


def close(ours: Any, theirs: Any) -> None:
    a, b = (x.detach().numpy() if isinstance(x, Tensor) else x for x in (ours, theirs))
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def by_rows(gradient: Any) -> bool:
    """Whether a gradient holds the rows that have one, and no others."""
    return gradient.is_sparse or (isinstance(gradient, unhot.torch.RowGradient) and gradient.ids is not None)


def deferred(layer: nn.Embedding) -> bool:
    """Whether rows of the table have steps to come."""
    tie: Any = getattr(layer.weight, "ownership", None)
    return tie is not None and tie.state is State.DEFERRED
