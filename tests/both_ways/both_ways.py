"""What the PyTorch models share: one model trained with torch's layers and with unhot's, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

import unhot.torch

TORCH = SimpleNamespace(Embedding=torch.nn.Embedding, EmbeddingBag=torch.nn.EmbeddingBag, AdamW=torch.optim.AdamW)
"""The names that change."""


@dataclass
class Curve:
    """The losses and the seconds of each step."""

    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def train(names: Any, make: Callable[[Any], torch.nn.Module], batches: list[tuple[Any, ...]], loss_of: Any) -> Curve:
    """Train one model, with AdamW, by the layers and the optimizer that `names` holds."""
    torch.manual_seed(0)
    model = make(names)
    optimizer = names.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    curve = Curve()
    for *inputs, wanted in batches:
        begun = time.perf_counter()
        optimizer.zero_grad()
        loss = loss_of(model(*inputs), wanted)
        loss.backward()
        optimizer.step()
        curve.seconds.append(time.perf_counter() - begun)
        curve.losses.append(loss.item())
    return curve


def compare(make: Callable[[Any], torch.nn.Module], batches: list[tuple[Any, ...]], loss_of: Any) -> tuple[Curve, Curve]:
    """Train both ways and print losses and times side by side; the curves of torch and of unhot."""
    dense, rows = (train(names, make, batches, loss_of) for names in (TORCH, unhot.torch))
    print(f"{'step':>6} {'torch':>12} {'unhot':>12} {'difference':>12}")
    for i in range(0, len(batches), max(1, len(batches) // 10)):
        a, b = dense.losses[i], rows.losses[i]
        print(f"{i:>6} {a:12.6f} {b:12.6f} {b - a:12.1e}")
    times = [1e3 * median(curve.seconds[len(batches) // 10 :]) for curve in (dense, rows)]
    print(f"milliseconds of a step: torch {times[0]:.2f}, unhot {times[1]:.2f}: {times[0] / times[1]:.1f} times faster")
    return dense, rows
