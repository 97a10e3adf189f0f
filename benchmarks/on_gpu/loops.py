"""Torch's training loop around one embedding layer, on any device: `unhot.torch` and what it is compared with."""

from __future__ import annotations

from typing import Any

import replay
import torch
from rivals.torch_loss import loss
from torch import Tensor

import unhot.torch

DIM = 64


class Loop:
    """A rival's layer and optimizer; with the same weights at the beginning for all."""

    def __init__(self, name: str, rows: int, device: str) -> None:
        torch.manual_seed(0)
        weight = torch.empty(rows, DIM, device=device).uniform_(-0.05, 0.05)
        self.layer: torch.nn.Embedding
        self.optimizer: torch.optim.Optimizer
        if name == "unhot":
            self.layer = unhot.torch.Embedding(rows, DIM, _weight=weight)
            self.optimizer = unhot.torch.Adam(self.layer.parameters(), lr=replay.ADAM_RATE)
        elif name == "sparse":
            self.layer = torch.nn.Embedding(rows, DIM, sparse=True, _weight=weight)
            self.optimizer = torch.optim.SparseAdam(self.layer.parameters(), lr=replay.ADAM_RATE)
        else:
            self.layer = torch.nn.Embedding(rows, DIM, _weight=weight)
            self.optimizer = torch.optim.Adam(self.layer.parameters(), lr=replay.ADAM_RATE, fused=True)
        self.device = device

    def lookup(self, ids: Tensor, gradients: Tensor) -> Tensor:
        """The vectors' dot product with `gradients`, which is its gradient in them."""
        found: Tensor = loss(self.layer(ids), gradients)
        return found

    def update(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()

    def __call__(self, ids: Tensor, gradients: Tensor) -> None:
        """One step."""
        self.lookup(ids, gradients).backward()  # type: ignore[no-untyped-call]
        self.update()

    def vectors(self, rows: Any) -> Any:
        """These rows as a NumPy array."""
        with torch.no_grad():
            return self.layer(torch.from_numpy(rows).to(self.device)).cpu().numpy()


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device != "cpu":
        torch.cuda.synchronize(device)
