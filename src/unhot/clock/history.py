"""The history of the steps made: a ring of what carries a row from the step of its last touch to now; and that of linear steps.

Between two touches a row's gradient is zero, and what an optimizer then does to it is the same linear map for every row last
touched at the same step t (docs/mathematics.md).  A history keeps that map's coefficients for every t in a ring, and
`advance` extends all of them by one step.  It does so at a cost that does not depend on how many steps the ring holds:
only the entries of the newest blocks are extended one by one; for an older, *closed* block the extension is kept once,
as the block's *suffix*, and applied when an entry is read.

Products are formed in float64 by multiplication, never as differences of logarithms, so a factor that is zero or negative
needs no special case, and over a full ring the rounding stays below 3e-11 (2**18 products of one half unit each).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
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
    a few rows in turn (`unhot.engine`).
    """

    def __init__(self, rows: int, numbers: int, least: int = 0) -> None:
        """For a table of so many rows, with so many `numbers` in an entry and at least `least` entries.

        The ring begins with zeros, which take no memory before they are written, and nobody reads.
        """
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
    """Entries of optimizers that are linear in (weight, momentum): a 2x2 matrix and the decay of the averages.

    entry[t] = (p00, p01, p10, p11, s): over the steps t+1..now
        weight, momentum = p00 weight + p01 momentum, p10 weight + p11 momentum;   average = s average.
    """

    WIDTH = 5

    def __init__(self, rows: int) -> None:
        super().__init__(rows, self.WIDTH)
        self.entry = np.zeros((self.capacity, self.WIDTH))
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
