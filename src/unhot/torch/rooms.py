"""Memory with room for rows to come: a table's weights and slots are the first rows of larger tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unhot import arrays


class Rooms:
    """The larger tensors of one table."""

    def __init__(self) -> None:
        self.capacity = 0
        """The number of rows to have room for."""
        self._held: dict[str, Tensor] = {}
        """Those that begin with the weights ("") and the slots, by their names."""

    def __getitem__(self, name: str) -> Tensor:
        return self._held[name]

    def clear(self) -> None:
        """Forget them: others are made once rows are added."""
        self._held.clear()

    def begun(self, name: str, shape: tuple[int, int], like: Tensor) -> Tensor:
        """Rows of zeros of this shape at the beginning of a new room, of the dtype of `like`."""
        self._held[name] = room = torch.from_numpy(arrays.reserved((self.capacity, shape[1]), dtype_of(like)))
        return first_rows(room, shape[0])

    def reaching(self, name: str, tensor: Tensor, rows: int) -> Tensor:
        """The room that begins with the rows of `tensor`, and has so many: that which there is, or else a larger copy."""
        room = self._held.get(name)
        fits = room is not None and room.shape[1:] == tensor.shape[1:] and room.dtype == tensor.dtype and len(room) >= rows
        if room is not None and fits and room.data_ptr() == tensor.data_ptr():
            return room
        shape = (max(rows, 2 * len(tensor), self.capacity), *tensor.shape[1:])
        in_host_memory = tensor.is_cpu and tensor.dtype in (torch.float32, torch.float64)
        made = torch.from_numpy(arrays.reserved(shape, dtype_of(tensor))) if in_host_memory else tensor.new_empty(shape)
        made[: len(tensor)] = tensor
        self._held[name] = made
        return made


def first_rows(room: Tensor, rows: int) -> Tensor:
    """The first rows of a room, as a tensor whose storage has no others: `torch.save` writes the storage of a tensor."""
    size = rows * room.size(1) * room.element_size()
    return room.new_empty(0).set_(room.untyped_storage()[:size], 0, (rows, room.size(1)), room.stride())


def dtype_of(tensor: Tensor) -> np.dtype[np.generic]:
    """NumPy's dtype of a tensor."""
    return np.dtype(str(tensor.dtype).removeprefix("torch."))
