"""Rows that are added to Keras's variables on PyTorch: in larger memory, which the same parameter gets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from unhot.atomic import Call, together
from unhot.keras._private import raw
from unhot.keras.backend import New
from unhot.torch._private import unseen, without_torch_functions
from unhot.torch.growth import in_larger_memory


def put(new: Sequence[New], notes: Sequence[Call]) -> None:
    """Write rows into variables that nobody trains, and make the calls `notes` together with that."""
    without_torch_functions(_put, new, notes)


def _put(new: Sequence[New], notes: Sequence[Call]) -> None:
    calls = [call for one in new for call in _putting(one)]
    with unseen():
        together([*calls, *notes])


def _putting(new: New) -> Iterator[Call]:
    variable, again, values, axis = new
    held: Tensor = raw(variable).detach()
    given = torch.from_numpy(values.copy()).to(held)
    made = torch.cat([held, given.narrow(axis, len(again), given.shape[axis] - len(again))], axis)
    made.index_copy_(axis, torch.from_numpy(again).to(held.device), given.narrow(axis, 0, len(again)))
    yield from in_larger_memory(raw(variable), made)
    yield partial(variable.__dict__.update, _shape=tuple(made.shape))
