"""The family of the rules whose step is linear in weight and momentum.

With q the gradient, or the gradient over the root of a running average, every one of them is

    (w, b) = M_s (w, b) + (gw, gb) q,

M_s one 2x2 matrix per step, the same for all elements: a row without a gradient is carried over any number of steps by
the product of their matrices, and its averages by the product of their decays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np

from unhot.atomic import Call
from unhot.deferral import MatrixHistory
from unhot.rules.base import (
    Array,
    Hyper,
    Recurrence,
    scalar_pair,
    slot_by,
    slot_carried,
    stored,
    weight_by,
    weight_moved,
)

Matrix = tuple[float, float, float, float]


class Divisor(IntEnum):
    """What the gradient is divided by."""

    NONE = 0
    SUM = 1
    MEAN = 2
    CENTERED = 3
    DELTA = 4


class Linear(Recurrence):
    """The linear family; the row state is (w, [momentum], [velocity or sum], [average gradient or delta])."""

    family = "linear"

    def __init__(
        self,
        optimizer: Any,
        dtype: np.dtype[Any],
        rows: int,
        divisor: Divisor,
        averages: dict[str, float],
        slots: Collection[str] = (),
    ) -> None:
        self.optimizer = optimizer
        self.dtype = dtype
        self.divisor = divisor
        self.with_momentum = bool(getattr(optimizer, "momentum", 0.0)) or "momentum" in slots
        self.slots = {**({"momentum": 0.0} if self.with_momentum else {}), **averages}
        self.variant = int(self.with_momentum) + 2 * int(divisor)
        self.history = MatrixHistory(rows)
        self._decays = divisor not in (Divisor.NONE, Divisor.SUM)

    def defers(self, hyper: Hyper) -> bool:
        return self.with_momentum or self._decays or hyper.decay > 0

    @property
    def period(self) -> int:
        return self.history.period

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        return self.history.restart(step)

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        return self.history.advance(self.matrix(step, hyper)[0], self.optimizer.rho if self._decays else 1.0)

    def accepts(self, hyper: Hyper) -> bool:
        if hyper.momentum and not self.with_momentum:
            raise ValueError(
                f"{type(self.optimizer).__name__}: `momentum` was 0 when the table was made, so it has no momentum slot."
                f" Received: momentum={hyper.momentum!r}. Start with the momentum that the schedule reaches, or any above 0."
            )
        return True

    def grows(self, hyper: Hyper) -> bool:
        return abs(self.matrix(1, hyper)[0][0]) > 1.0

    def matrix(self, step: int, hyper: Hyper) -> tuple[Matrix, tuple[float, float]]:
        """M of `step` (row by row) and what multiplies q: ((m00, m01, m10, m11), (gw, gb)).

        In a step without momentum the frameworks leave the buffer as it is.
        """
        rate, momentum, decay = hyper
        if not momentum:
            return (1.0 - rate * decay, 0.0, 0.0, 1.0), (-rate, 0.0)
        if self.optimizer.convention == "torch":
            return (1.0, -rate * momentum, 0.0, momentum), (-rate, 1.0)
        return (1.0 - rate * decay, -momentum, 0.0, momentum), (-rate, rate)

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype)

    def numbers(self, step: Any, hyper: Hyper) -> tuple[Matrix, tuple[Any, Any], float, float, float]:
        """M of `step`, what multiplies q, rho, and epsilon inside and outside of the root; as `matrix`, also for arrays."""
        matrix, (gw, gb) = self.matrix(step, hyper)
        optimizer = self.optimizer
        if self.divisor is Divisor.SUM and optimizer.convention == "torch":
            gw = gw / (1.0 + (step - 1) * optimizer.lr_decay)
        epsilon = getattr(optimizer, "epsilon", 0.0)
        inside = optimizer.convention == "keras" or self.divisor is Divisor.DELTA
        return matrix, (gw, gb), getattr(optimizer, "rho", 0.0), epsilon if inside else 0.0, 0.0 if inside else epsilon

    def scalars(self, step: int, hyper: Hyper) -> Array:
        (m00, m01, m10, m11), (gw, gb), rho, inside, outside = self.numbers(step, hyper)
        return np.array(
            [
                *scalar_pair(m00, self.dtype), m01, m10, *scalar_pair(m11, self.dtype), gw, gb,
                *scalar_pair(rho, self.dtype), 1.0 - rho, inside, outside,
            ],
            dtype=self.dtype,
        )  # fmt: skip

    def settle(self, xp: Any, rows: tuple[Any, ...], c: Any) -> tuple[Any, ...]:
        w_hi, w_lo, w_b, b_w, b_hi, b_lo, v_hi, v_lo = (c[:, i, None] for i in range(8))
        w, rest = rows[0], list(rows[1:])
        averages = [slot_carried(xp, v, v_hi, v_lo) if self._decays else v for v in rest[self.with_momentum :]]
        if not self.with_momentum:
            return (weight_by(xp, w, w_hi, w_lo), *averages)
        b = rest[0]
        new_b = slot_carried(xp, b, b_hi, b_lo, xp.where(b_w != 0, w * b_w, 0.0))
        return (weight_moved(xp, w, w_hi, w_lo, b * w_b), new_b, *averages)

    def update(self, xp: Any, rows: tuple[Any, ...], g: Any, s: Any) -> tuple[Any, ...]:
        w_hi, w_lo, w_b, b_w, b_hi, b_lo, g_w, g_b = s[:8]
        w, rest = rows[0], list(rows[1:])
        b = rest.pop(0) if self.with_momentum else None
        q, averages = self._divided(xp, rest, g, s)
        if b is None:
            return (weight_moved(xp, w, w_hi, w_lo, q * g_w), *averages)
        more = xp.where(b_w != 0, w * b_w + q * g_b, q * g_b)
        new_b = slot_by(xp, b, b_hi, b_lo, more)
        return (weight_moved(xp, w, w_hi, w_lo, b * w_b + q * g_w), new_b, *averages)

    def _divided(self, xp: Any, averages: list[Any], g: Any, s: Any) -> tuple[Any, list[Any]]:
        v_hi, v_lo, share, inside, outside = s[8:13]
        if self.divisor is Divisor.NONE:
            return g, []
        if self.divisor is Divisor.SUM:
            v = averages[0] + g * g
            return g / (xp.sqrt(v + inside) + outside), [v]
        v = slot_by(xp, averages[0], v_hi, v_lo, (g * share) * g)
        if self.divisor is Divisor.MEAN:
            return g / (xp.sqrt(v + inside) + outside), [v]
        other = averages[1]
        if self.divisor is Divisor.CENTERED:
            other = slot_by(xp, other, v_hi, v_lo, g * share)
            return g / (xp.sqrt((v - other * other) + inside) + outside), [v, other]
        q = (g * xp.sqrt(other + inside)) / xp.sqrt(v + inside)
        return q, [v, slot_by(xp, other, v_hi, v_lo, (q * share) * q)]


class Descent(Linear):
    """SGD, whose decay may be coupled and whose momentum has Nesterov's form and dampening.

    PyTorch's buffer starts as a copy of the gradient, undampened, in the first step that has a momentum: the table's, since
    a dense parameter has gradients (zeros) in all rows.
    """

    begun = False

    def __init__(self, optimizer: Any, dtype: np.dtype[Any], rows: int, slots: Collection[str]) -> None:
        super().__init__(optimizer, dtype, rows, Divisor.NONE, {}, slots)

    def matrix(self, step: int, hyper: Hyper) -> tuple[Matrix, tuple[float, float]]:
        rate, momentum, decay = hyper
        if not momentum:
            return (1.0 - rate * decay, 0.0, 0.0, 1.0), (-rate, 0.0)
        if self.optimizer.convention == "keras":
            if self.optimizer.nesterov:
                return (1.0 - rate * decay, momentum**2, 0.0, momentum), (-rate * (1.0 + momentum), -rate)
            return (1.0 - rate * decay, momentum, 0.0, momentum), (-rate, -rate)
        if self.optimizer.nesterov:
            forward = 1.0 + momentum
            return (1.0 - rate * decay * forward, -rate * momentum**2, decay, momentum), (-rate * forward, 1.0)
        share = 1.0 - self.optimizer.dampening if self.begun else 1.0
        return (1.0 - rate * share * decay, -rate * momentum, share * decay, momentum), (-rate * share, share)

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        return [*super().advance(step, hyper), partial(setattr, self, "begun", self.begun or hyper.momentum > 0)]

    def state(self) -> dict[str, float]:
        return {"momentum_begun": float(self.begun)} if self.with_momentum else {}

    def load_state(self, state: Mapping[str, float]) -> None:
        self.begun = bool(stored({"momentum_begun": 0.0, **state}, "momentum_begun"))
