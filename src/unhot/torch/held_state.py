"""What PyTorch's optimizers keep of a table in `optimizer.state`, and what is asked of an optimizer that does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from unhot.optimizers import Optimizer
from unhot.state import whole


class StateHolder(Protocol):
    """Whoever keeps an optimizer's state of each parameter."""

    @property
    def held_state(self) -> dict[Any, Any]:
        """The state as it is, of which rows may have deferred steps."""


class Owner(StateHolder, Protocol):
    """What is asked of the optimizer that owns a table, to make an engine for it."""

    core: ClassVar[type[Optimizer]]
    """The core's optimizer of the same name, in PyTorch's convention."""

    slots: ClassVar[Mapping[str, str]]
    """The optimizer's slots by the names they have in torch's state."""

    counters: ClassVar[tuple[str, ...]]
    """What torch's state holds beside the slots."""

    defaults: dict[str, Any]
    """The hyperparameters that a parameter group has if it is given no others."""

    def hyperparameters(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the core's optimizer, from a parameter group."""


class Start(NamedTuple):
    """From where a table goes on. Tables that go on from the same share an engine."""

    now: int
    held: frozenset[str]
    """The slots that it has."""
    momentum_begun: float
    momentum_product: float
    dtype: np.dtype[Any]
    kernels: Any
    kept: tuple[tuple[str, float], ...] = ()
    """What the clock knew of rows that had no gradient yet."""

    @classmethod
    def of(cls, state: Mapping[str, Any], owner: Owner, kept: Mapping[str, float], dtype: Any, kernels: Any) -> Start:
        """What torch's state of a table says, and what it has no place for."""
        now = steps_made(state.get("step", 0), "the 'step' in `optimizer.state` of a table")
        held = frozenset(name for name, theirs in owner.slots.items() if isinstance(state.get(theirs), Tensor))
        begun, product = float("momentum" in held), float(state.get("mu_product", 1.0))
        return cls(now, held, begun, product, dtype, kernels, tuple(kept.items()))


class StateError(ValueError):
    """A loaded state from which no training can go on."""


def require_shape(name: str, slot: Tensor, shape: tuple[int, int]) -> None:
    """Raise StateError for a slot in a state that is none of this table and optimizer."""
    if slot.shape != shape:
        raise StateError(
            f"{name!r} in `optimizer.state` of a table must have shape {shape}. Received: shape {tuple(slot.shape)}. Load a"
            " state that an optimizer of the same class has saved, or make a new optimizer."
        )


def slots_in(state: Mapping[str, Any], table: Tensor) -> dict[str, Tensor]:
    """What a state holds of each row of a table, by torch's names."""
    slots = {name: slot for name, slot in state.items() if isinstance(slot, Tensor)}
    return {name: slot for name, slot in slots.items() if slot.dim() == 2 and len(slot) == len(table)}


def steps_made(count: Any, what: str) -> int:
    """The number of steps that a state counts; StateError for one that is no such number."""
    try:
        return whole(float(count), what)
    except ValueError as error:
        raise StateError(f"{error} Load a state that an optimizer has saved.") from None
