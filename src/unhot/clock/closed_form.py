"""The clock of Ftrl, whose weight is a closed form of its slots at the current rate (`unhot.laws.closed_form`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from operator import setitem
from typing import Any, Protocol

import numpy as np

from unhot.atomic import Call, together
from unhot.clock.base import Array, Clock, Hyper, scalar_pair, stored
from unhot.clock.history import History
from unhot.clock.sums import added, difference
from unhot.laws import ClosedForm
from unhot.laws.closed_form import TERMS

NODES = 0.5 + 0.5 * np.cos((np.arange(TERMS) + 0.5) * np.pi / TERMS)
TO_CHEBYSHEV = np.linalg.inv(np.polynomial.chebyshev.chebvander(2.0 * NODES - 1.0, TERMS - 1)).T


class ShrinkageHistory(History):
    """For every t in the ring: the sums of the logarithm's coefficients up to t (as two floats), and 2 s2 d of step t + 1."""

    def __init__(self, rows: int) -> None:
        super().__init__(rows, 2 * TERMS + 1)
        self.sums = np.zeros((2, self.capacity, TERMS))
        self.first = np.zeros(self.capacity)
        together(self.restart(0))

    def _begin(self, step: int, *, new_block: bool) -> list[Call]:
        return [partial(setitem, self.sums, (slice(None), step & self.mask), 0.0)]

    def advance(self, first: float, logarithm: Array) -> list[Call]:
        """What records the step now + 1: 2 s2 d, and the coefficients of the logarithm of its factor."""
        high, low = self.sums[:, self.now & self.mask]
        after = self.now + 1
        return [
            partial(setitem, self.first, self.now & self.mask, first),
            partial(setitem, self.sums, (slice(None), after & self.mask), np.stack(added(high, low, logarithm))),
            partial(setattr, self, "now", after),
        ]

    def compose(self, steps: Array) -> Array:
        """(2 s2 d of the first step, coefficients over the other steps) of `steps`: (len(steps), 1 + TERMS)."""
        high, low = self.sums
        start, now = np.minimum(steps + 1, self.now) & self.mask, self.now & self.mask
        sums = difference(high[now], low[now], high[start], low[start])
        return np.concatenate([self.first[steps & self.mask, None], sums], axis=1)


class ClosedFormSteps(Protocol):
    """What the clock asks its optimizer."""

    learning_rate_power: float
    initial_accumulator_value: float
    l1_regularization_strength: float
    l2_regularization_strength: float
    l2_shrinkage_regularization_strength: float
    beta: float

    @property
    def least(self) -> float:
        """X0, the least accumulator^-p + beta."""


class ClosedFormClock(Clock):
    """Carries rows by the current rate, and with l2 shrinkage by a series; the row state is (w, accumulator, linear)."""

    law: ClosedForm

    def __init__(self, optimizer: ClosedFormSteps, law: ClosedForm, dtype: np.dtype[Any], rows: int) -> None:
        super().__init__(law, dtype, {"accumulator": optimizer.initial_accumulator_value})
        self.optimizer = optimizer
        self.history = ShrinkageHistory(rows if law.shrinks else 0)
        self.rate = 1.0
        self.first_shrinkage: float | None = None
        """2 s2 d of the first step; None before it."""
        self.shrunk = np.zeros(TERMS)
        """The coefficients of the logarithm, summed over the other steps made so far."""

    @property
    def period(self) -> int:
        return self.history.period if self.law.shrinks else 1 << 40

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return self.history.restart(step) if self.law.shrinks else []

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        calls: list[Call] = [partial(setattr, self, "rate", hyper.rate)]
        twice, series = 0.0, self.shrunk
        if self.law.shrinks:
            twice, shrunk = self.shrinkage(np, hyper, self.rate if step > 1 else hyper.rate, NODES)
            series = shrunk @ TO_CHEBYSHEV
            calls += self.history.advance(twice, series)
        if self.first_shrinkage is None:
            calls.append(partial(setattr, self, "first_shrinkage", twice))
        elif self.law.shrinks:
            calls.append(partial(setattr, self, "shrunk", self.shrunk + series))
        return calls

    def untouched(self, weights: Array) -> tuple[Array, ...]:
        rows = (weights, *self.new_slots(weights))
        if self.first_shrinkage is None:
            return rows
        line = np.array([[self.first_shrinkage, *self.shrunk]])
        return self.law.settle(np, rows, self.law.columns(line), self.shared())

    def shrinkage(self, xp: Any, hyper: Hyper, before: Any, nodes: Any) -> tuple[Any, Any]:
        """2 s2 d of a step, and the logarithm of its factor, divided by the node, at each of the nodes.

        `before` is the rate of the step before. Inside a graph, both rates are arrays of `xp`.
        """
        twice = 2.0 * self.optimizer.l2_shrinkage_regularization_strength * (1.0 - hyper.rate * hyper.decay)
        least, l2 = self.optimizer.least, self.optimizer.l2_regularization_strength
        return twice, xp.log1p(-twice * before * nodes / (least + 2.0 * l2 * before * nodes)) / nodes

    @np.errstate(all="ignore")
    def coefficients(self, steps: Array) -> Array:
        if not self.law.shrinks:
            return np.zeros((len(steps), 1), dtype=self.dtype)
        return self.history.compose(steps).astype(self.dtype)

    def shared(self) -> Any:
        o = self.optimizer
        return self.law.Shared(
            1.0 / self.rate,
            2.0 * o.l2_shrinkage_regularization_strength,
            2.0 * o.l2_regularization_strength,
            o.l1_regularization_strength,
            o.beta,
            -o.learning_rate_power,
            o.least,
        )

    def scalars(self, step: int, hyper: Hyper) -> Array:
        return np.array(self.scalars_with(scalar_pair(1.0 - hyper.rate * hyper.decay, self.dtype), hyper), dtype=self.dtype)

    def scalars_with(self, weight: tuple[Any, Any], hyper: Hyper) -> tuple[Any, ...]:
        """The scalars of a step, where `weight` is what multiplies the weights, as a pair."""
        return *weight, 1.0 / hyper.rate

    def state(self) -> dict[str, float]:
        begun = {"begun": float(self.first_shrinkage is not None), "first_shrinkage": self.first_shrinkage or 0.0}
        series = {f"shrunk_{k}": float(number) for k, number in enumerate(self.shrunk)} if self.law.shrinks else {}
        return {"rate": self.rate, **begun, **series}

    def load_state(self, state: Mapping[str, float]) -> None:
        self.rate = stored(state, "rate", least=np.nextafter(0.0, 1.0))
        begun = stored({"begun": 0.0, **state}, "begun")
        self.first_shrinkage = stored({"first_shrinkage": 0.0, **state}, "first_shrinkage", -np.inf) if begun else None
        self.shrunk = np.array([stored({f"shrunk_{k}": 0.0, **state}, f"shrunk_{k}", -np.inf) for k in range(TERMS)])
