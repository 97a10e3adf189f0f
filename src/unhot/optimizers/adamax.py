"""Adamax."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.crossing import CrossingClock
from unhot.clock.measure import MeasureClock
from unhot.clock.panels import Shape
from unhot.laws import Crossing, Measure, Root
from unhot.optimizers.base import Array, State, decayed
from unhot.optimizers.moments import IN_TORCH, Moments, rest
from unhot.optimizers.names import Names, same


@dataclass
class Adamax(Moments):
    """Adam with the largest gradient in place of the root of the second moment.

    m = beta_1 m + (1 - beta_1) g. In step n, B1 = 1 - beta_1^n.
    With convention="keras": u = max(beta_2 u, |g|); w = (1 - rate weight_decay) w - rate / B1 m / (u + epsilon).
    With convention="torch": u = max(beta_2 u, |g| + epsilon); w = w - rate / B1 m / u.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 0.002.
        beta_1: in [0, 1). It may change from step to step. At the default epsilon, values up to 0.997 work with any beta_2.
            Values nearer to 1 work if a row moves for at most 2^17 steps after its last gradient. With convention="torch",
            beta_1 is at most 0.99 beta_2.
        beta_2: in (0, 1).
        epsilon: a number above 0. Default: 1e-7, torch 1e-8.
        weight_decay: decoupled, in Keras's convention only. PyTorch's coupled decay is refused.
        convention: "keras" or "torch".

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adamax(convention="torch").learning_rate
        0.002

    References: keras/src/optimizers/adamax.py; torch/optim/adamax.py; Kingma and Ba 2015.
    """

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "epsilon": 1e-7},
        "torch": {"learning_rate": 0.002, "epsilon": 1e-8},
    }
    TORCH = Names(
        stock="Adamax",
        hyperparameters=IN_TORCH,
        slots={"momentum": "exp_avg", "norm": "exp_inf"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )
    KERAS = Names(stock="Adamax", hyperparameters=same("beta_1", "beta_2", "epsilon"), slots={"momentum": "_m", "norm": "_u"})

    def check(self) -> None:
        super().check()
        if self.convention == "torch":
            self.refuse_coupled()
            if self.beta_1 > 0.99 * self.beta_2:
                raise ValueError(
                    "Adamax: with convention='torch', beta_1 must be at most 0.99 beta_2, or the deferred steps of a row have"
                    f" no bounded window. Received: beta_1={self.beta_1!r}, beta_2={self.beta_2!r}. Use convention='keras',"
                    " which has no such bound."
                )

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        if self.convention == "torch":
            return CrossingClock(self, Crossing(), dtype, rows)
        return MeasureClock(self, Measure(Root.NORM), dtype, rows)

    def shape(self, beta: float) -> Shape:
        """The form of the points c_s, for momenta up to `beta` (`unhot.clock.panels`)."""
        return Shape(beta, self.beta_2, 0.0)

    def corrections(self, step: Any, hyper: Hyper, product: Any, xp: Any = math) -> tuple[Any, Any, Any]:
        """(alpha, gamma, c) of `step`: what multiplies momentum, gradient and root."""
        return hyper.rate / rest(hyper.momentum, step, xp), 0.0, 1.0

    def dense_slots(self) -> tuple[float, ...]:
        return 0.0, 0.0

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, m, u = state
        m = h.momentum * m + (1 - h.momentum) * g
        torch = self.convention == "torch"
        u = np.maximum(self.beta_2 * u, np.abs(g) + self.epsilon if torch else np.abs(g))
        return decayed(h, w) - h.rate / (1 - h.momentum**n) * m / (u if torch else u + self.epsilon), m, u
