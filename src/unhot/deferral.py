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
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt

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

    def restart(self, step: int) -> None:
        """Forget everything before `step`, to which all rows have been settled."""
        self.now = self.origin = step
        self.first_open = step // BLOCK
        self._begin(step, new_block=True)

    def _begin(self, step: int, *, new_block: bool) -> None:
        """Set the entry of `step` to "nothing deferred", and its block's suffix too where a block begins."""
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

    def closed_blocks(self) -> Iterator[tuple[int, int]]:
        """Yield the ring's slices [a, b) of the closed blocks' suffixes."""
        oldest = self.oldest_block()
        while oldest < self.first_open:
            a = oldest % self.blocks
            length = min(self.first_open - oldest, self.blocks - a)
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
        self.restart(0)

    def _begin(self, step: int, *, new_block: bool) -> None:
        self.entry[step & self.mask] = (1.0, 0.0, 0.0, 1.0, 1.0)
        if new_block:
            self.suffix[step // BLOCK % self.blocks] = (1.0, 0.0, 0.0, 1.0, 1.0)

    def advance(self, matrix: tuple[float, float, float, float], average: float) -> None:
        """Extend every entry by the step now + 1 with its 2x2 `matrix` (row by row) and its decay of the averages."""
        current = self.first_open = self.now // BLOCK
        step = np.array(matrix)
        for _, a, b in self.spans(current * BLOCK, self.now + 1):
            kernels.matrix_extend(self.entry[a:b], step, average)
        for a, b in self.closed_blocks():
            kernels.matrix_extend(self.suffix[a:b], step, average)
        self.now += 1
        self._begin(self.now, new_block=self.now % BLOCK == 0)

    def coefficients(self, steps: Array, dtype: np.dtype[Any]) -> Array:
        """What carries the rows last touched at `steps` to now, with pairs of floats for the diagonal and the average."""
        return np.asarray(kernels.matrix_coefficients(self.entry, self.suffix, steps, dtype))


class RateWindow:
    """How far back a step's rate can still matter: the window, widened where rates have risen."""

    def __init__(self, base: int, largest: int, slope: float) -> None:
        self.base, self.largest, self.slope = base, largest, slope
        self._lows: deque[tuple[int, float]] = deque()

    def width(self, step: int, rate: float) -> int:
        """The window of `step`: base, and `slope` steps more for each factor e by which `rate` exceeds an earlier one."""
        lows = self._lows
        while lows and lows[-1][1] >= rate:
            lows.pop()
        lows.append((step, rate))
        while lows[0][0] <= step - self.largest:
            lows.popleft()
        lowest = lows[0][1]
        if lowest == rate:
            return self.base
        if lowest <= 0:
            return self.largest
        return min(self.largest, self.base + int(self.slope * log(rate / lowest)) + 1)
