"""What every clock has: the steps made so far, and what carries rows over those that they were not part of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from unhot.atomic import Call
from unhot.kernels.reference_history import pair
from unhot.kernels.structs import Formula
from unhot.laws import Law

Array = npt.NDArray[Any]


class Hyper(NamedTuple):
    """What a scheduler may change from step to step, as it stands in one step."""

    rate: float
    momentum: float
    decay: float


class Clock(ABC):
    """The steps of one optimizer: their number, their history, and the coefficients of its law for rows and steps.

    A *row state* is the tuple (weights, *slots), each (n, dim), or (n, 1) for the slots in `Law.row_slots`. The coefficients
    that the law needs come from `coefficients` (one line for each distinct step of the last touch) and `scalars` (the same for
    all rows).

    What changes a clock is returned as calls, to be made together with those that change rows (`unhot.atomic`).
    """

    def __init__(self, law: Law, dtype: np.dtype[Any], starts: Mapping[str, float] | None = None) -> None:
        self.law, self.dtype, self.now = law, dtype, 0
        self.slots = {name: (starts or {}).get(name, 0.0) for name in law.slots}
        """The slots' names, in the order of the row state, and what they start from."""
        self.kept_of_weight = 1.0
        """What the steps made so far leave of a weight of 1 that has had no gradient."""

    def numbers_per_row(self, dim: int) -> int:
        """How many numbers a table of this `dim` holds for each row, in weights and slots."""
        return dim + sum(self.law.slot_width(name, dim) for name in self.slots)

    def defers(self, hyper: Hyper) -> bool:
        """Whether a step with these hyperparameters changes rows that it does not touch."""
        return True

    @property
    @abstractmethod
    def period(self) -> int:
        """The steps within which every row must be settled once."""

    @abstractmethod
    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        """What drops the history, all rows standing at `step`, and takes one that goes on with `momentum`."""

    def supports(self, hyper: Hyper) -> bool:
        """Whether the history can go on with these hyperparameters; if not, all rows are settled, and it is restarted."""
        return True

    def needs_settling_before(self, hyper: Hyper) -> bool:
        """Whether all rows must be settled before a step with these hyperparameters.

        So it is where the step multiplies a resting weight by more than 1 in magnitude: the product of many such factors
        would overflow where the weight, 0 or tiny, does not. (Training by them diverges, so this costs nobody anything.)
        """
        return hyper.rate * hyper.decay > 2.0

    def reopened(self, step: int, hyper: Hyper) -> list[Call]:
        """What has to be changed in the history, without a change to what it says, before `step` can be recorded."""
        return []

    @abstractmethod
    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        """What records `step`."""

    @abstractmethod
    def coefficients(self, steps: Array) -> Array:
        """What carries the rows last touched at each of `steps` to now: (len(steps), width)."""

    @abstractmethod
    def scalars(self, step: int, hyper: Hyper) -> Array:
        """The coefficients of the touched rows in `step`."""

    def shared(self) -> Any:
        """What the law needs beside coefficients and scalars: its `Shared`."""
        return self.law.Shared()

    def formula(self) -> Formula:
        """The law with what all rows share now, as the kernels take it."""
        return Formula(self.law, self.shared())

    def settle(self, xp: Any, rows: tuple[Any, ...], lines: Any) -> tuple[Any, ...]:
        """The row states carried over their deferred steps; `lines` holds one line of coefficients for each row."""
        return self.law.settle(xp, rows, self.law.columns(lines), self.shared())

    def update(self, xp: Any, rows: tuple[Any, ...], g: Any, scalars: Any) -> tuple[Any, ...]:
        """The row states after a step with the gradients `g`; `scalars` holds the step's scalars."""
        return self.law.update(xp, rows, g, self.law.Scalars(*scalars), self.shared())

    def decayed(self, hyper: Hyper) -> list[Call]:
        """What records the decay of a step in `kept_of_weight`."""
        factor = 1.0 - hyper.rate * hyper.decay
        return [] if factor == 1.0 else [partial(setattr, self, "kept_of_weight", self.kept_of_weight * factor)]

    def untouched(self, weights: Array) -> tuple[Array, ...]:
        """The row state, in float64, of rows that began with these weights and have had no gradient in the steps made so far.

        So far is since the clock was made, or since the state was saved that it has loaded.
        """
        return (weights * self.kept_of_weight, *self.new_slots(weights))

    def new_slots(self, weights: Array) -> list[Array]:
        """The slots of rows that begin with these weights."""
        rows, dim = weights.shape
        return [np.full((rows, self.law.slot_width(name, dim)), start) for name, start in self.slots.items()]

    def state(self) -> dict[str, float]:
        """Numbers beside the slots that training goes on from."""
        return {"kept_of_weight": self.kept_of_weight}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Take over what `state` gave. It may lack the numbers that only rows that are added need."""
        self.kept_of_weight = stored({"kept_of_weight": 1.0, **state}, "kept_of_weight", least=-math.inf)


def stored(state: Mapping[str, float], name: str, least: float = 0.0, below: float = math.inf) -> float:
    """The number `name` of a saved state, if it is there and lies in [least, below)."""
    if name not in state:
        raise ValueError(f"the state has no 'state.{name}'; it was not made by this table's `state_dict`.")
    number = float(state[name])
    if not least <= number < below:
        raise ValueError(f"the state's 'state.{name}' must lie in [{least:g}, {below:g}). Received: {number!r}.")
    return number


@lru_cache(maxsize=1024)
def scalar_pair(factor: float, dtype: np.dtype[Any]) -> tuple[float, float]:
    """`pair` of one number; kept, since mostly the same ones are asked for at every step."""
    hi, lo = pair(np.asarray(factor, dtype=np.float64), dtype)
    return float(hi), float(lo)
