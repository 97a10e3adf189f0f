"""The law of optimizers whose step is linear in weight and momentum: SGD, Adagrad, RMSprop, Adadelta.

With q the gradient, or the gradient over the root of a running average, every one of them is

    (w, b) = M_s (w, b) + (gw, gb) q,

M_s one 2x2 matrix per step, the same for all elements: a row without a gradient is carried over any number of steps by
the product of their matrices, and its averages by the product of their decays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

from unhot.laws.arithmetic import Elements, slot_by, slot_carried, weight_by, weight_moved
from unhot.laws.base import Law, Rows


class Divisor(IntEnum):
    """What the gradient is divided by: the root of ..."""

    NONE = 0
    SUM = 1
    MEAN = 2
    CENTERED = 3
    DELTA = 4


AVERAGES = {
    Divisor.NONE: (),
    Divisor.SUM: ("sum",),
    Divisor.MEAN: ("velocity",),
    Divisor.CENTERED: ("velocity", "average_gradient"),
    Divisor.DELTA: ("velocity", "delta"),
}


class LinearCoefficients(NamedTuple):
    """The product of the matrices (w as a pair, b in w, w in b, b as a slot's pair), and of the averages' decays."""

    w_hi: Elements
    w_lo: Elements
    w_b: Elements
    b_w: Elements
    b_hi: Elements
    b_lo: Elements
    v_hi: Elements
    v_lo: Elements


class LinearScalars(NamedTuple):
    """The matrix of a step, what multiplies q, the averages' decay, and epsilon inside and outside of the root."""

    w_hi: Elements
    w_lo: Elements
    w_b: Elements
    b_w: Elements
    b_hi: Elements
    b_lo: Elements
    g_w: Elements
    g_b: Elements
    v_hi: Elements
    v_lo: Elements
    share: Elements
    inside: Elements
    outside: Elements


class LinearShared(NamedTuple):
    """Nothing."""


@dataclass(frozen=True)
class Linear(Law):
    """The row state is (w, [momentum], [velocity or sum], [average gradient or delta])."""

    momentum: bool
    divisor: Divisor

    name = "Linear"
    Coefficients = LinearCoefficients
    Scalars = LinearScalars
    Shared = LinearShared

    @property
    def slots(self) -> tuple[str, ...]:
        return ("momentum",) * self.momentum + AVERAGES[self.divisor]

    @property
    def decays(self) -> bool:
        """Whether the averages decay."""
        return self.divisor not in (Divisor.NONE, Divisor.SUM)

    @classmethod
    def variants(cls) -> Iterator[Linear]:
        for divisor in Divisor:
            yield cls(False, divisor)
            if divisor in (Divisor.NONE, Divisor.MEAN, Divisor.CENTERED):
                yield cls(True, divisor)

    def settle(self, xp: Any, rows: Rows, c: LinearCoefficients, k: LinearShared) -> Rows:
        w, averages = rows[0], rows[1 + self.momentum :]
        if self.decays:
            averages = tuple(slot_carried(xp, v, c.v_hi, c.v_lo) for v in averages)
        if not self.momentum:
            return (weight_by(xp, w, c.w_hi, c.w_lo), *averages)
        b = rows[1]
        new_b = slot_carried(xp, b, c.b_hi, c.b_lo, xp.where(c.b_w != 0, w * c.b_w, 0.0))
        return (weight_moved(xp, w, c.w_hi, c.w_lo, b * c.w_b), new_b, *averages)

    def update(self, xp: Any, rows: Rows, g: Elements, s: LinearScalars, k: LinearShared) -> Rows:
        w = rows[0]
        q, averages = self._divided(xp, rows[1 + self.momentum :], g, s)
        if not self.momentum:
            return (weight_moved(xp, w, s.w_hi, s.w_lo, q * s.g_w), *averages)
        b = rows[1]
        more = xp.where(s.b_w != 0, w * s.b_w + q * s.g_b, q * s.g_b)
        new_b = slot_by(xp, b, s.b_hi, s.b_lo, more)
        return (weight_moved(xp, w, s.w_hi, s.w_lo, b * s.w_b + q * s.g_w), new_b, *averages)

    def _divided(self, xp: Any, averages: Rows, g: Elements, s: LinearScalars) -> tuple[Elements, Rows]:
        """The gradient over its divisor, and the averages after it."""
        if self.divisor is Divisor.NONE:
            return g, ()
        if self.divisor is Divisor.SUM:
            v = averages[0] + g * g
            return g / (xp.sqrt(v + s.inside) + s.outside), (v,)
        v = slot_by(xp, averages[0], s.v_hi, s.v_lo, (g * s.share) * g)
        if self.divisor is Divisor.MEAN:
            return g / (xp.sqrt(v + s.inside) + s.outside), (v,)
        other = averages[1]
        if self.divisor is Divisor.CENTERED:
            other = slot_by(xp, other, s.v_hi, s.v_lo, g * s.share)
            return g / (xp.sqrt((v - other * other) + s.inside) + s.outside), (v, other)
        q = (g * xp.sqrt(other + s.inside)) / xp.sqrt(v + s.inside)
        return q, (v, slot_by(xp, other, s.v_hi, s.v_lo, (q * s.share) * q))
