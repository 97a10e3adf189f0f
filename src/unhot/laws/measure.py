"""The law of optimizers that divide a momentum by a root, such as Adam.

With m the momentum and x the root (sqrt(v), sqrt(vmax) or u), a touched row does
w = (1 - rate decay) w - (alpha m + gamma g) / (c x + epsilon), and a row without a gradient the same with g = 0. Its movement
over many steps is a polynomial in u = 1 - 2 epsilon / (c0 x + epsilon), one for each panel of points c_s
(docs/mathematics.md, "The step measure").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from unhot.laws.arithmetic import Elements, slot_by, slot_carried, weight_less
from unhot.laws.base import Law, Rows

PANELS = 4
"""Panels that a graph may spell out one by one: with dozens, compilers take long, and much memory."""


class Root(IntEnum):
    """What the momentum is divided by."""

    SECOND_MOMENT = 0
    LARGEST_SECOND_MOMENT = 1
    NORM = 2


class MeasureCoefficients(NamedTuple):
    """The decays of weight, momentum and moment, and the polynomials: for each panel its centre c0 and the terms."""

    w_hi: Elements
    w_lo: Elements
    m_hi: Elements
    m_lo: Elements
    v_hi: Elements
    v_lo: Elements
    used: Elements
    panels: Elements


class MeasureScalars(NamedTuple):
    """The decays of a step, with the gradient's shares in them, and the step's corrections alpha, gamma and c."""

    w_hi: Elements
    w_lo: Elements
    m_hi: Elements
    m_lo: Elements
    m_g: Elements
    v_hi: Elements
    v_lo: Elements
    v_g: Elements
    alpha: Elements
    gamma: Elements
    c: Elements
    epsilon: Elements


class MeasureShared(NamedTuple):
    """Epsilon, and how many panels and terms the polynomials have."""

    epsilon: Elements
    panels: int
    terms: int


@dataclass(frozen=True)
class Measure(Law):
    """The row state is (w, momentum, second moment or norm, [largest second moment])."""

    root: Root
    nesterov: bool = False
    """Whether the gradient itself, times gamma, is part of the numerator."""

    name = "Measure"
    Coefficients = MeasureCoefficients
    Scalars = MeasureScalars
    Shared = MeasureShared

    @property
    def native_settle(self) -> str:
        return f"Panels<T, {1 + len(self.slots)}, {'true' if self.root is Root.NORM else 'false'}>"

    panels = True

    @property
    def width(self) -> int:
        return len(MeasureCoefficients._fields) - 1

    @property
    def slots(self) -> tuple[str, ...]:
        moment = "norm" if self.root is Root.NORM else "velocity"
        return "momentum", moment, *(("largest_velocity",) if self.root is Root.LARGEST_SECOND_MOMENT else ())

    @classmethod
    def variants(cls) -> Iterator[Measure]:
        yield from map(cls, Root)
        yield cls(Root.SECOND_MOMENT, nesterov=True)

    def columns(self, lines: Any) -> MeasureCoefficients:
        head = len(MeasureCoefficients._fields) - 1
        return MeasureCoefficients._make((*(lines[:, i, None] for i in range(head)), lines[:, head:]))

    def settle(self, xp: Any, rows: Rows, c: MeasureCoefficients, k: MeasureShared) -> Rows:
        w, m, v = rows[:3]
        x = rows[-1] if self.root is Root.NORM else xp.sqrt(rows[-1])
        return (
            weight_less(xp, w, c.w_hi, c.w_lo, self._movement(xp, m, x, c.panels, k)),
            slot_carried(xp, m, c.m_hi, c.m_lo),
            slot_carried(xp, v, c.v_hi, c.v_lo),
            *rows[3:],
        )

    def _movement(self, xp: Any, m: Elements, x: Elements, c: Elements, k: MeasureShared) -> Elements:
        """m times the sum of a_s / (c_s x + epsilon) over the deferred steps: one polynomial in u for each panel.

        m is divided first: of rows without gradients it is 0, where a_s / epsilon may be beyond the dtype.
        """
        epsilon, terms = k.epsilon, k.terms
        if k.panels > PANELS and xp is not np:
            c = xp.reshape(c, (-1, k.panels, 1 + terms))
            over = 1 / (c[:, :, 0, None] * x[:, None, :] + epsilon)
            u = 1 - (epsilon + epsilon) * over
            polynomial = c[:, :, terms, None] + u * 0
            for i in range(terms - 1, 0, -1):
                polynomial = polynomial * u + c[:, :, i, None]
            return xp.sum((m[:, None, :] * over) * polynomial, 1)
        total: Any = None
        for panel in range(0, k.panels * (1 + terms), 1 + terms):
            over = 1 / (c[:, panel, None] * x + epsilon)
            u = 1 - (epsilon + epsilon) * over
            polynomial = c[:, panel + terms, None] + u * 0
            for i in range(terms - 1, 0, -1):
                polynomial = polynomial * u + c[:, panel + i, None]
            part = (m * over) * polynomial
            total = part if total is None else total + part
        return total

    def update(self, xp: Any, rows: Rows, g: Elements, s: MeasureScalars, k: MeasureShared) -> Rows:
        w, m, v = rows[:3]
        m = slot_by(xp, m, s.m_hi, s.m_lo, g * s.m_g)
        largest: Rows = ()
        if self.root is Root.NORM:
            v = xp.maximum(slot_by(xp, v, s.v_hi, s.v_lo), xp.abs(g))
            x = v
        else:
            v = slot_by(xp, v, s.v_hi, s.v_lo, (g * s.v_g) * g)
            if self.root is Root.LARGEST_SECOND_MOMENT:
                largest = (xp.maximum(rows[3], v),)
            x = xp.sqrt(largest[0] if largest else v)
        numerator = m * s.alpha
        if self.nesterov:
            numerator = xp.where(s.gamma != 0, numerator + g * s.gamma, numerator)
        return (weight_less(xp, w, s.w_hi, s.w_lo, numerator / (x * s.c + s.epsilon)), m, v, *largest)
