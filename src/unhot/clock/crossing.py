"""The clock of PyTorch's Adamax, whose divisor is a maximum with epsilon that the decaying norm crosses.

`unhot.laws.crossing` says how a row is carried, from the sums H(t) and T(t) and the products of the momenta. The difference of
sums loses nothing that matters: with beta_1 <= 0.99 beta_2 the subtrahend is the smaller, unless the rates have risen steeply
since the crossing. Rows are settled before such a step (`RateWindow.outruns`).
"""

from __future__ import annotations

from functools import partial
from math import ceil, log
from operator import setitem
from typing import Any, Protocol

import numpy as np

from unhot.atomic import Call, together
from unhot.clock.base import Array, Clock, Hyper, scalar_pair
from unhot.clock.history import BLOCK
from unhot.clock.panels import PRECISION
from unhot.clock.windows import MOST_RISE, WindowedHistory
from unhot.kernels.reference_history import slot_pair
from unhot.laws import Crossing

WINDOW_TAIL = PRECISION["float64"].window
"""What a window leaves out, in both dtypes: the sums are kept in float64, and read as such."""

MOST_FALL = 690.0
"""The logarithm of the largest c_s^-1 that a float64 holds."""


class CrossingHistory(WindowedHistory):
    """For every t in the ring: H(t), T(t), the logarithm of the product of the momenta up to t, and the decays to now."""

    def __init__(self, rows: int, beta: float, beta_2: float) -> None:
        self.beta, self.beta_2 = beta, beta_2
        fall = log(beta_2 / beta) if beta else np.inf
        base, largest = (ceil(-log(tail) / fall) for tail in (WINDOW_TAIL, WINDOW_TAIL * (1.0 / MOST_RISE)))
        if largest * -log(beta_2) > MOST_FALL:
            raise ValueError(
                f"Adamax: with convention='torch', beta_1={beta:g} is too near to beta_2={beta_2:g}: the norm could fall by a"
                " factor of more than 1e300 while a row still moves. Use a lower beta_1, or convention='keras', which has no"
                " such bound."
            )
        super().__init__(rows, 5, base, largest, 1.0 / fall, momentum_fall=-log(beta) if beta else np.inf)
        self.scale = np.zeros((self.capacity, 2))
        self.suffix = np.ones((self.blocks, 2))
        self.sums = np.zeros((self.capacity, 3))
        self._log_beta = 0.0
        distance = np.arange(largest, 0, -1, dtype=np.float64)
        self._terms = np.stack([self.beta_2**-distance, np.ones_like(distance)], axis=1)
        together(self.restart(0))

    def restart(self, step: int) -> list[Call]:
        return [*super().restart(step), partial(setattr, self, "_log_beta", 0.0)]

    def _begin(self, step: int, *, new_block: bool, log_beta: float = 0.0) -> list[Call]:
        position = step & self.mask
        calls: list[Call] = [
            partial(setitem, self.scale, position, 1.0),
            partial(setitem, self.sums, position, np.array((0.0, 0.0, log_beta))),
        ]
        return [*calls, partial(setitem, self.suffix, step // BLOCK % self.blocks, 1.0)] if new_block else calls

    def advance(self, beta: float, rate: float) -> list[Call]:
        """What extends every entry by the step now + 1, whose a_s is `rate` times the momenta's product."""
        step = self.now + 1
        window, notes = self.reach(rate)
        first = max(self.origin, step - window) // BLOCK
        factors = np.array((beta, self.beta_2))
        decayed = [self.scale[a:b] for _, a, b in self.spans(first * BLOCK, step)]
        decayed += [self.suffix[a:b] for a, b in self.closed_blocks(first)]
        calls: list[Call] = [partial(setitem, part, ..., part * factors) for part in decayed]
        for t, a, b in self.spans(step - window, step):
            terms, sums = self._terms[len(self._terms) - (step - t) :][: b - a], self.sums[a:b, :2]
            calls.append(partial(setitem, sums, ..., sums + (rate * (self.scale[a:b, :1] * beta)) * terms))
        log_beta = self._log_beta + log(max(beta, 1e-300))
        return [
            *calls,
            *notes,
            partial(setattr, self, "first_open", first),
            partial(setattr, self, "now", step),
            partial(setattr, self, "_log_beta", log_beta),
            *self._begin(step, new_block=step % BLOCK == 0, log_beta=log_beta),
        ]

    def _fold(self, a: int) -> list[Call]:
        entries = self.scale[a * BLOCK : (a + 1) * BLOCK]
        return [partial(setitem, entries, ..., entries * self.suffix[a]), partial(setitem, self.suffix, a, 1.0)]

    def compose(self, steps: Array) -> Array:
        """(beta_1's product, beta_2's power) of `steps`, carried to now: (len(steps), 2)."""
        position = steps & self.mask
        return np.asarray(self.scale[position] * self.suffix[position // BLOCK])


class CrossingSteps(Protocol):
    """What the clock asks its optimizer."""

    beta_1: float
    beta_2: float
    epsilon: float


class CrossingClock(Clock):
    """Carries rows by sums that reach from their last touch to now; the row state is (w, momentum, norm)."""

    law: Crossing

    def __init__(self, optimizer: CrossingSteps, law: Crossing, dtype: np.dtype[Any], rows: int) -> None:
        super().__init__(law, dtype)
        self.optimizer = optimizer
        self.rows = rows
        self.history = CrossingHistory(rows, optimizer.beta_1, optimizer.beta_2)

    @property
    def period(self) -> int:
        return self.history.period

    def supports(self, hyper: Hyper) -> bool:
        return hyper.momentum <= self.history.beta

    def needs_settling_before(self, hyper: Hyper) -> bool:
        return super().needs_settling_before(hyper) or self.history.outruns(self._rate(self.history.now + 1, hyper))

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        if momentum <= self.history.beta:
            return self.history.restart(step)
        beta_2 = self.optimizer.beta_2
        try:  # halfway to 1, so that a rising schedule asks for few new histories
            history = CrossingHistory(self.rows, min(0.99 * beta_2, 0.5 + 0.5 * momentum), beta_2)
        except ValueError:
            history = CrossingHistory(self.rows, momentum, beta_2)
        together(history.restart(step))
        return [partial(setattr, self, "history", history)]

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        return self.history.advance(hyper.momentum, self._rate(step, hyper))

    def reopened(self, step: int, hyper: Hyper) -> list[Call]:
        return self.history.reopened(self._rate(step, hyper))

    def _rate(self, step: int, hyper: Hyper) -> float:
        """The rate of `step`, corrected."""
        return hyper.rate / (1.0 - hyper.momentum**step)

    @np.errstate(all="ignore")
    def coefficients(self, steps: Array) -> Array:
        beta, power = self.history.compose(steps).T
        total = self.history.sums[steps & self.history.mask, 0]
        # In double for both dtypes, since the last column is a step: the others are numbers of the table's dtype.
        columns = (*slot_pair(beta, self.dtype), *slot_pair(power, self.dtype), total.astype(self.dtype), steps)
        return np.stack([column.astype(np.float64) for column in columns], axis=1)

    def scalars(self, step: int, hyper: Hyper) -> Array:
        beta_2 = self.optimizer.beta_2
        return np.array(
            [
                *scalar_pair(hyper.momentum, self.dtype), 1.0 - hyper.momentum,
                *scalar_pair(beta_2, self.dtype),
                self._rate(step, hyper), self.optimizer.epsilon,
            ],
            dtype=self.dtype,
        )  # fmt: skip

    def shared(self) -> Any:
        history = self.history
        return self.law.Shared(self.optimizer.epsilon, self.optimizer.beta_2, history.now, history.mask, history.sums)
