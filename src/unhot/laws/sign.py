"""The law of Lion, which steps by the sign of a momentum: a row without a gradient moves on in the direction of that sign.

The sign must survive for as long as the row rests. A decaying momentum therefore stops at a floor far below any gradient
instead of becoming 0 (dense float32 training stops there when its momentum underflows; dense float64 goes on).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from unhot.laws.arithmetic import Elements, slot_by, slot_carried, weight_moved
from unhot.laws.base import Law, Rows


class SignCoefficients(NamedTuple):
    """The decay of the weight as a pair, the sum of the rates, and the decay of the momentum as a slot's pair."""

    w_hi: Elements
    w_lo: Elements
    rates: Elements
    m_hi: Elements
    m_lo: Elements


class SignScalars(NamedTuple):
    """The decay of the weight as a pair, the rate (negative), the shares of momentum and gradient in the direction, and the
    decay of the momentum and the gradient's share in it.
    """

    w_hi: Elements
    w_lo: Elements
    rate: Elements
    beta_1: Elements
    share: Elements
    m_hi: Elements
    m_lo: Elements
    m_g: Elements


class SignShared(NamedTuple):
    """The magnitude at which a decaying momentum stops."""

    floor: Elements


@dataclass(frozen=True)
class Sign(Law):
    """The row state is (w, momentum)."""

    name = "Sign"
    slots = ("momentum",)
    Coefficients = SignCoefficients
    Scalars = SignScalars
    Shared = SignShared

    @classmethod
    def variants(cls) -> Iterator[Sign]:
        yield cls()

    def settle(self, xp: Any, rows: Rows, c: SignCoefficients, k: SignShared) -> Rows:
        w, m = rows
        sign = xp.sign(m)
        size = xp.maximum(slot_carried(xp, xp.abs(m), c.m_hi, c.m_lo), k.floor)
        return weight_moved(xp, w, c.w_hi, c.w_lo, sign * c.rates), sign * size

    def update(self, xp: Any, rows: Rows, g: Elements, s: SignScalars, k: SignShared) -> Rows:
        w, m = rows
        direction = xp.sign(m * s.beta_1 + g * s.share)
        return weight_moved(xp, w, s.w_hi, s.w_lo, direction * s.rate), slot_by(xp, m, s.m_hi, s.m_lo, g * s.m_g)
