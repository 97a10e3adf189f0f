"""How far back a step's rate can still matter to rows at rest, and histories whose steps reach back over such a window."""

from __future__ import annotations

from collections import deque
from functools import partial
from math import inf, log
from typing import Any

import numpy as np

from unhot.atomic import Call
from unhot.clock.history import BLOCK, History

MOST_RISE = 1e9
"""The rise of the rates that the widest window allows for."""

SLACK = 8.0
"""What the series' error may grow to, in units of its error at constant rates (docs/mathematics.md, "Rates that rise")."""

CANCELLED = 1e5
"""What a difference of sums may lose: its rounding errors are 1e-16 of the sums, and 1e-10 of the movement is allowed."""


class RateWindow:
    """How far back a step's rate can still matter: the window, widened where rates have risen.

    `slope` is 1/f where the weight of a step falls by exp(-f) with each step of distance, 0 where it does not fall.
    `momentum_fall` is given where movements are differences of sums and not a series: -log of the momentum's decay.
    """

    def __init__(self, base: int, largest: int, slope: float, momentum_fall: float | None = None) -> None:
        self.base, self.largest, self.slope, self.momentum_fall = base, largest, slope, momentum_fall
        self._lows: deque[tuple[int, float]] = deque()
        self._rates: deque[float] = deque(maxlen=largest)
        self._least_before = inf

    def outruns(self, rate: float) -> bool:
        """Whether the next step's rate rises too steeply for rows that rest since the low rates: they must be settled first.

        A row touched at step t has moved by at least W = max r^i rate_(t+i) (in units of one step's movement at rate 1), and
        what a step at distance j adds is off by up to r^(j/2) rate: SLACK W is allowed.  A row touched before the window
        loses what the step adds, at most rate / MOST_RISE: W is allowed.

        A difference of sums is off by the rounding of what the step adds to them, r^j rate.  The row may have crossed epsilon,
        and moved by no more than W = max momentum^i rate_(t+i): CANCELLED W is allowed.
        """
        if rate > MOST_RISE * self._least_before:
            return True
        series = self.momentum_fall is None
        if not self.slope or not self._lows or rate <= (SLACK**2 if series else CANCELLED) * self._lows[0][1]:
            return False
        rates = np.fromiter(self._rates, np.float64, len(self._rates))
        distance = np.arange(len(rates))
        fall = distance * (self.momentum_fall or 1.0 / self.slope)
        with np.errstate(divide="ignore"):
            moved = np.maximum.accumulate((np.log(rates) - fall)[::-1])[::-1] + fall  # log W of each step in the window
        added = log(rate) - (0.5 if series else 1.0) * (distance[::-1] + 1) / self.slope
        slack = SLACK if series else CANCELLED
        reached = added <= log(rate) - log(SLACK) if series else True
        return bool(np.any(reached & (added > log(slack) + moved)))

    def width(self, step: int, rate: float) -> tuple[int, list[Call]]:
        """The window of `step`: base, and `slope` steps more for each factor e by which `rate` exceeds an earlier one.

        And what notes the step's rate.
        """
        lows = self._lows  # the steps in the widest window whose rate is below those of all later ones
        left, older = len(lows), 0
        while left and lows[left - 1][1] >= rate:
            left -= 1
        while older < left and lows[older][0] <= step - self.largest:
            older += 1
        rates = self._rates  # whose first one leaves them where they are `largest`
        notes: list[Call] = [partial(rates.append, rate), partial(lows.append, (step, rate))]
        if len(rates) == self.largest and rates[0] < self._least_before:
            notes.append(partial(setattr, self, "_least_before", rates[0]))
        if left < len(lows):
            notes[1:1] = [lows.pop] * (len(lows) - left)
        if older:
            notes += [lows.popleft] * older
        lowest = lows[older][1] if older < left else rate
        if lowest == rate:
            return self.base, notes
        if lowest <= 0:
            return self.largest, notes
        return min(self.largest, self.base + int(self.slope * log(rate / lowest)) + 1), notes


NOT_REACHED: tuple[int, float, RateWindow | None, tuple[int, list[Call]]] = (-1, 0.0, None, (0, []))


class WindowedHistory(History):
    """A history whose steps reach back over a window that is wider where rates have risen."""

    def __init__(
        self, rows: int, numbers: int, base: int, largest: int, slope: float, momentum_fall: float | None = None
    ) -> None:
        """For windows as `RateWindow` has them, and entries as in `History`."""
        super().__init__(rows, numbers, 2 * largest)
        self._shape = base, largest, slope, momentum_fall
        self._window: RateWindow
        self._reached = NOT_REACHED

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reached": NOT_REACHED}  # which would change what was copied

    def restart(self, step: int) -> list[Call]:
        window = RateWindow(*self._shape)
        return [*super().restart(step), partial(setattr, self, "_window", window)]

    def outruns(self, rate: float) -> bool:
        """Whether all rows must be settled before a step with this `rate`, as in `reach`."""
        return self._shape[1] > 0 and self._window.outruns(rate)

    def reach(self, rate: float) -> tuple[int, list[Call]]:
        """The window of the step now + 1, and what notes its rate; kept, since a step asks for it twice."""
        if not self._shape[1]:
            return 0, []
        now, of, window, known = self._reached
        if now != self.now or of != rate or window is not self._window:
            known = self._window.width(self.now + 1, rate)
            self._reached = (self.now, rate, self._window, known)
        return known

    def reopened(self, rate: float) -> list[Call]:
        """What lets closed blocks that the step now + 1 reaches take their suffixes into their entries, if there are such."""
        first = max(self.origin, self.now + 1 - self.reach(rate)[0]) // BLOCK
        if first >= self.first_open:
            return []
        folded = [call for block in range(first, self.first_open) for call in self._fold(block % self.blocks)]
        return [*folded, partial(setattr, self, "first_open", first)]

    def _fold(self, a: int) -> list[Call]:
        """What takes the ring's suffix `a` into the entries of its block."""
        raise NotImplementedError
