"""The family of the rules that divide a momentum by a root (the step measure, docs/mathematics.md).

With m the momentum, x the root (sqrt(v), sqrt(vmax) or u), a touched row does
w = (1 - rate decay) w - (alpha m + gamma g) / (c x + epsilon), and a row without a gradient the same with g = 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from math import sqrt
from typing import Any

import numpy as np

from unhot.atomic import Call, together
from unhot.laws import Measure, Root
from unhot.rules.base import Array, Hyper, Recurrence, scalar_pair, stored
from unhot.step_measure import MeasureHistory, Shape


def rest(beta: float, step: Any, xp: Any = math) -> Any:
    """1 - beta**step, to the last digits also where beta is near 1."""
    return -xp.expm1(step * math.log(beta)) if beta else 1.0


class StepMeasure(Recurrence):
    """The family of the step measure; the row state is (w, momentum, second moment or norm, [largest second moment])."""

    law: Measure
    root = Root.SECOND_MOMENT
    nesterov = False

    def __init__(self, optimizer: Any, dtype: np.dtype[Any], rows: int) -> None:
        self.optimizer = optimizer
        self.dtype = dtype
        self.rows = rows
        if getattr(optimizer, "amsgrad", False):
            self.root = Root.LARGEST_SECOND_MOMENT
        none = Hyper(-1.0, 0.0, 0.0)
        self._corrected = (0, none, (0.0, 0.0, 0.0))
        self._scalars: tuple[Hyper, Array] = (none, np.empty(0))
        self.slots = self.slot_names()
        self.law = Measure(self.root, self.nesterov)
        self.history = self._new_history(optimizer.beta_1)

    def slot_names(self) -> dict[str, float]:
        largest = {"largest_velocity": 0.0} if self.root is Root.LARGEST_SECOND_MOMENT else {}
        return {"momentum": 0.0, "velocity": 0.0, **largest}

    def shape(self, beta: float) -> Shape:
        """The form of the points c_s, for momenta up to `beta`."""
        ratio = 1.0 if self.root is Root.LARGEST_SECOND_MOMENT else sqrt(self.optimizer.beta_2)
        return Shape(beta, ratio, self.optimizer.beta_2 if self.optimizer.convention == "torch" else 0.0)

    def _new_history(self, beta: float) -> MeasureHistory:
        return MeasureHistory(self.rows, self.shape(beta), self.optimizer.epsilon, self.dtype.name)

    @property
    def period(self) -> int:
        return self.history.period

    def accepts(self, hyper: Hyper) -> bool:
        return hyper.momentum <= self.history.shape.beta

    def grows(self, hyper: Hyper) -> bool:
        return super().grows(hyper) or self.history.outruns(self._corrections(self.history.now + 1, hyper)[0])

    def restart(self, step: int, momentum: float = 0.0) -> list[Call]:
        if momentum <= self.history.shape.beta:
            return self.history.restart(step)
        try:  # halfway to 1, so that a rising schedule asks for few new histories
            history = self._new_history(0.5 + 0.5 * momentum)
        except ValueError:
            history = self._new_history(momentum)
        together(history.restart(step))
        return [partial(setattr, self, "history", history)]

    def corrections(self, step: Any, hyper: Hyper, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root.

        With another `xp` than `math`, `step` and the rate may be arrays of it.
        """
        root = xp.sqrt(rest(self.optimizer.beta_2, step, xp))
        alpha = hyper.rate / rest(hyper.momentum, step, xp)
        return (alpha, 0.0, 1.0 / root) if self.optimizer.convention == "torch" else (alpha * root, 0.0, 1.0)

    def _corrections(self, step: int, hyper: Hyper) -> tuple[float, float, float]:
        """`corrections`, kept: a step asks for its own twice."""
        at, of, known = self._corrected
        if at != step or (of is not hyper and of != hyper):
            known = self.corrections(step, hyper)
            self._corrected = (step, hyper, known)
        return known

    def reopened(self, step: int, hyper: Hyper) -> list[Call]:
        return self.history.reopened(self._corrections(step, hyper)[0])

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        alpha, _, _ = self._corrections(step, hyper)
        return self.history.advance(1.0 - hyper.rate * hyper.decay, hyper.momentum, self.optimizer.beta_2, alpha)

    def coefficients(self, steps: Array) -> Array:
        return self.history.coefficients(steps, self.dtype)

    def scalars(self, step: int, hyper: Hyper) -> Array:
        of, scalars = self._scalars
        if of is not hyper and of != hyper:
            scalars = self._scalars_of(hyper)
            self._scalars = (hyper, scalars)
        scalars = scalars.copy()
        scalars[8:11] = self._corrections(step, hyper)
        return scalars

    def _scalars_of(self, hyper: Hyper) -> Array:
        """The scalars, but for the corrections of the step."""
        beta_2 = self.optimizer.beta_2
        return np.array(
            [
                *scalar_pair(1.0 - hyper.rate * hyper.decay, self.dtype),
                *scalar_pair(hyper.momentum, self.dtype), 1.0 - hyper.momentum,
                *scalar_pair(beta_2, self.dtype), 1.0 - beta_2,
                0.0, 0.0, 0.0, self.optimizer.epsilon,
            ],
            dtype=self.dtype,
        )  # fmt: skip

    def state(self) -> dict[str, float]:
        return {"largest_beta": self.history.shape.beta}

    def load_state(self, state: Mapping[str, float]) -> None:
        largest = stored(state, "largest_beta", below=1.0)
        if largest > self.history.shape.beta:
            self.history = self._new_history(largest)

    def shared(self) -> Any:
        epsilon = float(self.dtype.type(self.optimizer.epsilon))
        return self.law.Shared(epsilon, len(self.history.panels.centres), self.history.terms)


class NormMeasure(StepMeasure):
    """Keras's Adamax: the root is u itself."""

    root = Root.NORM

    def slot_names(self) -> dict[str, float]:
        return {"momentum": 0.0, "norm": 0.0}

    def shape(self, beta: float) -> Shape:
        return Shape(beta, self.optimizer.beta_2, 0.0)

    def corrections(self, step: Any, hyper: Hyper, xp: Any = math) -> tuple[Any, Any, Any]:
        return hyper.rate / rest(hyper.momentum, step, xp), 0.0, 1.0


class NesterovMeasure(StepMeasure):
    """NAdam, whose corrections hold the running product of its momenta."""

    nesterov = True
    product: Any = 1.0
    """That of the momenta up to the last step."""

    def shape(self, beta: float) -> Shape:
        return Shape(beta, sqrt(self.optimizer.beta_2), self.optimizer.beta_2)

    def momentum(self, step: Any, hyper: Hyper, xp: Any = math) -> Any:
        """mu of `step`."""
        return hyper.momentum * (1.0 - 0.5 * xp.exp(step * self.optimizer.momentum_decay * math.log(0.96)))

    def corrections(self, step: Any, hyper: Hyper, xp: Any = math) -> tuple[Any, Any, Any]:
        now, after = self.momentum(step, hyper, xp), self.momentum(step + 1, hyper, xp)
        product = self.product * now
        root = xp.sqrt(rest(self.optimizer.beta_2, step, xp))
        return hyper.rate * after / (1.0 - product * after), hyper.rate * (1.0 - now) / (1.0 - product), 1.0 / root

    def advance(self, step: int, hyper: Hyper) -> list[Call]:
        product = self.product * self.momentum(step, hyper)
        return [*super().advance(step, hyper), partial(setattr, self, "product", product)]

    def state(self) -> dict[str, float]:
        return {**super().state(), "momentum_product": self.product}

    def load_state(self, state: Mapping[str, float]) -> None:
        super().load_state(state)
        self._corrected = (0, *self._corrected[1:])
        self.product = stored(state, "momentum_product", below=float(np.nextafter(1.0, 2.0)))
