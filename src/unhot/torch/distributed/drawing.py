"""Random numbers that differ from one process to the other, though all have the same seed: a row is to be like no other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from unhot.torch.distributed.peers import Peers
from unhot.torch.keyed import require_filler

MOST = 2**62
"""Seeds are below."""


class DrawnApart:
    """Fills tensors as another function does, by numbers of this process alone."""

    def __init__(self, peers: Peers, fill: Callable[[Tensor], object] | None = None) -> None:
        """`fill` is None for a standard normal distribution."""
        require_filler(fill)
        self.rank, self.fill = peers.rank, nn.init.normal_ if fill is None else fill
        self._seed = int(torch.randint(MOST, (), device="cpu"))  # the same in all processes if they have the same seed

    def __call__(self, given: Tensor) -> None:
        devices = [] if given.is_cpu else [given.device]
        with torch.random.fork_rng(devices, device_type=given.device.type if devices else "cuda"), torch.no_grad():
            torch.manual_seed((self._seed + self.rank) % MOST)
            self.fill(given)
            self._seed = int(torch.randint(MOST, (), device="cpu"))
