"""The histories of steps inside a graph: arrays that a compiled step reads and writes.

The histories of `unhot.clock` are kept on the host in float64, and hyperparameters may change at every step. Inside a graph
there may be no float64, and only the rate changes from step to step: momenta and decays are numbers that the graph was compiled
with. So a row last touched at step t is carried to n by

- powers of constants, exp(k log beta) with k = n - t, which is accurate in any dtype;
- the product of the decays 1 - rate weight_decay, from running sums of their logarithms, each kept as two floats;
- sums over the steps of the window after t, one line for each t in a ring, which every step extends.
"""

from __future__ import annotations

from math import log
from typing import Any

import numpy as np

from unhot.clock.sums import added, difference
from unhot.kernels.reference_history import SMALL

SMALL_RING, RING = 1 << 12, 1 << 14
"""Steps in the ring of a small and of a large table: the more, the fewer rows each step settles in turn."""

LARGE = 1 << 17
"""Rows from which on a table is large."""

Arrays = dict[str, Any]


def pair_of_log(ops: Any, logarithm: Any) -> tuple[Any, Any]:
    """exp(logarithm) as two floats: 1 and the rest near 1, so that a factor just below 1 keeps its digits."""
    near = logarithm > -0.5
    return (
        ops.where(near, 1.0, ops.exp(logarithm)),
        ops.where(near, ops.expm1(logarithm), 0.0),
    )


def power(ops: Any, base: float, k: Any) -> tuple[Any, Any]:
    """base**k as a slot's two floats, for k >= 0; as `slot_pair`, but of a logarithm, since float32 has no 1 - 1e-9."""
    if base == 0.0:
        return ops.where(k == 0, 1.0, 0.0), 0.0 * k
    logarithm = k * log(base)
    hi, lo = pair_of_log(ops, logarithm)
    small, root = logarithm < log(SMALL), ops.exp(0.5 * logarithm)
    return ops.where(small, root, hi), ops.where(small, root, lo)


class Decays:
    """The running sum of log(1 - rate weight_decay), one entry for each step in the ring; nothing without a decay."""

    def __init__(self, decay: float, capacity: int) -> None:
        self.decay, self.mask = decay, capacity - 1

    def arrays(self, dtype: Any) -> Arrays:
        return {"decays": np.zeros((self.mask + 1, 2), dtype)} if self.decay else {}

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any) -> Arrays:
        if not self.decay:
            return {}
        before = ops.take(arrays["decays"], (step - 1) & self.mask)
        sums = added(before[0], before[1], ops.log1p(-rate * self.decay))
        return {"decays": ops.put(arrays["decays"], step & self.mask, ops.stack([*sums]))}

    def between(self, ops: Any, arrays: Arrays, start: Any, stop: Any) -> Any:
        """The logarithm of the product of the decays of the steps after `start` up to `stop`; there must be a decay."""
        a, b = ops.take(arrays["decays"], start & self.mask), ops.take(arrays["decays"], stop & self.mask)
        return difference(b[..., 0], b[..., 1], a[..., 0], a[..., 1])

    def total(self, ops: Any, arrays: Arrays, now: Any) -> Any:
        """The logarithm of the product of all decays up to `now`, since the history was begun; 0 without a decay."""
        if not self.decay:
            return ops.real(0.0)
        sums = ops.take(arrays["decays"], now & self.mask)
        return sums[0] + sums[1]


def ring_of(rows: int, window: int) -> int:
    """The capacity of the ring: a power of two, at least twice the window."""
    return max(RING if rows >= LARGE else SMALL_RING, 1 << (2 * window + 1).bit_length())


class Window:
    """Sums over the steps of the window after t: one line for each t in the ring.

    Each step adds a line to each of the `window` steps before it, whose lines so far are first multiplied by its decay.
    """

    def __init__(self, window: int, width: int, decays: Decays) -> None:
        self.window, self.width, self.decays, self.mask = window, width, decays, decays.mask

    def arrays(self, dtype: Any) -> Arrays:
        return {"lines": np.zeros((self.mask + 1, self.width), dtype)}

    def advance(self, ops: Any, arrays: Arrays, step: Any, rate: Any, lines: Any) -> Arrays:
        """Add `lines`, (window, width), to the steps 1, 2, ... before `step`, and begin the line of `step`."""
        distance = np.arange(self.window + 1)
        positions = (step - distance) & self.mask
        before = ops.take(arrays["lines"], positions[1:])
        if self.decays.decay:
            before = before - before * (rate * self.decays.decay)  # a rounded factor would err to one side, step by step
        return {"lines": ops.put(arrays["lines"], positions, ops.concat([ops.zeros((1, self.width), before), before + lines]))}

    def lines(self, ops: Any, arrays: Arrays, now: Any, last: Any) -> Any:
        """The lines of the rows last touched at `last`, decayed to `now`: (len(last), width)."""
        lines = ops.take(arrays["lines"], last & self.mask)
        if not self.decays.decay:
            return lines
        closed = ops.minimum(last + self.window, now)
        return lines * ops.exp(self.decays.between(ops, arrays, closed, now))[:, None]
