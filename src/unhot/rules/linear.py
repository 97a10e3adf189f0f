"""The family of the rules whose step is linear in weight and momentum.

With q the gradient, or the gradient over the root of a running average, every one of them is

    (w, b) = M_s (w, b) + (gw, gb) q,

M_s one 2x2 matrix per step, the same for all elements: a row without a gradient is carried over any number of steps by
the product of their matrices, and its averages by the product of their decays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from unhot.atomic import Call
from unhot.deferral import MatrixHistory
from unhot.laws import Divisor, Linear
from unhot.rules.base import Array, Hyper, Recurrence, scalar_pair, stored

Matrix = tuple[float, float, float, float]


class LinearRecurrence(Recurrence):
    """The linear family; the row state is (w, [momentum], [velocity or sum], [average gradient or delta])."""

    law: Linear

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
        self.law = Linear(self.with_momentum, divisor)
        self.history = MatrixHistory(rows)
        self._decays = self.law.decays

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


class Descent(LinearRecurrence):
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
