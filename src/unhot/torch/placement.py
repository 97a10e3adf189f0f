"""Where a table's tensors lie, and so what works on them: the native kernels in host memory, torch's operations elsewhere."""

from __future__ import annotations

import os
from typing import Any, Protocol

import torch
from torch import Tensor

from unhot.ids import in_range
from unhot.kernels import active
from unhot.torch.kernels import TorchKernels


class Placement(Protocol):
    """How tensors are shown to the kernels."""

    kernels: Any

    def view(self, tensor: Tensor) -> Any:
        """The memory of a contiguous tensor, as the kernels take it."""

    def flat(self, ids: Tensor, rows: int) -> Any:
        """The ids as the kernels take them: flat, int64 and found to lie in [0, rows), or else an IndexError."""


class Host:
    """CPU tensors, worked on in place by the kernels for NumPy arrays."""

    kernels: Any = active

    def view(self, tensor: Tensor) -> Any:
        return tensor.numpy()

    def flat(self, ids: Tensor, rows: int) -> Any:
        return in_range(ids.numpy(), rows, "raise")[0]


class Device:
    """Tensors of any device, worked on by torch's operations."""

    def __init__(self, device: torch.device) -> None:
        self.kernels = TorchKernels(device)

    def view(self, tensor: Tensor) -> Any:
        return tensor

    def flat(self, ids: Tensor, rows: int) -> Any:
        flat = ids.reshape(-1).to(torch.int64)
        if len(flat) and not (int(flat.min()) >= 0 and int(flat.max()) < rows):
            in_range(ids.cpu().numpy(), rows, "raise")  # names the first one
        return flat


KERNELS = "UNHOT_TORCH_KERNELS"
"""Set in the environment to "torch", this makes CPU tensors take the way of other devices; for tests, since it is slower."""


def placement(tensor: Tensor) -> Placement:
    """What works on the memory of `tensor`."""
    asked = os.environ.get(KERNELS, "native")
    if asked not in ("native", "torch"):
        raise ValueError(f"{KERNELS} must be 'native' or 'torch'. Received: {asked!r}.")
    return Host() if tensor.is_cpu and asked == "native" else Device(tensor.device)
