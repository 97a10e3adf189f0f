"""The history of the steps made: what carries a row from the step of its last touch to now.

Between two touches a row's gradient is zero, and what a rule then does to it is the same linear map for every row last
touched at the same step t (docs/mathematics.md).  A history keeps that map's coefficients for every t in a ring, and
`advance` extends all of them by one step.  It does so at a cost that does not depend on how many steps the ring holds:
only the entries of the newest blocks are extended one by one; for an older, *closed* block the extension is kept once,
as the block's *suffix*, and applied when an entry is read.

Products are formed in float64 by multiplication, never as differences of logarithms, so a factor that is zero or negative
needs no special case, and over a full ring the rounding stays below 3e-11 (2**18 products of one half unit each).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import partial
from math import inf, log
from operator import setitem
from typing import Any

import numpy as np
import numpy.typing as npt

from unhot.atomic import Call, together
from unhot.kernels import active as kernels
from unhot.kernels.reference_history import BLOCK as BLOCK

Array = npt.NDArray[Any]


BYTES_PER_ROW = 3
"""Bytes that the history of a large table may take for each row, beside the 4 for the step of the last touch."""


class History:
    """A ring of coefficient entries, one for each step t in (now - capacity, now].

    Every row must be carried forward within `capacity - BLOCK` steps of its last touch; the table sees to it by settling
    a few rows in turn (see `Engine._sweep`).
    """

    def __init__(self, rows: int, numbers: int, least: int = 0) -> None:
        """For a table of so many rows, with so many `numbers` in an entry and at least `least` entries."""
        self.capacity = ring_capacity(rows * BYTES_PER_ROW // (8 * numbers), least + 4 * BLOCK)
        self.mask = self.capacity - 1
        self.blocks = self.capacity // BLOCK
        self.now = 0
        self.origin = 0
        self.first_open = 0

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():  # whose arrays may be read-only where they were unpickled from shared buffers
            self.__dict__[name] = value.copy() if isinstance(value, np.ndarray) and not value.flags.writeable else value

    @property
    def period(self) -> int:
        """The number of steps within which every row must have been settled."""
        return self.capacity - 2 * BLOCK

    def restart(self, step: int) -> list[Call]:
        """What forgets everything before `step`, to which all rows have been settled."""
        return [
            partial(setattr, self, "now", step),
            partial(setattr, self, "origin", step),
            partial(setattr, self, "first_open", step // BLOCK),
            *self._begin(step, new_block=True),
        ]

    def _begin(self, step: int, *, new_block: bool) -> list[Call]:
        """What sets the entry of `step` to "nothing deferred", and its block's suffix too where a block begins."""
        raise NotImplementedError

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (t, a, b): steps t, t + 1, ... lie at the ring positions a to b; start <= t < stop."""
        start = max(start, self.origin)
        while start < stop:
            position = start & self.mask
            length = min(stop - start, self.capacity - position)
            yield start, position, position + length
            start += length

    def oldest_block(self) -> int:
        """The oldest block that the ring still holds."""
        return max(self.origin // BLOCK, self.now // BLOCK - self.blocks + 1)

    def closed_blocks(self, first_open: int) -> Iterator[tuple[int, int]]:
        """Yield the ring's slices [a, b) of the suffixes of the blocks that are closed before block `first_open`."""
        oldest = self.oldest_block()
        while oldest < first_open:
            a = oldest % self.blocks
            length = min(first_open - oldest, self.blocks - a)
            yield a, a + length
            oldest += length


def ring_capacity(affordable: int, least: int) -> int:
    """The largest power of two that is at most `affordable`, but at least `least` and 16 blocks."""
    return max(16 * BLOCK, 1 << (least - 1).bit_length(), 1 << (max(1, affordable).bit_length() - 1))


class MatrixHistory(History):
    """Entries of rules that are linear in (weight, momentum): a 2x2 matrix and the decay of the averages.

    entry[t] = (p00, p01, p10, p11, s): over the steps t+1..now
        weight, momentum = p00 weight + p01 momentum, p10 weight + p11 momentum;   average = s average.
    """

    WIDTH = 5

    def __init__(self, rows: int) -> None:
        super().__init__(rows, self.WIDTH)
        self.entry = np.ones((self.capacity, self.WIDTH))
        self.suffix = np.ones((self.blocks, self.WIDTH))
        together(self.restart(0))

    def _begin(self, step: int, *, new_block: bool) -> list[Call]:
        nothing = np.array((1.0, 0.0, 0.0, 1.0, 1.0))
        entry: Call = partial(setitem, self.entry, step & self.mask, nothing)
        return [entry, partial(setitem, self.suffix, step // BLOCK % self.blocks, nothing)] if new_block else [entry]

    def advance(self, matrix: tuple[float, float, float, float], average: float) -> list[Call]:
        """What extends every entry by the step now + 1 with its 2x2 `matrix` (row by row) and its decay of the averages."""
        step, current, after = np.array(matrix), self.now // BLOCK, self.now + 1
        extended = [self.entry[a:b] for _, a, b in self.spans(current * BLOCK, after)]
        extended += [self.suffix[a:b] for a, b in self.closed_blocks(current)]
        return [
            *(kernels.matrix_extend(entries, step, average) for entries in extended),
            partial(setattr, self, "first_open", current),
            partial(setattr, self, "now", after),
            *self._begin(after, new_block=after % BLOCK == 0),
        ]

    def coefficients(self, steps: Array, dtype: np.dtype[Any]) -> Array:
        """What carries the rows last touched at `steps` to now, with pairs of floats for the diagonal and the average."""
        return np.asarray(kernels.matrix_coefficients(self.entry, self.suffix, steps, dtype))


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
        self._rates: deque[float] = deque()
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
        notes: list[Call] = []
        if len(self._rates) >= self.largest:
            least = min(self._least_before, self._rates[0])
            notes += [self._rates.popleft, partial(setattr, self, "_least_before", least)]
        notes += [
            partial(self._rates.append, rate),
            *[lows.pop] * (len(lows) - left),
            partial(lows.append, (step, rate)),
            *[lows.popleft] * older,
        ]
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
