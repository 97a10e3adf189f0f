"""Where a table's tensors lie, and so what works on them: the native kernels in host memory, torch's operations elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from unhot import arrays
from unhot.ids import in_range
from unhot.kernels import active
from unhot.kernels.structs import Segment
from unhot.torch._private import without_modes
from unhot.torch.kernels import TorchKernels

T = TypeVar("T")


class Placement(Protocol):
    """How tensors are shown to the kernels."""

    kernels: Any

    def view(self, tensor: Tensor) -> Any:
        """The memory of a contiguous tensor, as the kernels take it."""

    def of_host(self, array: Any) -> Any:
        """An array of the host, as the kernels take it."""

    def full(self, shape: tuple[int, ...], like: Tensor, value: float) -> Tensor:
        """A new tensor of that shape, of the dtype and on the device of `like`."""

    def row_view(self, tensor: Tensor) -> Any:
        """`view` of memory that was allocated elsewhere, and is to be read row by row from now on."""

    def copied(self, ids: Tensor) -> tuple[Tensor, Any]:
        """The ids as a flat int64 copy, and `view` of it."""

    def require_rows(self, flat: Any, rows: int, shape: torch.Size) -> None:
        """Raise IndexError if one of the flat ids lies outside [0, rows); its message tells where, in ids of that shape."""

    def gather(self, weights: Tensor, flat: Any, out: Any) -> None:
        """out[i] = weights[flat[i]]."""

    def alone(self, change: Callable[[], T]) -> T:
        """`change()`, whose calls of C functions run no Python code."""


class Host:
    """CPU tensors, worked on in place by the kernels for NumPy arrays."""

    kernels: Any = active

    def view(self, tensor: Tensor) -> Any:
        return tensor.numpy()

    def of_host(self, array: Any) -> Any:
        return array

    def full(self, shape: tuple[int, ...], like: Tensor, value: float) -> Tensor:
        return torch.from_numpy(arrays.full(shape, like.numpy().dtype, value))

    def row_view(self, tensor: Tensor) -> Any:
        array = tensor.numpy()
        arrays.into_large_pages(array.ctypes.data, array.nbytes)
        return array

    def copied(self, ids: Tensor) -> tuple[Tensor, Any]:
        flat = np.array(ids.numpy(), np.int64, order="C").reshape(-1)
        return torch.from_numpy(flat), flat

    def require_rows(self, flat: Any, rows: int, shape: torch.Size) -> None:
        if self.kernels.outside(flat, rows) >= 0:
            in_range(flat.reshape(shape), rows, "raise")  # says which

    def gather(self, weights: Tensor, flat: Any, out: Any) -> None:
        self.kernels.stores([[weights.numpy()]], [0], None).gather(flat, [Segment(0, out)])

    def alone(self, change: Callable[[], T]) -> T:
        return change()


class Device:
    """Tensors of any device, worked on by torch's operations."""

    def __init__(self, device: torch.device) -> None:
        self.kernels = TorchKernels(device)

    def of_host(self, array: Any) -> Any:
        return torch.from_numpy(array).to(self.kernels.device)

    def view(self, tensor: Tensor) -> Any:
        return tensor.data  # whose versions are its own: what the kernels write is no write of the user's

    def full(self, shape: tuple[int, ...], like: Tensor, value: float) -> Tensor:
        return like.new_full(shape, value)

    row_view = view

    def copied(self, ids: Tensor) -> tuple[Tensor, Any]:
        flat = ids.detach().to(torch.int64, copy=True, memory_format=torch.contiguous_format).view(-1)
        return flat, flat

    def require_rows(self, flat: Any, rows: int, shape: torch.Size) -> None:
        if self.kernels.outside(flat, rows) >= 0:
            in_range(flat.cpu().numpy().reshape(shape), rows, "raise")  # says which

    def gather(self, weights: Tensor, flat: Any, out: Any) -> None:
        torch.index_select(weights.data, 0, flat, out=out)

    def alone(self, change: Callable[[], T]) -> T:
        return without_modes(change)


KERNELS = "UNHOT_TORCH_KERNELS"
"""Set in the environment to "torch", this makes CPU tensors take the way of other devices; for tests, since it is slower."""


def placement(tensor: Tensor) -> Placement:
    """What works on the memory of `tensor`."""
    asked = os.environ.get(KERNELS, "native")
    if asked not in ("native", "torch"):
        raise ValueError(f"{KERNELS} must be 'native' or 'torch'. Received: {asked!r}.")
    return Host() if tensor.is_cpu and asked == "native" else Device(tensor.device)


def counter(number: float, table: Tensor, group: Mapping[str, Any]) -> Tensor:
    """A number in torch's state of a table, of the dtype that torch's own step has for it, and on the device.

    A fused or capturable step on a GPU takes it on the GPU, and none from the host's memory.
    """
    fused = group.get("fused")
    wide = torch.get_default_dtype() == torch.float64 and not fused
    device = table.device if fused or group.get("capturable") else "cpu"
    return torch.full((), number, dtype=torch.float64 if wide else torch.float32, device=device)
