"""The scalars of a step that divides a momentum by a root (see `laws.measure`), and the clock of LazyAdam, with no history."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from unhot.atomic import Call
from unhot.clock.base import Array, Clock, Hyper, scalar_pair
from unhot.laws import Measure


class RootSteps(Protocol):
    """What a clock asks its optimizer for a step."""

    beta_2: float
    epsilon: float

    @property
    def undivided(self) -> int:
        """How many steps, the first ones, do not divide by the root, but move a row by alpha m."""

    def corrections(self, step: Any, hyper: Hyper, product: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root.

        `product` is that of the momenta of the steps before. With another `xp` than `math`, `step`, the rate and `product` may
        be arrays of it.
        """


class RootClock(Clock):
    """Gives the scalars of a step; the row state is (w, momentum, second moment or norm, [largest second moment])."""

    law: Measure
    optimizer: RootSteps

    product: Any = 1.0
    """That of the momenta up to the last step, of an optimizer that asks for it."""

    def __init__(self, optimizer: RootSteps, law: Measure, dtype: np.dtype[Any]) -> None:
        super().__init__(law, dtype)
        self.optimizer = optimizer
        none = Hyper(-1.0, 0.0, 0.0)
        self._corrected = (0, none, (0.0, 0.0, 0.0))
        self._scalars: tuple[Hyper, Array] = (none, np.empty(0))

    def _corrections(self, step: int, hyper: Hyper) -> tuple[float, float, float]:
        """Those of `step`, kept: a step asks for its own twice."""
        at, of, known = self._corrected
        if at != step or (of is not hyper and of != hyper):
            known = self.optimizer.corrections(step, hyper, self.product)
            self._corrected = (step, hyper, known)
        return known

    def scalars(self, step: int, hyper: Hyper) -> Array:
        of, scalars = self._scalars
        if of is not hyper and of != hyper:
            weight = scalar_pair(1.0 - hyper.rate * hyper.decay, self.dtype)
            scalars = np.array(self.scalars_with(weight, hyper, (0.0, 0.0, 0.0), self.optimizer.epsilon), dtype=self.dtype)
            self._scalars = (hyper, scalars)
        scalars = scalars.copy()
        scalars[8:11] = self._corrections(step, hyper)
        if step <= self.optimizer.undivided:
            scalars[10:12] = 0.0, 1.0  # the divisor is 1
        return scalars

    def scalars_with(
        self, weight: tuple[Any, Any], hyper: Hyper, corrections: tuple[Any, Any, Any], epsilon: Any
    ) -> tuple[Any, ...]:
        """The scalars of a step, where `weight` is what multiplies the weights, as a pair."""
        beta_2 = self.optimizer.beta_2
        return (
            *weight, *scalar_pair(hyper.momentum, self.dtype), 1.0 - hyper.momentum,
            *scalar_pair(beta_2, self.dtype), 1.0 - beta_2, *corrections, epsilon,
        )  # fmt: skip


class LazyClock(RootClock):
    """Of an optimizer that leaves rows without a gradient as they are: it defers nothing, and needs no history."""

    def defers(self, hyper: Hyper) -> bool:
        return False

    @property
    def period(self) -> int:
        return 1 << 40

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return []

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        return []

    def coefficients(self, steps: Array) -> Array:
        raise AssertionError("no row has deferred steps")

    def shared(self) -> Any:
        return self.law.Shared(float(self.dtype.type(self.optimizer.epsilon)), 1, 1)
