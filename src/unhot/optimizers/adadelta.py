"""Adadelta."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np

from unhot.clock import Clock, Hyper
from unhot.clock.linear import LinearClock, Matrix
from unhot.laws import Divisor, Linear
from unhot.optimizers.base import BY_CONVENTION, Array, Convention, Optimizer, State, decayed, real
from unhot.optimizers.names import Names, same


@dataclass
class Adadelta(Optimizer):
    """Adadelta: the gradient times the ratio of two running roots.

    v = rho v + (1 - rho) g^2; q = g sqrt(d + epsilon) / sqrt(v + epsilon); d = rho d + (1 - rho) q^2;
    w = (1 - rate weight_decay) w - rate q.

    Args:
        learning_rate: a number, or a callable of the step (the first is 1; see `zero_based`). Default: 0.001, torch 1.0.
        rho: the decay of the averages, in [0, 1). Default: 0.95, torch 0.9.
        epsilon: a number above 0. Default: 1e-7, torch 1e-6.
        weight_decay: decoupled, in Keras's convention only. PyTorch's coupled decay is refused.
        convention: "keras" or "torch". It determines only the defaults.

    Raises: TypeError or ValueError, naming the hyperparameter.

    Example:
        >>> import unhot
        >>> unhot.Adadelta(convention="torch").learning_rate
        1.0

    References: keras/src/optimizers/adadelta.py; torch/optim/adadelta.py; Zeiler 2012.
    """

    _: KW_ONLY
    rho: float = BY_CONVENTION
    epsilon: float = BY_CONVENTION
    convention: Convention = "keras"

    DEFAULTS = {
        "keras": {"learning_rate": 0.001, "rho": 0.95, "epsilon": 1e-7},
        "torch": {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6},
    }
    TORCH = Names(
        stock="Adadelta",
        hyperparameters={"learning_rate": "lr", "epsilon": "eps", **same("rho", "weight_decay")},
        slots={"velocity": "square_avg", "delta": "acc_delta"},
        numbers={"step": "step"},
        implied={"convention": "torch"},
    )
    KERAS = Names(
        stock="Adadelta",
        hyperparameters=same("rho", "epsilon"),
        slots={"velocity": "_accumulated_grads", "delta": "_accumulated_delta_vars"},
    )

    def check(self) -> None:
        super().check()
        real(self, "epsilon", self.epsilon, open_=True)
        real(self, "rho", self.rho, below=1.0)
        if self.convention == "torch":
            self.refuse_coupled()

    def clock(self, dtype: np.dtype[Any], rows: int, slots: Collection[str] = ()) -> Clock:
        return LinearClock(self, Linear(False, Divisor.DELTA), dtype, rows)

    @property
    def average_decay(self) -> float:
        return self.rho

    @property
    def epsilons(self) -> tuple[float, float]:
        return self.epsilon, 0.0

    def matrix(self, step: Any, hyper: Hyper, begun: bool) -> tuple[Matrix, tuple[Any, Any]]:
        return (1.0 - hyper.rate * hyper.decay, 0.0, 0.0, 1.0), (-hyper.rate, 0.0)

    def dense_slots(self) -> tuple[float, ...]:
        return 0.0, 0.0

    def dense_step(self, n: int, h: Hyper, g: Array, state: State) -> State:
        w, v, d = state
        v = self.rho * v + (1 - self.rho) * g * g
        step = g * np.sqrt(d + self.epsilon) / np.sqrt(v + self.epsilon)
        return decayed(h, w) - h.rate * step, v, self.rho * d + (1 - self.rho) * step * step
