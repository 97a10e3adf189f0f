"""The clock of Lion, which steps by the sign of a momentum (`unhot.laws.sign`)."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from unhot.atomic import Call
from unhot.clock.base import Array, Clock, Hyper, scalar_pair
from unhot.clock.history import MatrixHistory
from unhot.laws import Sign

FLOOR = {"float32": 1e-30, "float64": 1e-290}
"""Where a decaying momentum stops, by the table's dtype."""


COLUMNS = (0, 1, 2, 6, 7)
"""Those of a history of matrices that the law has: there is no momentum that moves with the weight."""


class SignSteps(Protocol):
    """What the clock asks its optimizer."""

    beta_2: float


class SignClock(Clock):
    """Carries rows by the sum of the rates; the row state is (w, momentum)."""

    law: Sign

    def __init__(self, optimizer: SignSteps, law: Sign, dtype: np.dtype[Any], rows: int) -> None:
        super().__init__(law, dtype)
        self.optimizer = optimizer
        self.history = MatrixHistory(rows)

    @property
    def period(self) -> int:
        return self.history.period

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return self.history.restart(step)

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        history = self.history.advance((1.0 - hyper.rate * hyper.decay, -hyper.rate, 0.0, 1.0), self.optimizer.beta_2)
        return [*history, *self.decayed(hyper)]

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype).take(COLUMNS, axis=1)

    def scalars(self, step: int, hyper: Hyper) -> Array:
        return np.array(self.scalars_with(scalar_pair(1.0 - hyper.rate * hyper.decay, self.dtype), hyper), dtype=self.dtype)

    def scalars_with(self, weight: tuple[Any, Any], hyper: Hyper) -> tuple[Any, ...]:
        """The scalars of a step, where `weight` is what multiplies the weights, as a pair."""
        beta_2 = self.optimizer.beta_2
        return (
            *weight, -hyper.rate, hyper.momentum, 1.0 - hyper.momentum, *scalar_pair(beta_2, self.dtype), 1.0 - beta_2,
        )  # fmt: skip

    def shared(self) -> Any:
        return self.law.Shared(float(self.dtype.type(FLOOR[self.dtype.name])))
