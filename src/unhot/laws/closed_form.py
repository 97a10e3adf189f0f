"""The law of Ftrl, whose weight is a closed form of its slots at the current rate.

Without shrinkage a row without a gradient keeps its slots, and its weight follows from them and the current rate alone.
With l2 shrinkage s2 the linear slot z moves too: y = z - clip(z, -l1, l1) shrinks in step s by the factor
1 - 2 s2 d_s e / (X + 2 l2 e), e the rate of the step before, X = accumulator^-p + beta. Its logarithm is a smooth
function of X0/X in (0, 1], X0 the least X there is, and 0 at 0: a few Chebyshev coefficients of it divided by X0/X, summed
over the steps, give the product for every element, also where it is near 1. The first step after a touch is taken
literally, since an initial weight need not agree with its z.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from unhot.laws.arithmetic import Elements, clipped, narrowed, power, weight_by
from unhot.laws.base import Law, Rows

TERMS = 16
"""Coefficients of the shrinkage's logarithm: (3 + sqrt(8))**-16 = 6e-13 where 2 s2 rate <= X0 / 2 and 2 l2 rate <= X0."""


class ClosedFormCoefficients(NamedTuple):
    """2 s2 d of the first step, and the Chebyshev coefficients of the logarithm over the others."""

    first: Elements
    series: tuple[Elements, ...]


class ClosedFormScalars(NamedTuple):
    """The decay of a step, and its rate: 1 / rate."""

    w_hi: Elements
    w_lo: Elements
    over_rate: Elements


class ClosedFormShared(NamedTuple):
    """1 over the rate of the last step, 2 s2, 2 l2, l1, beta, -learning_rate_power, and X0."""

    over_rate: Elements
    twice_shrinkage: Elements
    twice_l2: Elements
    l1: Elements
    beta: Elements
    exponent: float
    least: Elements


@dataclass(frozen=True)
class ClosedForm(Law):
    """The row state is (w, accumulator, linear)."""

    shrinks: bool
    root: bool
    """Whether the power is the square root."""

    name = "ClosedForm"
    slots = ("accumulator", "linear")
    Coefficients = ClosedFormCoefficients
    Scalars = ClosedFormScalars
    Shared = ClosedFormShared

    @classmethod
    def variants(cls) -> Iterator[ClosedForm]:
        yield from (cls(*options) for options in product((False, True), repeat=2))

    @property
    def width(self) -> int:
        return 1 + TERMS if self.shrinks else 1

    def columns(self, lines: Any) -> ClosedFormCoefficients:
        series = tuple(lines[:, i, None] for i in range(1, 1 + TERMS)) if self.shrinks else ()
        return ClosedFormCoefficients(lines[:, 0, None], series)

    def _power(self, xp: Any, n: Elements, k: ClosedFormShared) -> Elements:
        return xp.sqrt(n) if self.root else power(xp, n, k.exponent)

    def settle(self, xp: Any, rows: Rows, c: ClosedFormCoefficients, k: ClosedFormShared) -> Rows:
        w, n, z = rows
        x = narrowed(xp, self._power(xp, n, k), n) + k.beta
        if not self.shrinks:
            return (clipped(xp, z, k.l1) - z) / (x * k.over_rate + k.twice_l2), n, z
        z = z + w * c.first
        kept = clipped(xp, z, k.l1)
        part = k.least / x
        variable = 2 * part - 1
        before = after = 0 * variable
        for coefficient in reversed(c.series[1:]):
            before, after = coefficient + 2 * variable * before - after, before
        y = (z - kept) * xp.exp(part * (c.series[0] + variable * before - after))
        return -y / (x * k.over_rate + k.twice_l2), n, kept + y

    def update(self, xp: Any, rows: Rows, g: Elements, s: ClosedFormScalars, k: ClosedFormShared) -> Rows:
        w, n, z = rows
        w = weight_by(xp, w, s.w_hi, s.w_lo)
        total = n + g * g
        risen = self._power(xp, total, k)
        rise = narrowed(xp, risen - self._power(xp, n, k), n)
        z = z + ((g + w * k.twice_shrinkage) - (rise * s.over_rate) * w)
        divisor = (narrowed(xp, risen, n) + k.beta) * s.over_rate + k.twice_l2
        return (clipped(xp, z, k.l1) - z) / divisor, total, z
