"""The clock of SGD, Adagrad, RMSprop and Adadelta, whose step is linear in weight and momentum (`unhot.laws.linear`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, Protocol

import numpy as np

from unhot.atomic import Call
from unhot.clock.base import Array, Clock, Hyper, scalar_pair, stored
from unhot.clock.history import MatrixHistory
from unhot.kernels.structs import Formula
from unhot.laws import Divisor, Linear

Matrix = tuple[float, float, float, float]


class LinearSteps(Protocol):
    """What the clock asks its optimizer."""

    @property
    def average_decay(self) -> float:
        """What the running averages are multiplied by in each step; 1 where there are none."""

    @property
    def epsilons(self) -> tuple[float, float]:
        """Epsilon inside and outside of the root."""

    def matrix(self, step: Any, hyper: Hyper, begun: bool) -> tuple[Matrix, tuple[Any, Any]]:
        """M of `step` (row by row) and what multiplies q: ((m00, m01, m10, m11), (gw, gb)).

        `begun` says whether an earlier step had a momentum. Inside a graph, `step` and the rate are its arrays.
        """


class LinearClock(Clock):
    """Carries rows by the product of the steps' matrices; the row state is (w, [momentum], averages)."""

    law: Linear

    begun = False
    """Whether a step has had a momentum."""

    def __init__(
        self,
        optimizer: LinearSteps,
        law: Linear,
        dtype: np.dtype[Any],
        rows: int,
        starts: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(law, dtype, starts)
        self.optimizer = optimizer
        self.history = MatrixHistory(rows)
        self.momentum_of_weight = 0.0
        """The momentum that the steps made so far give a weight of 1 that has had no gradient."""
        self._formula = super().formula()  # rows share nothing that changes

    def formula(self) -> Formula:
        return self._formula

    def defers(self, hyper: Hyper) -> bool:
        return self.law.momentum or self.law.decays or hyper.decay > 0

    @property
    def period(self) -> int:
        return self.history.period

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return self.history.restart(step)

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        matrix, _ = self.optimizer.matrix(step, hyper, self.begun)
        begun: Call = partial(setattr, self, "begun", self.begun or hyper.momentum > 0)
        return [*self.history.advance(matrix, self.optimizer.average_decay), begun, *self._moved(matrix)]

    def _moved(self, matrix: Matrix) -> list[Call]:
        """What records a step in `kept_of_weight` and `momentum_of_weight`."""
        m00, m01, m10, m11 = matrix
        weight, momentum = self.kept_of_weight, self.momentum_of_weight
        if m00 == 1.0 and m10 == momentum == 0.0:
            return []
        return [
            partial(setattr, self, "kept_of_weight", m00 * weight + m01 * momentum),
            partial(setattr, self, "momentum_of_weight", m10 * weight + m11 * momentum),
        ]

    def untouched(self, weights: Array) -> tuple[Array, ...]:
        weights_now, *slots = super().untouched(weights)
        if self.law.momentum:
            slots[0] = weights * self.momentum_of_weight
        return (weights_now, *slots)

    def supports(self, hyper: Hyper) -> bool:
        if hyper.momentum and not self.law.momentum:
            raise ValueError(
                f"{type(self.optimizer).__name__}: `momentum` was 0 when the table was made, so it has no momentum slot."
                f" Received: momentum={hyper.momentum!r}. Start with the momentum that the schedule reaches, or any above 0."
            )
        return True

    def needs_settling_before(self, hyper: Hyper) -> bool:
        return abs(self.optimizer.matrix(1, hyper, self.begun)[0][0]) > 1.0

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype)

    def scalars(self, step: int, hyper: Hyper) -> Array:
        matrix, taken = self.optimizer.matrix(step, hyper, self.begun)
        return np.array(self.scalars_with(scalar_pair(matrix[0], self.dtype), matrix, taken), dtype=self.dtype)

    def scalars_with(self, weight: tuple[Any, Any], matrix: tuple[Any, ...], taken: tuple[Any, Any]) -> tuple[Any, ...]:
        """The scalars of a step with what `LinearSteps.matrix` gives, where `weight` is its first number as a pair."""
        _, m01, m10, m11 = matrix
        rho = self.optimizer.average_decay if self.law.decays else 0.0
        return (
            *weight, m01, m10, *scalar_pair(m11, self.dtype), *taken, *scalar_pair(rho, self.dtype), 1.0 - rho,
            *self.optimizer.epsilons,
        )  # fmt: skip

    def state(self) -> dict[str, float]:
        of_descent = self.law.momentum and self.law.divisor is Divisor.NONE  # others take each step's momentum alike
        begun = {"momentum_begun": float(self.begun)} if of_descent else {}
        momentum = {"momentum_of_weight": self.momentum_of_weight} if self.law.momentum else {}
        return {**super().state(), **momentum, **begun}

    def load_state(self, state: Mapping[str, float]) -> None:
        super().load_state(state)
        self.begun = bool(stored({"momentum_begun": 0.0, **state}, "momentum_begun"))
        self.momentum_of_weight = stored({"momentum_of_weight": 0.0, **state}, "momentum_of_weight", least=-math.inf)


def momentum_asked(optimizer: Any, slots: Collection[str]) -> bool:
    """Whether the law has a momentum: one that stands at 0 for now keeps its slot."""
    return bool(optimizer.momentum) or "momentum" in slots
